r"""Backward induction over a finite horizon.

:math:`v_T` is the terminal value and :math:`v_t = T_t v_{t+1}`, with the Bellman operator of period
*t*. Each sweep is exact up to rounding, so the certified error is the rounding allowance summed
over the periods that are left, each discounted by those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.logit.taste_shocks import ERROR
from dpsolve.solvers.methods.choose_operator import make_operator
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.partition import ALONE, Partition
from dpsolve.solvers.numerics.tracing import EPS, TINY
from dpsolve.solvers.operators.base import BellmanOperator, PolicyOperator
from dpsolve.solvers.operators.bellman import GridPolicy
from dpsolve.solvers.operators.named_arrays import NamedArray, mapped, multiply, ordered
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

from .stopping import first_fault, told_by, unsound


def backward(
    model: Model | TabularModel,
    options: SolveOptions,
    live: Array | bool = True,
    partition: Partition | None = None,
    operator_of: Callable[[Array], BellmanOperator] | None = None,
) -> dict[str, Array]:
    """Solve a finite-horizon model, inside a trace; with a `partition`, this device's part of it.

    Parameters
    ----------
    model : Model or TabularModel
    options : SolveOptions
    live : bool
        A point that is not fails at once.
    partition : Partition, optional
    operator_of : function, optional
        Returns the operator of a period, where that is to be another than the usual one.

    Returns
    -------
    dict
        As for an infinite horizon, with a leading axis ``t`` of length ``horizon``: ``value``,
        ``policy_<choice>`` and the like are arrays (t, states...).
    """
    horizon = int(model.horizon or 0)
    over = ALONE if partition is None else partition.reductions

    def usual(t: Array) -> BellmanOperator:
        return make_operator(model, options, partition, t=t)

    def period(carry: tuple[Array, Array, Array], t: Array) -> tuple[Any, dict[str, Array]]:
        v, error, code = carry
        operator = usual(t) if operator_of is None else operator_of(t)
        survey = operator.survey()
        fault = first_fault(survey, None)
        tv, policy = operator.greedy(v)
        scale = over.max(jnp.maximum(jnp.abs(tv), jnp.abs(v))) + survey.magnitude
        more = operator.chances(policy) | operator.chance_error(v, error)
        error = operator.depth * (EPS * scale + 2 * TINY) + jnp.abs(survey.rate) * error
        # An earlier fault (later in time) stands; NaN is found where it first arises.
        fault = jnp.where(fault == Outcome.RUNNING, unsound(v, tv, over), fault)
        labels = operator.labels(policy)
        out = {"value": tv, "error": error, **more}
        out |= {f"policy_index_{c}": i for c, i in labels.items()}
        out |= chosen(model, labels)
        outputs = outputs_of(operator.at(policy)) if has_outputs(model) else {}
        if outputs:
            out |= {f"output_{n}": x for n, x in outputs.items()}
            told = told_by(operator.likely(outputs, policy), over)
            fault = jnp.where(fault == Outcome.RUNNING, told, fault)
        return (tv, error, jnp.where(code == Outcome.RUNNING, fault, code)), out

    terminal = terminal_value(model, partition)
    live = jnp.asarray(live) & over.all(jnp.isfinite(terminal))
    code = jnp.where(live, jnp.int32(Outcome.RUNNING), jnp.int32(Outcome.NOT_FINITE))
    start = (terminal, jnp.zeros(()), code)
    (_, _, code), out = lax.scan(period, start, jnp.arange(horizon), reverse=True)
    if ERROR in out:
        out[ERROR] = largest(out[ERROR])
    errors = out.pop("error").reshape(-1, *(1 for _ in model.shape))
    error = largest(errors)
    code = jnp.where(
        code == Outcome.RUNNING,
        jnp.where(
            error <= options.tol_on_grid, jnp.int32(Outcome.SOLVED), jnp.int32(Outcome.ROUNDING)
        ),
        code,
    )
    failed = code >= 10
    for name, x in out.items():
        missing = jnp.nan if x.dtype.kind == "f" else -1
        out[name] = jnp.where(failed, missing, x)
    out |= {"lower": out["value"] - errors, "upper": out["value"] + errors}
    out |= grids_of(model)
    nan = jnp.asarray(jnp.nan)
    return out | {
        "residual": jnp.where(failed, nan, 0.0),
        "error_bound": jnp.where(failed, nan, error),
        "iterations": jnp.int32(horizon),
        "code": code,
    }


def follow(
    model: Model | TabularModel,
    options: SolveOptions,
    policies: Mapping[str, Array],
    partition: Partition | None = None,
) -> dict[str, Array]:
    """Value fixed policies over the horizon, differentiably.

    Parameters
    ----------
    policies : dict of str to array (t, states...)
        An index for each choice; and with taste shocks its probabilities, by their name.

    Returns
    -------
    dict
        ``value``, ``policy_<choice>`` and ``output_<name>``, arrays (t, states...); grids (n,).
    """
    horizon = int(model.horizon or 0)

    def period(v: Array, x: tuple[Array, dict[str, Array]]) -> tuple[Array, dict[str, Array]]:
        t, labels = x
        operator = make_operator(model, replace(options, block=options.block or 1), partition, t=t)
        policy = operator.responding(operator.policy_of(labels), v)
        fixed = operator.at(policy)
        v = fixed.reward + fixed.apply(v)
        out = chosen(model, labels) | operator.chances(policy)
        return v, {"value": v, **out, **{f"output_{n}": y for n, y in outputs_of(fixed).items()}}

    xs = (jnp.arange(horizon), dict(policies))
    _, out = lax.scan(period, terminal_value(model, partition), xs, reverse=True)
    return out | grids_of(model)


def chosen(model: Model | TabularModel, labels: Mapping[str, Array]) -> dict[str, Array]:
    """Return each choice's values (states...), as ``policy_<choice>``, from its positions."""
    if isinstance(model, TabularModel):
        return {f"policy_{c}": i for c, i in labels.items()}
    return {f"policy_{c}": jnp.asarray(model.grid_of(c).values)[i] for c, i in labels.items()}


def grids_of(model: Model | TabularModel) -> dict[str, Array]:
    """Return the values (n,) of states, and of choices that results have an axis of."""
    if isinstance(model, TabularModel):
        return {"grid_state": jnp.arange(model.n_states)}
    names = (*model.states, *(() if model.taste is None else model.taste.choices))
    return {f"grid_{n}": jnp.asarray(model.grid_of(n).values) for n in names}


def outputs_of(fixed: PolicyOperator) -> dict[str, Array]:
    """Return the model's outputs (states...) at a policy; arrays have none."""
    return fixed.outputs() if isinstance(fixed, GridPolicy) else {}


def has_outputs(model: Model | TabularModel) -> bool:
    """Tell whether a model has outputs."""
    return isinstance(model, Model) and bool(model.outputs)


def terminal_value(model: Model | TabularModel, partition: Partition | None = None) -> Array:
    """Return the value after the last period, over the states or this device's part of them."""
    if isinstance(model, TabularModel):
        end = jnp.zeros(model.shape) if model.end is None else jnp.asarray(model.end)
        return end if partition is None else end[partition.index()]
    values = {n: jnp.asarray(s.values) for n, s in model.states.items()}
    if partition is not None:
        values[partition.state] = values[partition.state][partition.index()]
    full = NamedArray(jnp.ones([x.size for x in values.values()]), tuple(values))
    if model.terminal is None:
        return 0.0 * full.array
    env = {n: NamedArray(x, (n,)) for n, x in values.items()}
    x = mapped(model.terminal, env, tuple(values), "terminal")
    return ordered(multiply(full, x), tuple(values)).array.astype(jnp.float64)
