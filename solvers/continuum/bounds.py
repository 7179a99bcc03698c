r"""Bounds on the true value over the whole continuum, from any policy: two linear systems.

Nodes :math:`x_i`; a feasible policy :math:`y_i(z)`; the reward jointly concave in :math:`(x, y)`,
so that :math:`v^*(\cdot, z)` is concave.

*Lower: weights that match the position.* With :math:`\sum_k a_{ik} x_k = y_i`, solve
:math:`l_i = F_i + \sum_{z'} D \sum_k a_{ik} l_k`. Concavity gives
:math:`\sum_k a_{ik} v^*(x_k) \le v^*(y_i)`, so that :math:`T_y v^* \le v^*` on the nodes, and
:math:`l \le v^*` there; between them the interpolation of `l` is below :math:`v^*`, by concavity
again. The policy need not be optimal.

*Upper: weights that match the marginal value.* With :math:`p_i = F_x(x_i, y_i)` and
:math:`q_k(z) = \sum_{z'} D p_k`, take any weights :math:`b_{ik} \ge 0` that sum to one, best such
that :math:`g_i = F_y + \sum_k b_{ik} q_k` is 0, and solve

.. math::
    u_i = F_i + \max_{y \in Y} g_i (y - y_i) + \sum_{z'} D \sum_k b_{ik}
          \bigl[u_k + p_k (y_i - x_k)\bigr].

Then :math:`U(x, z) = \min_i u_i + p_i (x - x_i) \ge v^*(x, z)` for every x: U is the least of the
lines, so :math:`E U(y) \le \sum_k b_{ik} L_k(y)`; the reward plus that is concave in
:math:`(x, y)`, and below its own expansion at :math:`(x_i, y_i)`, which is line i. So
:math:`TU \le U`.

Both systems are solved inexactly. If :math:`r + Qv - v \le e` then :math:`v + s` is a bound, with
:math:`s = (I - D)^{-1} \max_x e`, one number for each Markov state: so what the solver leaves, and
what is rounded, is charged.

The nodes' hull is the state's range and the model's Markov chain is taken as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.tracing import EPS

from .policy import HALVINGS, at, evaluate, interpolated, locate
from .problem import ConcaveProblem

UNITS = 16 * EPS
"""What one entry of a sweep may be rounded by, of the terms that it is made of."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ContinuumBounds:
    """Bounds on the true value, at the nodes and everywhere between them.

    Attributes
    ----------
    lower, upper : array (z, x)
        At the nodes; between them the interpolation of `lower` is a lower bound.
    lines, slopes : array (z, x)
        ``lines[i] + slopes[i] * (x - nodes[i])`` is an upper bound at every x, for each i.
    width : float
        The largest distance between upper and lower bound, over the continuum.
    error : float
        The largest distance of the true value from the interpolation of the bounds' middle.
    gap : array (z, x)
        What the Euler equation's residual adds to the upper bound, at each node.
    """

    lower: Array
    upper: Array
    lines: Array
    slopes: Array
    width: Array
    error: Array
    gap: Array


def shifted(weights: Array, excess: Array) -> Array:
    """Return what residuals (z, x) of at most `excess` add to a bound: a number (z, 1) each."""
    most = jnp.maximum(jnp.max(jnp.where(jnp.isnan(excess), jnp.inf, excess), 1), 0.0)
    own = jnp.eye(weights.shape[0])
    found: Array = jnp.linalg.solve(own - weights, most * (1.0 + 1e-9))
    return found[:, None]


def lower_bound(problem: ConcaveProblem, y: Array) -> Array:
    """Return a lower bound (z, x) on the true value: what a policy is worth on chords."""
    reward = problem.reward(problem.nodes, y)
    places = locate(problem.nodes, y)
    value, residual = evaluate(problem, *places, reward, jnp.zeros_like(reward))
    rounding = UNITS * (jnp.abs(reward) + jnp.max(jnp.abs(value)))
    return value - shifted(problem.weights, rounding - residual)


def upper_bound(
    problem: ConcaveProblem, y: Array, bottom: Array, top: Array, start: Array
) -> tuple[Array, Array, Array]:
    """Return lines (z, x) whose least is an upper bound everywhere: heights, slopes, and gaps.

    Parameters
    ----------
    problem : ConcaveProblem
    y : array (z, x)
        Feasible choices, the better the narrower.
    bottom, top : array (z, x)
        Ends of the feasible ones.
    start : array (z, x)
        A value to start from.
    """
    nodes, weights = problem.nodes, problem.weights
    reward, slopes, dy = problem.expansion(nodes, y)
    marginal = weights @ slopes
    k, t = _matched(problem, marginal, dy, bottom, top)
    mixed = interpolated(marginal, k, t)
    left = dy + mixed
    low, high = problem.interval
    gap = jnp.maximum(jnp.maximum(left * (high - y), left * (low - y)), 0.0)
    across = (jnp.abs(dy) + jnp.abs(mixed) + jnp.abs(slopes)) * (nodes[-1] - nodes[0])
    rounding = UNITS * (across + jnp.abs(reward))
    constant = reward + gap + mixed * y - interpolated(weights @ (slopes * nodes), k, t)
    lines, residual = evaluate(problem, k, t, constant, start)
    rounding = rounding + UNITS * (jnp.max(jnp.abs(lines)) + jnp.max(jnp.abs(slopes * nodes)))
    return lines + shifted(weights, residual + rounding), slopes, gap


def _matched(
    problem: ConcaveProblem, marginal: Array, dy: Array, bottom: Array, top: Array
) -> tuple[Array, Array]:
    """Return where the marginal value is what the choice costs; any place is valid.

    By the ends of the choices that bind the place stays by the choice.
    """
    nodes = problem.nodes
    falling = lax.cummin(marginal, axis=1)

    def find(q: Array, wanted: Array) -> Array:
        return jnp.searchsorted(-q, wanted, side="right").astype(jnp.int32)

    k = jnp.clip(jax.vmap(find)(falling, dy) - 1, 0, nodes.shape[0] - 2)
    here, there = at(marginal, k), at(marginal, k + 1)
    drop = here - there
    t = jnp.where(drop > 0, (here + dy) / jnp.where(drop > 0, drop, 1.0), 0.5)
    place = nodes[k] + jnp.clip(t, 0.0, 1.0) * (nodes[k + 1] - nodes[k])
    k, t = locate(nodes, jnp.clip(place, bottom, jnp.maximum(bottom, top)))
    return k, jnp.clip(t, 0.0, 1.0)


def least_line(nodes: Array, lines: Array, slopes: Array, x: Array) -> Array:
    """Return the least of all lines (z, x) at places (z, n)."""

    def look(x: Array) -> Array:
        return jnp.min(lines + slopes * (x[:, None] - nodes), 1)

    found: Array = lax.map(look, x.T, batch_size=64)
    return found.T


def between(
    nodes: Array, lower: Array, upper: Array, lines: Array, slopes: Array
) -> tuple[Array, Array]:
    """Return the largest width and the largest error of the middle, over the whole continuum.

    In a cell the upper bound is the lesser of its two ends' lines, which is concave, and what is
    subtracted is linear: the largest difference is at an end or where the lines cross.
    """
    step = jnp.diff(nodes)
    falls = slopes[:, :-1] - slopes[:, 1:]
    place = (lines[:, 1:] - lines[:, :-1] - slopes[:, 1:] * step) / jnp.where(falls == 0, 1, falls)
    place = jnp.where(falls == 0, step / 2, jnp.clip(place, 0.0, step))
    crossing = jnp.minimum(
        lines[:, :-1] + slopes[:, :-1] * place, lines[:, 1:] - slopes[:, 1:] * (step - place)
    )
    # The upper bound of a cell at its ends, by the cell's own lines.
    left = jnp.minimum(lines[:, :-1], lines[:, 1:] - slopes[:, 1:] * step)
    right = jnp.minimum(lines[:, 1:], lines[:, :-1] + slopes[:, :-1] * step)
    share = place / step

    def above(base: Array) -> Array:
        inside = crossing - ((1.0 - share) * base[:, :-1] + share * base[:, 1:])
        at_ends = jnp.maximum(left - base[:, :-1], right - base[:, 1:])
        return jnp.max(jnp.maximum(inside, at_ends))

    middle = (lower + upper) / 2
    below = jnp.max(middle - lower)
    rounding = 8 * EPS * jnp.max(jnp.abs(upper))
    return above(lower) + rounding, jnp.maximum(above(middle), below) + rounding


def bounds(
    problem: ConcaveProblem, y: Array, bottom: Array, top: Array, ours: Array | None = None
) -> ContinuumBounds:
    """Bound the true value by a policy.

    Parameters
    ----------
    problem : ConcaveProblem
    y : array (z, x)
        The policy that the lower bound is of.
    bottom, top : array (z, x)
        Ends of the feasible choices.
    ours : array (z, x), optional
        The policy that the upper bound is made with, if another.
    """
    lower = lower_bound(problem, y)
    ours = y if ours is None else ours
    lines, slopes, gap = upper_bound(problem, ours, bottom, top, lower)
    upper = jnp.minimum(
        lines, least_line(problem.nodes, lines, slopes, jnp.broadcast_to(problem.nodes, y.shape))
    )
    width, error = between(problem.nodes, lower, upper, lines, slopes)
    return ContinuumBounds(lower, upper, lines, slopes, width, error, gap)


def narrowest(
    problem: ConcaveProblem,
    policies: Array,
    bottom: Array,
    top: Array,
    given: Array | None = None,
) -> tuple[Array, ContinuumBounds]:
    """Bound the true value by each of some policies (n, z, x); return that of the narrower bounds.

    The lower bound is of that policy, or of one that was given.
    """
    found = lax.map(
        lambda ours: bounds(problem, ours if given is None else given, bottom, top, ours), policies
    )
    best = jnp.argmin(jnp.where(jnp.isnan(found.width), jnp.inf, found.width))
    return policies[best], jax.tree.map(lambda x: x[best], found)


def optimal_choices(
    problem: ConcaveProblem, y: Array, bottom: Array, top: Array, found: ContinuumBounds
) -> tuple[Array, Array]:
    """Return an interval (z, x) that holds the optimal choice at each node.

    That is where the reward and the upper bound of what follows reach the lower bound: a convex
    set, which holds a policy that the lower bound is of. The upper bound is that of two lines.
    """
    nodes, weights = problem.nodes, problem.weights
    slack = 8 * UNITS * jnp.max(jnp.abs(found.upper))

    def reaches(choice: Array) -> Array:
        i, _ = locate(nodes, choice)
        lines = [
            found.lines[:, j] + found.slopes[:, j] * (choice - nodes[j]) for j in (i, i + 1)
        ]  # (z', z, x)
        after = jnp.einsum("ij,jix->ix", weights, jnp.minimum(*lines))
        return problem.reward(nodes, choice) + after >= found.lower - slack

    def towards(end: Array) -> Array:
        def halve(_: int, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            inside, outside = pair
            middle = (inside + outside) / 2
            reached = reaches(middle)
            return jnp.where(reached, middle, inside), jnp.where(reached, outside, middle)

        _, outside = lax.fori_loop(0, HALVINGS, halve, (y, end))
        return jnp.where(reaches(end), end, outside)

    low, high = lax.map(towards, jnp.stack([bottom, top]))
    return low, high
