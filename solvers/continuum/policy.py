"""A policy between grid points: improved on chords, and ended by steps on the Euler equation.

The value of a policy is linear between nodes. Improving on it is a concave problem in one number at
each node, and Howard's policy iteration converges in a few rounds; the policy that it ends with
moves from kink to kink of the value. One or two steps on the Euler equation with linearly
interpolated marginal values smooth that out, and narrow the bounds.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.krylov import bicgstab

from .problem import ConcaveProblem

GOLDEN = (5.0**0.5 - 1.0) / 2.0
HALVINGS = 60  # of an interval, to the last bit
SECTIONS = 70  # of an interval, by the golden ratio: to 2e-15 of it
ROUNDS = 60  # of policy iteration at most; it takes some ten
KRYLOV = 2_000  # iterations at most; what they leave is charged to the bounds
EULER_STEPS = 2


def locate(nodes: Array, y: Array) -> tuple[Array, Array]:
    """Return each position's segment and its place in it, from 0 to 1."""
    found = jnp.searchsorted(nodes, y, side="right").astype(jnp.int32) - 1
    i = jnp.clip(found, 0, nodes.shape[0] - 2)
    return i, (y - nodes[i]) / (nodes[i + 1] - nodes[i])


def at(values: Array, i: Array) -> Array:
    """Look up values (z, x) at positions (z, ...)."""
    flat = i.reshape(i.shape[0], -1)
    return jnp.take_along_axis(values, flat, 1).reshape(i.shape)


def interpolated(values: Array, i: Array, t: Array) -> Array:
    """Interpolate values (z, x) linearly at places (z, ...)."""
    return (1.0 - t) * at(values, i) + t * at(values, i + 1)


def evaluate(
    problem: ConcaveProblem, i: Array, t: Array, reward: Array, start: Array
) -> tuple[Array, Array]:
    """Solve ``v = reward + D E v`` at places on the grid, to rounding; return v and its residual.

    The places are where the next state is read: the policy's own give its value on chords.
    """
    weights = problem.weights

    def apply(v: Array) -> Array:
        return interpolated(weights @ v, i, t)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, v, left = carry
        residual = reward + apply(v) - v
        more, _ = bicgstab(apply, residual, jnp.zeros_like(v), 1e-3 * left, jnp.int32(KRYLOV))
        better = v + more
        now = jnp.max(jnp.abs(reward + apply(better) - better))
        gained = now < left
        return k + 1, jnp.where(gained, better, v), jnp.where(gained, now, 0.0)

    def proceed(carry: tuple[Array, Array, Array]) -> Array:
        k, v, left = carry
        return (k < 8) & (left > 1e-15 * jnp.max(jnp.abs(v)))

    first = jnp.max(jnp.abs(reward + apply(start) - start))
    _, v, _ = lax.while_loop(proceed, step, (jnp.int32(0), start, first))
    return v, reward + apply(v) - v


def ends(problem: ConcaveProblem, inside: Array) -> tuple[Array, Array]:
    """Return the ends (z, x) of the feasible choices around one of them, themselves feasible."""

    def towards(end: Array) -> Array:
        end = jnp.broadcast_to(end, inside.shape)
        whole = jnp.isfinite(problem.reward(problem.nodes, end))

        def halve(_: int, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            good, bad = pair
            middle = (good + bad) / 2
            fine = jnp.isfinite(problem.reward(problem.nodes, middle))
            return jnp.where(fine, middle, good), jnp.where(fine, bad, middle)

        good, _ = lax.fori_loop(0, HALVINGS, halve, (inside, end))
        return jnp.where(whole, end, good)

    low, high = lax.map(towards, jnp.stack(problem.interval))
    return low, high


def improved(problem: ConcaveProblem, v: Array, bottom: Array, top: Array) -> Array:
    """Return the best choices (z, x) against a value that is linear between nodes."""
    continuation = problem.weights @ v

    x = problem.nodes[:, None]

    def gains(*choices: Array) -> Array:
        """Return what choices (z, x) are worth, side by side (z, x, n): one evaluation."""
        y = jnp.stack(choices, -1)
        after = interpolated(continuation, *locate(problem.nodes, y))
        return problem.reward(jnp.broadcast_to(x, y.shape), y) + after

    def section(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        c, d = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
        worth = gains(c, d)
        left = worth[..., 0] >= worth[..., 1]
        return jnp.where(left, a, c), jnp.where(left, d, b)

    a, b = lax.fori_loop(0, SECTIONS, section, (bottom, top))
    best = (a + b) / 2
    i, _ = locate(problem.nodes, best)
    kinks = (jnp.clip(k, bottom, top) for k in (problem.nodes[i], problem.nodes[i + 1]))
    candidates = (bottom, top, *kinks, best)  # of equals a kink, which is where the value is known
    first = jnp.argmax(gains(*candidates), -1)
    return jnp.take_along_axis(jnp.stack(candidates, -1), first[..., None], -1)[..., 0]


def howard(problem: ConcaveProblem, start: Array) -> tuple[Array, Array, Array]:
    """Improve and evaluate until neither changes anything; return policy, ends of the choices."""
    bottom, top = ends(problem, start)

    def value_of(y: Array, v: Array) -> Array:
        reward = problem.reward(problem.nodes, y)
        return evaluate(problem, *locate(problem.nodes, y), reward, v)[0]

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        k, y, v, _ = carry
        y = lax.cond(k > 0, lambda: improved(problem, v, bottom, top), lambda: y)
        found = value_of(y, v)
        # Of differences, not levels: a constant in the reward must not end the search.
        span = jnp.max(jnp.ptp(found, axis=1)) + 1e-3 * jnp.max(jnp.abs(found))
        change = jnp.max(jnp.abs(found - v)) / jnp.where(span > 0, span, 1.0)
        change = jnp.where(k > 0, change, jnp.inf)
        return k + 1, y, found, change

    def proceed(carry: tuple[Array, ...]) -> Array:
        k, _, _, change = carry
        return (k < ROUNDS) & (change > 1e-11)

    v = jnp.zeros(problem.shape)
    carry: tuple[Array, ...] = (jnp.int32(0), start, v, jnp.asarray(jnp.inf))
    _, y, *_ = lax.while_loop(proceed, step, carry)
    return y, bottom, top


def euler(problem: ConcaveProblem, y: Array, bottom: Array, top: Array) -> Array:
    """Solve the Euler equation once, with the marginal values of a policy, linear between nodes."""
    _, slope, _ = problem.expansion(problem.nodes, y)
    marginal = problem.weights @ slope

    def excess(y: Array) -> Array:
        _, _, dy = problem.expansion(problem.nodes, y)
        return dy + interpolated(marginal, *locate(problem.nodes, y))

    def halve(_: int, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = pair
        middle = (low + high) / 2
        more = excess(middle) > 0.0
        return jnp.where(more, middle, low), jnp.where(more, high, middle)

    low, high = lax.fori_loop(0, HALVINGS, halve, (bottom, top))
    found = (low + high) / 2
    at_bottom, at_top = lax.map(excess, jnp.stack([bottom, top]))
    found = jnp.where(at_bottom <= 0.0, bottom, jnp.where(at_top >= 0.0, top, found))
    return jnp.where(jnp.isfinite(problem.reward(problem.nodes, found)), found, y)


def policies(problem: ConcaveProblem, start: Array) -> tuple[Array, Array, Array]:
    """Return policies (n, z, x) that bounds may be narrow for, and the ends (z, x) of the choices.

    The first moves from kink to kink of the value, the second solves the Euler equation; which is
    better differs from model to model.
    """
    y, bottom, top = howard(problem, start)
    smooth = lax.fori_loop(0, EULER_STEPS, lambda _, y: euler(problem, y, bottom, top), y)
    return jnp.stack([y, smooth]), bottom, top
