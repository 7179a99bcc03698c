r"""A policy under taste shocks: alternatives by their chances, and the best of the rest at each.

With probabilities :math:`P_j(s)` held fixed, the value of the policy solves
:math:`v = H(P) + \sum_j P_j (r_j + \beta E_j v)`, with the entropy :math:`H` of
:mod:`dpsolve.solvers.logit.log_sum`: the tangent of the Bellman operator where the probabilities
are its derivative. Rewards where an alternative has no chance are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.logit.log_sum import log_sum_of
from dpsolve.solvers.logit.taste_shocks import TasteShocks
from dpsolve.solvers.numerics.krylov import Inverse, bicgstab, nearer
from dpsolve.solvers.operators.bellman import GridOperator, GridPolicy
from dpsolve.solvers.operators.interpolation import SLACK
from dpsolve.solvers.operators.model_functions import BLOCK, PairTable
from dpsolve.solvers.operators.named_arrays import NamedArray, aligned, multiply, total, where

from .banded import Moves, moves, solve_along


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixed:
    """A policy under taste shocks.

    Attributes
    ----------
    choice : int32 array (states..., alternatives)
        The joint choice at each alternative, flattened.
    probability : array (states..., alternatives)
    """

    choice: Array
    probability: Array


def _nothing() -> NamedArray:  # not a constant: an array made by an import would start a device
    return NamedArray(jnp.zeros(()))


def apart(x: Array, taste: TasteShocks) -> Array:
    """Give each shocked choice its axis: (states..., alternatives) to (states..., choices...)."""
    return x.reshape(*x.shape[:-1], *taste.shape)


@dataclass(frozen=True)
class MovingState:
    """A long state, along which a policy's system is solved.

    Attributes
    ----------
    shape : tuple of int
        Of the states.
    axis : int
        The long state's.
    """

    shape: tuple[int, ...]
    axis: int

    def along(self, x: Array) -> Array:
        """Move the long state to the front: (states..., ...) to (n, others, ...)."""
        n = self.shape[self.axis]
        return jnp.moveaxis(x, self.axis, 0).reshape(n, -1, *x.shape[len(self.shape) :])

    def back(self, x: Array) -> Array:
        """Move it to its place again: (n, others) to (states...)."""
        axis, shape = self.axis, self.shape
        return jnp.moveaxis(x.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :]), 0, axis)


@dataclass(frozen=True)
class Walk(MovingState):
    """A long state, and how the alternatives move it while the other states stay where they are."""

    moves: Moves

    @classmethod
    def of(cls, operator: GridOperator, axis: int, alternatives: int, pairs: PairTable) -> Walk:
        """Find how the pairs of states and alternatives move a state."""
        line = MovingState(operator.shape, axis)
        n, dims = operator.shape[axis], (*operator.states, BLOCK)

        def expected(f: Array) -> Array:
            whole = line.back(jnp.broadcast_to(f[:, None], (n, prod(line.shape) // n)))
            found = aligned(operator.expectation(whole, pairs), dims)
            return line.along(jnp.broadcast_to(found, (*line.shape, alternatives)))

        return cls(line.shape, axis, moves(expected, n))


class TastePolicy(GridPolicy):
    """The operator of a mixed policy; `line` is how alternatives move a state, where known."""

    def __init__(
        self,
        operator: GridOperator,
        taste: TasteShocks,
        policy: Mixed,
        line: Walk | None = None,
    ) -> None:
        self.operator, self.taste, self._line = operator, taste, line
        self.reductions, self.partition = operator.reductions, operator.partition
        self.on_grid = False  # where a pair leads is a lottery
        self.line = operator.walking
        dims: tuple[str, ...] = (*operator.states, BLOCK)
        choice, names = policy.choice, dims
        if operator.model.feasible is not None:
            # What is not feasible is never evaluated: the likeliest takes its place.
            likeliest = jnp.argmax(policy.probability, -1, keepdims=True)
            instead = jnp.take_along_axis(choice, likeliest, -1)
            choice = jnp.where(policy.probability > 0.0, choice, instead)
        elif operator.n_choices == taste.alternatives:  # the same everywhere
            choice, names = choice.reshape(-1, taste.alternatives)[0], (BLOCK,)
        index = NamedArray(choice, names)
        self.probability = NamedArray(policy.probability, dims)
        self.lottery = {BLOCK: self.probability}
        self.pairs = operator.pairs(index)
        assert self.pairs.raw_reward is not None
        self.env = {**operator.functions.env, **operator.functions.choice_values(index)}
        entropy = log_sum_of(taste).entropy(policy.probability)
        self.reward = self._averaged(self.pairs.raw_reward) + entropy
        self.discount = self._averaged(self.pairs.discount)
        if operator.constant_discount:
            self.discount = operator.over_states(self.pairs.discount)

    def _averaged(self, x: NamedArray) -> Array:
        """Average over alternatives (states...), those that have a chance."""
        some = where(self.probability.map(lambda p: p > 0.0), x, _nothing())
        return self.operator.over_states(total(multiply(some, self.probability), (BLOCK,)))

    def expect(self, f: Array) -> Array:
        """Return the expectation (states...) of a function (states...) of next period's state."""
        return self._averaged(self.operator.expectation(f, self.pairs))

    def apply(self, v: Array) -> Array:
        """Return the discounted expectation (states...)."""
        if self.operator.constant_discount:
            return self.discount * self.expect(v)
        return self._averaged(
            multiply(self.pairs.discount, self.operator.expectation(v, self.pairs))
        )

    @property
    def proper(self) -> Array:
        """Whether every weight that a next state is interpolated with lies in [0, 1]."""
        found = jnp.asarray(True)
        operator, pairs = self.operator, self.pairs
        likely = self.probability.map(lambda p: p > 0.0)
        for at in (operator.expectation.early_locations | pairs.locations).values():
            if at.weight is not None:
                beyond = at.weight.map(lambda w: 1.0 * ~((w >= -SLACK) & (w <= 1.0 + SLACK)))
                if set(beyond.dims) & set(pairs.posts):
                    beyond = operator.functions.reached(beyond, pairs)
                found &= ~(where(likely, beyond, _nothing()).array > 0.0).any()
        return found

    @property
    def line_of_walks(self) -> Walk | None:
        """How the alternatives move a long state, if there is one that may walk step by step."""
        if self._line is not None or self.line is None:
            return self._line
        return Walk.of(self.operator, self.line, self.taste.alternatives, self.pairs)

    def evaluate(self, start: Array, tol: Array, max_iter: Array) -> tuple[Array, Array]:
        """Approach the policy's value from `start`, to a residual of `tol`."""
        solve, _ = self.preconditioners()
        if solve is None:
            return super().evaluate(start, tol, max_iter)
        over = self.reductions
        wanted, known = max_iter > 0, (self.apply, self.reward)
        near, left = nearer(*known, start, solve, over)
        near = jnp.where(wanted, near, start)
        value, k = bicgstab(*known, near, tol, max_iter, over, precondition=solve, residual=left)
        return value, (k >= max_iter) & (max_iter > 0)

    def preconditioners(self) -> tuple[Inverse, Inverse]:
        """Return approximate inverses of ``x - L x`` (states...) and of its transpose.

        Alternatives that move a long state by a few steps, or let it leap to one place, are solved
        for directly (:mod:`.banded`); the rest is left to a Krylov iteration or two.
        """
        line = self.line_of_walks
        if line is None or not self.operator.constant_discount:
            return super().preconditioners()
        weight = line.along(self.discount[..., None] * self.probability.array)

        def solve(r: Array, transposed: bool) -> Array:
            return line.back(solve_along(line.moves, weight, line.along(r), transposed))

        return partial(solve, transposed=False), partial(solve, transposed=True)

    def outputs(self) -> dict[str, Array]:
        """Evaluate the model's outputs (states..., choices...) at each alternative, by name.

        NaN where an alternative is not feasible.
        """
        operator, arrays = self.operator, {}
        for name, f in operator.model.outputs.items():
            what = f"output '{name}'"
            x = operator.functions.average(
                (f,), self.env, self.pairs.probabilities, what, self.pairs.posts
            )
            if operator.model.feasible is not None:
                likely = self.probability.map(lambda p: p > 0.0)
                x = where(likely, x, NamedArray(jnp.asarray(jnp.nan)))
            arrays[name] = apart(self.over_alternatives(x), self.taste)
        return arrays

    def over_alternatives(self, x: NamedArray) -> Array:
        """Return an array (states..., alternatives)."""
        full = aligned(x, (*self.operator.states, BLOCK))
        return jnp.broadcast_to(full, (*self.operator.shape, self.taste.alternatives))
