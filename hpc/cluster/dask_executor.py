"""``--on dask --scheduler ADDRESS``: tasks on any dask cluster.

The workers must see the store under the same path, and have dpsolve installed. Each solves one task
at a time, whatever its number of threads, because a task uses all devices of its process. Of a
scheduler that is not ours nothing is set, but what would suit is said.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from dpsolve.hpc.run.compiled_programs import VARIABLE
from dpsolve.hpc.run.executor import AUTO
from dpsolve.hpc.store.buckets import Receipt
from dpsolve.hpc.store.event_log import EventLog
from dpsolve.hpc.store.trust import digest
from dpsolve.solvers.errors import ClusterError

from .coordinator import Coordinator, Loss
from .dask_settings import quiet_dask
from .messages import RunInfo, TaskOrder
from .run_keys import check_scheduler

if TYPE_CHECKING:
    from distributed import Client

    from dpsolve.hpc.plan.tasks import Task, WorkerCount
    from dpsolve.hpc.run.executor import Note
    from dpsolve.hpc.store.store import Store

    from .retries import Cause
    from .task_queue import TaskQueue, WorkerState


CONNECT = 30.0
PARTING = 5.0


class DaskExecutor:
    """Runs tasks on the workers of a dask scheduler.

    Parameters
    ----------
    scheduler : str
        Its address.
    jobs : callable, optional
        Is told how many workers there are, whenever that changes.
    """

    kind = "dask"
    worker_count: WorkerCount | None = (
        None  # the scheduler may have any number of workers by the time it runs
    )

    def __init__(self, scheduler: str, jobs: Note = lambda text: None, mesh: str = AUTO) -> None:
        self.scheduler = scheduler
        self._mesh = mesh
        self._jobs = jobs
        self._coordinator: Coordinator | None = None
        self._stopped = False

    def run(self, store: Store, tasks: Sequence[Task], note: Note) -> Iterator[Receipt]:
        """Run tasks; see `Executor`."""
        from distributed import Client

        if warning := check_scheduler(self.scheduler):
            note(warning)
        event_log = EventLog(store, "driver")
        with quiet_dask():
            try:
                client = Client(self.scheduler, timeout=CONNECT, set_as_default=False)
            except (OSError, ValueError) as error:
                raise ClusterError(
                    f"there is no dask scheduler at {self.scheduler} ({error}). Start one "
                    "(dask scheduler), or check the address."
                ) from error
            with client:
                run_info = RunInfo(
                    store=str(store.path.resolve()),
                    topic=f"dpsolve-{uuid.uuid4().hex}",
                    cache=os.environ.get(VARIABLE, ""),
                    mesh=self._mesh,
                    trusted=digest(store),
                    folder=store.source.folder,
                )
                if advice := _advice(client):
                    note(advice)
                pool = _Workers(self._jobs)
                self._coordinator = Coordinator(client, store, run_info, pool, event_log, note)
                if self._stopped:
                    return
                event_log.write("begun", executor=self.kind, scheduler=self.scheduler,
                             tasks=len(tasks))  # fmt: skip
                try:
                    yield from self._coordinator.conduct([task.id for task in tasks])
                finally:
                    _tell_that_it_is_over(client, run_info)
                    event_log.write("ended", executor=self.kind)
                    event_log.close()

    def stop(self) -> None:
        """End `run`: no task is begun, and those in work are committed if they end in seconds."""
        self._stopped = True
        if self._coordinator is not None:
            self._coordinator.stop()


WANTED = {"worker-saturation": 1.0, "allowed-failures": 0, "work-stealing": False}


def _advice(client: Client) -> str:
    """Say what would make a user's own scheduler hand tasks out as this one wants them."""
    import dask

    found = []
    with suppress(Exception):  # a scheduler that runs no functions; it is advice only
        for name, value in WANTED.items():
            key = f"distributed.scheduler.{name}"
            if client.run_on_scheduler(dask.config.get, key, None) != value:
                found.append(
                    f"DASK_DISTRIBUTED__SCHEDULER__{name.upper().replace('-', '_')}={value}"
                )
    threads = max(client.nthreads().values(), default=1)
    advice = [f"start the scheduler with {' '.join(found)}"] if found else []
    if threads > 1:
        advice.append(f"start workers with --nthreads 1 (there are some of {threads}): a task uses "
                      "all cores of its process")  # fmt: skip
    return f"for an even spread of tasks, {'; '.join(advice)}" if advice else ""


def _tell_that_it_is_over(client: Client, run_info: RunInfo) -> None:
    """Let workers give up what they are at: nobody waits. In a thread, because one may hang."""

    def tell() -> None:
        with suppress(Exception):
            client.unregister_worker_plugin(run_info.plugin)

    thread = Thread(target=tell, daemon=True)
    thread.start()
    thread.join(PARTING)


class _Workers:
    """Workers that come and go without our doing."""

    def __init__(self, jobs: Note) -> None:
        self._jobs = jobs

    def tick(self, queue: TaskQueue) -> tuple[str, ...]:
        count = len(queue.worker_states)
        self._jobs(f"{count} worker{'s' * (count != 1)}")
        return ()

    def joined(self, worker_state: WorkerState, report: dict[str, Any]) -> None:
        pass

    def unfit(self, report: dict[str, Any]) -> None:
        pass

    def returned(self, loss: Loss, report: dict[str, Any]) -> tuple[Cause, str]:
        return self.cause(loss)

    def cause(self, loss: Loss) -> tuple[Cause, str]:
        return "process", f"its worker on {loss.worker_state.host} was lost"

    def late(self, order: TaskOrder, whole: float, message: str) -> None:
        pass
