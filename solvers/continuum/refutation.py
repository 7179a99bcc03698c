r"""Tests of what bounds over a continuum assume: whether a counterexample to concavity is found.

The conclusions are tested, which need no concavity: that one Bellman step does not raise the upper
bound, ``TU <= U``, and that a step of the interpolated policy does not lower the lower one,
``T Il >= Il``, at random states; and the tangent planes of the reward, at random pairs of feasible
state and choice and at the policy's own. Slopes that rise and Hessians at the policy's pairs are no
test: slopes rise in right solutions, and both stay silent in wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.numerics.tracing import EPS

from .bounds import ContinuumBounds, least_line
from .policy import ends, interpolated, locate
from .problem import ConcaveProblem, feasible_start

POINTS = 400
"""Random states, and random pairs."""

TABLE = 801
"""Choices that each of the states is tried with, beside the nodes."""

SLACK = 1e-10
"""What the lower bound may fall, of its span: a policy found by iterations is not quite optimal."""

TOUCH = 1e-12
"""How far beyond its ends an interpolated choice may be rounded, of the range of choices."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Refutation:
    """The worst violation of each test, positive where one is refuted, and where it was found.

    Attributes
    ----------
    upper, lower, planes : float
        How far beyond rounding ``TU - U``, ``Il - T Il`` and reward less tangent plane go.
    upper_at, lower_at, planes_at : array (3,)
        The member of the joint chain, the state and the choice.
    """

    upper: Array
    lower: Array
    planes: Array
    upper_at: Array
    lower_at: Array
    planes_at: Array


def refute(
    problem: ConcaveProblem, y: Array, lower: Array, found: ContinuumBounds, seed: int = 0
) -> Refutation:
    """Look for a counterexample.

    Parameters
    ----------
    problem : ConcaveProblem
    y, lower : array (z, x)
        The policy that the upper bound is made with, and the lower bound that it gives. (That of a
        policy that is far from optimal need not be concave, and its interpolation falls then.)
    found : ContinuumBounds
    seed : int
        Of the random states and pairs.
    """
    nodes = problem.nodes
    keys = jax.random.split(jax.random.key(seed), 2)
    drawn = jax.random.uniform(keys[0], (POINTS,), minval=nodes[0], maxval=nodes[-1])
    there = replace(problem, nodes=drawn)
    bottom, top = ends(there, feasible_start(there))
    share = jax.random.uniform(keys[1], bottom.shape)
    # Rounding is relative to levels, what is not concave to differences: a constant in the reward
    # must not hide it.
    level = jnp.max(jnp.abs(found.upper)) + jnp.max(jnp.abs(found.slopes * nodes))
    rounding = 64 * EPS * level
    slack = SLACK * jnp.max(jnp.ptp(found.upper, axis=1)) + rounding

    upper, upper_at = _upper(problem, there, found)
    cells = nodes[:-1] + jnp.resize(share[0], (nodes.shape[0] - 1,)) * jnp.diff(nodes)
    fall, fall_at = _lower(problem, jnp.concatenate([drawn, cells]), y, lower)
    choices = bottom + share * (top - bottom)
    planes, planes_at = _planes(problem, y, drawn, choices)
    return Refutation(upper - rounding, fall - slack, planes, upper_at, fall_at, planes_at)


def _upper(problem: ConcaveProblem, there: ConcaveProblem, found: ContinuumBounds
           ) -> tuple[Array, Array]:  # fmt: skip
    """Return the largest ``TU - U`` over the random states, by a table of choices."""
    nodes, n_z = problem.nodes, problem.shape[0]
    low, high = problem.interval
    even = low + jnp.linspace(0.0, 1.0, TABLE) * (high - low)
    table = jnp.sort(jnp.concatenate([even, jnp.clip(nodes, low, high)]))
    lines = (found.lines, found.slopes)
    continuation = problem.weights @ least_line(
        nodes, *lines, jnp.broadcast_to(table, (n_z, table.shape[0]))
    )
    x = jnp.broadcast_to(there.nodes[None, :, None], (n_z, POINTS, 1))
    q = there.reward(x, table[None, None, :]) + continuation[:, None, :]
    best = jnp.max(q, -1)
    bound = least_line(nodes, *lines, jnp.broadcast_to(there.nodes, (n_z, POINTS)))
    return _worst(best - bound, there.nodes, table[jnp.argmax(q, -1)])


def _lower(problem: ConcaveProblem, x: Array, y: Array, lower: Array) -> tuple[Array, Array]:
    """Return the largest ``Il - T Il`` over states x, of the policy interpolated there.

    One of the states is in each cell: a policy that jumps over a hole does so in one cell alone.
    """
    nodes, n_z = problem.nodes, problem.shape[0]
    there = replace(problem, nodes=x)
    i, t = locate(nodes, jnp.broadcast_to(x, (n_z, x.shape[0])))
    choice, value = interpolated(y, i, t), interpolated(lower, i, t)
    # Where a constraint binds at both ends of a cell, it does between them but for rounding.
    bottom, top = ends(there, feasible_start(there))
    low, high = problem.interval
    nearest = jnp.clip(choice, bottom, top)
    choice = jnp.where(jnp.abs(nearest - choice) <= TOUCH * (high - low), nearest, choice)
    after = interpolated(problem.weights @ lower, *locate(nodes, choice))
    return _worst(value - there.reward(x, choice) - after, x, choice)


def _planes(problem: ConcaveProblem, y: Array, x: Array, choices: Array) -> tuple[Array, Array]:
    """Return the farthest that the reward goes above a tangent plane, at random and node pairs."""
    every = max(1, problem.shape[1] // 200)
    nodes, y = problem.nodes[::every], y[:, ::every]
    reward, dx, dy = problem.expansion(nodes, y)
    x = jnp.concatenate([x, nodes])
    choices = jnp.concatenate([choices, y], 1)
    here = problem.reward(jnp.broadcast_to(x, choices.shape), choices)
    across, up = x[:, None] - nodes, choices[:, :, None] - y[:, None, :]
    plane = reward[:, None, :] + dx[:, None, :] * across + dy[:, None, :] * up
    terms = (
        jnp.abs(reward)[:, None, :]
        + jnp.abs(dx)[:, None, :] * jnp.abs(across)
        + (jnp.abs(dy)[:, None, :] * jnp.abs(up))
    )
    above = jnp.max(here[:, :, None] - plane - 1e-12 * (terms + jnp.abs(here)[:, :, None]), -1)
    return _worst(above, x, choices)


def _worst(violation: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the largest entry of (z, n), what is no number counting as that, and where it is."""
    violation = jnp.where(jnp.isnan(violation), jnp.inf, violation)
    flat = jnp.argmax(violation)
    z, i = jnp.unravel_index(flat, violation.shape)
    y = jnp.broadcast_to(y, violation.shape)
    return jnp.max(violation), jnp.stack([z.astype(jnp.float64), x[i], y[z, i]])
