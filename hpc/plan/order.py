"""In which order the points of a task are solved, where some start from others.

Each point starts from the one before it in the order, and the better the nearer that is. Along the
parameter axes the order turns back at the end of every row, so that one step along one axis leads
from point to point. Points that stand in a row (samples, tables) are followed from nearest to
nearest. The order depends on the task's parameters and on nothing else.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpsolve.sharding.batches.warm_order import START

from .design import POINT

if TYPE_CHECKING:
    from dpsolve.sharding.batches.program import Batch

    from .design import Bucket
    from .tasks import Task


MOST = 4096  # points of a task beyond which the search for the nearest, of n**2 steps, is left out


def sequence(bucket: Bucket, task: Task) -> NDArray[np.intp]:
    """Return the numbers of a task's points, in the order in which they are solved."""
    if POINT in bucket.axes and bucket.parameters:
        place = _along_rows(bucket, task) if len(bucket.axes) == 1 else _turning(task.shape)
    else:
        place = _turning(task.shape)
    return task.start + place


def back_in_place(batch: Batch, numbers: NDArray[np.intp]) -> Batch:
    """Return results in the order of the points' numbers, and say by number where they started."""
    order = np.argsort(numbers)
    source = batch.variables[START]
    named = np.where(source < 0, -1, numbers[source]).astype(source.dtype)
    variables = {name: x[order] for name, x in (batch.variables | {START: named}).items()}
    rest = {f.name: getattr(batch, f.name)[order] for f in fields(batch) if f.name != "variables"}
    return replace(batch, variables=variables, **rest)


def _turning(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the places of a block in an order of which each step is one along one axis."""
    order = np.zeros(1, np.intp)
    for length in reversed(shape):
        inner = len(order)
        rows = [order[:: -1 if row % 2 else 1] + row * inner for row in range(length)]
        order = np.concatenate(rows)
    return order


def _along_rows(bucket: Bucket, task: Task) -> NDArray[np.intp]:
    """Return the places of points in a row, from nearest to nearest."""
    if task.size > MOST:
        return np.arange(task.size)
    columns = [dims_values[1][task.start : task.stop] for dims_values in bucket.parameters.values()]
    table = np.stack(columns, axis=1)
    width = np.ptp(table, axis=0)
    table = table / np.where(width > 0, width, 1.0)
    left = np.ones(task.size, bool)
    order = [int(np.argmin(table[:, 0]))]
    for _ in range(task.size - 1):
        left[order[-1]] = False
        far = ((table - table[order[-1]]) ** 2).sum(axis=1)
        order.append(int(np.argmin(np.where(left, far, np.inf))))
    return np.array(order, np.intp)
