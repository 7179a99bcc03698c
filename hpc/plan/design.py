"""Points of a sweep: full factorial, Latin hypercube, Sobol, lists, tables.

Each axis of ``[grid]`` is a dimension of the result; ``[zip]``, ``[sample]`` and ``[table]`` run
along one dimension more, ``point``. Every set of static sizes is a :class:`Bucket` of its own: one
compiled program, one group of the store.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.sweep_file.array_values import Arrays
from dpsolve.hpc.sweep_file.consistency import disagreements
from dpsolve.hpc.sweep_file.fields import Range, Sample, Span, Sweep
from dpsolve.hpc.sweep_file.mistakes import report
from dpsolve.solvers.model.factory_signature import Signature
from dpsolve.solvers.outcomes import shown

from .limits import check_points

POINT = "point"
MANY = 10**6  # values of an axis, of which nobody selects one by its decimal


@dataclass(frozen=True, eq=False)
class Bucket:
    """All points of a sweep that share their static sizes.

    Attributes
    ----------
    group : str
        The group of the store: empty when the sweep has one bucket, else such as ``n_k=100``.
    sizes : dict
        Every static parameter.
    axes : dict of str to array
        The parameter dimensions in order, with their coordinates. There is always one at least:
        a bucket of one point has ``point``.
    parameters : dict
        Each varying economic parameter: the dimensions that it varies along, and its values; of an
        array (dims..., shape...).
    fixed : dict of str to float or array
        All other economic parameters, defaults included.
    own : dict of str to tuple of str
        The parameters that are arrays: the dimensions of one.
    """

    group: str
    sizes: dict[str, Any]
    axes: dict[str, NDArray[Any]]
    parameters: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]]
    fixed: dict[str, Any]
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(len(values) for values in self.axes.values())

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(self.shape)

    def points(self, index: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
        """Return every economic parameter at some points.

        Parameters
        ----------
        index : integer array (N,)
            Numbers of points, counted over the axes in C order.

        Returns
        -------
        dict of str to float64 array (N,), or (N, shape...)
        """
        along = dict(zip(self.axes, np.unravel_index(index, self.shape), strict=True))
        n = len(index)
        values = {k: np.broadcast_to(x, (n, *np.shape(x))) for k, x in self.fixed.items()}
        for name, (dims, array) in self.parameters.items():
            values[name] = array[tuple(along[dim] for dim in dims)]
        return values


@dataclass(frozen=True, eq=False)
class Design:
    """All points of a sweep."""

    buckets: tuple[Bucket, ...]

    @property
    def size(self) -> int:
        """The number of points."""
        return sum(bucket.size for bucket in self.buckets)


def make_design(sweep: Sweep, signature: Signature) -> Design:
    """Lay out the points of a sweep.

    Raises
    ------
    UsageError
        If the sweep and the model's signature do not fit; every mistake is named.
    """
    raw = sweep.as_dict()
    if mistakes := list(disagreements(raw, signature)):
        raise report("the sweep", mistakes, raw, lambda key: (0, ""))
    check_points(sweep)
    grid = {name: _axis(axis) for name, axis in sweep.grid.items()}
    return Design(tuple(_Points(sweep.fixed, grid, _rows(sweep), signature).buckets()))


def point_parameters(bucket: Bucket, point: int) -> dict[str, Any]:
    """Return what distinguishes a point: its group, if there are several, and its parameters."""
    values = bucket.points(np.array([point]))
    numbers = [name for name in bucket.parameters if name not in bucket.own]
    named: dict[str, Any] = {name: float(values[name][0]) for name in numbers}
    if len(numbers) < len(bucket.parameters):  # no array tells a point in a line
        at = dict(zip(bucket.axes, np.unravel_index(point, bucket.shape), strict=True))
        named[POINT] = int(bucket.axes[POINT][at[POINT]])
    return {"group": bucket.group, **named} if bucket.group else named


def point_label(parameters: Mapping[str, Any]) -> str:
    """Name a point by its parameters."""
    return ", ".join(
        f"{name}={value:.10g}" if isinstance(value, float) else _named(name, value)
        for name, value in parameters.items()
    )


def _named(name: str, value: Any) -> str:
    if isinstance(value, str):  # a group
        return value
    return f"{name}={shown(value)}"


@dataclass(frozen=True)
class _Points:
    """What varies and what does not, sizes and economic parameters together."""

    given: Mapping[str, Any]
    grid: Mapping[str, NDArray[Any]]
    rows: Mapping[str, NDArray[Any]]
    signature: Signature

    def buckets(self) -> Iterator[Bucket]:
        parts = list(self._sizes())
        varying = [k for k in parts[0][0] if len({str(sizes[k]) for sizes, _ in parts}) > 1]
        for sizes, which in parts:
            group = ",".join(f"{name}={sizes[name]}" for name in varying).replace("/", "_")
            yield self._bucket(group, sizes, which)

    def _sizes(self) -> Iterator[tuple[dict[str, Any], NDArray[np.intp]]]:
        """Yield each distinct set of sizes, with the rows that have it."""
        names = self.signature.sizes
        fixed = {name: self.given.get(name, default) for name, default in names.items()}
        crossed = {name: self.grid[name].tolist() for name in self.grid if name in names}
        paired = {name: self.rows[name].tolist() for name in self.rows if name in names}
        count = len(next(iter(self.rows.values()))) if self.rows else 1
        members: dict[tuple[Any, ...], list[int]] = {}
        for i in range(count):
            members.setdefault(tuple(values[i] for values in paired.values()), []).append(i)
        for values in itertools.product(*crossed.values()):
            for key, which in members.items():
                own = dict(zip(crossed, values, strict=True)) | dict(zip(paired, key, strict=True))
                yield fixed | own, np.asarray(which)

    def _bucket(self, group: str, sizes: dict[str, Any], which: NDArray[np.intp]) -> Bucket:
        axes: dict[str, NDArray[Any]] = {}
        parameters: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {}
        economic = self.signature.parameters
        for name in [name for name in self.grid if name in economic]:
            axes[name] = np.asarray(self.grid[name], dtype=np.float64)
            parameters[name] = ((name,), axes[name])
        if self.rows or not axes:
            axes[POINT] = which
        for name in [name for name in self.rows if name in economic]:
            values = np.asarray(self.rows[name])[which]
            parameters[name] = ((POINT,), values if values.dtype.kind == "U" else values * 1.0)
        still = {**economic, **self.given}
        arrays = {k: still[k].one for k in economic if isinstance(still[k], Arrays)}
        fixed = {
            k: float(still[k])
            for k in economic
            if k not in parameters and k not in self.signature.arrays
        }
        return Bucket(group, sizes, axes, parameters, fixed | arrays, self.signature.array_dims)


def _axis(axis: Range | tuple[Any, ...]) -> NDArray[Any]:
    """Return the values of a grid axis; whole numbers stay whole."""
    if not isinstance(axis, Range):
        return np.asarray(axis)
    if axis.spacing == "log":
        values = np.geomspace(axis.start, axis.stop, axis.points)
    else:
        values = np.linspace(axis.start, axis.stop, axis.points)
    values = _as_meant(values, axis.spacing == "log")
    whole = isinstance(axis.start, int) and isinstance(axis.stop, int)
    return values.astype(np.int64) if whole and np.all(values % 1 == 0) else values


def _as_meant(values: NDArray[np.float64], relative: bool) -> NDArray[np.float64]:
    """Undo rounding where the decimal that was meant is a few units in the last place away.

    Steps from 0.90 to 0.99 give 0.9500000000000001, which no selection by 0.95 would find. Units
    are those of the largest value, unless each is meant relative to itself: steps from -1 to 1 pass
    zero at 2.8e-17.
    """
    if len(values) > MANY:
        return values
    size = np.abs(values) if relative else np.full(values.shape, np.max(np.abs(values)))
    near = 4 * np.spacing(size)
    meant = np.array([float(f"{value:.12g}") for value in values])
    meant = np.where(np.abs(values) <= near, 0.0, meant)
    return np.where(np.abs(meant - values) <= near, meant, values)


def _rows(sweep: Sweep) -> dict[str, NDArray[Any]]:
    """Return the values along `point`, by parameter."""
    if sweep.sample is not None:
        return _draw(sweep.sample)
    lists = sweep.table.values if sweep.table is not None else sweep.zip
    return {name: x.rows if isinstance(x, Arrays) else np.asarray(x) for name, x in lists.items()}


def _draw(sample: Sample) -> dict[str, NDArray[Any]]:
    """Draw the points of a sample; the same seed gives the same points.

    Points of a Sobol sequence are balanced for powers of two; other numbers take the first ones.
    """
    from scipy.stats import qmc

    random = np.random.default_rng(sample.seed)
    dimension = len(sample.ranges)
    if sample.method == "sobol":
        power = math.ceil(math.log2(sample.points))
        unit = qmc.Sobol(dimension, seed=random).random_base2(power)[: sample.points]
    else:
        unit = qmc.LatinHypercube(dimension, seed=random).random(sample.points)
    columns = zip(sample.ranges.items(), unit.T, strict=True)
    return {name: _between(span, share) for (name, span), share in columns}


def _between(span: Span, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map shares of the unit interval to values between the ends, by the span's spacing."""
    if span.spacing == "log":
        low, high = math.log(span.start), math.log(span.stop)
        return np.asarray(np.exp(low + (high - low) * share))
    return span.start + (span.stop - span.start) * share
