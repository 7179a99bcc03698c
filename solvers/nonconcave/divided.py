"""Backward induction by divide and conquer, where every pair would be too many.

What divide and conquer finds is worth what some choice is worth: below, that is a bound whatever
is monotone. Above, it is one where the best choice among nodes rises with the state, for each of
the discrete choices; that is taken from a declaration (``monotone``), and tested with everything
else by the conclusion (:mod:`.between`). Without it the sweeps are full ones.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.base import Survey
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.model_functions import CHOICE
from dpsolve.solvers.operators.monotone import MonotoneOperator
from dpsolve.solvers.operators.named_arrays import NamedArray
from dpsolve.solvers.operators.validation import survey_grids, survey_pairs

SAMPLE = 64
"""Nodes that probabilities and discounts are looked at for: they are free of the choice."""


class DividedOperator(MonotoneOperator):
    """Divide and conquer that looks a model over at some choices of all kinds."""

    def survey(self) -> Survey:
        """Look over some pairs; that each state has a choice is seen by the sweep."""
        stride, firsts = self.other_choices()
        size = self.model.size_of(self.choice)
        some = jnp.linspace(0, size - 1, min(SAMPLE, size)).astype(jnp.int32)
        index = NamedArray((firsts[:, None] + stride * some).ravel(), (CHOICE,))
        locations = self.expectation.early_locations
        found = survey_pairs(
            self.functions, locations, self.pairs(index), self.sizes, rewards=False
        )
        found = survey_grids(self.model, found)
        return Survey(**{**vars(found), "feasible": jnp.ones(self.shape, bool)})


def divided(
    derived: Model, along: tuple[str, str], memory: int
) -> Callable[[Array], GridOperator] | None:
    """Return the operator of a period by divide and conquer, or None where all pairs fit.

    Parameters
    ----------
    derived : Model
        The problem of choices among nodes.
    along : (str, str)
        The choice and the state that it rises with.
    memory : int
        Bytes that arrays over states and choices may take.
    """

    def operator_of(t: Array) -> GridOperator:
        return DividedOperator(derived, along, t=t, block=1, memory=memory)

    probe = operator_of(jnp.int32(0))
    assert isinstance(probe, DividedOperator)
    fits = probe.n_choices * probe.bytes_per_choice <= memory
    return operator_of if probe.applicable and not fits else None
