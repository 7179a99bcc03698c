"""Model and policy operator behind each point of a Solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.discrete_choice.operator import operator_on_grids
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.model.factory_signature import build, look_over
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.given import MOST
from dpsolve.solvers.operators.base import PolicyOperator
from dpsolve.solvers.operators.named_arrays import NamedArray
from dpsolve.solvers.operators.tabular import TabularOperator
from dpsolve.solvers.options import SolveOptions, distribution_sizes
from dpsolve.solvers.solution import Problem, Solution

from .finer_grid import on_distribution_grid, wrong_grid
from .policy_function import PolicyFunction

LANES_BYTES = 2**24  # that the points done side by side take together


def model_of(problem: Problem, parameters: Mapping[str, Any]) -> Model | TabularModel:
    """Build the model of one point again."""
    made: Model | TabularModel = problem.model
    if problem.factory is not None:
        made = build(problem.factory, parameters, dict(problem.sizes))
    return made


def fixed_policy(
    problem: Problem,
    parameters: Mapping[str, Any],
    decisions: Mapping[str, Array],
    t: Array | None = None,
) -> tuple[Model | TabularModel, PolicyOperator]:
    """Build the model of one point and its policy's operator again, inside a trace or outside.

    Parameters
    ----------
    problem, parameters
        Of a :class:`~dpsolve.Solution` with one point (under ``vmap``, of each point).
    decisions : dict of str to array (states...)
        The same solution's: positions, as integers, or values, as floats, of choices that lie
        between grid points.
    t : int, optional
        The period, with a horizon; `decisions` are then that period's.

    Returns
    -------
    model, policy
        The model has lists of values in place of intervals, and the distribution's grids. A failed
        point's policy (index -1 everywhere) is read as the first choice: mask the result.
    """
    return policy_operator(model_of(problem, parameters), decisions, problem.options, t)


def policy_operator(
    made: Model | TabularModel,
    decisions: Mapping[str, Array],
    options: SolveOptions,
    t: Array | None = None,
) -> tuple[Model | TabularModel, PolicyOperator]:
    """Return the operator of a policy of a model that is at hand, as :func:`fixed_policy` does."""
    if isinstance(made, TabularModel):
        tabular = TabularOperator(made)
        first = {name: jnp.maximum(x, 0) for name, x in decisions.items()}
        return made, tabular.at(tabular.policy_of(first))
    lived = on_distribution_grid(made, options.distribution_grid)
    # A block of one choice: nothing is kept over all pairs, for a policy asks for one of each.
    operator = operator_on_grids(lived, t=t, block=1, memory=options.memory)
    finer = lived.shape != made.shape
    between = any(jnp.issubdtype(decisions[c].dtype, jnp.floating) for c in made.choices)
    if not (finer or between):
        index = {name: jnp.maximum(x, 0) for name, x in decisions.items()}
        return made, operator.at(operator.policy_of(index))
    policy = PolicyFunction.of(made, decisions)
    values = dict(policy.values)
    if finer:
        fine = {n: jnp.asarray(lived.states[n].values) for n, _ in options.distribution_grid}
        values = policy.at({n: NamedArray(x, (n,)) for n, x in fine.items()})
    return lived, operator.between({c: operator.over_states(x) for c, x in values.items()})


def with_grids(solution: Solution, given: Mapping[str, int] | None) -> Solution:
    """Return the solution with the grids that its distributions are to be on; None: as asked then.

    Raises
    ------
    UsageError
        If there is no such continuous state, or a size is no number of points.
    """
    if not isinstance(solution, Solution):  # which is said where it is used
        return solution
    problem = solution.problem
    if given is None and not problem.options.distribution_grid:
        return solution

    def wrong(made: Any) -> str:
        return wrong_grid(made, sizes, problem.name)

    sizes = problem.options.distribution_grid if given is None else distribution_sizes(given)
    if problem.factory is None:
        text = wrong(problem.model)
    else:
        text = look_over(problem.factory, dict(problem.sizes), wrong)
    if text:
        raise UsageError(text)
    options = replace(problem.options, distribution_grid=sizes)
    return replace(solution, problem=replace(problem, options=options))


def horizon_of(problem: Problem, policy_index: Mapping[str, AnyArray]) -> int | None:
    """Return the number of periods of a finite horizon, else None."""
    if dict(problem.dims)["value"][:1] != ("t",):
        return None
    for index in policy_index.values():
        return int(np.shape(index)[1 if problem.batched else 0])
    if problem.factory is None:  # nothing is chosen
        return cast("Model", problem.model).horizon
    found: int = look_over(problem.factory, dict(problem.sizes), lambda made: made.horizon)
    return found


def states_of(solution: Solution, what: str) -> dict[str, AnyArray]:
    """Return the states' values (n,) by name, in the model's order; (points, n) of many points.

    Raises
    ------
    ModelError
        If the factory returned arrays of its own: then there are no states.
    UsageError
        If it is no solution.
    """
    if not isinstance(solution, Solution):
        raise UsageError(
            f"a {what} is of a solution, as dp.solve returns it, not of {solution!r:.60}"
        )
    if not solution.is_of_model:
        raise ModelError(
            f"{solution.problem.name} returns arrays of its own and not a model: there is no "
            f"policy, and so no {what}. Its arrays are: {', '.join(solution.arrays)}."
        )
    dims = dict(solution.problem.dims)["value"]
    grids = {n: solution.grids[n] for n in dims if n != "t"}
    batched = solution.problem.batched
    if not (solution.policy_index or batched):
        made = model_of(solution.problem, solution.parameters)
        if made.shape != tuple(int(np.shape(g)[-1]) for g in grids.values()):
            raise ModelError(
                f"this solution's nodes hold knots beside the grid of {solution.problem.name}, and "
                f"a {what} is over the grid: call dp.certify without knots for it"
            )
    if solution.problem.options.distribution_grid:
        one = partial(_grids, solution.problem)
        each = jax.vmap(one) if batched else one
        grids = dict(each(solution.parameters))
    shape = tuple(int(np.shape(grid)[-1]) for grid in grids.values())
    if prod(shape) > MOST:
        raise ModelError(too_many_states(solution.problem.name, shape))
    return grids


def _grids(problem: Problem, parameters: Mapping[str, Any]) -> dict[str, Array]:
    made = model_of(problem, parameters)
    assert isinstance(made, Model)
    lived = on_distribution_grid(made, problem.options.distribution_grid)
    return {n: jnp.asarray(spec.values) for n, spec in lived.states.items()}


def too_many_states(name: str, shape: tuple[int, ...]) -> str:
    """Say why there is no distribution over so many states."""
    return (
        f"{name} has {prod(shape):,} states, and distributions number them to {MOST:,}: take "
        "coarser grids, or simulate"
    )


def at_points(
    problem: Problem,
    one: Callable[..., Any],
    *args: Any,
    vectors: int = 64,
) -> Any:
    """Apply a function to each point of a batch, a bounded number of them side by side.

    Parameters
    ----------
    one : function
        Of one point's part of each of `args`, which are pytrees of arrays.
    vectors : int
        Arrays over the states that a point takes.
    """
    if not problem.batched:
        return one(*args)
    largest = max(jax.tree.leaves(args), key=np.size)
    points = largest.shape[0]
    lanes = max(1, min(points, LANES_BYTES // (8 * vectors * prod(largest.shape[1:]))))
    # Whole batches: the last one repeats the last point, so that there is one program and not two.
    padded = jnp.minimum(jnp.arange(-(-points // lanes) * lanes), points - 1)
    rows = jax.tree.map(lambda x: jnp.asarray(x)[padded], args)
    found = lax.map(lambda row: one(*row), rows, batch_size=lanes)
    return jax.tree.map(lambda x: x[:points], found)
