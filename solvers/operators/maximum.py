"""Maxima over choices: argmax, by blocks, by tiles that skip infeasible choices.

XLA's own `argmax` reduces pairs of a number and a place, one after another: on a CPU four times the
time of the maximum alone. So a maximum and the place where it is first are found by two reductions.

In all of them NaN counts as infinite: what is not feasible is -inf by then, so that a NaN is one of
a pair that counts, and its state's maximum is infinite, wherever the pair stands
(:mod:`.finite` says why it is not left to the maximum to pass it on).

Choices that do not all fit in memory are looked at block by block.

A household without credit cannot choose a wealth far above its own: half of all pairs of savings
are infeasible, and their rewards are as dear as the others' (a power costs some 6 ns). Whether a
pair is feasible costs far less to find out. So the states are cut into tiles along the longest of
them, and of each tile only those blocks of choices are evaluated that are feasible somewhere in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.finite import largest, largest_computed

from .named_arrays import NamedArray

Best = tuple[Array, Array]  # over the states: a maximum, and the number of what has it
FEW = 16  # entries that are compared one after another
PAIRS = 2**16  # of a tile and a block of choices: enough to keep several cores busy
FEW_TILES = 4  # below which nothing worth mentioning is passed over


def argmax(x: Array) -> Array:
    """Return where the last axis has its maximum first; anything within it where one is NaN.

    By two reductions of numbers: of an array (..., n), an int32 array (...).
    """
    n = x.shape[-1]
    best = jnp.max(x, -1, keepdims=True)
    at = jnp.where(x >= best, jnp.arange(n, dtype=jnp.int32), n)
    return jnp.minimum(jnp.min(at, -1), n - 1)


def max_and_argmax(q: Array) -> tuple[Array, Array]:
    """Return the maximum over the last axis, and where it is first (anywhere if one is NaN).

    Of an array (..., n), two arrays (...). Over a short axis by comparisons of whole arrays.
    """
    if q.shape[-1] > FEW:
        return largest(q, -1), argmax(q)
    q = jnp.where(jnp.isnan(q), jnp.inf, q)
    value, at = q[..., 0], jnp.zeros(q.shape[:-1], jnp.int32)
    for number in range(1, q.shape[-1]):
        other = q[..., number]
        better = other > value
        value, at = jnp.where(better, other, value), jnp.where(better, number, at)
    return value, at.astype(jnp.int32)


def improved(best: Best, top: Array, number: Array) -> Best:
    """Return the better of the best so far and another maximum (states...); the first of equals."""
    better = top > best[0]
    return jnp.where(better, top, best[0]), jnp.where(better, number, best[1])


def over_blocks(look: Callable[[Array, Best], Best], blocks: int, shape: tuple[int, ...]) -> Best:
    """Go through blocks of choices: `look(number, best)` returns the best so far."""
    none = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
    best: Best = lax.fori_loop(0, blocks, lambda i, b: look(jnp.int32(i), b), none)
    return best


def best_of_blocks(
    quality: Callable[..., Array],
    feasible: Callable[[Array], NamedArray | None],
    blocks: int,
    shape: tuple[int, ...],
) -> Best:
    """Return, over the states, the maximum and the number of the first block that has it.

    Blocks without a feasible pair are passed over, and those that have no other need no mask: XLA
    evaluates their rewards by vectors, together with the maximum.

    Parameters
    ----------
    quality : function
        ``quality(number, all_feasible=False)`` is that of a block's choices, along the last axis.
    feasible : function
        Which pairs of a numbered block are feasible; None if blocks are not told apart by that.
    blocks : int
    shape : tuple of int
        Of the states.
    """

    def evaluate(number: Array, best: Best, *, all_feasible: bool = False) -> Best:
        q = quality(number, all_feasible=all_feasible)
        return improved(best, largest_computed(q), number)

    def look(number: Array, best: Best) -> Best:
        pairs = feasible(number)
        if pairs is None:
            return evaluate(number, best)
        # Counted in two steps, which takes a fifth of the time of `any` and `all`.
        rows = jnp.atleast_1d(pairs.array).sum(-1, dtype=jnp.int32)
        count = rows.sum(dtype=jnp.int64)
        way = jnp.where(count == pairs.array.size, 2, jnp.where(count > 0, 1, 0))
        ways = (lambda _, best: best, evaluate, partial(evaluate, all_feasible=True))
        found: Best = lax.switch(way, ways, number, best)
        return found

    return over_blocks(look, blocks, shape)


def tile_width(size: int, pairs: int) -> int | None:
    """Return how many members of a state are a tile, or None where tiles would gain nothing.

    Parameters
    ----------
    size : int
        Members of the state in all.
    pairs : int
        Of one member of it (with whatever other states) and a block of choices.
    """
    width = max(1, PAIRS // pairs)
    return width if ceil(size / width) >= FEW_TILES else None


def best_of_tiles(best: Callable[[Array], Best], size: int, width: int, axis: int) -> Best:
    """Put together, over the states, what is best at tiles of them.

    Parameters
    ----------
    best : function
        Of the members (width,) of a state that are one tile.
    size, width : int
        Members of the state in all, and of a tile.
    axis : int
        Where that state is among the states.
    """

    def tile(number: Array) -> Best:
        members = jnp.minimum(number.astype(jnp.int64) * width + jnp.arange(width), size - 1)
        return best(members.astype(jnp.int32))

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return lax.slice_in_dim(x, 0, size, axis=axis)

    value, block = lax.map(tile, jnp.arange(ceil(size / width), dtype=jnp.int32))
    return joined(value), joined(block)
