"""When a worker has to stop: end of the walltime, SIGTERM, grace.

SLURM tells a job's processes that they are to end by SIGTERM (scancel, preemption, a node that is
drained) and kills them after a grace period; a site may send SIGUSR1 or SIGUSR2 before the end of
the walltime. A worker that was told finishes its task if that fits into the grace period, takes no
other one, and is gone.

It leaves by pausing, which the scheduler sees, by finishing what it is at, and by closing: then
dask gives others what it still had, and blames nothing. dask's own `retire_workers` takes the task
in work away, and a plain close has what is left counted as lost.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker


JOB_END = "DPSOLVE_JOB_END"
"""When the job ends at the latest, in seconds since 1970: the job script sets it."""

GRACE = "DPSOLVE_GRACE"
"""Seconds between the signal and the kill: the job script sets it."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_told: float | None = None
_listeners: list[Callable[[], object]] = []


def job_end() -> float:
    """Return when this job ends at the latest, in seconds since 1970; 0 if nobody says."""
    for name in ("SLURM_JOB_END_TIME", JOB_END):
        try:
            return float(os.environ[name])
        except (KeyError, ValueError):
            continue
    return 0.0


def told_to_leave(needed: float = 0.0) -> bool:
    """Tell whether this process was told to end sooner than `needed` seconds from now."""
    if _told is None:
        return False
    if not needed:
        return True
    grace = float(os.environ.get(GRACE, "0") or 0)
    return time.monotonic() + needed * 1.25 + 2.0 > _told + grace


def leave() -> None:
    """Take no further task in this process."""
    global _told
    if _told is None:
        _told = time.monotonic()
        for listener in _listeners:
            listener()


def on_leave(listener: Callable[[], object]) -> None:
    """Call `listener`, from the main thread, when this process is told to leave."""
    _listeners.append(listener)
    if _told is not None:
        listener()


def listen() -> None:
    """Let the signals mean `leave`; only the main thread may ask for this."""

    def handle(number: int, frame: FrameType | None) -> None:
        leave()

    for number in SIGNALS:
        signal.signal(number, handle)


async def finish_and_close(worker: Worker, reason: str) -> None:
    """Take no further task, finish the one in work, and close a worker, with its nanny."""
    from distributed.core import Status

    def pause() -> None:
        if worker.status == Status.running:  # dask's own watch over memory may end a pause
            worker.status = Status.paused

    pause()
    await worker  # it may still be starting, and could not be closed
    while worker.state.executing_count and worker.status == Status.paused:
        await asyncio.sleep(0.05)
        pause()
    await asyncio.sleep(0.1)  # what it reported goes out
    await worker.close_gracefully(reason=reason)
