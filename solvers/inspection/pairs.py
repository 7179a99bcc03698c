"""Pairs of a state and a choice that ``dp.check`` looks at, and words for where they are.

Of choices from lists all pairs are looked at. Of a continuous choice none can be listed: at every
node, some places between the ends of its interval are tried, many of them near the lower one, where
constraints usually leave something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import ceil, prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dpsolve.solvers.model.grids import Grid, Interval
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.interpolation import Location
from dpsolve.solvers.operators.model_functions import BLOCK, CHOICE, PairTable
from dpsolve.solvers.operators.named_arrays import (
    NamedArray,
    add,
    aligned,
    greatest,
    least,
    mapped,
    multiply,
    top,
)
from dpsolve.solvers.operators.validation import no_choice, some_choice

TRIED = {1: 33, 2: 13}
"""Places that are tried of each interval, by how many there are; of more than two, 7."""

ENTRIES = 2**22
"""Pairs that are tried together, counted once for each draw of the shocks."""


class Place:
    """Words for a position in an array over states, choices and shocks.

    Parameters
    ----------
    operator : GridOperator
    values : dict of str to NamedArray
        What each choice is, at the pairs that are looked at together.
    index : NamedArray, optional
        Numbers of the joint choices, where they are numbered.
    """

    def __init__(
        self,
        operator: GridOperator,
        values: Mapping[str, NamedArray],
        index: NamedArray | None = None,
    ) -> None:
        self.operator, self.values, self.index = operator, values, index

    @classmethod
    def numbered(cls, operator: GridOperator, index: NamedArray) -> Place:
        """Return that of choices by their numbers."""
        return cls(operator, operator.functions.choice_values(index), index)

    def chosen(self, at: Mapping[str, int]) -> dict[str, NamedArray]:
        """Return each choice at a position; the first where it says nothing of one."""
        return {n: entry(x, {d: at.get(d, 0) for d in x.dims}) for n, x in self.values.items()}

    def of(self, at: Mapping[str, int]) -> str:
        """Return the words."""
        model = self.operator.model
        named = (*model.states, *model.shocks, *model.post)
        values = {d: np.asarray(model.grid_of(d).values)[i] for d, i in at.items() if d in named}
        words = [f"{d}={x:.6g}" for d, x in values.items() if d in model.states]
        axes = {d: x.size_of(d) for x in self.values.values() for d in x.dims}
        if BLOCK in at or CHOICE in at or prod(axes.get(d, 1) for d in (BLOCK, CHOICE)) == 1:
            words += [f"{c}={float(x.array):.6g}" for c, x in self.chosen(at).items()]
        words += [f"{d}={x:.6g}" for d, x in values.items() if d not in model.states]
        return ", ".join(words) or "every state"


class ListedPairs:
    """All pairs of a model whose choices come from lists.

    Parameters
    ----------
    operator : GridOperator
    """

    def __init__(self, operator: GridOperator) -> None:
        self.operator = operator

    def __iter__(self) -> Iterator[tuple[PairTable, Place]]:
        operator = self.operator
        if operator.kept is not None:
            yield operator.kept, Place.numbered(operator, operator.kept_index())
            return
        size = operator.block_size or 1
        for i in range(ceil(operator.n_choices / size)):
            first = np.arange(i * size, (i + 1) * size)
            index = jnp.asarray(np.minimum(first, operator.n_choices - 1), jnp.int32)
            place = Place.numbered(operator, NamedArray(index, (CHOICE,)))
            yield operator.pairs_of_block(jnp.int32(i)), place

    def ends(self, place: Place, when: str) -> str:
        """Name the first end of an interval that is no number; lists have none."""
        return ""

    def no_choice(self, some: Numpy, when: str) -> str:
        """Name the first state without a feasible choice, given which have `some`."""
        return no_choice(self.operator.model, some, when)


class TriedPairs(ListedPairs):
    """Pairs of a model with continuous choices, from some places between their ends.

    A choice from which a possible shock leaves a grid with ``outside="error"`` is infeasible there.

    Parameters
    ----------
    model : Model
    t : int, optional
        The period, with a horizon.
    """

    def __init__(self, model: Model, t: ArrayLike | None = None) -> None:
        super().__init__(GridOperator(model.on_grids(), t=t, memory=1))
        self.intervals = model.continuous
        places = TRIED.get(len(self.intervals), 7)
        shares = np.linspace(0.0, 1.0, places) ** 3
        each = {c: np.asarray(model.grid_of(c).values) for c in model.gridded}
        listed = [each.get(c, shares) for c in model.choices]
        self.joint = np.array(list(product(*listed))).T  # (choices, pairs at a node)
        self.fits = np.zeros(self.operator.shape, bool)  # but for next states off their grids

    def __iter__(self) -> Iterator[tuple[PairTable, Place]]:
        model = self.operator.model
        draws = prod(model.size_of(w) for w in model.shocks)
        width = max(1, ENTRIES // (prod(model.shape) * draws))
        for first in range(0, self.joint.shape[1], width):
            yield self._some(self.joint[:, first : first + width])

    def _some(self, joint: Numpy) -> tuple[PairTable, Place]:
        operator = self.operator
        values, fits = self._values(joint)
        pairs = operator.pairs(values)
        if pairs.feasible is not None:
            fits = multiply(fits, pairs.feasible)
        self.fits |= np.asarray(some_choice(fits, operator.sizes))
        locations = operator.expectation.early_locations | pairs.locations
        for name, location in locations.items():
            if location.gap is not None and isinstance(operator.model.grid_of(name), Grid):
                fits = multiply(fits, self._stays(location, pairs))
        reward = pairs.raw_reward
        assert reward is not None
        dims = tuple(dict.fromkeys((*fits.dims, *reward.dims)))
        masked = jnp.where(aligned(fits, dims), aligned(reward, dims), -jnp.inf)
        found = replace(pairs, feasible=fits, reward=NamedArray(masked, dims))
        return found, Place(operator, values)

    def _values(self, joint: Numpy) -> tuple[dict[str, NamedArray], NamedArray]:
        """Return the choices that are tried, and where no interval is empty."""
        fits = NamedArray(jnp.ones(joint.shape[1], bool), (CHOICE,))
        values: dict[str, NamedArray] = {}
        for name, row in zip(self.operator.model.choices, joint, strict=True):
            share = NamedArray(jnp.asarray(row), (CHOICE,))
            if name not in self.intervals:
                whole = np.asarray(self.operator.model.grid_of(name).values).dtype.kind in "iu"
                values[name] = share.map(lambda x: x.astype(jnp.int64)) if whole else share
                continue
            low, high = self._range(name, values)
            width = add(high, low.map(jnp.negative))
            fits = multiply(fits, width.map(lambda w: w >= 0.0))
            values[name] = add(low, multiply(share, width.map(lambda w: jnp.maximum(w, 0.0))))
        return values, fits

    def ends(self, place: Place, when: str) -> str:
        """Name the first end of an interval that is no number."""
        before: dict[str, NamedArray] = {}
        for name, x in place.values.items():
            if name in self.intervals:
                ends = zip(("lower", "upper"), self._range(name, before), strict=True)
                for which, end in ends:
                    most, at = largest_at(end.map(lambda e: ~jnp.isfinite(e)), None)
                    if most > 0:
                        where = Place(self.operator, before).of(at)
                        return (
                            f"the {which} end of choice '{name}' is NaN or infinite at {where}"
                            f"{when}; make it a number there"
                        )
            before[name] = x
        return ""

    def _range(self, name: str, values: Mapping[str, NamedArray]) -> tuple[NamedArray, NamedArray]:
        """Return the ends of an interval, given the choices before it."""
        interval: Interval = self.intervals[name]
        functions = self.operator.functions
        found = []
        for which, end in (("lower", interval.lo), ("upper", interval.hi)):
            if callable(end):
                what = f"the {which} end of choice '{name}'"
                x = mapped(end, {**functions.env, **values}, functions.order, what)
                found.append(x.map(lambda a: jnp.asarray(a, jnp.float64)))
            else:
                number = (-np.inf if which == "lower" else np.inf) if end is None else end
                found.append(NamedArray(jnp.asarray(number, jnp.float64)))
        low, high = found
        if interval.state is not None:
            grid = jnp.asarray(self.operator.model.grid_of(interval.state).values, jnp.float64)
            low, high = greatest(low, NamedArray(grid[0])), least(high, NamedArray(grid[-1]))
        return low, high

    def _stays(self, location: Location, pairs: PairTable) -> NamedArray:
        """Tell from which pairs no possible shock leaves the grid; what is no number stays."""
        assert location.gap is not None
        gap = self.operator.functions.reached(location.gap, pairs)
        gap = gap.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0))
        own = {*self.operator.states, CHOICE}
        return top(gap, [d for d in gap.dims if d not in own]).map(lambda x: x == 0.0)

    def no_choice(self, some: Numpy, when: str) -> str:
        """Name the first state without a feasible choice, given which have `some`."""
        names = " and ".join(f"'{name}'" for name in self.intervals)
        tried = f" among the {self.joint.shape[1]} that were tried between the ends of {names}"
        if not (leaves := ~some & self.fits).any():
            return no_choice(self.operator.model, some, tried + when)
        grids = [n for n, s in self.operator.model.states.items()
                 if isinstance(s, Grid) and "error" in s.sides]  # fmt: skip
        told = no_choice(self.operator.model, ~leaves, tried + when)
        return (
            f"{told.partition(';')[0]}, because a next state can leave its grid with "
            f"outside='error' ({', '.join(grids)}) from each; widen the grid, or clip what is "
            "beyond a side of it, outside=('error', 'clip')"
        )


def looked_at(model: Model, t: ArrayLike | None = None) -> ListedPairs:
    """Return the pairs of a model to look at."""
    return TriedPairs(model, t) if model.continuous else ListedPairs(GridOperator(model, t=t))


def worst(x: NamedArray, feasible: NamedArray | None, place: Place) -> tuple[float, str]:
    """Return the largest entry at a feasible pair (NaN counts as infinite), and where it is."""
    largest, at = largest_at(x, feasible)
    return largest, place.of(at)


def largest_at(x: NamedArray, feasible: NamedArray | None) -> tuple[float, dict[str, int]]:
    """Return the largest entry at a feasible pair (NaN counts as infinite), and its position."""
    dims = x.dims
    array = np.asarray(x.array, np.float64)
    array = np.where(np.isnan(array), np.inf, array)
    if feasible is not None:
        dims = tuple(dict.fromkeys((*feasible.dims, *x.dims)))
        ok = np.asarray(aligned(feasible, dims))
        array = np.where(
            ok, np.asarray(aligned(NamedArray(jnp.asarray(array), x.dims), dims)), -np.inf
        )
    flat = int(np.argmax(array))
    place = zip(dims, np.unravel_index(flat, array.shape), strict=True)
    return float(array.ravel()[flat]), {d: int(i) for d, i in place}


def entry(x: NamedArray, at: Mapping[str, Any]) -> NamedArray:
    """Keep one entry along some axes."""
    index = tuple(at.get(d, slice(None)) for d in x.dims)
    return NamedArray(x.array[index], tuple(d for d in x.dims if d not in at))
