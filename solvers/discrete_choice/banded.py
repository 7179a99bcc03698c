r"""Chains that move by a few steps along a line, or leap to one place: solved directly.

Where a state moves by a few steps a period, or leaps to the same few places from wherever it is (a
machine wears, or is replaced), the system of a policy's value is a banded matrix and a full column
of rank one,

.. math::
    I - \beta P = I - B - w u^\top,

with :math:`w` the discounted chance of a leap and :math:`u` where it leads. The band by itself is
an M-matrix that its diagonal dominates, so that elimination needs no pivots; the rank-one term
costs one right-hand side more (Sherman and Morrison 1950). That is :math:`O(n)`, where a dense
solve is :math:`O(n^3)`. What is neither a short step nor that one leap is left to a Krylov method,
which the solution preconditions: it is trusted by nobody.

The structure is found by probing. Applied to the indicators of every (2k+1)-th member, an
expectation tells how likely each step from -k to k is; rows that lead farther are told by the
second moment of the move, which their leaps would exceed, and are left out of the band. Which of
those lead to the same distribution is told by the expectation of numbers that no two distributions
are likely to share, and that distribution is a row of the matrix: one transposed application.

*Many points.* Under ``vmap`` points become the last axis, so that each operation of the
elimination is one over a contiguous vector of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from dpsolve.solvers.numerics.summation import short_sum

REACH = 4  # steps a period, up or down, at most
WIDE = 2 * REACH + 1
SLIP = 1e-13  # by which a second moment may miss for rounding, times the squared length
MANY = 16  # lines, beyond which leaps are left to the Krylov method
GOLDEN = 0.6180339887498949


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moves:
    """How a line of n members is moved, for each of m lines, by each alternative.

    Attributes
    ----------
    steps : array (n, m, alternatives, 2 REACH + 1)
        Chances of steps from -REACH to REACH; zeros in rows that lead farther.
    leaps : array (n, m, alternatives)
        1 in rows that lead to where the line's leaps lead, else 0.
    place : array (n, m)
        The chances of where that is.
    """

    steps: Array
    leaps: Array
    place: Array


def moves(expect: Callable[[Array], Array], n: int) -> Moves:
    """Find how a line is moved.

    Parameters
    ----------
    expect : function
        Expectations (n, m, alternatives) of a function (n,) of the line's next member.
    n : int
    """
    place, steps = jnp.arange(n), range(-REACH, REACH + 1)
    x = place - (n - 1) / 2
    probes = [(place % WIDE == colour).astype(jnp.float64) for colour in range(WIDE)]
    unlike = (place + 1) * GOLDEN % 1.0
    # All at once, so that the expectation is compiled once.
    *hits, first, second, told = jax.vmap(expect)(jnp.stack([*probes, x, x * x, unlike]))
    here = place[:, None, None]

    def chance(step: int) -> Array:
        inside = (here + step >= 0) & (here + step < n)
        colour = (here + step) % WIDE
        return jnp.where(inside, jnp.select([colour == c for c in range(WIDE)], hits), 0.0)

    at = x[:, None, None]
    found = [chance(step) for step in steps]
    moved = second - 2 * at * first + at * at * sum(hits)
    within = sum(step * step * p for step, p in zip(steps, found, strict=True))
    short = jnp.abs(moved - within) <= SLIP * n * n
    band = jnp.where(short[..., None], jnp.stack(found, -1), 0.0)
    return Moves(band, *_leaps(expect, short, told))


def _leaps(expect: Callable[[Array], Array], short: Array, told: Array) -> tuple[Array, Array]:
    """Return which rows lead where the first row that is not short does, and where that is."""
    n, m, alternatives = short.shape
    if m > MANY:
        return jnp.zeros(short.shape), jnp.zeros((n, m))
    long, seen = (jnp.moveaxis(x, 1, 0).reshape(m, -1) for x in (~short, told))
    first = jnp.argmax(long, -1)
    same = jnp.abs(seen - jnp.take_along_axis(seen, first[:, None], -1)) <= SLIP * n
    leaps = jnp.moveaxis((long & same).reshape(m, n, alternatives), 0, 1)
    row = jnp.zeros((m, n, m, alternatives))
    row = row.at[jnp.arange(m), first // alternatives, jnp.arange(m), first % alternatives].set(1.0)
    back = jax.linear_transpose(expect, jnp.zeros(n))
    place = jax.vmap(lambda one: back(one)[0])(row)
    return leaps.astype(jnp.float64), jnp.where(long.any(-1)[:, None], place, 0.0).T


def solve_along(moves: Moves, weight: Array, b: Array, transposed: bool = False) -> Array:
    r"""Solve :math:`x - (B + w u^\top) x = b`, or the transposed system.

    Parameters
    ----------
    moves : Moves
    weight : array (n, m, alternatives)
        Discounted probabilities of the alternatives: nonnegative, with sums below one.
    b : array (n, m)
    """
    solved = _transposed if transposed else _plain
    found: Array = solved(moves.steps, moves.leaps, moves.place, weight, b)
    return found


def _solved(
    transposed: bool, steps: Array, leaps: Array, place: Array, weight: Array, b: Array
) -> Array:
    """Solve it on arrays whose points, if there are any, are further axes at the end.

    What is read row by row within a loop XLA makes once, and not anew at every point that uses it.
    """
    # Right-hand sides may be more than systems: directions of a derivative.
    of_band = jnp.broadcast_shapes(weight[0, :, 0].shape, steps[0, :, 0, 0].shape)
    of_ends = (leaps[0, :, 0].shape, place[0].shape, b[0].shape)
    zero = jnp.zeros(jnp.broadcast_shapes(of_band, *of_ends))
    band: tuple[Array, ...] = (steps, weight)
    if transposed:
        diagonals = lax.map(lambda step: _from(steps, weight, step), jnp.arange(WIDE) - REACH)
        band = (jnp.moveaxis(diagonals, 0, 1),)

    def entries(row: tuple[Array, ...]) -> list[Array]:
        """Return a row of I - B, from REACH left of the diagonal to REACH right of it."""
        if transposed:
            found = [row[0][k] for k in range(WIDE)]
        else:
            found = [short_sum(row[1] * row[0][:, :, k], 1) for k in range(WIDE)]
        return [(1.0 if k == REACH else 0.0) - p for k, p in enumerate(found)]

    def ends(x: tuple[Array, Array, Array], other: bool) -> Array:
        """Return an entry of the column of the rank-one term, or the other way round of its row."""
        leaps, weight, place = x
        return zero + (place if other else short_sum(leaps * weight, 1))

    def down(above: Any, x: Any) -> tuple[Any, Any]:
        """Eliminate what lies left of the diagonal, with the last rows, nearest last."""
        row, own = entries(x[0]), [ends(x[1], transposed), zero + x[2]]
        for i, (upper, last) in enumerate(above):
            factor = row[i] * upper[0]
            for k in range(1, REACH + 1):
                row[i + k] -= factor * upper[k]
            own = [y - factor * before for y, before in zip(own, last, strict=True)]
        new = ((1.0 / row[REACH], *row[REACH + 1 :]), tuple(own))
        return (*above[1:], new), new

    def up(carry: Any, x: Any) -> tuple[Any, Any]:
        ahead, dots = carry
        ((inverse, *upper), own), rest = x
        found = tuple(
            (y - sum(f * later for f, later in zip(upper, known, strict=True))) * inverse
            for y, known in zip(own, ahead, strict=True)
        )
        ahead = tuple((y, *known[:-1]) for y, known in zip(found, ahead, strict=True))
        across = ends(rest, not transposed)
        dots = tuple(dot + across * y for dot, y in zip(dots, found, strict=True))
        return (ahead, dots), found

    start = (((jnp.ones(of_band), *[jnp.zeros(of_band)] * REACH), (zero, zero)),) * REACH
    rank_one = (leaps, weight, place)
    _, eliminated = lax.scan(down, start, (band, rank_one, b))
    state = (((zero,) * REACH,) * 2, (zero, zero))
    (_, dots), (z, x) = lax.scan(up, state, (eliminated, rank_one), reverse=True)
    found: Array = x + z * (dots[1] / (1.0 - dots[0]))
    return found


def _from(steps: Array, weight: Array, step: Array) -> Array:
    """Return what reaches each member by a step's reverse: a diagonal (n, m, ...) of the band."""
    n = len(weight)
    source = jnp.arange(n) + step
    band = short_sum(weight * jnp.take(steps, REACH - step, 3), 2)
    inside = ((source >= 0) & (source < n)).reshape(n, *[1] * (band.ndim - 1))
    return jnp.where(inside, band[jnp.clip(source, 0, n - 1)], 0.0)


def _over_points(solved: Callable[..., Array]) -> Callable[..., Array]:
    """Have ``vmap`` put the points' axis last, in place of first."""
    over = custom_vmap(solved)

    @over.def_vmap
    def rule(size: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
        del size
        last = [
            jnp.moveaxis(x, 0, -1) if own else x[..., None]
            for x, own in zip(arrays, batched, strict=True)
        ]
        return jnp.moveaxis(over(*last), -1, 0), True

    return over


_plain = _over_points(partial(_solved, False))
_transposed = _over_points(partial(_solved, True))
