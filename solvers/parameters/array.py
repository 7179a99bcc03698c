"""``dp.array``: a parameter that is an array over states, choices or ``t``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.solvers.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from dpsolve.solvers.numerics.arrays import Numpy

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class ArrayParameter:
    """The default of a parameter that is an array.

    Attributes
    ----------
    dims : tuple of str
        The states, choices or ``t`` that it has an entry for, in order; empty where the default is
        an array given plainly, whose axes have no such names.
    fill : float array () or (dims...), or None
        Its entries: one number for all, or each. None: it has to be given.
    shape : tuple of int or str, or None
        Its shape where the model does not tell it; a text is the name of a size.
    """

    dims: tuple[str, ...]
    fill: Numpy | None
    shape: tuple[int | str, ...] | None = None

    def __repr__(self) -> str:
        if not self.dims:
            assert self.fill is not None
            return f"array {self.fill.shape}"
        told = [repr(d) for d in self.dims]
        if self.fill is not None:
            told.append("fill=[...]" if self.fill.ndim else f"fill={float(self.fill):.6g}")
        told += [f"shape={self.shape}"] if self.shape else []
        return f"dp.array({', '.join(told)})"

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.dims) or (0 if self.fill is None else self.fill.ndim)

    def named(self, name: str) -> tuple[str, ...]:
        """Return the dimensions that an array of this name is stored with."""
        if self.dims:
            return self.dims
        several = self.ndim > 1
        return tuple(f"{name}_index_{i}" if several else f"{name}_index" for i in range(self.ndim))

    def known_shape(self, name: str, sizes: Mapping[str, Any]) -> Shape | None:
        """Return the shape where the model need not be asked for it, else None.

        Raises
        ------
        ModelError
            If `shape` names what is no size, or a size that is no number.
        """
        if self.shape is not None:
            return tuple(_length(name, n, sizes) for n in self.shape)
        if self.fill is not None and self.fill.ndim:
            shape: Shape = self.fill.shape
            return shape
        return None

    def default(self, shape: Shape) -> Numpy | None:
        """Return what it is where it is not given (shape...), or None."""
        return None if self.fill is None else np.broadcast_to(self.fill, shape)


def array(*dims: str, fill: Any = None, shape: Any = None) -> Any:
    """Declare a parameter that is an array, as its default in a factory's signature.

    A price schedule, a law of motion, a table of estimates is one parameter, traced like a number:
    other entries need no other program. The model's functions look it up at the positions of
    states and choices, or interpolate in it, by closure.

    Parameters
    ----------
    *dims : str
        What it has an entry for: states, choices that are made from a list, ``t``. Its shape is
        theirs in the model, and is checked; it is stored under their names.
    fill : float or array (dims...), optional
        Its entries where it is not given: one number, or all of them. Without, it must be given.
    shape : tuple of int or str, optional
        Its shape, by numbers or names of sizes. It is needed only where the factory itself
        computes with the array before it returns the model, which otherwise tells the shape.

    Returns
    -------
    A default that no model sees: the factory is called with an array (dims...).

    Raises
    ------
    ModelError
        If there is no dimension, one is named twice, or `fill` or `shape` does not fit them.

    Examples
    --------
    >>> def default(beta=0.953, q=dp.array("b_next", "y", fill=0.98), *, n_b=61, n_y=21):
    ...     def consumption(b, y, b_next, b_next_index, y_index):
    ...         return jnp.exp(y) + b - q[b_next_index, y_index] * b_next
    """
    if not dims or not all(isinstance(d, str) and d for d in dims):
        raise ModelError(
            f"dp.array{dims!r}: it takes the names of states, choices or 't' that the array has an "
            'entry for: dp.array("b_next", "y", fill=0.98). An array whose axes are none of these '
            "is a default as it is: prices=jnp.zeros(10)"
        )
    if twice := next((d for i, d in enumerate(dims) if d in dims[:i]), None):
        raise ModelError(f"dp.array: the dimension '{twice}' is named twice")
    told = None if fill is None else _entries(fill, f"dp.array{dims!r}: fill")
    if told is not None and told.ndim not in (0, len(dims)):
        raise ModelError(
            f"dp.array: fill has {told.ndim} dimensions (shape {told.shape}), and the array "
            f"{len(dims)}: {', '.join(dims)}; give one number, or all entries"
        )
    if shape is None:
        return ArrayParameter(dims, told)
    lengths = (shape,) if isinstance(shape, int | str) else tuple(shape)
    whole = all(isinstance(n, int | np.integer | str) and not isinstance(n, bool) for n in lengths)
    if len(lengths) != len(dims) or not whole:
        raise ModelError(
            f"dp.array: shape={shape!r}; it has a length for each of {', '.join(dims)}: a number, "
            "or the name of a size"
        )
    return ArrayParameter(dims, told, lengths)


def read_default(model: str, name: str, default: Any) -> float | ArrayParameter:
    """Return what a signature gives a parameter: a number, or an array.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if isinstance(default, ArrayParameter):
        return default
    if isinstance(default, int | float) and not isinstance(default, bool):
        return float(default)
    if not (hasattr(default, "dtype") or isinstance(default, list | tuple)):
        raise ModelError(
            f"{model}: the default of parameter '{name}' is {default!r}, not a number; economic "
            "parameters are numbers, or arrays of numbers; put sizes and options after a '*' in "
            "the signature"
        )
    told = _entries(default, f"{model}: the default of parameter '{name}'")
    if not told.ndim:
        return float(told)
    if not told.size:
        raise ModelError(
            f"{model}: the default of parameter '{name}' is an array without entries, of shape "
            f"{told.shape}; its shape is that of every value it takes"
        )
    return ArrayParameter((), told)


def _entries(x: Any, what: str) -> Numpy:
    try:
        told = np.asarray(x)
    except (ValueError, TypeError):  # rows of unequal lengths
        told = np.asarray(None)
    if told.dtype.kind not in "iuf":
        raise ModelError(f"{what} is {x!r}, and no array of numbers")
    told = told.astype(np.float64)
    if place := nan_place(told):
        raise ModelError(f"{what} is NaN{place}; give it a number")
    return told


def nan_place(x: Numpy, dims: tuple[str, ...] = ()) -> str:
    """Return where an array's first NaN is, in words; '' if it has none."""
    bad = np.isnan(x)
    if not bad.any():
        return ""
    at = [int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape)]
    if not at:
        return " "
    more = f", and at {bad.sum() - 1:,} others" if bad.sum() > 1 else ""
    named = ", ".join(f"{d}_index={i}" for d, i in zip(dims, at, strict=False))
    return f" at {at}{f' ({named})' if named else ''}{more}"


def _length(name: str, n: int | str, sizes: Mapping[str, Any]) -> int:
    if not isinstance(n, str):
        return int(n)
    if n not in sizes:
        raise ModelError(
            f"the shape of parameter '{name}' names '{n}', which is no size."
            f"{did_you_mean(n, sizes)} The sizes: {', '.join(sizes) or '(none)'}."
        )
    size = sizes[n]
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise ModelError(
            f"the shape of parameter '{name}' names the size '{n}', which is {size!r} and no number"
        )
    return int(size)
