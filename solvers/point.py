"""One parameter point, from the factory to named arrays: the program that JAX compiles."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import ModelError
from .factory import Factory, build, signature
from .horizon import backward
from .iteration import Fixpoint, fixpoint
from .lattice import Lattice, LatticePolicy
from .model import Model, TabularModel
from .operator import BellmanOperator
from .options import SolveOptions
from .outcomes import Outcome
from .tabular import Tabular

__all__ = [
    "PER_POINT",
    "Footprint",
    "footprint",
    "make_operator",
    "read_off",
    "solve_model",
    "solve_point",
]

Array = Any
log = logging.getLogger("dpsolve")

# One number per point, whatever the model.
PER_POINT = ("residual", "error_bound", "iterations", "code")


def make_operator(model: Model | TabularModel, options: SolveOptions) -> BellmanOperator:
    """Return the Bellman operator of an infinite-horizon model."""
    if isinstance(model, TabularModel):
        return Tabular(model)
    return Lattice(model, block=options.block, memory=options.memory)


def solve_point(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions, values: Mapping[str, Any]
) -> dict[str, Array]:
    """Build the model at one parameter point and solve it.

    Returns
    -------
    dict
        ``value``, ``lower``, ``upper``, ``policy_index_<choice>``, ``policy_<choice>``,
        ``output_<name>``, ``grid_<state>`` and the numbers in ``PER_POINT``; or a factory's own
        arrays (and the numbers).
    """
    shown = ", ".join(f"{k}={v}" for k, v in sizes.items())
    # This line runs when JAX traces the program, that is, once per set of sizes.
    log.info("compiling %s(%s)", signature(factory).name, shown)
    made = build(factory, values, sizes)
    live = ~jnp.isnan(jnp.stack([jnp.asarray(v) for v in values.values()] or [0.0])).any()
    if isinstance(made, Model | TabularModel):
        return solve_model(made, options, live)
    if isinstance(made, Mapping):
        return _own_arrays(made, live)
    raise ModelError(
        f"{signature(factory).name} returns {type(made).__name__}; a factory returns dp.Model, "
        "dp.mdp or a dict of named arrays"
    )


def solve_model(
    model: Model | TabularModel, options: SolveOptions, live: Array | bool = True
) -> dict[str, Array]:
    """Solve a model that is at hand; a point that is not `live` fails at once."""
    if isinstance(model, Model) and model.horizon is not None:
        return backward(model, options, live)
    operator = make_operator(model, options)
    found = fixpoint(operator, options, live)
    return fields(model, operator, found)


def fields(
    model: Model | TabularModel, operator: BellmanOperator, found: Fixpoint
) -> dict[str, Array]:
    """Name what was found; a failed point has no policy and no outputs."""
    arrays = {"value": found.value, "lower": found.lower, "upper": found.upper}
    failed = found.code >= 10
    for choice, index in operator.labels(found.policy).items():
        arrays[f"policy_index_{choice}"] = jnp.where(failed, -1, index)
    for name, x in read_off(model, operator, found.policy).items():
        arrays[name] = x if name.startswith("grid_") else jnp.where(failed, _missing(x), x)
    return arrays | {name: getattr(found, name) for name in PER_POINT}


def read_off(
    model: Model | TabularModel, operator: BellmanOperator, policy: Array
) -> dict[str, Array]:
    """Return what follows from a policy: the choices' grid values, the outputs; and the grids."""
    labels = operator.labels(policy)
    if isinstance(model, TabularModel):
        return {"policy_action": labels["action"], "grid_state": jnp.arange(model.n_states)}
    arrays = {f"policy_{c}": jnp.asarray(model.grid_of(c).values)[i] for c, i in labels.items()}
    if model.outputs:
        fixed = operator.at(policy)
        assert isinstance(fixed, LatticePolicy)
        arrays |= {f"output_{name}": x for name, x in fixed.outputs().items()}
    return arrays | {f"grid_{n}": jnp.asarray(s.values) for n, s in model.states.items()}


def _missing(x: Array) -> Any:
    return jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else -1


def _own_arrays(made: Mapping[str, Any], live: Array) -> dict[str, Array]:
    """Take a factory's own arrays: ``{"price": x}`` or ``{"path": (("t",), x)}``."""
    arrays = {}
    finite = live
    for name, x in made.items():
        if name in (*PER_POINT, "seconds", "status", "message"):
            raise ModelError(
                f"the factory returns an array '{name}', a name that results need; rename it"
            )
        array = jnp.asarray(x[1] if isinstance(x, tuple) else x)
        arrays[name] = array
        if array.dtype.kind == "f":
            finite &= jnp.isfinite(array).all()
    code = jnp.where(finite, jnp.int32(Outcome.SOLVED), jnp.int32(Outcome.NOT_FINITE))
    nan = jnp.asarray(jnp.nan)  # nothing is certified about arrays that are not value functions
    return arrays | {"residual": nan, "error_bound": nan, "iterations": jnp.int32(0), "code": code}


@dataclass(frozen=True)
class Footprint:
    """How large the arrays of one point are.

    Attributes
    ----------
    states, choices : int
        Numbers of states and of choices.
    bytes : int
        What one point's solve takes: arrays over states and choices, and over states.
    streams : bool
        Whether rewards are recomputed block by block.
    """

    states: int
    choices: int
    bytes: int
    streams: bool


VECTORS = 24  # arrays over the states that are alive in the loop, the Krylov solver's included


def footprint(factory: Factory, sizes: Mapping[str, Any], options: SolveOptions) -> Footprint:
    """Size up one point by tracing its factory."""
    found: list[Footprint] = []

    def look(values: Mapping[str, Any]) -> None:
        made = build(factory, values, sizes)
        if isinstance(made, TabularModel):
            pairs = 8 * prod(np.shape(made.reward))
            dense = getattr(made.transition, "values", made.transition)
            total = pairs + 8 * prod(np.shape(dense)) + 8 * VECTORS * made.n_states
            found.append(Footprint(made.n_states, made.n_actions, total, False))
        elif isinstance(made, Model):
            t = None if made.horizon is None else jnp.int32(0)
            lattice = Lattice(made, t=t, block=options.block, memory=options.memory)
            states = prod(made.shape)
            at_once = lattice.block_size or lattice.n_choices
            vectors = VECTORS + 6 * (made.horizon or 0)
            total = at_once * lattice.bytes_per_choice + 8 * states * vectors
            streams = lattice.block_size is not None
            found.append(Footprint(states, lattice.n_choices, total, streams))
        else:
            own = _own_arrays(made, jnp.asarray(True)).values()
            found.append(Footprint(1, 1, 16 * sum(prod(np.shape(x)) for x in own), False))

    names = signature(factory).parameters
    jax.eval_shape(look, {k: jax.ShapeDtypeStruct((), jnp.float64) for k in names})
    return found[0]
