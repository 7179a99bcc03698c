"""A model whose intervals are replaced by lists of choices, to be read off its definition.

An entry of a list stands for an amount, which the state and the choices before it decide: a share
of the interval, or what leads to a node of the next state. The functions of the model are given
amounts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model

from .continuous import signed
from .pairs import SLACK, UNITS

TOUCH = 1e-12
"""How far beyond an end of its interval a choice may lie, of the ends: by rounding."""

Env = Mapping[str, Any]


@dataclass(frozen=True)
class Shares:
    """A list that cuts each interval evenly, with both ends."""

    model: Model
    count: int

    def menu(self, name: str) -> NDArray[Any]:
        """Return the entries."""
        del name
        return np.linspace(0.0, 1.0, self.count)

    def names(self) -> set[str]:
        """Return what amounts depend on, beside the ends of intervals."""
        return set()

    def amount(self, env: Env, entry: Any, low: Any, high: Any) -> tuple[Any, Any]:
        """Return the amount of an entry, and whether it is in the interval."""
        del env
        inside = jnp.where(entry == 1.0, high, low + entry * (high - low))
        return jnp.where(low <= high, inside, low), low <= high


@dataclass(frozen=True)
class Targets:
    """A list of the nodes that the one continuous choice leads to, and of its interval's ends.

    The next state is affine in the choice; with shocks it is that of the likeliest ones.
    """

    model: Model
    state: str
    choice: str

    @property
    def nodes(self) -> NDArray[Any]:
        """The nodes of the state."""
        return np.asarray(self.model.grid_of(self.state).values, np.float64)

    def menu(self, name: str) -> NDArray[Any]:
        """Return the entries: numbers of nodes, and two more for the ends."""
        del name
        return np.arange(self.nodes.size + 2, dtype=np.float64)

    def names(self) -> set[str]:
        """Return what amounts depend on, beside the ends of intervals."""
        rule = self.model.transition[self.state]
        named = set() if isinstance(rule, str) else set(inspect.signature(rule).parameters)
        return named - {self.choice, *self.model.shocks}

    def amount(self, env: Env, entry: Any, low: Any, high: Any) -> tuple[Any, Any]:
        """Return the amount of an entry, and whether it is in the interval."""
        rule, n = self.model.transition[self.state], self.nodes.size
        target = jnp.asarray(self.nodes)[jnp.clip(entry.astype(int), 0, n - 1)]
        own = target
        if not isinstance(rule, str):
            likely = {
                w: np.asarray(s.values)[int(np.argmax(np.asarray(s.probs)))]
                for w, s in self.model.shocks.items()
                if w in inspect.signature(rule).parameters
            }

            def reached(choice: float) -> Any:
                at = {**env, **likely, self.choice: choice}
                return rule(**{k: at[k] for k in inspect.signature(rule).parameters})

            at_zero, at_one = reached(0.0), reached(1.0)
            own = (target - at_zero) / (at_one - at_zero)
        touch = TOUCH * (1.0 + jnp.abs(low) + jnp.abs(high))
        inside = (own >= low - touch) & (own <= high + touch)
        own = jnp.clip(own, low, jnp.maximum(low, high))
        own = jnp.where(entry == n, low, jnp.where(entry == n + 1, high, own))
        return own, (low <= high) & (inside | (entry >= n))


def listed(model: Model, entries: Shares | Targets, grid: tuple[str, Grid] | None = None) -> Model:
    """Return a model with lists in place of intervals; perhaps with another grid of a state."""
    own = model.continuous
    bare: Any = None

    def needed(names: set[str]) -> list[str]:
        found = set(names)
        for name in reversed(own):
            if name in found:
                ends = [e for e in (own[name].lo, own[name].hi) if callable(e)]
                found |= {k for e in ends for k in inspect.signature(e).parameters}
                found |= entries.names()
        return sorted(found)

    def amounts(env: Env) -> tuple[dict[str, Any], Any]:
        found, possible = dict(env), jnp.asarray(True)
        for name in own:
            if name in env:
                low, high = _ends(model, name, found)
                found[name], inside = entries.amount(found, jnp.asarray(env[name]), low, high)
                possible = possible & inside
        return found, possible

    def wrapped(f: Any) -> Any:
        if isinstance(f, str):
            return wrapped(signed(lambda **at: at[f], [f])) if f in own else f
        if not callable(f) or not set(inspect.signature(f).parameters) & set(own):
            return f
        names = list(inspect.signature(f).parameters)

        def given(**at: Any) -> Any:
            found, _ = amounts(at)
            return f(**{k: found[k] for k in names})

        return signed(given, needed(set(names)))

    conditions: list[Callable[..., Any]] = list(model.conditions)
    moving = [n for n, spec in model.states.items() if isinstance(spec, Grid)]
    rules = [] if model.post else [model.transition[n] for n in moving]
    taken = {k for f in (*conditions, *rules) for k in _names(f)} | {*own}

    def feasible(**at: Any) -> Any:
        found, possible = amounts(at)
        for f in conditions:
            possible = possible & jnp.asarray(f(**{k: found[k] for k in _names(f)}), bool)
        for name, rule in zip(moving, rules, strict=False):
            there = rule(**{k: found[k] for k in _names(rule)}) if callable(rule) else found[rule]
            possible = possible & ~_leaves(model.states[name], there)
        return possible

    states = dict(model.states)
    if grid is not None:
        states[grid[0]] = grid[1]
    return replace(
        model,
        states=states,
        choices={n: Grid(entries.menu(n)) if n in own else c for n, c in model.choices.items()},
        transition={n: wrapped(f) for n, f in model.transition.items()},
        reward=tuple(wrapped(f) for f in model.reward),
        feasible=signed(feasible, needed(taken)),
        discount=wrapped(model.discount),
        shocks={n: replace(s, probs=wrapped(s.probs)) for n, s in model.shocks.items()},
        post={n: replace(p, rule=wrapped(p.rule)) for n, p in model.post.items()},
        outputs={n: wrapped(f) for n, f in model.outputs.items()},
        moments={},
        monotone={},
        concave=bare,
        increasing=(),
        marginal={},
        inverse_marginal={},
    )


def amount_of(model: Model, entries: Shares, name: str) -> Callable[..., Any]:
    """Return the function that tells what a share of a choice is, of states and earlier shares."""
    inner = replace(model, outputs={name: signed(lambda **at: at[name], [name])})
    found: Callable[..., Any] = listed(inner, entries).outputs[name]
    return found


def ends_of(model: Model, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the ends of an interval as functions of states and earlier choices."""
    ends = [e for e in (model.continuous[name].lo, model.continuous[name].hi) if callable(e)]
    names = sorted({k for e in ends for k in inspect.signature(e).parameters})
    return (
        signed(lambda **at: _ends(model, name, at)[0], names),
        signed(lambda **at: _ends(model, name, at)[1], names),
    )


def _names(f: Any) -> list[str]:
    return [f] if isinstance(f, str) else list(inspect.signature(f).parameters)


def _ends(model: Model, name: str, env: Env) -> tuple[Any, Any]:
    """Return both ends of an interval; the lower one may lie above the upper."""
    interval = model.continuous[name]
    ends: list[Any] = [-np.inf, np.inf]
    if interval.state is not None:
        values = np.asarray(model.grid_of(interval.state).values, np.float64)
        ends = [values[0], values[-1]]
    cuts = [
        e if not callable(e) else e(**{k: env[k] for k in inspect.signature(e).parameters})
        for e in (interval.lo, interval.hi)
    ]
    low = ends[0] if cuts[0] is None else jnp.maximum(cuts[0], ends[0])
    high = ends[1] if cuts[1] is None else jnp.minimum(cuts[1], ends[1])
    return jnp.asarray(low, jnp.float64), jnp.asarray(high, jnp.float64)


def _leaves(spec: Any, place: Any) -> Any:
    """Tell whether a next state lies beyond its grid, on a side where that is no choice."""
    values = np.asarray(spec.values, np.float64)
    first, last = np.diff(values)[[0, -1]]
    units = UNITS * max(abs(values[0]), abs(values[-1]))
    bottom, top = (side == "error" for side in spec.sides)
    off = bottom & (place < values[0] - max(SLACK * first, units))
    return off | (top & (place > values[-1] + max(SLACK * last, units)))
