"""Arrays with named axes, and their algebra.

A function of ``(a, a_next)`` is an array over just those two axes. It is broadcast against the
others as late as possible, which is where the engine's savings come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.user_functions import called, check_shape
from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.summation import short_sum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NamedArray:
    """An array and the names of its axes.

    Attributes
    ----------
    array : array (dims...)
        One axis for each name.
    dims : tuple of str
        Names of states, choices, shocks and post variables; ``x'`` for the next value of ``x``.
    """

    array: Array
    dims: tuple[str, ...] = field(metadata={"static": True}, default=())

    def map(self, f: Callable[[Array], Array]) -> NamedArray:
        """Apply an elementwise function."""
        return NamedArray(f(self.array), self.dims)

    def size_of(self, dim: str) -> int:
        """Return the length of an axis."""
        return int(self.array.shape[self.dims.index(dim)])


def ordered(x: NamedArray, dims: Sequence[str]) -> NamedArray:
    """Transpose so that the axes stand in the order of `dims`, which has at least all of them."""
    order = [x.dims.index(d) for d in dims if d in x.dims]
    return NamedArray(jnp.transpose(x.array, order), tuple(x.dims[i] for i in order))


def aligned(x: NamedArray, dims: Sequence[str]) -> Array:
    """Return the array with one axis for each of `dims`, of length 1 where `x` has none."""
    y = ordered(x, dims)
    return jnp.expand_dims(y.array, [i for i, d in enumerate(dims) if d not in x.dims])


def _combine(op: Callable[[Array, Array], Array], xs: Sequence[NamedArray]) -> NamedArray:
    dims = tuple(dict.fromkeys(d for x in sorted(xs, key=lambda x: -len(x.dims)) for d in x.dims))
    array = aligned(xs[0], dims)
    for x in xs[1:]:
        array = op(array, aligned(x, dims))
    return NamedArray(array, dims)


def add(*xs: NamedArray) -> NamedArray:
    """Sum, broadcasting by name."""
    return _combine(jnp.add, xs)


def multiply(*xs: NamedArray) -> NamedArray:
    """Multiply, broadcasting by name."""
    return _combine(jnp.multiply, xs)


def greatest(*xs: NamedArray) -> NamedArray:
    """Return the greatest, broadcasting by name; NaN if one of them is."""
    return _combine(jnp.maximum, xs)


def least(*xs: NamedArray) -> NamedArray:
    """Return the least, broadcasting by name; NaN if one of them is."""
    return _combine(jnp.minimum, xs)


def top(x: NamedArray, dims: Sequence[str]) -> NamedArray:
    """Return the maximum over some axes; NaN counts as infinite."""
    return NamedArray(
        largest(x.array, tuple(x.dims.index(d) for d in dims)),
        tuple(d for d in x.dims if d not in dims),
    )


def total(x: NamedArray, dims: Sequence[str]) -> NamedArray:
    """Sum over some axes."""
    kept, axes = tuple(d for d in x.dims if d not in dims), tuple(x.dims.index(d) for d in dims)
    return NamedArray(short_sum(x.array, *axes) if len(axes) == 1 else x.array.sum(axes), kept)


def mapped(
    f: Callable[..., Any],
    env: Mapping[str, NamedArray],
    order: Sequence[str],
    what: str,
    own: Mapping[str, int] = MappingProxyType({}),
) -> NamedArray:
    """Evaluate a scalar function over the axes of the arguments it names, and no others.

    Parameters
    ----------
    f : function
        Takes any of the names in `env`.
    env : mapping
        What each name stands for.
    order : sequence of str
        Order of the axes of the result.
    what : str
        What to call `f` in an error.
    own : mapping of str to int
        Axes of what `f` itself returns, and their lengths: none for a scalar function.
    """
    kwargs = {name: env[name] for name in arguments(f, env)}
    dims = [d for d in order if any(d in x.dims for x in kwargs.values())]

    def scalar(kw: dict[str, Any]) -> Any:
        y = called(f, kw, what)
        check_shape(y.shape, tuple(own.values()), what)
        return y

    g: Callable[[dict[str, Any]], Any] = scalar
    for level in reversed(range(len(dims))):
        axes = {}
        for name, x in kwargs.items():
            left = [d for d in x.dims if d not in dims[:level]]
            axes[name] = left.index(dims[level]) if dims[level] in left else None
        g = jax.vmap(g, in_axes=(axes,))
    return NamedArray(g({name: x.array for name, x in kwargs.items()}), (*dims, *own))


def take(x: NamedArray, axes: Sequence[str], index: NamedArray) -> NamedArray:
    """Look up entries along `axes` (flattened together) at integer positions.

    Axes that `x` and `index` share are matched; those of `x` alone come along as whole rows, so
    that a lookup moves rows and not single entries wherever the structure allows it. Positions
    must be in bounds.
    """
    shared = [d for d in x.dims if d in index.dims]
    rest = [d for d in x.dims if d not in shared and d not in axes]
    own = [d for d in index.dims if d not in shared]
    rows = ordered(x, [*shared, *axes, *rest]).array
    shape = [x.size_of(d) for d in shared]
    flat = prod(x.size_of(d) for d in axes)
    rows = rows.reshape([*shape, flat, *(x.size_of(d) for d in rest)])
    where = ordered(index, [*shared, *own]).array

    def look(rows: Array, where: Array) -> Array:
        return rows.at[where].get(mode="promise_in_bounds")

    g: Callable[[Array, Array], Array] = look
    for _ in shared:
        g = jax.vmap(g)
    return NamedArray(g(rows, where), (*shared, *own, *rest))


def where(condition: NamedArray, x: NamedArray, y: NamedArray) -> NamedArray:
    """Choose elementwise, broadcasting by name."""
    dims = tuple(dict.fromkeys((*x.dims, *condition.dims, *y.dims)))
    return NamedArray(jnp.where(aligned(condition, dims), aligned(x, dims), aligned(y, dims)), dims)
