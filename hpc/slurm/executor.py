"""``--on slurm``: tasks on jobs that come and go.

The driver holds dask's scheduler and conducts; each job connects to it and works until there is
nothing left, its walltime ends or it is told to leave. If the driver is killed, jobs notice the
broken connection and end: at once when idle, in a task when dask's own patience (30 s) is over,
and at the latest when the profile's `death_timeout` has passed for a job that just starts. The same
command then goes on, and first cancels whatever jobs its predecessor left.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from dpsolve.hpc.cluster.coordinator import Coordinator
from dpsolve.hpc.cluster.dask_settings import quiet_dask
from dpsolve.hpc.cluster.messages import RunInfo
from dpsolve.hpc.cluster.run_keys import run_keys
from dpsolve.hpc.run.compiled_programs import VARIABLE
from dpsolve.hpc.run.executor import AUTO
from dpsolve.hpc.run.job_paths import job_name, jobs_folder, make_logs_folder
from dpsolve.hpc.run.private_folders import scratch_folder
from dpsolve.hpc.store.buckets import Receipt
from dpsolve.hpc.store.event_log import EventLog
from dpsolve.hpc.store.trust import digest
from dpsolve.solvers.errors import ClusterError

from . import commands
from .job_pool import JobPool

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task, WorkerCount
    from dpsolve.hpc.run.executor import Note
    from dpsolve.hpc.store.store import Store

    from .profiles import Profile
    from .worker_job import Cluster


WAITED = 0.8
"""Of the grace, for tasks in work when the driver is told to end: a job itself, it has no more."""

FAREWELL = 1.5
"""Seconds in which jobs end by themselves when the work is done; others are cancelled."""


class SlurmExecutor:
    """Runs tasks in SLURM jobs.

    Parameters
    ----------
    profile : Profile
    watch : callable, optional
        Is told how many jobs run, pend and have ended, whenever that changes.
    """

    kind = "slurm"

    def __init__(self, profile: Profile, watch: Note = lambda text: None, mesh: str = AUTO) -> None:
        self.profile = profile
        self.worker_count: WorkerCount | None = profile.worker_count
        self._mesh = mesh
        self._watch = watch
        self._coordinator: Coordinator | None = None
        self._stopped = False

    def run(self, store: Store, tasks: Sequence[Task], note: Note) -> Iterator[Receipt]:
        """Run tasks; see `Executor`."""
        import dask

        from .worker_job import SETTINGS, make_cluster

        self._check()
        if told := commands.kept_back():
            note(told)
        make_logs_folder(store.path)
        commands.cancel(job_name(store.path))  # of a driver that was killed a moment ago
        event_log = EventLog(store, "driver")
        event_log.write("begun", executor=self.kind, tasks=len(tasks))
        try:
            own = SETTINGS | {"temporary-directory": str(scratch_folder())}
            jobs = jobs_folder(store.path)
            with quiet_dask(), dask.config.set(own), run_keys(jobs) as keys:
                cluster = make_cluster(self.profile, store.path, keys)
                if cluster.dashboard:
                    note(f"dask's dashboard, for this machine: {cluster.dashboard}")
                pool = JobPool(cluster, self.profile, store, event_log, note, self._watch)
                finished = False
                try:
                    yield from self._conduct(cluster, pool, store, tasks, event_log, note)
                    finished = not self._stopped
                finally:
                    if not finished:
                        pool.close(patience=0)  # cancelled, whatever they are doing
                    _close(cluster)
                    if finished:
                        pool.close(patience=FAREWELL)
        finally:
            event_log.write("ended", executor=self.kind)
            event_log.close()

    def _conduct(
        self,
        cluster: Cluster,
        pool: JobPool,
        store: Store,
        tasks: Sequence[Task],
        event_log: EventLog,
        note: Note,
    ) -> Iterator[Receipt]:
        from distributed import Client

        profile = self.profile
        run_info = RunInfo(
            store=str(store.path.resolve()),
            topic=f"dpsolve-{uuid.uuid4().hex}",
            cache=os.environ.get(VARIABLE, ""),
            gpus=profile.gpus_per_worker,
            memory=profile.memory_bytes // profile.workers_per_job,
            mesh=self._mesh,
            trusted=digest(store),
            folder=store.source.folder,
        )
        client = Client(cluster, set_as_default=False)
        try:
            self._coordinator = Coordinator(
                client, store, run_info, pool, event_log, note, grace=WAITED * profile.grace
            )
            if not self._stopped:
                yield from self._coordinator.conduct([task.id for task in tasks])
        finally:
            with suppress(Exception):  # dask may be in any state by now
                client.close(timeout=2)

    def stop(self) -> None:
        """End `run`: tasks in work have most of the grace to be committed; jobs are cancelled."""
        self._stopped = True
        if self._coordinator is not None:
            self._coordinator.stop()

    def _check(self) -> None:
        commands.check_slurm()
        if self.profile.nodes > 1:
            raise ClusterError(
                f"nodes = {self.profile.nodes} in the profile: a sweep's job is one node. Several "
                "nodes for one model are for `dpsolve solve --distributed`; for a sweep, "
                "max_jobs says how many nodes work at a time."
            )


def _close(cluster: Cluster) -> None:
    cluster.shared.ending = True  # workers end when the scheduler does
    with suppress(Exception):  # as above; what is left is cancelled by name
        cluster.close(timeout=5)
