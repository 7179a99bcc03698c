r"""How a policy and a value move with the parameters: the implicit function theorem at the nodes.

The policy's marginal values solve :math:`p = T(p; \theta)` (:mod:`.euler`), in which the free
choices solve :math:`R(w; p, \theta) = 0`, what is left of their slopes when each choice that an end
of its interval holds moves with that end. So

.. math::
    dw = -R_w^{-1}\,(R_p\,dp + R_\theta\,d\theta), \qquad (I - T_p)\,dp = T_\theta\,d\theta,

in which T and its derivatives take w along: one linear solve for each direction, and one small
system at each node. The value's derivative is that at fixed free choices (the envelope theorem),

.. math::
    dv = F_\theta\,d\theta + d_\theta(D E v(f)) + D E\,dv(f),

with a cubic between the nodes, through dv and its slopes, which are dp. Over a horizon both are
recursions from the last period backwards.

Which end holds which choice at which node is taken as it is: it changes at single parameter values,
where a derivative has a step. A choice that lies in a kink of the reward stays there. What is no
number, because a slope is infinite, has no derivative, and counts as one that does not move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.dense import eliminate
from dpsolve.solvers.numerics.krylov import transposable_resolvent

from .cells import Marginal, corners, lenders
from .euler import KINK, mended
from .problem import ContinuousProblem

TOLERANCE = 1e-13
"""Of a linear system's residual, relative to its right-hand side."""

SETTLED = 1e-6
"""Relative change of a marginal value by one more step, above which there is no derivative."""

Values = Mapping[str, Array]  # a number for each parameter
Moved = dict[str, Array]  # how results move, by name


class Optimal(NamedTuple):
    """A solved policy; over a horizon with a first axis of periods.

    Attributes
    ----------
    y : array (z, n, m)
        Choices.
    held : int array (z, n, m)
        1 where the upper end holds a choice, -1 where the lower one does, else 0.
    p : array (z, n, d)
        Marginal values.
    value : array (z, n)
    """

    y: Array
    held: Array
    p: Array
    value: Array


def moved_with(
    problem_of: Callable[[Values], ContinuousProblem], values: Values, at: Optimal
) -> Callable[[Values], Moved]:
    """Return how value, policy and outputs move with the parameters, as a linear function.

    Parameters
    ----------
    problem_of : function
        Builds the problem at parameters.
    values : mapping
        The parameters at which it was solved.
    at : Optimal
        What was found there.
    """
    if problem_of(values).model.horizon is None:
        return _for_ever(problem_of, values, at)
    push: Callable[[Values], Moved] = jax.linearize(
        lambda values: _over_a_horizon(problem_of(values), at), values
    )[1]
    return push


# -- at one node ----------------------------------------------------------------------------------


def _along(problem: ContinuousProblem, x: Array, z: Array, w: Array, held: Array) -> Array:
    """Return the choices, those of `w` that are free and the ends that hold the others."""
    y = w
    for j in range(w.size):
        low, high = problem.ends(j, x, y, z)
        y = y.at[j].set(jnp.where(held[j] == 0, y[j], jnp.where(held[j] > 0, high, low)))
    return y


def _slopes(
    problem: ContinuousProblem, x: Array, z: Array, w: Array, held: Array, after: Marginal
) -> tuple[Array, Array]:
    """Return the slopes of reward and what follows in free choices (m,) and state (d,)."""
    here = _along(problem, x, z, w, held)
    marginal = after.at(problem.grids, z, problem.following(x, here, z))

    def total(x: Array, w: Array) -> Array:
        y = _along(problem, x, z, w, held)
        moved = problem.chances(z) @ jnp.sum(marginal * problem.following(x, y, z), -1)
        return problem.reward(x, y, z) + moved

    # Forward, for an end that does not hold may have no slope.
    by_x, by_w = jax.jacfwd(total, (0, 1))(x, w)
    return jnp.where(held == 0, by_w, 0.0), by_x


class _Around(NamedTuple):
    """What is known of a node: how free choices respond, and where its next states are read.

    Attributes
    ----------
    lever : array (m, m)
        Inverse of how free choices move their slopes.
    pull : array (w, d, d)
        How much marginal values at the next states move that of the node, all responses included.
    node, weight, tilt : int array (w, 2**d), array (w, 2**d), array (w, 2**d)
        Nodes beside the next states, and what their values and slopes weigh in a cubic between.
    """

    lever: Array
    pull: Array
    node: Array
    weight: Array
    tilt: Array


def _around(problem: ContinuousProblem, at: Optimal, after: Marginal) -> _Around:
    """Return it of every node, arrays (z, n, ...)."""

    def one(x: Array, z: Array, y: Array, held: Array) -> _Around:
        slopes = partial(_slopes, problem, x, z, held=held, after=after)
        rest = slopes(y)[0]
        bend, drift = jax.jacfwd(slopes)(y)
        lever = eliminate(bend + jnp.diag(jnp.where(held != 0, 1.0, 0.0)), jnp.eye(y.size))
        cost = jax.jacfwd(problem.reward, 1)(x, y, z)
        kinked = jnp.max(jnp.abs(rest)) > KINK * jnp.max(jnp.abs(cost))
        lever = jnp.where(jnp.isfinite(lever) & ~kinked, lever, 0.0)

        def there(x: Array, w: Array) -> Array:
            return problem.following(x, _along(problem, x, z, w, held), z)

        by_x, by_w = jax.jacfwd(there, (0, 1))(x, y)  # (w, d, d), (w, d, m)
        pull = jnp.swapaxes(by_x, 1, 2) - jnp.einsum("ij,wkj->wik", drift @ lever, by_w)
        read = partial(_read_at, problem)
        return _Around(
            lever, problem.chances(z)[:, None, None] * pull, *jax.vmap(read)(there(x, y))
        )

    found: _Around = jax.tree.map(lax.stop_gradient, problem.each(one, at.y, at.held))
    return found


def _read_at(problem: ContinuousProblem, place: Array) -> tuple[Array, Array, Array]:
    """Return the nodes (2**d,) beside a place, and the weights of values and slopes there."""
    index, weight = corners(problem.grids, place)
    if len(problem.states) > 1:
        return index, weight, jnp.zeros_like(weight)
    s, t = weight[0], weight[1]
    step = problem.nodes[index[1], 0] - problem.nodes[index[0], 0]
    values = jnp.stack([(1 + 2 * t) * s * s, (1 + 2 * s) * t * t])
    return index, values, step * jnp.stack([t * s * s, -t * t * s])


def _read(node: Array, weight: Array, values: Array) -> Array:
    """Return what values (z, n, ...) are at places (z, n, w)."""
    z = jnp.arange(values.shape[0])[:, None, None, None]
    weight = weight.reshape(*weight.shape, *(1,) * (values.ndim - 2))
    return jnp.sum(values[z, node] * weight, 3)


def _again(problem: ContinuousProblem, p: Array, at: Optimal, lever: Array) -> tuple[Array, Array]:
    """Return policy and marginal values that follow from `p`, to the first order around `at`."""
    after = Marginal.smooth(problem, p)

    def one(x: Array, z: Array, y: Array, held: Array, lever: Array) -> tuple[Array, Array]:
        w = y - lever @ _slopes(problem, x, z, y, held, after)[0]
        return _along(problem, x, z, w, held), _slopes(problem, x, z, w, held, after)[1]

    found: tuple[Array, Array] = problem.each(one, at.y, at.held, lever)
    return found


def _worth(problem: ContinuousProblem, after: Array, p: Array, at: Optimal) -> Array:
    """Return the value (z, n) of one period at fixed free choices, from that of the next."""
    mixed, slopes = problem.weights @ after, jnp.einsum("zk,knd->znd", problem.weights, p)

    def one(x: Array, z: Array, y: Array, held: Array) -> Array:
        y = _along(problem, x, z, y, held)

        def read(place: Array) -> Array:
            node, weight, tilt = _read_at(problem, place)
            # Of several states marginal values are not read.
            return weight @ mixed[z, node] + tilt @ slopes[z, node, 0]

        follows = jax.vmap(read)(problem.following(x, y, z))
        return problem.reward(x, y, z) + problem.chances(z) @ follows

    found: Array = problem.each(one, at.y, at.held)
    return found


def _named(problem: ContinuousProblem, value: Array, y: Array) -> Moved:
    """Return what moves, by the names of results, over the model's states."""
    found = {"value": value}
    found |= {f"policy_{c}": y[..., j] for j, c in enumerate(problem.choices)}
    for name, f in problem.model.outputs.items():

        def output(x: Array, z: Array, y: Array, f: Any = f) -> Array:
            return problem.output(f, x, y, z)

        found[f"output_{name}"] = problem.each(output, y)
    return {name: problem.over_states(x) for name, x in found.items()}


# -- all nodes ------------------------------------------------------------------------------------


def _for_ever(
    problem_of: Callable[[Values], ContinuousProblem], values: Values, at: Optimal
) -> Callable[[Values], Moved]:
    problem = problem_of(values)
    after, steepness = jax.linearize(lambda p: Marginal.smooth(problem, p), at.p)
    known = _around(problem, at, after)
    size = jnp.abs(at.p) + 1e-9 * jnp.max(jnp.abs(at.p), (0, 1))
    size = jnp.where(size > 0, size, 1.0)

    def step(values: Values, p: Array) -> tuple[Array, Array]:
        return _again(problem_of(values), p, at, known.lever)

    def worth(values: Values, value: Array, p: Array) -> Array:
        return _worth(problem_of(values), value, p, at)

    def named(values: Values, value: Array, y: Array) -> Moved:
        return _named(problem_of(values), value, y)

    (_, p), push = jax.linearize(step, values, at.p)
    _, lift = jax.linearize(worth, values, at.value, at.p)
    _, name = jax.linearize(named, values, at.value, at.y)
    lender = lenders(problem, jnp.isfinite(p).all((0, 2)))
    p = p[:, lender]
    still, nothing = jnp.zeros_like(at.value), jnp.zeros_like(at.p)
    # Where a slope is infinite nothing can be said; every direction is looked at.
    ways = dict(zip(values, jnp.eye(len(values)), strict=True))
    each = jax.vmap(lambda dots: push(dots, nothing)[1])(ways) if values else nothing[None]
    sound = (jnp.isfinite(each).all((0, -1)) & jnp.isfinite(known.pull).all((2, 3, 4)))[..., None]
    pull = jnp.where(sound[..., None, None], known.pull, 0.0)
    settled = jnp.max(jnp.where(sound, jnp.abs(p - at.p) / size, 0.0)) <= SETTLED

    def steered(e: Array) -> Array:
        """Return what a step makes of a change (z, n, d) of marginal values, of their size."""
        moved = steepness(e * size)
        read = _read(known.node, known.weight, moved.values)
        if moved.slopes is not None:
            read = read + _read(known.node, known.tilt, moved.slopes[..., None])
        return jnp.einsum("znwij,znwj->zni", pull, read)[:, lender] / size

    chances = problem.each(lambda x, z: problem.chances(z))

    def expected(e: Array) -> Array:
        return jnp.sum(chances * _read(known.node, known.weight, problem.weights @ e), 2)

    def respond(dots: Values) -> Moved:
        wanted = jnp.where(sound, push(dots, nothing)[1], 0.0)[:, lender]
        dp: Array = size * transposable_resolvent(steered, wanted / size, TOLERANCE)
        dy = push(dots, dp)[0]
        dv = transposable_resolvent(expected, lift(dots, still, dp), TOLERANCE)
        found: Moved = name(dots, dv, dy)
        return {n: jnp.where(settled, x, jnp.nan) for n, x in found.items()}

    return respond


def _over_a_horizon(problem: ContinuousProblem, at: Optimal) -> Moved:
    """Return the results again, to the first order around where they are."""
    whole = problem
    terminal, known = whole.model.terminal, tuple(whole.model.states)

    def end(x: Array, z: Array) -> tuple[Array, Array]:
        def value(x: Array) -> Array:
            return jnp.zeros(()) if terminal is None else whole.at_state(terminal, known, x, z)

        return value(x), jax.jacfwd(value)(x)

    def period(after: tuple[Array, Array], now: tuple[Array, Optimal]) -> tuple[Any, Moved]:
        (value, p), (t, here) = after, now
        problem = whole.at(t)
        lever = _around(problem, here, Marginal.smooth(problem, p)).lever
        y, before = _again(problem, p, here, lever)
        value = _worth(problem, value, p, here)
        return (value, mended(problem, before)), _named(problem, value, y)

    value, slope = whole.each(end)
    times = jnp.arange(int(whole.model.horizon or 0))
    _, found = lax.scan(period, (value, mended(whole, slope)), (times, at), reverse=True)
    return found
