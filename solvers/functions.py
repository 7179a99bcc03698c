"""A model's functions, evaluated over named axes: what it says of states, choices and shocks.

All choices together are one axis, flattened in C order. Every method takes the choices it is asked
about as an index with named axes: one block of choices, all of them, or one for each state (a
policy) serve alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .binding import arguments
from .contraction import CHOICE
from .cut import Cut
from .grids import Grid, Integers, is_concrete
from .locate import Location, locate
from .model import Model
from .named import Named, add, mapped, multiply, total, where

__all__ = ["BLOCK", "Functions", "Pairs"]

Array = Any
BLOCK = "#"  # the axis of blocks of choices, when all are looked at together


class Functions:
    """A model's functions over named axes.

    Parameters
    ----------
    model : Model
        At one parameter point; its arrays may be traced.
    t : int array, optional
        The period, with a horizon.
    cut : Cut, optional
        The state of which this device has a part.
    """

    def __init__(self, model: Model, t: Array | None = None, cut: Cut | None = None) -> None:
        self.model = model
        self.cut = cut
        self.order = (*model.states, BLOCK, CHOICE, *model.shocks)
        self.n_choices = prod(model.size_of(c) for c in model.choices)
        # The barrier keeps XLA from evaluating a model without parameters at compile time, which
        # takes it longer than running it.
        self.env: dict[str, Named] = {
            name: Named(lax.optimization_barrier(jnp.asarray(spec.values)), (name,))
            for name, spec in (*model.states.items(), *model.shocks.items())
        }
        if cut is not None:
            whole = self.env[cut.state]
            self.env[cut.state] = Named(whole.array[cut.index()], whole.dims)
        if t is not None:
            self.env["t"] = Named(jnp.asarray(t))
        self.vanishing = [w for w, s in model.shocks.items() if not _all_positive(s.probs)]

    def axes_of(self, f: Any) -> frozenset[str]:
        """Return the axes that a rule or function depends on, as its signature tells."""
        names = (f,) if isinstance(f, str) else arguments(f, self.model.arguments)
        choices = self.model.choices
        return frozenset(CHOICE if n in choices else n for n in names if n != "t")

    def shares_grid(self, state: str, rule: Any) -> bool:
        """Tell whether a rule names a choice or state on the very grid of a state."""
        if not isinstance(rule, str):
            return False
        model = self.model
        if rule in model.choices:
            return model.choices[rule] == state or model.choices[rule] is model.states[state]
        return model.states[rule] is model.states[state]

    def positions(self, state: str) -> Array:
        """Return the positions on its grid of a state's members that this device has."""
        if self.cut is not None and state == self.cut.state:
            return self.cut.index()
        return jnp.arange(self.model.size_of(state), dtype=jnp.int32)

    def is_exact(self, state: str) -> bool:
        """Tell whether a state's next value is a member of its grid, and not interpolated."""
        return isinstance(self.model.states[state], Integers) or self.shares_grid(
            state, self.model.transition[state]
        )

    def choice_index(self, index: Named) -> dict[str, Named]:
        """Split a flattened choice into an index for each choice."""
        parts = {}
        stride = self.n_choices
        for name in self.model.choices:
            n = self.model.size_of(name)
            stride //= n
            parts[name] = Named(index.array // stride % n, index.dims)
        return parts

    def choice_values(self, index: Named) -> dict[str, Named]:
        """Return each choice's grid value."""
        values = {}
        for name, part in self.choice_index(index).items():
            grid = jnp.asarray(self.model.grid_of(name).values)
            values[name] = Named(grid[part.array], part.dims)
        return values

    def probability(self, shock: str, env: Mapping[str, Named]) -> Named:
        """Return a shock's probabilities: over its own axis and those of what they depend on."""
        probs = self.model.shocks[shock].probs
        if callable(probs):
            what = f"the function of probabilities of shock '{shock}'"
            return mapped(probs, env, self.order, what, own=(shock,))
        return Named(jnp.asarray(probs), (shock,))

    def average(
        self, fs: Any, env: Mapping[str, Named], probabilities: Mapping[str, Named], what: str
    ) -> Named:
        """Sum functions, each averaged over just the shocks it names."""
        parts = []
        for f in fs:
            x = mapped(f, env, self.order, what).map(lambda a: jnp.asarray(a, jnp.float64))
            parts.append(self.over_shocks(x, probabilities, self.model.shocks))
        return add(*parts)

    def over_shocks(
        self, x: Named, probabilities: Mapping[str, Named], shocks: Iterable[str]
    ) -> Named:
        """Average over shocks, those among them that a quantity depends on."""
        for w in shocks:
            if w in x.dims:
                x = total(self.possible(multiply(x, probabilities[w]), probabilities), (w,))
        return x

    def possible(self, x: Named, probabilities: Mapping[str, Named]) -> Named:
        """Zero a quantity where a shock it depends on has no chance: it may be anything there."""
        for w in self.vanishing:
            if w in x.dims:
                chance = probabilities[w].map(lambda p: p > 0)
                x = where(chance, x, Named(jnp.zeros(())))
        return x

    def feasibility(self, env: Mapping[str, Named]) -> Named | None:
        """Tell which pairs are feasible (for every shock), or None if all are."""
        if self.model.feasible is None:
            return None
        ok = mapped(self.model.feasible, env, self.order, "feasible").map(
            lambda a: jnp.asarray(a, bool)
        )
        shocks = [d for d in ok.dims if d in self.model.shocks]
        if not shocks:
            return ok
        axes = tuple(ok.dims.index(d) for d in shocks)
        return Named(ok.array.all(axes), tuple(d for d in ok.dims if d not in shocks))

    def discount(self, env: Mapping[str, Named]) -> Named:
        """Return the discount factor, over the axes it depends on."""
        if callable(self.model.discount):
            x = mapped(self.model.discount, env, self.order, "discount")
            return x.map(lambda a: jnp.asarray(a, jnp.float64))
        return Named(jnp.asarray(self.model.discount, jnp.float64))

    def location(self, state: str, env: Mapping[str, Named], index: Named | None) -> Location:
        """Find a state's next value on its grid."""
        rule = self.model.transition[state]
        if self.shares_grid(state, rule):
            if index is not None and rule in self.model.choices:
                return Location(self.choice_index(index)[str(rule)])
            return Location(Named(self.positions(str(rule)), (str(rule),)))
        if isinstance(rule, str):
            value = env[rule]
        else:
            value = mapped(rule, env, self.order, f"the transition of '{state}'")
        return locate(cast("Grid | Integers", self.model.states[state]), value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Everything the model says about some pairs of a state and a choice.

    Attributes
    ----------
    reward, raw_reward : Named
        Expected reward; -inf where infeasible, or as the model's functions have it.
    feasible : Named of bool, or None
        None where every choice is.
    discount : Named
        Discount factor.
    locations : dict of str to Location
        Next states, of the states asked for.
    probabilities : dict of str to Named
        Of every shock.
    """

    reward: Named
    raw_reward: Named | None
    feasible: Named | None
    discount: Named
    locations: dict[str, Location]
    probabilities: dict[str, Named]

    @classmethod
    def of(
        cls,
        functions: Functions,
        index: Named,
        states: Iterable[str],
        probabilities: Mapping[str, Named],
    ) -> Pairs:
        """Evaluate a model at all states and the choices in `index`.

        Parameters
        ----------
        functions : Functions
            The model's.
        index : Named of int32
            Choices.
        states : iterable of str
            States whose next values to find.
        probabilities : mapping
            Of the shocks for which they do not depend on the choice.
        """
        env = functions.env | functions.choice_values(index)
        probabilities = {
            w: probabilities[w] if w in probabilities else functions.probability(w, env)
            for w in functions.model.shocks
        }
        feasible = functions.feasibility(env)
        raw = functions.average(functions.model.reward, env, probabilities, "reward")
        reward = raw
        if feasible is not None:
            reward = where(feasible, raw, Named(jnp.asarray(-jnp.inf)))
        locations = {name: functions.location(name, env, index) for name in states}
        discount = functions.discount(env)
        return cls(reward, raw, feasible, discount, locations, probabilities)

    def lean(self) -> Pairs:
        """Return what a sweep needs: infeasible choices are masked in `reward` already."""
        return replace(self, raw_reward=None, feasible=None)


def _all_positive(probs: Any) -> bool:
    """Tell whether every value of a shock surely has a chance."""
    if callable(probs) or not is_concrete(probs):
        return False
    return bool((np.asarray(probs) > 0).all())
