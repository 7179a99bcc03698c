"""``dp.solve``: one model, one parameter point."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .arrays import own_dims, rebuild
from .average import GAINS
from .check import diagnose
from .compiling import compile_clock
from .errors import ModelError, UsageError
from .factory import Factory, Sizes, build, signature, split
from .implicit import differentiable_point
from .library import as_factory
from .model import Model, TabularModel
from .options import SolveOptions
from .outcomes import PER_POINT, Outcome, sentence
from .point import solve_model
from .population import CLASSES, told
from .solution import Problem, Solution
from .tracing import is_concrete

__all__ = ["arrays_dims", "check_sizes", "differentiated", "explain", "solve", "solve_options"]

Array = Any

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


def solve(
    model: Factory | Model | TabularModel | str,
    params: Mapping[str, Any] | None = None,
    *,
    tol: float = 1e-6,
    method: str = "auto",
    **options: Any,
) -> Solution:
    """Solve one model to a certified accuracy.

    Parameters
    ----------
    model : factory, Model, TabularModel or str
        A factory, a ready model, or the name of a built-in model.
    params : dict, optional
        Values of the factory's parameters and sizes; the rest have their defaults. A factory is
        compiled once per set of sizes, whatever the parameters' values, which may be tracers:
        derivatives are implicit ones, at the fixed optimal policy (see :mod:`.implicit`).
    tol : float
        Certified sup-norm error of the value to reach.
    method : str
        ``auto``, ``vi``, ``pi`` or ``opi``; the certificate does not depend on it.
    **options
        Further fields of :class:`~dpsolve.SolveOptions`: how to solve (``max_iter``, ``block``,
        ...); for what (``criterion="average"``: the average reward per period, at a discount of
        1; see :mod:`.average`); and what else to find: ``distribution=True``,
        ``moments=("gini_a",)``, ``gradients=("beta",)`` (at the fixed policy; see
        :mod:`.implicit`), and the path of the distribution over ``periods=40`` from
        ``initial={"a": 0.0}``.

    Returns
    -------
    Solution
        Its ``status`` says whether `tol` was reached; its bounds hold in any case.

    Raises
    ------
    ModelError
        If a name is unknown, or the model is ill-posed at these values: a state without a feasible
        choice, a next state off its grid, probabilities that do not sum to one, a discount that is
        too large. The message names the place.
    UsageError
        If an option is unknown or unusable, or asks for what the model does not have: an unknown
        moment, the stationary distribution of a finite horizon, a gradient by a size.
    """
    if isinstance(model, Model | TabularModel):
        chosen = SolveOptions.from_mapping({"tol": tol, "method": method, **options})
        return _solve_ready(model, params, chosen)
    factory = as_factory(model)
    chosen = solve_options(factory, tol=tol, method=method, **options)
    values, sizes = split(factory, params)
    check_sizes(sizes)
    for name, value in values.items():
        if np.ndim(value) != 0:
            raise ModelError(
                f"parameter '{name}' has shape {np.shape(value)}; dp.solve takes one point: use "
                "dp.solve_many for many"
            )
    values = {k: jnp.asarray(v, jnp.float64) for k, v in values.items()}
    began = time.perf_counter()
    program, dims = one_point(factory, Sizes(sizes.items()), chosen)
    with compile_clock() as compiling:
        arrays = program(values)
    problem = Problem(factory, None, Sizes(sizes.items()), chosen, tuple(dims(values).items()))
    if not is_concrete(arrays):
        return Solution(arrays, values, problem)
    jax.block_until_ready(arrays)
    message = explain(int(arrays["code"]), lambda: rebuild(factory, values, sizes), chosen, arrays)
    seconds = time.perf_counter() - began - compiling.seconds
    return Solution(arrays, values, problem, message, seconds, compiling.seconds)


def _solve_ready(
    model: Model | TabularModel, params: Mapping[str, Any] | None, options: SolveOptions
) -> Solution:
    if params:
        raise ModelError(
            "a ready model has no parameters left to set; pass the factory, the function that "
            "returns the model, to set some"
        )
    if options.gradients:
        raise UsageError(
            f"gradients={list(options.gradients)}: a ready model has no parameters to "
            "differentiate by; pass the factory, the function that returns the model"
        )
    began = time.perf_counter()
    with compile_clock() as compiling:
        arrays = jax.jit(lambda: solve_model(model, options))()
    problem = Problem(None, model, (), options, tuple(arrays_dims(model, arrays).items()))
    if not is_concrete(arrays):
        return Solution(arrays, {}, problem)
    jax.block_until_ready(arrays)
    message = explain(int(arrays["code"]), lambda: model, options, arrays)
    seconds = time.perf_counter() - began - compiling.seconds
    return Solution(arrays, {}, problem, message, seconds, compiling.seconds)


@lru_cache(maxsize=64)
def one_point(
    factory: Factory, sizes: tuple[tuple[str, Any], ...], options: SolveOptions
) -> tuple[Callable[..., dict[str, Array]], Callable[..., dict[str, tuple[str, ...]]]]:
    """Return the compiled program of one point, and the dimensions of what it returns."""
    static = dict(sizes)
    found: dict[str, tuple[str, ...]] = {}

    point = differentiable_point(factory, static, options)

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        arrays = point(values)
        found.update(arrays_dims(build(factory, values, static), arrays))
        return arrays

    def dims(values: Mapping[str, Array]) -> dict[str, tuple[str, ...]]:
        if not found:
            jax.eval_shape(run, values)
        return dict(found)

    return jax.jit(run), dims


def arrays_dims(made: Any, arrays: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of every array that a solve returns, but for the numbers."""
    if isinstance(made, Mapping):
        own = own_dims(made)
        gradients = [n for n in arrays if n not in own and differentiated(n, own) in own]
        return own | {name: own[differentiated(name, own)] for name in gradients}
    states = ("state",) if isinstance(made, TabularModel) else tuple(made.states)
    full = states if made.horizon is None else ("t", *states)
    dims: dict[str, tuple[str, ...]] = {}
    first = [n for n in ("value", "lower", "upper", *GAINS) if n in arrays]
    for name in (*first, *(n for n in arrays if n not in (*first, *PER_POINT, CLASSES))):
        variable = differentiated(name, arrays)
        if name.startswith("grid_"):
            dims[name] = (name.removeprefix("grid_"),)
        elif variable == "distribution_path":
            dims[name] = ("time", *states)
        else:
            dims[name] = full if np.ndim(arrays[name]) else ()
    return dims


def differentiated(name: str, arrays: Collection[str]) -> str:
    """Return the variable that ``d_<variable>_d_<parameter>`` is a derivative of, or the name."""
    of = [n for n in arrays if name.startswith(f"d_{n}_d_")]
    return max(of, key=len, default=name)


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
        return told(code, model, options, arrays)
    try:
        text = diagnose(model(), options.criterion) or sentence(code)
    except ModelError as error:  # at these parameters the model cannot even be built
        text = str(error)
    if refuse and code in MODEL_FAULTS:
        raise ModelError(text)
    return text
