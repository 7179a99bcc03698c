"""``dp.solve``: one model, on one device or with its states spread over a mesh."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from dpsolve.sharding.batches.base import trimmed
from dpsolve.sharding.batches.program import program
from dpsolve.sharding.batches.single_pass import SinglePass
from dpsolve.sharding.devices.fit import check_fits, fewest_devices, make_partition
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.array_factory import rebuild
from dpsolve.solvers.model.factory_signature import (
    Factory,
    Sizes,
    check_numbers,
    refuse_parameters,
    split,
)
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import PER_POINT
from dpsolve.solvers.solution import Problem, Solution
from dpsolve.solvers.solve.compile_clock import compile_clock
from dpsolve.solvers.solve.one_device import (
    check_sizes,
    explain,
    solve_on_one_device,
    solve_options,
    warn_of_top_mass,
)
from dpsolve.solvers.solve.refinement import Refinement, refined, refined_size


def solve(
    model: Factory | Model | TabularModel | str,
    params: Mapping[str, Any] | None = None,
    *,
    tol: float | None = None,
    method: str = "auto",
    mesh: MeshShape | str | Mapping[str, int] | None = None,
    **options: Any,
) -> Solution:
    """Solve one model to a certified accuracy, on one device or spread over several.

    Parameters
    ----------
    model : factory, Model, TabularModel or str
        A factory, a ready model, or the name of a built-in model.
    params : dict, optional
        Values of the factory's parameters and sizes; the rest have their defaults. A factory is
        compiled once per set of sizes, whatever the parameters' values, which may be tracers:
        derivatives are implicit ones, at the fixed optimal policy (see
        :mod:`dpsolve.solvers.solve.gradients`).
    tol : float, optional
        Certified sup-norm error of the value to reach. By default 1e-6 where choices are made on a
        grid; with continuous choices (``dp.interval``) whatever the grid allows: `tol` given is
        then a distance from the true value, over the whole continuum, and where the grid does not
        allow it the point is ``inexact``, with the number of points that would do.
    method : str
        ``auto``, ``vi``, ``pi`` or ``opi``; with a continuous choice ``egm``, which ``auto`` takes
        where it applies. The certificate does not depend on it. ``howard`` and its like mean
        ``pi``, ``vfi`` means ``vi`` (see :class:`~dpsolve.SolveOptions`).
    mesh : str or mapping, optional
        ``"states=4"`` spreads the states over four devices: each holds a quarter of the value, of
        the policy and of all that is computed from them, and the answer is the same within its
        bounds. ``"auto"`` takes as few devices as the model fits on. By default one device.
    **options
        ``refine="n_a"`` (a size, or a tuple of them) takes a model with continuous choices from n
        to 2n - 1 points until `tol` holds, or memory ends it; the solution is on the last grid.
        Further fields of :class:`~dpsolve.SolveOptions`: how to solve (``max_iter``, ``block``,
        `memory`, which is that of each device, ...); for what (``criterion="average"``: the average
        reward per period, at a discount of 1; see :mod:`dpsolve.solvers.methods.average`); and what
        else to find: ``distribution=True``, ``moments=("gini_a",)``, ``gradients=("beta",)`` of
        the value, or ``gradients_fixed_policy=("beta",)`` of everything (see
        :mod:`dpsolve.solvers.solve.gradients`), and the path of the distribution over
        ``periods=40`` from ``initial={"a": 0.0}``.

    Returns
    -------
    Solution
        Its ``status`` says whether `tol` was reached; its bounds hold in any case. Arrays over the
        states stay with their devices where the parts come out even (``.sharding`` tells), else
        they are NumPy arrays on the host.

    Raises
    ------
    ModelError
        If a name is unknown, or the model is ill-posed at these values: a state without a feasible
        choice, a next state off its grid, probabilities that do not sum to one, a discount that is
        too large. The message names the place.
    UsageError
        If an option is unknown or unusable, or asks for what the model does not have: an unknown
        moment, the stationary distribution of a finite horizon, a gradient by a size, or of a
        moment under a policy on a grid; or if there are fewer devices than the mesh takes.
    """
    if options.get("refine"):
        return _refined(model, params, mesh, {"tol": tol, "method": method, **options})
    if mesh is None:
        return solve_on_one_device(model, params, tol=tol, method=method, **options)
    factory = _factory(model, params)
    chosen = solve_options(factory, tol=tol, method=method, **options)
    values, sizes = split(factory, params)
    check_sizes(sizes)
    if not is_concrete(values):
        raise UsageError(
            "mesh= inside jit, vmap or grad: a solve over several devices is a program of its own; "
            "leave mesh out there, or ask for gradients=[...]"
        )
    check_numbers(factory, values, "dp.solve takes one point: use dp.solve_many for many")
    shape = MeshShape.read(mesh)
    alone = program(factory, sizes, chosen)
    size, states = alone.footprint, alone.outline.shape.states
    if shape is None:
        shape = MeshShape(states=fewest_devices(size, len(jax.devices())))
    if shape.points > 1:
        raise UsageError(
            f"mesh {shape}: dp.solve takes one point, and there is nothing to cut along points; "
            f"take states={shape.size}"
        )
    if shape.size == 1:
        return solve_on_one_device(model, params, tol=tol, method=method, **options)
    check_fits(size, shape, states)
    whole = _whole(factory, Sizes(sizes.items()), chosen, shape)
    partition = whole.partition
    began = time.perf_counter()
    columns = {name: np.asarray(value, np.float64)[None] for name, value in values.items()}
    with compile_clock() as compiling:
        found = whole.solve(columns, keep_axis=False)
    arrays = {name: trimmed(name, x, whole.dims[name], partition, 0) for name, x in found.items()}
    jax.block_until_ready(arrays)
    dims = {name: d for name, d in whole.dims.items() if name not in PER_POINT}
    message = explain(int(arrays["code"]), lambda: rebuild(factory, values, sizes), chosen, arrays)
    ready = model if isinstance(model, Model | TabularModel) else None
    problem = Problem(
        None if ready else factory, ready, Sizes(sizes.items()), chosen, tuple(dims.items())
    )
    warn_of_top_mass(problem.name, arrays)
    seconds = time.perf_counter() - began - compiling.seconds
    return Solution(arrays, dict(values), problem, message, seconds, compiling.seconds)


def _refined(
    model: Factory | Model | TabularModel | str,
    params: Mapping[str, Any] | None,
    mesh: MeshShape | str | Mapping[str, int] | None,
    options: Mapping[str, Any],
) -> Solution:
    """Solve on finer grids until the tolerance holds; the solution is that of the last one."""
    if isinstance(model, Model | TabularModel):
        raise UsageError("refine= makes the model anew with more points: pass its factory")
    if mesh is not None:
        raise UsageError("refine= beside mesh=: a refined solve takes one device; leave mesh out")
    factory = as_factory(model)
    chosen = solve_options(factory, **options)
    values, sizes = split(factory, params)
    if not is_concrete(values):
        raise UsageError("refine= inside jit, vmap or grad: how far it goes depends on numbers")
    refinement = Refinement(factory, sizes, chosen)

    def solved(sizes: Mapping[str, Any]) -> Solution:
        return solve_on_one_device(factory, {**values, **sizes}, **options)

    refinement.check(values)
    found, why = refined(solved, refinement, solved(sizes))
    done = dict(found.problem.sizes)
    named = {refined_size(n, chosen.refine): np.int32(done[n]) for n in chosen.refine}
    message = f"{found.message}; {why}" if why else found.messages
    arrays = {**found.arrays, **named}
    return Solution(
        arrays, found.parameters, found.problem, message, found.seconds, found.compile_seconds
    )


@lru_cache(maxsize=64)
def _whole(
    factory: Factory, sizes: tuple[tuple[str, Any], ...], options: SolveOptions, shape: MeshShape
) -> SinglePass:
    """Return the program of one point on a mesh; the same one for the same arguments."""
    static = dict(sizes)
    return SinglePass(factory, static, options, 1, shape, make_partition(factory, static, shape))


def _factory(model: Factory | Model | TabularModel | str, params: Any) -> Factory:
    if not isinstance(model, Model | TabularModel):
        return as_factory(model)
    refuse_parameters(params)

    def ready() -> Model | TabularModel:
        return model

    return ready
