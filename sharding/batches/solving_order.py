"""Warm starts in a batch: which point is solved after which, and strands of them.

The points are cut, in the order in which they are given, into *strands* of a few. A lane solves a
strand from end to end: its first point starts cold, each other from what was found at the points
before it. So where a point starts from depends on its place among the points and on nothing else:
not on the number of lanes or devices, on which lane took which strand, or on how long anything
took. Whoever cuts points into portions must cut between strands, and changes nothing then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dpsolve.solvers.numerics.arrays import Numpy


START = "start"
"""The variable that says where a point's solve began."""

STRAND = 8
"""Points to a strand: an eighth of them start cold, and a lane is held no longer than that."""

MOST = 4096  # points in a row beyond which the search for the nearest, of n**2 steps, is left out
MOST_NUMBERS = 2**29  # that this search would compare; where arrays tell points apart it is more
FARTHEST = 4.0  # steps ahead, as multiples of the step before, that a secant is trusted for
ALIKE = 1e-6  # relative difference of two directions that are one


@dataclass(frozen=True)
class Start:
    """Where a point starts.

    Attributes
    ----------
    point : int
    source : int
        The point whose value it starts from; -1: cold.
    reach : float
        How far it lies from there, as a multiple of the step that led there, if the parameters
        went on in the same direction; 0 if they did not, and NaN for a cold start.
    """

    point: int
    source: int = -1
    reach: float = np.nan


def solving_order(shape: tuple[int, ...], table: Numpy | None = None) -> Numpy:
    """Return the places of a block of points, in the order in which they are to be solved.

    Each point starts from the one before it, and the better the nearer that is. Along the parameter
    axes the order turns back at the end of every row, so that one step along one axis leads from
    point to point. Points that stand in a row (samples, tables) are followed from nearest to
    nearest. The order depends on the block's parameters and on nothing else.

    Parameters
    ----------
    shape : tuple of int
        Of the block.
    table : float array (points, parameters), optional
        The parameters of points in a row.
    """
    return _turning(shape) if table is None else _nearest(table)


def strands(
    columns: Mapping[str, Numpy], left: Collection[int], length: int = STRAND
) -> Iterator[list[Start]]:
    """Yield the strands that have points left, whole.

    Parameters
    ----------
    columns : dict of str to float array (points, ...)
        Every parameter.
    left : collection of int
        Points that are not done; if one of a strand is, its neighbours are solved again.
    length : int
        Points to a strand; with 1 every point starts cold.
    """
    if length == 1:
        yield from ([Start(point)] for point in sorted(left))
        return
    points = max((len(c) for c in columns.values()), default=1)
    table = as_table(columns, points)
    for first in sorted({point - point % length for point in left}):
        found = [Start(first)]
        for point in range(first + 1, min(first + length, points)):
            two = point - first > 1
            reach = _reach(*table[point - 2 : point + 1]) if two else 0.0
            found.append(Start(point, point - 1, reach))
        yield found


def as_table(columns: Mapping[str, Numpy], points: int) -> Numpy:
    """Return every number that a point is told by, in a row: (points, numbers)."""
    flat = [np.reshape(x, (points, -1)) for x in columns.values()]
    return np.concatenate(flat, axis=1) if flat else np.zeros((points, 0))


def _reach(first: Numpy, second: Numpy, third: Numpy) -> float:
    """Return how many times the step from `first` to `second` leads on to `third`, 0 if none."""
    before, now = second - first, third - second
    if not (before.any() and np.isfinite(now).all() and np.isfinite(before).all()):
        return 0.0
    most = int(np.argmax(np.abs(before)))
    reach = float(now[most] / before[most])
    along = np.abs(now - reach * before) <= ALIKE * np.maximum(np.abs(now), np.abs(before))
    return reach if along.all() and 0.0 < reach <= FARTHEST else 0.0


def _turning(shape: tuple[int, ...]) -> Numpy:
    """Return the places of a block in an order of which each step is one along one axis."""
    order = np.zeros(1, np.intp)
    for length in reversed(shape):
        inner = len(order)
        rows = [order[:: -1 if row % 2 else 1] + row * inner for row in range(length)]
        order = np.concatenate(rows)
    return order


def _nearest(table: Numpy) -> Numpy:
    """Return the places of points in a row, from nearest to nearest."""
    points, numbers = table.shape
    if points > MOST or points * points * numbers > MOST_NUMBERS:
        return np.arange(points)
    width = np.ptp(table, axis=0)
    table = table / np.where(width > 0, width, 1.0)
    left = np.ones(points, bool)
    order = [int(np.argmin(table[:, 0]))]
    for _ in range(points - 1):
        left[order[-1]] = False
        far = ((table - table[order[-1]]) ** 2).sum(axis=1)
        order.append(int(np.argmin(np.where(left, far, np.inf))))
    return np.array(order, np.intp)
