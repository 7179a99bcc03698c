"""Who works on a store at this moment: its driver, and its SLURM jobs by one squeue call."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsolve.hpc.run.job_paths import job_name, jobs_folder
from dpsolve.hpc.run.single_driver import Presence, presence
from dpsolve.solvers.errors import ClusterError

from . import commands
from .commands import Job

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store


@dataclass(frozen=True)
class Activity:
    """Who works on a store.

    Attributes
    ----------
    driver : Presence or None
    alive : bool
        Whether the driver is to be taken as alive.
    jobs : tuple of Job
        Those that SLURM still knows, ended ones included.
    trouble : str
        Why SLURM could not be asked.
    """

    driver: Presence | None
    alive: bool
    jobs: tuple[Job, ...] = ()
    trouble: str = ""

    def __str__(self) -> str:
        lines = []
        if self.driver is not None:
            sign = "at work" if self.driver.here else f"last sign {self.driver.silence:.0f} s ago"
            state = sign if self.alive else "dead: the same command goes on"
            lines.append(f"  driver     {self.driver}; {state}")
        if self.jobs:
            counts = Counter("ended" if job.ended else job.state.lower() for job in self.jobs)
            lines.append("  jobs       " + ", ".join(f"{n} {word}" for word, n in counts.items()))
            lines += [f"    {job}" for job in self.jobs if not job.ended]
        if self.trouble:
            lines.append(f"  jobs       unknown: {self.trouble}")
        return "\n".join(lines)


def read_activity(store: Store) -> Activity:
    """Look who works on a store; SLURM is asked, once, only if the store ever had jobs."""
    driver = presence(store)
    alive = driver is not None and driver.alive
    if not (jobs_folder(store.path).is_dir() and commands.have_slurm()):
        return Activity(driver, alive)
    try:
        found = commands.queue(job_name(store.path), job_name(store.path, "driver"))
    except ClusterError as error:
        return Activity(driver, alive, trouble=str(error))
    return Activity(driver, alive, tuple(found))
