r"""Sums in a fixed order; sum, mean and extremes over a product of axes.

Floating-point addition is not associative, so a sum that a compiler may order as it likes changes
its last bits with the shapes around it (how many points share a batch, how many devices). Here the
order is written down: the second half is added to the first until one term is left. That is also
accurate: the rounding error grows with the logarithm of the number of terms (Higham 1993, *SIAM
J. Sci. Comput.* 14).

*Summaries over a product of axes.* The values :math:`f(x_i, y_j)` on 20,000 × 20,000 points would
take 3.2 GB, and the coordinates in front of them twice as much. Nothing of that is needed for a
summary: the function is mapped over one axis inside the map over the other, and each row is reduced
as soon as it is there. Memory is that of the axes and of one block of rows; sums are taken in that
fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from .finite import any_nan

SHORT = 8  # entries of an axis that are added one after another


def short_sum(x: Array, axis: int = -1) -> Array:
    """Sum over an axis; a short one by sums of whole arrays, several times faster on a CPU."""
    if x.shape[axis] > SHORT:
        return x.sum(axis)
    terms = (lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis]))
    return reduce(jnp.add, terms)


def pairwise_sum(x: Array) -> Array:
    """Sum an array (n, ...) over its first axis."""
    n = x.shape[0]
    full = 1 << max(0, n - 1).bit_length()
    if full > n:
        x = jnp.concatenate([x, jnp.zeros((full - n, *x.shape[1:]), x.dtype)])
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = x[:half] + x[half:]
    return x[0]


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
        return pairwise_sum(row), *_ends(row.min(), row.max(), row)

    # Checkpointed: in reverse mode a row is computed again, and not remembered.
    @jax.checkpoint
    def reduce(x: Array) -> Any:
        return _nested(f, (*at, x), tuple(rest))

    rows = BLOCK // prod(len(other) for other in rest)
    totals, lows, highs = lax.map(reduce, axis, batch_size=rows if rows > 1 else None)
    return pairwise_sum(totals), *_ends(lows.min(), highs.max(), lows)


def _ends(low: Array, high: Array, x: Array) -> tuple[Array, Array]:
    """Return both extremes, NaN where an entry is."""
    nan = any_nan(x)
    return jnp.where(nan, jnp.nan, low), jnp.where(nan, jnp.nan, high)
