"""Whether a process of this machine is alive, and since when."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(process: int) -> bool:
    """Tell whether there is a process of this number; one that ended and is not reaped is none."""
    return process_age(process) >= 0


def process_age(process: int) -> int:
    """Return when a process began, in the kernel's ticks since boot; -1 if there is none.

    Where /proc does not tell (macOS has none; another user's process may be hidden), every process
    that lives has the same age.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        fields = stat.rpartition(")")[2].split()  # the name before may hold anything
        return -1 if fields[0] == "Z" else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        pass
    return 0
