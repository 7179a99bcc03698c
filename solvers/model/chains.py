"""The transition matrix of a solved model's Markov state, found again by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.probability.markov import Markov

from .factory_signature import build
from .model import Model


def transition_matrix(problem: Any, parameters: Mapping[str, AnyArray], state: str) -> AnyArray:
    """Return a Markov state's transition matrix (n, n), or (horizon, n, n), at each point.

    Parameters
    ----------
    problem : Problem
        What was solved.
    parameters : mapping
        One point's, or those of all points.
    state : str

    Raises
    ------
    UsageError
        If it is no Markov state of the model.
    """

    def at(values: Mapping[str, AnyArray]) -> Any:
        made = problem.model
        if problem.factory is not None:
            made = build(problem.factory, values, dict(problem.sizes))
        return _chain(made, state).transition_matrix

    found: AnyArray = (jax.vmap(at) if problem.batched else at)(dict(parameters))
    return found


def _chain(model: Any, state: str) -> Markov:
    states = model.states if isinstance(model, Model) else {}
    if isinstance(spec := states.get(state), Markov):
        return spec
    chains = [n for n, s in states.items() if isinstance(s, Markov)]
    whole = model.parts.get(state) if isinstance(model, Model) else None
    hint = f" It moves as a part of '{whole}'." if whole in chains else did_you_mean(state, chains)
    raise UsageError(
        f"'{state}' is no Markov state of this model.{hint} Those are: "
        f"{', '.join(chains) or 'none'}."
    )
