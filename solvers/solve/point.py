"""The program of one parameter point: factory, operator, loop, named results.

It comes in one go (:func:`solve_point`), or in stages, so that many points can be solved in rounds:
:func:`begin_point` looks the model over, :func:`~.loop.iterate` makes a sweep and a step with the
loop's operator, and :func:`read_point` names what was found. Between stages nothing is remembered
but the state of the loop and what the operator keeps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.inspection.requests import check_asked
from dpsolve.solvers.logit.taste_shocks import ERROR, PREFIX
from dpsolve.solvers.methods.average import GAINS, RelativeValue
from dpsolve.solvers.methods.choose_operator import Operators
from dpsolve.solvers.methods.discounted import Fixpoint
from dpsolve.solvers.methods.finite_horizon import (
    backward,
    chosen,
    grids_of,
    has_outputs,
    outputs_of,
)
from dpsolve.solvers.methods.loop import Found, begin, solve
from dpsolve.solvers.methods.stopping import told_by
from dpsolve.solvers.model.array_factory import no_model, own_arrays
from dpsolve.solvers.model.factory_signature import Factory, build, signature
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.operators.base import BellmanOperator
from dpsolve.solvers.operators.cyclic import Turn
from dpsolve.solvers.operators.model_functions import PairTable
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import RECORDS, Outcome
from dpsolve.solvers.solution import CERTIFICATE

from .continuum_point import solved_point
from .statistics import horizon_path, mask, population, statistics_of

log = logging.getLogger("dpsolve")


def solve_point(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    partition: Partition | None = None,
    proved: bool = False,
) -> dict[str, Array]:
    """Build the model at one parameter point and solve it; with a `partition`, this device's part.

    Returns
    -------
    dict
        ``value``, ``lower``, ``upper`` (of an average reward: ``value``, and the numbers ``gain``,
        ``gain_lower``, ``gain_upper``), ``policy_index_<choice>``, ``policy_<choice>`` and
        ``output_<name>``, arrays (states...), with a horizon (t, states...); ``grid_<state>`` (n,);
        what :func:`~.statistics.population` adds where the options ask for it; and the numbers in
        ``PER_POINT``. Or a factory's own arrays (and the numbers). Gradients are added by
        :func:`~.gradients.point_with_gradients`.
    """
    made = announced(factory, sizes, values)
    return solve_made(factory, made, options, values, partition, proved)


def announced(factory: Factory, sizes: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Build the model of a program that is being compiled, and say so in the log."""
    shown = ", ".join(f"{k}={v}" for k, v in sizes.items())
    # This line runs when JAX traces the program, that is, once per set of sizes.
    log.info("compiling %s(%s)", signature(factory).name, shown)
    return build(factory, values, sizes)


def solve_made(
    factory: Factory,
    made: Any,
    options: SolveOptions,
    values: Mapping[str, Any],
    partition: Partition | None = None,
    proved: bool = False,
) -> dict[str, Array]:
    """Solve what a factory made at one parameter point, as :func:`solve_point` does."""
    if isinstance(made, Model | TabularModel):
        name = signature(factory).name
        return solve_model(made, options, is_live(values), name, partition, proved)
    if isinstance(made, Mapping):
        check_asked(made, options, signature(factory).name)
        return own_arrays(made, is_live(values), options.tol_on_grid)
    raise no_model(factory, made)


def is_live(values: Mapping[str, Any]) -> Array:
    """Tell whether no parameter is NaN; one that is makes the point fail at once."""
    found = [jnp.isnan(v).any() for v in values.values()]
    return ~jnp.stack(found).any() if found else jnp.asarray(True)


def solve_model(
    model: Model | TabularModel,
    options: SolveOptions,
    live: Array | bool = True,
    name: str = "the model",
    partition: Partition | None = None,
    proved: bool = False,
) -> dict[str, Array]:
    """Solve a model that is at hand; a point that is not `live` fails at once.

    With `proved`, one with continuous choices is known to be concave, and that is not tested.
    """
    check_asked(model, options, name)
    if isinstance(model, Model) and model.continuous:
        arrays = solved_point(model, options, live, proved)
        return _with_code(arrays, *statistics_of(model, options, arrays))
    if model.horizon is not None:
        arrays = backward(model, options, live, partition)
        if options.distribution_grid and isinstance(model, Model):
            return _with_code(arrays, *statistics_of(model, options, arrays, partition))
        policies = decisions_in(arrays)
        more, code = horizon_path(model, options, policies, arrays["code"] >= 10, partition)
        return _with_code(arrays, more, code)
    operators = Operators(model, options, partition)
    return read_model(operators, solve(operators, options, live))


def read_model(operators: Operators, found: Found) -> dict[str, Array]:
    """Name what was found, and add what the options ask for beside the value."""
    model, options, operator = operators.model, operators.options, operators.whole
    arrays = fields(model, operator, found)
    if isinstance(found, Fixpoint) and operators.may_sample:
        arrays[CERTIFICATE] = found.sampled.astype(jnp.int8)
    if not (options.stationary or options.periods is not None):
        return arrays
    if options.distribution_grid and isinstance(model, Model):
        return _with_code(arrays, *statistics_of(model, options, arrays, operators.partition))
    fixed = operator.at(found.policy)
    return _with_code(arrays, *population(model, fixed, options, arrays["code"] >= 10))


def _with_code(arrays: dict[str, Array], more: dict[str, Array], code: Array) -> dict[str, Array]:
    # The value is certified whatever became of the distribution; the code tells the worse of both.
    arrays["code"] = jnp.where(arrays["code"] == Outcome.SOLVED, code, arrays["code"])
    return arrays | more


def fields(
    model: Model | TabularModel, operator: BellmanOperator, found: Found
) -> dict[str, Array]:
    """Name what was found; a failed point has no policy and no outputs.

    What outputs are at the optimum is known only here: one that is no number fails the point.
    """
    bounds = GAINS if isinstance(found, RelativeValue) else ("lower", "upper")
    arrays = {name: getattr(found, name) for name in ("value", *bounds, *RECORDS[:2])}
    arrays |= {f"policy_index_{c}": i for c, i in operator.labels(found.policy).items()}
    arrays |= operator.chances(found.policy)
    arrays |= operator.chance_error(found.value, found.error_bound)
    arrays |= read_off(model, operator, found.policy)
    outputs = {name: x for name, x in arrays.items() if name.startswith("output_")}
    told = told_by(operator.likely(outputs, found.policy), operator.reductions)
    code = jnp.where((found.code >= 10) | (told == Outcome.RUNNING), found.code, told)
    for name, x in arrays.items():
        arrays[name] = x if name.startswith("grid_") else mask(x, code >= 10)
    return arrays | {"iterations": found.iterations, "code": code}


def read_off(
    model: Model | TabularModel, operator: BellmanOperator, policy: Array
) -> dict[str, Array]:
    """Return what follows from a policy (states...): choices' values, outputs; and grids (n,)."""
    labels = operator.labels(policy)
    found = outputs_of(operator.at(policy)) if has_outputs(model) else {}
    outputs = {f"output_{name}": x for name, x in found.items()}
    return chosen(model, labels) | outputs | grids_of(model)


def decisions_in(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return a result's positions (states...) by choice, and probabilities by their name."""
    before = "policy_index_"
    found = {n.removeprefix(before): x for n, x in arrays.items() if n.startswith(before)}
    return found | {n: x for n, x in arrays.items() if n.startswith(PREFIX) and n != ERROR}


def begin_point(
    operators: Operators,
    values: Mapping[str, Any],
    start: Array | None = None,
    wanted: Array | bool = True,
) -> tuple[PairTable | Turn | None, Any, Array]:
    """Make ready for the first sweep; a NaN among the parameters ends the run at once.

    Parameters
    ----------
    operators : Operators
        Of the point's model, which has no horizon.
    values : mapping
        The point's parameters.
    start : array (states...), optional
        A value to start from; one that is not finite everywhere is none.
    wanted : bool
        A point that is not ends at once, before a shortcut is tried.

    Returns
    -------
    kept : PairTable, Turn or None
        What the operator keeps, so that another of the same model need not find it again.
    run : SolveState or AverageState
    started : bool
        Whether `start` was used.
    """
    operator = operators.loop
    started = jnp.asarray(False)
    if start is not None:
        started = operator.reductions.all(jnp.isfinite(start))
        operator.opening = jnp.where(started, start, operator.start())
    live = is_live(values)
    run = begin(operators, operators.options, live & wanted)
    kept = operator.kept
    return None if kept is None else kept.lean(), run, started & live
