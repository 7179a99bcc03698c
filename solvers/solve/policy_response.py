"""Derivatives of a solution with continuous choices, the policy's own response included.

Value, policy and outputs move as :mod:`~dpsolve.solvers.continuum.implicit` says; the stationary
distribution, moments and paths with them, through the lottery between neighbours that a policy
between grid points is, and one linear solve more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.continuum.implicit import Optimal, moved_with
from dpsolve.solvers.continuum.problem import ContinuousProblem, read_problem
from dpsolve.solvers.continuum.solve import HELD, SLOPES
from dpsolve.solvers.distributions.path import pushed
from dpsolve.solvers.distributions.solved_points import policy_operator
from dpsolve.solvers.distributions.stationary_derivatives import respond
from dpsolve.solvers.model.factory_signature import Factory, build
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.base import PolicyOperator
from dpsolve.solvers.options import SolveOptions

from .statistics import follows, horizon_path

Arrays = dict[str, Array]  # of one point, by name
Values = Mapping[str, Array]  # a number for each parameter


def responds(out: Arrays) -> bool:
    """Tell whether a point was solved as a concave model, so that its policy has a derivative."""
    return HELD in out


def stored(out: Arrays) -> Arrays:
    """Return the results without what derivatives are found from."""
    return {n: x for n, x in out.items() if n not in (HELD, SLOPES)}


def moving(made: Model, out: Arrays) -> list[str]:
    """Return the names of the results that have derivatives."""
    own = {"value", "distribution", "distribution_path", *(f"policy_{c}" for c in made.continuous)}
    return [n for n in out if n in own or n.startswith(("output_", "moment_"))]


def with_policy(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions, values: Values, out: Arrays
) -> Callable[[Values], Arrays]:
    """Return how a solution moves with the parameters, as a linear function.

    Parameters
    ----------
    factory, sizes, options
        What was solved.
    values : mapping
        At which parameters.
    out : dict
        What was found, ``HELD`` and ``SLOPES`` with it.
    """

    def problem_of(values: Values) -> ContinuousProblem:
        return read_problem(build(factory, values, sizes), known=True)

    here = problem_of(values)
    made, horizon = here.model, here.model.horizon
    decisions = {c: out[f"policy_{c}"] for c in made.choices}
    arranged = here.from_states if horizon is None else jax.vmap(here.from_states)
    y = jnp.stack([arranged(x) for x in decisions.values()], -1)
    own = moved_with(problem_of, values, Optimal(y, out[HELD], out[SLOPES], arranged(out["value"])))
    mass = out.get("distribution") if options.stationary else None

    def at(values: Values, decisions: Arrays) -> tuple[Any, PolicyOperator]:
        return policy_operator(build(factory, values, sizes), decisions, options)

    def once(values: Values, decisions: Arrays) -> Array:
        assert mass is not None
        return pushed(at(values, decisions)[1].expect, mass)

    def rest(values: Values, decisions: Arrays, mass: Array | None) -> Arrays:
        if horizon is not None:
            path, _ = horizon_path(build(factory, values, sizes), options, decisions, False)
            return path
        return follows(*at(values, decisions), options, mass)

    further = jax.linearize(rest, values, decisions, mass)[1]
    if mass is not None:
        fixed, step = at(values, decisions)[1], jax.linearize(once, values, decisions)[1]

    def respond_to(dots: Values) -> Arrays:
        moved: Arrays = own(dots)
        follow = {c: moved[f"policy_{c}"] for c in decisions}
        shifted = None
        if mass is not None:
            shifted = respond(fixed.expect, mass, step(dots, follow), fixed.reductions)
            # With several recurrent classes the shares of each move, too: no derivative is right.
            shifted = jnp.where(out["distribution_period"] > 0, shifted, jnp.nan)
            moved["distribution"] = shifted
        moved |= further(dots, follow, shifted)
        return moved

    return respond_to
