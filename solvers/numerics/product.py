r"""Sum, mean, minimum and maximum of a function over a product of axes, without building it.

The values :math:`f(x_i, y_j)` on 20,000 × 20,000 points would take 3.2 GB, and the coordinates in
front of them twice as much. Nothing of that is needed for a summary: the function is mapped over
one axis inside the map over the other, and each row is reduced as soon as it is there. Memory is
that of the axes and of one block of rows; sums are taken in a fixed order (:mod:`.summation`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
from jax import lax

from .summation import pairwise_sum

Array = Any

BLOCK = 2**15  # points that exist at a time, or one row if that is longer


class Summary(NamedTuple):
    """What was found over all points.

    Attributes
    ----------
    mean, sum, min, max : float
    """

    mean: Array
    sum: Array
    min: Array
    max: Array


def over_product(f: Callable[..., Array], *axes: Array) -> Summary:
    """Summarise a scalar function over the product of axes.

    Parameters
    ----------
    f : function
        Of one number from each axis, to a number.
    *axes : array (n_i,)
        The points.
    """
    total, low, high = _nested(f, (), axes)
    return Summary(total / prod(len(axis) for axis in axes), total, low, high)


def _nested(f: Callable[..., Array], at: tuple[Array, ...], axes: tuple[Array, ...]) -> Any:
    axis, *rest = axes
    if not rest:
        row = jax.vmap(lambda x: f(*at, x))(axis)
        return pairwise_sum(row), row.min(), row.max()

    # Checkpointed: in reverse mode a row is computed again, and not remembered.
    @jax.checkpoint
    def reduce(x: Array) -> Any:
        return _nested(f, (*at, x), tuple(rest))

    rows = BLOCK // prod(len(other) for other in rest)
    totals, lows, highs = lax.map(reduce, axis, batch_size=rows if rows > 1 else None)
    return pairwise_sum(totals), lows.min(), highs.max()
