"""One look at all feasible pairs: no choice, off the grid, probabilities that leak.

Indexing hides next states that are out of range, and rows of probabilities that leak shift results
by more than any tolerance. Both are looked for here, in the compiled program, at every point; what
is found is worded by :func:`no_choice` and by :mod:`.check`. In what is reported of it NaN counts
as infinite, and so does a next state that is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.finite import all_finite, largest
from dpsolve.solvers.probability.markov import Markov

from .base import Survey
from .interpolation import Location
from .model_functions import ModelFunctions, PairTable
from .named_arrays import NamedArray, aligned, total


def survey_grids(model: Model, found: Survey) -> Survey:
    """Add what the grids of states and post variables tell."""
    increasing, finite = jnp.asarray(True), found.finite
    posts = (post.spec for post in model.post.values())
    for spec in (*model.states.values(), *posts):
        values = jnp.asarray(spec.values, jnp.float64)
        finite &= all_finite(values)
        if isinstance(spec, Grid):
            increasing &= (jnp.diff(values) > 0).all()
    return replace(found, finite=finite, increasing=increasing)


def survey_pairs(
    functions: ModelFunctions,
    locations: Mapping[str, Location],
    pairs: PairTable,
    states: Mapping[str, int],
    *,
    rewards: bool,
    cancelled: NamedArray | None = None,
) -> Survey:
    """Survey the pairs at hand.

    Parameters
    ----------
    functions : ModelFunctions
        The model's.
    locations : dict of str to Location
        Next states that do not depend on the choice.
    pairs : PairTable
    states : dict of str to int
        Axes of the states at hand, and their lengths.
    rewards : bool
        Whether to look at the rewards. Those that are not kept would have to be evaluated, which
        costs as much as a sweep: the first sweep tells of those that are no numbers, and of states
        where all are -inf.
    cancelled : NamedArray, optional
        What the terms of rewards exceed their sums by, where that can be anything.
    """
    top = _maximum_over(pairs.feasible)

    def bottom(x: NamedArray) -> Array:
        return -top(x.map(jnp.negative))

    gap, spread = jnp.zeros(()), jnp.ones(())
    reached = functions.reached
    continuation = {**locations, **pairs.locations}
    for location in {**continuation, **pairs.posts}.values():
        if location.gap is not None:
            gap = jnp.maximum(gap, top(reached(location.gap, pairs)))
    # Of post variables the continuation reads those that rules of states name. The others are read
    # by rewards alone, and how far these are extrapolated is no matter for the contraction.
    for location in continuation.values():
        if location.weight is not None:
            weights = location.weight.map(lambda w: jnp.abs(w) + jnp.abs(1.0 - w))
            spread = spread * jnp.maximum(top(reached(weights, pairs)), 1.0)
    row_low = row_high = jnp.ones(())
    least = jnp.zeros(())
    for name, row, matters in probability_rows(functions.model, pairs, functions.t):
        sums = total(row, row.dims[-1:])
        if functions.depends(name):  # what no pair leads to is no matter
            off = [sums.map(lambda s: s - 1.0), sums.map(lambda s: 1.0 - s)]
            above, below = (reached(x.map(lambda d: jnp.maximum(d, 0.0)), pairs) for x in off)
            row_high, row_low = row_high * (1.0 + top(above)), row_low * (1.0 - top(below))
            under = row.map(lambda p: jnp.maximum(-p, 0.0))
            least = jnp.minimum(least, -top(reached(under, pairs)))
            continue
        high = top if matters else _largest
        # No pair of this block may be feasible; including 1 in the range only widens bounds.
        row_high = row_high * jnp.maximum(high(sums), 1.0)
        row_low = row_low * jnp.minimum(-high(sums.map(jnp.negative)), 1.0)
        least = jnp.minimum(least, -high(row.map(jnp.negative)))
    if rewards:  # infeasible pairs are masked already, by -inf
        # The test by itself, and the maximum beside it: 50 million pairs take 42 ms so, and 107
        # where NaN is replaced before the maximum. A state of NaN alone has a choice.
        finite = (pairs.reward.array < jnp.inf).all()
        some = (_best_rewards(pairs.reward, states) > -jnp.inf) | ~finite
    else:
        some, finite = some_choice(pairs.feasible, states), jnp.asarray(True)
    return Survey(
        feasible=some,
        finite=finite,
        increasing=jnp.asarray(True),
        gap=gap,
        row_low=row_low,
        row_high=row_high,
        least=least,
        discount_low=bottom(pairs.discount),
        discount_high=top(pairs.discount),
        spread=spread,
        magnitude=jnp.zeros(()) if cancelled is None else top(cancelled) * spread,
    )


def probability_rows(
    model: Model, pairs: PairTable, t: ArrayLike | None
) -> Iterator[tuple[str, NamedArray, bool]]:
    """Yield each chain's and shock's probabilities, rows last, and whether feasibility matters."""
    for name, spec in model.states.items():
        if isinstance(spec, Markov):
            matrix = jnp.asarray(spec.at(t))
            yield name, NamedArray(matrix, (name, name + "'")), False
    for name in model.shocks:
        row = pairs.probabilities[name]
        yield name, NamedArray(jnp.moveaxis(row.array, row.dims.index(name), -1),
                          (*(d for d in row.dims if d != name), name)), True  # fmt: skip


def _best_rewards(reward: NamedArray, states: Mapping[str, int]) -> Array:
    """Return each state's largest reward; where one is NaN, any number."""
    choices = tuple(i for i, d in enumerate(reward.dims) if d not in states)
    left = tuple(d for d in reward.dims if d in states)
    best = aligned(NamedArray(jnp.max(reward.array, choices), left), tuple(states))
    return jnp.broadcast_to(best, tuple(states.values()))


def _largest(x: NamedArray) -> Array:
    return largest(x.array)


def _maximum_over(feasible: NamedArray | None) -> Callable[[NamedArray], Array]:
    """Return a maximum over feasible pairs, in which NaN counts as infinite."""

    def top(x: NamedArray) -> Array:
        if feasible is None or not x.dims:
            return largest(x.array)
        dims = tuple(dict.fromkeys((*feasible.dims, *x.dims)))
        return largest(jnp.where(aligned(feasible, dims), aligned(x, dims), -jnp.inf))

    return top


def some_choice(feasible: NamedArray | None, states: Mapping[str, int]) -> Array:
    """Tell which states have a feasible choice, given which pairs are (all, if None)."""
    shape = tuple(states.values())
    if feasible is None:
        return jnp.ones(shape, bool)
    choices = tuple(i for i, d in enumerate(feasible.dims) if d not in states)
    left = tuple(d for d in feasible.dims if d in states)
    some = aligned(NamedArray(feasible.array.any(choices), left), tuple(states))
    return jnp.broadcast_to(some, shape)


def no_choice(model: Model, some: Numpy, when: str) -> str:
    """Name the first state that has no feasible choice, or return ''.

    Parameters
    ----------
    model : Model
    some : bool array (states...)
        Which states have one.
    when : str
        In which period, to be added to the state's name.
    """
    if some.all():
        return ""
    at = np.unravel_index(int(np.argmin(some)), some.shape)
    values = (np.asarray(spec.values)[i] for spec, i in zip(model.states.values(), at, strict=True))
    where = ", ".join(f"{name}={x:.6g}" for name, x in zip(model.states, values, strict=True))
    return (
        f"the state {where} has no feasible choice{when} ({int((~some).sum())} of {some.size} "
        "states have none); let the grid, the choices or `feasible` allow one"
    )
