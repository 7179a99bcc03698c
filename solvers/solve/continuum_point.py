"""What becomes of a solve over a continuum: the tolerance asked for, and points that failed.

The error over a continuum falls with the square of the grid's step. Where it is above the `tol`
that was asked for, the point is ``inexact``, and the message says how many points would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, sqrt

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.continuum.equivalent import utility_of
from dpsolve.solvers.continuum.problem import ContinuousProblem
from dpsolve.solvers.continuum.solve import EQUIVALENT, solve_continuous
from dpsolve.solvers.inspection.concavity import provable
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.nonconcave.solve import solve_nonconcave
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.tracing import namespace
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Concavity, Outcome

from .statistics import mask

TOO_COARSE = "the error bound of"  # how a message begins
MARGIN = 1.1  # on the number of points, for the error falls at second order only in the end


def shared_options(options: SolveOptions) -> SolveOptions:
    """Return the options that a compiled program depends on: one serves whatever tolerance."""
    return replace(options, tol=None, refine=())


def solved_point(
    model: Model, options: SolveOptions, live: Array | bool, proved: bool
) -> dict[str, Array]:
    """Solve a model with continuous choices: as a concave one if it says so, or that is `proved`.

    A model of which it could be proved has the same arrays where it is not.
    """
    unknown = provable(model)
    if model.concave or (unknown and proved):
        return continuum_point(solve_continuous(model, options, live, proved), options)
    arrays = solve_nonconcave(model, options, live)
    if unknown and utility_of(ContinuousProblem.of(model, None if model.horizon is None else 0)):
        arrays[EQUIVALENT] = jnp.where(arrays["code"] >= 10, jnp.nan, jnp.inf)
    return continuum_point(arrays, options)


def with_proof(arrays: Mapping[str, AnyArray], known: Numpy | bool) -> dict[str, AnyArray]:
    """Return results (...) with what is proved of the concavity that their bounds rest on.

    Parameters
    ----------
    arrays : mapping
        Of a model with continuous choices, or of any.
    known : bool array (...)
        Where concavity is proved.
    """
    if "concavity" not in arrays:
        return dict(arrays)
    concavity = np.asarray(arrays["concavity"])
    rests = (concavity == Concavity.DECLARED) & known
    better = np.where(rests, Concavity.PROVED, concavity).astype(np.int8)
    return {**arrays, "concavity": better}


def judged(code: Array | Numpy, error: Array | Numpy, tol: float | None) -> AnyArray:
    """Return the codes of points (...) whose grid allows an error, where one was asked for."""
    if tol is None:
        return code
    xp = namespace(code, error)
    coarse = (code == Outcome.SOLVED) & ~(error <= tol)
    found: AnyArray = xp.where(coarse, Outcome.TOO_COARSE, code).astype(np.int32)
    return found


def continuum_point(arrays: Mapping[str, Array], options: SolveOptions) -> dict[str, Array]:
    """Compare what was certified with what was asked for; a failed point has no numbers."""
    code = jnp.asarray(judged(arrays["code"], arrays["error_bound"], options.tol))
    found = {
        name: x if name.startswith("grid_") else mask(x, code >= 10) for name, x in arrays.items()
    }
    for name in ("iterations", "certifies", "concavity"):  # that are no floats, and tell something
        found[name] = arrays[name]
    return found | {"code": code}


def points_that_would_do(model: Model, error: float, tol: float) -> str:
    """Say how many nodes reach a tolerance: the error falls with the square of the step."""
    sizes = {name: spec.size for name, spec in model.states.items() if isinstance(spec, Grid)}
    each = [f"{n:,} of '{name}'" for name, n in sizes.items()]
    factor = MARGIN * sqrt(error / tol)
    wanted = [f"{ceil((n - 1) * factor) + 1:,}" for n in sizes.values()]
    return (
        f"{TOO_COARSE} {error:.3g} over the continuum is what the points of the grid allow "
        f"({', '.join(each)}); some {' x '.join(wanted)} reach tol={tol:g}"
    )
