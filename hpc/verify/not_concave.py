"""A stored point of a model with intervals that is not concave: steps between nodes, or a table.

Bounds of the continuum are steps there, ``L(x) = lower[i]`` from a node on and ``U(x) = upper[i]``
up to it, and hold if one Bellman step neither raises U nor lowers L. That is tried at nodes and
half way between them, drawn by chance where they are many: ``TU <= U`` by choices that cut the
interval evenly, ``TL >= L`` by those that lead to nodes.

Bounds on the grid are of the best of a table of shares, with interpolated next states: a model of
lists, whose definition is read as that of any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.model_definition.bellman import Definition
from dpsolve.hpc.model_definition.listed_choices import Shares, Targets, amount_of, ends_of, listed
from dpsolve.hpc.model_definition.pairs import define, evaluate
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model

GRID = 3  # the code of bounds of choices of a list
ENTRIES = 401  # of the table: of one choice; of several, of each the root that makes so many
TRIED = 101  # shares of an interval that a step to the upper bound is tried with
PAIRS = 2**20  # of states and choices that are tried in a period
MOST_PERIODS = 6  # that are looked at, of a horizon
ASIDE = 1e-7  # of a cell: how far beside a node its step lies
SLACK = 1e-9  # of the largest value
EPS = float(np.finfo(np.float64).eps)

Floats = NDArray[np.float64]


def of_table(
    model: Model, arrays: Mapping[str, NDArray[Any]]
) -> tuple[Model, dict[str, NDArray[Any]], list[str]]:
    """Return the model of lists, what is stored of it, and what is wrong with its amounts."""
    shares = Shares(model, max(5, ceil(ENTRIES ** (1.0 / len(model.continuous)))))
    plain = listed(model, shares)
    definition = define(plain)
    held = {n: x for n, x in arrays.items() if not _is_amount(model, n)}
    chosen: dict[str, NDArray[Any]] = {}
    for name in model.choices:
        key = f"policy_{name}"
        own = f"policy_index_{name}"
        if name in model.gridded and own in arrays:
            chosen[name] = np.asarray(arrays[own]).reshape(-1, definition.n)
        elif name in model.gridded or key not in arrays:
            return plain, held, []
    for name in model.continuous:
        stored = np.asarray(arrays[f"policy_{name}"], np.float64).reshape(-1, definition.n)
        index, off = _nearest(plain, model, shares, name, chosen, stored)
        worst = int(np.argmax(off))
        if not off.ravel()[worst] <= 1e-9 * max(1.0, float(np.abs(stored).max())):
            i = worst % definition.n
            at = np.unravel_index(i, definition.shape)
            where = ", ".join(
                f"{n}={float(np.asarray(plain.grid_of(n).values)[k]):.6g}"
                for n, k in zip(plain.states, at, strict=True)
            )
            fault = (
                f"policy_{name} at {where} is {stored.ravel()[worst]:.12g}, which is none of the "
                f"{shares.count} shares of its interval"
            )
            return plain, held, [fault]
        chosen[name] = index
        held[f"policy_index_{name}"] = index.reshape(arrays[f"policy_{name}"].shape)
    return plain, held, []


def amount_faults(model: Model, arrays: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Check that stored choices are feasible, and that outputs are what their functions give."""
    definition: Any = define(listed(model, Shares(model, 2)))
    n, states = definition.n, np.arange(definition.n)
    rows = {c: np.asarray(arrays[f"policy_{c}"]).reshape(-1, n) for c in model.choices
            if f"policy_{c}" in arrays}  # fmt: skip
    if len(rows) < len(model.choices):
        return
    shocked = set(model.shocks)
    tests = [(f"feasible number {i + 1}", f) for i, f in enumerate(model.conditions)]
    outputs = [(f"output_{n}", f) for n, f in model.outputs.items() if f"output_{n}" in arrays]
    for t in range(len(next(iter(rows.values())))):
        at = definition.named(states, np.zeros(n, np.int64), None if model.horizon is None else t)
        at |= {c: x[t][:, None] for c, x in rows.items()}

        def found(f: Any, at: Mapping[str, Any] = at) -> Floats | None:
            names = set(inspect.signature(f).parameters)
            if names & shocked or not names <= set(at):
                return None
            return np.asarray(evaluate(f, at, n)[:, 0], np.float64)

        def name(bad: NDArray[np.bool_], at: Mapping[str, Any] = at) -> str:
            i = int(np.argmax(bad))
            every = [*(["t"] if "t" in at else []), *model.states, *model.choices]
            return ", ".join(f"{k}={at[k][min(i, len(at[k]) - 1), 0]:.6g}" for k in every)

        for choice in model.continuous:
            low, high = ends_of(model, choice)
            below, above = (np.asarray(evaluate(f, at, n)[:, 0]) for f in (low, high))
            slack = 1e-9 * np.maximum(1.0, np.abs(below) + np.abs(above))
            own = rows[choice][t]
            bad = ~((own >= below - slack) & (own <= above + slack))
            if bad.any():
                yield f"policy_{choice} is outside of its interval at {name(bad)}"
                return
        for what, f in tests:
            if (held := found(f)) is not None and (held == 0).any():
                yield f"the policy is not feasible ({what}) at {name(held == 0)}"
                return
        for what, f in outputs:
            own = np.asarray(arrays[what], np.float64).reshape(-1, n)[t]
            if (meant := found(f)) is None:
                continue
            off = np.abs(own - meant) > 1e-9 * max(np.nanmax(np.abs(meant)), np.nanmax(np.abs(own)))
            if off.any():
                i = int(np.argmax(off))
                yield (
                    f"{what} is {own[i]:.12g}, but its function at the stored policy gives "
                    f"{meant[i]:.12g}, at {name(off)}"
                )
                return


def _is_amount(model: Model, name: str) -> bool:
    ends = {f"policy{end}_{n}" for n in model.continuous for end in ("", "_lower", "_upper")}
    return name in ends or name.startswith("moment_") or "distribution" in name


def _nearest(
    plain: Model,
    model: Model,
    shares: Shares,
    name: str,
    chosen: Mapping[str, NDArray[Any]],
    stored: Floats,
) -> tuple[NDArray[Any], Floats]:
    """Return which share (periods, n) comes nearest to an amount, and how near."""
    definition: Any = define(plain)
    amount, best = amount_of(model, shares, name), np.zeros(stored.shape, np.int64)
    off = np.full(stored.shape, np.inf)
    states = np.arange(definition.n)
    menu = shares.menu(name)[None]
    for t, row in enumerate(stored):
        index = [chosen[n][t] if n in chosen else np.zeros(states.size, np.int64)
                 for n in plain.choices]  # fmt: skip
        flat = np.ravel_multi_index(index, definition.choice_shape)
        at = definition.named(states, flat, None if model.horizon is None else t)
        far = np.abs(evaluate(amount, {**at, name: menu}, states.size) - row[:, None])
        best[t], off[t] = far.argmin(1), far.min(1)
    return best, off


# -- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Bounds (periods, ...) as functions that are steps, on a grid that holds the steps' edges.

    Attributes
    ----------
    model : Model
    state : str
        The continuous one.
    """

    model: Model
    state: str

    @property
    def axis(self) -> int:
        """Which of the states it is."""
        return list(self.model.states).index(self.state)

    @property
    def nodes(self) -> Floats:
        """Its nodes."""
        return np.asarray(self.model.grid_of(self.state).values, np.float64)

    @property
    def points(self) -> Floats:
        """The nodes, a place half way between them, and one beside each node in either cell."""
        x = self.nodes
        step = np.diff(x)
        inner = np.stack([x[:-1] + ASIDE * step, x[:-1] + step / 2, x[1:] - ASIDE * step], -1)
        return np.concatenate([np.column_stack([x[:-1], inner]).ravel(), x[-1:]])

    @property
    def grid(self) -> Grid:
        """The grid of these, with the same sides."""
        spec = self.model.states[self.state]
        assert isinstance(spec, Grid)
        return Grid(self.points, spec.outside)

    def spread(self, bound: Floats, side: str) -> Floats:
        """Return a bound over (states...) at the nodes as steps over the points."""
        rows = np.moveaxis(bound, self.axis, -1)
        between = rows[..., :-1] if side == "lower" else rows[..., 1:]
        each = np.stack([rows[..., :-1], between, between, between], -1)
        whole = np.concatenate([each.reshape(*rows.shape[:-1], -1), rows[..., -1:]], -1)
        return np.moveaxis(whole, -1, self.axis)

    def looked_at(self, random: np.random.Generator, most: int) -> NDArray[Any]:
        """Draw nodes and places half way between them, of all states; return their flat numbers."""
        shape = list(self.model.shape)
        shape[self.axis] = self.points.size
        flat = np.arange(int(np.prod(shape)))
        place = np.unravel_index(flat, shape)[self.axis]
        some = flat[place % 2 == 0]
        return some if some.size <= most else np.sort(random.choice(some, most, replace=False))


def of_steps(model: Model, arrays: Mapping[str, NDArray[Any]], error_bound: float) -> Iterator[str]:
    """Try bounds of the continuum that are steps; yield what refutes them."""
    (state,) = (n for n, spec in model.states.items() if isinstance(spec, Grid))
    (choice,) = model.continuous
    steps = Steps(model, state)
    shape = (-1, *model.shape)
    held = {n: np.asarray(arrays[n], np.float64).reshape(shape)
            for n in ("lower", "upper") if n in arrays}  # fmt: skip
    if len(held) == 2:
        yield from _too_near(steps, held["lower"], held["upper"], error_bound)
    random = np.random.default_rng(0)
    own = (state, steps.grid)
    lists: dict[str, Any] = {
        "lower": Targets(model, state, choice),
        "upper": Shares(model, TRIED),
    }
    for side, bound in held.items():
        definition = define(listed(model, lists[side], own))
        spread = np.stack([steps.spread(x, side).ravel() for x in bound])
        slack = SLACK * max(1.0, float(np.abs(bound).max()))
        dates = np.arange(len(bound))
        for t in np.sort(random.permutation(dates)[:MOST_PERIODS]).tolist():
            last = model.horizon is not None and t + 1 == len(bound)
            after = definition.terminal() if last else spread[min(t + 1, len(bound) - 1)]
            when = None if model.horizon is None else t
            states = steps.looked_at(random, max(16, PAIRS // definition.m))
            best = _best(definition, states, np.asarray(after, np.float64), when)
            over = (best - spread[t][states]) * (1.0 if side == "upper" else -1.0)
            if not over.max() <= slack:
                i = int(np.argmax(np.where(np.isnan(over), np.inf, over)))
                where = _place(steps, int(states[i]), when)
                does = {"upper": "raises", "lower": "lowers"}[side]
                yield (
                    f"{side} at {where} is {spread[t][states[i]]:.12g}, and one step {does} it to "
                    f"{best[i]:.12g}: it is no bound over the continuum"
                )
                return


def _best(definition: Definition, states: NDArray[Any], after: Floats, t: int | None) -> Floats:
    """Return the most (states,) that a choice earns, with a value of the next period."""
    ahead = definition.ahead(after, t)
    best = np.full(states.size, -np.inf)
    rows = max(1, 2**16 // definition.m)
    for first in range(0, states.size, rows):
        s, c = np.meshgrid(states[first : first + rows], np.arange(definition.m), indexing="ij")
        look = definition.look(s.ravel(), c.ravel(), t)
        q = np.asarray(look.q(ahead), np.float64).reshape(s.shape)
        best[first : first + rows] = np.where(np.isnan(q), -np.inf, q).max(1)
    return best


def _too_near(steps: Steps, lower: Floats, upper: Floats, claimed: float) -> Iterator[str]:
    """Compare the claimed error with that of the middle, interpolated between steps."""
    low, high = (np.moveaxis(x, steps.axis + 1, -1) for x in (lower, upper))
    middle = (low + high) / 2
    ends = np.stack([middle[..., :-1], middle[..., 1:]])
    far = max(
        float((high[..., 1:] - ends.min(0)).max()),
        float((ends.max(0) - low[..., :-1]).max()),
        float((high - low).max() / 2),
    )
    if far > claimed * (1.0 + 64 * EPS) + 64 * EPS * float(np.abs(high).max()):
        yield (
            f"lower and upper, steps between the nodes, leave an error of {far:.12g}, more than "
            f"error_bound={claimed:.12g}"
        )


def _place(steps: Steps, flat: int, t: int | None) -> str:
    shape = list(steps.model.shape)
    shape[steps.axis] = steps.points.size
    named = []
    for name, i in zip(steps.model.states, np.unravel_index(flat, shape), strict=True):
        values = steps.points if name == steps.state else steps.model.grid_of(name).values
        named.append(f"{name}={float(np.asarray(values)[i]):.6g}")
    return ", ".join(named if t is None else [f"t={t}", *named])
