r"""Bounds on the true value over a whole continuum, from any policy: two linear systems.

Nodes :math:`x_i` and a feasible policy :math:`y_i(z)`, with the next state
:math:`f = A x + B y + c` affine for each draw, and the reward jointly concave, so that
:math:`v^*(\cdot, z)` is concave.

*Lower: weights that match the position.* With :math:`a_{ik} \ge 0` that sum to one and
:math:`\sum_k a_{ik} x_k = f(x_i, y_i, w)`, solve :math:`l_i = F_i + D E_w \sum_k a_{ik} l_k`.
Concavity gives :math:`\sum_k a_{ik} v^*(x_k) \le v^*(f)`, so that :math:`T_y v^* \le v^*` on the
nodes, and :math:`l \le v^*` there; between them the interpolation of `l` is below :math:`v^*`, by
concavity again. The policy need not be optimal.

*Upper: weights that match the marginal value.* Let :math:`p_i` be any slopes, :math:`q = D p`,
:math:`b_{ik} \ge 0` any weights that sum to one, :math:`h \ge 0` what is left to the ends of the
intervals, which are concave, and :math:`\mu \ge 0` any multipliers. The function

.. math::
    H(x, y) = F + \mu h + D E_w \sum_k b_{ik} \bigl[u_k + p_k (f(x, y, w) - x_k)\bigr]

is concave in :math:`(x, y)`. With :math:`g = H_y` and :math:`r = H_x - p_i` at :math:`(x_i, y_i)`,

.. math::
    u_i = H(x_i, y_i) + \max_{x, y} \bigl[g (y - y_i) + r (x - x_i)\bigr]

makes line i, :math:`u_i + p_i (x - x_i)`, lie above H over the whole continuum; so
:math:`U = \min_i` of the lines has :math:`TU \le U`, and :math:`U \ge v^*`. Multipliers are what
choices held by an end leave of their slopes (:mod:`.optimum`); weights are those of a shifted
position, where the marginal value is what the choice costs.

Both systems are solved inexactly. If :math:`r + Qv - v \le e` then :math:`v + s` is a bound, with
:math:`s = (I - D)^{-1} \max_x e`, one number for each Markov state: so what the solver leaves, and
what is rounded, is charged.

The nodes' hull is the states' range and the model's Markov chain is taken as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.dense import solve
from dpsolve.solvers.numerics.krylov import bicgstab
from dpsolve.solvers.numerics.tracing import EPS

from .cells import Marginal, corners, lenders
from .euler import Policy, moved_by, moves
from .optimum import Optimum, best, holding, response, substitute
from .problem import ContinuousProblem

UNITS = 16 * EPS
"""What one entry of a sweep may be rounded by, of the terms that it is made of, if few."""

FLAT = 1e-9
"""Slopes that fall at the top of a state that is cut off there, of the steepest, which are none."""

PATIENT = 1e12
"""Sums of discounts beyond which rounding hides whether they end."""

CLOSE = 1e-13
"""Residual, of the value, at which a linear system is taken for solved."""

KRYLOV = 2_000  # iterations at most; what they leave is charged to the bounds
MATCHINGS, SAME = 3, 1e-11
"""How often weights and slopes of the upper bound are found by each other, at most, and the change
of a slope that is none."""


class Places(NamedTuple):
    """Where next states are read: nodes (z, n, w, 2**d) and their weights, chances included."""

    node: Array
    weight: Array

    def mix(self, values: Array) -> Array:
        """Return the mixtures (z, n, ...) of what values (z, n, ...) hold at the nodes."""
        z = jnp.arange(values.shape[0])[:, None, None, None]
        read = values[z, self.node]
        weight = self.weight.reshape(*self.weight.shape, *(1,) * (values.ndim - 2))
        return jnp.sum(read * weight, (2, 3))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lines:
    """An upper bound: the least of affine functions, one for each node.

    Attributes
    ----------
    height : array (z, n)
        ``height[i] + slope[i] @ (x - nodes[i])`` is an upper bound at every x.
    slope : array (z, n, d)
    gap : array (z, n)
        What the Euler equation's residual adds, at each node.
    """

    height: Array
    slope: Array
    gap: Array


def places_of(problem: ContinuousProblem, y: Array) -> Places:
    """Return where the next states of a policy (z, n, m) are read."""

    def one(x: Array, z: Array, y: Array) -> tuple[Array, Array]:
        index, weight = jax.vmap(lambda at: corners(problem.grids, at))(problem.following(x, y, z))
        return index, weight * problem.chances(z)[:, None]

    return Places(*problem.each(one, y))


def evaluate(weights: Array, places: Places, reward: Array, start: Array) -> tuple[Array, Array]:
    """Solve ``v = reward + D E v`` at places, to rounding; return v (z, n) and its residual."""

    def apply(v: Array) -> Array:
        return places.mix(weights @ v)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, v, left = carry
        residual = reward + apply(v) - v
        wanted = CLOSE / 2 * jnp.maximum(left, jnp.max(jnp.abs(v)))
        more, _ = bicgstab(apply, residual, jnp.zeros_like(v), wanted, jnp.int32(KRYLOV))
        better = v + more
        now = jnp.max(jnp.abs(reward + apply(better) - better))
        gained = now < left
        return k + 1, jnp.where(gained, better, v), jnp.where(gained, now, 0.0)

    def proceed(carry: tuple[Array, Array, Array]) -> Array:
        k, v, left = carry
        return (k < 8) & (left > CLOSE * jnp.max(jnp.abs(v)))

    first = jnp.max(jnp.abs(reward + apply(start) - start))
    _, v, _ = lax.while_loop(proceed, step, (jnp.int32(0), start, first))
    return v, reward + apply(v) - v


def units(problem: ContinuousProblem) -> Array:
    """Return what one entry of a sweep may be rounded by: a unit for each term that is summed."""
    draws = jax.eval_shape(problem.chances, jnp.int32(0)).size
    return jnp.asarray(UNITS + EPS * (problem.shape[0] + draws * 2 ** len(problem.states)))


def contracts(weights: Array) -> Array:
    """Tell whether the spectral radius of discounts (z, z') is below 1.

    That of entries that are not negative is, where a positive s has ``D s < s``.
    """
    s = solve(jnp.eye(weights.shape[0]) - weights, jnp.ones(weights.shape[0]))
    falls = (s - weights @ s > 0.5) & (s > 0.0) & (s < PATIENT)  # it is 1, but for rounding
    found: Array = (weights >= 0.0).all() & falls.all()
    return found


def shifted(weights: Array, excess: Array) -> Array:
    """Return what residuals (z, n) of at most `excess` add to a bound: a number (z, 1) each.

    No number where discounts do not contract.
    """
    most = jnp.maximum(jnp.max(jnp.where(jnp.isnan(excess), jnp.inf, excess), 1), 0.0)
    own = jnp.eye(weights.shape[0])
    found = solve(own - weights, most * (1.0 + 1e-9))
    return jnp.where(contracts(weights), found, jnp.nan)[:, None]


# -- below ----------------------------------------------------------------------------------------


def lower_step(
    problem: ContinuousProblem, y: Array, after: Array, dead: Array | bool = False
) -> Array:
    """Return a lower bound (z, n) of one period, from that of the next, with rounding charged.

    It is -inf at `dead` nodes (z, n). Where that of the next period is, only they lead.
    """
    reward, after = _rewards(problem, y), jnp.where(jnp.isneginf(after), 0.0, after)
    value = reward + places_of(problem, y).mix(problem.weights @ after)
    value = value - units(problem) * (jnp.abs(reward) + jnp.max(jnp.abs(after)))
    return jnp.where(dead, -jnp.inf, value)


def lower_bound(problem: ContinuousProblem, y: Array, dead: Array | bool = False) -> Array:
    """Return a lower bound (z, n) on the true value: what a policy is worth on chords.

    It is -inf at `dead` nodes (z, n), to which no others lead.
    """
    reward, places = jnp.where(dead, 0.0, _rewards(problem, y)), places_of(problem, y)
    level = solve(jnp.eye(problem.shape[0]) - problem.weights, jnp.mean(reward, 1))[:, None]
    start = jnp.where(jnp.isfinite(level), level, 0.0) + jnp.zeros_like(reward)
    value, residual = evaluate(problem.weights, places, reward, start)
    rounding = units(problem) * (jnp.abs(reward) + jnp.max(jnp.abs(value)))
    excess = jnp.where(dead, 0.0, rounding - residual)
    return jnp.where(dead, -jnp.inf, value - shifted(problem.weights, excess))


def _rewards(problem: ContinuousProblem, y: Array) -> Array:
    def one(x: Array, z: Array, y: Array) -> Array:
        return jnp.where(problem.feasible(x, y, z), problem.reward(x, y, z), -jnp.inf)

    found: Array = problem.each(one, y)
    return found


# -- above ----------------------------------------------------------------------------------------


class _Expansion(NamedTuple):
    """What a line is made of, at each node; see the module.

    Attributes
    ----------
    reward : array (z, n)
        With the multipliers' terms.
    slope : array (z, n, d)
        That the line had best have.
    gap, rounding : array (z, n)
    """

    reward: Array
    slope: Array
    gap: Array
    rounding: Array


def matched(problem: ContinuousProblem, y: Array, p: Array) -> Places:
    """Return where the marginal value is what the choice costs; any place is valid.

    By an end of its interval that holds it, the place stays by the choice.
    """
    after = Marginal.linear(problem, p)

    def one(x: Array, z: Array, y: Array) -> tuple[Array, Array]:
        cost = jax.grad(problem.reward, 1)(x, y, z)
        _, by_y = moves(problem, x, z, y)
        chances = problem.chances(z)

        def slopes(place: Array) -> tuple[Array, Array]:
            marginal = after.at(problem.grids, z, problem.following(x, place, z))
            slope = jnp.einsum("w,wd,wdm->m", chances, marginal, by_y)
            return cost + slope, jnp.zeros_like(x)

        at = best(problem, x, z, slopes, lambda _: jnp.asarray(True), y)
        # Where nothing can be matched, the place is the policy's.
        place = jnp.where(jnp.isfinite(at.y), at.y, y)
        index, weight = jax.vmap(lambda to: corners(problem.grids, to))(
            problem.following(x, place, z)
        )
        return index, weight * chances[:, None]

    return Places(*problem.each(one, y))


def _expand(
    problem: ContinuousProblem, y: Array, p: Array, after: Array, places: Places
) -> _Expansion:
    """Expand reward and lines around a policy, with the line's own slopes `p`.

    Parameters
    ----------
    p : array (z, n, d)
        Slopes that the lines have.
    after : array (z, n, d)
        Those of the next period's lines.
    """
    marginal = problem.weights @ jnp.moveaxis(after, -1, 0)  # (d, z, n)
    bottom, top = problem.box
    low, high = choice_box(problem, y)

    def one(x: Array, z: Array, y: Array, p: Array, index: Array, weight: Array
            ) -> tuple[Array, Array, Array, Array]:  # fmt: skip
        # Weights of a draw hold its chance.
        read = marginal[:, z, index]
        pull = jnp.einsum("wk,dwk->wd", weight, read)
        pulls = jnp.einsum("wk,dwk->wd", weight, jnp.abs(read))
        there = jnp.abs(problem.following(x, y, z)) + jnp.maximum(jnp.abs(bottom), jnp.abs(top))

        def total(x: Array, y: Array) -> Array:
            return problem.reward(x, y, z) + jnp.sum(pull * problem.following(x, y, z))

        own_x, own_y = jax.grad(problem.reward, (0, 1))(x, y, z)
        by_x, by_y = jax.grad(total, (0, 1))(x, y)
        at_low, at_high = holding(problem, x, z, y)
        at = Optimum(y, by_y, by_x, jnp.zeros(y.size, jnp.int32), jnp.asarray(True))
        slack = jnp.zeros(())
        for j in reversed(range(y.size)):
            slope = at.slope_y[j]
            held = jnp.where(at_high[j] & (slope > 0), 1, jnp.where(at_low[j] & (slope < 0), -1, 0))
            ends = problem.ends(j, x, y, z)
            room = jnp.where(held > 0, ends[1] - y[j], jnp.where(held < 0, y[j] - ends[0], 0.0))
            slack = slack + jnp.where(held != 0, jnp.abs(slope) * room, 0.0)
            at = substitute(problem, j, x, z, at, held)
        along, _ = response(problem, x, z, y, at.held, *moves(problem, x, z, y))
        wanted = by_x + moved_by(along, by_y)
        left_y, left_x = at.slope_y, at.slope_x - p
        gap = jnp.sum(jnp.maximum(left_y * (high[z] - y), left_y * (low[z] - y)))
        gap = gap + jnp.sum(jnp.maximum(left_x * (top - x), left_x * (bottom - x)))
        spread = jnp.abs(own_y) + jnp.abs(by_y - own_y)
        across = jnp.sum(spread * (high[z] - low[z]))
        across = across + jnp.sum(
            (jnp.abs(own_x) + jnp.abs(by_x - own_x) + jnp.abs(p)) * (top - bottom)
        )
        reward = problem.reward(x, y, z)
        across = across + jnp.sum(pulls * there)
        rounding = units(problem) * (across + jnp.abs(reward) + jnp.abs(slack))
        return reward + slack, wanted, jnp.maximum(gap, 0.0), rounding

    return _Expansion(*problem.each(one, y, p, places.node, places.weight))


def choice_box(problem: ContinuousProblem, y: Array) -> tuple[Array, Array]:
    """Return numbers (z, m) that no feasible choice lies below or above, whatever the state.

    An upper end is concave, so it lies below its tangent plane at any node's state and choice;
    the least of what these reach over the box is a bound.
    """
    bottom, top = problem.box
    low: list[Array] = []
    high: list[Array] = []
    for j in range(len(problem.choices)):
        below, above = jnp.stack(low, -1) if low else None, jnp.stack(high, -1) if high else None

        def reach(x: Array, z: Array, y: Array, j: int = j, below: Array | None = below,
                  above: Array | None = above) -> tuple[Array, Array]:  # fmt: skip
            found = []
            for k, sign in ((0, -1.0), (1, 1.0)):
                end = problem.ends(j, x, y, z)[k]
                by_x, by_y = jax.jacfwd(
                    lambda x, y, k=k: problem.ends(j, x, y, z)[k], (0, 1)
                )(x, y)  # fmt: skip
                by_x, by_y = sign * by_x, sign * by_y
                most = sign * end + jnp.sum(jnp.maximum(by_x * (top - x), by_x * (bottom - x)))
                for i in range(j):
                    assert below is not None
                    assert above is not None
                    most = most + jnp.maximum(
                        by_y[i] * (above[z, i] - y[i]), by_y[i] * (below[z, i] - y[i])
                    )
                found.append(sign * most)
            return found[0], found[1]

        least, greatest = problem.each(reach, y)
        low.append(jnp.max(jnp.where(jnp.isfinite(least), least, -jnp.inf), 1))
        high.append(jnp.min(jnp.where(jnp.isfinite(greatest), greatest, jnp.inf), 1))
    return jnp.stack(low, -1), jnp.stack(high, -1)


def borrowed(problem: ContinuousProblem, height: Array, slope: Array, usable: Array) -> Lines:
    """Give every node a line: its own, or its lender's."""
    lender = lenders(problem, usable)
    there = slope[:, lender]
    away = problem.nodes - problem.nodes[lender]
    return Lines(height[:, lender] + jnp.sum(there * away, -1), there, jnp.zeros_like(height))


def upper_step(problem: ContinuousProblem, policy: Policy, after: Lines) -> Lines:
    """Return the lines of one period, from those of the next."""
    places = matched(problem, policy.y, after.slope)
    first = _expand(problem, policy.y, policy.p, after.slope, places)
    slope = _level(problem, first.slope)
    found = _expand(problem, policy.y, slope, after.slope, places)
    height = _constant(problem, policy.y, found, after.slope, places)
    height = height + places.mix(problem.weights @ after.height)
    height = height + units(problem) * jnp.max(jnp.abs(after.height))
    usable = (jnp.isfinite(height) & jnp.isfinite(slope).all(-1)).all(0)
    lines = borrowed(problem, height, slope, usable)
    return Lines(lines.height, lines.slope, found.gap)


def _constant(
    problem: ContinuousProblem, y: Array, at: _Expansion, after: Array, places: Places
) -> Array:
    """Return what a line's height is made of but for the heights of the next period's."""
    marginal = problem.weights @ jnp.moveaxis(after, -1, 0)
    level = problem.weights @ jnp.sum(after * problem.nodes, -1)

    def one(x: Array, z: Array, y: Array, index: Array, weight: Array) -> Array:
        there = problem.following(x, y, z)  # (w, d)
        moved = jnp.einsum("dwk,wd->wk", marginal[:, z, index], there)
        return jnp.sum(weight * (moved - level[z, index]))

    found: Array = problem.each(one, y, places.node, places.weight)
    return at.reward + at.gap + at.rounding + found


def upper_bound(problem: ContinuousProblem, policy: Policy, start: Array) -> Lines:
    """Return lines whose least is an upper bound on the true value, everywhere.

    Parameters
    ----------
    problem : ContinuousProblem
    policy : Policy
        Feasible choices, the better the narrower, and slopes to begin with.
    start : array (z, n)
        A value to start from.
    """
    y = policy.y
    usable = _has_plane(problem, y)
    lender = lenders(problem, usable)

    def match(carry: tuple[Array, Array, Places, Array]) -> tuple[Array, Array, Places, Array]:
        k, p, _, _ = carry
        p = p[:, lender]
        places = matched(problem, y, p)
        places = Places(lender[places.node], places.weight)
        better = _consistent(problem, y, p, places)
        better = _level(problem, jnp.where(usable[:, None], better, p))
        change = jnp.max(jnp.abs(better - p) / (1e-300 + jnp.abs(p)))
        done = (k >= MATCHINGS) | (change <= SAME)
        return k + 1, jnp.where(done, p, better), places, done

    empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: places_of(problem, y)))
    carry = (jnp.int32(0), policy.p, empty, jnp.asarray(False))
    _, p, places, _ = lax.while_loop(lambda carry: ~carry[3], match, carry)
    found = _expand(problem, y, p, p, places)
    constant = jnp.where(usable, _constant(problem, y, found, p, places), 0.0)
    height, residual = evaluate(problem.weights, places, constant, start)
    charge = jnp.where(usable, residual + units(problem) * jnp.max(jnp.abs(height)), 0.0)
    lines = borrowed(problem, height + shifted(problem.weights, charge), p, usable)
    return Lines(lines.height, lines.slope, found.gap)


def _has_plane(problem: ContinuousProblem, y: Array) -> Array:
    """Tell at which nodes (n,) reward and ends that hold have a tangent plane, for all members."""

    def one(x: Array, z: Array, y: Array) -> Array:
        reward, slopes = jax.value_and_grad(problem.reward, (0, 1))(x, y, z)
        fine = jnp.isfinite(reward) & jnp.isfinite(jnp.concatenate(slopes)).all()
        for j, holds in enumerate(zip(*holding(problem, x, z, y), strict=True)):
            for k in (0, 1):
                ends = jax.jacfwd(lambda x, y, j=j, k=k: problem.ends(j, x, y, z)[k], (0, 1))(x, y)
                fine = fine & (~holds[k] | jnp.isfinite(jnp.concatenate(ends)).all())
        return fine

    found: Array = problem.each(one, y).all(0)
    return found


def _consistent(problem: ContinuousProblem, y: Array, p: Array, places: Places) -> Array:
    """Return slopes (z, n, d) that are what lines with these slopes want, at given places.

    That is a linear system, and trivial where the next states do not move with the state.
    """

    def wanted(p: Array) -> Array:
        return _expand(problem, y, p, p, places).slope

    first, change = jax.linearize(wanted, p)
    size = jnp.abs(first) + 1e-9 * jnp.max(jnp.abs(jnp.where(jnp.isfinite(first), first, 0.0)))

    def relative(e: Array) -> Array:
        moved = change(e * size) / size
        return jnp.where(jnp.isfinite(moved), moved, 0.0)

    gap = (first - p) / size
    gap = jnp.where(jnp.isfinite(gap), gap, 0.0)
    e, _ = bicgstab(relative, gap, gap, 1e-13 * jnp.max(jnp.abs(gap)), jnp.int32(200))
    return jnp.where(jnp.isfinite(first), p + e * size, first)


def least(problem: ContinuousProblem, lines: Lines, z: Array, x: Array) -> Array:
    """Return the least of all lines of one member of the chain, at one place (d,)."""
    return jnp.min(lines.height[z] + jnp.sum(lines.slope[z] * (x - problem.nodes), -1))


def free_disposal(problem: ContinuousProblem, lines: Lines) -> Array:
    """Tell whether no line falls in a state that is cut off at its top.

    To cut a state off is to dispose of what is above, which costs nothing where the value rises;
    where it falls, the value of what is cut off is not concave. A line goes on beyond the top,
    whichever node it is of, and bounds what is there if it rises.
    """
    return ~jnp.any(problem.clips & (lines.slope < 0.0))


def _level(problem: ContinuousProblem, p: Array) -> Array:
    """Return slopes (z, n, d), level where they fall by rounding in a state that is cut off."""
    size = jnp.max(jnp.abs(jnp.where(jnp.isfinite(p), p, 0.0)))
    return jnp.where(problem.clips & (p < 0.0) & (p >= -FLAT * size), 0.0, p)


def tightened(problem: ContinuousProblem, lines: Lines, most: int = 8_192) -> Array:
    """Return the upper bound (z, n) at the nodes: the least of all lines there."""
    if problem.shape[1] > most:
        return lines.height
    axes = problem.nodes.T

    def lower(i: Array, least: Array) -> Array:
        there = lines.height[:, i, None]
        for k, x in enumerate(axes):  # node by node side by side, which a CPU does at once
            there = there + lines.slope[:, i, k, None] * (x - x[i])
        return jnp.minimum(least, there)

    found: Array = lax.fori_loop(0, problem.shape[1], lower, lines.height)
    return found
