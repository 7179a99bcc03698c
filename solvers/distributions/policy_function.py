"""A policy as a function of the states: linear between the nodes at which it is known.

A choice from an interval, or from the grid of a state, is interpolated linearly in every continuous
state. One from a list of its own (a number of workers, retired or not) is that of the nearest node;
and where it is not the same at all nodes around, the other choices are the nearest node's, too: an
average of what two kinds of people do is done by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.interpolation import Location, locate, looked_up
from dpsolve.solvers.operators.named_arrays import NamedArray, add, multiply, where

SPREAD = 1e-9  # of a listed choice among the nodes around: below this it is rounding


@dataclass(frozen=True)
class PolicyFunction:
    """A policy between nodes.

    Attributes
    ----------
    model : Model
    values : dict of str to NamedArray (states...)
        Each choice at the nodes.
    """

    model: Model
    values: Mapping[str, NamedArray]

    @classmethod
    def of(cls, model: Model, decisions: Mapping[str, Array]) -> PolicyFunction:
        """Read a solution's ``decisions`` (states...): positions, or values between grid points.

        A failed point's position, -1, is read as the first.
        """
        values = {}
        for name in model.choices:
            x = jnp.asarray(decisions[name])
            if not jnp.issubdtype(x.dtype, jnp.floating):
                x = jnp.asarray(model.grid_of(name).values)[jnp.maximum(x, 0)]
            values[name] = NamedArray(x.astype(jnp.float64), tuple(model.states))
        return cls(model, values)

    def at(self, states: Mapping[str, NamedArray]) -> dict[str, NamedArray]:
        """Return the choices where some states, or all, have values of their own.

        Parameters
        ----------
        states : mapping of str to NamedArray
            Values of continuous states, wherever they lie, and positions (int) of others. States
            that are left out are at their nodes.
        """
        found, nearest = {}, {}
        # A state's new values may lie along an axis of its own name: its nodes have another.
        renamed = {n: f"{n} at nodes" if n in states else n for n in self.model.states}
        values = {
            c: NamedArray(x.array, tuple(renamed[d] for d in x.dims))
            for c, x in self.values.items()
        }
        for name, x in states.items():
            spec = self.model.states[name]
            at = locate(replace(spec, outside="clip"), x) if isinstance(spec, Grid) else Location(x)
            name = renamed[name]
            found[name] = at.lean()
            nearest[name] = Location(at.index)
            if at.weight is not None:
                up = at.index.array + (at.weight.array >= 0.5)
                nearest[name] = Location(NamedArray(up.astype(jnp.int32), at.index.dims))
        choices = {c: looked_up(x, found) for c, x in values.items()}
        listed = [c for c in choices if self._is_listed(c)]
        if not listed:
            return choices
        near = {c: looked_up(x, nearest) for c, x in values.items()}
        jump = NamedArray(jnp.asarray(False))
        for c in listed:
            square = looked_up(values[c].map(jnp.square), found)
            spread = add(square, multiply(choices[c], choices[c]).map(jnp.negative))
            jump = add(jump, _exceeds(spread, square))
        return {
            c: near[c] if c in listed else where(jump.map(lambda j: j > 0), near[c], x)
            for c, x in choices.items()
        }

    def _is_listed(self, choice: str) -> bool:
        """Tell whether a choice is one of a list, so that a value between two is none."""
        spec = self.model.choices[choice]
        if isinstance(spec, str):
            return not isinstance(self.model.states[spec], Grid)
        if choice in self.model.continuous:
            return False
        return not (isinstance(spec, Grid) and spec.span is not None)


def _exceeds(spread: NamedArray, square: NamedArray) -> NamedArray:
    slack = square.map(lambda s: SPREAD * (1.0 + s))
    return add(spread, slack.map(jnp.negative)).map(lambda x: 1.0 * (x > 0.0))
