r"""Lookup tables of a policy for simulation: shocks drawn, next states, what is recorded.

The tables are those that :math:`P_\pi` takes expectations with, evaluated by the same code: next
positions and interpolation weights over states and shocks, probabilities of shocks, chains. They
are made once, on the host, where probabilities are cumulated for inversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.distributions.solved_points import fixed_policy
from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.mdp import SparseRows, TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.operators.bellman import GridPolicy
from dpsolve.solvers.operators.interpolation import SLACK
from dpsolve.solvers.operators.named_arrays import NamedArray, mapped, ordered
from dpsolve.solvers.operators.tabular import PickedRows, TabularPolicy
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.solution import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Sparse rows of cumulative probabilities, one after the other.

    Attributes
    ----------
    cumulative, columns : array (nonzeros,)
        Of each row in turn.
    start, last : int array (rows,)
        Where a row begins, and its number of entries less one.
    longest : int
        Entries of the longest row (static).
    """

    cumulative: Array
    columns: Array
    start: Array
    last: Array
    longest: int = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PolicyTables:
    """How an agent moves, and what is seen of it: tables over states and shocks.

    With a horizon every array has an axis of periods in front, which the names do not count. On
    the host arrays are NumPy's; a call takes them to its device.

    Attributes
    ----------
    shocks : dict of str to NamedArray (..., shock)
        Cumulative probabilities, over what they depend on.
    moves : dict of str to (NamedArray, NamedArray or None)
        Of each state with a rule: the next position, and the weight of the one above it. Of each
        post variable: its position, likewise.
    chains : dict of str to NamedArray (state, next)
        Cumulative probabilities of each Markov state.
    rows : Rows or None
        Of a model given by arrays, in place of all these.
    values : dict of str to NamedArray
        What is recorded: variables by name.
    states, drawn, draws : tuple of (name, size), of str and of str
        The states in order; shocks and post variables in the order in which they come to be known;
        what is drawn in a period, in the order of its places (static).
    """

    shocks: dict[str, NamedArray]
    moves: dict[str, tuple[NamedArray, NamedArray | None]]
    chains: dict[str, NamedArray]
    rows: Rows | None
    values: dict[str, NamedArray]
    states: tuple[tuple[str, int], ...] = field(metadata={"static": True})
    drawn: tuple[str, ...] = field(metadata={"static": True})
    draws: tuple[str, ...] = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points of each state."""
        return tuple(size for _, size in self.states)


def variable_names(model: Model | TabularModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is recorded by default (states, choices, outputs), and what else can be."""
    if isinstance(model, TabularModel):
        return ("state", "action"), ()
    usual = dict.fromkeys((*model.states, *model.choices, *model.outputs))
    return tuple(usual), tuple(w for w in (*model.shocks, *model.post) if w not in usual)


def policy_tables(
    model: Model | TabularModel,
    problem: Problem,
    parameters: Mapping[str, Any],
    policy_index: Mapping[str, AnyArray],
    variables: Sequence[str],
    periods: int | None = None,
) -> PolicyTables:
    """Make the tables of a policy.

    Parameters
    ----------
    model : Model or TabularModel
        Of the point.
    problem, parameters
        Of a :class:`~dpsolve.Solution` with one point.
    policy_index : dict of str to int array (states...)
        The same solution's; with a horizon (t, states...).
    variables : sequence of str
        What is recorded.
    periods : int, optional
        With a horizon: how many of its periods.

    Raises
    ------
    ModelError
        If the policy leads off a grid that extrapolates: negative weights are no lottery.
    """
    plain, compiled = _tables(problem, tuple(variables), periods)
    if isinstance(model, TabularModel):
        made: PolicyTables = plain(dict(parameters), dict(policy_index))
        return made
    tables: PolicyTables = jax.tree.map(np.asarray, compiled(dict(parameters), dict(policy_index)))
    _refuse_extrapolation(model, tables, periods is not None)
    shocks, chains = (
        {name: x.map(lambda p: _on_host(cumulated(p))) for name, x in found.items()}
        for found in (tables.shocks, tables.chains)
    )
    return replace(tables, shocks=shocks, chains=chains)


def _on_host(x: Numpy) -> Array:
    """Count a table on the host as what it is wherever it is used: an array of JAX, in a trace."""
    return cast("Array", x)


def cumulated(p: AnyArray) -> Numpy:
    """Return cumulative probabilities of the rows (..., n) of `p`, scaled to end at exactly one.

    In NumPy, which adds from left to right: so an outcome without a chance adds nothing, and is
    never drawn.
    """
    c = np.cumsum(np.maximum(np.asarray(p, np.float64), 0.0), -1)
    scaled: Numpy = c / c[..., -1:]
    return scaled


@lru_cache(maxsize=64)
def _tables(problem: Problem, variables: tuple[str, ...], periods: int | None) -> Any:
    """Return the function of parameters and policy that evaluates the model; and compiled."""

    def one(parameters: Any, index: Any, t: Array | None = None) -> PolicyTables:
        _, fixed = fixed_policy(problem, parameters, index, t)
        if isinstance(fixed, TabularPolicy):
            return _tables_of_arrays(fixed, variables)
        assert isinstance(fixed, GridPolicy)
        return _tables_of_grids(fixed, variables)

    def many(parameters: Any, index: Any) -> PolicyTables:
        early = {name: x[:periods] for name, x in index.items()}
        ts = jnp.arange(periods, dtype=jnp.int32)
        tables: PolicyTables = lax.map(lambda x: one(parameters, x[0], x[1]), (early, ts))
        return tables

    def arrays(parameters: Any, index: Any) -> PolicyTables:
        if periods is None:
            return one(parameters, index)
        now = [{c: i[t] for c, i in index.items()} for t in range(periods)]
        return _stacked([one(parameters, own) for own in now])

    return arrays, jax.jit(one if periods is None else many)


def _tables_of_grids(fixed: GridPolicy, variables: Sequence[str]) -> PolicyTables:
    operator = fixed.operator
    model = operator.model
    order = (*model.states, *fixed.lottery, *model.post, *model.shocks)
    env = operator.functions.post_env | fixed.env
    found = operator.expectation.early_locations | fixed.pairs.locations | fixed.pairs.posts
    chances = dict(fixed.lottery) | fixed.pairs.probabilities  # in the order of the draws
    values = {}
    for name in variables:
        if name in env:
            values[name] = env[name]
        else:
            values[name] = mapped(model.outputs[name], env, order, f"output '{name}'")
    return PolicyTables(
        shocks={w: ordered(p, (*(d for d in p.dims if d != w), w)) for w, p in chances.items()},
        moves={name: (at.index, at.weight) for name, at in found.items()},
        chains={
            name: NamedArray(jnp.asarray(spec.at(operator.functions.t)), (name, f"{name}'"))
            for name, spec in model.states.items()
            if isinstance(spec, Markov)
        },
        rows=None,
        values=values,
        states=tuple(zip(operator.states, operator.shape, strict=True)),
        drawn=(*fixed.lottery, *model.drawn),
        draws=(*chances, *model.states, *model.post),
    )


def _tables_of_arrays(fixed: TabularPolicy, variables: Sequence[str]) -> PolicyTables:
    n = int(fixed.action.shape[0])
    own = {"state": np.arange(n), "action": np.asarray(fixed.action)}
    return PolicyTables(
        shocks={},
        moves={},
        chains={},
        rows=_rows(fixed, n),
        values={name: NamedArray(_on_host(own[name]), ("state",)) for name in variables},
        states=(("state", n),),
        drawn=(),
        draws=("state",),
    )


def _stacked(each: Sequence[PolicyTables]) -> PolicyTables:
    """Return the periods' tables of a model of arrays as one; rows are padded to equal lengths."""
    found = [table.rows for table in each if table.rows is not None]
    most = max(len(rows.cumulative) for rows in found)

    def padded(name: str) -> Array:
        arrays = [np.asarray(getattr(rows, name)) for rows in found]
        return _on_host(np.stack([np.pad(x, (0, most - len(x))) for x in arrays]))

    def whole(name: str) -> Array:
        return _on_host(np.stack([np.asarray(getattr(rows, name)) for rows in found]))

    rows = Rows(
        cumulative=padded("cumulative"),
        columns=padded("columns"),
        start=whole("start"),
        last=whole("last"),
        longest=max(rows.longest for rows in found),
    )
    values = {}
    for name, x in each[0].values.items():
        recorded = np.stack([np.asarray(table.values[name].array) for table in each])
        values[name] = NamedArray(_on_host(recorded), x.dims)
    return replace(each[0], rows=rows, values=values)


def _rows(fixed: TabularPolicy, n: int) -> Rows:
    """Return the policy's rows of the arrays, without their zeros."""
    row, column, p = _entries(fixed, n)
    keep = p > 0.0
    row, column, p = row[keep], column[keep], p[keep]
    counts = np.bincount(row, minlength=n)
    start = np.cumsum(counts) - counts
    cumulative = np.empty_like(p)
    for length in np.unique(counts):  # rows of one length together: each is summed by itself
        which = np.flatnonzero(counts == length)
        at = start[which][:, None] + np.arange(length)
        cumulative[at] = cumulated(p[at]) if length else 0.0
    return Rows(
        cumulative=_on_host(cumulative),
        columns=_on_host(column.astype(np.int32)),
        start=_on_host(start),
        last=_on_host(counts - 1),
        longest=int(counts.max()),
    )


def _entries(fixed: TabularPolicy, n: int) -> tuple[Numpy, Numpy, Numpy]:
    """Return row, column and probability of each entry, sorted by row."""
    rows = fixed.rows
    if isinstance(rows, SparseRows):
        columns = np.asarray(rows.columns)
        own = np.repeat(np.arange(n), columns.shape[1])
        return own, columns.ravel(), np.asarray(rows.values).ravel()
    if isinstance(rows, PickedRows):  # sorted coordinates, of which the policy's rows are kept
        matrix, pairs = rows.matrix, np.asarray(rows.rows)
        assert matrix.rows is not None
        first = np.searchsorted(matrix.rows, pairs)
        counts = np.searchsorted(matrix.rows, pairs, side="right") - first
        own = np.repeat(np.arange(n), counts)
        at = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[own]
        return own, np.asarray(matrix.columns)[at], np.asarray(matrix.values)[at]
    dense = np.asarray(rows)
    own, columns = np.nonzero(dense)
    return own, columns, dense[own, columns]


def _refuse_extrapolation(model: Model, tables: PolicyTables, by_period: bool) -> None:
    for name, (_, weight) in tables.moves.items():
        if weight is None:
            continue
        w = np.asarray(weight.array)
        bad = ~((w >= -SLACK) & (w <= 1.0 + SLACK))
        if not bad.any():
            continue
        dims = ("t", *weight.dims) if by_period else weight.dims
        at = np.argwhere(bad)[0]
        values = {"t": np.arange(len(w)), **{d: _grid(model, d) for d in dims if d != "t"}}
        place = ", ".join(f"{d}={values[d][i]:g}" for d, i in zip(dims, at, strict=True))
        raise ModelError(
            f"the policy leads off the grid of '{name}' at {place}, where the value is "
            f"extrapolated with a weight of {w[tuple(at)]:.3g}: that is no probability, and no "
            f"agent can be simulated. Widen the grid of '{name}', or give it outside='clip'."
        )


def _grid(model: Model, name: str) -> Numpy:
    return np.asarray(model.grid_of(name).values)
