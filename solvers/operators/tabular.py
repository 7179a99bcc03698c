"""Bellman operator of ``dp.mdp`` arrays, and of one policy.

In pair form, each row of `R` and `P` is one feasible state-action pair. The rows are sorted by
state and then action, and each state's rows are looked at together through an index of shape
(states, most actions of any state), padded. Sparse rows are stored by their columns, padded to the
longest row when that costs little, else as sorted coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.mdp import SparseRows, TabularModel
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.numerics.tridiagonal import LEAST

from .base import OWN_DEPTH, BellmanOperator, PolicyOperator, Survey
from .maximum import max_and_argmax


class TabularOperator(BellmanOperator):
    """The Bellman operator of a :class:`TabularModel`; a policy holds positions of actions.

    Parameters
    ----------
    model : TabularModel
        At one parameter point; its arrays may be traced.
    partition : Partition, optional
        Of the states, of which this device has a part; then it has their rows.
    """

    def __init__(self, model: TabularModel, partition: Partition | None = None) -> None:
        self.model = model
        self.partition = partition
        self.shape = model.shape
        self.discount = jnp.asarray(model.discount, jnp.float64)
        self.constant_discount = self.discount.ndim == 0
        # The barriers keep XLA from evaluating at compile time what depends on arrays alone.
        self.transition: Matrix
        self.reward: Array = lax.optimization_barrier(jnp.asarray(model.reward))
        p = model.transition
        if isinstance(p, SparseRows):
            self.transition = replace(p, values=lax.optimization_barrier(jnp.asarray(p.values)))
        else:
            self.transition = lax.optimization_barrier(jnp.asarray(p))
        longest = p.longest if isinstance(p, SparseRows) else model.n_states
        self.depth = OWN_DEPTH + ceil(longest / 2 + 1)
        self.pair: Array | None = None
        if model.state_index is not None:
            self.pair, self.padding = _pairs_by_state(model.state_index, model.n_states)
        self.pair_number = self.pair
        if partition is not None:
            self._take_part(partition)

    @property
    def shift(self) -> Array | None:
        """The discount, where that is one number: rows sum to one."""
        return self.discount if self.constant_discount else None

    def _take_part(self, partition: Partition) -> None:
        """Keep the rows of this device's states."""
        self.shape = (partition.width,)
        self.reductions = partition.reductions
        own = partition.index()
        rows = own
        if self.pair is not None:
            self.pair_number, self.padding = self.pair[own], self.padding[own]
            rows = self.pair_number.ravel()
            self.pair = jnp.arange(rows.size).reshape(self.pair_number.shape)
        self.reward = self.reward[rows]
        if not self.constant_discount:
            self.discount = self.discount[rows]
        self.transition = _rows_of(self.transition, rows)

    def _by_state(self, x: Array) -> Array:
        """Arrange a quantity of pairs as (states, positions), -inf in the padding."""
        if self.pair is None:
            return x
        return jnp.where(self.padding, -jnp.inf, x[self.pair])

    def _future(self, v: Array) -> Array:
        return self.discount * (self.transition @ self._whole(v))

    def _extreme_discount(self, sign: float) -> Array:
        """Return the greatest discount of a feasible pair, times `sign`; NaN counts as infinite."""
        if self.constant_discount:
            return sign * self.discount
        beta = sign * self.discount
        beta = jnp.where(jnp.isnan(beta), jnp.inf, beta)
        return jnp.max(jnp.where(self.reward > -jnp.inf, beta, -jnp.inf), initial=-jnp.inf)

    def _whole(self, v: Array) -> Array:
        return v if self.partition is None else self.partition.gather(v, 0)

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return ``Tv`` (states,) and the first maximising policy (states,)."""
        # What an infeasible action leads to is never looked at, so it may hold anything.
        q = jnp.where(self.reward == -jnp.inf, -jnp.inf, self.reward + self._future(v))
        q = self._by_state(q)
        return max_and_argmax(q)

    def growth(self, w: Array) -> Array:
        """Return the sweep without rewards (states,)."""
        q = jnp.where(self.reward == -jnp.inf, -jnp.inf, self._future(w))
        return largest(self._by_state(q), -1)

    def at(self, policy: Array) -> TabularPolicy:
        """Fix a policy (states,): positions among each state's actions."""
        return TabularPolicy(self, policy)

    def labels(self, policy: Array) -> dict[str, Array]:
        """Translate positions (states,) to actions (states,)."""
        if self.pair_number is None:
            return {"action": policy}
        pair = jnp.take_along_axis(self.pair_number, policy[:, None], 1)[:, 0]
        return {"action": jnp.asarray(self.model.action_index, jnp.int32)[pair]}

    def policy_of(self, labels: Mapping[str, Array]) -> Array:
        """Translate actions (states,) to positions (states,)."""
        if self.pair_number is None:
            return labels["action"]
        actions = jnp.asarray(self.model.action_index, jnp.int32)[self.pair_number]
        match = (actions == labels["action"][:, None]) & ~self.padding
        return jnp.argmax(match, -1).astype(jnp.int32)

    def survey(self) -> Survey:
        """Look over all feasible pairs once."""
        feasible = self.reward > -jnp.inf
        sums = self.transition @ jnp.ones(self.model.n_states)
        if isinstance(self.transition, SparseRows | PickedRows):
            entries = jnp.asarray(self.transition.values)
        else:
            entries = jnp.where(feasible[..., None], self.transition, 0.0)
        top = self._by_state(jnp.where(feasible, 1.0, -jnp.inf)).max(-1)
        one = jnp.ones(())

        def strict(x: Array) -> Array:
            return jnp.where(jnp.isnan(x), jnp.inf, x)

        found = Survey(
            feasible=(top > 0) | jnp.isnan(self._by_state(self.reward)).any(-1),
            finite=~(jnp.isnan(self.reward) | (self.reward == jnp.inf)).any(),
            increasing=jnp.asarray(True),
            gap=jnp.zeros(()),
            row_low=-jnp.max(jnp.where(feasible, strict(-sums), -jnp.inf), initial=-jnp.inf),
            row_high=jnp.max(jnp.where(feasible, strict(sums), -jnp.inf), initial=-jnp.inf),
            least=-jnp.max(strict(-entries), initial=0.0),
            discount_low=-self._extreme_discount(-1.0),
            discount_high=self._extreme_discount(1.0),
            spread=one,
        )
        return found if self.partition is None else found.over(self.reductions)


def _pairs_by_state(state: Numpy, n: int) -> tuple[Array, Array]:
    """Return each state's pairs (states, most) and where that is padding."""
    counts = np.bincount(state, minlength=n)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    position = np.arange(counts.max())
    padding = position[None, :] >= counts[:, None]
    pair = np.where(padding, 0, first[:, None] + position[None, :])
    return jnp.asarray(pair), jnp.asarray(padding)


class TabularPolicy(PolicyOperator):
    """One policy's rows of the arrays: reward (states,) and probabilities (states, states)."""

    def __init__(self, operator: TabularOperator, policy: Array) -> None:
        self.operator = operator
        self.reductions, self.partition = operator.reductions, operator.partition
        self.line = 0 if operator.partition is None and operator.shape[0] >= LEAST else None
        self.action = operator.labels(policy)["action"]
        own = jnp.arange(operator.shape[0])
        at = (own, policy) if operator.pair is None else (operator.pair[own, policy],)
        self.reward = operator.reward[at]
        self.discount = operator.discount if operator.constant_discount else operator.discount[at]
        p = operator.transition
        self.rows: Matrix = p[at] if isinstance(p, Array) else _rows_of(p, at[0])

    def expect(self, f: Array) -> Array:
        """Return the expectation (states,) of a function (states,) of next period's state."""
        return self.rows @ self.operator._whole(f)


def _rows_of(matrix: Matrix, rows: Array) -> Matrix:
    """Pick rows of a matrix, whatever its form."""
    if isinstance(matrix, PickedRows):
        return PickedRows(matrix.matrix, matrix.rows[rows])
    if not isinstance(matrix, SparseRows):
        return matrix[rows]
    if matrix.rows is not None:
        return PickedRows(matrix, rows)
    columns, values = jnp.asarray(matrix.columns)[rows], jnp.asarray(matrix.values)[rows]
    return SparseRows(columns, values, None, (len(rows), matrix.shape[1]))


@dataclass(frozen=True)
class PickedRows:
    """Some rows of coordinates, which cannot be picked in static shapes: all are multiplied.

    Attributes
    ----------
    matrix : SparseRows
        All rows, as sorted coordinates.
    rows : int array (picked,)
        Which ones.
    """

    matrix: SparseRows
    rows: Array

    def __matmul__(self, v: Array) -> Array:
        return (self.matrix @ v)[self.rows]

    @property
    def values(self) -> Array:
        """The entries (nonzeros,), those of other rows included."""
        return jnp.asarray(self.matrix.values)


Matrix = Array | SparseRows | PickedRows
