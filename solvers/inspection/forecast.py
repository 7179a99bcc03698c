"""How sweeps will find their maxima: what is kept, what is computed anew, how much of it.

It is told before anything is compiled, by tracing: rewards over all pairs of a state and a choice
are kept where they fit ``memory``, which lanes share, and evaluated in every sweep where they do
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import Any

import jax
import jax.numpy as jnp

from dpsolve.solvers.model.factory import Factory, look_over
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.base import Shortcut
from dpsolve.solvers.operators.bellman import Lattice
from dpsolve.solvers.operators.choose_operator import Operators, shortcut_of
from dpsolve.solvers.operators.monotone import MonotoneLattice
from dpsolve.solvers.options import SolveOptions

LONG = 2**31
"""Pairs of a state and a choice above which a full sweep takes longer than to find the solution by
divide and conquer."""

PAIR = 1.25e-9
"""Seconds a pair, of a reward with a logarithm and an exponential: measured on two cores, at 10^10
pairs of savings (docs/performance.md, certificates)."""


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
        Whether a sample of the states certifies, in place of a full sweep.
    pairs : int
        Pairs of a state and a choice, which a full sweep looks at.
    samples : bool
        Whether a sample of the states could certify, if that were asked for.
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
        if self.along is None:
            first = ", in single precision first" if self.single else ""
            return f"over all choices in every sweep{first}"
        choice, state = self.along
        then = "a sample of the states certifies" if self.sampled else "full sweeps certify"
        return (
            f"by divide and conquer ({choice} taken to rise with {state}; about "
            f"{self.quick:,} evaluations a sweep), then {then}"
        )

    @property
    def warning(self) -> str:
        """How long the full sweep takes that certifies, in words; empty unless that is long."""
        if self.sampled or self.pairs <= LONG:
            return ""
        return (
            f"by a full sweep, about {self.pairs * PAIR:,.0f} s a point on two cores (by count: "
            f"{self.pairs:,} pairs at {PAIR * 1e9:.3g} ns)"
        )

    @property
    def remedy(self) -> str:
        """What is quicker than a long full sweep, in words; empty if nothing is, or none is."""
        if not (self.warning and self.samples):
            return ""
        return (
            'certificate = "sampled" is quicker and proves less: it is a statement of probability, '
            "not a proof"
        )


def outlook(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions, lanes: int = 1
) -> Outlook | None:
    """Look ahead at the sweeps of a factory's model; None if it has no reward to evaluate.

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
    if not isinstance(made, Model):
        return None
    if made.horizon is not None:
        return _of(Lattice(made, jnp.int32(0), options.block, options.memory), None, options)
    operators = operators or Operators(made, options)
    assert isinstance(operators.whole, Lattice)
    return _of(operators.whole, operators.whole_shortcut, options)


def _of(lattice: Lattice, shortcut: Shortcut | None, options: SolveOptions) -> Outlook:
    states, choices = prod(lattice.shape), lattice.n_choices
    kept, evaluations = None, states * (choices + lattice.width)
    if lattice.kept is not None:
        arrays = jax.tree.leaves(lattice.kept.lean())
        kept = sum(x.dtype.itemsize * prod(x.shape) for x in arrays)
        evaluations = prod(lattice.kept.reward.array.shape)
    along, quick = None, 0
    if isinstance(shortcut, MonotoneLattice):
        along = shortcut.choice, shortcut.state
        own = lattice.shape[lattice.states.index(shortcut.state)]
        levels = max(1, ceil(log2(own + 1)))
        size = lattice.model.size_of(shortcut.choice)
        quick = states // own * (choices // size) * (levels * size + 2**levels)
    sampled = shortcut is not None and shortcut.vouches
    single = shortcut is not None and along is None
    return Outlook(
        kept, lattice.width, choices, evaluations, along, quick, single, sampled,
        pairs=states * choices,
        samples=states * choices > LONG and _samples(lattice, options),
    )  # fmt: skip


def _samples(lattice: Lattice, options: SolveOptions) -> bool:
    """Tell whether a sample could certify, if that were asked for."""
    if lattice.model.horizon is not None:
        return False
    found = shortcut_of(lattice, replace(options, certificate="sampled"))
    return found is not None and found.vouches
