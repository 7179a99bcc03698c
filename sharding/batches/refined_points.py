"""Points of a batch on finer grids, until their tolerance holds; kept are the nodes asked for.

How fine a point's grid becomes is found from its own bounds, never from its neighbours': so its
numbers do not depend on which points there are beside it. What is kept of it are the nodes of the
grid that was asked for, which the finer one contains. There its bounds hold as they are. Its
``error_bound`` is that of the interpolation between the nodes of the finer grid; between those that
are kept the interpolation is coarser, and only its lower bound (interpolated `lower`) holds on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.outcomes import Outcome
from dpsolve.solvers.solve.refinement import Refinement

MASSES = ("distribution", "distribution_path")
"""Of these, what is between the nodes that are kept goes to the two beside it, mean unchanged."""

B = TypeVar("B", bound="Any")
Columns = Mapping[str, Numpy]


@dataclass
class _Point:
    """How far a point has come: doublings done, and the error before them."""

    done: int = 0
    before: float = np.inf


def refined_points(
    batch: B,
    columns: Columns,
    refinement: Refinement,
    dims: Mapping[str, tuple[str, ...]],
    solve: Callable[[int, Columns], B],
) -> B:
    """Solve the points that are too coarse on finer grids, and put their results in place.

    Parameters
    ----------
    batch : Batch
        Results on the grid asked for.
    columns : mapping of str to array (points,)
        All parameters.
    refinement : Refinement
    dims : mapping
        Dimensions of the arrays.
    solve : function
        From a number of doublings and the parameters of some points to their results.
    """
    arrays = {name: np.array(x) for name, x in batch.variables.items()}
    records = {f.name: np.array(getattr(batch, f.name)) for f in fields(batch)
               if f.name != "variables"}  # fmt: skip
    code, error, message = (records[name] for name in ("code", "error_bound", "message"))
    points = [_Point() for _ in code]
    waiting = set(np.flatnonzero(code == Outcome.TOO_COARSE).tolist())
    while waiting:
        wanted: dict[int, list[int]] = {}
        for i in sorted(waiting):
            if why := refinement.why_not(points[i].done, points[i].before, float(error[i])):
                message[i] = f"{message[i]}; {why}"
                waiting.remove(i)
            else:
                wanted.setdefault(refinement.next(points[i].done, float(error[i])), []).append(i)
        if not wanted:
            break
        level = min(wanted)
        at = np.array(wanted[level])
        finer = solve(level, {name: x[at] for name, x in columns.items()})
        for i in wanted[level]:
            points[i] = _Point(level, float(error[i]))
        for name, x in finer.variables.items():
            arrays[name][at] = _kept(name, x, arrays[name], dims.get(name, ()), finer.variables)
        for name, x in records.items():
            old = x[at] if name == "seconds" else 0
            x[at] = getattr(finer, name) + old if name == "seconds" else getattr(finer, name)
        waiting -= {i for i in wanted[level] if code[i] != Outcome.TOO_COARSE}
    sizes = [refinement.named(point.done) for point in points]
    for name in refinement.named(0):
        arrays[name] = np.array([each[name] for each in sizes], np.int32)
    found: B = replace(batch, variables=arrays, **records)
    return found


def _kept(
    name: str, fine: Numpy, coarse: Numpy, dims: tuple[str, ...], beside: Mapping[str, Numpy]
) -> Numpy:
    """Return an array (points, dims...) at the nodes that are kept."""
    for axis, dim in enumerate(dims, 1):
        n, m = coarse.shape[axis], fine.shape[axis]
        if n == m:
            continue
        kept = np.arange(0, m, (m - 1) // (n - 1))
        if name in MASSES:
            moved = np.moveaxis(fine, axis, -1)
            grids = np.broadcast_to(beside[f"grid_{dim}"], (len(fine), m))
            lumped = [x @ _lottery(g, g[kept]) for x, g in zip(moved, grids, strict=True)]
            fine = np.moveaxis(np.array(lumped), -1, axis)
        else:
            fine = np.take(fine, kept, axis)
    return fine


def _lottery(places: Numpy, nodes: Numpy) -> Numpy:
    """Return weights (places, nodes): what lies between two nodes goes to both."""
    return np.array([np.interp(places, nodes, row) for row in np.eye(len(nodes))]).T
