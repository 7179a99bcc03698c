"""A point in outline: all that is known of it before anything is compiled, found in one trace.

How much memory a point takes, how many fit side by side, which arrays it gives and over which
dimensions, what a lane holds between two rounds, how its sweeps will go, where the grids come
from: each of these asks for the factory's model at parameters without values. A model cannot be
kept outside of the trace that it was built in. So all are asked in one, and plain facts are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from ..solvers.choose_operator import Operators
from ..solvers.errors import UsageError
from ..solvers.factory import Factory, Sizes, build, signature
from ..solvers.implicit import gradients_of, point_with_gradients
from ..solvers.model_shape import ModelShape, arrays_dims, shape_of
from ..solvers.options import SolveOptions
from ..solvers.outlook import Outlook, outlook_of
from ..solvers.point import Footprint, footprint_of, solve_made
from ..solvers.refusals import refusals
from ..solvers.stages import begin_point, read_point
from .coordinates import TracedGrids, grids_of
from .lanes import lanes_of

__all__ = ["Outline", "Results", "outline"]

Dims = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outline:
    """What is known of a factory's points before anything is compiled.

    Attributes
    ----------
    shape : ModelShape
    footprint : Footprint
    lanes : int
        Points that one device of this process solves side by side, where a point has it alone.
    grids : TracedGrids
    refused : str
        What the options ask for and the model does not have; empty if nothing.
    """

    shape: ModelShape
    footprint: Footprint
    lanes: int
    grids: TracedGrids
    refused: str = ""
    _results: Results | None = None

    @property
    def results(self) -> Results:
        """The arrays that a point gives.

        Raises
        ------
        UsageError
            If the options ask for what the model does not have.
        """
        if self._results is None:
            raise UsageError(self.refused)
        return self._results


@dataclass(frozen=True, eq=False)
class Results:
    """The arrays of a point.

    Attributes
    ----------
    shapes : dict of str to ShapeDtypeStruct
        Of every array.
    dims : dict of str to tuple of str
        Their dimensions, but for the numbers that every point has; in the order of a result.
    run : tuple of pytrees, or None
        Shapes of what a lane holds while it is solved, for a model that iterates: what its operator
        keeps, and the run.
    outlook : Outlook or None
        How a lane's sweeps go.
    """

    shapes: dict[str, jax.ShapeDtypeStruct]
    dims: dict[str, Dims]
    run: Any = None
    outlook: Outlook | None = field(default=None)


def outline(factory: Factory, sizes: Mapping[str, Any], options: SolveOptions) -> Outline:
    """Trace a factory once, and tell everything about its points that needs no number.

    Raises
    ------
    ModelError
        If the model is wrong.
    """
    return _outline(factory, Sizes(sizes.items()), options)


@lru_cache(maxsize=256)
def _outline(
    factory: Factory, sizes: tuple[tuple[str, Any], ...], options: SolveOptions
) -> Outline:
    static = dict(sizes)
    found: list[Outline] = []

    def look(values: Mapping[str, Any]) -> dict[str, Any]:
        made = build(factory, values, static)
        size = footprint_of(made, factory, static, options)
        lanes, shape = lanes_of(size), shape_of(made)
        name = signature(factory).name
        refused = next((text for _, _, text in refusals(made, options, name)), "")
        results = None
        if not refused:
            each = replace(options, memory=max(1, options.memory // lanes))
            results = _results(_Point(factory, static, each, values, made, shape))
        grids = grids_of(made)
        traced = TracedGrids(
            None, tuple(sorted(values)), tuple(sorted(grids)), shape.own is not None
        )
        found.append(Outline(shape, size, lanes, traced, refused, results))
        return grids

    number = jax.ShapeDtypeStruct((), np.float64)
    program = jax.make_jaxpr(look)(dict.fromkeys(signature(factory).parameters, number))
    return replace(found[0], grids=replace(found[0].grids, program=program))


@dataclass(frozen=True, eq=False)
class _Point:
    """A point inside the trace."""

    factory: Factory
    sizes: Mapping[str, Any]
    options: SolveOptions
    values: Mapping[str, Any]
    made: Any
    shape: ModelShape


def _results(point: _Point) -> Results:
    """Trace what a point gives; a trace inside that of the grids, which stays as short as it is."""
    found: list[Results] = []

    def iterated() -> dict[str, Any]:
        operators = Operators(point.made, point.options)
        kept, run, _ = begin_point(operators, point.values)
        arrays = read_point(operators, run)
        if point.options.gradients:
            arrays = gradients_of(point.factory, point.sizes, point.options, point.values, arrays)
        ahead = outlook_of(point.made, point.options, operators)
        found.append(Results({}, arrays_dims(point.shape, arrays), _shapes((kept, run)), ahead))
        return arrays

    def at_once() -> dict[str, Any]:
        if point.options.gradients:
            arrays = point_with_gradients(point.factory, point.sizes, point.options, point.values)
        else:
            arrays = solve_made(point.factory, point.made, point.options, point.values)
        ahead = outlook_of(point.made, point.options)
        found.append(Results({}, arrays_dims(point.shape, arrays), None, ahead))
        return arrays

    trace: Callable[[], dict[str, Any]] = iterated if point.shape.iterates else at_once
    shapes = jax.eval_shape(trace)
    return replace(found[0], shapes=shapes)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
