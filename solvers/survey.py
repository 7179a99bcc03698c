"""One look over all feasible pairs of a lattice, before anything is solved.

Indexing hides next states that are out of range, and rows of probabilities that leak shift results
by more than any tolerance. Both are looked for here, in the compiled program, at every point; what
is found is worded by :mod:`.check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from .chains import Markov
from .grids import Grid
from .named import Named, aligned, total
from .operator import Survey

if TYPE_CHECKING:
    from .functions import Pairs
    from .lattice import Lattice

__all__ = ["probability_rows", "survey_lattice", "survey_pairs"]

Array = Any


def survey_lattice(lattice: Lattice) -> Survey:
    """Look over all pairs, in blocks when they do not fit in memory.

    Rewards that are not kept are not evaluated here, which would cost as much as a sweep: the first
    sweep tells of those that are no numbers.
    """
    if lattice.kept is not None:
        found = survey_pairs(lattice, lattice.kept)
    else:
        size = lattice.block_size or 1
        blocks = ceil(lattice.n_choices / size)

        def look(i: Array) -> Survey:
            return survey_pairs(lattice, lattice.pairs_of_block(i))

        found = lax.fori_loop(1, blocks, lambda i, s: s.join(look(i)), look(jnp.int32(0)))
    increasing = jnp.asarray(True)
    finite = found.finite
    posts = (post.spec for post in lattice.model.post.values())
    for spec in (*lattice.model.states.values(), *posts):
        values = jnp.asarray(spec.values, jnp.float64)
        finite &= jnp.isfinite(values).all()
        if isinstance(spec, Grid):
            increasing &= (jnp.diff(values) > 0).all()
    found = replace(found, finite=finite, increasing=increasing)
    return found if lattice.cut is None else found.over(lattice.everywhere)


def survey_pairs(lattice: Lattice, pairs: Pairs) -> Survey:
    """Survey the pairs at hand."""
    top = _maximum_over(pairs.feasible)

    def bottom(x: Named) -> Array:
        return -top(x.map(jnp.negative))

    gap, spread = jnp.zeros(()), jnp.ones(())
    reached = lattice.functions.reached
    for location in (lattice.early_locations | pairs.locations | pairs.posts).values():
        if location.gap is not None:
            gap = jnp.maximum(gap, top(reached(location.gap, pairs)))
        if location.weight is not None:
            weights = location.weight.map(lambda w: jnp.abs(w) + jnp.abs(1.0 - w))
            spread = spread * jnp.maximum(top(reached(weights, pairs)), 1.0)
    row_low = row_high = jnp.ones(())
    least = jnp.zeros(())
    for _, row, matters in probability_rows(lattice, pairs):
        sums = total(row, row.dims[-1:])
        high = top if matters else _largest
        # No pair of this block may be feasible; including 1 in the range only widens bounds.
        row_high = row_high * jnp.maximum(high(sums), 1.0)
        row_low = row_low * jnp.minimum(-high(sums.map(jnp.negative)), 1.0)
        least = jnp.minimum(least, -high(row.map(jnp.negative)))
    return Survey(
        feasible=_any_choice(lattice, pairs.feasible),
        # Infeasible pairs are masked already, by -inf.
        finite=jnp.max(pairs.reward.array) < jnp.inf
        if lattice.kept is not None
        else jnp.asarray(True),
        increasing=jnp.asarray(True),
        gap=gap,
        row_low=row_low,
        row_high=row_high,
        least=least,
        discount_low=bottom(pairs.discount),
        discount_high=top(pairs.discount),
        spread=spread,
    )


def probability_rows(lattice: Lattice, pairs: Pairs) -> Iterator[tuple[str, Named, bool]]:
    """Yield each chain's and shock's probabilities, rows last, and whether feasibility matters."""
    for name in lattice.chains:
        spec = lattice.model.states[name]
        if isinstance(spec, Markov):
            matrix = jnp.asarray(spec.transition_matrix)
            yield name, Named(matrix, (name, name + "'")), False
    for name in lattice.model.shocks:
        row = pairs.probabilities[name]
        yield name, Named(jnp.moveaxis(row.array, row.dims.index(name), -1),
                          (*(d for d in row.dims if d != name), name)), True  # fmt: skip


def _largest(x: Named) -> Array:
    return jnp.max(jnp.where(jnp.isnan(x.array), jnp.inf, x.array))


def _maximum_over(feasible: Named | None) -> Callable[[Named], Array]:
    """Return a maximum over feasible pairs, in which NaN counts as infinite."""

    def top(x: Named) -> Array:
        array = jnp.where(jnp.isnan(x.array), jnp.inf, x.array)
        if feasible is None or not x.dims:
            return jnp.max(array)
        dims = tuple(dict.fromkeys((*feasible.dims, *x.dims)))
        masked = jnp.where(aligned(feasible, dims), aligned(Named(array, x.dims), dims), -jnp.inf)
        return jnp.max(masked)

    return top


def _any_choice(lattice: Lattice, feasible: Named | None) -> Array:
    if feasible is None:
        return jnp.ones(lattice.shape, bool)
    choices = tuple(i for i, d in enumerate(feasible.dims) if d not in lattice.states)
    states = tuple(d for d in feasible.dims if d in lattice.states)
    some = aligned(Named(feasible.array.any(choices), states), lattice.states)
    return jnp.broadcast_to(some, lattice.shape)
