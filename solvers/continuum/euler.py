r"""The policy: the Euler equation solved at the nodes, with smooth marginal values between them.

Marginal values p of the continuous states give a policy, and a policy gives marginal values (the
envelope theorem along whatever holds a choice):

.. math::
    p = F_x + F_y G + D\, E_w (A + B G)^\top p(f),

with A and B the derivatives of the next state f in state and choice and G that of the choice in the
state (:func:`~.optimum.response`). The fixed point is time iteration's. It is found by Newton's
method in choices and marginal values together: around both, the choices move to where their slope
is zero, to the first order (:class:`Expansion`), and what that leaves of the marginal values is a
linear system, for BiCGSTAB. So choices are looked for in a few steps only: at the start, where
steps go wrong, and where a kink holds a choice. Some ten steps do what three hundred of time
iteration do.

A cubic that is monotone where the marginal values are goes between the nodes: the policy at the
nodes is then right to the third order, and with it what follows from it, distributions and moments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.numerics.dense import eliminate
from dpsolve.solvers.numerics.krylov import bicgstab

from .cells import Marginal, corners, lenders, monotone_slopes
from .optimum import Optimum, Slopes, best, response, substitute
from .problem import ContinuousProblem

PLAIN = 4
"""Steps of time iteration before Newton's."""

MANY, FEW = 128, 40
"""Nodes from which on some are solved first, and how many these are."""

STEPS = 200
"""Steps at most."""

PATIENCE = 15
"""Searches in which the change is to halve; bounds hold for whatever was found by then."""

REACH = 2.0
"""How far a step may change a marginal value, of its size."""

KINK = 1e-6
"""Slope that a free choice is left with, of the reward's own, beyond which it lies in a kink."""

KRYLOV, INEXACT = 80, 1e-3
"""BiCGSTAB's iterations in a step, at most, and what it leaves, of what is left."""

CLOSE, ROUGH = 1e-10, 1e-3
"""Largest relative change of a marginal value at which the iterations end; on a few nodes."""

SETTLED = 1e-9
"""Slope of a choice, of the reward's own, that is none."""


Change = Callable[[Array], Marginal]


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
    """The state of the iterations.

    Attributes
    ----------
    policy : Policy
        Where the iterations are.
    p : array (z, n, d)
        Marginal values to go on from.
    stuck : bool array (z, n)
        Choices that lie in a kink, and do not move.
    left, best : float
        How far marginal values and what is made of them lay apart last, and at best.
    waited : int
        Searches since that halved.
    look : bool
        Whether choices are searched for next, or only moved along slopes.
    done : bool
    """

    policy: Policy
    p: Array
    stuck: Array
    left: Array
    best: Array
    waited: Array
    look: Array
    done: Array


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


def searched(problem: ContinuousProblem, after: Marginal, near: Array) -> Policy:
    """Return the best choices, looked for from ones nearby (z, n, m); marginal values are not."""

    def one(x: Array, z: Array, near: Array) -> Optimum:
        slopes = slopes_of(problem, x, z, after)
        return best(problem, x, z, slopes, lambda y: problem.feasible(x, y, z), near)

    at = problem.each(one, near)
    p = jnp.zeros((*problem.shape, len(problem.states)))
    return Policy(at.y, p, at.held, at.found, jnp.int32(1))


def improved(problem: ContinuousProblem, after: Marginal, near: Array) -> Policy:
    """Return the best choices, given marginal values of the next period; `near` as above."""
    found = searched(problem, after, near)

    def one(x: Array, z: Array, y: Array, held: Array) -> Array:
        along, _ = response(problem, x, z, y, held, *moves(problem, x, z, y))
        by_y, by_x = slopes_of(problem, x, z, after)(y)
        return by_x + moved_by(along, by_y)

    return found._replace(p=mended(problem, problem.each(one, found.y, found.held)))


def mended(problem: ContinuousProblem, p: Array) -> Array:
    """Give nodes whose marginal value (z, n, d) is no number that of another node."""
    return p[:, lenders(problem, jnp.isfinite(p).all((0, 2)))]


Iteration = Callable[[ContinuousProblem, Array, Array, int, float], Policy]
"""From choices and marginal values nearby to a policy, as :func:`iterated`."""


def stationary_policy(problem: ContinuousProblem, iteration: Iteration | None = None) -> Policy:
    """Return the policy of an infinite horizon.

    Where there are many nodes, a few of them are solved first; what they give is near enough for
    Newton's method to begin with.
    """
    iteration = iteration or iterated
    shape, m = problem.shape, len(problem.choices)
    unknown = jnp.full((*shape, m), jnp.nan)
    if len(problem.states) > 1 or problem.sizes[0] < MANY:
        nothing = jnp.zeros((*shape, len(problem.states)))
        return iteration(problem, unknown, nothing, PLAIN, CLOSE)
    grid = problem.grids[0]
    few = np.unique(np.linspace(0, grid.size - 1, FEW).round().astype(int))
    coarse = problem.on((Grid(jnp.asarray(grid.values)[few], grid.outside),))
    nothing = jnp.zeros((*coarse.shape, 1))
    found = iteration(coarse, unknown[:, few], nothing, PLAIN, ROUGH)
    between = Marginal(found.p, monotone_slopes(coarse.nodes[:, 0], found.p[..., 0]))

    def begin(x: Array, z: Array) -> tuple[Array, Array]:
        index, weight = corners(coarse.grids, x)
        return weight @ found.y[z, index], between.at(coarse.grids, z, x[None])[0]

    y, p = problem.each(begin)
    return iteration(problem, y, p, 0, CLOSE)


def iterated(
    problem: ContinuousProblem, near: Array, start: Array, plain: int, close: float
) -> Policy:
    """Return the policy found from choices and marginal values nearby.

    Parameters
    ----------
    near, start : arrays (z, n, m), (z, n, d)
    plain : int
        Steps of time iteration at first.
    close : float
        The relative change of a marginal value at which the iterations end.
    """
    inf, no, yes = jnp.asarray(jnp.inf), jnp.asarray(False), jnp.asarray(True)

    def step(carry: _Search) -> _Search:
        last, p = carry.policy, carry.p
        after, change = jax.linearize(partial(Marginal.smooth, problem), p)
        # A loop of one round or none: over a batch a condition would compute both of its branches.
        _, there = lax.while_loop(
            lambda c: c[0],
            lambda c: (no, searched(problem, after, last.y)._replace(steps=last.steps)),
            (carry.look, last),
        )
        at = expanded(problem, after, there, carry.look, carry.stuck)
        size = jnp.abs(at.p) + 1e-9 * jnp.max(jnp.abs(at.p), (0, 1))
        size = jnp.where(size > 0, size, 1.0)
        left = jnp.max(jnp.abs(at.p - p) / size)
        fine = carry.look | (at.settled | ~there.found).all()
        done = (left <= close) & (fine | (close > CLOSE))
        steps = last.steps + 1
        # What is left is solved for with Newton's method, but not when it was time iteration's.
        wanted = jnp.where(done | (steps <= plain), 0.0, (at.p - p) / size)
        e = at.solve(change, wanted, size)
        newer = jnp.where(steps <= plain, at.p, p + e * size)
        # Far from the solution a step goes wild: no value is more than tripled, or divided.
        way = jnp.clip(newer - at.p, -REACH / (1 + REACH) * size, REACH * size)
        new = at.p + jnp.where(jnp.isnan(way), 0.0, way)
        y, held = at.moved(problem, there.y, change(new - p))
        better = left < 0.5 * carry.best
        waited = jnp.where(better, 0, carry.waited + carry.look)
        look = (steps < plain) | ~better | (left <= close)
        policy = there._replace(
            y=jnp.where(done, there.y, y),
            held=jnp.where(done, there.held, held),
            p=at.p,
            steps=steps,
        )
        best = jnp.minimum(carry.best, left)
        return _Search(policy, new, at.stuck, left, best, waited, look, done)

    def proceed(carry: _Search) -> Array:
        return (carry.policy.steps < STEPS) & ~carry.done & (carry.waited < PATIENCE)

    n_z, n, m = near.shape
    nothing = Policy(
        near,
        start,
        jnp.zeros((n_z, n, m), jnp.int32),
        jnp.zeros((n_z, n), bool),
        jnp.int32(0),
    )
    begin = _Search(nothing, start, nothing.found, inf, inf, jnp.int32(0), yes, no)
    return lax.while_loop(proceed, step, begin).policy


class Expansion(NamedTuple):
    """What Newton's method needs to know, to the first order around choices and marginal values.

    Attributes
    ----------
    p : array (z, n, d)
        What becomes of the marginal values, were the choices moved to where their slope is zero.
    held : int array (z, n, m)
        What holds the choices: no end that they would leave.
    slope : array (z, n, m)
        Of the choices.
    lever : array (z, n, m, m)
        How far choices move, for a slope of one.
    pulled : array (z, n, w, d, m)
        How slopes change with the marginal values where next states lie, chances included.
    carried : array (z, n, w, d, d)
        How `p` does.
    node, weight, tilt : arrays (z, n, w, 2**d)
        Where that is, as in :meth:`~.cells.Marginal.weights`.
    settled : bool array (z, n)
        Whether choices are feasible, free ones have no slope left, and held ones are held.
    stuck : bool array (z, n)
        Whether choices lie in a kink.
    """

    p: Array
    held: Array
    slope: Array
    lever: Array
    pulled: Array
    carried: Array
    node: Array
    weight: Array
    tilt: Array
    settled: Array
    stuck: Array

    def read(self, after: Marginal) -> Array:
        """Return discounted expected marginal values (z, n, w, d) where next states lie."""
        z = jnp.arange(self.node.shape[0])[:, None, None, None]
        found = jnp.sum(after.values[z, self.node] * self.weight[..., None], 3)
        if after.slopes is None:
            return found
        return found + jnp.sum(after.slopes[z, self.node] * self.tilt, 3)[..., None]

    def solve(self, change: Change, wanted: Array, size: Array) -> Array:
        """Return the relative change (z, n, d) of marginal values that Newton's method makes."""

        def relative(e: Array) -> Array:
            found = jnp.sum(self.carried * self.read(change(e * size))[..., None, :], (2, 4))
            return jnp.where(jnp.isfinite(found), found / size, 0.0)

        wanted = jnp.where(jnp.isfinite(wanted), wanted, 0.0)
        most = jnp.max(jnp.abs(wanted))
        e, _ = bicgstab(relative, wanted, wanted, INEXACT * most, jnp.int32(KRYLOV))
        return e

    def moved(self, problem: ContinuousProblem, y: Array, after: Marginal) -> tuple[Array, Array]:
        """Return choices, and what holds them, when next marginal values are so much higher."""
        more = jnp.sum(self.pulled * self.read(after)[..., None], (2, 3))
        move = jnp.einsum("znij,znj->zni", self.lever, self.slope + more)

        def one(x: Array, z: Array, y: Array, held: Array) -> tuple[Array, Array]:
            for j in range(y.size):
                low, high = problem.ends(j, x, y, z)
                down, up = (held[j] < 0) | (y[j] < low), (held[j] > 0) | (y[j] > high)
                y = y.at[j].set(jnp.where(up, high, jnp.where(down, low, y[j])))
                held = held.at[j].set(jnp.where(up, 1, jnp.where(down, -1, 0)))
            return y, held

        y, held = problem.each(one, y + jnp.where(jnp.isfinite(move), move, 0.0), self.held)
        return y, held


def expanded(
    problem: ContinuousProblem, after: Marginal, policy: Policy, looked: Array, stuck: Array
) -> Expansion:
    """Expand around a policy that was `looked` for, or is near one that was."""

    def one(x: Array, z: Array, y: Array, held: Array, stuck: Array) -> tuple[Array, ...]:
        slopes = slopes_of(problem, x, z, after)

        def both(y: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            found = slopes(y)
            return found, found

        (bend, cross), (slope, slope_x) = jax.jacfwd(both, has_aux=True)(y)
        at = Optimum(y, slope, slope_x, held, jnp.asarray(True))
        for j in reversed(range(y.size)):
            pull = at.slope_y[j] * held[j]
            at = substitute(problem, j, x, z, at, jnp.where(pull < 0, 0, held[j]))
        by_x, by_y = moves(problem, x, z, y)
        along, moved = response(problem, x, z, y, at.held, by_x, by_y)
        idle = jnp.diag(jnp.where(at.held != 0, 1.0, 0.0))
        lever = -moved @ eliminate(moved.T @ bend @ moved + idle, moved.T)
        cost = jnp.max(jnp.abs(jax.grad(problem.reward, 1)(x, y, z)))
        rest = jnp.max(jnp.abs(at.slope_y))
        # A choice in a kink of the reward has a slope left, and does not move.
        stuck = jnp.where(looked, rest > KINK * cost, stuck)
        lever = jnp.where(jnp.isfinite(lever) & ~stuck, lever, 0.0)
        settled = (at.held == held).all() & (rest <= SETTLED * cost) & problem.feasible(x, y, z)
        chances = problem.chances(z)[:, None, None]
        turn = cross + jax.vmap(moved_by, (None, 1), 1)(along, bend)  # of p, in the choice
        reach = turn @ lever
        p = slope_x + moved_by(along, slope) + reach @ slope
        through = by_x + by_y @ (along + reach.T)
        carried = chances * jnp.swapaxes(through, 1, 2)
        places = jax.vmap(partial(after.weights, problem.grids))(problem.following(x, y, z))
        return p, at.held, slope, lever, chances * by_y, carried, *places, settled, stuck

    p, *rest = problem.each(one, policy.y, policy.held, stuck)
    return Expansion(mended(problem, p), *rest)
