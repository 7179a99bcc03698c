"""An output that is no number at the optimum, named with its state, choice and shock.

Outputs count at the optimum only, and what that is takes a solve. So all feasible pairs are looked
at first, and the model is solved if an output is NaN or +inf at one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.discrete_choice.operator import operator_on_grids
from dpsolve.solvers.discrete_choice.policy import Mixed
from dpsolve.solvers.methods.choose_operator import Operators
from dpsolve.solvers.methods.finite_horizon import terminal_value
from dpsolve.solvers.methods.loop import solve
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.model_functions import PairTable
from dpsolve.solvers.operators.named_arrays import NamedArray, multiply
from dpsolve.solvers.options import SolveOptions

Fault = tuple[str, dict[str, int], int]  # an output, the states' positions, and the choice


def no_number(x: Array) -> Array:
    """Tell which entries are NaN or +inf."""
    return jnp.isnan(x) | (x == jnp.inf)


def bad_somewhere(grid_operator: GridOperator, pairs: PairTable, index: NamedArray) -> bool:
    """Tell whether an output is no number at one of some feasible pairs."""
    functions = grid_operator.functions
    env = functions.env | functions.choice_values(index)
    for name, f in grid_operator.model.outputs.items():
        x = functions.average((f,), env, pairs.probabilities, f"output '{name}'", pairs.posts)
        bad = x.map(no_number)
        if pairs.feasible is not None:
            bad = multiply(bad, pairs.feasible)
        if bool(bad.array.any()):
            return True
    return False


def fault_at_optimum(model: Model, criterion: str) -> tuple[GridOperator, str, Fault] | None:
    """Solve a model and return the first output that is no number there, and when; or None."""
    if model.horizon is None:
        operators = Operators(model, SolveOptions.from_mapping({"criterion": criterion}))
        policy = jax.jit(lambda: solve(operators, operators.options).policy)()
        operator = operator_on_grids(model)
        fault = _fault(operator, policy)
        return None if fault is None else (operator, "", fault)
    value = terminal_value(model)
    for t in reversed(range(model.horizon)):
        operator = operator_on_grids(model, t=jnp.int32(t))
        value, policy = operator.greedy(value)
        fault = _fault(operator, policy)
        if fault is not None:
            return operator, f" in period t={t}", fault
    return None


def _fault(operator: GridOperator, policy: Any) -> Fault | None:
    outputs: Mapping[str, Array] = operator.likely(operator.at(policy).outputs(), policy)
    chosen = np.asarray(policy.choice if isinstance(policy, Mixed) else policy)
    for name, x in outputs.items():
        bad = np.asarray(no_number(x))
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            state = dict(zip(operator.states, (int(i) for i in at), strict=False))
            return name, state, int(chosen.reshape(bad.shape)[at])
    return None
