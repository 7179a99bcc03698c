r"""One axis of states in equal parts over devices, and reductions over all of them.

Inside ``jax.shard_map`` every array (states...) is a device's own part of it. Only two things
reach beyond: a lookup of next states, which may lie in anybody's part (:meth:`Partition.gather`, or
:meth:`Partition.ring` and :meth:`Partition.rows` where the whole would take too much memory), and a
maximum or a sum over all states (:class:`Reductions`). Nothing else in this room knows that there
are several devices.

Parts are equal. Where they do not come out even, the last ones repeat the last member of the grid:
a copy of a state has that state's value, so maxima and linear systems are what they were, and no
transition leads to a copy, so a distribution gives it no mass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jax import Array, lax

from .finite import largest, smallest


def folded(reduce: Callable[..., Array], x: Array) -> Array:
    """Reduce an array (..., n) over all axes: over the last one last.

    A CPU adds up one number after the other, because their order must be what was written; but n
    sums side by side are one instruction for several. The barrier keeps XLA from making one
    reduction of the two.
    """
    if x.ndim < 2 or jax.default_backend() != "cpu":
        return reduce(x)
    return reduce(lax.optimization_barrier(reduce(x, axis=tuple(range(x.ndim - 1)))))


@dataclass(frozen=True)
class Reductions:
    """Reductions over all states: a device's own, and then over the devices of a mesh axis.

    Of an array of any shape (its part of the states, whatever their axes) the result is one number,
    the same on all devices; :meth:`add`, :meth:`together` and :meth:`numbers` say what they return.

    Attributes
    ----------
    axis : str or None
        Name of the mesh axis; None where one device has all states.
    """

    axis: str | None = None

    def max(self, x: Array) -> Array:
        """Return the largest entry; NaN counts as infinite."""
        return self.top(folded(largest, x))

    def min(self, x: Array) -> Array:
        """Return the smallest entry; NaN counts as minus infinite."""
        return -self.top(-folded(smallest, x))

    def top(self, x: Array) -> Array:
        """Return the largest of the devices' numbers; NaN if one of them is."""
        if self.axis is None:
            return x
        nan = lax.pmax(jnp.isnan(x).astype(jnp.int32), self.axis) > 0
        return jnp.where(nan, jnp.nan, lax.pmax(x, self.axis))

    def sum(self, x: Array) -> Array:
        """Return the sum of all entries."""
        total = folded(jnp.sum, x)
        return total if self.axis is None else lax.psum(total, self.axis)

    def dot(self, x: Array, y: Array) -> Array:
        """Return the inner product."""
        total = folded(jnp.sum, x * y)
        return total if self.axis is None else lax.psum(total, self.axis)

    def all(self, x: Array) -> Array:
        """Tell whether all entries are true."""
        every = jnp.all(x)
        if self.axis is None:
            return every
        everywhere: Array = lax.pmin(every.astype(jnp.int32), self.axis) > 0
        return everywhere

    def any(self, x: Array) -> Array:
        """Tell whether an entry is true."""
        return ~self.all(~x)

    def add(self, x: Array) -> Array:
        """Return the sum of the devices' arrays (...), entry by entry (...)."""
        return x if self.axis is None else lax.psum(x, self.axis)

    def together(self, x: Array) -> Array:
        """Put the devices' arrays (n, ...) one after the other (devices * n, ...)."""
        return x if self.axis is None else lax.all_gather(x, self.axis, tiled=True)

    def least(self, x: Array) -> Array:
        """Return the smallest of whole numbers."""
        least = jnp.min(x)
        return least if self.axis is None else lax.pmin(least, self.axis)

    def numbers(self, n: int) -> Array:
        """Return the numbers of this device's n states, counted over all devices."""
        devices = 1 if self.axis is None else int(lax.psum(1, self.axis))
        kind = jnp.int32 if n * devices < 2**31 else jnp.int64
        own = jnp.arange(n, dtype=kind)
        return own if self.axis is None else own + lax.axis_index(self.axis).astype(kind) * n

    def argmax(self, x: Array) -> Array:
        """Return the number of the first greatest entry of an array (n,)."""
        if self.axis is None:
            return jnp.argmax(x).astype(jnp.int32)
        greatest = x == lax.pmax(jnp.max(x), self.axis)
        none = jnp.iinfo(jnp.int32).max
        return self.least(jnp.where(greatest, self.numbers(x.shape[0]), none)).astype(jnp.int32)

    def entry(self, x: Array, number: Array) -> Array:
        """Return the entry of a numbered state, of an array (n,)."""
        return self.sum(jnp.where(self.numbers(x.shape[0]) == number, x, 0))

    def mean(self, x: Array) -> Array:
        """Return the mean entry."""
        mean = jnp.mean(x)
        return mean if self.axis is None else lax.pmean(mean, self.axis)


ALONE = Reductions()


@dataclass(frozen=True)
class Partition:
    """One state's axis in equal parts over the devices of a mesh axis.

    Attributes
    ----------
    state : str
        The state.
    size : int
        Number of its grid's members.
    parts : int
        Number of devices.
    axis : str
        Name of the mesh axis.
    """

    state: str
    size: int
    parts: int
    axis: str

    @property
    def width(self) -> int:
        """Members to a device, copies of the last one included."""
        return -(-self.size // self.parts)

    @property
    def reductions(self) -> Reductions:
        """Reductions over all states."""
        return Reductions(self.axis)

    def index(self) -> Array:
        """Return the positions (width,) on the grid of this device's members."""
        first = lax.axis_index(self.axis) * self.width
        return jnp.minimum(first + jnp.arange(self.width), self.size - 1).astype(jnp.int32)

    def part(self, x: Array, axis: int) -> Array:
        """Return this device's part of masses (..., size, ...), with `width` entries along an axis.

        Copies of a state have none.
        """
        own = jnp.take(x, self.index(), axis=axis)
        first = lax.axis_index(self.axis) * self.width
        real = first + jnp.arange(self.width) < self.size
        return jnp.where(jnp.expand_dims(real, [i for i in range(x.ndim) if i != axis]), own, 0.0)

    def numbers_on_grid(self, numbers: Array, shape: tuple[int, ...], axis: int) -> Array:
        """Turn numbers of :meth:`Reductions.numbers` into positions in the whole, flattened array.

        Parameters
        ----------
        numbers : int array (...)
            Of states; negative ones stay as they are.
        shape : tuple of int
            Of the whole array.
        axis : int
            The one that is cut.
        """
        own = (*shape[:axis], self.width, *shape[axis + 1 :])
        device, rest = numbers // prod(own), numbers % prod(own)
        at = list(jnp.unravel_index(rest, own))
        at[axis] = jnp.minimum(at[axis] + device * self.width, self.size - 1)
        flat = jnp.zeros_like(numbers)
        for n, i in zip(shape, at, strict=True):
            flat = flat * n + i
        return jnp.where(numbers < 0, numbers, flat).astype(jnp.int32)

    def gather(self, x: Array, axis: int) -> Array:
        """Put parts (..., width, ...) together along an axis, (..., size, ...), without copies."""
        whole = lax.all_gather(x, self.axis, axis=axis, tiled=True)
        return lax.slice_in_dim(whole, 0, self.size, axis=axis)

    def ring(self, x: Array, visit: Callable[[Array, Array], Array]) -> Array:
        """Sum `visit(part, first)` over all parts of an array, which go round from hand to hand.

        Parameters
        ----------
        x : array (..., width, ...)
            This device's part.
        visit : function
            Of a part and the position on the grid of its first member.
        """
        onward = [(i, (i - 1) % self.parts) for i in range(self.parts)]
        me = lax.axis_index(self.axis)

        def fold(carry: tuple[Array, Array], j: Array) -> tuple[tuple[Array, Array], None]:
            part = lax.ppermute(carry[0], self.axis, onward)
            return (part, carry[1] + visit(part, (me + j) % self.parts * self.width)), None

        own = visit(x, me * self.width)
        (_, total), _ = lax.scan(fold, (x, own), jnp.arange(1, self.parts))
        return total

    def rows(self, x: Array, axis: int, wanted: Array) -> Array:
        """Return some rows of the whole array, given their positions (wanted,) on the grid.

        Every device adds the rows that it has to zeros, so that what moves is the rows.
        """
        first = lax.axis_index(self.axis) * self.width
        at = wanted - first
        own = (at >= 0) & (at < self.width)
        found = jnp.take(x, jnp.clip(at, 0, self.width - 1), axis=axis)
        mask = jnp.expand_dims(own, [i for i in range(x.ndim) if i != axis])
        together: Array = lax.psum(jnp.where(mask, found, 0.0), self.axis)
        return together
