r"""Tests of what bounds over a continuum assume: whether a counterexample to concavity is found.

The conclusions are tested, which need no concavity: that one Bellman step does not raise the upper
bound, ``TU <= U``, and that a step of the interpolated policy does not lower the lower one, ``T Il
>= Il``, at random states; the tangent planes of the reward, at random pairs of
feasible state and choice and at the policy's own; half way between two random pairs, that they are
feasible and pay no less than both on average; and that a terminal value lies between its chords and
tangents. Slopes that rise and Hessians at the policy's pairs are no test: slopes rise in right
solutions, and both stay silent in wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.tracing import EPS

from .barren import filled, unreachable
from .between import below_lines
from .bounds import Lines, least
from .cells import corners
from .optimum import NEAR
from .problem import ContinuousProblem

STATES = 400
"""Random states."""

CHOICES = 96
"""Choices that each of them is tried with."""

FEW = 5
"""One choice in so many is looked at in pairs; no multiple of those that are near the policy."""

PLANES = 200
"""Nodes whose tangent planes are looked at, at most."""

SLACK = 1e-10
"""What the lower bound may fall, of its span: a policy found by iterations is not quite optimal."""

LIGHT = 64
"""Random states in each period, where there are many."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Refutation:
    """The worst violation of each test, positive where one is refuted, and where it was found.

    Attributes
    ----------
    by : array (k,)
        How far beyond rounding each of the ``TESTS`` is failed; over a horizon (t, k).
    at : array (k, 1 + d + m)
        The member of the joint chain, the states and the choices.
    strange : bool
        Whether a choice that is allowed pays what is no number, or +inf.
    """

    by: Array
    at: Array
    strange: Array

    @classmethod
    def none(cls, problem: ContinuousProblem) -> Refutation:
        """Return that of a problem that is proved to be concave, and is not tested."""
        width = 1 + len(problem.states) + len(problem.choices)
        by = jnp.full(len(TESTS), -jnp.inf)
        return cls(by, jnp.zeros((by.size, width)), jnp.asarray(False))

    @property
    def refuted(self) -> Array:
        """Whether a counterexample was found; what is no number is one."""
        return ~(self.by <= 0.0).all()

    def worst_period(self) -> Refutation:
        """Return the worst violations over periods (t, ...)."""
        t = jnp.argmax(jnp.where(jnp.isnan(self.by), jnp.inf, self.by), 0)
        each = jnp.arange(t.size)
        return Refutation(self.by[t, each], self.at[t, each], self.strange.any())


TESTS = (
    "the reward lies {far} above a tangent plane",
    "the reward falls {far} below the average half way between two feasible choices",
    "a choice half way between two feasible ones is not feasible",
    "a next state is not affine in the choice that keeps it on its grid",
    "one step raises the upper bound by {far}",
    "one step lowers the lower bound by {far}",
    "all choices pay -inf, and on either side of it some pay more",
    "the terminal value is {far} beyond its chords or tangents",
)
"""What is said of a counterexample that each test found."""


def refute(
    problem: ContinuousProblem,
    y: Array,
    lower: tuple[Array, Array],
    lines: tuple[Lines, Lines],
    poor: Array,
    seed: Array | int = 0,
    states: int = STATES,
) -> Refutation:
    """Look for a counterexample.

    Parameters
    ----------
    problem : ContinuousProblem
    y : array (z, n, m)
        The policy that the bounds are made with. (The lower bound of one that is far from optimal
        need not be concave, and its interpolation falls then.)
    lower : (array (z, n), array (z, n))
        Its lower bound, and that of the next period: the same one without a horizon.
    lines : (Lines, Lines)
        The upper bound, and that of the next period.
    poor : bool array (z, n)
        Nodes where all choices pay -inf.
    seed : int
        Of the random states and pairs.
    states : int
        How many of them.
    """
    bottom, top = problem.box
    n_z = problem.shape[0]
    keys = jax.random.split(jax.random.key(seed), 3)
    x = bottom + jax.random.uniform(keys[0], (states, bottom.size)) * (top - bottom)
    z = jnp.arange(states) % n_z
    choices, ok, strange = drawn(problem, keys[1], x, z, y)
    # Rounding is relative to levels, what is not concave to differences: a constant in the reward
    # must not hide it.
    level = jnp.max(jnp.abs(lines[0].height)) + jnp.max(
        jnp.abs(jnp.sum(lines[0].slope * problem.nodes, -1))
    )
    rounding = 64 * EPS * level
    upper, upper_at = _upper(problem, x, z, choices, ok, *lines)
    planes, planes_at = _planes(problem, y, x, z, choices, ok)
    fall, fall_at = _lower(problem, keys[2], x, z, y, *lower, lines[1])
    slack = SLACK * jnp.max(jnp.ptp(lines[0].height, axis=1)) + rounding
    shape, shape_at = halfway(problem, x, z, choices, ok)
    passed = (jnp.asarray(-1.0), planes_at)
    by, at = zip(
        (planes, planes_at),
        *zip(shape, shape_at, strict=True),
        (upper - rounding, upper_at),
        (fall - slack, fall_at),
        enclosed(problem, poor),
        passed,
        strict=True,
    )
    return Refutation(jnp.stack(by), jnp.stack(at), strange)


def refute_terminal(
    problem: ContinuousProblem, told: Refutation, lower: Array, lines: Lines
) -> Refutation:
    """Look for a counterexample to the concavity of the terminal value, too.

    Parameters
    ----------
    lower, lines
        The terminal value (z, n) at the nodes, and its tangents there.
    """
    bottom, top = problem.box
    n_z, states = problem.shape[0], STATES
    cells = [n - 1 for n in problem.sizes]
    x = bottom + jax.random.uniform(jax.random.key(1), (states, bottom.size)) * (top - bottom)
    middles = [(jnp.asarray(g.values)[1:] + jnp.asarray(g.values)[:-1]) / 2 for g in problem.grids]
    some = jnp.arange(states)
    # Half of them lie half way between nodes, each in a cell of its own where there are not many.
    inner = jnp.stack([m[(some * max(1, k * 97 // 100)) % k] for m, k in zip(
        middles, cells, strict=True)], -1)  # fmt: skip
    x = jnp.concatenate([x, inner, problem.nodes[:: max(1, problem.shape[1] // states)]])
    terminal, known = problem.model.terminal, tuple(problem.model.states)

    def one(at: tuple[Array, Array]) -> Array:
        x, z = at
        value = problem.at_state(terminal, known, x, z)
        index, weight = corners(problem.grids, x)
        chord = jnp.sum(jnp.where(weight > 0.0, weight * lower[z, index], 0.0))
        over = value - least(problem, lines, z, x)
        under = jnp.where(jnp.isneginf(chord), -jnp.inf, chord - value)
        if len(problem.states) > 1:  # an interpolation along several axes is below, if it is
            under = jnp.minimum(under, jnp.min(lower[z, index]) - value)
        return jnp.maximum(over, under) - 64 * EPS * (jnp.abs(value) + jnp.abs(chord))

    x, z = jnp.tile(x, (n_z, 1)), jnp.repeat(jnp.arange(n_z), x.shape[0])
    scale = 64 * EPS * jnp.max(jnp.sum(jnp.abs(lines.slope * problem.nodes), -1))
    nothing = jnp.full((x.shape[0], len(problem.choices)), jnp.nan)
    violation, at = _worst(lax.map(one, (x, z), batch_size=512) - scale, x, z, nothing)
    return Refutation(told.by.at[-1].set(violation), told.at.at[-1].set(at), told.strange)


def drawn(
    problem: ContinuousProblem, key: Array, x: Array, z: Array, y: Array
) -> tuple[Array, Array, Array]:
    """Draw choices (states, c, m), tell which are feasible, and whether one pays no number.

    One in four is beside the policy, the others anywhere in their intervals, ends included.
    """
    m = len(problem.choices)
    share = jax.random.uniform(key, (x.shape[0], CHOICES, m), minval=-0.05, maxval=1.05)

    def one(x: Array, z: Array, share: Array) -> tuple[Array, Array, Array]:
        index, weight = corners(problem.grids, x)
        usual = weight @ y[z, index]

        def choose(i: Array, share: Array) -> tuple[Array, Array, Array]:
            choice = jnp.zeros(m)
            for j in range(m):
                low, high = problem.ends(j, x, choice, z)
                high = jnp.maximum(low, high)
                anywhere = jnp.clip(low + share[j] * (high - low), low, high)
                near = jnp.clip(usual[j] + (share[j] - 0.5) * 0.1 * (high - low), low, high)
                choice = choice.at[j].set(jnp.where(i % 4 == 0, near, anywhere))
            ends = jnp.asarray([problem.ends(j, x, choice, z) for j in range(m)])
            real = (ends[:, 0] <= ends[:, 1]).all()
            # At an end rounding alone may pay no number.
            width = NEAR * (1.0 + jnp.abs(ends).sum(1))
            inside = ((choice > ends[:, 0] + width) & (choice < ends[:, 1] - width)).all()
            pays = problem.reward(x, choice, z)
            strange = problem.allowed(x, choice, z) & (jnp.isnan(pays) | (pays == jnp.inf))
            feasible = problem.feasible(x, choice, z) & real
            return choice, feasible, inside & strange

        return jax.vmap(choose)(jnp.arange(CHOICES), share)

    choices, ok, strange = jax.vmap(one)(x, z, share)
    return choices, ok, strange.any()


def halfway(
    problem: ContinuousProblem, x: Array, z: Array, choices: Array, ok: Array
) -> tuple[Array, Array]:
    """Return violations (3,) half way between pairs, and where (3, 1 + d + m).

    Of the average reward over that of the average; and 1 or -1 for what is not feasible there, and
    for a next state that is not affine where it ought to be.
    """
    n_z, m = problem.shape[0], len(problem.choices)
    few, fine = choices[:, ::FEW], ok[:, ::FEW]
    c = few.shape[1]
    # The member of the chain goes round, so that a state's partner has its own.
    first, other, pair = (
        (x[:-n_z], few[:-n_z], fine[:-n_z]),
        (x[n_z:], few[n_z:], fine[n_z:]),
        z[n_z:],
    )
    shifts = jnp.asarray(list(product((-1.0, 0.0, 1.0), repeat=m)))

    def one(at: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        x, y, ok, x_other, y_other, ok_other, z = at
        middle, half = (x + x_other) / 2, (y + y_other) / 2
        here, there = problem.reward(x, y, z), problem.reward(x_other, y_other, z)
        own = problem.reward(middle, half, z)
        size = jnp.abs(here) + jnp.abs(there) + jnp.abs(own)
        short = (here + there) / 2 - own - 1e-12 * size

        def allowed(shift: Array) -> Array:
            near = half + shift * NEAR * (1.0 + jnp.abs(y) + jnp.abs(y_other))
            real = []
            for j in range(m):
                low, high = problem.ends(j, middle, half, z)
                touch = 4 * NEAR * (1.0 + jnp.abs(low) + jnp.abs(high))
                real.append((half[j] >= low - touch) & (half[j] <= high + touch))
            return problem.feasible(middle, near, z) & jnp.stack(real).all()

        both = ok & ok_other
        outside = ~jax.vmap(allowed)(shifts).any()
        short = jnp.where(both & ~outside, short, -jnp.inf)
        hole = jnp.where(both & outside, 1.0, -1.0)
        bent = jnp.where(ok & problem.bent(x, y, z), 1.0, -1.0)
        return short, hole, bent

    pairs = (pair.size * c,)
    flat = (
        jnp.repeat(first[0], c, 0), first[1].reshape(*pairs, m), first[2].ravel(),
        jnp.repeat(other[0], c, 0), other[1].reshape(*pairs, m), other[2].ravel(),
        jnp.repeat(pair, c),
    )  # fmt: skip
    if not flat[0].shape[0]:
        nothing = jnp.concatenate([z[0][None].astype(jnp.float64), x[0], choices[0, 0]])
        return -jnp.ones(3), jnp.stack([nothing] * 3)
    found = lax.map(one, flat, batch_size=512)
    middle, half = (flat[0] + flat[3]) / 2, (flat[1] + flat[4]) / 2
    by, at = zip(*(_worst(v, middle, flat[6], half) for v in found), strict=True)
    return jnp.stack(by), jnp.stack(at)


def enclosed(problem: ContinuousProblem, poor: Array) -> tuple[Array, Array]:
    """Return 1 where a poor node (z, n) lies between others along an axis, else -1; and where."""
    whole = (~poor).astype(jnp.int32).reshape(-1, *problem.sizes)
    found = jnp.zeros(whole.shape, bool)
    for axis in range(1, whole.ndim):
        before, after = (lax.cummax(whole, axis, reverse=way) for way in (False, True))
        found = found | (before * after > whole)
    flat = jnp.where(found.reshape(poor.shape), 1.0, -1.0).ravel()
    z, x = jnp.divmod(jnp.arange(poor.size), problem.shape[1])
    nothing = jnp.full((poor.size, len(problem.choices)), jnp.nan)
    return _worst(flat, problem.nodes[x], z, nothing)


def _upper(
    problem: ContinuousProblem, x: Array, z: Array, choices: Array, ok: Array,
    lines: Lines, after: Lines,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the largest ``TU - U`` over the random states and choices."""
    n_z = problem.shape[0]

    def one(at: tuple[Array, Array, Array, Array]) -> Array:
        x, z, choice, ok = at

        def follows(place: Array) -> Array:
            each = jax.vmap(lambda member: least(problem, after, member, place))(jnp.arange(n_z))
            return problem.weights[z] @ each

        there = problem.chances(z) @ jax.vmap(follows)(problem.following(x, choice, z))
        rise = problem.reward(x, choice, z) + there - least(problem, lines, z, x)
        return jnp.where(ok, rise, -jnp.inf)

    n, c, m = choices.shape
    flat = (jnp.repeat(x, c, 0), jnp.repeat(z, c), choices.reshape(n * c, m), ok.ravel())
    return _worst(lax.map(one, flat, batch_size=512), *flat[:3])


def _lower(
    problem: ContinuousProblem, key: Array, x: Array, z: Array, y: Array, lower: Array,
    after: Array, lines: Lines,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the largest ``Il - T Il`` over states, of the policy interpolated there.

    With one state there is one in each cell: a policy that jumps over a hole does so in one cell
    alone. An interpolation along several axes is not concave, and a step may lower it by the
    discounted part that it lies below its envelope.
    """
    n_z = problem.shape[0]
    dead, deadly = jnp.isneginf(lower), unreachable(problem, jnp.isneginf(after))
    lower, after = (filled(problem, own, lines.slope) for own in (lower, after))
    if len(problem.states) > 1:
        allowed = problem.weights @ below_lines(problem, after, lines)
    else:
        nodes, allowed = problem.nodes[:, 0], jnp.zeros(n_z)
        cells = nodes[:-1] + jax.random.uniform(key, (nodes.size - 1,)) * jnp.diff(nodes)
        x = jnp.concatenate([x, jnp.tile(cells, n_z)[:, None]])
        z = jnp.concatenate([z, jnp.repeat(jnp.arange(n_z), cells.size)])
    mixed = problem.weights @ after

    def one(x: Array, z: Array) -> tuple[Array, Array]:
        index, weight = corners(problem.grids, x)
        choice, value = weight @ y[z, index], weight @ lower[z, index]
        known = ~dead[z, index].any()
        # Where a constraint binds at both ends of a cell, it does between them but for rounding.
        for j in range(choice.size):
            low, high = problem.ends(j, x, choice, z)
            nearest = jnp.clip(choice[j], low, jnp.maximum(low, high))
            close = jnp.abs(nearest - choice[j]) <= NEAR * (1.0 + jnp.abs(low) + jnp.abs(high))
            choice = choice.at[j].set(jnp.where(close, nearest, choice[j]))
        real = [
            (choice[j] >= low) & (choice[j] <= high)
            for j in range(choice.size)
            for low, high in [problem.ends(j, x, choice, z)]
        ]

        def follows(place: Array) -> tuple[Array, Array]:
            index, weight = corners(problem.grids, place)
            return weight @ mixed[z, index], ~jnp.any(deadly[z, index] & (weight > 0.0))

        there, alive = jax.vmap(follows)(problem.following(x, choice, z))
        step = problem.reward(x, choice, z) + problem.chances(z) @ there
        ok = problem.feasible(x, choice, z) & jnp.stack(real).all()
        fall = value - allowed[z] - jnp.where(ok, step, -jnp.inf)
        # Beside nodes whose bound is -inf nothing is said.
        return jnp.where(known & alive.all(), fall, -jnp.inf), choice

    fall, choice = jax.vmap(one)(x, z)
    return _worst(fall, x, z, choice)


def _planes(
    problem: ContinuousProblem, y: Array, x: Array, z: Array, choices: Array, ok: Array
) -> tuple[Array, Array]:
    """Return the farthest that the reward goes above a tangent plane, at random pairs."""
    every = max(1, problem.shape[1] // PLANES)
    nodes, own = problem.nodes[::every], y[:, ::every]

    def expand(z: Array) -> tuple[Array, Array, Array]:
        def one(x: Array, y: Array) -> tuple[Array, Array, Array]:
            by_x, by_y = jax.grad(problem.reward, (0, 1))(x, y, z)
            return problem.reward(x, y, z), by_x, by_y

        return jax.vmap(one)(nodes, own[z])

    reward, by_x, by_y = jax.vmap(expand)(jnp.arange(problem.shape[0]))
    few, fine = choices[:, :: 5 * FEW], ok[:, :: 5 * FEW]
    n, c, m = few.shape
    flat = (jnp.repeat(x, c, 0), jnp.repeat(z, c), few.reshape(n * c, m), fine.ravel())

    def one(at: tuple[Array, Array, Array, Array]) -> Array:
        x, z, choice, ok = at
        here = problem.reward(x, choice, z)
        across, up = by_x[z] * (x - nodes), by_y[z] * (choice - own[z])
        plane = reward[z] + across.sum(-1) + up.sum(-1)
        terms = jnp.abs(reward[z]) + jnp.abs(across).sum(-1) + jnp.abs(up).sum(-1)
        above = here - plane - 1e-12 * (terms + jnp.abs(here))
        # A node with an infinite slope has no plane.
        usable = jnp.isfinite(by_x[z]).all(-1) & jnp.isfinite(by_y[z]).all(-1)
        usable = usable & jnp.isfinite(reward[z])
        return jnp.where(ok, jnp.max(jnp.where(usable, above, -jnp.inf)), -jnp.inf)

    return _worst(lax.map(one, flat, batch_size=512), *flat[:3])


def _worst(violation: Array, x: Array, z: Array, y: Array) -> tuple[Array, Array]:
    """Return the largest entry (n,), what is no number counting as that, and where it is."""
    violation = jnp.where(jnp.isnan(violation), jnp.inf, violation)
    i = jnp.argmax(violation)
    return jnp.max(violation), jnp.concatenate([z[i][None].astype(jnp.float64), x[i], y[i]])
