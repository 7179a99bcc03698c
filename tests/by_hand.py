"""Solutions whose policy is written down, for what follows from a continuous policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import dpsolve as dp
from dpsolve.solvers.solution import Problem
from dpsolve.solvers.solve.result_dims import arrays_dims, shape_of


def solution_of(model: dp.Model, policy: Mapping[str, Callable[..., Any]]) -> dp.Solution:
    """Return a model's solution with a policy: functions of the states (and t), by choice.

    Of a choice that is gridded the function gives its position.
    """
    shape = model.shape if model.horizon is None else (model.horizon, *model.shape)
    grids = {n: np.asarray(s.values) for n, s in model.states.items()}
    mesh = dict(zip(grids, np.meshgrid(*grids.values(), indexing="ij"), strict=True))
    arrays: dict[str, Any] = {f"grid_{n}": jnp.asarray(x) for n, x in grids.items()}
    for choice, f in policy.items():
        if model.horizon is None:
            x = np.broadcast_to(f(**mesh), shape)
        else:
            x = np.stack([np.broadcast_to(f(**mesh, t=t), model.shape) for t in range(shape[0])])
        name = "policy_" if choice in model.continuous else "policy_index_"
        kind = float if choice in model.continuous else np.int32
        arrays[f"{name}{choice}"] = jnp.asarray(x.astype(kind))
        if choice not in model.continuous:
            values = np.asarray(model.grid_of(choice).values)
            arrays[f"policy_{choice}"] = jnp.asarray(values[x.astype(int)])
    arrays |= {name: jnp.zeros(shape) for name in ("value", "lower", "upper")}
    numbers = {"policy_loss": 0.0, "error_bound": 0.0, "residual": 0.0}
    arrays |= {name: jnp.asarray(x) for name, x in numbers.items()}
    arrays |= {"iterations": jnp.int32(0), "code": jnp.int32(0)}
    dims = tuple(arrays_dims(shape_of(model), arrays).items())
    return dp.Solution(arrays, {}, Problem(None, model, (), dp.SolveOptions(), dims))
