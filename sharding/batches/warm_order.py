"""Which points follow each other in a lane, where starts are warm.

The points are cut, in the order in which they are given, into *strands* of a few. A lane solves a
strand from end to end: its first point starts cold, each other from what was found at the points
before it. So where a point starts from depends on its place among the points and on nothing else:
not on the number of lanes or devices, on which lane took which strand, or on how long anything
took. Whoever cuts points into portions must cut between strands, and changes nothing then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Numpy = np.ndarray[Any, Any]

START = "start"
"""The variable that says where a point's solve began."""

STRAND = 8
"""Points to a strand: an eighth of them start cold, and a lane is held no longer than that."""

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


def strands(
    columns: Mapping[str, Numpy], left: Collection[int], length: int = STRAND
) -> Iterator[list[Start]]:
    """Yield the strands that have points left, whole.

    Parameters
    ----------
    columns : dict of str to float array (points,)
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
    table = np.array([columns[name] for name in columns]).reshape(len(columns), -1).T
    for first in sorted({point - point % length for point in left}):
        found = [Start(first)]
        for point in range(first + 1, min(first + length, points)):
            two = point - first > 1
            reach = _reach(*table[point - 2 : point + 1]) if two else 0.0
            found.append(Start(point, point - 1, reach))
        yield found


def _reach(first: Numpy, second: Numpy, third: Numpy) -> float:
    """Return how many times the step from `first` to `second` leads on to `third`, 0 if none."""
    before, now = second - first, third - second
    if not (before.any() and np.isfinite(now).all() and np.isfinite(before).all()):
        return 0.0
    most = int(np.argmax(np.abs(before)))
    reach = float(now[most] / before[most])
    along = np.abs(now - reach * before) <= ALIKE * np.maximum(np.abs(now), np.abs(before))
    return reach if along.all() and 0.0 < reach <= FARTHEST else 0.0
