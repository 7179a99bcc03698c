"""``dp.mdp``: a model given by arrays, dense or sparse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy, Sparse
from dpsolve.solvers.numerics.given import MOST, check_horizon, check_number
from dpsolve.solvers.numerics.tracing import is_concrete, namespace
from dpsolve.solvers.probability.probabilities import (
    REMEDY,
    ROW_SUM_TOLERANCE,
    check_distribution,
    normalised,
)


@dataclass(frozen=True, eq=False)
class TabularModel:
    """A Markov decision process given by arrays, as :func:`dpsolve.mdp` makes it.

    Attributes
    ----------
    reward : array (states, actions) or (pairs,)
        Expected reward; -inf where infeasible.
    transition : array (states, actions, states), or (pairs, states) dense or SparseRows
        Probabilities of the next state.
    discount : float or array of the shape of `reward`
        Discount factor.
    state_index, action_index : int array (pairs,) or None
        State and action of each pair, sorted by state and then action; None in product form.
    n_states, n_actions : int
        Sizes; the dimensions are named ``state`` and ``action``.
    horizon : int or None
        Number of periods.
    end : array (states,) or None
        Value of each state after the last period.
    """

    reward: AnyArray
    transition: AnyArray | SparseRows
    discount: Array | float
    state_index: Numpy | None
    action_index: Numpy | None
    n_states: int
    n_actions: int
    horizon: int | None = None
    end: AnyArray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of states, as a tuple."""
        return (self.n_states,)

    @property
    def lengths(self) -> dict[str, int]:
        """What an array can have an entry for."""
        return {"state": self.n_states, "action": self.n_actions}


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

    columns: AnyArray
    values: AnyArray
    rows: Numpy | None
    shape: tuple[int, int]

    @classmethod
    def from_scipy(cls, matrix: Sparse) -> SparseRows:
        """Convert any scipy sparse matrix or array (rows, columns)."""
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
        """Multiply by a vector (columns,); return (rows,)."""
        entries = jnp.asarray(self.values) * v[jnp.asarray(self.columns)]
        if self.rows is None:
            return entries.sum(-1)
        return jax.ops.segment_sum(
            entries, jnp.asarray(self.rows), self.shape[0], indices_are_sorted=True
        )

    def normalised(self) -> SparseRows:
        """Divide each row by its sum; what is no row of probabilities stays as it is."""
        if self.rows is None:
            return replace(self, values=normalised(np.asarray(self.values)))
        values, ends = np.asarray(self.values), np.flatnonzero(np.diff(self.rows)) + 1
        return replace(self, values=np.concatenate([normalised(x) for x in np.split(values, ends)]))

    @property
    def longest(self) -> int:
        """Entries of the longest row."""
        if self.rows is None:
            return int(self.columns.shape[1])
        return int(np.bincount(self.rows, minlength=1).max())


def mdp(
    R: ArrayLike,
    P: ArrayLike | Sparse,
    beta: ArrayLike,
    *,
    states: ArrayLike | None = None,
    actions: ArrayLike | None = None,
    horizon: int | None = None,
    terminal: ArrayLike | None = None,
) -> TabularModel:
    """Make a model from arrays.

    Parameters
    ----------
    R : array (states, actions) or (pairs,)
        Expected reward; -inf where an action is infeasible.
    P : array (states, actions, states), or (pairs, states) dense or scipy sparse
        Probabilities of the next state. Rows within 1e-9 of a distribution are divided by their sum
        (:mod:`.probabilities`), plain or traced.
    beta : float, or array (states,) or of the shape of `R`
        Discount factor, of all pairs, of each state or of each pair.
    states, actions : int array (pairs,), optional
        In pair form: the state and the action of each pair, from 0.
    horizon : int, optional
        Number of periods; the arrays are those of each of them.
    terminal : array (states,), optional
        Value of each state after the last period (default 0).

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
    if np.ndim(beta) == 0:
        check_number(beta, "mdp: beta")
    sparse = hasattr(P, "tocsr")
    if hasattr(R, "tocsr"):
        raise ModelError("mdp: R is sparse, and what is missing would be 0; give R.toarray()")
    if isinstance(P, list | tuple) and any(hasattr(p, "tocsr") for p in P):
        raise ModelError(
            f"mdp: P is a list of {len(P)} sparse matrices; a sparse P is one matrix in pair form, "
            "(pairs, states). One matrix for each action is stacked so: P=scipy.sparse.vstack(P), "
            "R=R.T.ravel(), states=np.tile(np.arange(n), m), actions=np.repeat(np.arange(m), n), "
            "with n states and m actions"
        )
    if states is None:
        if sparse:
            raise ModelError(
                "mdp: a sparse P is in pair form, (pairs, states): give states= and actions= too"
            )
        made = _product_form(R, P, beta)
    else:
        made = _pair_form(R, P, beta, states, actions, sparse)
    return replace(made, horizon=horizon, end=_end(terminal, horizon, made.n_states))


def _end(terminal: Any, horizon: Any, n: int) -> AnyArray | None:
    """Return the value after the last period as an array, and refuse a horizon that is none."""
    if horizon is not None:
        check_horizon(horizon)
    if terminal is None:
        return None
    if horizon is None:
        raise ModelError("mdp: terminal is given but horizon is not; add horizon=T")
    end = _as_array(terminal, "terminal")
    if end.shape != (n,):
        raise ModelError(
            f"mdp: terminal has shape {end.shape}; it is the value of each state, ({n},)"
        )
    return end


def _discounts(beta: Any, shape: tuple[int, ...], state: Any, n: int) -> Any:
    """Return the discount as a number, or as an array of the shape of the rewards."""
    if np.ndim(beta) == 0:
        return beta
    given = _as_array(beta, "beta")
    if given.shape == shape:
        return given
    if given.shape == (n,):
        xp = namespace(given)
        return xp.broadcast_to(given[:, None], shape) if state is None else given[state]
    raise ModelError(
        f"mdp: beta has shape {given.shape}; it is a number, one for each state, ({n},), or one "
        f"for each pair, {shape}"
    )


def _as_array(x: Any, what: str) -> AnyArray:
    try:
        if is_concrete(x) and np.asarray(x).dtype.kind in "biuf":
            return np.asarray(x, np.float64)
        if not is_concrete(x):
            return jnp.asarray(x, jnp.float64)
    except (TypeError, ValueError):
        pass
    shown = repr(x) if len(repr(x)) <= 40 else f"a {type(x).__name__}"
    raise ModelError(f"mdp: {what} is {shown}, which is no array of real numbers")


def _product_form(reward: Any, transition: Any, beta: Any) -> TabularModel:
    reward, transition = _as_array(reward, "R"), _as_array(transition, "P")
    if reward.ndim != 2:
        raise ModelError(f"mdp: R must have shape (states, actions), not {reward.shape}")
    n, m = reward.shape
    if not n * m:
        raise ModelError(f"mdp: R has shape {reward.shape}; there is at least 1 state and 1 action")
    if transition.shape != (n, m, n):
        raise ModelError(
            f"mdp: R of shape {(n, m)} needs P of shape {(n, m, n)}, not {transition.shape}"
        )
    if is_concrete(reward, transition):
        feasible = reward > -np.inf
        _check_rows(transition[feasible], np.argwhere(feasible))
    discount = _discounts(beta, (n, m), None, n)
    return TabularModel(reward, normalised(transition), discount, None, None, n, m)


def _are_numbers(x: Any) -> bool:
    try:
        return np.asarray(x).dtype.kind in "iu" and np.ndim(x) == 1
    except ValueError:  # of unequal parts
        return False


def _pair_form(
    reward: Any, transition: Any, beta: Any, states: Any, actions: Any, sparse: bool
) -> TabularModel:
    for name, x in (("states", states), ("actions", actions)):
        if not is_concrete(x) or not _are_numbers(x):
            raise ModelError(f"mdp: {name}= is a one-dimensional array of integers from 0")
    state, action = np.asarray(states, np.int64), np.asarray(actions, np.int64)
    reward = _as_array(reward, "R")
    transition = transition.tocsr() if sparse else _as_array(transition, "P")
    if transition.ndim != 2:
        raise ModelError(f"mdp: P must have shape (pairs, states), not {transition.shape}")
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
    if max(n, m) > MOST:
        raise ModelError(
            f"mdp: {n:,} states and actions up to {m - 1:,}, and numbers are counted to {MOST:,}: "
            "number them from 0 without gaps"
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
    discount = _discounts(beta, (pairs,), np.asarray(states, np.int64), n)
    discount = discount[order] if np.ndim(discount) else discount
    reward, transition = reward[order], transition[order]
    if is_concrete(reward):
        use = np.flatnonzero(np.asarray(reward) > -np.inf)
        if sparse or is_concrete(transition):
            _check_rows(transition[use], np.stack([state[use], action[use]], 1))
    rows = SparseRows.from_scipy(transition).normalised() if sparse else normalised(transition)
    return TabularModel(reward, rows, discount, state, action, n, m)


def _check_rows(rows: Any, pairs: Any) -> None:
    """Check the rows of feasible pairs, and name the worst by state and action."""
    dense_entries = rows.data if hasattr(rows, "tocsr") else np.asarray(rows)
    sums = np.asarray(rows.sum(-1)).ravel()
    try:
        check_distribution(sums[:, None], "P")
        if (dense_entries < -ROW_SUM_TOLERANCE).any():
            raise ModelError(f"mdp: P has a negative entry, {dense_entries.min():g}")
    except ModelError as error:
        if "sums" not in str(error):
            raise
        worst = int(np.argmax(np.abs(sums - 1.0)))
        i, a = pairs[worst]
        raise ModelError(
            f"mdp: the row of P for state {i}, action {a} sums to {sums[worst]:.12g}, not to 1; "
            f"probabilities that leak would shift the solution by more than any tolerance: {REMEDY}"
        ) from None
