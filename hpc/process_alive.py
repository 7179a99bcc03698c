"""Whether a process of this machine is alive, since when, and whether it shows a token.

A record that names a process proves nothing: numbers come round again, and who writes the record
may name any process. So a process that wants to be known by its record holds a token open, in
memory and under a name, which the kernel shows to its owner alone, and which nobody can put there
but the process itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def showing(token: str) -> Iterator[None]:
    """Hold a token inside the block, where the system has a way to (Linux)."""
    try:
        held = os.memfd_create(_name(token))
    except (AttributeError, OSError):
        yield
        return
    try:
        yield
    finally:
        os.close(held)


def shows(process: int, token: str) -> bool:
    """Tell whether a process of this user's holds a token open."""
    folder = Path(f"/proc/{process}")
    with suppress(OSError):
        if folder.stat().st_uid != os.geteuid():
            return False  # root sees them all
        for entry in (folder / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.readlink(entry).startswith(f"/memfd:{_name(token)} "):
                    return True
    return False


def _name(token: str) -> str:
    return f"dpsolve-{token}"
