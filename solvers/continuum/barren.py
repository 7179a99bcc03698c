r"""Nodes where every choice pays -inf, and what of the bounds holds beside them.

Without wealth or income nothing can be consumed, and the value is :math:`-\infty`. An upper bound
needs no such node. A lower one says nothing of a cell that has one for a corner; so it is made of a
policy that lets no possible next state come into such a cell, and of nothing else: with C the
cells that are left, :math:`T_y v^* \le v^*` on their nodes as before, for v* is concave, and finite
on C. Where no choice leads into C the lower bound is -inf, too, and there is less of C for the
nodes before. What is left between the nodes is C: numbers such as the error bound are of it.

With C a box, a choice is moved to where the next state is inside, if it was not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from .bounds import places_of
from .cells import lenders
from .euler import Policy
from .optimum import NEAR
from .problem import ContinuousProblem

ASIDE = 1e-12
"""How far inside a next state is put, of the size of the states: rounding must not lead out."""


def worthless(problem: ContinuousProblem, policy: Policy) -> tuple[Policy, Array]:
    """Tell at which nodes (z, n) choices are allowed and pay -inf; the least is chosen there."""

    def one(x: Array, z: Array, y: Array, found: Array) -> tuple[Array, Array]:
        least, real = _least(problem, x, z)
        pays = problem.reward(x, least, z)
        poor = ~found & real & problem.allowed(x, least, z) & (pays == -jnp.inf)
        return jnp.where(poor, least, y), poor

    y, poor = problem.each(one, policy.y, policy.found)
    return policy._replace(y=y, found=policy.found | poor), poor


def pays_nothing(problem: ContinuousProblem, x: Array, y: Array, z: Array) -> Array:
    """Tell whether a choice is allowed and pays -inf, as the least one and those above it do."""
    least, real = _least(problem, x, z)
    middle = least
    for j in range(y.size):
        low, high = problem.ends(j, x, middle, z)
        middle = middle.at[j].set((low + high) / 2)
    least, middle, own = (problem.reward(x, c, z) for c in (least, middle, y))
    poor = (own == -jnp.inf) & (least == -jnp.inf) & ~jnp.isfinite(middle)
    return real & poor & problem.allowed(x, y, z)


def _least(problem: ContinuousProblem, x: Array, z: Array) -> tuple[Array, Array]:
    """Return the least of all choices, one after the other, and whether there is one."""
    least = jnp.zeros(len(problem.choices))
    real: list[Array] = []
    for j in range(len(problem.choices)):
        low, high = problem.ends(j, x, least, z)
        least, real = least.at[j].set(low), [*real, low <= high]
    return least, jnp.stack(real).all()


def kept_alive(
    problem: ContinuousProblem,
    y: Array,
    poor: Array,
    after: Array | None = None,
    move: bool = True,
) -> tuple[Array, Array]:
    """Return a policy whose next states stay off the cells of dead nodes, and where it cannot.

    Parameters
    ----------
    y : array (z, n, m)
    poor : bool array (z, n)
        Nodes where all choices pay -inf.
    after : bool array (z, n), optional
        With a horizon, dead nodes of the next period. Without, those that are lost are themselves
        lost to the others.
    move : bool
        Whether the policy may be changed, or is only looked at.

    Returns
    -------
    y : array (z, n, m)
        As it was where it cannot.
    dead : bool array (z, n)
    """

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, dead, _ = carry
        new, lost = _kept(problem, y, dead if after is None else after, move)
        more = dead | lost
        return new, more, jnp.any(more != dead) if after is None else jnp.asarray(False)

    # Where nothing is dead there is nothing to do, and the loop has no round.
    begin = poor.any() if after is None else (poor | after).any()
    y, dead, _ = lax.while_loop(lambda carry: carry[2], step, (y, poor, begin))
    return y, dead


def _kept(problem: ContinuousProblem, y: Array, dead: Array, move: bool) -> tuple[Array, Array]:
    """Move a policy off the cells of dead nodes of the next period; tell where it cannot."""
    deadly = unreachable(problem, dead)
    bottom, top, _ = _box(problem, deadly)
    movers = [
        [j for j, c in enumerate(problem.choices)
         if c in problem.depends_on(problem.model.transition[n])] for n in problem.states
    ]  # fmt: skip

    def kept(j: int, x: Array, z: Array, y: Array) -> Array:
        low, high = problem.ends(j, x, y, z)
        choice = jnp.clip(y[j], low, jnp.maximum(low, high))
        for i, own in enumerate(movers):
            if not own or own[-1] != j:
                continue
            at_zero, slope = problem.reach(i, j, x, y, z)
            flat = slope == 0.0
            ends = [(e[z, i] - at_zero) / jnp.where(flat, 1.0, slope) for e in (bottom, top)]
            least = jnp.where(flat, -jnp.inf, jnp.minimum(*ends))
            most = jnp.where(flat, jnp.inf, jnp.maximum(*ends))
            choice = jnp.clip(choice, jnp.max(least), jnp.min(most))
        return y.at[j].set(choice)

    def one(x: Array, z: Array, y: Array) -> tuple[Array, Array]:
        new = y
        for j in range(y.size if move else 0):
            new = kept(j, x, z, new)
        fine = problem.feasible(x, new, z)
        for j in range(y.size):
            low, high = problem.ends(j, x, new, z)
            touch = NEAR * (1.0 + jnp.abs(low) + jnp.abs(high))
            fine = fine & (new[j] >= low - touch) & (new[j] <= high + touch)
        return new, fine

    new, fine = problem.each(one, y)
    places = places_of(problem, new)
    members = jnp.arange(problem.shape[0])[:, None, None, None]
    falls = jnp.any(deadly[members, places.node] & (places.weight > 0.0), (2, 3))
    lost = ~fine | falls
    return jnp.where(lost[..., None], y, new), lost


def escapes(problem: ContinuousProblem, dead: Array) -> Array:
    """Tell whether a policy between nodes may come into a cell with a dead corner all the same.

    The next states of a cell lie between those of its corners: in a box where these do.
    """
    return _box(problem, unreachable(problem, dead))[2]


def filled(problem: ContinuousProblem, lower: Array, slope: Array) -> Array:
    """Return a lower bound (z, n) that is finite, along lines (z, n, d) from the nearest node.

    Of more nodes the concave envelope is no lower, and the interpolation on C is the same.
    """

    def one(lower: Array, slope: Array) -> Array:
        lender = lenders(problem, jnp.isfinite(lower))
        there = lower[lender] + jnp.sum(slope[lender] * (problem.nodes - problem.nodes[lender]), -1)
        return jnp.where(jnp.isneginf(there), 0.0, there)

    found: Array = jax.vmap(one)(lower, slope)
    return jnp.where(jnp.isneginf(lower), found, lower)


def unreachable(problem: ContinuousProblem, dead: Array) -> Array:
    """Return the nodes (z, n) that may not be reached from a member of the chain."""
    return (problem.weights > 0.0) @ dead.astype(jnp.float64) > 0.0


def _box(problem: ContinuousProblem, deadly: Array) -> tuple[Array, Array, Array]:
    """Return a box (z, d), (z, d) with no such node inside, and whether there is none.

    One state after the other loses its first and last nodes, where that is of use. A box without
    a limit is infinite on that side.
    """
    left = deadly.reshape(-1, *problem.sizes)
    ends: list[tuple[Array, Array]] = []
    for i, grid in enumerate(problem.grids):
        values = jnp.asarray(grid.values, jnp.float64)
        aside = ASIDE * (jnp.abs(values[0]) + jnp.abs(values[-1]))
        others = tuple(k + 1 for k in range(len(problem.grids)) if k != i)
        slab = left.any(others)  # (z, node)
        useful = ~slab.all(1, keepdims=True)
        first = jnp.where(useful, jnp.argmin(slab, 1, keepdims=True), 0)
        last = grid.size - 1 - jnp.argmin(slab[:, ::-1], 1, keepdims=True)
        last = jnp.where(useful, last, grid.size - 1)
        low = jnp.where(first > 0, values[first] + aside, -jnp.inf)
        high = jnp.where(last < grid.size - 1, values[last] - aside, jnp.inf)
        ends.append((low[:, 0], high[:, 0]))
        place = jnp.arange(grid.size)
        inside = (place >= first) & (place <= last)
        shape = [-1, *(n if k == i else 1 for k, n in enumerate(problem.sizes))]
        left = left & inside.reshape(shape)
    low, high = (jnp.stack(e, -1) for e in zip(*ends, strict=True))
    return low, high, left.any()
