"""More points than a store can number or a machine lay out, refused before any is made."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dpsolve.hpc.sweep_file.fields import Range, Sweep
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics.memory import COPIES, machine_memory, round_down, shown_bytes

MOST = 2**31 - 1  # points: the store's `start` numbers them in int32


def check_points(sweep: Sweep) -> None:
    """Refuse more points than a store can number, or a machine can lay out.

    Raises
    ------
    UsageError
        With the bytes, and the nearest number that fits.
    """
    lengths = dict(_lengths(sweep))
    size = math.prod(lengths.values())
    if size > MOST:
        raise UsageError(
            f"the sweep has {size:,} points, and a store numbers them to {MOST:,}: make "
            "several sweeps of it, or take fewer points along its axes"
        )
    for name, length in lengths.items():
        needs = 8 * COPIES * length
        if needs > machine_memory():
            raise UsageError(
                f"{name} has {length:,} points: {shown_bytes(8 * length)} for its values alone, "
                f"and {shown_bytes(needs)} to lay them out; this machine has "
                f"{shown_bytes(machine_memory())} of memory. At most "
                f"{round_down(machine_memory() / (8 * COPIES)):,} fit; make several sweeps of it"
            )


def _lengths(sweep: Sweep) -> Iterator[tuple[str, int]]:
    """Yield how long every dimension of the points is, before any is made."""
    for name, axis in sweep.grid.items():
        yield name, axis.points if isinstance(axis, Range) else len(axis)
    if sweep.sample is not None:
        yield "sample", sweep.sample.points
    else:
        lists = sweep.table.values if sweep.table is not None else sweep.zip
        yield from (("point", len(values)) for values in list(lists.values())[:1])
