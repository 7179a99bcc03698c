"""A point before anything is compiled: memory, lanes, arrays, found in one trace.

How much memory a point takes, how many fit side by side, which arrays it gives and over which
dimensions, what a lane holds between two rounds, how its sweeps will go, where the grids come
from: each of these asks for the factory's model at parameters without values. A model cannot be
kept outside of the trace that it was built in. So all are asked in one, and plain facts are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.inspection.concavity import asks
from dpsolve.solvers.inspection.forecast import Footprint, Outlook, footprint_of, outlook_of
from dpsolve.solvers.inspection.requests import Refusal, refusals
from dpsolve.solvers.methods.choose_operator import Operators
from dpsolve.solvers.model.array_factory import Dims
from dpsolve.solvers.model.factory_signature import Factory, Sizes, abstract, build, signature
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.program_keys.fingerprint import keyed
from dpsolve.solvers.solve.gradients import gradients_of, point_with_gradients, read_point
from dpsolve.solvers.solve.point import begin_point, solve_made
from dpsolve.solvers.solve.result_dims import ModelShape, arrays_dims, shape_of

from .coordinates import TracedGrids, grids_of
from .lanes import lanes_of


@dataclass(frozen=True, eq=False)
class Outline:
    """What is known of a factory's points before anything is compiled.

    Attributes
    ----------
    shape : ModelShape
    footprint : Footprint
    lanes : int
        Points that a device of this process solves side by side, where it has whole points.
    refused : tuple
        What the options ask for and the model does not have; see
        :mod:`dpsolve.solvers.inspection.requests`.
    asks : str
        Whether its concavity is "declared", asked to be proved ("proof"), or neither ("").
    grids : TracedGrids
    """

    shape: ModelShape
    footprint: Footprint
    lanes: int
    refused: tuple[Refusal, ...]
    _results: ResultShapes | None
    asks: str
    grids: TracedGrids

    @property
    def results(self) -> ResultShapes:
        """The arrays that a point gives.

        Raises
        ------
        UsageError
            If the options ask for what the model does not have.
        """
        if self._results is None:
            raise UsageError(self.refused[0][-1])
        return self._results


@dataclass(frozen=True, eq=False)
class ResultShapes:
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
    run: Any
    outlook: Outlook | None


def outline(factory: Factory, sizes: Mapping[str, Any], options: SolveOptions) -> Outline:
    """Trace a factory once, and tell everything about its points that needs no number.

    Raises
    ------
    ModelError
        If the model is wrong.
    """
    return _outline(keyed(factory), Sizes(sizes.items()), options)


@lru_cache(maxsize=64)
def _outline(
    factory: Factory, sizes: tuple[tuple[str, Any], ...], options: SolveOptions
) -> Outline:
    static = dict(sizes)
    seen: list[dict[str, Any]] = []

    def look(values: Mapping[str, Any]) -> dict[str, Any]:
        made = build(factory, values, static)
        # In a trace of its own, so that the program of the grids computes nothing else.
        jax.eval_shape(lambda: seen.append(_seen(factory, static, options, values, made)))
        return grids_of(made, options.distribution_grid)

    parameters = abstract(factory, static)
    program, grids = jax.make_jaxpr(look, return_shape=True)(parameters)
    shapes = {name: parameters[name].shape for name in sorted(parameters)}
    traced = TracedGrids(program, shapes, tuple(sorted(grids)))
    return Outline(grids=traced, **seen[0])


def _seen(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    made: Any,
) -> dict[str, Any]:
    """Look at what a factory made, inside the trace; return all of its outline but the grids."""
    footprint = footprint_of(made, factory, sizes, options)
    shape, lanes = shape_of(made), lanes_of(footprint)
    refused = tuple(refusals(made, options, signature(factory).name))
    found: dict[str, Any] = {"shape": shape, "footprint": footprint, "lanes": lanes}
    results = None
    if not refused:
        each = replace(options, memory=max(1, options.memory // lanes))
        trace = _iterated if shape.iterates else _at_once
        results = trace(factory, sizes, each, values, made)
    return found | {"refused": refused, "_results": results, "asks": asks(made)}


def _iterated(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    made: Any,
) -> ResultShapes:
    """Begin, and read off: no sweep is needed to know what comes out."""
    operators = Operators(made, options)
    kept, run, _ = begin_point(operators, values)
    arrays = read_point(operators, run)
    arrays = gradients_of(factory, sizes, options, values, arrays)
    dims = arrays_dims(shape_of(made), arrays, signature(factory).array_dims)
    ahead = outlook_of(made, options, operators)
    return ResultShapes(_shapes(arrays), dims, _shapes((kept, run)), ahead)


def _at_once(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    made: Any,
) -> ResultShapes:
    if options.differentiated_by:  # at which a factory's own arrays are computed anew
        arrays = point_with_gradients(factory, sizes, options, values)
    else:
        arrays = solve_made(factory, made, options, values)
    dims = arrays_dims(shape_of(made), arrays, signature(factory).array_dims)
    return ResultShapes(_shapes(arrays), dims, None, outlook_of(made, options))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
