"""One factory at one set of sizes, compiled once for batches of points.

A batch has a fixed number of *lanes*, chosen from the model's size and the device, never from the
number of points: so a program is compiled once whatever is asked of it, and what a point's result
is, to the last bit, does not depend on its neighbours or on how many points there are. Lanes run
side by side under ``vmap``; each stops by its own criterion and keeps what it has. A lane that is
left over is filled with NaN, which fails before its first sweep.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from ..solvers.factory import Factory, Signature, build, signature
from ..solvers.options import SolveOptions
from ..solvers.outcomes import word
from ..solvers.point import PER_POINT, Footprint, footprint, solve_point
from ..solvers.solve import check_sizes, explain
from .layout import Layout, make_layout
from .threads import side_by_side

__all__ = ["Batch", "Forecast", "Program", "program"]

Numpy = np.ndarray[Any, Any]

# Bytes of state-choice arrays that the lanes of a batch take together. On a CPU they should stay
# in cache; on an accelerator they should fill it.
CPU_BYTES = 2 * 2**20
ACCELERATOR_SHARE = 1 / 8
MOST_LANES = 4096


@dataclass(frozen=True)
class Forecast:
    """Memory that one batch takes on its device, from the model's sizes.

    Attributes
    ----------
    lanes : int
        Points solved side by side.
    bytes_per_point, bytes : int
        For one lane, and for the batch.
    streams : bool
        Whether rewards are recomputed by blocks of choices, for lack of memory to keep them.
    """

    lanes: int
    bytes_per_point: int
    bytes: int
    streams: bool


@dataclass(frozen=True)
class Batch:
    """Results of some points; the first axis of every array is the points'.

    Attributes
    ----------
    variables : dict of str to array (points, ...)
        Everything the model gives.
    status, message : array of str (points,)
        Status words and sentences.
    residual, error_bound, seconds : float array (points,)
        As in :class:`~dpsolve.Solution`; seconds are the batch's, shared among its points.
    iterations, code : int array (points,)
        Sweeps made, and result codes.
    """

    variables: dict[str, Numpy]
    status: Numpy
    message: Numpy
    residual: Numpy
    error_bound: Numpy
    iterations: Numpy
    code: Numpy
    seconds: Numpy


class Program:
    """One factory at one set of static sizes, compiled for batches of ``lanes`` points."""

    def __init__(self, factory: Factory, sizes: Mapping[str, Any], options: SolveOptions) -> None:
        check_sizes(sizes)
        self.factory = factory
        self.sizes = dict(sizes)
        self.options = options
        self.signature: Signature = signature(factory)
        self.footprint: Footprint = footprint(factory, self.sizes, options)
        self.lanes = _lanes(self.footprint)
        self._layouts: dict[Any, Layout] = {}
        self._compiled: Any = None
        self.compile_seconds = 0.0

    def layout(self, fixed: Mapping[str, float], varying: Collection[str]) -> Layout:
        """Return dimensions, coordinates and variables, given which parameters vary."""
        key = (tuple(sorted(fixed.items())), frozenset(varying))
        if key not in self._layouts:
            made = make_layout(self.factory, self.sizes, self.options, fixed, varying)
            self._layouts[key] = made
        return self._layouts[key]

    def forecast(self) -> Forecast:
        """Forecast the memory of one batch from the model's sizes, without compiling."""
        each = self.footprint.bytes
        return Forecast(self.lanes, each, each * self.lanes, self.footprint.streams)

    def compile(self) -> float:
        """Compile if need be; return the seconds it took when it did."""
        if self._compiled is None:
            began = time.perf_counter()
            shape = () if self.lanes == 1 else (self.lanes,)
            spec = jax.ShapeDtypeStruct(shape, np.float64)
            values = dict.fromkeys(self.signature.parameters, spec)
            run = self._point if self.lanes == 1 else jax.vmap(self._point, axis_size=self.lanes)
            self._compiled = jax.jit(run).lower(values).compile()
            self.compile_seconds = time.perf_counter() - began
        return self.compile_seconds

    def _point(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # Lanes share the memory that the options grant.
        options = replace(self.options, memory=max(1, self.options.memory // self.lanes))
        return solve_point(self.factory, self.sizes, options, values)

    def run(self, points: Mapping[str, Numpy]) -> Batch:
        """Solve points.

        Parameters
        ----------
        points : dict of str to float array (points,)
            Every economic parameter.
        """
        self.compile()
        columns = {k: np.asarray(points[k], np.float64) for k in self.signature.parameters}
        n = max((len(c) for c in columns.values()), default=1)
        found: dict[str, Numpy] = {}
        seconds = np.empty(n)

        def one_batch(start: int) -> None:
            stop = min(start + self.lanes, n)
            began = time.perf_counter()
            for name, x in self._run_lanes(columns, start, stop).items():
                into = found.setdefault(name, np.empty((n, *x.shape[1:]), x.dtype))
                into[start:stop] = x[: stop - start]
            seconds[start:stop] = (time.perf_counter() - began) / (stop - start)

        side_by_side(one_batch, range(0, n, self.lanes), self._workers())
        numbers = {name: found.pop(name) for name in PER_POINT}
        code = numbers["code"]
        return Batch(
            variables=found,
            status=np.asarray(word(code)),
            message=self._messages(code, columns),
            seconds=seconds,
            **numbers,
        )

    def _workers(self) -> int:
        """Return how many batches run at a time: on a CPU small programs keep one core busy."""
        small = self.footprint.bytes * self.lanes <= 4 * CPU_BYTES
        on_cpu = jax.local_devices()[0].platform == "cpu"
        return len(os.sched_getaffinity(0)) if on_cpu and small else 1

    def _run_lanes(self, columns: Mapping[str, Numpy], start: int, stop: int) -> dict[str, Numpy]:
        if self.lanes == 1:
            out = self._compiled({k: c[start] for k, c in columns.items()})
            return {k: np.asarray(x)[None] for k, x in out.items()}
        pad = self.lanes - (stop - start)
        out = self._compiled(
            {k: np.pad(c[start:stop], (0, pad), constant_values=np.nan) for k, c in columns.items()}
        )
        return {k: np.asarray(x) for k, x in out.items()}

    def _messages(self, code: Numpy, columns: Mapping[str, Numpy]) -> Numpy:
        messages = np.full(code.shape, "", dtype=object)
        for i in np.flatnonzero(code):
            values = {k: float(c[i]) for k, c in columns.items()}
            missing = [k for k, v in values.items() if np.isnan(v)]
            if missing:
                messages[i] = f"parameter '{missing[0]}' is NaN"
                continue
            messages[i] = explain(
                int(code[i]), partial(build, self.factory, values, self.sizes), refuse=False
            )
        return messages


@lru_cache(maxsize=64)
def _program(
    factory: Factory, sizes: tuple[tuple[str, Any], ...], options: SolveOptions
) -> Program:
    return Program(factory, dict(sizes), options)


def program(factory: Factory, sizes: Mapping[str, Any], options: SolveOptions) -> Program:
    """Return the program of a factory at its sizes; the same one for the same arguments."""
    check_sizes(sizes)
    return _program(factory, tuple(sizes.items()), options)


def _lanes(size: Footprint) -> int:
    """Choose how many points are solved side by side: a power of two."""
    device = jax.local_devices()[0]
    budget = CPU_BYTES
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)
        budget = int(limit * ACCELERATOR_SHARE)
    fits = max(1, budget // max(1, size.bytes))
    return int(min(MOST_LANES, 2 ** int(np.log2(fits))))
