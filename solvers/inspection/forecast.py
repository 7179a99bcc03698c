"""Memory forecast of one point, and how its sweeps will find their maxima.

It is told before anything is compiled, by tracing: rewards over all pairs of a state and a choice
are kept where they fit ``memory``, which lanes share, and evaluated in every sweep where they do
not. What a point takes in memory (:class:`Footprint`) is told likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.compile_forecast import equations
from dpsolve.solvers.discrete_choice.operator import TasteOperator, operator_on_grids
from dpsolve.solvers.distributions.stationary_methods import DENSE_MOST
from dpsolve.solvers.methods.choose_operator import Operators, shortcut_of
from dpsolve.solvers.model.array_factory import named, no_model
from dpsolve.solvers.model.factory_signature import (
    Factory,
    abstract,
    build,
    look_over,
    parameter_shapes,
    signature,
)
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.memory import VECTORS
from dpsolve.solvers.operators.base import Shortcut
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.monotone import MonotoneOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.parameters.array import Shape

from .limits import PAIR, TESTED, arrays_of_a_solve
from .requests import chooses

LONG = 2**31
"""Pairs of a state and a choice above which a full sweep takes longer than to find the solution by
divide and conquer."""


@dataclass(frozen=True)
class Outlook:
    """How the sweeps of one point go.

    Attributes
    ----------
    kept : int or None
        Bytes that are kept of the pairs, None if they are looked at by blocks.
    block, choices : int
        Choices looked at together, and in all.
    evaluations : int
        Evaluations of the reward: once where it is kept, else in every full sweep.
    along : (str, str) or None
        The choice and the state along which divide and conquer is tried.
    quick : int
        Evaluations, about, of a sweep by divide and conquer.
    single : bool
        Whether sweeps in single precision are tried.
    sampled : bool
        Whether a sample of the states is looked at, in place of the full sweep that certifies.
    pairs : int
        Pairs of a state and a choice, which a full sweep looks at.
    samples : bool
        Whether a sample of the states could be looked at, if that were asked for.
    tastes : tuple of str
        The choices that taste shocks are on.
    """

    kept: int | None
    block: int
    choices: int
    evaluations: int
    along: tuple[str, str] | None
    quick: int
    single: bool
    sampled: bool
    pairs: int = 0
    samples: bool = False
    tastes: tuple[str, ...] = ()

    @property
    def rewards(self) -> str:
        """What becomes of rewards, in words."""
        if self.kept is not None:
            return (
                f"kept, {self.kept / 2**20:.3g} MiB a point; {self.evaluations:,} evaluations, once"
            )
        return (
            f"recomputed by blocks of {self.block:,} of {self.choices:,} choices; "
            f"{self.evaluations:,} evaluations a full sweep"
        )

    @property
    def maxima(self) -> str:
        """How the maximum is looked for, in words."""
        if self.tastes:
            return f"and the log-sum over {' and '.join(self.tastes)}, in every sweep"
        if self.along is None:
            first = ", in single precision first" if self.single else ""
            return f"over all choices in every sweep{first}"
        choice, state = self.along
        then = "full sweeps certify"
        if self.sampled:
            then = "a sample of the states is looked at, which certifies nothing"
        return (
            f"by divide and conquer ({choice} taken to rise with {state}; about "
            f"{self.quick:,} evaluations a sweep), then {then}"
        )

    @property
    def seconds(self) -> float:
        """What the full sweep takes that certifies, about, on two cores; 0 without one."""
        return 0.0 if self.sampled else self.pairs * PAIR

    @property
    def warning(self) -> str:
        """How long the full sweep takes that certifies, in words; empty unless that is long."""
        if self.sampled or self.pairs <= LONG:
            return ""
        return (
            f"by a full sweep, about {self.seconds:,.0f} s a point on two cores (by count: "
            f"{self.pairs:,} pairs at {PAIR * 1e9:.3g} ns)"
        )

    @property
    def remedy(self) -> str:
        """What is quicker than a long full sweep, in words; empty if nothing is, or none is."""
        if not (self.warning and self.samples):
            return ""
        return (
            'certificate = "sampled" is quicker and certifies nothing: points are inexact, with an '
            "error_bound of inf"
        )


def outlook(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions, lanes: int = 1
) -> Outlook | None:
    """Look ahead at the sweeps of a factory's model; None if it has no pairs to look at.

    Parameters
    ----------
    factory, sizes, options
        What is solved.
    lanes : int
        Points side by side, which share the memory.
    """
    options = replace(options, memory=max(1, options.memory // lanes))
    return look_over(factory, sizes, lambda made: outlook_of(made, options))


def outlook_of(
    made: Any, options: SolveOptions, operators: Operators | None = None
) -> Outlook | None:
    """Look ahead at the sweeps of what a factory made, inside a trace.

    Parameters
    ----------
    made : Model, TabularModel or mapping
    options : SolveOptions
        Of one lane.
    operators : Operators, optional
        Those of the model, where they are at hand.
    """
    if not isinstance(made, Model) or made.continuous:
        return None
    if made.horizon is not None:
        return _of(
            operator_on_grids(made, jnp.int32(0), options.block, options.memory), None, options
        )
    operators = operators or Operators(made, options)
    assert isinstance(operators.whole, GridOperator)
    return _of(operators.whole, operators.whole_shortcut, options)


def _of(operator: GridOperator, shortcut: Shortcut | None, options: SolveOptions) -> Outlook:
    states, choices = prod(operator.shape), operator.n_choices
    kept, evaluations = None, states * (choices + operator.width)
    if operator.kept is not None:
        arrays = jax.tree.leaves(operator.kept.lean())
        kept = sum(x.dtype.itemsize * prod(x.shape) for x in arrays)
        evaluations = prod(operator.kept.reward.array.shape)
    along, quick = None, 0
    if isinstance(shortcut, MonotoneOperator):
        along = shortcut.choice, shortcut.state
        own = operator.shape[operator.states.index(shortcut.state)]
        levels = max(1, ceil(log2(own + 1)))
        size = operator.model.size_of(shortcut.choice)
        quick = states // own * (choices // size) * (levels * size + 2**levels)
    sampled = shortcut is not None and shortcut.vouches
    single = shortcut is not None and along is None
    return Outlook(
        kept, operator.width, choices, evaluations, along, quick, single, sampled,
        pairs=states * choices,
        samples=states * choices > LONG and _samples(operator, options),
        tastes=operator.taste.choices if isinstance(operator, TasteOperator) else (),
    )  # fmt: skip


def _samples(operator: GridOperator, options: SolveOptions) -> bool:
    """Tell whether a sample could be looked at, if that were asked for."""
    if operator.model.horizon is not None:
        return False
    found = shortcut_of(operator, replace(options, certificate="sampled"))
    return found is not None and found.vouches


# Primitives that call LAPACK, and share out a batch over XLA's threads: where that hangs, and when
# this list can go, stands in dense.py.
POOLED = {
    "cholesky", "eig", "eigh", "geqrf", "hessenberg", "householder_product", "lu", "qr", "schur",
    "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve",
}  # fmt: skip
LIVE_AT_ONCE = 4  # arrays of the largest size that a computation holds at a time


def lane_cost(factory: Factory, sizes: Mapping[str, Any]) -> LaneCost:
    """Estimate what one more point in a batch takes.

    The largest array that grows with the number of points tells; what all points share (the
    draws of a Monte Carlo mean, say) is not counted.
    """
    results = 0

    def run(values: Mapping[str, Any]) -> list[Array]:
        nonlocal results
        arrays = [x for _, _, x in named(build(factory, values, sizes))]
        results = sum(x.dtype.itemsize * prod(x.shape) for x in arrays)
        return arrays

    if not signature(factory).parameters:
        jax.eval_shape(run, {})
        return LaneCost(2 * results, False)
    two, three = (
        [*equations(jax.make_jaxpr(jax.vmap(run))(abstract(factory, sizes, (n,))).jaxpr)]
        for n in (2, 3)
    )
    grows = [_bytes(b) - _bytes(a) for a, b in zip(two, three, strict=False)]
    alone = any(map(_calls_pool, two))
    return LaneCost(2 * results + LIVE_AT_ONCE * max(grows, default=0), alone)


def calls_pool(jaxpr: Any) -> bool:
    """Tell whether a program calls LAPACK for a batch, which two at a time must not on a CPU."""
    return any(map(_calls_pool, equations(jaxpr)))


def _calls_pool(equation: Any) -> bool:
    return equation.primitive.name in POOLED and equation.invars[0].aval.ndim > 2


class LaneCost(NamedTuple):
    """What one more point in a batch takes.

    Attributes
    ----------
    bytes : int
        Memory, its results included.
    alone : bool
        Whether points must not share a batch on a CPU, because that could hang (:mod:`.dense`).
    """

    bytes: int
    alone: bool


def _bytes(equation: Any) -> int:
    return max(
        (prod(out.aval.shape) * out.aval.dtype.itemsize for out in equation.outvars), default=0
    )


@dataclass(frozen=True)
class Footprint:
    """How large the arrays of one point are.

    Attributes
    ----------
    states, choices : int
        Numbers of states and of choices that are listed; a continuous one does not count.
    bytes : int
        What one point's solve takes: arrays over states and choices, and over states.
    streams : bool
        Whether rewards are recomputed block by block.
    alone : bool
        Whether points must not share a batch on a CPU (see :class:`~.forecast.LaneCost`).
    whole : bool
        Whether a point's states cannot be cut over devices.
    """

    states: int
    choices: int
    bytes: int
    streams: bool
    alone: bool = False
    whole: bool = False


def footprint(factory: Factory, sizes: Mapping[str, Any], options: SolveOptions) -> Footprint:
    """Size up one point by tracing its factory."""
    return look_over(factory, sizes, lambda made: footprint_of(made, factory, sizes, options))


OF_ALTERNATIVES = 24  # arrays over states and alternatives: policies, and what bands are found from
DENSE_COPIES = 6  # of a small chain's matrix, alive in its search


def population_bytes(
    model: Model | TabularModel, options: SolveOptions, shapes: Mapping[str, Shape]
) -> int:
    """Forecast the memory that one point's distributions and gradients take.

    The stationary distribution is looked for when the value's loop is over: what it takes more
    than the loop does is a small chain's matrix, and what is kept of it. The `shapes` are the
    parameters': there is a gradient for each entry of one.
    """
    finer = dict(options.distribution_grid)
    states = prod(model.shape)
    if isinstance(model, Model) and set(finer) <= set(model.states):
        states = max(states, prod(finer.get(n, s.size) for n, s in model.states.items()))
    arrays = 0
    if options.stationary:
        arrays += 8 + (DENSE_COPIES * states if states <= DENSE_MOST else 0)
    arrays += ((path_periods(model, options) or -1) + 1) * 2
    # Of the value, of each output, of the distribution, and of the path; or of the value alone.
    every = 2 + len(getattr(model, "outputs", ())) + arrays
    by = [
        sum(prod(shapes.get(name, ())) for name in names)
        for names in (options.gradients_fixed_policy, options.gradients)
    ]
    differentiated = every * by[0] + (2 if chooses(model) else every) * by[1]
    return 8 * states * (arrays + differentiated)


def path_periods(model: Model | TabularModel, options: SolveOptions) -> int | None:
    """Return the length of the path of distributions, None if none is asked for."""
    if model.horizon is not None and options.initial is not None:
        return options.periods or int(model.horizon)
    return options.periods


def footprint_of(
    made: Any, factory: Factory, sizes: Mapping[str, Any], options: SolveOptions
) -> Footprint:
    """Size up one point of what a factory made, inside a trace."""
    shapes = parameter_shapes(factory, sizes)
    if isinstance(made, TabularModel):
        pairs = 8 * prod(np.shape(made.reward))
        dense = getattr(made.transition, "values", made.transition)
        total = pairs + 8 * prod(np.shape(dense)) + 8 * VECTORS * made.n_states
        total += population_bytes(made, options, shapes)
        return Footprint(made.n_states, made.n_actions, total, False)
    if isinstance(made, Model) and made.continuous:
        states, listed = prod(made.shape), prod(made.size_of(choice) for choice in made.gridded)
        total = (
            8 * states * arrays_of_a_solve(made) + population_bytes(made, options, shapes) + TESTED
        )
        return Footprint(states, listed, total, False, whole=True)
    if isinstance(made, Model):
        t = None if made.horizon is None else jnp.int32(0)
        operator = operator_on_grids(made, t=t, block=options.block, memory=options.memory)
        states = prod(made.shape)
        at_once = operator.block_size or operator.n_choices
        total = at_once * operator.bytes_per_choice + 8 * states * arrays_of_a_solve(made)
        total += population_bytes(made, options, shapes)
        if made.taste is not None:
            total += 8 * OF_ALTERNATIVES * states * made.taste.alternatives
        return Footprint(states, operator.n_choices, total, operator.block_size is not None)
    if not isinstance(made, Mapping):
        raise no_model(factory, made)
    one = lane_cost(factory, sizes)
    return Footprint(1, 1, one.bytes, False, one.alone)
