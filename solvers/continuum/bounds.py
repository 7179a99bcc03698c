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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.dense import solve
from dpsolve.solvers.numerics.krylov import bicgstab
from dpsolve.solvers.numerics.small_programs import entries
from dpsolve.solvers.numerics.tracing import EPS

from .cells import Marginal, corners, lenders
from .euler import Policy, moved_by
from .optimum import NEAR, Edge, Optimum, Slopes, best, edges, holding, response, substitute
from .problem import ContinuousProblem, pays

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
        read = entries(values, z, self.node)
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


class Local(NamedTuple):
    """What the model's functions are at a policy, arrays (z, n, ...).

    Attributes
    ----------
    y : array (m,)
        The choices.
    reward, by_x, by_y : float, array (d,), array (m,)
        The reward, and its slopes.
    there, there_x, there_y : array (w, d), (w, d, d), (w, d, m)
        The next states, and their derivatives.
    chances : array (w,)
    ends : Edge of each choice
    feasible : bool
    """

    y: Array
    reward: Array
    by_x: Array
    by_y: Array
    there: Array
    there_x: Array
    there_y: Array
    chances: Array
    ends: tuple[Edge, ...]
    feasible: Array


def local(problem: ContinuousProblem, y: Array) -> Local:
    """Evaluate the model's functions at a policy (z, n, m): once, for both bounds."""

    def one(x: Array, z: Array, y: Array) -> Local:
        def following(x: Array, y: Array) -> tuple[Array, Array]:
            there = problem.following(x, y, z)
            return there, there

        reward, (by_x, by_y) = jax.value_and_grad(problem.reward, (0, 1))(x, y, z)
        (there_x, there_y), there = jax.jacfwd(following, (0, 1), has_aux=True)(x, y)
        feasible = problem.allowed(x, y, z, there) & pays(reward)
        chances, ends = problem.chances(z), tuple(edges(problem, x, z, y))
        return Local(y, reward, by_x, by_y, there, there_x, there_y, chances, ends, feasible)

    found: Local = problem.each(one, y)
    return found


def places_at(problem: ContinuousProblem, there: Array, chances: Array) -> Places:
    """Return where next states (z, n, w, d) are read."""
    index, weight = _each_place(problem, there)
    return Places(index, weight * chances[..., None])


def places_of(problem: ContinuousProblem, y: Array) -> Places:
    """Return where the next states of a policy (z, n, m) are read."""

    def one(x: Array, z: Array, y: Array) -> tuple[Array, Array]:
        return problem.following(x, y, z), problem.chances(z)

    return places_at(problem, *problem.each(one, y))


def _each_place(problem: ContinuousProblem, there: Array) -> tuple[Array, Array]:
    """Return the nodes beside places (..., d), and their weights."""
    flat = there.reshape(-1, there.shape[-1])
    index, weight = jax.vmap(lambda place: corners(problem.grids, place))(flat)
    shape = (*there.shape[:-1], index.shape[-1])
    return index.reshape(shape), weight.reshape(shape)


System = tuple[Places, Array]
"""Places and rewards (z, n) of a policy."""


def evaluate(weights: Array, systems: Sequence[System], start: Array) -> list[tuple[Array, Array]]:
    """Solve systems ``v = reward + D E v``, to rounding; return each v (z, n) and its residual.

    One after the other, each from what was found of the one before, so that all have one loop.
    """

    def one(start: Array, system: System) -> tuple[Array, tuple[Array, Array]]:
        places, reward = system

        def apply(v: Array) -> Array:
            return places.mix(weights @ v)

        def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            k, v, residual, left = carry
            wanted = CLOSE / 2 * jnp.maximum(left, jnp.max(jnp.abs(v)))
            more, _ = bicgstab(apply, residual, None, wanted, jnp.int32(KRYLOV))
            better = v + more
            after = reward + apply(better) - better
            now = jnp.max(jnp.abs(after))
            gained = now < left
            v, residual = (jnp.where(gained, *pair) for pair in ((better, v), (after, residual)))
            return k + 1, v, residual, jnp.where(gained, now, 0.0)

        def proceed(carry: tuple[Any, ...]) -> Array:
            k, v, _, left = carry
            more: Array = (k < 8) & (left > CLOSE * jnp.max(jnp.abs(v)))
            return more

        first = reward + apply(start) - start
        begin = (jnp.int32(0), start, first, jnp.max(jnp.abs(first)))
        _, v, residual, _ = lax.while_loop(proceed, step, begin)
        return v, (v, residual)

    if len(systems) == 1:
        return [one(start, systems[0])[1]]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *systems)
    _, (values, residuals) = lax.scan(one, start, stacked)
    return list(zip(values, residuals, strict=True))


def units(problem: ContinuousProblem) -> Array:
    """Return what one entry of a sweep may be rounded by: a unit for each term that is summed."""
    draws = jax.eval_shape(problem.chances, jnp.int32(0)).size
    return jnp.asarray(UNITS + EPS * (problem.shape[0] + draws * 2 ** len(problem.states)))


def resolvent(weights: Array) -> Array:
    """Return the inverse (z, z') of one less the discounts."""
    own = jnp.eye(weights.shape[0])
    return solve(own - weights, own)


def contracts(weights: Array, inverse: Array | None = None) -> Array:
    """Tell whether the spectral radius of discounts (z, z') is below 1.

    That of entries that are not negative is, where a positive s has ``D s < s``.
    """
    s = jnp.sum(resolvent(weights) if inverse is None else inverse, 1)
    falls = (s - weights @ s > 0.5) & (s > 0.0) & (s < PATIENT)  # it is 1, but for rounding
    found: Array = (weights >= 0.0).all() & falls.all()
    return found


def shifted(weights: Array, excess: Array, inverse: Array | None = None) -> Array:
    """Return what residuals (z, n) of at most `excess` add to a bound: a number (z, 1) each.

    No number where discounts do not contract.
    """
    most = jnp.maximum(jnp.max(jnp.where(jnp.isnan(excess), jnp.inf, excess), 1), 0.0)
    inverse = resolvent(weights) if inverse is None else inverse
    # The inverse is rounded by so much, of its size.
    rounding = 1e-9 + UNITS * jnp.max(jnp.sum(jnp.abs(inverse), 1))
    found = inverse @ (most * (1.0 + rounding))
    return jnp.where(contracts(weights, inverse), found, jnp.nan)[:, None]


# -- below ----------------------------------------------------------------------------------------


def lower_step(
    problem: ContinuousProblem, y: Array, after: Array, dead: Array | bool = False
) -> Array:
    """Return a lower bound (z, n) of one period, from that of the next, with rounding charged.

    It is -inf at `dead` nodes (z, n). Where that of the next period is, only they lead.
    """
    (places, reward), after = _policy_system(problem, y), jnp.where(jnp.isneginf(after), 0.0, after)
    value = reward + places.mix(problem.weights @ after)
    value = value - units(problem) * (jnp.abs(reward) + jnp.max(jnp.abs(after)))
    return jnp.where(dead, -jnp.inf, value)


def _policy_system(problem: ContinuousProblem, y: Array) -> System:
    """Return what a policy (z, n, m) is worth on chords, as a linear system."""

    def one(x: Array, z: Array, y: Array) -> tuple[Array, Array, Array]:
        there, reward = problem.following(x, y, z), problem.reward(x, y, z)
        feasible = problem.allowed(x, y, z, there) & pays(reward)
        return there, problem.chances(z), jnp.where(feasible, reward, -jnp.inf)

    there, chances, reward = problem.each(one, y)
    return places_at(problem, there, chances), reward


Kept = tuple[Array, Array | bool]
"""A policy (z, n, m), and its dead nodes (z, n), to which no others lead."""


def bounds_for_ever(
    problem: ContinuousProblem, policy: Policy, kept: Sequence[Kept], inverse: Array
) -> tuple[list[Array], Lines]:
    """Return bounds on the true value without a horizon.

    Parameters
    ----------
    problem : ContinuousProblem
    policy : Policy
        Feasible choices, the better the narrower, and slopes for the upper bound to begin with.
    kept : list of Kept
        Policies for lower bounds.
    inverse : array (z, z')
        See :func:`resolvent`.

    Returns
    -------
    lower : list of array (z, n)
        What each policy is worth on chords; -inf at its dead nodes.
    lines : Lines
        Their least is an upper bound, everywhere.
    """
    weights = problem.weights
    below: list[System] = []
    for y, dead in kept:
        places, reward = _policy_system(problem, y)
        below.append((places, jnp.where(dead, 0.0, reward)))
    above = _lines_system(problem, local(problem, policy.y), policy.p)
    level = (inverse @ jnp.mean(below[0][1], 1))[:, None]
    start = jnp.where(jnp.isfinite(level), level, 0.0) + jnp.zeros(problem.shape)
    *lower, upper = evaluate(weights, [*below, above.system], start)

    def charged(system: System, found: tuple[Array, Array], dead: Array | bool) -> Array:
        value, residual = found
        rounding = units(problem) * (jnp.abs(system[1]) + jnp.max(jnp.abs(value)))
        excess = jnp.where(dead, 0.0, rounding - residual)
        return jnp.where(dead, -jnp.inf, value - shifted(weights, excess, inverse))

    parts = zip(below, lower, kept, strict=True)
    found = [charged(system, own, dead) for system, own, (_, dead) in parts]
    height, residual = upper
    charge = residual + units(problem) * jnp.max(jnp.abs(height))
    charge = jnp.where(above.usable, charge, 0.0)
    height = height + shifted(weights, charge, inverse)
    lines = borrowed(problem, height, above.slope, above.usable)
    return found, Lines(lines.height, lines.slope, above.gap)


# -- above ----------------------------------------------------------------------------------------


class _Expansion(NamedTuple):
    """What a line is made of, at each node; see the module.

    Attributes
    ----------
    reward : array (z, n)
        With the multipliers' terms.
    slope : array (z, n, d)
        That the line had best have.
    turn : array (z, n, w, d, d)
        How it moves with the marginal values where next states are read.
    own_x : array (z, n, d)
        That of the reward and of what follows, with what is held by an end substituted.
    gap, terms : array (z, n)
        What free choices leave of their slopes, and the size of all terms, but for the line's own.
    """

    reward: Array
    slope: Array
    turn: Array
    own_x: Array
    gap: Array
    terms: Array

    def priced(self, problem: ContinuousProblem, p: Array) -> tuple[Array, Array]:
        """Return the gap and the rounding (z, n) of lines with slopes `p` (z, n, d)."""
        bottom, top = problem.box
        left, x = self.own_x - p, problem.nodes
        gap = self.gap + jnp.sum(jnp.maximum(left * (top - x), left * (bottom - x)), -1)
        terms = self.terms + jnp.sum(jnp.abs(p) * (top - bottom), -1)
        return jnp.maximum(gap, 0.0), units(problem) * terms


def matched(problem: ContinuousProblem, at: Local, p: Array) -> Places:
    """Return where the marginal value is what the choice costs; any place is valid.

    By an end of its interval that holds it, the place stays by the choice.
    """
    after = Marginal.linear(problem, p)

    def one(x: Array, z: Array, at: Local) -> Array:
        def slopes(place: Array) -> Slopes:
            marginal = after.at(problem.grids, z, problem.following(x, place, z))
            slope = jnp.einsum("w,wd,wdm->m", at.chances, marginal, at.there_y)
            return Slopes(at.by_y + slope, jnp.zeros_like(x), jnp.asarray(True))

        place = best(problem, x, z, slopes, at.y).y
        # Where nothing can be matched, the place is the policy's.
        return problem.following(x, jnp.where(jnp.isfinite(place), place, at.y), z)

    return places_at(problem, problem.each(one, at), at.chances)


def _expand(
    problem: ContinuousProblem, at: Local, box: tuple[Array, Array], after: Array, places: Places
) -> _Expansion:
    """Expand reward and lines around a policy.

    Parameters
    ----------
    box : (array (z, m), array (z, m))
        See :func:`choice_box`.
    after : array (z, n, d)
        Slopes of the next period's lines.
    """
    marginal = problem.weights @ jnp.moveaxis(after, -1, 0)  # (d, z, n)
    bottom, top = problem.box
    far = jnp.maximum(jnp.abs(bottom), jnp.abs(top))

    def one(x: Array, z: Array, at: Local, index: Array, weight: Array) -> _Expansion:
        # Weights of a draw hold its chance.
        y = at.y
        low, high = (entries(side, z) for side in box)
        read = jax.vmap(lambda values: entries(values, z, index))(marginal)
        pull = jnp.einsum("wk,dwk->wd", weight, read)
        pulls = jnp.einsum("wk,dwk->wd", weight, jnp.abs(read))
        more_x = jnp.sum(pull[..., None] * at.there_x, (0, 1))
        more_y = jnp.sum(pull[..., None] * at.there_y, (0, 1))
        by_x, by_y = at.by_x + more_x, at.by_y + more_y
        at_low, at_high = holding(at.ends, y)
        best = Optimum(y, by_y, by_x, jnp.zeros(y.size, jnp.int32), jnp.asarray(True))
        slack = jnp.zeros(())
        for j in reversed(range(y.size)):
            slope, ends = best.slope_y[j], at.ends[j]
            held = jnp.where(at_high[j] & (slope > 0), 1, jnp.where(at_low[j] & (slope < 0), -1, 0))
            room = jnp.where(held > 0, ends.at[1] - y[j], y[j] - ends.at[0])
            slack = slack + jnp.where(held != 0, jnp.abs(slope) * room, 0.0)
            best = substitute(j, ends, best, held)
        along, _ = response(at.ends, best.held, at.there_x, at.there_y)
        left = best.slope_y
        gap = jnp.sum(jnp.maximum(left * (high - y), left * (low - y)))
        terms = jnp.sum((jnp.abs(at.by_y) + jnp.abs(more_y)) * (high - low))
        terms = terms + jnp.sum((jnp.abs(at.by_x) + jnp.abs(more_x)) * (top - bottom))
        terms = terms + jnp.sum(pulls * (jnp.abs(at.there) + far))
        return _Expansion(
            at.reward + slack,
            by_x + moved_by(along, by_y),
            at.there_x + at.there_y @ along,
            best.slope_x,
            gap,
            terms + jnp.abs(at.reward) + jnp.abs(slack),
        )

    found: _Expansion = problem.each(one, at, places.node, places.weight)
    return found


def choice_box(problem: ContinuousProblem, at: Local) -> tuple[Array, Array]:
    """Return numbers (z, m) that no feasible choice lies below or above, whatever the state.

    An upper end is concave, so it lies below its tangent plane at any node's state and choice;
    the least of what these reach over the box is a bound.
    """
    bottom, top = problem.box
    x, y = problem.nodes, at.y
    sides: tuple[list[Array], list[Array]] = ([], [])
    for j, own in enumerate(at.ends):
        found = []
        for k, sign in ((0, -1.0), (1, 1.0)):
            by_x, by_y = sign * own.by_x[:, :, k], sign * own.by_y[:, :, k]
            most = jnp.sum(jnp.maximum(by_x * (top - x), by_x * (bottom - x)), -1)
            most = most + sign * own.at[:, :, k]
            for i in range(j):
                low, high = (side[i][:, None] - y[..., i] for side in sides)
                most = most + jnp.maximum(by_y[..., i] * high, by_y[..., i] * low)
            least = jnp.min(jnp.where(jnp.isfinite(most), most, jnp.inf), 1)
            found.append(sign * least)
        for side, end in zip(sides, found, strict=True):
            side.append(end)
    low, high = (jnp.stack(side, -1) for side in sides)
    return low, high


def borrowed(problem: ContinuousProblem, height: Array, slope: Array, usable: Array) -> Lines:
    """Give every node a line: its own, or its lender's."""
    lender = lenders(problem, usable)
    there = slope[:, lender]
    away = problem.nodes - problem.nodes[lender]
    return Lines(height[:, lender] + jnp.sum(there * away, -1), there, jnp.zeros_like(height))


def upper_step(problem: ContinuousProblem, at: Local, after: Lines) -> Lines:
    """Return the lines of one period, from those of the next."""
    places = matched(problem, at, after.slope)
    found = _expand(problem, at, choice_box(problem, at), after.slope, places)
    slope = _level(problem, found.slope)
    gap, rounding = found.priced(problem, slope)
    height = found.reward + gap + rounding + _follows(problem, at, after.slope, places)
    height = height + places.mix(problem.weights @ after.height)
    height = height + units(problem) * jnp.max(jnp.abs(after.height))
    usable = (jnp.isfinite(height) & jnp.isfinite(slope).all(-1)).all(0)
    lines = borrowed(problem, height, slope, usable)
    return Lines(lines.height, lines.slope, gap)


def _follows(problem: ContinuousProblem, at: Local, after: Array, places: Places) -> Array:
    """Return what the next period's lines add to a height but for their own heights."""
    marginal = problem.weights @ jnp.moveaxis(after, -1, 0)  # (d, z, n)
    level = problem.weights @ jnp.sum(after * problem.nodes, -1)
    z = jnp.arange(problem.shape[0])[:, None, None, None]
    read = jax.vmap(lambda values: entries(values, z, places.node))(marginal)
    moved = jnp.sum(read * jnp.moveaxis(at.there, -1, 0)[..., None], 0)  # (z, n, w, k)
    return jnp.sum(places.weight * (moved - entries(level, z, places.node)), (2, 3))


class _Above(NamedTuple):
    """The upper bound's linear system, with the lines' slopes (z, n, d) and gaps (z, n).

    And which nodes (n,) have a line of their own.
    """

    system: System
    slope: Array
    gap: Array
    usable: Array


def _lines_system(problem: ContinuousProblem, at: Local, start: Array) -> _Above:
    """Find weights and slopes of the lines, beginning with slopes `start` (z, n, d)."""
    usable = _has_plane(at)
    lender = lenders(problem, usable)
    box = choice_box(problem, at)

    def match(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        k, p, *_ = carry
        p = p[:, lender]
        places = matched(problem, at, p)
        places = Places(entries(lender, places.node), places.weight)
        found = _expand(problem, at, box, p, places)
        better = _consistent(problem, found, p, places)
        better = _level(problem, jnp.where(usable[:, None], better, p))
        change = jnp.max(jnp.abs(better - p) / (1e-300 + jnp.abs(p)))
        done = (k >= MATCHINGS) | (change <= SAME)
        return k + 1, jnp.where(done, p, better), places, found, done

    (n_z, n), (w, d) = problem.shape, at.there.shape[2:]
    flat, vector = jnp.zeros((n_z, n)), jnp.zeros((n_z, n, d))
    read = jnp.zeros((n_z, n, w, 2**d))
    places = Places(read.astype(jnp.int32), read)
    found = _Expansion(flat, vector, jnp.zeros((n_z, n, w, d, d)), vector, flat, flat)
    begin = (jnp.int32(0), start, places, found, jnp.asarray(False))
    # What was found last was found with the slopes that are kept.
    _, p, places, found, _ = lax.while_loop(lambda carry: ~carry[-1], match, begin)
    gap, rounding = found.priced(problem, p)
    constant = found.reward + gap + rounding + _follows(problem, at, p, places)
    return _Above((places, jnp.where(usable, constant, 0.0)), p, gap, usable)


def _has_plane(at: Local) -> Array:
    """Tell at which nodes (n,) reward and ends that hold have a tangent plane, for all members."""
    slopes = jnp.concatenate([at.by_x, at.by_y], -1)
    fine = jnp.isfinite(at.reward) & jnp.isfinite(slopes).all(-1)
    for j, own in enumerate(at.ends):
        near = NEAR * (1.0 + jnp.abs(own.at).sum(-1))
        ways = jnp.isfinite(jnp.concatenate([own.by_x, own.by_y], -1)).all(-1)
        for k, sign in ((0, 1.0), (1, -1.0)):
            holds = sign * at.y[..., j] <= sign * own.at[..., k] + near
            fine = fine & (~holds | ways[..., k])
    return fine.all(0)


def _consistent(problem: ContinuousProblem, at: _Expansion, p: Array, places: Places) -> Array:
    """Return slopes (z, n, d) that are what lines with these slopes want, at given places.

    That is a linear system, and trivial where the next states do not move with the state.
    """
    first = at.slope
    size = jnp.abs(first) + 1e-9 * jnp.max(jnp.abs(jnp.where(jnp.isfinite(first), first, 0.0)))
    z = jnp.arange(p.shape[0])[:, None, None, None]

    def relative(e: Array) -> Array:
        marginal = jnp.einsum("zk,knd->znd", problem.weights, e * size)
        pull = jnp.sum(places.weight[..., None] * entries(marginal, z, places.node), 3)
        moved = jnp.sum(pull[..., None] * at.turn, (2, 3)) / size
        return jnp.where(jnp.isfinite(moved), moved, 0.0)

    gap = (first - p) / size
    gap = jnp.where(jnp.isfinite(gap), gap, 0.0)
    e, _ = bicgstab(relative, gap, None, 1e-13 * jnp.max(jnp.abs(gap)), jnp.int32(200))
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
