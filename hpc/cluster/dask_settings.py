"""dask's configuration for a few long tasks: quiet, patient, one task to a worker, no spilling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUIET: dict[str, Any] = {
    # What a scheduler does while nothing happens: a login node should not notice it.
    "distributed.admin.tick.interval": "5s",
    "distributed.admin.tick.limit": "60s",
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.client.heartbeat": "30s",
    "distributed.client.scheduler-info-interval": "60s",
    # A worker gets a task when it is free, and none to have ready, which another one might begin
    # sooner. It waits 5 ms for it (1.3 ms with one ready); and nothing is ever to be stolen.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.worker-ttl": "5 minutes",
    # Each loss is handed to the driver, which judges its cause; dask's own count knows none.
    "distributed.scheduler.allowed-failures": 0,
    # And jobs are replaced here: dask-jobqueue would cancel one whose worker takes a while.
    "distributed.deploy.lost-worker-timeout": "365 days",
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.retry.count": 2,
    "distributed.logging.distributed": "error",
}

WORKER: dict[str, Any] = {
    # A worker holds no data for others: nothing to spill, no reason to pause. Memory is watched by
    # hpc/cluster/worker.py, which can say which task took it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "600s",  # compiling holds the interpreter for long
    "distributed.admin.system-monitor.interval": "30s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.comm.timeouts.connect": "60s",
}


@contextmanager
def quiet_dask() -> Iterator[None]:
    """Use `QUIET` inside the block; warnings of what we cannot change are left out of the log."""
    import logging

    import dask

    loggers = [logging.getLogger(name) for name in ("distributed", "tornado")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with dask.config.set(QUIET):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Undo what an import does to Ctrl-C: dask-jobqueue makes it exit with status 0."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
