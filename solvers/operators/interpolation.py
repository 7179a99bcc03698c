"""Interpolation: where next states lie on a grid, and reading arrays there.

A location on a grid of points is a lottery between the ends of its segment, so a lookup along
several axes is a sum over the corners of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import jax
import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.named_arguments.order import ancestors
from dpsolve.solvers.numerics.given import MOST
from dpsolve.solvers.numerics.small_programs import entries
from dpsolve.solvers.numerics.tracing import EPS, namespace

from .named_arrays import NamedArray, add, greatest, multiply, take, where

# A next state this far outside, relative to the grid's last step (or, for an integer, absolutely),
# is rounding and not a mistake. So are some units in the last place of the grid's largest number,
# which is what a next state is computed from.
SLACK = 1e-9
UNITS = 16 * EPS
ASIDE = 1e-3  # how far beside a grid point a segment may begin, of the shortest step


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Location:
    """Positions on a grid.

    Attributes
    ----------
    index : NamedArray of int32
        The member, or the lower end of the segment.
    weight : NamedArray of float64, or None
        Weight of the upper end; None where positions are members.
    gap : NamedArray of float64, or None
        How far outside the grid (or, for an integer, off the nearest member), infinite where it
        is no number; 0 outside a grid that allows that. None where a position was given, not found.
    here : bool
        Positions are among the rows at hand and not on the whole grid, whose other parts may be
        with other devices.
    """

    index: NamedArray
    weight: NamedArray | None = None
    gap: NamedArray | None = None
    here: bool = field(metadata={"static": True}, default=False)

    def lean(self) -> Location:
        """Return what a lookup needs."""
        return replace(self, gap=None)

    def map(self, f: Callable[[NamedArray], NamedArray]) -> Location:
        """Apply a function to each array."""
        weight, gap = (None if x is None else f(x) for x in (self.weight, self.gap))
        return Location(f(self.index), weight, gap, self.here)


def locate(spec: Grid | Integers, x: NamedArray) -> Location:
    """Find values on a grid of points or among integers."""
    return _member(spec, x) if isinstance(spec, Integers) else _segment(spec, x)


def _member(spec: Integers, x: NamedArray) -> Location:
    value = jnp.asarray(x.array, dtype=jnp.float64)
    nearest = jnp.clip(jnp.round(value), spec.lo, spec.hi)
    index = jnp.where(jnp.isnan(nearest), 0, nearest - spec.lo).astype(jnp.int32)
    gap = jnp.abs(value - nearest)
    gap = jnp.where(gap <= SLACK, 0.0, gap)
    return Location(NamedArray(index, x.dims), None, NamedArray(_known(value, gap), x.dims))


def _segment(spec: Grid, x: NamedArray) -> Location:
    points = jnp.asarray(spec.values, dtype=jnp.float64)
    value = jnp.asarray(x.array, dtype=jnp.float64)
    n = spec.size
    lo, hi = points[0], points[-1]
    outside = jnp.maximum(lo - value, value - hi)
    units = UNITS * jnp.maximum(jnp.abs(lo), jnp.abs(hi))
    steps = jnp.where(lo > value, points[min(1, n - 1)] - lo, hi - points[max(n - 2, 0)])
    gap = jnp.where(outside <= jnp.maximum(SLACK * steps, units), 0.0, outside)
    bottom, top = spec.sides
    if bottom == top != "error":
        gap = jnp.zeros(value.shape)
    elif bottom != top:
        gap = jnp.where(value < lo if bottom == "error" else value > hi, gap, 0.0)
    gap = _known(value, gap)
    if n == 1:
        zero = NamedArray(jnp.zeros(value.shape, jnp.int32), x.dims)
        return Location(zero, None, NamedArray(gap, x.dims))
    index = segment_index(spec, points, value)
    left, right = entries(points, index), entries(points, index + 1)
    weight = (value - left) / (right - left)
    if spec.outside != "extrapolate":
        weight = jnp.clip(weight, 0.0, 1.0)
    return Location(NamedArray(index, x.dims), NamedArray(weight, x.dims), NamedArray(gap, x.dims))


def _known(value: Array, gap: Array) -> Array:
    """Return a gap, infinite where the value is NaN or infinite, on whatever grid."""
    return jnp.where(jnp.isfinite(value), gap, jnp.inf)


def segment_index(spec: Grid, points: Array, value: Array) -> Array:
    """Return the lower end of each value's segment, in 0..n-2; it may exceed a value by rounding.

    XLA may compute a value once for its segment and once more for its weight, and round it
    otherwise. At a grid point the two would belong to different segments, which is a whole step
    off; so the border is where no value lies but by chance.
    """
    n, own = spec.size, spec.values
    xp = namespace(own)
    units = UNITS * xp.maximum(xp.abs(own[0]), xp.abs(own[-1]))
    value = value + xp.minimum(units, ASIDE * xp.min(xp.diff(own)))
    if spec.span is None:
        found = jnp.searchsorted(points, value, side="right").astype(jnp.int32) - 1
        return jnp.clip(found, 0, n - 2)
    u = spec.span.share(value) * (n - 1)
    guess = jnp.clip(jnp.where(jnp.isnan(u), 0.0, jnp.floor(u)), 0, n - 2).astype(jnp.int32)
    # The closed form is off by one at most, by rounding near a grid point.
    guess = guess - (value < entries(points, guess)).astype(jnp.int32)
    guess = guess + (value >= entries(points, guess + 1)).astype(jnp.int32)
    return jnp.clip(guess, 0, n - 2)


Corner = tuple[
    dict[str, NamedArray], list[NamedArray]
]  # a position on each axis, and weights to multiply


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


def flattened(indices: Mapping[str, NamedArray], x: NamedArray) -> NamedArray:
    """Return positions along axes of `x` as if these were one, the last one fastest."""
    (_, flat), *rest = indices.items()
    if prod(x.size_of(axis) for axis in indices) > MOST:
        flat = flat.map(lambda i: i.astype(jnp.int64))
    for axis, index in rest:
        flat = add(NamedArray(flat.array * x.size_of(axis), flat.dims), index)
    return flat


def at_members(x: NamedArray, members: Mapping[str, Array], axis: str) -> NamedArray:
    """Keep some members of states: those axes of `x` that are these states become one, `axis`.

    Parameters
    ----------
    x : NamedArray
    members : dict of str to int array (n,)
        Positions on each state's grid, side by side.
    axis : str
        Name of the axis of length n.
    """
    dims = [name for name in members if name in x.dims]
    if not dims:
        return x
    if dims == [axis]:
        return NamedArray(jnp.take(x.array, members[axis], axis=x.dims.index(axis)), x.dims)
    return take(x, dims, flattened({n: NamedArray(members[n], (axis,)) for n in dims}, x))


def looked_up(x: NamedArray, locations: Mapping[str, Location]) -> NamedArray:
    """Replace axes of `x` by lookups; a corner without weight may hold anything, NaN included."""
    nothing = NamedArray(jnp.zeros(()))
    parts = []
    for indices, weights in corners(locations):
        part = take(x, list(indices), flattened(indices, x))
        if weights:
            weight = multiply(*weights)
            part = where(weight.map(lambda w: w != 0.0), multiply(part, weight), nothing)
        parts.append(part)
    return add(*parts)


def greatest_reached(x: NamedArray, locations: Mapping[str, Location]) -> NamedArray:
    """Replace axes of `x` by its greatest value among the corners that have a weight."""
    least = NamedArray(jnp.asarray(-jnp.inf))
    parts = []
    for indices, weights in corners(locations):
        part = take(x, list(indices), flattened(indices, x))
        if weights:
            part = where(multiply(*weights).map(lambda w: w != 0.0), part, least)
        parts.append(part)
    return greatest(*parts)


def eliminated(
    x: NamedArray,
    needs: Mapping[str, frozenset[str]],
    posts: Mapping[str, Location],
    laws: Mapping[str, NamedArray],
    lookup: Callable[[NamedArray, Mapping[str, Location]], NamedArray],
    over: Callable[[NamedArray, Mapping[str, NamedArray], tuple[str, ...]], NamedArray],
) -> NamedArray:
    """Take all shocks' and post variables' axes away, each after those of all that depends on it.

    Parameters
    ----------
    x : NamedArray
        Over states and choices, shocks, and the post variables' grids.
    needs : mapping
        Of each shock and post variable the others that its law or rule names.
    posts, laws : mapping
        Where post variables lie on their grids; the shocks' probabilities.
    lookup, over : function
        What is done with a post variable's axis, and with a shock's.
    """
    while left := [d for d in x.dims if d in needs]:
        waiting = frozenset().union(*(ancestors(needs, d) for d in left))
        own = {d: (laws[d] if d in laws else posts[d].index).dims for d in left}
        # What brings in the fewest axes goes first: a shock whose law names what is there.
        grown = {d: len(set(own[d]) - set(x.dims)) for d in left if d not in waiting}
        d = min(grown, key=lambda d: (grown[d], d in posts))
        x = lookup(x, {d: posts[d]}) if d in posts else over(x, laws, (d,))
    return x
