"""How a worker comes to a run: dask's worker plugin.

dask calls `setup` on every worker there is, and on each that comes before it looks at any task. So
fitness is judged here, in the worker: whether it sees the store and its devices, and has the
driver's versions. dask takes a plugin that fails for a line in a log, and gives the worker tasks
all the same; so one that cannot work says why and leaves (:mod:`.shutdown`).
"""

from __future__ import annotations

import asyncio
import os
import platform
from typing import TYPE_CHECKING

from distributed import WorkerPlugin

from dpsolve.solvers.errors import DpsolveError

from .messages import RunInfo, versions
from .shutdown import finish_and_close, on_leave
from .worker import Report, TaskRunner, runner_of

if TYPE_CHECKING:
    from distributed import Worker


class JoinRun(WorkerPlugin):
    """Prepares each worker for a run; when it is over, tells the worker.

    Parameters
    ----------
    run_info : RunInfo
    """

    def __init__(self, run_info: RunInfo) -> None:
        self.run_info = run_info
        self._runner: TaskRunner | None = None

    async def setup(self, worker: Worker) -> None:
        """Prepare a worker's process, and report who it is or why it cannot work."""
        report = await asyncio.to_thread(self._introduce, worker)
        worker.log_event(self.run_info.topic, report)
        if self._runner is None:
            worker.loop.add_callback(finish_and_close, worker, "it cannot work")
            return
        loop = asyncio.get_running_loop()
        # Called by a signal handler, which the loop does not notice by itself.
        on_leave(lambda: asyncio.run_coroutine_threadsafe(self._say_goodbye(worker), loop))

    def teardown(self, worker: Worker) -> None:
        """Let a task that nobody waits for end soon."""
        if self._runner is not None:
            self._runner.over.set()

    def _introduce(self, worker: Worker) -> Report:
        found: Report = {"what": "hello", "worker": worker.address, "name": str(worker.name),
                         "threads": worker.state.nthreads}  # fmt: skip
        try:
            if wrong := _other_versions(self.run_info):
                found |= {"what": "unfit", "message": wrong}
            else:
                runner = runner_of(self.run_info)
                found |= runner.describe()
                runner.event_log.write("joined", **{k: v for k, v in found.items() if k != "what"})
                self._runner = runner
        except DpsolveError as error:
            found |= {"what": "unfit", "message": str(error)}
        except Exception as error:  # whatever a broken installation raises
            found |= {"what": "unfit", "message": f"{type(error).__name__}: {error}"}
        return found | {"job": os.environ.get("SLURM_JOB_ID", ""), "host": platform.node()}

    async def _say_goodbye(self, worker: Worker) -> None:
        """Tell the driver that this worker is leaving, and leave."""
        if worker.batched_stream is not None and not worker.batched_stream.closed():
            worker.log_event(self.run_info.topic, {"what": "leaving", "worker": worker.address})
            await finish_and_close(worker, "told to leave")


def _other_versions(run_info: RunInfo) -> str:
    """Say how this worker's packages differ from the driver's, if they do: so would the results."""
    theirs = dict(versions())
    found = [
        f"it has {name} {theirs[name]}, and the driver {own}"
        for name, own in run_info.versions
        if theirs[name] != own
    ]
    if not found:
        return ""
    return f"{'; '.join(found)}. Give the jobs the driver's environment (python in the profile)."
