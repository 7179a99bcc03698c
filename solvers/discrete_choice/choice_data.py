"""Data on choices, matched with a model's states and alternatives: what cannot be is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpsolve.solvers.errors import ModelError, UsageError, did_you_mean
from dpsolve.solvers.logit.taste_shocks import TasteShocks
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.tracing import is_concrete

NEAR = 1e-9  # relative to the largest value: so far may a datum lie beside the value that it means


@dataclass(frozen=True)
class ChoiceModel:
    """What of a model data are matched with: plain facts.

    Attributes
    ----------
    name : str
    states : dict of str to array or None
        Values (n,), None where they move with a parameter.
    continuous : frozenset of str
        The states with values between those.
    choices : dict of str to array or None
        Of the choices with taste shocks, likewise.
    others : tuple of str
        The other choices.
    horizon : int or None
    """

    name: str
    states: Mapping[str, Numpy | None]
    continuous: frozenset[str]
    choices: Mapping[str, Numpy | None]
    others: tuple[str, ...]
    horizon: int | None

    @classmethod
    def of(cls, made: Any, name: str) -> ChoiceModel:
        """Read a model; inside a trace or outside.

        Raises
        ------
        ModelError
            If there is no choice whose probabilities data could be likely by.
        """
        taste: TasteShocks | None = getattr(made, "taste", None)
        if not isinstance(made, Model) or taste is None:
            raise ModelError(
                f"log_likelihood is of choices with taste shocks, and {name} has none: say which, "
                'dp.Model(..., taste_shocks={"choice": 1.0})'
            )
        return cls(
            name,
            {n: _known(spec) for n, spec in made.states.items()},
            frozenset(n for n, spec in made.states.items() if isinstance(spec, Grid)),
            {n: _known(made.grid_of(n)) for n in taste.choices},
            tuple(c for c in made.choices if c not in taste.choices),
            made.horizon,
        )


def _known(spec: Any) -> Numpy | None:
    if isinstance(spec, Integers):
        return np.arange(spec.lo, spec.hi + 1, dtype=np.float64)
    return np.asarray(spec.values, np.float64) if is_concrete(spec.values) else None


@dataclass(frozen=True)
class Observations:
    """Data without repetitions.

    Attributes
    ----------
    states : dict of str to array (rows,)
        Of a continuous state the value, of others the position.
    t : int array (rows,) or None
    consistent : bool array (rows, alternatives)
        The alternatives that a datum may be: one, or all that agree where a choice is missing.
    count : array (rows,)
        How often it occurs.
    number : int array (observations,)
        The row of each observation.
    """

    states: dict[str, Numpy]
    t: Numpy | None
    consistent: Numpy
    count: Numpy
    number: Numpy


def read_data(data: Any, model: ChoiceModel) -> Observations:
    """Match data with a model.

    Parameters
    ----------
    data : dict of str to array (observations,)
        By state and choice, and ``t`` with a horizon.
    model : ChoiceModel

    Raises
    ------
    UsageError
        Naming the array, and of an observation its number and value.
    """
    columns = _columns(data, model)
    states = {
        name: _between(name, columns[name], values, model)
        if name in model.continuous
        else _member(name, columns[name], values, f"state '{name}'")
        for name, values in model.states.items()
    }
    t = None
    if model.horizon is not None:
        t = _member("t", columns["t"], np.arange(model.horizon, dtype=np.float64), "the period")
    shape = tuple(0 if values is None else values.size for values in model.choices.values())
    agrees = np.ones((columns[next(iter(model.states))].size, *shape), bool)
    for axis, (name, values) in enumerate(model.choices.items()):
        chosen = _member(name, columns[name], values, f"choice '{name}'", missing=True)
        own = (chosen[:, None] < 0) | (chosen[:, None] == np.arange(shape[axis]))
        wide = [1] * len(shape)
        wide[axis] = shape[axis]
        agrees &= own.reshape(-1, *wide)
    consistent = agrees.reshape(len(agrees), -1)
    table = np.column_stack(
        [*states.values(), *([] if t is None else [t]), np.packbits(consistent, 1)]
    )
    _, first, number, count = np.unique(
        table, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return Observations(
        {name: x[first] for name, x in states.items()},
        None if t is None else t[first],
        consistent[first],
        count.astype(np.float64),
        np.reshape(number, -1),
    )


def _columns(data: Any, model: ChoiceModel) -> dict[str, Numpy]:
    """Return the arrays that there must be, of one length."""
    time = ("t",) if model.horizon is not None else ()
    needed = (*model.states, *model.choices, *time)
    if not isinstance(data, Mapping) and hasattr(data, "columns"):  # a pandas.DataFrame
        data = {str(name): data[name] for name in data.columns if str(name) in needed}
    if not isinstance(data, Mapping):
        raise UsageError(
            f"data is {type(data).__name__}; it is a dict of equally long arrays by name: "
            f"{', '.join(needed)}"
        )
    for name in data:
        if name in model.others:
            raise UsageError(
                f"data has '{name}', a choice without taste shocks: what is not random has no "
                f"likelihood. Leave it out, or have shocks on it, too: {', '.join(needed)}"
            )
        if name not in needed:
            raise UsageError(
                f"data has '{name}', which {model.name} does not."
                f"{did_you_mean(str(name), needed)} It needs: {', '.join(needed)}."
            )
    columns: dict[str, Numpy] = {}
    for name in needed:
        if name not in data:
            raise UsageError(f"data has no '{name}'; {model.name} needs: {', '.join(needed)}")
        try:
            columns[name] = np.asarray(data[name], np.float64)
        except (TypeError, ValueError):
            raise UsageError(f"data['{name}'] holds what is no number") from None
        if columns[name].ndim != 1 or not columns[name].size:
            raise UsageError(
                f"data['{name}'] has the shape {columns[name].shape}; it is one number for each "
                "observation, (observations,)"
            )
    sizes = {name: x.size for name, x in columns.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise UsageError(f"data has arrays of different lengths: {shown}")
    for name in (*model.states, *time):
        if np.isnan(columns[name]).any():
            i = int(np.argmax(np.isnan(columns[name])))
            raise UsageError(
                f"observation {i}: {name} is NaN; only choices may be missing. Leave the "
                "observation out"
            )
    return columns


def _member(name: str, x: Numpy, values: Numpy | None, what: str, missing: bool = False) -> Numpy:
    """Return the position of each datum among a list of values; -1 of one that is missing."""
    if values is None:
        raise UsageError(
            f"the values of {what} move with a parameter, so that data cannot be matched with "
            "them; number them (dp.integers), and look values up in the functions"
        )
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    above = np.clip(np.searchsorted(ranked, x), 0, ranked.size - 1)
    below = np.maximum(above - 1, 0)
    found = np.where(np.abs(ranked[below] - x) <= np.abs(ranked[above] - x), below, above)
    bad = ~(np.abs(ranked[found] - x) <= NEAR * max(1.0, float(np.max(np.abs(values)))))
    if missing:
        bad &= ~np.isnan(x)
    if bad.any():
        i = int(np.argmax(bad))
        few = ", ".join(f"{v:g}" for v in values[:6]) + ", ..." * (values.size > 6)
        raise UsageError(
            f"observation {i}: {name}={x[i]:.6g} is no value of {what} ({int(bad.sum())} of "
            f"{x.size:,} observations are not): {few}, to {ranked[-1]:g}"
            if values.size > 6
            else f"observation {i}: {name}={x[i]:.6g} is no value of {what} ({int(bad.sum())} of "
            f"{x.size:,} observations are not): {few}"
        )
    return np.where(np.isnan(x), -1, order[found])


def _between(name: str, x: Numpy, values: Numpy | None, model: ChoiceModel) -> Numpy:
    """Return data on a continuous state, which lie on its grid's range."""
    if values is None:  # where it ends, only a parameter's value tells
        return x
    slack = NEAR * max(abs(values[0]), abs(values[-1]))
    bad = ~((x >= values[0] - slack) & (x <= values[-1] + slack))
    if bad.any():
        i = int(np.argmax(bad))
        raise UsageError(
            f"observation {i}: {name}={x[i]:.6g} lies outside the grid of '{name}', from "
            f"{values[0]:.6g} to {values[-1]:.6g} ({int(bad.sum())} of {x.size:,} observations "
            f"do): widen the grid of {model.name}, or leave them out"
        )
    return np.clip(x, values[0], values[-1])
