"""Who works on a store (driver, SLURM jobs), and ``dpsolve cancel``: ending them.

A sweep is ended from outside: the driver first, because it would replace jobs that are gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsolve.hpc.run.job_paths import job_name, jobs_folder
from dpsolve.hpc.run.single_driver import DriverRecord, driver_record, is_driver
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
    driver : DriverRecord or None
    alive : bool
        Whether the driver is to be taken as alive.
    jobs : tuple of Job
        Those that SLURM still knows, ended ones included.
    trouble : str
        Why SLURM could not be asked.
    """

    driver: DriverRecord | None
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
    driver = driver_record(store)
    alive = driver is not None and driver.alive
    if not (jobs_folder(store.path).is_dir() and commands.have_slurm()):
        return Activity(driver, alive)
    try:
        found = commands.queue(job_name(store.path), job_name(store.path, "driver"))
    except ClusterError as error:
        return Activity(driver, alive, trouble=str(error))
    return Activity(driver, alive, tuple(found))


WAIT = 20.0


def cancel_all(store: Store) -> Iterator[str]:
    """End the driver and all jobs of a store; yield in words what was done.

    Raises
    ------
    ClusterError
        If SLURM does not answer.
    """
    driver = driver_record(store)
    alive = driver is not None and driver.alive
    if driver is not None and alive and driver.here and not is_driver(store, driver):
        yield (
            f"the store's record names {driver} as its driver, and that process does not show that "
            "it is: no signal was sent. Look at it with ps, and end it with kill if it is yours."
        )
    elif driver is not None and alive and driver.here:
        with suppress(ProcessLookupError):  # it ended this moment
            os.kill(driver.process, signal.SIGTERM)
        ended = _wait(driver)
        yield f"the driver, {driver}, {'has ended' if ended else 'was told to end'}."
    elif driver is not None and alive and not driver.job:
        yield (
            f"the driver is {driver}: only a process there can end it. Run this command on "
            f"{driver.host}; until then it replaces the jobs that are cancelled here."
        )
    if not (jobs_folder(store.path).is_dir() and commands.have_slurm()):  # it never had jobs
        if not alive:
            yield "nothing works on this store."
        return
    names = job_name(store.path, "driver"), job_name(store.path)
    found = [job for job in commands.queue(*names) if not job.ended]
    commands.cancel(*names)
    yield f"{len(found)} job{'s' * (len(found) != 1)} cancelled." if found else "no job is left."


def _wait(driver: DriverRecord) -> bool:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if not driver.alive:
            return True
        time.sleep(0.1)
    return False
