"""A worker that takes too much memory ends itself before the kernel does it.

dask's nanny would kill it, too, but tells nobody why: the task would be tried again with the batch
that did not fit.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SHARE = 0.95
PAUSE = 0.25


def guard_memory(limit: int, tell: Callable[[int], None]) -> None:
    """End this process before its job's limit ends the whole job.

    The kernel would kill the largest process or SLURM the job, and neither says why.

    Parameters
    ----------
    limit : int
        Bytes that this process may take.
    tell : callable
        Is told, last of all, how many bytes it had.
    """

    def watch() -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            time.sleep(PAUSE)
            with open("/proc/self/statm") as file:
                resident = int(file.read().split()[1]) * page
            if resident > SHARE * limit:
                tell(resident)
                os._exit(137)  # as if the kernel had done it

    if Path("/proc/self/statm").exists():
        threading.Thread(target=watch, daemon=True, name="dpsolve-memory").start()


def oom_kills() -> int:
    """Return how many processes of this job the kernel has killed for lack of memory."""
    for path in _memory_controls():
        try:
            words = path.read_text().split()
        except OSError:
            continue
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return 0


def _memory_controls() -> Iterator[Path]:
    """Yield the files of this process's control groups that count such kills, the job's first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    root = Path("/sys/fs/cgroup")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inner = path.strip("/")
        if controllers == "" and "job_" in inner:
            yield root / inner / "memory.events"
        elif controllers == "memory" and "job_" in inner:
            yield root / "memory" / inner / "memory.oom_control"
