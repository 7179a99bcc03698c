r"""Bellman operator with taste shocks: the log-sum over some choices, the maximum over the others.

.. math::
    q(s, j) = \max_{c} \{ r(s, j, c) + \beta E[v(s') \mid s, j, c] \}, \qquad
    (Tv)(s) = \sigma \log \sum_j e^{q(s, j) / \sigma}

(nests likewise; :mod:`dpsolve.solvers.logit.log_sum`). A log-sum is monotone, and a constant added
to all of its values comes out of it. So :math:`T` is monotone, damps constants by the discounts as
the maximum does, and the bounds of :mod:`dpsolve.solvers.methods.bounds` hold as they stand: their
proof uses nothing else. Their allowance for rounding grows by that of the log-sum.

A policy (:class:`.Mixed`) is the best other choices at each alternative :math:`j`, and the
alternatives' probabilities. Its value is the tangent of :math:`T`, so that policy iteration is
Newton's method (Rust 1987; Iskhakov, Lee, Rust, Schjerning and Seo 2016).

It is :class:`.GridOperator` with its blocks of choices cut along the alternatives: a block belongs
to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.logit.log_sum import log_sum_of
from dpsolve.solvers.logit.taste_shocks import ERROR, TasteShocks
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.summation import short_sum
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.operators.base import Survey
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.maximum import FEW, argmax, best_of_blocks, max_and_argmax
from dpsolve.solvers.operators.model_functions import BLOCK, CHOICE
from dpsolve.solvers.operators.named_arrays import NamedArray

from .policy import Mixed, TastePolicy, Walk, apart

SETTLED = 1e-3  # a probability that moves by less than this has hardly moved


def operator_on_grids(model: Model, *args: Any, **keywords: Any) -> GridOperator:
    """Return a model's operator on its grids: with taste shocks a :class:`TasteOperator`."""
    return (GridOperator if model.taste is None else TasteOperator)(model, *args, **keywords)


class TasteOperator(GridOperator):
    """The Bellman operator of a model with taste shocks; parameters as :class:`.GridOperator`."""

    def __init__(self, model: Model, *args: Any, **keywords: Any) -> None:
        assert model.taste is not None
        self.taste: TasteShocks = model.taste
        self.log_sum = log_sum_of(self.taste)
        self.alternatives = self.taste.alternatives
        self.others = [c for c in model.choices if c not in self.taste.choices]
        super().__init__(model, *args, **keywords)
        self.by_rows = False  # the best of each alternative is looked for by lookups
        self.line = self._line()

    def _line(self) -> Walk | None:
        """Find how the alternatives move a long state, once where nothing else is chosen."""
        axis = self.walking
        if axis is None or self.each > 1 or self.model.horizon is not None:
            return None
        pairs = self.pairs(NamedArray(self._alone(), (BLOCK,)))
        return Walk.of(self, axis, self.alternatives, pairs)

    # -- choices, numbered by alternatives ------------------------------------------------------

    @property
    def each(self) -> int:
        """Joint values of the other choices."""
        return self.n_choices // self.alternatives

    @property
    def width(self) -> int:
        """Choices to a block: those of one alternative, where all are kept."""
        return self.each if self.block_size is None else min(self.each, self.block_size)

    @property
    def parts(self) -> int:
        """Blocks to an alternative."""
        return ceil(self.each / self.width)

    @property
    def blocks(self) -> int:
        """Blocks of choices."""
        return self.alternatives * self.parts

    def _choice(self, block: Array, position: Array) -> Array:
        """Return the choice at a position of a block; a last block repeats its last choice."""
        alternative, part = block // self.parts, block % self.parts
        other = jnp.minimum(part.astype(jnp.int64) * self.width + position, self.each - 1)
        return self.joint(alternative, other)

    def joint(self, alternative: Array, other: Array) -> Array:
        """Return the flattened choice (...) of an alternative and of the other choices."""
        index = self._split(alternative, self.taste.choices) | self._split(other, self.others)
        flat: Array = jnp.zeros((), jnp.int64)
        for choice in self.model.choices:
            flat = flat * self.model.size_of(choice) + index[choice]
        return flat.astype(jnp.int32)

    def _alone(self) -> Array:
        """Return the choice (alternatives,) that each alternative is, where nothing else is one."""
        return self.joint(jnp.arange(self.alternatives), jnp.zeros((), jnp.int32))

    def _split(self, flat: Array, names: Any) -> dict[str, Array]:
        """Split a number (...) into the positions of some choices, the last one fastest."""
        found = {}
        for name in reversed(tuple(names)):
            size = self.model.size_of(name)
            found[name], flat = flat % size, flat // size
        return found

    # -- the operator ---------------------------------------------------------------------------

    def greedy(self, v: Array) -> tuple[Array, Mixed]:  # type: ignore[override]  # a mixed policy
        """Return ``Tv`` (states...) and the policy that is its tangent: one full sweep."""
        q, choice = self.values_of_alternatives(v)
        tv, probability = self.log_sum.value(q)
        return tv, Mixed(choice, probability)

    def values_of_alternatives(self, v: Array) -> tuple[Array, Array]:
        """Return the greatest value of each alternative, and the choice that has it first.

        Two arrays (states..., alternatives): -inf where none is feasible, and infinite where a
        value that counts is NaN.
        """
        x = self.expectation.before_choice(v)
        if self.kept is not None:
            q = self.over_states(self.quality(x, self.kept), BLOCK, CHOICE)
            if self.each == 1:
                q = jnp.where(jnp.isnan(q), jnp.inf, q)
                best, at = q[..., 0], jnp.zeros((), jnp.int32)
            elif self.each <= FEW:
                best, at = max_and_argmax(q)
            else:
                q = lax.optimization_barrier(q)
                best, at = largest(q, -1), argmax(q)
            choice = self.joint(jnp.arange(self.alternatives), at)
            return best, jnp.broadcast_to(choice, best.shape)

        def of(alternative: Array) -> tuple[Array, Array]:
            first = alternative * self.parts
            if self.parts == 1:
                q = self._block_quality(x, alternative)
                return largest(q, -1), self._choice(first, argmax(q))

            def feasible(number: Array) -> NamedArray | None:
                index = self._block_index(first + number, (CHOICE,))
                return self.functions.feasibility(
                    self.functions.env | self.functions.choice_values(index)
                )

            def quality(number: Array, *, all_feasible: bool = False) -> Array:
                return self._block_quality(x, first + number, all_feasible=all_feasible)

            told_apart = feasible if self.partition is None else lambda _: None
            best, part = best_of_blocks(quality, told_apart, self.parts, self.shape)
            number = first + part
            index = self._block_index(number[..., None], (*self.states, CHOICE))
            within = argmax(self.over_states(self.quality(x, self.pairs(index)), CHOICE))
            return best, self._choice(number, within)

        best, choice = lax.map(of, jnp.arange(self.alternatives, dtype=jnp.int32))
        return jnp.moveaxis(best, 0, -1), jnp.moveaxis(choice, 0, -1)

    def at(self, policy: Mixed) -> TastePolicy:  # type: ignore[override]  # a mixed policy
        """Fix probabilities of the alternatives, and the other choices at each."""
        if self.each == 1:  # known without the policy, and so the same at every point of a batch
            choice = jnp.broadcast_to(self._alone(), (*self.shape, self.alternatives))
            policy = replace(policy, choice=choice)
        return TastePolicy(self, self.taste, policy, self.line)

    def survey(self) -> Survey:
        """Look over all pairs once; what a log-sum may lose counts with the terms of a reward."""
        found, n = super().survey(), self.alternatives
        beside = self.log_sum.spread(n) + self.log_sum.rounding(n) / self.depth
        refused = ~self.log_sum.valid
        magnitude = found.magnitude + jnp.where(refused, 0.0, beside)
        return Survey(**{**vars(found), "magnitude": magnitude, "refused": refused})

    # -- policies -------------------------------------------------------------------------------

    def undecided(self) -> Mixed:
        """Return a policy to begin with."""
        shape = (*self.shape, self.alternatives)
        return Mixed(jnp.zeros(shape, jnp.int32), jnp.zeros(shape))

    def changed(self, policy: Mixed, last: Mixed) -> Array:
        """Return the share of pairs of state and alternative at which two policies differ."""
        moved = jnp.abs(policy.probability - last.probability) > SETTLED
        if self.each > 1:
            moved |= (policy.choice != last.choice) & (policy.probability > 0.0)
        return self.reductions.mean(short_sum(moved.astype(jnp.float64)) / self.alternatives)

    def settled(self, value: Array, policy: Mixed) -> Mixed:
        """Return the policy of a value that was found: another sweep's, as value and policy go."""
        del policy
        return self.greedy(value)[1]

    def responding(self, policy: Mixed, value: Array) -> Mixed:
        """Return a policy with the probabilities at a value (states...), differentiably."""
        return Mixed(policy.choice, self.greedy(value)[1].probability)

    def labels(self, policy: Mixed) -> dict[str, Array]:  # type: ignore[override]  # likewise
        """Return the likeliest alternative (states...), and the others at each (states..., ...)."""
        names = (*self.states, BLOCK)
        index = self.functions.choice_index(NamedArray(policy.choice, names))
        likeliest = self._split(argmax(policy.probability), self.taste.choices)
        own = {name: apart(index[name].array, self.taste) for name in self.others}
        found = likeliest | own
        return {name: found[name].astype(jnp.int32) for name in self.model.choices}

    def policy_of(self, labels: Mapping[str, Array]) -> Mixed:  # type: ignore[override]  # likewise
        """Return the policy of what :meth:`labels` and :meth:`chances` say."""
        other: Array = jnp.zeros((*self.shape, self.alternatives), jnp.int64)
        for name in self.others:
            index = labels[name].reshape(other.shape)
            other = other * self.model.size_of(name) + index
        choice = self.joint(jnp.arange(self.alternatives), other)
        return Mixed(choice, labels[self.taste.name].reshape(other.shape))

    def chances(self, policy: Mixed) -> dict[str, Array]:
        """Return the alternatives' probabilities (states..., choices...)."""
        return {self.taste.name: apart(policy.probability, self.taste)}

    def likely(self, outputs: dict[str, Array], policy: Mixed) -> dict[str, Array]:
        """Return outputs (states..., choices...) by name with 0 at alternatives of no chance."""
        some = apart(policy.probability, self.taste) > 0.0
        return {name: jnp.where(some, x, 0.0) for name, x in outputs.items()}

    def chance_error(self, value: Array, error: Array) -> dict[str, Array]:
        """Bound how far the probabilities at a value (states...) are from those at the true one."""
        found = self.survey()
        scale = self.reductions.max(jnp.abs(value)) + found.magnitude
        off = found.rate * error + self.depth * EPS * scale
        bound = self.log_sum.probability_error(off, self.alternatives)
        return {ERROR: jnp.where(jnp.isnan(error), jnp.nan, bound)}
