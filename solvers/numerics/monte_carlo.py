r"""``dp.monte_carlo``: a mean over random draws and its standard error, in constant memory.

The mean of :math:`f(Z)` is estimated by :math:`\bar f = \frac1M\sum_i f(Z_i)`, with the standard
error :math:`\sqrt{\sum_i (f(Z_i) - \bar f)^2 / (M-1) / M}`. Draws are made in *leaves* of a fixed
size. Leaf `l` has the key ``fold_in(key, l)``, split among its draws, so that a draw depends on the
key and its number only. Each leaf is reduced to its sum and its sum of squared deviations, and
leaves are put together by the formula of Chan, Golub & LeVeque (1983, *Am. Stat.* 37), which does
not cancel. Every sum is taken in a fixed order (:mod:`.summation`), and of terms that are written
to memory first, so that no compiler can fuse a product into an addition here and not there. So the
same key gives the same number, to the last bit, on any number of devices and however a sweep is cut
into tasks. What is left to the compiler is the inside of a draw: another kind of processor, or a
program for another number of points, may round it differently.

The standard error is itself an estimate. Where a few draws make up the mean it is worthless, and
so is the mean; ``largest`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.errors import UsageError

from .summation import pairwise_sum

LEAF = 2**13  # draws that are reduced together; another size is another order of summation
ROW = 2**10  # of them, draws that exist at a time


class Estimate(NamedTuple):
    """A Monte Carlo mean.

    Attributes
    ----------
    mean : array (...)
        Of all draws; of the shape of one.
    standard_error : array (...)
        Of the mean.
    largest : array (...)
        Share of the sum of absolute values that the largest draw alone makes up. Near ``1 / draws``
        all is well; where it is several percent, neither the mean nor its error can be trusted.
    """

    mean: Array
    standard_error: Array
    largest: Array


class _Leaf(NamedTuple):
    draws: Array
    total: Array
    squares: Array  # sum of squared deviations from the leaf's mean
    absolute: Array  # sum of absolute values
    top: Array  # largest absolute value


def monte_carlo(draw: Callable[[Array], Array], key: Array | int, draws: int) -> Estimate:
    """Average a random quantity over independent draws.

    Parameters
    ----------
    draw : function
        Of one key, made by ``jax.random``, to a number or an array (...): one draw. It may close
        over traced parameters; the draws are then the same ones at each parameter value.
    key : key or int
        ``jax.random.key(seed)``, or the seed.
    draws : int
        How many, at least 2.

    Returns
    -------
    Estimate
        Mean, standard error, and the largest draw's share; of the shape that `draw` returns.
        Derivatives are those of the mean of these very draws: with a smooth `draw`, unbiased.

    Raises
    ------
    UsageError
        If `draws` is not a whole number, at least 2.

    Examples
    --------
    >>> import jax, dpsolve as dp
    >>> estimate = dp.monte_carlo(lambda key: jax.random.normal(key) ** 2, 0, 100_000)
    >>> bool(abs(estimate.mean - 1.0) < 4 * estimate.standard_error)
    True
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise UsageError(
            f"draws={draws!r}; it is a whole number, at least 2 for there to be a standard error"
        )
    key = jax.random.key(key) if isinstance(key, int) else key
    leaves = -(-draws // LEAF)

    # Checkpointed: in reverse mode a leaf is drawn again, and not remembered.
    @jax.checkpoint
    def reduce(leaf: Array) -> _Leaf:
        keys = jax.random.split(jax.random.fold_in(key, leaf), (LEAF // ROW, ROW))
        x = lax.map(jax.vmap(draw), keys).astype(jnp.float64)  # (rows, ROW, ...)
        left = draws - leaf.astype(jnp.int64) * LEAF
        inside = jnp.arange(LEAF).reshape(x.shape[:2] + (1,) * (x.ndim - 2)) < left
        count = jnp.minimum(left, LEAF).astype(jnp.float64)
        total = _sum(jnp.where(inside, x, 0.0))
        squares = lax.map(lambda row: (row - total / count) ** 2, x)
        size = jnp.where(inside, jnp.abs(x), 0.0)
        return _Leaf(
            count, total, _sum(jnp.where(inside, squares, 0.0)), _sum(size), size.max((0, 1))
        )

    return _together(lax.map(reduce, jnp.arange(leaves, dtype=jnp.uint32)), draws)


def _sum(x: Array) -> Array:
    return pairwise_sum(pairwise_sum(x))


def _together(leaves: _Leaf, draws: int) -> Estimate:
    mean = pairwise_sum(leaves.total) / draws
    between = lax.map(lambda leaf: leaf.draws * (leaf.total / leaf.draws - mean) ** 2, leaves)
    squares = pairwise_sum(leaves.squares) + pairwise_sum(between)
    varies = squares > 0.0  # the root's derivative is infinite at 0
    error = jnp.where(varies, jnp.sqrt(jnp.where(varies, squares, 1.0)), 0.0)
    total = pairwise_sum(leaves.absolute)
    share = leaves.top.max(0) / jnp.where(total > 0.0, total, 1.0)
    return Estimate(mean, error / (draws * (draws - 1)) ** 0.5, share)
