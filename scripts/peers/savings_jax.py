r"""Optimal savings in JAX, as the QuantEcon lectures write it: brute force over all choices.

Arrays are over (a, z). The aggregator B(v)(a, z, a') is a fused expression over all triples, and T
and the greedy policy are its maximum and argmax along the last axis. Value iteration applies T;
Howard's method solves (I − β P_σ) v = r_σ by BiCGSTAB; optimistic iteration applies T_σ m times.

Sargent and Stachurski, *Quantitative Economics with JAX*, "Optimal Savings II". Better than there:
the expectation is one matrix product, and not a sum within the aggregator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["Household", "howard", "improvements", "optimistic", "sweeps", "value_iteration"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Household:
    """The household's problem in arrays.

    Attributes
    ----------
    beta, gamma, r : float
        Discount factor, risk aversion, interest rate.
    a : array (n_a,)
        Wealth today; a part of the grid, where only a part of a sweep is wanted.
    a_next : array (n_a_next,)
        Wealth tomorrow.
    z, p : array (n_z,), array (n_z, n_z)
        Income and its transitions.
    """

    beta: Array
    gamma: Array
    r: Array
    a: Array
    a_next: Array
    z: Array
    p: Array


def _aggregate(h: Household, v: Array) -> Array:
    """Return B(v)(a, z, a'), −inf where consumption is not positive."""
    c = (1 + h.r) * h.a[:, None, None] + h.z[None, :, None] - h.a_next
    ev = (v @ h.p.T).T  # (z, a')
    return jnp.where(c > 0, c ** (1 - h.gamma) / (1 - h.gamma) + h.beta * ev, -jnp.inf)


def _sweep(h: Household, v: Array) -> Array:
    """Return Tv (a, z)."""
    return jnp.max(_aggregate(h, v), axis=2)


def _greedy(h: Household, v: Array) -> Array:
    """Return the position of the best choice (a, z)."""
    return jnp.argmax(_aggregate(h, v), axis=2)


def _reward(h: Household, policy: Array) -> Array:
    c = (1 + h.r) * h.a[:, None] + h.z - h.a_next[policy]
    return c ** (1 - h.gamma) / (1 - h.gamma)


def _expected(h: Household, policy: Array, v: Array) -> Array:
    """Return E[v(σ(a, z), z')]."""
    return (v @ h.p.T)[policy, jnp.arange(h.z.size)]


@jax.jit
def value_iteration(h: Household, tol: Array) -> tuple[Array, Array]:
    """Apply T until ``max|Tv − v| <= tol``; return the value and the number of sweeps."""

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        v, _, k = carry
        tv = _sweep(h, v)
        return tv, jnp.max(jnp.abs(tv - v)), k + 1

    start = (jnp.zeros((h.a.size, h.z.size)), jnp.inf, 0)
    v, _, k = lax.while_loop(lambda carry: carry[1] > tol, step, start)
    return v, k


@jax.jit
def howard(h: Household, tol: Array) -> tuple[Array, Array]:
    """Improve and evaluate until the policy stays; `tol` is BiCGSTAB's, relative."""

    def evaluate(policy: Array) -> Array:
        return jax.scipy.sparse.linalg.bicgstab(
            lambda v: v - h.beta * _expected(h, policy, v), _reward(h, policy), tol=tol
        )[0]

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        v, policy, _, k = carry
        better = _greedy(h, v)
        return evaluate(better), better, jnp.any(better != policy), k + 1

    policy = jnp.full((h.a.size, h.z.size), -1)
    start = (jnp.zeros((h.a.size, h.z.size)), policy, True, 0)
    # Near ties can be decided one way and the other by turns; 100 is far more than is needed.
    v, _, _, k = lax.while_loop(lambda carry: carry[2] & (carry[3] < 100), step, start)
    return v, k


@partial(jax.jit, static_argnames="steps")
def optimistic(h: Household, tol: Array, steps: int = 50) -> tuple[Array, Array]:
    """Improve once and apply T_σ `steps` times, until ``max|v' − v| <= tol``."""

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        v, _, k = carry
        policy = _greedy(h, v)
        reward = _reward(h, policy)
        new = lax.fori_loop(0, steps, lambda _, w: reward + h.beta * _expected(h, policy, w), v)
        return new, jnp.max(jnp.abs(new - v)), k + 1

    start = (jnp.zeros((h.a.size, h.z.size)), jnp.inf, 0)
    v, _, k = lax.while_loop(lambda carry: carry[1] > tol, step, start)
    return v, k


@jax.jit
def sweeps(part: Household, v: Array, n: Array) -> Array:
    """Apply T `n` times at a part of the states, evenly spread; v (a_next, z) changes there only.

    So a sweep's cost can be had from a part, with all that XLA makes of the loop: it takes the
    rewards out of it, if there is room.
    """
    return _partly(part, v, n, lambda v: _sweep(part, v))


@jax.jit
def improvements(part: Household, v: Array, n: Array) -> Array:
    """Find the greedy policy `n` times at a part of the states, and apply it once each time."""

    def step(v: Array) -> Array:
        policy = _greedy(part, v)
        return _reward(part, policy) + part.beta * _expected(part, policy, v)

    return _partly(part, v, n, step)


def _partly(part: Household, v: Array, n: Array, step: Callable[[Array], Array]) -> Array:
    every = -(-part.a_next.size // part.a.size)
    return lax.fori_loop(0, n, lambda _, v: v.at[::every].set(step(v)), v)
