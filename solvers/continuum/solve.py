"""A model with continuous choices at one parameter point, solved and certified inside a trace."""

from __future__ import annotations

from enum import IntEnum

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.model.model import Model
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

from .bounds import narrowest, optimal_choices
from .policy import policies
from .problem import feasible_start, read_problem
from .refutation import refute


class Certifies(IntEnum):
    """What the bounds of a solution are of."""

    EXACT = 0
    CONTINUUM = 1
    INTERPOLATED = 2
    GRID = 3
    NONE = 4


class Concavity(IntEnum):
    """What is known of the concavity that bounds over a continuum rest on."""

    NONE = 0
    DECLARED = 1
    PROVED = 2


def solve_continuous(
    model: Model, options: SolveOptions, live: Array | bool = True
) -> dict[str, Array]:
    """Solve a model with continuous choices, and bound its true value."""
    problem = read_problem(model)
    start = feasible_start(problem)
    candidates, bottom, top = policies(problem, start)
    y, found = narrowest(problem, candidates, bottom, top)
    low, high = optimal_choices(problem, y, bottom, top, found)
    arrays = {"value": (found.lower + found.upper) / 2, "lower": found.lower}
    arrays |= {"upper": found.upper, f"policy_{problem.choice}": y}
    arrays |= {f"policy_lower_{problem.choice}": low, f"policy_upper_{problem.choice}": high}
    arrays |= {f"output_{name}": x for name, x in problem.outputs(y).items()}
    arrays = {name: problem.over_states(x) for name, x in arrays.items()}
    told = refute(problem, y, found.lower, found)
    refuted = ~((told.upper <= 0.0) & (told.lower <= 0.0) & (told.planes <= 0.0))
    code = jnp.where(
        jnp.isnan(start).any(),
        Outcome.INFEASIBLE,
        jnp.where(refuted, Outcome.NOT_CONCAVE, Outcome.SOLVED),
    )
    code = jnp.where(jnp.asarray(live), code, Outcome.NOT_FINITE).astype(jnp.int32)
    arrays |= {f"grid_{n}": jnp.asarray(s.values) for n, s in model.states.items()}
    certified = code == Outcome.SOLVED
    return arrays | {
        "error_bound": jnp.where(certified, found.error, jnp.inf),
        "policy_loss": jnp.where(certified, found.width, jnp.inf),
        "residual": jnp.asarray(jnp.nan),
        "iterations": jnp.int32(0),
        "code": code,
        "certifies": jnp.where(certified, Certifies.CONTINUUM, Certifies.NONE).astype(jnp.int8),
        "concavity": jnp.where(certified, Concavity.DECLARED, Concavity.NONE).astype(jnp.int8),
    }
