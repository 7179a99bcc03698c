r"""The policy: the Euler equation solved at the nodes, with smooth marginal values between them.

Marginal values p of the continuous states give a policy, and a policy gives marginal values (the
envelope theorem along whatever holds a choice):

.. math::
    p = F_x + F_y G + D\, E_w (A + B G)^\top p(f),

with A and B the derivatives of the next state f in state and choice and G that of the choice in the
state (:func:`~.optimum.response`). The fixed point is time iteration's; it is found by Newton's
method, each step's linear system by BiCGSTAB, in which the derivative of the policy is that of the
implicit function theorem. Some six steps do what three hundred of time iteration do.

A cubic that is monotone where the marginal values are goes between the nodes: the policy at the
nodes is then right to the third order, and with it what follows from it, distributions and moments.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.numerics.dense import eliminate
from dpsolve.solvers.numerics.krylov import bicgstab

from .cells import Marginal, lenders, monotone_slopes
from .optimum import Optimum, Slopes, best, response
from .problem import ContinuousProblem

PLAIN = 10
"""Steps of time iteration before Newton's."""

MANY, FEW = 128, 40
"""Nodes from which on some are solved first, and how many these are."""

STEPS = 200
"""Steps at most."""

PATIENCE = 15
"""Steps in which the change is to halve; bounds hold for whatever was found by then."""

REACH = 2.0
"""How far a step may change a marginal value, of its size."""

KINK = 1e-6
"""Slope that a free choice is left with, of the reward's own, beyond which it lies in a kink."""

KRYLOV = 80
"""BiCGSTAB's iterations in a step, at most."""

CLOSE = 1e-10
"""Largest relative change of a marginal value at which the iterations end."""


class Policy(NamedTuple):
    """Choices at the nodes, and what is known of them.

    Attributes
    ----------
    y : array (z, n, m)
        The choices.
    p : array (z, n, d)
        Marginal values of the continuous states.
    held : int array (z, n, m)
        1 where the upper end of its interval holds a choice, -1 where the lower one does, else 0.
    found : bool array (z, n)
        Whether any feasible choice was found.
    steps : int
        Steps that it took.
    """

    y: Array
    p: Array
    held: Array
    found: Array
    steps: Array


class _Search(NamedTuple):
    """The state of the iterations: a policy, marginal values to go on from, and how it goes."""

    policy: Policy
    p: Array
    left: Array
    waited: Array


def slopes_of(problem: ContinuousProblem, x: Array, z: Array, after: Marginal) -> Slopes:
    """Return the slopes of reward and what follows, in choice and state, as a function."""
    chances = problem.chances(z)

    def slopes(y: Array) -> tuple[Array, Array]:
        marginal = after.at(problem.grids, z, problem.following(x, y, z))

        def total(x: Array, y: Array) -> Array:
            moved = chances @ jnp.sum(marginal * problem.following(x, y, z), -1)
            return problem.reward(x, y, z) + moved

        by_x, by_y = jax.grad(total, (0, 1))(x, y)
        return by_y, by_x

    return slopes


def moves(problem: ContinuousProblem, x: Array, z: Array, y: Array) -> tuple[Array, Array]:
    """Return the derivatives of the next states in state (w, d, d) and choice (w, d, m)."""
    by_x, by_y = jax.jacfwd(lambda x, y: problem.following(x, y, z), (0, 1))(x, y)
    return by_x, by_y


def moved_by(along: Array, by_y: Array) -> Array:
    """Return ``G.T @ by_y``; a slope that is infinite is no matter where nothing moves."""
    terms = along * by_y[:, None]
    return jnp.sum(jnp.where(along == 0.0, 0.0, terms), 0)


def improved(problem: ContinuousProblem, after: Marginal) -> Policy:
    """Return the best choices, given marginal values of the next period."""

    def one(x: Array, z: Array) -> tuple[Optimum, Array]:
        slopes = slopes_of(problem, x, z, after)
        at = best(problem, x, z, slopes, lambda y: problem.feasible(x, y, z))
        along, _ = response(problem, x, z, at.y, at.held, *moves(problem, x, z, at.y))
        by_y, by_x = slopes(at.y)
        return at, by_x + moved_by(along, by_y)

    at, p = problem.each(one)
    return Policy(at.y, mended(problem, p), at.held, at.found, jnp.int32(1))


def mended(problem: ContinuousProblem, p: Array) -> Array:
    """Give nodes whose marginal value (z, n, d) is no number that of another node."""
    return p[:, lenders(problem, jnp.isfinite(p).all((0, 2)))]


def stationary_policy(problem: ContinuousProblem) -> Policy:
    """Return the policy of an infinite horizon.

    Where there are many nodes, a few of them are solved first; what they give is near enough for
    Newton's method to begin with.
    """
    if len(problem.states) > 1 or problem.sizes[0] < MANY:
        return _iterated(problem, jnp.zeros((*problem.shape, len(problem.states))), PLAIN)
    grid = problem.grids[0]
    few = np.unique(np.linspace(0, grid.size - 1, FEW).round().astype(int))
    coarse = problem.on((Grid(jnp.asarray(grid.values)[few], grid.outside),))
    p = _iterated(coarse, jnp.zeros((*coarse.shape, 1)), PLAIN).p
    between = Marginal(p, monotone_slopes(coarse.nodes[:, 0], p[..., 0]))
    start = problem.each(lambda x, z: between.at(coarse.grids, z, x[None])[0])
    return _iterated(problem, start, 1)


def _iterated(problem: ContinuousProblem, start: Array, plain: int) -> Policy:
    """Return the policy found from marginal values (z, n, d), after so many plain steps."""
    n_z, n = problem.shape
    m, d = len(problem.choices), len(problem.states)
    nothing = Policy(
        jnp.zeros((n_z, n, m)),
        jnp.zeros((n_z, n, d)),
        jnp.zeros((n_z, n, m), jnp.int32),
        jnp.zeros((n_z, n), bool),
        jnp.int32(0),
    )

    def step(carry: _Search) -> _Search:
        last, p, best, waited = carry
        there = improved(problem, Marginal.smooth(problem, p))
        size = jnp.abs(there.p) + 1e-9 * jnp.max(jnp.abs(there.p), (0, 1))
        size = jnp.where(size > 0, size, 1.0)
        left = jnp.max(jnp.abs(there.p - p) / size)

        def faster() -> Array:
            newer = newton(problem, p, there, size)
            # Far from the solution a step goes wild: no value is more than tripled, or divided.
            way = jnp.clip(newer - there.p, -REACH / (1 + REACH) * size, REACH * size)
            return there.p + jnp.where(jnp.isnan(way), 0.0, way)

        new = lax.cond(last.steps < plain, lambda: there.p, faster)
        waited = jnp.where(left < 0.5 * best, 0, waited + 1)
        best = jnp.minimum(best, left)
        return _Search(there._replace(steps=last.steps + 1), new, best, waited)

    def proceed(carry: _Search) -> Array:
        going = (carry.left > CLOSE) & (carry.waited < PATIENCE)
        return (carry.policy.steps < STEPS) & going

    begin = _Search(nothing, start, jnp.asarray(jnp.inf), jnp.int32(0))
    return lax.while_loop(proceed, step, begin).policy


def newton(problem: ContinuousProblem, p: Array, there: Policy, size: Array) -> Array:
    """Return Newton's next marginal values, where ``there`` is what time iteration makes of p."""
    after = Marginal.smooth(problem, p)

    def prepare(x: Array, z: Array, y: Array, held: Array) -> tuple[Array, Array]:
        along, moved = response(problem, x, z, y, held, *moves(problem, x, z, y))
        slopes = slopes_of(problem, x, z, after)
        bend = jax.jacfwd(lambda y: slopes(y)[0])(y)
        reduced = moved.T @ bend @ moved
        idle = jnp.where(held != 0, 1.0, 0.0)
        lever = moved @ eliminate(reduced + jnp.diag(idle), moved.T)
        # A choice in a kink of the reward has a slope left, and does not move.
        rest, cost = moved.T @ slopes(y)[0], jax.grad(problem.reward, 1)(x, y, z)
        kinked = jnp.max(jnp.abs(rest)) > KINK * jnp.max(jnp.abs(cost))
        return along, jnp.where(jnp.isfinite(lever) & ~kinked, lever, 0.0)

    along, lever = problem.each(prepare, there.y, there.held)

    def again(p: Array) -> Array:
        """Return what time iteration makes of p, to the first order around where it is."""
        after = Marginal.smooth(problem, p)

        def one(x: Array, z: Array, y: Array, along: Array, lever: Array) -> Array:
            slopes = slopes_of(problem, x, z, after)
            y = y - lever @ slopes(y)[0]
            by_y, by_x = slopes(y)
            return by_x + moved_by(along, by_y)

        found: Array = problem.each(one, there.y, along, lever)
        return found

    _, change = jax.linearize(again, p)

    def relative(e: Array) -> Array:
        moved = change(e * size) / size
        return jnp.where(jnp.isfinite(moved), moved, 0.0)

    wanted = (there.p - p) / size
    wanted = jnp.where(jnp.isfinite(wanted), wanted, 0.0)
    left = jnp.max(jnp.abs(wanted))
    e, _ = bicgstab(relative, wanted, wanted, 1e-4 * left, jnp.int32(KRYLOV))
    return p + e * size
