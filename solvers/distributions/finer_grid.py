"""``distribution_grid``: a distribution on more points of a state than its value has.

A value is smooth, and a few hundred nodes do; a distribution has spikes where a constraint binds,
and its quantiles are grid points. The finer grid has the ends and the spacing of the value's: the
same ``curve`` of ``dp.grid(lo, hi, n, curve)``, and else nodes interpolated by their number. The
policy is interpolated linearly between the value's nodes there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.errors import did_you_mean
from dpsolve.solvers.labelled import SUFFIX
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import namespace
from dpsolve.solvers.probability.markov import Markov

Sizes = tuple[tuple[str, int], ...]


def wrong_grid(made: Any, sizes: Sizes, name: str) -> str:
    """Say what is wrong with the grids that are asked for a distribution of a model, or ''."""
    for state, _ in sizes:
        if not isinstance(made, Model):
            what = "given by arrays" if isinstance(made, TabularModel) else "of arrays"
            return f"distribution_grid names '{state}', but {name} is {what}: it has no grids"
        spec = made.states.get(state)
        fine = [n for n, s in made.states.items() if isinstance(s, Grid)]
        there = f"Those of {name} are: {', '.join(fine) or 'none'}."
        if spec is None:
            return (
                f"distribution_grid names '{state}', which is no state."
                f"{did_you_mean(state, fine)} It is for continuous states. {there}"
            )
        if not isinstance(spec, Grid):
            kind = "a Markov chain" if isinstance(spec, Markov) else "a range of integers"
            return (
                f"distribution_grid names '{state}', which is {kind} and stands for itself: only "
                f"a continuous state has points between its points. {there}"
            )
        if spec.size < 2:
            return f"distribution_grid names '{state}', whose grid is one point: there is no range"
    return ""


def on_distribution_grid(model: Model, sizes: Sizes) -> Model:
    """Return the model with the distribution's grids, and lists of values for intervals."""
    lived = model.on_grids()
    if not sizes:
        return lived
    finer = {n: _finer(model.states[n], size) for n, size in sizes}
    return replace(lived, states={n: finer.get(n, s) for n, s in lived.states.items()})


def _finer(spec: Grid, size: int) -> Grid:
    if spec.span is not None:
        return replace(spec, values=spec.span.points(size))
    xp = namespace(spec.values)
    number = np.linspace(0.0, spec.size - 1.0, size)
    values: Array = xp.interp(number, np.arange(spec.size), xp.asarray(spec.values, dtype=float))
    return replace(spec, values=values)


def lived_dims(dims: tuple[str, ...], sizes: Sizes) -> tuple[str, ...]:
    """Return the dimensions of a distribution: a state with a grid of its own has its own name."""
    named = {n for n, _ in sizes}
    return tuple(d + SUFFIX if d in named else d for d in dims)


def lived_grids(model: Model, sizes: Sizes) -> dict[str, Array]:
    """Return the distribution's own grids (n,), as arrays of a result."""
    lived = on_distribution_grid(model, sizes)
    return {f"grid_{n}{SUFFIX}": jnp.asarray(lived.states[n].values) for n, _ in sizes}
