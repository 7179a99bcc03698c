"""When a worker has to stop: end of the walltime, SIGTERM, grace.

SLURM tells a job's processes that they are to end by SIGTERM (scancel, preemption, a node that is
drained) and kills them after a grace period; a site may send SIGUSR1 or SIGUSR2 before the end of
the walltime. A worker that was told finishes its task if that fits into the grace period, takes no
other one, and is gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

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
