"""Markov decision processes given by arrays: ``dp.mdp``, and their Bellman operator.

In pair form, each row of `R` and `P` is one feasible state-action pair. The rows are sorted by
state and then action, and each state's rows are looked at together through an index of shape
(states, most actions of any state), padded. Sparse rows are stored by their columns, padded to the
longest row when that costs little, else as sorted coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.grids import check_distribution
from dpsolve.solvers.model.model import TabularModel
from dpsolve.solvers.numerics.partition import Cut
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.numerics.tridiagonal import LEAST

from .base import BellmanOperator, PolicyOperator, Survey
from .maximum import max_and_argmax

Array = Any
PADDING = 4  # store padded rows while they take at most this many times the non-zeros


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse matrix by rows, for products with a vector and for picking rows.

    Attributes
    ----------
    columns : int array (rows, longest) or (nonzeros,)
        Column of each entry.
    values : array of the same shape
        The entries; 0 in the padding.
    rows : int array (nonzeros,) or None
        Row of each entry, sorted; None when rows are padded.
    shape : (int, int)
        Of the matrix.
    """

    columns: Any
    values: Any
    rows: Any
    shape: tuple[int, int]

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseRows:
        """Convert any scipy sparse matrix or array."""
        csr = matrix.tocsr()
        csr.sum_duplicates()
        counts = np.diff(csr.indptr)
        longest = max(1, int(counts.max(initial=0)))
        n = csr.shape[0]
        rows = np.repeat(np.arange(n), counts)
        if n * longest > PADDING * max(csr.nnz, 1):
            return cls(csr.indices.astype(np.int32), csr.data.astype(np.float64), rows, csr.shape)
        columns = np.zeros((n, longest), np.int32)
        values = np.zeros((n, longest))
        place = np.arange(csr.nnz) - np.repeat(csr.indptr[:-1], counts)
        columns[rows, place] = csr.indices
        values[rows, place] = csr.data
        return cls(columns, values, None, csr.shape)

    def __matmul__(self, v: Array) -> Array:
        """Multiply by a vector (columns,)."""
        entries = jnp.asarray(self.values) * v[jnp.asarray(self.columns)]
        if self.rows is None:
            return entries.sum(-1)
        return jax.ops.segment_sum(
            entries, jnp.asarray(self.rows), self.shape[0], indices_are_sorted=True
        )

    @property
    def longest(self) -> int:
        """Entries of the longest row."""
        if self.rows is None:
            return int(self.columns.shape[1])
        return int(np.bincount(self.rows, minlength=1).max())


def mdp(
    R: Any,
    P: Any,
    beta: Any,
    *,
    states: Any = None,
    actions: Any = None,
) -> TabularModel:
    """Make a model from arrays.

    Parameters
    ----------
    R : array (states, actions) or (pairs,)
        Expected reward; -inf where an action is infeasible.
    P : array (states, actions, states), or (pairs, states) dense or scipy sparse
        Probabilities of the next state.
    beta : float
        Discount factor.
    states, actions : int array (pairs,), optional
        In pair form: the state and the action of each pair, from 0.

    Returns
    -------
    TabularModel
        The result's dimension is ``state``, the choice is ``action``.

    Raises
    ------
    ModelError
        If shapes disagree, a pair stands twice, a state has no pair, or (where they are plain
        numbers) a row of probabilities of a feasible pair does not sum to one.
    """
    if (states is None) != (actions is None):
        raise ModelError("mdp: give both states= and actions= (pair form), or neither")
    if np.ndim(beta) != 0:
        raise ModelError(f"mdp: beta is one number, but its shape is {np.shape(beta)}")
    sparse = hasattr(P, "tocsr")
    if states is None:
        if sparse:
            raise ModelError(
                "mdp: a sparse P is in pair form, (pairs, states): give states= and actions= too"
            )
        return _product_form(R, P, beta)
    return _pair_form(R, P, beta, states, actions, sparse)


def _as_array(x: Any) -> Any:
    return np.asarray(x, np.float64) if is_concrete(x) else jnp.asarray(x, jnp.float64)


def _product_form(reward: Any, transition: Any, beta: Any) -> TabularModel:
    reward, transition = _as_array(reward), _as_array(transition)
    if reward.ndim != 2:
        raise ModelError(f"mdp: R must have shape (states, actions), not {reward.shape}")
    n, m = reward.shape
    if transition.shape != (n, m, n):
        raise ModelError(
            f"mdp: R of shape {(n, m)} needs P of shape {(n, m, n)}, not {transition.shape}"
        )
    if is_concrete(reward, transition):
        feasible = reward > -np.inf
        _check_rows(transition[feasible], np.argwhere(feasible))
    return TabularModel(reward, transition, beta, None, None, n, m)


def _pair_form(
    reward: Any, transition: Any, beta: Any, states: Any, actions: Any, sparse: bool
) -> TabularModel:
    for name, x in (("states", states), ("actions", actions)):
        if not is_concrete(x) or np.asarray(x).dtype.kind not in "iu" or np.ndim(x) != 1:
            raise ModelError(f"mdp: {name}= is a one-dimensional array of integers from 0")
    state, action = np.asarray(states), np.asarray(actions)
    reward = _as_array(reward)
    transition = transition.tocsr() if sparse else _as_array(transition)
    pairs = len(state)
    if reward.shape != (pairs,) or action.shape != (pairs,) or transition.shape[0] != pairs:
        raise ModelError(
            f"mdp: states= names {pairs} pairs, but actions= has {len(action)}, R has shape "
            f"{reward.shape} and P {transition.shape}"
        )
    n, m = int(transition.shape[1]), int(action.max(initial=0)) + 1
    if pairs == 0 or state.min() < 0 or action.min() < 0 or state.max() >= n:
        raise ModelError(
            f"mdp: states= must lie in 0..{n - 1} (P has {n} columns) and actions= at 0 or above"
        )
    order = np.lexsort((action, state))
    state, action = state[order], action[order]
    twice = np.flatnonzero((np.diff(state) == 0) & (np.diff(action) == 0))
    if twice.size:
        raise ModelError(
            f"mdp: the pair (state {state[twice[0]]}, action {action[twice[0]]}) stands twice"
        )
    missing = np.setdiff1d(np.arange(n), state)
    if missing.size:
        raise ModelError(f"mdp: state {missing[0]} has no pair, so no feasible action")
    reward, transition = reward[order], transition[order]
    if is_concrete(reward):
        use = np.flatnonzero(np.asarray(reward) > -np.inf)
        if sparse or is_concrete(transition):
            _check_rows(transition[use], np.stack([state[use], action[use]], 1))
    rows = SparseRows.from_scipy(transition) if sparse else transition
    return TabularModel(reward, rows, beta, state, action, n, m)


def _check_rows(rows: Any, pairs: Any) -> None:
    """Check the rows of feasible pairs, and name the worst by state and action."""
    dense_entries = rows.data if hasattr(rows, "tocsr") else np.asarray(rows)
    sums = np.asarray(rows.sum(-1)).ravel()
    try:
        check_distribution(sums[:, None], "P")
        if (dense_entries < 0).any():
            raise ModelError(f"mdp: P has a negative entry, {dense_entries.min():g}")
    except ModelError as error:
        if "sums" not in str(error):
            raise
        worst = int(np.argmax(np.abs(sums - 1.0)))
        i, a = pairs[worst]
        raise ModelError(
            f"mdp: the row of P for state {i}, action {a} sums to {sums[worst]:.12g}, not to 1; "
            "probabilities that leak would shift the solution by more than any tolerance"
        ) from None


class Tabular(BellmanOperator):
    """The Bellman operator of a :class:`TabularModel`; a policy holds positions of actions.

    Parameters
    ----------
    model : TabularModel
        At one parameter point; its arrays may be traced.
    cut : Cut, optional
        Of the states, of which this device has a part; then it has their rows.
    """

    constant_discount = True

    def __init__(self, model: TabularModel, cut: Cut | None = None) -> None:
        self.model = model
        self.cut = cut
        self.shape = model.shape
        self.discount = jnp.asarray(model.discount, jnp.float64)
        # The barriers keep XLA from evaluating at compile time what depends on arrays alone.
        self.transition: Any
        self.reward = lax.optimization_barrier(jnp.asarray(model.reward))
        p = model.transition
        if isinstance(p, SparseRows):
            self.transition = replace(p, values=lax.optimization_barrier(jnp.asarray(p.values)))
        else:
            self.transition = lax.optimization_barrier(jnp.asarray(p))
        self.depth = 8 + (p.longest if isinstance(p, SparseRows) else model.n_states)
        self.pair: Any = None
        if model.state_index is not None:
            self.pair, self.padding = _pairs_by_state(model.state_index, model.n_states)
        self.pair_number = self.pair
        if cut is not None:
            self._take_part(cut)

    def _take_part(self, cut: Cut) -> None:
        """Keep the rows of this device's states."""
        self.shape = (cut.width,)
        self.everywhere = cut.everywhere
        own = cut.index()
        rows = own
        if self.pair is not None:
            self.pair_number, self.padding = self.pair[own], self.padding[own]
            rows = self.pair_number.ravel()
            self.pair = jnp.arange(rows.size).reshape(self.pair_number.shape)
        self.reward = self.reward[rows]
        self.transition = _rows_of(self.transition, rows)

    def _by_state(self, x: Array) -> Array:
        """Arrange a quantity of pairs as (states, positions), -inf in the padding."""
        if self.pair is None:
            return x
        return jnp.where(self.padding, -jnp.inf, x[self.pair])

    def _future(self, v: Array) -> Array:
        return self.discount * (self.transition @ self._whole(v))

    def _whole(self, v: Array) -> Array:
        return v if self.cut is None else self.cut.gather(v, 0)

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return ``Tv`` and the first maximising policy."""
        # What an infeasible action leads to is never looked at, so it may hold anything.
        q = jnp.where(self.reward == -jnp.inf, -jnp.inf, self.reward + self._future(v))
        q = self._by_state(q)
        return max_and_argmax(q)

    def growth(self, w: Array) -> Array:
        """Return the sweep without rewards."""
        q = jnp.where(self.reward == -jnp.inf, -jnp.inf, self._future(w))
        return jnp.max(self._by_state(q), -1)

    def at(self, policy: Array) -> TabularPolicy:
        """Fix a policy."""
        return TabularPolicy(self, policy)

    def labels(self, policy: Array) -> dict[str, Array]:
        """Translate positions to actions."""
        if self.pair is None:
            return {"action": policy}
        pair = jnp.take_along_axis(self.pair_number, policy[:, None], 1)[:, 0]
        return {"action": jnp.asarray(self.model.action_index, jnp.int32)[pair]}

    def policy_of(self, labels: Mapping[str, Array]) -> Array:
        """Translate actions to positions."""
        if self.pair is None:
            return labels["action"]
        actions = jnp.asarray(self.model.action_index, jnp.int32)[self.pair_number]
        match = (actions == labels["action"][:, None]) & ~self.padding
        return jnp.argmax(match, -1).astype(jnp.int32)

    def survey(self) -> Survey:
        """Look over all feasible pairs once."""
        feasible = self.reward > -jnp.inf
        sums = self.transition @ jnp.ones(self.model.n_states)
        sparse = isinstance(self.transition, SparseRows | _Picked)
        entries = jnp.asarray(self.transition.values) if sparse else self.transition
        if not sparse:
            entries = jnp.where(feasible[..., None], entries, 0.0)
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
            discount_low=self.discount,
            discount_high=self.discount,
            spread=one,
        )
        return found if self.cut is None else found.over(self.everywhere)


def _pairs_by_state(state: np.ndarray[Any, Any], n: int) -> tuple[Array, Array]:
    """Return each state's pairs (states, most) and where that is padding."""
    counts = np.bincount(state, minlength=n)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    position = np.arange(counts.max())
    padding = position[None, :] >= counts[:, None]
    pair = np.where(padding, 0, first[:, None] + position[None, :])
    return jnp.asarray(pair), jnp.asarray(padding)


class TabularPolicy(PolicyOperator):
    """One policy's rows of the arrays."""

    def __init__(self, operator: Tabular, policy: Array) -> None:
        self.operator = operator
        self.everywhere, self.cut = operator.everywhere, operator.cut
        self.discount = operator.discount
        self.proper = jnp.asarray(True)
        self.line = 0 if operator.cut is None and operator.shape[0] >= LEAST else None
        self.action = operator.labels(policy)["action"]
        own = jnp.arange(operator.shape[0])
        at = (own, policy) if operator.pair is None else (operator.pair[own, policy],)
        self.reward = operator.reward[at]
        p = operator.transition
        self.rows: Any = _rows_of(p, at[0]) if len(at) == 1 else p[at]

    def expect(self, f: Array) -> Array:
        """Return the expectation of a function of next period's state."""
        return self.rows @ self.operator._whole(f)


def _rows_of(matrix: Any, rows: Array) -> Any:
    """Pick rows of a matrix, whatever its form."""
    if isinstance(matrix, _Picked):
        return _Picked(matrix.matrix, matrix.rows[rows])
    if not isinstance(matrix, SparseRows):
        return matrix[rows]
    if matrix.rows is not None:
        return _Picked(matrix, rows)
    columns, values = jnp.asarray(matrix.columns)[rows], jnp.asarray(matrix.values)[rows]
    return SparseRows(columns, values, None, (len(rows), matrix.shape[1]))


@dataclass(frozen=True)
class _Picked:
    """Some rows of coordinates, which cannot be picked in static shapes: all are multiplied."""

    matrix: SparseRows
    rows: Array

    def __matmul__(self, v: Array) -> Array:
        return (self.matrix @ v)[self.rows]

    @property
    def values(self) -> Array:
        """The entries, those of other rows included."""
        return self.matrix.values
