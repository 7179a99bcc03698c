r"""One period of simulated agents: draws, moves, records, inside a trace.

An agent lives on the grid. Each period it is at a node :math:`s`, makes the choice
:math:`\pi(s)`, draws shocks :math:`w` with the probabilities they have there, and moves: a rule
that leads between two points of a grid is a lottery between them with the weights of linear
interpolation (Young, 2010, *Journal of Economic Dynamics and Control* 34), and a Markov state moves
by its chain. These are the weights that :math:`P_\pi` takes expectations with, so that the law of a
panel is the very chain whose stationary distribution :func:`dpsolve.stationary` computes. What
depends on a shock, a rule or an output, sees the same draw of it. A post-decision variable is
decided before the move, by a lottery of its own where it lies between two points of its grid.

Draws are by inversion: the smallest outcome whose cumulative probability exceeds a uniform number,
found by bisection of the row. An alias table would take two lookups in place of
:math:`\lceil \log_2 n \rceil` (a period of `savings` with 25 incomes would take 5 ns and not 11);
inversion keeps the order, so that two panels with one key at neighbouring parameters meet the same
luck and their difference has little noise.

Every draw has its place in the agent's stream (:mod:`.streams`): place 0 is for the initial node,
and period :math:`t` has one place for each shock, each state and each post variable of the model,
from :math:`1 + t \times` (shocks + states + post variables) on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.operators.named_arrays import NamedArray

from .streams import Keys, agent_keys, uniform
from .tables import PolicyTables


def _look(x: NamedArray, at: Mapping[str, Array]) -> Array:
    """Look up a table at the positions of many agents."""
    position = _position(x.dims, x.array.shape, at)
    return x.array.ravel().at[position].get(mode="promise_in_bounds")


def _position(dims: Sequence[str], shape: Sequence[int], at: Mapping[str, Array]) -> Array:
    agents = next(iter(at.values()))
    kind = jnp.int32 if prod(shape) < 2**31 else jnp.int64
    position = jnp.zeros(agents.shape, kind)
    for dim, size in zip(dims, shape, strict=True):
        position = position * size + at[dim].astype(kind)
    return position


def invert(cumulative: Array, start: Array, last: Array | int, longest: int, u: Array) -> Array:
    """Return the first entry of each row that exceeds `u`, by bisection: an int32 from 0.

    Parameters
    ----------
    cumulative : array (entries,)
        Rows of cumulative probabilities.
    start, last : int arrays (agents,)
        Where each agent's row begins, and its last entry.
    longest : int
        Entries of the longest row.
    u : array (agents,)
        In [0, 1).
    """
    found = jnp.zeros(u.shape, jnp.int32)
    step = 1 << max(longest - 1, 0).bit_length() >> 1
    while step:
        further = found + step
        below = cumulative.at[start + (further - 1)].get(mode="clip") <= u
        found = jnp.where(below & (further <= last), further, found)
        step >>= 1
    return found


def _draw(x: NamedArray, at: Mapping[str, Array], u: Array) -> Array:
    """Draw from the rows of cumulative probabilities along the last axis of `x`."""
    n, none = x.array.shape[-1], jnp.zeros(u.shape, jnp.int32)
    start = _position(x.dims, x.array.shape, {**at, x.dims[-1]: none})
    return invert(x.array.ravel(), start, n - 1, n, u)


def _step(
    tables: PolicyTables, at: dict[str, Array], keys: Keys, t: Array
) -> tuple[Any, dict[str, Array]]:
    """Draw the shocks of period `t`; return the positions with them, and the next states'."""
    base = jnp.uint32(1) + t.astype(jnp.uint32) * np.uint32(len(tables.draws))

    def luck(name: str) -> Array:
        # The barrier keeps XLA from making the number anew in each step of the bisection.
        number = uniform(keys, base + np.uint32(tables.draws.index(name)))
        made: Array = lax.optimization_barrier(number)
        return made

    if tables.rows is not None:
        rows, state = tables.rows, at["state"]
        start = rows.start[state]
        entry = start + invert(
            rows.cumulative, start, rows.last[state], rows.longest, luck("state")
        )
        return at, {"state": rows.columns.at[entry].get(mode="promise_in_bounds")}

    def moved(name: str, now: dict[str, Array]) -> Array:
        index, weight = tables.moves[name]
        to = _look(index, now)
        return to if weight is None else to + (luck(name) < _look(weight, now)).astype(jnp.int32)

    now = dict(at)
    for name in tables.drawn:
        law = tables.shocks.get(name)
        now[name] = moved(name, now) if law is None else _draw(law, now, luck(name))
    after = {
        name: _draw(tables.chains[name], now, luck(name))
        if name in tables.chains
        else moved(name, now)
        for name, _ in tables.states
    }
    return now, after


def _begin(tables: PolicyTables, start: Array, keys: Keys) -> dict[str, Array]:
    """Draw the initial nodes from the cumulative masses (states,), flattened."""
    u = uniform(keys, jnp.uint32(0))
    node = invert(start, jnp.zeros(u.shape, jnp.int32), start.shape[0] - 1, start.shape[0], u)
    indices = jnp.unravel_index(node, tables.shape)
    return {name: i.astype(jnp.int32) for (name, _), i in zip(tables.states, indices, strict=True)}


def _burn(tables: PolicyTables, at: dict[str, Array], keys: Keys, burn: int) -> dict[str, Array]:
    if burn == 0:
        return at
    moved: dict[str, Array] = lax.fori_loop(0, burn, lambda t, x: _step(tables, x, keys, t)[1], at)
    return moved


Static = partial(jax.jit, static_argnames=("agents", "periods", "burn", "by_period"))


@Static
def panel(
    tables: PolicyTables,
    start: Array,
    key: Keys,
    first: Array,
    *,
    agents: int,
    periods: int,
    burn: int = 0,
    by_period: bool = False,
) -> dict[str, Array]:
    """Follow some agents and record the variables of the tables.

    Parameters
    ----------
    tables : PolicyTables
    start : array (states,)
        Cumulative masses of the initial distribution, over all states flattened.
    key : (uint32, uint32)
    first : uint32
        Number of the first agent.
    agents, periods, burn : int
        How many agents and periods, and how many periods before these go unrecorded.
    by_period : bool
        Whether the tables' arrays have an axis of periods.

    Returns
    -------
    dict of str to array (periods, agents)
    """
    keys = agent_keys(key, first + jnp.arange(agents, dtype=jnp.uint32))
    at = _burn(tables, _begin(tables, start, keys), keys, burn)

    def period(at: dict[str, Array], x: Any) -> tuple[dict[str, Array], dict[str, Array]]:
        t, here = x if by_period else (x, tables)
        now, after = _step(here, at, keys, t)
        return after, {name: _look(table, now) for name, table in here.values.items()}

    t = jnp.arange(burn, burn + periods)
    recorded: dict[str, Array] = lax.scan(period, at, (t, tables) if by_period else t)[1]
    return recorded


@Static
def tally(
    tables: PolicyTables,
    start: Array,
    key: Keys,
    first: Array,
    group: Array,
    shares: tuple[Array, ...],
    groups: Array,
    *,
    agents: int,
    periods: int,
    burn: int = 0,
    by_period: bool = False,
) -> tuple[Array, tuple[Array, ...]]:
    """Follow some agents and count where they are.

    Parameters
    ----------
    tables, start, key, first, agents, periods, burn, by_period
        As for `panel`.
    group : int array (agents,)
        The group that each agent counts for; one outside of `groups` counts for none.
    shares : tuple of arrays (states,)
        Functions of the state, flattened, to be summed over each agent's time; without a horizon.
    groups : array (groups, 0)
        Its length is the number of groups.

    Returns
    -------
    counts : int64 array (groups, states), with a horizon (periods, groups, states)
        Visits of each state.
    sums : tuple of arrays (agents,)
        Of each function, over the periods.
    """
    keys = agent_keys(key, first + jnp.arange(agents, dtype=jnp.uint32))
    at = _burn(tables, _begin(tables, start, keys), keys, burn)
    n, names = prod(tables.shape), tuple(name for name, _ in tables.states)
    base = group.astype(jnp.int64) * n
    none = jnp.zeros(groups.shape[0] * n, jnp.int64)

    def period(carry: Any, x: Any) -> tuple[Any, Any]:
        at, counts, sums = carry
        t, here = x if by_period else (x, tables)
        node = _position(names, tables.shape, at)
        counts = counts.at[base + node].add(1, mode="drop")
        sums = tuple(
            total + share.at[node].get(mode="promise_in_bounds")
            for total, share in zip(sums, shares, strict=True)
        )
        after = _step(here, at, keys, t)[1]
        return (after, none if by_period else counts, sums), counts if by_period else None

    t = jnp.arange(burn, burn + periods)
    zero = tuple(jnp.zeros(agents) for _ in shares)
    carry, each = lax.scan(period, (at, none, zero), (t, tables) if by_period else t)
    counts = each if by_period else carry[1]
    return counts.reshape(*counts.shape[:-1], groups.shape[0], n), carry[2]
