"""Ending a sweep from outside: the driver first, because it would replace jobs that are gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from dpsolve.hpc.run.job_paths import job_name, jobs_folder
from dpsolve.hpc.run.single_driver import Presence, presence

from . import commands

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store


WAIT = 20.0


def cancel_all(store: Store) -> Iterator[str]:
    """End the driver and all jobs of a store; yield in words what was done.

    Raises
    ------
    ClusterError
        If SLURM does not answer.
    """
    driver = presence(store)
    alive = driver is not None and driver.alive
    if driver is not None and alive and driver.here:
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


def _wait(driver: Presence) -> bool:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if not driver.alive:
            return True
        time.sleep(0.1)
    return False
