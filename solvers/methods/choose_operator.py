"""Which operator and which shortcut a model is solved by.

A model of arrays has its own Bellman operator, a model on grids another, and one with taste shocks
a third (:mod:`dpsolve.solvers.discrete_choice.operator`). Where a state is a cycle the solve loop
runs on the operator of one turn (:mod:`dpsolve.solvers.operators.cyclic`), and what is found is
read off by that of the whole model; everywhere else these two are one. Beside the operator there
may be a shortcut: divide and conquer, ended by full sweeps or by a look at a sample
(:mod:`~dpsolve.solvers.operators.monotone`, :mod:`~dpsolve.solvers.operators.sampled_certificate`),
or single precision (:mod:`~dpsolve.solvers.operators.mixed_precision`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jax.typing import ArrayLike

from dpsolve.solvers.discrete_choice.operator import operator_on_grids
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.operators.base import BellmanOperator, Shortcut
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.cyclic import CyclicOperator, Turn, cycle_of
from dpsolve.solvers.operators.mixed_precision import SinglePrecisionOperator
from dpsolve.solvers.operators.model_functions import PairTable
from dpsolve.solvers.operators.monotone import MonotoneOperator, rising
from dpsolve.solvers.operators.sampled_certificate import SampledOperator
from dpsolve.solvers.operators.tabular import TabularOperator
from dpsolve.solvers.options import SolveOptions

from .shortest_path import undiscounted


class Operators:
    """What a model with an infinite horizon is solved by; each part is made once, when asked for.

    Parameters
    ----------
    model : Model or TabularModel
        At one parameter point; its arrays may be traced.
    options : SolveOptions
    partition : Partition, optional
        The state of which this device has a part.
    kept : PairTable or Turn, optional
        What the loop's operator of the same model kept.
    """

    def __init__(
        self,
        model: Model | TabularModel,
        options: SolveOptions,
        partition: Partition | None = None,
        kept: Any = None,
    ) -> None:
        self.model, self.options, self.partition = model, options, partition
        self._kept: Any = kept

    @cached_property
    def loop(self) -> BellmanOperator:
        """The operator that the solve loop runs on: that of a turn, where there is a cycle."""
        turn = cyclic(self.model, self.options, self.partition, self._kept)
        if turn is not None:
            return turn
        return make_operator(self.model, self.options, self.partition, self._kept)

    @cached_property
    def whole(self) -> BellmanOperator:
        """The operator over all states, by which policies are read: the loop's, but for a cycle."""
        if isinstance(self.loop, CyclicOperator):
            return make_operator(self.model, self.options, self.partition)
        return self.loop

    @cached_property
    def shortcut(self) -> Shortcut | None:
        """A shortcut for the loop's operator, if one is worth trying."""
        return shortcut_of(self.loop, self.options)

    @cached_property
    def whole_shortcut(self) -> Shortcut | None:
        """What the shortcut would be over all states: the loop's, but for a cycle."""
        if self.whole is self.loop:
            return self.shortcut
        return shortcut_of(self.whole, self.options)

    @property
    def may_sample(self) -> bool:
        """Whether a point may end with a look at a sample, without a certificate."""
        return isinstance(self.whole_shortcut, SampledOperator)


def make_operator(
    model: Model | TabularModel,
    options: SolveOptions,
    partition: Partition | None = None,
    kept: PairTable | None = None,
    t: ArrayLike | None = None,
) -> BellmanOperator:
    """Return the Bellman operator of a model, over all of its states.

    Parameters
    ----------
    model : Model or TabularModel
    options : SolveOptions
    partition : Partition, optional
        The state of which this device has a part.
    kept : PairTable, optional
        What an operator of the same model kept.
    t : int, optional
        The period, with a horizon.
    """
    if isinstance(model, TabularModel):
        return TabularOperator(model, partition)
    return operator_on_grids(
        model, t=t, block=options.block, memory=options.memory, kept=kept, partition=partition
    )


def cyclic(
    model: Model | TabularModel,
    options: SolveOptions,
    partition: Partition | None,
    kept: Turn | None,
) -> CyclicOperator | None:
    """Return the operator of one turn, or None where the model has no cycle or cannot be cut so."""
    if not isinstance(model, Model) or partition is not None or not options.cycles:
        return None
    if options.criterion != "discounted" or undiscounted(model, options):
        return None
    if options.block is not None or model.taste is not None:
        return None
    cycle = cycle_of(model)
    if cycle is None:
        return None
    operator = CyclicOperator(model, cycle, options.memory, kept)
    return operator if operator.one.block_size is None else None


# -- shortcuts ------------------------------------------------------------------------------------


def shortcut_of(operator: BellmanOperator, options: SolveOptions) -> Shortcut | None:
    """Return a shortcut for an operator, if one is worth trying.

    A hint makes divide and conquer worth it, and so does a maximum that streams over choices for
    lack of memory, or a sample in place of a certificate. A hint that is wrong, or a guess, costs
    the sweeps of the shortcut. Single precision is tried where it is allowed.
    """
    if not isinstance(operator, GridOperator) or options.method not in ("auto", "pi"):
        return None
    if operator.model.taste is not None:  # all of whose choices have a chance
        return None
    found = _monotone(operator, options)
    if found is not None:
        return found
    single = options.precision == "mixed" and operator.kept is not None
    return SinglePrecisionOperator(operator) if single else None


def _monotone(operator: GridOperator, options: SolveOptions) -> MonotoneOperator | None:
    model = operator.model
    along = rising(model)
    sampled = _samples(operator, options)
    if along is None or not (model.monotone or operator.kept is None or sampled):
        return None
    # With a block nothing is kept.
    keywords: dict[str, Any] = {
        "block": 1,
        "memory": options.memory,
        "partition": operator.partition,
    }
    if sampled:
        drawn = {"sample": options.sample, "seed": options.sample_seed}
        found: MonotoneOperator = SampledOperator(model, along, **drawn, **keywords)
    else:
        found = MonotoneOperator(model, along, **keywords)
    return found if found.applicable else None


def _samples(operator: GridOperator, options: SolveOptions) -> bool:
    """Tell whether a sample in place of a certificate was asked for, and can be looked at."""
    able = operator.partition is None and operator.constant_discount
    return able and options.certificate == "sampled"
