r"""Continuous choices on a table, where nothing better is known: a problem on grids, and of grids.

Each interval is cut evenly, at the shares :math:`0, 1/(K-1), \dots, 1` of what lies between its
ends at that state, with the choices before it; next states between nodes are interpolated. What is
certified is the best choice of the table against the interpolated value: a statement about this
grid, not about a continuous choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.model_functions import CHOICE, ModelFunctions
from dpsolve.solvers.operators.named_arrays import NamedArray, aligned, mapped

from .landing import ByName, call, interval_ends, leaves, names_of
from .rounding import plainly

ENTRIES = 401
"""Of a table of one continuous choice; of several, the root of it that makes so many in all."""


def shares(model: Model) -> np.ndarray[Any, Any]:
    """Return the table: shares of an interval, even, with both ends."""
    count = len(model.continuous)
    return np.linspace(0.0, 1.0, max(5, int(np.ceil(ENTRIES ** (1.0 / count)))))


def filled(model: Model, env: Mapping[str, Any]) -> tuple[dict[str, Any], Array]:
    """Return choices in place of the shares at hand, and whether no interval is empty."""
    found, possible = dict(env), jnp.asarray(True)
    for name in model.continuous:
        if name not in env:
            continue
        low, high = interval_ends(model, name, found)
        share = jnp.asarray(env[name], jnp.float64)
        inside = jnp.where(share == 1.0, high, low + share * (high - low))
        found[name] = jnp.where(low <= high, inside, low)
        possible &= low <= high
    return found, possible


def needed(model: Model, *fs: Any) -> tuple[str, ...]:
    """Return the names that functions of choices need where they are given shares."""
    known = (*model.arguments, *model.post)
    taken = set(names_of(known, *fs))
    for name in reversed(model.continuous):
        if name in taken:
            interval = model.continuous[name]
            taken |= {*names_of(known, interval.lo, interval.hi)}
    return tuple(n for n in known if n in taken)


def tabulated(model: Model) -> Model:
    """Return the model with a table of shares in place of each interval."""
    known = (*model.arguments, *model.post)

    def wrapped(f: Any) -> Any:
        if isinstance(f, str):
            return wrapped(ByName(lambda env: env[f], (f,))) if f in model.continuous else f
        if not callable(f) or not {*names_of(known, f)} & {*model.continuous}:
            return f
        return ByName(lambda env: call(f, filled(model, env)[0]), needed(model, f))

    moving = tuple(f for n, f in model.transition.items() if isinstance(model.states[n], Grid))
    named = [ByName(lambda env: 0, (f,)) if isinstance(f, str) else f for f in moving]
    own = [ByName(lambda env: 0, (name,)) for name in model.continuous]

    def feasible(env: Mapping[str, Any]) -> Any:
        actual, possible = filled(model, env)
        if model.feasible is not None:
            possible &= jnp.asarray(call(model.feasible, actual), bool)
        return possible & ~leaves(model, actual) if not model.post else possible

    taken = needed(model, model.feasible, *own, *(() if model.post else named))
    table = Grid(shares(model))
    return replace(
        model,
        choices={n: table if n in model.continuous else c for n, c in model.choices.items()},
        transition={n: wrapped(f) for n, f in model.transition.items()},
        reward=tuple(wrapped(f) for f in model.reward),
        feasible=ByName(feasible, taken),
        discount=wrapped(model.discount),
        shocks={n: replace(s, probs=wrapped(s.probs)) for n, s in model.shocks.items()},
        post={n: replace(p, rule=wrapped(p.rule)) for n, p in model.post.items()},
        outputs={n: wrapped(f) for n, f in model.outputs.items()},
        moments={},
        monotone={},
        **plainly(model),
    )


def choices_of(
    model: Model, functions: ModelFunctions, given: Mapping[str, NamedArray]
) -> dict[str, Array]:
    """Return the continuous choices (states...) of shares and discrete choices (states...)."""
    env, found = {**functions.env, **given}, {}
    for name in model.continuous:
        f = ByName(lambda env, name=name: filled(model, env)[0][name], needed(model, _of(name)))  # type: ignore[misc]
        x = mapped(f, env, functions.order, f"the interval of '{name}'")
        array = aligned(x, tuple(model.states))
        found[name] = jnp.broadcast_to(array, model.shape)
    return found


def widest(model: Model, operator: GridOperator) -> tuple[Array, Array]:
    """Return the ends (states...) of the one continuous choice, whatever the others are.

    Parameters
    ----------
    model : Model
    operator : GridOperator
        Of the model on a table.
    """
    (name,) = model.continuous
    functions = operator.functions
    names = list(model.choices)
    sizes = [operator.model.size_of(n) for n in names]
    every = np.arange(prod(sizes)).reshape(sizes).take([0, -1], names.index(name)).ravel()
    index = NamedArray(jnp.asarray(every, jnp.int32), (CHOICE,))
    env = {**functions.env, **functions.choice_values(index)}
    taken = needed(model, _of(name))

    def end(env: Mapping[str, Any], other: float) -> Array:
        low, high = interval_ends(model, name, env)
        return jnp.where(low <= high, filled(model, env)[0][name], other)

    low, high = (
        operator.over_states(
            mapped(
                ByName(lambda env, other=other: end(env, other), taken),  # type: ignore[misc]
                env,
                functions.order,
                f"the interval of '{name}'",
            ),
            CHOICE,
        )
        for other in (jnp.inf, -jnp.inf)
    )
    return low.min(-1), high.max(-1)


def _of(name: str) -> ByName:
    return ByName(lambda env: env[name], (name,))
