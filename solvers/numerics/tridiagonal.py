r"""Tridiagonal preconditioner for chains that move by single steps: cyclic reduction.

Where a state moves by a step at a time, news travels along it as slowly, and at a discount of .9999
a Krylov method needs as many iterations as there are steps to go: thousands. But the walk by itself
is a tridiagonal matrix :math:`T`, and :math:`I - \beta T` is solved directly. If no other state
moves, that is the answer. If others do, it is a preconditioner: what is common to all values of the
others is solved with :math:`I - \beta \bar T` for the mean walk, and the rest, which also dies away
as fast as the others forget where they were, with :math:`I - \beta \lambda T`, where
:math:`\lambda` is their autocorrelation. (Ten iterations then take the place of six hundred,
whether the others mix fast or hardly at all.)

The walk is found by probing: applied to the indicators of every third member, a policy's
expectation tells how likely a step down, none, and a step up are, whatever happens to the other
states. Whether it walks at all is told by the second moment of the move, which longer moves would
exceed.

Tridiagonal systems are solved by parallel cyclic reduction (Hockney 1965, *J. ACM* 12), in
:math:`\log_2 n` rounds of arithmetic on whole arrays; it is stable, as the matrix is diagonally
dominant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import jax.numpy as jnp
from jax import Array, lax

LEAST = 64  # members below which a Krylov method gets along by itself
SLIP = 1e-13  # by which the second moment of a walk may miss for rounding, times the squared length


def line_solver(
    expect: Callable[[Array], Array], discount: Array, shape: tuple[int, ...], axis: int
) -> Callable[[Array], Array]:
    r"""Return an approximate inverse of :math:`I - \beta P` for a policy whose state walks.

    Parameters
    ----------
    expect : function
        A policy's expectation of a function of the next state.
    discount : array
        A number, or over the states.
    shape : tuple of int
        Of the states.
    axis : int
        The state that may walk.

    Returns
    -------
    function
        The identity where the state does not walk.
    """
    n = shape[axis]
    others = prod(shape) // n

    def last(y: Array) -> Array:
        """Return an array as (others, the state)."""
        return jnp.moveaxis(jnp.broadcast_to(y, shape), axis, -1).reshape(others, n)

    def back(y: Array) -> Array:
        whole = (*shape[:axis], *shape[axis + 1 :], n)
        return jnp.moveaxis(jnp.broadcast_to(y, (others, n)).reshape(whole), -1, axis)

    def expected(y: Array) -> Array:
        return last(expect(back(y)))

    place = jnp.arange(n)
    hits = [expected((place % 3 == colour).astype(jnp.float64)) for colour in range(3)]

    def chance(step: int) -> Array:
        colour = (place + step) % 3
        inside = (place + step >= 0) & (place + step < n)
        return jnp.where(inside, jnp.select([colour == c for c in range(3)], hits), 0.0)

    down, stay, up = (chance(step) for step in (-1, 0, 1))
    x = place - (n - 1) / 2
    moved = expected(x * x) - 2 * x * expected(x) + x * x * sum(hits)
    walks = (jnp.abs(moved - down - up) <= SLIP * n * n).all()

    rate = last(discount)
    walks &= (rate * sum(hits) < 1.0).all()  # else the matrix need not be dominated by its diagonal
    rows = -rate * down, 1.0 - rate * stay, -rate * up
    common = [row.mean(0, keepdims=True) for row in rows]
    who = jnp.broadcast_to(jnp.arange(others)[:, None] - (others - 1) / 2, (others, n))
    recalled = jnp.sum(who * expected(who)) / jnp.maximum(jnp.sum(who * who), 1.0)
    left = jnp.clip(recalled, 0.0, 1.0)
    apart = [left * row for row in rows]
    apart[1] = apart[1] + 1.0 - left

    def solve(b: Array) -> Array:
        b = last(b)
        mean = b.mean(0, keepdims=True)
        found = _cyclic_reduction(common, mean)
        if others > 1:
            found = found + _cyclic_reduction(apart, b - mean)
        return back(found)

    return lambda b: lax.cond(walks, solve, lambda b: b, b)


def _cyclic_reduction(rows: Sequence[Array], b: Array) -> Array:
    """Solve tridiagonal systems along the last axis; rows are (below, middle, above).

    In every round each equation gets rid of its two neighbours, and has the next but one for it.
    """
    n = b.shape[-1]
    place = jnp.arange(n)

    def reduce(level: Array, rows: tuple[Array, ...]) -> tuple[Array, ...]:
        below, middle, above, b = rows
        far = jnp.left_shift(1, level)

        def at(x: Array, move: Array, outside: float) -> Array:
            source = place + move
            inside = (source >= 0) & (source < n)
            return jnp.where(inside, jnp.take(x, jnp.clip(source, 0, n - 1), axis=-1), outside)

        low = -below / at(middle, -far, 1.0)
        high = -above / at(middle, far, 1.0)
        return (
            low * at(below, -far, 0.0),
            middle + low * at(above, -far, 0.0) + high * at(below, far, 0.0),
            high * at(above, far, 0.0),
            b + low * at(b, -far, 0.0) + high * at(b, far, 0.0),
        )

    rounds = max(1, (n - 1).bit_length())
    _, middle, _, b = lax.fori_loop(0, rounds, reduce, (*rows, b))
    x: Array = b / middle
    return x
