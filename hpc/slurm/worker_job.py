"""The batch script of a worker job, ``--gres`` and all, by dask-jobqueue.

Importing this module imports dask-jobqueue. Nothing of the user's own dask configuration for
dask-jobqueue applies: a profile says all, so that the same profile gives the same job everywhere.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsolve.hpc.cluster.dask_settings import keep_signal_handlers
from dpsolve.hpc.cluster.run_keys import security
from dpsolve.hpc.cluster.shutdown import GRACE, JOB_END
from dpsolve.hpc.run.job_paths import job_name
from dpsolve.solvers.errors import ClusterError

from . import commands
from .directives import quoted, worker_directives

if TYPE_CHECKING:
    from .profiles import Profile


with keep_signal_handlers():
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    from distributed import Scheduler
    from distributed.comm.addressing import unparse_host_port
    from distributed.core import Status
    from distributed.utils import get_ip, get_ip_interface

    from .no_http import ClosedScheduler

_KEYS = (
    "name", "cores", "memory", "processes", "python", "interface", "death-timeout",
    "local-directory", "extra", "worker-command", "worker-extra-args", "job-extra",
    "job-extra-directives", "env-extra", "job-script-prologue", "header-skip",
    "job-directives-skip", "log-directory", "shebang", "queue", "project", "account", "walltime",
    "job-cpu", "job-mem", "shared-temp-directory", "scheduler-options",
)  # fmt: skip

SETTINGS: dict[str, Any] = {"jobqueue.dpsolve": dict.fromkeys(_KEYS)}
"""dask settings under which jobs depend on the profile alone."""


REFUSED = "0"
"""The number of a job that SLURM did not accept."""


@dataclass
class Shared:
    """What a cluster and its jobs have in common.

    Attributes
    ----------
    refusals : list of ClusterError
        Why SLURM did not accept jobs.
    ending : bool
        The scheduler is about to close, and jobs end with it: nobody need cancel them.
    """

    refusals: list[ClusterError] = field(default_factory=list)
    ending: bool = False


class _Job(SLURMJob):
    """One job. A refusal is noted, not raised: dask would lose it in a background task."""

    config_name = "dpsolve"
    # `exec`: signals that SLURM sends to the batch script alone reach the worker's main process.
    _script_template = (
        "%(shebang)s\n%(job_header)s\n\n%(job_script_prologue)s\nexec %(worker_command)s\n"
    )

    def __init__(
        self, *args: Any, shared: Shared, protocol: Any = None, security: Any = None, **kwargs: Any
    ) -> None:
        # Worker's arguments say which keys: dask-jobqueue would write paths unquoted.
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call] # as below
        self.shared = shared
        # dask-jobqueue has no types.
        self.script: str = self.job_script()  # type: ignore[no-untyped-call] # as above

    @contextmanager
    def job_file(self) -> Iterator[str]:
        """Write no file: sbatch reads its standard input, and ``/tmp`` is everybody's."""
        yield ""

    async def _submit_job(self, script_filename: str) -> str:
        try:
            return await asyncio.to_thread(commands.submit, self.script)
        except ClusterError as error:
            self.shared.refusals.append(error)
            return REFUSED

    async def close(self) -> None:
        """Cancel the job, unless it was refused, or ends by itself with the scheduler."""
        if self.job_id != REFUSED and not self.shared.ending:
            await super().close()  # type: ignore[no-untyped-call] # dask-jobqueue has no types
        self.status = Status.closed  # which dask-jobqueue forgets, and dask asks for when it ends


class Cluster(SLURMCluster):
    """A dask cluster whose workers live in jobs of a profile."""

    job_cls = _Job  # type: ignore[assignment] # it is annotated as SLURMJob itself

    def __init__(self, *args: Any, shared: Shared, **kwargs: Any) -> None:
        self.shared = shared
        super().__init__(*args, shared=shared, **kwargs)

    def new_worker_spec(self) -> dict[str, Any]:
        """Return the specification of one more job, under a name that no job had before.

        dask gives the name of a job that was lost to the next one, which it then takes for alive.
        """
        self._i += 1
        spec: dict[str, Any] = super().new_worker_spec()  # type: ignore[no-untyped-call] # as below
        return spec

    @property
    def dashboard(self) -> str:
        """Where dask's dashboard is, on this machine; empty if there is none."""
        server = getattr(self.scheduler, "http_server", None)
        return f"http://127.0.0.1:{server.port}" if server is not None else ""

    def open_jobs(self, count: int) -> None:
        """Have as many jobs: submit what is missing, close those whose specification is gone."""
        self.scale(jobs=count)  # type: ignore[no-untyped-call] # dask-jobqueue has no types


def make_cluster(profile: Profile, store: Path, keys: Path) -> Cluster:
    """Start a scheduler here, with no jobs yet; who has not the keys cannot talk to it.

    Parameters
    ----------
    profile : Profile
    store, keys : Path
        The folders of the store and of the run's keys.

    Raises
    ------
    ClusterError
        If the profile's network interface or port is not to be had.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that there is no way out of here
            return Cluster(
                scheduler_options={
                    "host": _own_address(profile),
                    "port": profile.port,
                    "dashboard": profile.dashboard,
                    "dashboard_address": f"127.0.0.1:{_dashboard_port()}",  # by a plain Scheduler
                },
                scheduler_cls=Scheduler if profile.dashboard else ClosedScheduler,
                security=security(keys),
                name=job_name(store),
                shared=Shared(),
                **job_options(profile, store, keys),
            )
    except (ValueError, OSError, RuntimeError) as error:
        raise ClusterError(
            f"the driver cannot listen to its workers: {error}. See interface, login_interface "
            "and port in the profile; `ip -brief address` shows the interfaces of this machine."
        ) from error


def _dashboard_port() -> int:
    """Return dask's usual port, or 0 for any where it is taken: machines are shared."""
    try:
        with socket.create_server(("127.0.0.1", 8787)):
            return 8787
    except OSError:
        return 0


def _own_address(profile: Profile) -> str:
    """Return the one address at which workers find the driver, and at which alone it listens."""
    if interface := profile.login_interface or profile.interface:
        return str(get_ip_interface(interface))
    return str(unparse_host_port(get_ip()))


def job_options(profile: Profile, store: Path, keys: Path) -> dict[str, Any]:
    """Return what dask-jobqueue has to know of a job.

    It writes words into #SBATCH lines and the command as they are, so they are quoted here.
    """
    words = ["--keys", shlex.quote(str(keys.absolute()))]
    words += ["--workers", str(profile.workers_per_job), "--gpus", str(profile.gpus_per_worker)]
    # Not dask-jobqueue's, which would be given to the scheduler as well.
    words += ["--interface", shlex.quote(profile.interface)] if profile.interface else []
    words += ["--scratch", shlex.quote(profile.scratch)] if profile.scratch else []
    return {
        "cores": 1,  # dask's threads: one task at a time; CPUs are SLURM's matter
        "processes": 1,
        "job_cpu": profile.cpus,
        "memory": f"{profile.memory_bytes}B",
        "job_directives_skip": ["#SBATCH --mem="],  # `worker_directives` ask for it
        "queue": profile.partition and quoted(profile.partition),
        "account": profile.account and quoted(profile.account),
        "walltime": profile.walltime,
        "job_name": job_name(store),
        # -P: no module is looked for in the folder from which the job was submitted.
        "python": f"{shlex.quote(profile.python or sys.executable)} -P",
        "worker_command": "dpsolve.hpc.slurm.worker_process",
        "worker_extra_args": words,
        "death_timeout": f"{profile.death_timeout:g}",
        "job_extra_directives": worker_directives(profile, store),
        "job_script_prologue": prologue(profile),
        "shebang": "#!/bin/bash",
    }  # fmt: skip


def prologue(profile: Profile) -> list[str]:
    """Return the lines before the worker: the site's, and when the job has to end."""
    end = f"$(( $(date +%s) + {profile.walltime_seconds:.0f} ))"
    return [f"export {JOB_END}={end} {GRACE}={profile.grace:g}", *profile.prologue]


def job_script(profile: Profile, store: Path, scheduler: str, keys: Path) -> str:
    """Return the script of one worker's job."""
    import dask

    with dask.config.set(SETTINGS):
        job = _Job(
            scheduler,
            name=f"{job_name(store)}-0",
            shared=Shared(),
            **job_options(profile, store, keys),
        )
    return job.script
