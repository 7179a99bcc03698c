"""``--on``, ``--profile``, ``--scheduler``, ``--mesh``: where tasks run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.slurm.profiles import ProfileFile, find_profile, profile_names
from dpsolve.solvers.errors import UsageError

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import WorkerCount
    from dpsolve.hpc.run.executor import Executor


@dataclass(frozen=True)
class ExecutorChoice:
    """Where tasks run.

    Attributes
    ----------
    on : str
        ``local``, ``dask`` or ``slurm``.
    profile : ProfileFile or None
        With ``slurm``.
    scheduler : str
        With ``dask``: its address.
    mesh : str
        How points and states are cut over the devices of a process.
    """

    on: str = "local"
    profile: ProfileFile | None = None
    scheduler: str = ""
    mesh: str = "auto"

    @classmethod
    def of(
        cls, on: str, profile: str | None, scheduler: str | None, mesh: str = "auto"
    ) -> ExecutorChoice:
        """Check the options against each other, and read the profile.

        Raises
        ------
        UsageError
            If an option is missing or superfluous, or with every mistake of the profile.
        """
        if profile is not None and on != "slurm":
            raise UsageError(f"--profile {profile} says what SLURM jobs ask for: add --on slurm.")
        if scheduler is not None and on != "dask":
            raise UsageError(f"--scheduler {scheduler} is the address of a dask scheduler: add "
                             "--on dask.")  # fmt: skip
        if on == "slurm":
            if profile is None:
                raise UsageError(
                    "--on slurm needs a profile: --profile NAME. There are: "
                    f"{', '.join(profile_names())} (see dpsolve profiles)."
                )
            return cls("slurm", find_profile(profile), mesh=mesh)
        if on == "dask":
            if not scheduler:
                raise UsageError(
                    "--on dask needs the address of a scheduler: --scheduler tls://HOST:8786 "
                    "(tcp:// without keys)."
                )
            return cls("dask", None, scheduler, mesh)
        return cls(mesh=mesh)

    @property
    def worker_count(self) -> WorkerCount | None:
        """The workers there may be, for the cut of a new store; None: as for one machine."""
        return self.profile.profile.worker_count if self.profile is not None else None

    def check(self, store: Path | str) -> None:
        """See, before a store is made, that tasks can run where they are to run.

        Raises
        ------
        ClusterError
            If SLURM does not answer here, or a scheduler asks for keys that are not there.
        UsageError
            If the store's path is none for SLURM.
        """
        if self.profile is not None:
            from dpsolve.hpc.slurm.commands import check_slurm
            from dpsolve.hpc.slurm.directives import check_store_path

            check_store_path(Path(store))
            check_slurm()
        elif self.scheduler:
            from dpsolve.hpc.cluster.run_keys import check_scheduler

            check_scheduler(self.scheduler)

    def executor(self, jobs: Callable[[str], None]) -> Executor:
        """Return an executor; `jobs` is told how jobs or workers stand."""
        if self.profile is not None:
            from dpsolve.hpc.slurm.executor import SlurmExecutor

            return SlurmExecutor(self.profile.profile, jobs, self.mesh)
        if self.scheduler:
            from dpsolve.hpc.cluster.dask_executor import DaskExecutor

            return DaskExecutor(self.scheduler, jobs, self.mesh)
        from dpsolve.hpc.run.executor import LocalExecutor

        return LocalExecutor(self.mesh)

    def options(self) -> list[str]:
        """Return the options that say the same again, from any folder."""
        mesh = [] if self.mesh == "auto" else ["--mesh", self.mesh]
        if self.profile is not None:
            return ["--on", "slurm", "--profile", str(self.profile.path.resolve()), *mesh]
        if self.scheduler:
            return ["--on", "dask", "--scheduler", self.scheduler, *mesh]
        return mesh
