"""``dp.solve_many``: one factory at many parameter points."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import numpy as np

from dpsolve.sharding.batches.program import Program, program_for
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.factory_signature import (
    Factory,
    Sizes,
    look_over,
    parameter_shapes,
    signature,
    split,
)
from dpsolve.solvers.notices import Countdown
from dpsolve.solvers.numerics.memory import machine_memory, round_down, shown_bytes
from dpsolve.solvers.numerics.tracing import is_concrete, namespace
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import PER_POINT
from dpsolve.solvers.solution import Problem, Solution
from dpsolve.solvers.solve.compile_clock import compile_clock
from dpsolve.solvers.solve.gradients import differentiable_point
from dpsolve.solvers.solve.one_device import check_sizes, solve_options, warn_of_top_mass
from dpsolve.solvers.solve.result_dims import ModelShape, arrays_dims, shape_of


def solve_many(
    model: Factory | str,
    params: Mapping[str, Any],
    *,
    tol: float | None = None,
    method: str = "auto",
    mesh: MeshShape | str | Mapping[str, int] | None = None,
    **options: Any,
) -> Solution:
    """Solve one model at many parameter points.

    Parameters
    ----------
    model : factory or str
        A factory, or the name of a built-in model.
    params : dict
        Values of parameters: arrays (points,) of one length, numbers for those that all points
        share, and sizes. For a full factorial, pass the columns of a mesh. Of a parameter that is
        an array (:func:`dpsolve.array`), one for all points, or (points, ...).
    tol, method, **options
        As for :func:`dpsolve.solve`, for every point.
    mesh : str or mapping, optional
        ``"points=4,states=2"``: four groups of devices, each with points of its own, and in each
        group two devices that share a point's states. By default all devices of this process are
        used along points, and as few along states as a point fits on. No result depends on the
        number of groups.

    Returns
    -------
    Solution
        With an axis of points before every array, and a ``status`` and ``message`` per point. A
        point that fails leaves the others as they are, bit for bit where starts are cold. With
        ``warm=True`` (the default where one point is enough for a core; ``warm=False`` turns it
        off) points start from what was found at the points before them, and ``solution["start"]``
        says at which; give them in an order in which neighbours are alike.

    Raises
    ------
    ModelError
        If a name is unknown, or the lengths differ.
    UsageError
        If an option is unknown or unusable.
    """
    factory = as_factory(model)
    chosen = solve_options(factory, tol=tol, method=method, **options)
    values, sizes = split(factory, params, many=True)
    check_sizes(sizes)
    columns = _columns(values, parameter_shapes(factory, sizes))
    if not is_concrete(columns):
        return _traced(factory, columns, sizes, chosen)
    shape = MeshShape.read(dict(mesh) if isinstance(mesh, Mapping) else mesh)
    points = max((len(c) for c in columns.values()), default=1)
    with compile_clock() as compiling:
        compiled = program_for(factory, sizes, chosen, points, shape)
        _check_results(compiled, points)
        compiled.compile(columns)
        batch = compiled.run(columns, Countdown(signature(factory).name, points))
    arrays = dict(batch.variables)
    for name in PER_POINT:
        arrays[name] = getattr(batch, name)
    problem = _problem(factory, sizes, chosen, compiled.outline.shape, arrays)
    warn_of_top_mass(problem.name, arrays)
    return Solution(arrays, columns, problem, batch.message, batch.seconds, compiling.seconds)


def _check_results(program: Program, points: int) -> None:
    """Refuse results that do not fit into this machine's memory."""
    shapes = program.outline.results.shapes.values()
    each = sum(prod(x.shape) * x.dtype.itemsize for x in shapes)
    if points * each > machine_memory():
        raise UsageError(
            f"the results of {points:,} points take {shown_bytes(points * each)}, and this machine "
            f"has {shown_bytes(machine_memory())} of memory. At most "
            f"{round_down(machine_memory() / each):,} points fit; dp.sweep puts results into a "
            "store, and keeps what it is asked to"
        )


def _columns(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Broadcast parameters (points, shape...) to one length."""
    lengths = {}
    for name, x in values.items():
        many = np.ndim(x) > len(shapes[name])
        if np.ndim(x) > 1 and not shapes[name]:
            raise ModelError(
                f"parameter '{name}' has shape {np.shape(x)}; points are a one-dimensional array: "
                "pass the raveled columns of a mesh"
            )
        if many:
            lengths[name] = np.shape(x)[0]
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{k}: {n}" for k, n in lengths.items())
        raise ModelError(f"the parameters' arrays have different lengths ({shown})")
    n = next(iter(lengths.values()), 1)
    if n == 0:
        raise ModelError(f"parameter '{next(iter(lengths))}' is empty: there is nothing to solve")
    xp = namespace(values)
    return {
        k: xp.broadcast_to(xp.asarray(x, np.float64), (n, *shapes[k])) for k, x in values.items()
    }


def _problem(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    shape: ModelShape,
    arrays: Mapping[str, Any],
) -> Problem:
    single = {k: np.empty(np.shape(x)[1:]) for k, x in arrays.items()}
    dims = tuple(arrays_dims(shape, single, signature(factory).array_dims).items())
    return Problem(factory, None, Sizes(sizes.items()), options, dims, batched=True)


def _traced(
    factory: Factory, columns: dict[str, Any], sizes: Mapping[str, Any], options: SolveOptions
) -> Solution:
    """Solve inside somebody else's trace."""
    arrays = jax.vmap(differentiable_point(factory, sizes, options))(columns)
    shape = look_over(factory, sizes, shape_of)
    problem = _problem(factory, sizes, options, shape, arrays)
    return Solution(arrays, columns, problem)
