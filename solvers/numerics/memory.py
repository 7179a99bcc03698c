"""Memory of this machine, bytes in words, and arrays that are refused because they cannot fit."""

from __future__ import annotations

import math
import os

from dpsolve.solvers.errors import ModelError

VECTORS = 24  # arrays over the states that are alive in a solve, the Krylov solver's included
COPIES = 8  # of an array, alive while a grid is made and a model traced


def machine_memory() -> int:
    """Return the bytes of this machine's memory."""
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))


def shown_bytes(count: float) -> str:
    """Return a number of bytes in a unit that suits it."""
    power = min(int(math.log(max(count, 1), 1024)), 4)
    return f"{count / 1024**power:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def round_down(number: float) -> int:
    """Return a number with two digits, the next ones cut off: a size to try in its place."""
    whole = max(int(number), 1)
    unit: int = 10 ** max(len(str(whole)) - 2, 0)
    return whole // unit * unit


def check_length(kind: str, n: int) -> None:
    """Refuse an axis that not even a model can be traced with on this machine, at once.

    Raises
    ------
    ModelError
        With the bytes, and the nearest number of points that fits.
    """
    if 8 * COPIES * n > machine_memory():
        raise ModelError(
            f"{kind}: {n:,} points are {shown_bytes(8 * n)} for each array over them, and a solve "
            f"holds {VECTORS} such arrays and more, {shown_bytes(8 * VECTORS * n)}; this machine "
            f"has {shown_bytes(machine_memory())} of memory. At most "
            f"{round_down(machine_memory() / (8 * VECTORS)):,} points fit, and fewer where other "
            "states multiply them"
        )


def check_chain(kind: str, n: int) -> None:
    """Refuse a chain whose matrix of transitions does not fit into this machine's memory.

    Raises
    ------
    ModelError
        With the bytes, and the nearest number of values that fits.
    """
    needs = 8 * 4 * n * n
    if needs > machine_memory():
        raise ModelError(
            f"{kind}: n={n:,} values have a matrix of {n:,} x {n:,} probabilities, which takes "
            f"{shown_bytes(needs)} to make; this machine has {shown_bytes(machine_memory())} of "
            f"memory. At most n={round_down((machine_memory() / 32) ** 0.5):,} fits, and chains "
            "like this one take 5 to 25"
        )
