"""The policy that is stored, and an interval that holds the optimal choice.

The policy is the best continuous choice against a value that is interpolated.

Where choices lead to nodes, the best node is known, with the discrete choices; the best continuous
choice is sought in the two cells beside it, by the golden ratio: within a cell the value of what
follows is linear, so that it is the reward alone that has to have one peak there.

An optimal choice is worth the true value, which is at least the lower bound. So it lies in a cell
whose upper bound reaches that: what is paid for the cell, and what is received of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.model_functions import CHOICE
from dpsolve.solvers.operators.named_arrays import NamedArray, aligned, mapped

from .landing import ByName, Landing
from .rounding import paid

BLOCK = 32  # choices that are looked at together
GOLDEN = (5.0**0.5 - 1.0) / 2.0
SECTIONS = 48  # of a cell, by the golden ratio: to 1e-10 of it


def best_share(
    operator: GridOperator,
    continuation: Any,
    chosen: Mapping[str, Array],
    choice: str,
    marks: Array,
) -> tuple[Array, Array]:
    """Return the best share (states...) of the interval between marks, and what it is worth.

    Parameters
    ----------
    operator : GridOperator
        Of the model on a table of shares (:mod:`.table`).
    continuation : NamedArray
        What follows, as the operator's expectation has it before the choice.
    chosen : mapping
        The values (states...) of the other choices.
    choice : str
        The continuous one.
    marks : array (states..., n)
        Shares, rising: between each and the next one the best is sought, and so are they.
    """
    states = operator.states
    others = {n: NamedArray(x, states) for n, x in chosen.items() if n != choice}

    def worth(share: Array) -> Array:
        values = {**others, choice: NamedArray(share, (*states, CHOICE))}
        q = operator.over_states(operator.quality(continuation, operator.pairs(values)), CHOICE)
        return jnp.where(jnp.isnan(q), -jnp.inf, q)

    def section(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        c, d = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
        n = c.shape[-1]
        both = worth(jnp.concatenate([c, d], -1))
        left = both[..., :n] >= both[..., n:]
        return jnp.where(left, a, c), jnp.where(left, d, b)

    a, b = lax.fori_loop(0, SECTIONS, section, (marks[..., :-1], marks[..., 1:]))
    candidates = jnp.concatenate([marks, (a + b) / 2], -1)
    q = worth(candidates)
    at = jnp.argmax(q, -1)[..., None]
    best, top = (jnp.take_along_axis(x, at, -1)[..., 0] for x in (candidates, q))
    return best, top


def marks_beside(
    landing: Landing, operator: GridOperator, chosen: Mapping[str, Array], node: Array
) -> Array:
    """Return the shares (states..., 3) that lead to a node (states...) and to those beside it."""
    nodes, functions, states = landing.nodes, operator.functions, operator.states
    n = nodes.shape[0] - 1

    def share(env: Mapping[str, Any]) -> Array:
        reach = landing.reach(env)
        span = reach.high - reach.low
        away = reach.choice_of(env[landing.choice]) - reach.low
        return jnp.where(span > 0.0, away / jnp.where(span > 0.0, span, 1.0), 0.0)

    f = ByName(share, (*landing.names, landing.choice))
    found = []
    for step in (-1, 0, 1):
        beside = node + step
        target = nodes[jnp.clip(beside, 0, n)]
        # Beyond the ends of the grid lies whatever is received as them.
        target = jnp.where(beside < 0, -jnp.inf, jnp.where(beside > n, jnp.inf, target))
        env = {**functions.env, **{m: NamedArray(x, states) for m, x in chosen.items()}}
        env[landing.choice] = NamedArray(target, states)
        x = mapped(f, env, functions.order, f"the interval of '{landing.choice}'")
        found.append(jnp.broadcast_to(aligned(x, states), operator.shape))
    return jnp.clip(jnp.sort(jnp.stack(found, -1), -1), 0.0, 1.0)


def optimal_choices(
    landing: Landing, operator: GridOperator, lower: Array, after: Array
) -> tuple[Array, Array]:
    """Return an interval (states...) that holds every optimal choice at each node.

    Parameters
    ----------
    landing : Landing
    operator : GridOperator
        Of the problem whose value is the upper bound.
    lower : array (states...)
        What an optimal choice is worth at least.
    after : array (states...)
        The upper bound of what follows.
    """
    functions, shape = operator.functions, operator.shape
    x = operator.expectation.before_choice(after)
    names = (*landing.names, landing.choice)
    ends = [
        ByName(lambda env, far=far: paid(landing, env, far=far), names)  # type: ignore[misc]
        for far in (False, True)
    ]

    def look(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        choice = number * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
        index = NamedArray(jnp.minimum(choice, operator.n_choices - 1), (CHOICE,))
        q = operator.over_states(operator.quality(x, operator.pairs(index)), CHOICE)
        reaches = (q >= lower[..., None]) | jnp.isnan(q)
        env = {**functions.env, **functions.choice_values(index)}
        near, far = (
            operator.over_states(mapped(f, env, functions.order, "the choice"), CHOICE)
            for f in ends
        )
        low = jnp.where(reaches, jnp.minimum(near, far), jnp.inf)
        high = jnp.where(reaches, jnp.maximum(near, far), -jnp.inf)
        return jnp.minimum(best[0], low.min(-1)), jnp.maximum(best[1], high.max(-1))

    none = jnp.full(shape, jnp.inf), jnp.full(shape, -jnp.inf)
    found: tuple[Array, Array] = lax.fori_loop(
        0, ceil(operator.n_choices / BLOCK), lambda i, best: look(jnp.int32(i), best), none
    )
    return found
