"""Steps between nodes, how far they lie apart, and whether a counterexample to them is found.

:mod:`.rounding` has the proof. Its conclusions are tested, which need none of its premises: that
one Bellman step does not raise the upper steps, ``TU <= U``, over a table of choices of the
continuous problem, and does not lower the lower ones, ``TL >= L``, by the choices that the nodes
beside make, both at random states between the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dpsolve.solvers.methods.finite_horizon import terminal_value
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.interpolation import at_members
from dpsolve.solvers.operators.model_functions import CHOICE
from dpsolve.solvers.operators.named_arrays import NamedArray

from .landing import ByName, Landing, call, names_of
from .rounding import rounded
from .table import tabulated

POINTS = 400
"""Random states, each in a cell of its own."""

BLOCK = 32
"""Choices that are looked at together."""


def largest_error(lower: Array, upper: Array, axis: int) -> Array:
    """Return the largest distance of the true value from the interpolated middle of steps.

    In a cell the true value lies between the lower bound of its left node and the upper bound of
    its right one; the middle is linear, so that it is farthest from either at an end.

    Parameters
    ----------
    lower, upper : array (..., states...)
        At the nodes.
    axis : int
        Of the continuous state.
    """
    low, high = (jnp.moveaxis(x, axis, -1) for x in (lower, upper))
    middle = (low + high) / 2
    left, right = middle[..., :-1], middle[..., 1:]
    above = high[..., 1:] - jnp.minimum(left, right)
    below = jnp.maximum(left, right) - low[..., :-1]
    at_nodes = jnp.max((high - low) / 2)
    found: Array = jnp.maximum(jnp.maximum(jnp.max(above), jnp.max(below)), at_nodes)
    return found * (1.0 + 8 * EPS) + 8 * EPS * jnp.max(jnp.abs(high))


class Probe:
    """Random states between the nodes, at which the bounds' conclusions are tried.

    Parameters
    ----------
    landing : Landing
    memory : int
        Bytes that arrays over states and choices may take.
    seed : int
        Of the states.
    """

    def __init__(self, landing: Landing, memory: int, seed: int = 0) -> None:
        self.landing, self.memory = landing, memory
        nodes, name = landing.nodes, landing.state
        cells = np.unique(np.linspace(0, nodes.shape[0] - 2, POINTS).astype(np.int32))
        share = jax.random.uniform(jax.random.key(seed), cells.shape, minval=0.02, maxval=0.98)
        drawn = nodes[cells] + share * (nodes[cells + 1] - nodes[cells])
        self.points = jnp.sort(jnp.concatenate([nodes, drawn]))
        self.members = {name: jnp.asarray(cells + 1 + np.arange(cells.size), jnp.int32)}
        self.floor = jnp.searchsorted(nodes, self.points, side="right") - 1
        self.ceiling = jnp.searchsorted(nodes, self.points, side="left")
        self.axis = list(landing.model.states).index(name)
        self.above = self._table()
        self.below = rounded(landing, "below", Grid(self.points))

    def _table(self) -> Model:
        """Return the problem of a table of choices, posed at all points, received rounded up."""
        landing, nodes = self.landing, self.landing.nodes
        base = tabulated(landing.model)
        move: Any = base.transition[landing.state]
        slack = 1e-12 * (nodes[-1] - nodes[0])

        def up(env: Any) -> Array:
            at = jnp.searchsorted(nodes, call(move, env) - slack, side="left")
            return nodes[jnp.minimum(at, nodes.shape[0] - 1)]

        def plain(f: Any) -> ByName:
            def paid(env: Any) -> Array:
                x = jnp.asarray(call(f, env), jnp.float64)
                return jnp.where(jnp.isnan(x), -jnp.inf, x)

            return ByName(paid, names_of((*base.arguments, *base.post), f))

        return replace(
            base,
            states={**base.states, landing.state: Grid(self.points)},
            transition={**base.transition, landing.state: ByName(up, move.names)},
            reward=tuple(plain(f) for f in base.reward),
            outputs={},
        )

    def _posed(
        self, model: Model, t: ArrayLike | None, steps: Array
    ) -> tuple[GridOperator, NamedArray]:
        """Return a problem's operator at the random states, and what follows."""
        operator = GridOperator(model, t=t, block=BLOCK, memory=self.memory)
        state = self.landing.state
        x = operator.expectation.before_choice(steps)
        return operator.restricted(self.members, state), at_members(x, self.members, state)

    def _at(self, values: Array, where: Array) -> Array:
        return jnp.take(values, where, axis=self.axis)

    def worst(
        self,
        t: ArrayLike | None,
        now: tuple[Array, Array],
        then: tuple[Array, Array],
        labels: Mapping[str, Array],
    ) -> Array:
        """Return the largest violation of either conclusion.

        Parameters
        ----------
        t : int or None
            The period, with a horizon.
        now, then : pair of arrays (states...)
            Lower and upper bounds at the nodes, in this period and the next one.
        labels : mapping
            Positions (states...) of the choices that the lower bound is of.
        """
        members = self.members[self.landing.state]
        lower, upper = then
        operator, x = self._posed(self.above, t, self._at(upper, self.ceiling))
        above = operator.best_of_blocks(x)[0]
        operator, x = self._posed(self.below, t, self._at(lower, self.floor))
        policy = jnp.zeros((), jnp.int32)
        for name in self.below.choices:
            policy = policy * self.below.size_of(name) + labels[name]
        beside = (self._at(policy, side[members]) for side in (self.floor, self.ceiling))
        index = NamedArray(jnp.stack(list(beside), -1), (*operator.states, CHOICE))
        q = operator.over_states(operator.quality(x, operator.pairs(index)), CHOICE)
        below = jnp.max(jnp.where(jnp.isnan(q), -jnp.inf, q), -1)
        high = above - self._at(now[1], self.ceiling[members])
        low = self._at(now[0], self.floor[members]) - below
        return largest_of(high, low)

    def terminal(self, end: Array) -> Array:
        """Return by how much the terminal value (states...) falls somewhere between nodes."""
        model = self.landing.model
        there = replace(self.below, terminal=model.terminal)
        values = terminal_value(there)
        high = values - self._at(end, self.ceiling)
        low = self._at(end, self.floor) - values
        return largest_of(high, low)


def largest_of(*xs: Array) -> Array:
    """Return the largest entry, what is no number counting as infinite."""
    return jnp.stack([jnp.max(jnp.where(jnp.isnan(x), jnp.inf, x)) for x in xs]).max()
