"""One point on one device: arguments, compiled program, message."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.compile_forecast import learn, tell_compiling
from dpsolve.solvers.continuum.words import find_counterexample, left_out
from dpsolve.solvers.curvature.proved import proved
from dpsolve.solvers.distributions.top_mass import warn
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.inspection.check import diagnose
from dpsolve.solvers.inspection.forecast import population_bytes
from dpsolve.solvers.inspection.limits import check_model
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.array_factory import Dims, rebuild
from dpsolve.solvers.model.factory_signature import (
    Factory,
    Sizes,
    check_numbers,
    look_over,
    parameter_shapes,
    refuse_parameters,
    signature,
    split,
)
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import UNCERTIFIED, Outcome, sentence
from dpsolve.solvers.parameters.array import Shape
from dpsolve.solvers.program_keys.fingerprint import watch
from dpsolve.solvers.solution import Problem, Solution

from .compile_clock import compile_clock
from .continuum_point import judged, points_that_would_do, shared_options, with_proof
from .gradients import differentiable_point
from .point import announced, solve_made, solve_model
from .result_dims import arrays_dims, shape_of
from .statistics import explain_statistics

# What makes `solve` raise: the model is wrong. The rest (NaN, divergence, iterations) is a status.
MODEL_FAULTS = (
    Outcome.INFEASIBLE,
    Outcome.OFF_GRID,
    Outcome.LEAK,
    Outcome.DISCOUNT,
    Outcome.NOT_INCREASING,
    Outcome.REFUSED,
    Outcome.DISCOUNTED,
)


def solve_on_one_device(
    model: Factory | Model | TabularModel | str,
    params: Mapping[str, Any] | None = None,
    *,
    tol: float | None = None,
    method: str = "auto",
    **options: Any,
) -> Solution:
    """Solve one model on one device, eagerly or inside a trace; see :func:`dpsolve.solve`."""
    if isinstance(model, Model | TabularModel):
        chosen = SolveOptions.from_mapping({"tol": tol, "method": method, **options})
        return _solve_ready(model, params, chosen)
    factory = as_factory(model)
    chosen = solve_options(factory, tol=tol, method=method, **options)
    values, sizes = split(factory, params)
    check_sizes(sizes)
    check_numbers(factory, values, "dp.solve takes one point: use dp.solve_many for many")
    values = {k: jnp.asarray(v, jnp.float64) for k, v in values.items()}
    began = time.perf_counter()
    # Where nothing can ask for derivatives, none are prepared.
    derivatives = bool(chosen.differentiated_by) or not is_concrete(values)
    static = Sizes(sizes.items())
    interval = has_interval(factory, static)
    continuous = chosen.tol is not None and interval
    compiled = shared_options(chosen) if continuous else chosen
    name = signature(factory).name
    with compile_clock() as compiling:
        forecast = 0.0
        # A proof spares what tests concavity, and is made before anything is traced.
        known = interval and is_concrete(values) and bool(proved(factory, sizes, values))
        program, dims = one_point(factory, static, compiled, derivatives, known)
        traced = None if dims or not is_concrete(values) else program.trace(values)
        if traced is not None:  # the trace is kept, and not made again by the call
            forecast = tell_compiling(name, traced)
        arrays = program(values)
        learn(forecast, compiling.seconds)
        if not (derivatives or is_concrete(arrays)):  # somebody's trace: the factory is part of it
            program, dims = one_point(factory, static, compiled, True)
            arrays = program(values)
    if continuous:
        code = judged(arrays["code"], arrays["error_bound"], chosen.tol)
        arrays = arrays | {"code": jnp.asarray(code)}
    problem = Problem(factory, None, static, chosen, tuple(dims.items()))
    if is_concrete(arrays):
        arrays = with_proof(arrays, known)
    if not is_concrete(arrays):
        return Solution(arrays, values, problem)
    jax.block_until_ready(arrays)
    message = explain(int(arrays["code"]), lambda: rebuild(factory, values, sizes), chosen, arrays)
    warn_of_top_mass(problem.name, arrays)
    seconds = time.perf_counter() - began - compiling.seconds
    return Solution(arrays, values, problem, message, seconds, compiling.seconds)


def _solve_ready(
    model: Model | TabularModel, params: Mapping[str, Any] | None, options: SolveOptions
) -> Solution:
    refuse_parameters(params)
    if options.differentiated_by:
        raise UsageError(
            f"gradients={list(options.differentiated_by)}: a ready model has no parameters to "
            "differentiate by; pass the factory, the function that returns the model"
        )
    _check(model, options, "the model", {})
    watch(model)
    began = time.perf_counter()
    with compile_clock() as compiling:
        known = isinstance(model, Model) and bool(model.continuous and proved(model, {}, {}))
        arrays = jax.jit(lambda: solve_model(model, options, proved=known))()
        arrays = with_proof(arrays, known) if is_concrete(arrays) else arrays
    problem = Problem(None, model, (), options, tuple(arrays_dims(shape_of(model), arrays).items()))
    if not is_concrete(arrays):
        return Solution(arrays, {}, problem)
    jax.block_until_ready(arrays)
    message = explain(int(arrays["code"]), lambda: model, options, arrays)
    warn_of_top_mass(problem.name, arrays)
    seconds = time.perf_counter() - began - compiling.seconds
    return Solution(arrays, {}, problem, message, seconds, compiling.seconds)


@lru_cache(maxsize=256)
def has_interval(factory: Factory, sizes: tuple[tuple[str, Any], ...]) -> bool:
    """Tell whether a factory's model makes a choice from an interval."""
    return look_over(factory, dict(sizes), lambda made: bool(getattr(made, "continuous", None)))


@lru_cache(maxsize=64)
def one_point(
    factory: Factory,
    sizes: tuple[tuple[str, Any], ...],
    options: SolveOptions,
    derivatives: bool,
    known: bool = False,
) -> tuple[Any, dict[str, Dims]]:
    """Return the compiled program of one point, and the dimensions of what it returns.

    Parameters
    ----------
    factory, sizes, options
        What to solve.
    derivatives : bool
        Whether JAX may differentiate the program, or gradients are asked for.
    known : bool
        That a model with continuous choices is proved to be concave.

    Returns
    -------
    program : jitted function
        From parameters to named arrays.
    dims : dict
        Of each array; filled in when the program is first called.
    """
    static = dict(sizes)
    dims: dict[str, Dims] = {}
    if derivatives:
        point = differentiable_point(factory, static, options, known)

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        if derivatives:
            arrays = point(values)
            shape = look_over(factory, static, shape_of)
        else:
            made = announced(factory, static, values)
            _check(made, options, signature(factory).name, parameter_shapes(factory, static))
            arrays = solve_made(factory, made, options, values, proved=known)
            shape = shape_of(made)
        dims.update(arrays_dims(shape, arrays, signature(factory).array_dims))
        return arrays

    return jax.jit(run), dims


def _check(made: Any, options: SolveOptions, name: str, shapes: Mapping[str, Shape]) -> None:
    """Refuse sizes that cannot work."""
    if isinstance(made, Model):
        check_model(made, options, name, population_bytes(made, options, shapes))


def solve_options(factory: Factory, **given: Any) -> SolveOptions:
    """Check options, and tell parameters that were given in their place."""
    for name, value in given.items():
        # An option at its default was not given: a factory may have a `method` of its own.
        if name in signature(factory).names and value != getattr(SolveOptions, name, None):
            raise UsageError(
                f"'{name}' is a parameter of {signature(factory).name}, not an option: pass "
                f"parameters in a dict, {{'{name}': {given[name]!r}}}"
            )
    return SolveOptions.from_mapping(given)


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Refuse static parameters that cannot key a compiled program."""
    for name, value in sizes.items():
        if not is_concrete(value):
            raise ModelError(f"size '{name}' is traced; sizes are plain values, and static")
        try:
            hash(value)
        except TypeError:
            raise ModelError(
                f"size '{name}' is {value!r}, which cannot be hashed; use a number, a string or a "
                "tuple"
            ) from None


def warn_of_top_mass(name: str, arrays: Mapping[str, Any]) -> None:
    """Warn of mass at the top of a grid, if a distribution was asked for."""
    grids = {n.removeprefix("grid_"): x for n, x in arrays.items() if n.startswith("grid_")}
    warn(name, arrays, grids)


def explain(
    code: int,
    model: Callable[[], Any],
    options: SolveOptions,
    arrays: Mapping[str, Any],
    *,
    refuse: bool = True,
) -> str:
    """Return the sentence of a result code, with the place where the model is at fault.

    Parameters
    ----------
    code : int
        An :class:`~.outcomes.Outcome`.
    model : function
        Builds the model at the point.
    options : SolveOptions
    arrays : mapping
        The point's results.
    refuse : bool
        Whether a model that is wrong is an error.

    Raises
    ------
    ModelError
        With `refuse`, if the model is wrong rather than hard to solve.
    """
    if code < 10:
        asked = options.stationary or options.periods is not None or options.initial is not None
        some = code == Outcome.SOLVED and np.isneginf(arrays.get("lower", 0.0)).any()
        told = left_out(model(), arrays) if some else ""
        if asked and "value" in arrays:
            more = explain_statistics(code, model, options, arrays)
            return "; ".join(filter(None, [told, more]))
        if told:
            return told
        # A model's point that is solved has a bound, and a factory's own arrays may have none.
        if code == Outcome.SOLVED and np.isnan(arrays.get("error_bound", 0.0)):
            return UNCERTIFIED
        if code == Outcome.TOO_COARSE and options.tol is not None:
            return points_that_would_do(model(), float(arrays["error_bound"]), options.tol)
        if code == Outcome.NOT_CONCAVE and refuse:
            return find_counterexample(model())
        return sentence(code, options.sample)
    try:
        text = diagnose(model(), options.criterion) or sentence(code)
    except ModelError as error:  # at these parameters the model cannot even be built
        text = str(error)
    if refuse and code in MODEL_FAULTS:
        raise ModelError(text)
    return text
