"""What parameters are given: numbers and arrays of the shapes that a model has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.tracing import is_concrete

from .array import Shape, nan_place


def check_array(
    model: str, name: str, value: Any, shape: Shape, dims: tuple[str, ...], many: bool
) -> Any:
    """Return what an array is given, as an array of floats; traced ones as they are.

    Parameters
    ----------
    model, name : str
        Of the factory and of its parameter.
    value : array (shape...), or with `many` (points, shape...)
    shape, dims
        The parameter's, in the model.
    many : bool
        Whether there may be an array for each of many points.

    Raises
    ------
    ModelError
        If it has another shape, or the one array of all points has a NaN.
    """
    given = np.shape(value)
    if given != shape and not (many and given[1:] == shape and len(given) == len(shape) + 1):
        raise ModelError(f"{model}: {_wrong_shape(name, given, shape, dims, many)}")
    if not is_concrete(value):
        return value
    if given == shape and (place := nan_place(np.asarray(value, np.float64), dims)):
        raise ModelError(
            f"{model}: parameter '{name}' is NaN{place}; give each of its entries a number"
        )
    return value if hasattr(value, "dtype") else np.asarray(value, np.float64)


def _wrong_shape(name: str, given: Shape, shape: Shape, dims: tuple[str, ...], many: bool) -> str:
    has = f"has shape {given}" if given else "is one number"
    text = f"parameter '{name}' {has}, and its shape is {shape}"
    if dims != (f"{name}_index",):
        each = ", ".join(f"{n} of {d}" for n, d in zip(shape, dims, strict=True))
        text += f": {each}"
    if len(given) == len(shape) + 1 and given[1:] == shape:
        return f"{text}; this is one point, and dp.solve_many takes an array for each of many"
    if sorted(given) == sorted(shape):
        return f"{text}; its axes are in another order: transpose it"
    if not given:
        return f"{text}; give it all its entries: jnp.full({shape}, ...)"
    return f"{text}; give an array of that shape" + (f", or (points, {each_of(shape)})" * many)


def each_of(shape: Shape) -> str:
    """Return the lengths of axes, between commas."""
    return ", ".join(map(str, shape))


def missing(columns: Mapping[str, Numpy]) -> Numpy:
    """Tell which points have a NaN among their parameters (points, ...): bool array (points,)."""
    found = [np.isnan(x).reshape(len(x), -1).any(1) for x in columns.values()]
    return np.any(found, axis=0) if found else np.asarray(False)


def no_number(values: Mapping[str, Any], dims: Mapping[str, tuple[str, ...]]) -> str:
    """Say which parameter of a point is NaN, and where; '' if none is."""
    for name, value in values.items():
        if place := nan_place(np.asarray(value), dims.get(name, ())):
            return f"parameter '{name}' is NaN{place}".rstrip()
    return ""
