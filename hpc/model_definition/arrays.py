"""A model made of arrays, read in NumPy: expected rewards and probabilities, pair by pair.

Rows of probabilities, of any model, are checked and divided by their sums here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.mdp import TabularModel

from .bellman import WIDE, Array, Definition, Index, PairValues

TOLERANCE = 1e-9  # how far a row may miss one, or a probability zero


def define_arrays(model: TabularModel) -> Definition:
    """Return the definition of a model of arrays."""
    return _Arrays.of(model)


@dataclass(frozen=True)
class _Arrays(Definition):
    """A :class:`TabularModel`: expected rewards and probabilities, pair by pair."""

    keys: Index  # the flat number s*m + c of each pair, increasing
    reward: Array
    discount: Array
    rows: csr_array | Array  # (pairs, n)
    shape: tuple[int, ...]
    choice_shape: tuple[int, ...]
    depth: int
    constant: float | None
    horizon: int | None
    end: Array
    width: int = 1
    units: int = 2  # the solver's rows are rounded after they were divided by their sums

    @classmethod
    def of(cls, model: TabularModel) -> _Arrays:
        n, m = model.n_states, model.n_actions
        if model.state_index is None or model.action_index is None:
            keys = np.arange(n * m)
        else:
            keys = np.asarray(model.state_index, np.int64) * m + np.asarray(model.action_index)
        reward = np.asarray(model.reward, dtype=np.float64)
        discount = np.broadcast_to(np.asarray(model.discount, dtype=np.float64), reward.shape)
        order = np.argsort(keys, kind="stable")
        made = cls(
            keys[order],
            reward.reshape(-1)[order],
            discount.reshape(-1)[order],
            _rows(model.transition, n)[order],
            (n,),
            (m,),
            n,
            None if np.ndim(model.discount) else float(model.discount),
            model.horizon,
            np.zeros(n) if model.end is None else np.asarray(model.end, dtype=np.float64),
        )
        made._check()
        return replace(made, rows=_divided(made.rows))

    def look(self, s: Index, c: Index, t: int | None = None) -> PairValues:
        key = s * self.m + c
        pair = np.minimum(np.searchsorted(self.keys, key), self.keys.size - 1)
        feasible = (self.keys[pair] == key) & (self.reward[pair] > -np.inf)

        def expect(flat: Array, absolute: bool) -> Array:
            return flat[pair]  # `absolute` changes nothing: rows are positive

        def push(masses: Array) -> Array:
            return np.asarray(np.bincount(pair, masses, self.keys.size), dtype=np.float64)

        return PairValues(
            np.where(feasible, self.reward[pair], 0.0),
            np.where(feasible, self.discount[pair], 0.0),
            feasible,
            np.ones(s.size),
            np.zeros(s.size),
            not (self.discount[self.reward > -np.inf] < 0).any(),  # rows were checked
            expect,
            push,
        )

    def ahead(self, value: Array, t: int | None = None) -> Array:
        return np.asarray(self.rows @ value.reshape(-1).astype(WIDE))

    def behind(self, pushed: Array, t: int | None = None) -> Array:
        return np.asarray(self.rows.T @ pushed, np.float64)

    def draws(self, s: Index, c: Index) -> tuple[dict[str, Array], Array]:
        values = {"state": s, "action": c}
        return {n: x[:, None].astype(np.float64) for n, x in values.items()}, np.ones((s.size, 1))

    def terminal(self) -> Array:
        return self.end

    def outputs(self, s: Index, c: Index, t: int | None = None) -> dict[str, Array]:
        return {}

    def _check(self) -> None:
        rows = self.rows[self.reward > -np.inf]  # others may hold anything
        keys = self.keys[self.reward > -np.inf]
        total = np.asarray(rows.sum(1)).reshape(-1)
        entries = rows if isinstance(rows, np.ndarray) else rows.data
        worst = int(np.argmax(np.where(np.isnan(total), np.inf, np.abs(total - 1.0))))
        least = entries.min(initial=0.0)
        if not abs(total[worst] - 1.0) <= TOLERANCE or not least >= -TOLERANCE:
            s, c = divmod(int(keys[worst]), self.m)
            raise ModelError(
                f"the probabilities of state={s}, action={c} sum to {total[worst]:.12g} (smallest "
                f"entry of all rows: {least:.3g}); they must be positive and sum to 1"
            )


def _divided(rows: csr_array | Array) -> csr_array | Array:
    """Divide the rows of feasible pairs by their sums; the others are never asked for."""
    if isinstance(rows, np.ndarray):
        cut = np.maximum(rows, 0.0).astype(WIDE)
        total = cut.sum(1, keepdims=True)
        return np.asarray(cut / np.where(total > 0, total, 1.0))
    data = np.maximum(rows.data, 0.0).astype(WIDE)
    wide = csr_array((data, rows.indices, rows.indptr), shape=rows.shape)
    total = np.asarray(wide.sum(1)).reshape(-1)
    each = np.repeat(np.where(total > 0, total, 1.0), np.diff(rows.indptr))
    return csr_array((data / each, rows.indices, rows.indptr), shape=rows.shape)


def _rows(transition: Any, n: int) -> csr_array | Array:
    """Return the transition as (pairs, n), sparse if it is kept by the columns of its entries."""
    if not hasattr(transition, "columns"):
        return np.asarray(transition, dtype=np.float64).reshape(-1, n)
    columns, values = np.asarray(transition.columns), np.asarray(transition.values, np.float64)
    row = transition.rows
    if row is None:  # rows padded to equal length
        row = np.repeat(np.arange(columns.shape[0]), columns.shape[1])
    entries = (values.ravel(), (np.asarray(row), columns.ravel()))
    return csr_array(entries, shape=transition.shape)


def check_rows(what: str, rows: Array, where: Callable[[int], str] = "row {}".format) -> None:
    """Refuse rows of probabilities that are negative or do not sum to one."""
    total = rows.sum(1)
    bad = ~(np.abs(total - 1.0) <= TOLERANCE) | (rows < -TOLERANCE).any(1)
    if bad.any():
        i = int(np.argmax(bad))
        raise ModelError(
            f"the probabilities of {what} sum to {total[i]:.12g} (smallest {rows[i].min():.3g}), "
            f"at {where(i)}; they must be positive and sum to 1"
        )


def normalised(rows: Array) -> Array:
    """Divide rows of probabilities by their sums; what rounding left below zero is zero."""
    rows = np.maximum(rows, 0.0).astype(WIDE)
    return np.asarray(rows / rows.sum(-1, keepdims=True))
