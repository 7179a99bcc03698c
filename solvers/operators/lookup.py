"""Looking up an array at locations: members of a grid, or between two of them.

A location on a grid of points is a lottery between the ends of its segment, so a lookup along
several axes is a sum over the corners of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from .interpolation import Location
from .named_arrays import Named, add, greatest, multiply, take, where

Corner = tuple[dict[str, Named], list[Named]]  # a position on each axis, and weights to multiply


def corners(locations: Mapping[str, Location]) -> Iterator[Corner]:
    """Yield the corners of the cells that locations (by axis) lie in, with their weights."""
    if not locations:
        yield {}, []
        return
    (axis, at), *rest = locations.items()
    for indices, weights in corners(dict(rest)):
        if at.weight is None:
            yield {axis: at.index, **indices}, weights
            continue
        yield {axis: at.index, **indices}, [at.weight.map(lambda w: 1.0 - w), *weights]
        yield {axis: at.index.map(lambda i: i + 1), **indices}, [at.weight, *weights]


def flattened(indices: Mapping[str, Named], x: Named) -> Named:
    """Return positions along axes of `x` as if these were one, the last one fastest."""
    (_, flat), *rest = indices.items()
    for axis, index in rest:
        flat = add(Named(flat.array * x.size_of(axis), flat.dims), index)
    return flat


def at_members(x: Named, members: Mapping[str, Any], axis: str) -> Named:
    """Keep some members of states: those axes of `x` that are these states become one, `axis`."""
    dims = [name for name in members if name in x.dims]
    if not dims:
        return x
    if dims == [axis]:
        return Named(jnp.take(x.array, members[axis], axis=x.dims.index(axis)), x.dims)
    return take(x, dims, flattened({n: Named(members[n], (axis,)) for n in dims}, x))


def looked_up(x: Named, locations: Mapping[str, Location]) -> Named:
    """Replace axes of `x` by lookups; a corner without weight may hold anything, NaN included."""
    nothing = Named(jnp.zeros(()))
    parts = []
    for indices, weights in corners(locations):
        part = take(x, list(indices), flattened(indices, x))
        if weights:
            weight = multiply(*weights)
            part = where(weight.map(lambda w: w != 0.0), multiply(part, weight), nothing)
        parts.append(part)
    return add(*parts)


def greatest_reached(x: Named, locations: Mapping[str, Location]) -> Named:
    """Replace axes of `x` by its greatest value among the corners that have a weight."""
    least = Named(jnp.asarray(-jnp.inf))
    parts = []
    for indices, weights in corners(locations):
        part = take(x, list(indices), flattened(indices, x))
        if weights:
            part = where(multiply(*weights).map(lambda w: w != 0.0), part, least)
        parts.append(part)
    return greatest(*parts)
