"""What bounds at the nodes say of everything between them: widths, losses, intervals of choices."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.tracing import EPS

from .bounds import UNITS, Lines
from .cells import cell_corners, corners
from .problem import ContinuousProblem

HALVINGS = 40
"""Trials of an end of an interval of choices, at most; what is found lies outside of it."""

NARROW = 1e-3
"""How near that is to be, of the interval."""

WIDER = 3.0
"""How much farther the next trial is, where the last one was inside."""


class Widths(NamedTuple):
    """Largest distances over the continuum.

    Attributes
    ----------
    between : float
        Of the upper bound from the lower one.
    error : float
        Of the true value from the interpolation of the bounds' middle.
    """

    between: Array
    error: Array


def widths(
    problem: ContinuousProblem,
    lower: Array,
    upper: Array,
    lines: Lines,
    alive: Array | bool = True,
) -> Widths:
    """Return the largest width, and the largest error of the middle, over the whole continuum.

    But for cells with a corner that is not `alive` (z, n).
    """
    middle, alive = (lower + upper) / 2, jnp.broadcast_to(alive, lower.shape)
    rounding = 8 * EPS * jnp.max(jnp.abs(upper))
    above = _above_line if len(problem.states) == 1 else _above_cells
    cells = alive[:, jnp.asarray(cell_corners(problem.sizes))].all(-1)

    def largest(base: Array, share: float) -> Array:
        inside = jnp.max(jnp.where(cells, above(problem, lines, base), -jnp.inf))
        at_nodes = jnp.max(jnp.where(alive, share * (upper - lower), -jnp.inf))
        return jnp.where(alive.any(), jnp.maximum(inside, at_nodes) + rounding, jnp.inf)

    return Widths(largest(lower, 1.0), largest(middle, 0.5))


def _above_line(problem: ContinuousProblem, lines: Lines, base: Array) -> Array:
    """Return how far the upper bound goes above the interpolation of `base` (z, n) in each cell.

    With one state.

    In a cell it is the lesser of the two ends' lines, which is concave, and what is subtracted is
    linear: the largest difference is at an end or where the lines cross.
    """
    height, slope = lines.height, lines.slope[..., 0]
    step = jnp.diff(problem.nodes[:, 0])
    falls = slope[:, :-1] - slope[:, 1:]
    place = (height[:, 1:] - height[:, :-1] - slope[:, 1:] * step) / jnp.where(falls == 0, 1, falls)
    place = jnp.where(falls == 0, step / 2, jnp.clip(place, 0.0, step))
    crossing = jnp.minimum(
        height[:, :-1] + slope[:, :-1] * place, height[:, 1:] - slope[:, 1:] * (step - place)
    )
    left = jnp.minimum(height[:, :-1], height[:, 1:] - slope[:, 1:] * step)
    right = jnp.minimum(height[:, 1:], height[:, :-1] + slope[:, :-1] * step)
    share = place / step
    inside = crossing - ((1.0 - share) * base[:, :-1] + share * base[:, 1:])
    at_ends = jnp.maximum(left - base[:, :-1], right - base[:, 1:])
    return jnp.maximum(inside, at_ends)


def _above_cells(problem: ContinuousProblem, lines: Lines, base: Array) -> Array:
    """Return the same for several states.

    The upper bound is below any mixture of the planes of a cell's corners. That is affine, and
    what is subtracted is multilinear: the largest difference is at a corner.
    """
    cells = jnp.asarray(cell_corners(problem.sizes))
    own = problem.nodes[cells]  # (cell, corner, d)
    plane, slope = lines.height[:, cells], lines.slope[:, cells]
    level = jnp.mean(plane - jnp.sum(slope * own, -1), 2)
    mixed = jnp.mean(slope, 2)  # (z, cell, d)
    there = level[..., None] + jnp.einsum("zcd,ckd->zck", mixed, own)
    return jnp.max(there - base[:, cells], -1)


NOTHING = 1e-6
"""Of the width, by which a lower bound may miss being concave and be taken as it is."""

MOST_LINES = 8_192
"""Nodes up to which all lines are looked at, at each of them."""


def falls_short(problem: ContinuousProblem, lower: Array, wide: Array, lines: Lines) -> Array:
    """Return how far (z,) the interpolation of `lower` may lie below its concave envelope.

    The envelope is below the upper bound, which is concave, so by no more than the width; and below
    lines that are above all nodes (:func:`below_lines`). With one state it is below the function
    whose slopes are the greatest from there on, too, and below that whose slopes are the least up
    to there. All of these are concave. Where a state is cut off at its top the envelope may not
    fall, either, for it is read beyond; the upper bound does not.
    """
    if len(problem.states) > 1:
        return jnp.minimum(wide, below_lines(problem, lower, lines))
    x = problem.nodes[:, 0]
    step = jnp.diff(x)
    slope = jnp.diff(lower, axis=1) / step
    floor = jnp.where(problem.clips[0], 0.0, -jnp.inf)
    steepest = jnp.maximum(lax.cummax(slope, axis=1, reverse=True), floor)
    from_right = jnp.sum((steepest - slope) * step, 1)
    from_left = jnp.sum((slope - lax.cummin(slope, axis=1)) * step, 1)
    one_way = jnp.where(problem.clips[0], from_right, jnp.minimum(from_right, from_left))
    least = jnp.minimum(wide, one_way)

    def better(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.asarray(False), jnp.minimum(carry[1], below_lines(problem, lower, lines))

    # A loop of one round or none, where that is next to nothing: as good as concave.
    begin = (~jnp.all(least <= NOTHING * wide), least)
    found: Array = lax.while_loop(lambda carry: carry[0], better, begin)[1]
    return found


def below_lines(problem: ContinuousProblem, lower: Array, lines: Lines) -> Array:
    """Return how far (z,) the interpolation of `lower` may lie below lines above all nodes.

    The least of such lines is concave, and above the interpolation, which is a mean of nodes. Each
    cell has two: with the slopes of `lower` in it, and with those of the upper bound, for those of
    a policy that is wrong may be anything. What is subtracted is multilinear, so that the largest
    difference is at a corner. With many nodes none is looked for, and the answer is inf.
    """
    if problem.shape[1] > MOST_LINES:
        return jnp.full(problem.shape[0], jnp.inf)
    cells = jnp.asarray(cell_corners(problem.sizes))
    corners_of = list(product((0, 1), repeat=len(problem.sizes)))

    def chords(axis: int) -> Array:
        low, high = ([k for k, c in enumerate(corners_of) if c[axis] == end] for end in (0, 1))
        rise = jnp.mean(lower[:, cells[:, high]], -1) - jnp.mean(lower[:, cells[:, low]], -1)
        return rise / (problem.nodes[cells[:, -1], axis] - problem.nodes[cells[:, 0], axis])

    own = jnp.stack([chords(i) for i in range(len(problem.sizes))], -1)  # (z, cell, d)
    own = jnp.where(problem.clips, jnp.maximum(own, 0.0), own)
    theirs = jnp.mean(lines.slope[:, cells], 2)

    def above(at: tuple[Array, Array]) -> tuple[Array, Array]:
        """Return how far lines of slopes (2, z, d) are above a cell's corners, and their size."""
        slopes, corner = at
        along = jnp.einsum("szd,nd->szn", slopes, problem.nodes)
        height = jnp.max(lower - along, -1, keepdims=True)
        far = jnp.max(height + (along - lower)[..., corner], -1)
        return jnp.min(far, 0), jnp.max(jnp.abs(along), (0, 2))

    slopes = jnp.moveaxis(jnp.stack([own, theirs]), 2, 0)
    far, size = lax.map(above, (slopes, cells), batch_size=64)
    return jnp.max(far, 0) + 8 * EPS * (jnp.max(size, 0) + jnp.max(jnp.abs(lower)))


def optimal_choices(
    problem: ContinuousProblem, y: Array, lower: Array, after: Lines
) -> tuple[Array, Array]:
    """Return an interval (z, n) that holds the optimal choice at each node, of the one choice.

    That is where the reward and the upper bound of what follows reach the lower bound: a convex
    set, which holds a policy that the lower bound is of. The upper bound of what follows is that of
    the lines of the cell where it is read.

    Outside of the set the tangent of what is to reach lies above it, so that where the tangent
    does is no farther in than the set's end: Newton's method from outside.
    """
    weights = problem.weights
    level = weights @ (after.height - jnp.sum(after.slope * problem.nodes, -1))
    slope = jnp.einsum("zk,knd->znd", weights, after.slope)
    slack = 8 * UNITS * jnp.max(jnp.abs(after.height))

    def one(x: Array, z: Array, y: Array, worth: Array) -> tuple[Array, Array]:
        chances = problem.chances(z)

        def excess(choice: Array) -> Array:
            given = choice[None]

            def above(place: Array) -> Array:
                index, _ = corners(problem.grids, place)
                return jnp.min(level[z, index] + slope[z, index] @ place)

            follows = chances @ jax.vmap(above)(problem.following(x, given, z))
            return problem.reward(x, given, z) + follows - worth + slack

        def towards(end: Array) -> Array:
            def step(carry: _Side) -> _Side:
                k, choice, inside, outside, _ = carry
                height, tilt = jax.value_and_grad(excess)(choice)
                reaches = problem.feasible(x, choice[None], z) & (height >= 0.0)
                root = choice - height / tilt
                # What is no number, or no farther in, tells nothing.
                nearer = (jnp.abs(root - y[0]) < jnp.abs(choice - y[0])) & (
                    (root - y[0]) * (choice - y[0]) > 0.0
                )
                better = jnp.where(nearer, root, choice)
                close = ~reaches & (jnp.abs(choice - better) <= NARROW * jnp.abs(choice - y[0]))
                close = close & nearer
                inside = jnp.where(reaches, choice, inside)
                outside = jnp.where(reaches, outside, better)
                middle, wider = (inside + outside) / 2, y[0] + WIDER * (inside - y[0])
                beyond = jnp.abs(wider - y[0]) >= jnp.abs(outside - y[0])
                ahead = jnp.where(beyond, outside, wider)
                choice = jnp.where(reaches, ahead, jnp.where(nearer, better, middle))
                closed = jnp.abs(outside - inside) <= NARROW * jnp.abs(outside - y[0])
                return _Side(k + 1, choice, inside, outside, close | closed)

            def proceed(carry: _Side) -> Array:
                return ~carry.done & (carry.k < HALVINGS)

            bend = jnp.abs(jax.grad(jax.grad(lambda c: problem.reward(x, c[None], z)))(y[0]))
            first = 1.5 * jnp.sqrt(2 * jnp.maximum(excess(y[0]), 0.0) / bend)
            first = jnp.where(first > 0, first, jnp.inf)
            start = y[0] + jnp.sign(end - y[0]) * jnp.minimum(first, jnp.abs(end - y[0]))
            begin = _Side(jnp.int32(0), start, y[0], end, end == y[0])
            return lax.while_loop(proceed, step, begin).outside

        bottom, top = problem.ends(0, x, y, z)
        ends = jnp.stack([jnp.minimum(bottom, y[0]), jnp.maximum(top, y[0])])
        low, high = jax.vmap(towards)(ends)
        return low, high

    low, high = problem.each(one, y, lower)
    return low, high


class _Side(NamedTuple):
    """One side of an interval of choices: the next trial, and between which its end lies."""

    k: Array
    choice: Array
    inside: Array
    outside: Array
    done: Array
