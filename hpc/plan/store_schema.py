"""Which arrays the store holds, their chunks and shards.

Every array is labelled for xarray. The parameter axes and the fixed state grids are coordinates by
name; the parameters of points in a row, and the grids that differ from point to point, are named
in the attribute ``coordinates`` of the variables that they belong to (the CF convention).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.zarr_format import STRING, ZarrArray
from dpsolve.solvers.distributions.top_mass import PREFIX
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.labelled import SUFFIX

if TYPE_CHECKING:
    from dpsolve.sharding.batches.result_arrays import Layout, Variable

    from .design import Bucket


FORMAT = 2
"""The version of the store's layout, in the root attribute ``dpsolve_store``.

Format 1 did not hold what a model file imports.
"""
READABLE = (1, FORMAT)

PENDING = "pending"

CERTIFIES, CONCAVITY = "certifies", "concavity"
"""Arrays that tell of each point what its bounds are of; `certifies` is an attribute of
``error_bound`` too, of what bounds are of at best, and `of_what` says so in words."""
OF_WHAT = "of_what"

RECORDS: dict[str, tuple[str, Any, dict[str, str]]] = {
    "status": (STRING, PENDING, {
        "long_name": "solved, inexact, failed or pending",
        "description": "solved: certified within tol, or without a tol as well as the grid allows; "
        "inexact: finished, with wider bounds; failed: no result; pending: not computed yet.",
    }),
    "message": (STRING, "", {
        "long_name": "why a point is not solved",
        "description": "The first cause in words; empty where the point is solved.",
    }),
    "residual": ("float64", math.nan, {
        "long_name": "largest Bellman residual",
        "description": "What one more sweep would change; it is no bound on the error.",
    }),
    "error_bound": ("float64", math.nan, {
        "long_name": "certified sup-norm error of the value",
        "description": "Proved: at no state is the value further than this from the true one.",
    }),
    "iterations": ("int32", 0, {
        "long_name": "Bellman sweeps",
        "description": "Until the point was done.",
    }),
    "seconds": ("float64", math.nan, {
        "long_name": "time to solve",
        "units": "s",
        "description": "Its share of the time of the points that were solved beside it.",
    }),
}  # fmt: skip
"""What is recorded of every point: data type, fill value and attributes, by name."""

CHUNK_BYTES = 256 * 2**10
"""Of a shard's inner chunks: little to read for one point, much for one request."""

Coordinates = dict[str, tuple[ZarrArray, NDArray[Any]]]


def coordinates(bucket: Bucket, layout: Layout, variables: Mapping[str, Variable]) -> Coordinates:
    """Return the coordinate arrays of a bucket with their values.

    Raises
    ------
    UsageError
        If a swept parameter has the name of a state or of a variable.
    """
    used = {dim for variable in variables.values() for dim in variable.dims}
    used |= {dim for dims in bucket.own.values() for dim in dims}
    swept = dict.fromkeys((*bucket.axes, *bucket.parameters), "swept parameter")
    named = dict.fromkeys(bucket.own, "parameter") | swept
    _check_names(named, used, [*variables, *RECORDS])
    found: Coordinates = {}
    for name, values in bucket.axes.items():
        if name in bucket.parameters:
            found[name] = _coordinate((name,), values, f"parameter {name}", layout.labels.get(name))
        else:
            found[name] = _coordinate((name,), values, "number of the point")
    for name, (dims, values) in bucket.parameters.items():
        if name not in found:
            along = (*dims, *bucket.own.get(name, ()))
            found[name] = _coordinate(along, values, f"parameter {name}", layout.labels.get(name))
    for name, along in bucket.own.items():
        if name in bucket.fixed:
            found[name] = _coordinate(along, bucket.fixed[name], f"parameter {name}")
    for name, values in layout.coords.items():
        if name in used:
            label = layout.labels.get(name.removesuffix(SUFFIX))
            found[name] = _coordinate((name,), values, name, label)
    return found


def results(
    bucket: Bucket,
    variables: Mapping[str, Variable],
    block: tuple[int, ...],
    widths: Mapping[str, int] | None = None,
    certified: Mapping[str, str] | None = None,
) -> dict[str, ZarrArray]:
    """Return the arrays that tasks write, in the order in which they are written.

    Parameters
    ----------
    bucket : Bucket
    variables : dict
        What is kept of the model.
    block : tuple of int
        Extent of a task along each parameter axis.
    widths : dict of str to int, optional
        Of states whose axis is cut into several files: the members in each.
    certified : dict of str to str, optional
        What error bounds are of: attributes of theirs.
    """
    axes, shape = tuple(bucket.axes), bucket.shape
    beside = {
        name: (*dims, *bucket.own.get(name, ()))
        for name, (dims, _) in bucket.parameters.items()
        if name not in axes
    }
    beside |= {name: dims for name, dims in bucket.own.items() if name in bucket.fixed}
    beside |= {v.name: (*axes, *v.dims) for v in variables.values() if _is_grid(v.name)}
    found: dict[str, ZarrArray] = {}
    for name, variable in variables.items():
        dims = (*axes, *variable.dims)
        extents = zip(variable.dims, variable.shape, strict=True)
        cell = (*block, *((widths or {}).get(dim, length) for dim, length in extents))
        found[name] = ZarrArray(
            dims=dims,
            shape=(*shape, *variable.shape),
            dtype=variable.dtype,
            cell=cell,
            # Those that `dpsolve status` reads are plain: it does so without zarr.
            chunk=None
            if not variable.dims and (name.startswith(PREFIX) or name in (CERTIFIES, CONCAVITY))
            else inner_chunk(cell, np.dtype(variable.dtype).itemsize),
            fill=_fill(np.dtype(variable.dtype)),
            attributes={**variable.attributes} | _beside(name, dims, beside),
        )
    for name, (dtype, fill, attributes) in RECORDS.items():
        labels = attributes | _beside(name, axes, beside)
        if name == "error_bound":
            labels |= certified or {}
        found[name] = ZarrArray(axes, shape, dtype, block, None, fill, labels)
    found["status"] = found.pop("status")  # the status is the commit: last
    return found


def inner_chunk(cell: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Cut a shard into chunks of a few hundred KiB: as contiguous as possible, and without rest.

    Chunks grow from the last dimension on, so that one point's states lie together.
    """
    chunk = [1] * len(cell)
    size = itemsize
    for axis in reversed(range(len(cell))):
        length = cell[axis]
        if size * length > CHUNK_BYTES:
            chunk[axis] = _closest_divisor(length, CHUNK_BYTES / size)
            break
        chunk[axis] = length
        size *= length
    return tuple(chunk)


def _closest_divisor(number: int, wanted: float) -> int:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return min((*small, *(number // d for d in small)), key=lambda d: abs(math.log(d / wanted)))


def _coordinate(
    dims: tuple[str, ...],
    values: NDArray[Any],
    words: str,
    label: Mapping[str, str] | None = None,
) -> tuple[ZarrArray, NDArray[Any]]:
    values = np.asarray(values)
    array = ZarrArray(
        dims=dims,
        shape=values.shape,
        dtype=values.dtype.name,
        cell=values.shape,
        chunk=None,
        fill=_fill(values.dtype),
        attributes={"long_name": words, **(label or {})},
    )
    return array, values


def _beside(
    name: str, dims: tuple[str, ...], candidates: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Name the coordinates that lie along `dims` without being dimensions themselves."""
    if _is_grid(name):
        return {}
    names = [other for other, along in candidates.items() if set(along) <= set(dims)]
    return {"coordinates": " ".join(names)} if names else {}


def _is_grid(name: str) -> bool:
    return name.startswith("grid_")


def _fill(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "c":
        return complex(math.nan, math.nan)
    if dtype.kind == "f":
        return math.nan
    return {"i": -1, "b": False}.get(dtype.kind, 0)


def _check_names(swept: Mapping[str, str], states: Iterable[str], variables: Iterable[str]) -> None:
    variables = list(variables)
    for name in RECORDS:
        if variables.count(name) > 1:
            raise UsageError(
                f"the model returns an array '{name}', and so the store calls what it records of "
                "every point. Rename the array in the model."
            )
    for name, what in swept.items():
        kind = "state" if name in set(states) else "result" if name in set(variables) else ""
        if kind:
            raise UsageError(
                f"the {what} '{name}' has the name of a {kind}, and a store holds one array of "
                "that name. Rename the parameter in the model"
                f"{', or keep it fixed' if what.startswith('swept') else ''}."
            )
