"""A result's arrays by the names that a store has: one, or all as an ``xarray.Dataset``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import xarray

    from .numerics.arrays import AnyArray

POINT = "point"
TIME = "time"
PERIOD = "t"
SUFFIX = "_distribution"  # of the dimension of a distribution that has a grid of its own


def entry(arrays: Mapping[str, AnyArray], name: Any, what: str) -> AnyArray:
    """Return an array by its name, or an output by its own name.

    Raises
    ------
    UsageError
        If there is none, with the names that there are.
    """
    for key in (name, f"output_{name}"):
        if key in arrays:
            return arrays[key]
    known = [*arrays, *(k.removeprefix("output_") for k in arrays if k.startswith("output_"))]
    raise UsageError(
        f"{what} has no array {name!r}.{did_you_mean(str(name), known)} It has: "
        f"{', '.join(arrays)}."
    )


def choices_of(arrays: Iterable[str]) -> tuple[str, ...]:
    """Return the choices whose values are among a result's arrays, by the names of these.

    Beside ``policy_<choice>`` there are its position, ends between which it lies, and its loss.
    """
    names = [n.removeprefix("policy_") for n in arrays if n.startswith("policy_")]
    positions = [f"index_{c}" for c in names]
    beside = {"loss", *(f"{end}_{c}" for c in names for end in ("lower", "upper"))}
    return tuple(
        c for c in names if c not in positions and (f"index_{c}" in names or c not in beside)
    )


def labelled(
    found: Any,
    named: Iterable[tuple[str, tuple[str, ...], AnyArray]],
    numbers: Mapping[str, AnyArray],
    batched: bool,
) -> xarray.Dataset:
    """Return an ``xarray.Dataset`` of a solution's or a distribution's arrays.

    Parameters
    ----------
    found : Solution or Distribution
        Its status, message and parameters go along.
    named : iterable of (name, dims, array (dims...) or (points, dims...))
        Without the axis of points in `dims`. What is named ``grid_<state>`` becomes that state's
        coordinate; where it differs between points, a coordinate under its own name.
    numbers : dict of str to array () or (points,)
        One of each for a point.
    batched : bool
        Whether arrays have a leading axis of points.
    """
    import xarray

    point = (POINT,) if batched else ()
    coords: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    for name, dims, values in named:
        array = np.asarray(values)
        state = name.removeprefix("grid_")
        is_grid = name.startswith("grid_") and dims == (state,)
        if is_grid and (not point or (array == array[:1]).all()):
            coords[state] = array[0] if point else array
            continue
        # A grid that moves with a parameter is a coordinate too, of more dimensions than its own.
        (coords if is_grid else variables)[name] = ((*point, *dims), array)
        for dim in {TIME, PERIOD} & {*dims}:
            coords[dim] = np.arange(array.shape[len(point) + dims.index(dim)])
    variables |= {name: (point, np.asarray(x)) for name, x in numbers.items()}
    variables["status"] = (point, np.asarray(found.status, dtype=object))
    variables["message"] = (point, np.asarray(found.message, dtype=object))
    own = found.problem.array_dims if found.problem is not None else {}
    coords |= {
        n: ((*point, *own.get(n, ())), np.asarray(x))
        for n, x in found.parameters.items()
        if n not in variables
    }
    return xarray.Dataset(variables, coords)
