r"""A model read off its definition, pair by pair, in NumPy.

This is what a solution is verified against, so it shares nothing with the solver but the model
itself: the user's scalar functions are mapped over lists of (state, choice) pairs, one primitive
at a time and uncompiled, and everything after that (placing the next state on its grid, the
expectation, the mask, the discount) is done here in NumPy, in the order of the formula in
:mod:`.bellman` and with none of the solver's shortcuts. The one liberty is to take the chains'
sum over :math:`z'` first, once for all pairs. Post-decision variables are evaluated pair by pair,
too: a value between two points of its grid makes two branches, each with its weight.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.probability.markov import Markov

from .arrays import check_rows, define_arrays, normalised
from .bellman import WIDE, Array, Definition, Index, Mask, PairValues, Tastes

SLACK = 1e-9  # how far, in a grid's last steps, rounding may carry a next state past an end
UNITS = 16 * float(np.finfo(np.float64).eps)  # or, relative to the larger end, how far instead


def define(model: Any) -> Definition:
    """Return the definition of a model.

    Raises
    ------
    ModelError
        If the model is neither a ``dp.Model`` nor made by ``dp.mdp``.
    """
    if isinstance(model, TabularModel):
        return define_arrays(model)
    if isinstance(model, Model):
        return _Functions(model)
    raise ModelError(f"a dp.Model is needed, not {type(model).__name__}")


# ---------------------------------------------------------------------------------------------
# A model of scalar functions


@dataclass(frozen=True)
class _Branch:
    """What names stand for when the post variables are at points of their grids.

    Attributes
    ----------
    at : dict of str to array (N, W)
        The values of all names, or what broadcasts to it.
    index : dict of str to int array (N, W)
        Positions of the post variables.
    weight : array (N, W)
        The share of this branch.
    chance : array (N, W)
        The joint probability of the shocks in it.
    """

    at: dict[str, NDArray[Any]]
    index: dict[str, Index]
    weight: Array
    chance: Array


@dataclass(frozen=True)
class _Functions(Definition):
    """A :class:`Model`: functions of states, choices and shocks."""

    model: Model
    shape: tuple[int, ...] = field(init=False)
    choice_shape: tuple[int, ...] = field(init=False)
    shock_shape: tuple[int, ...] = field(init=False)
    horizon: int | None = field(init=False)
    width: int = field(init=False)
    depth: int = field(init=False)
    constant: float | None = field(init=False)
    units: int = 32  # the user's functions are compiled and fused there, and evaluated singly here

    def __post_init__(self) -> None:
        model, put = self.model, object.__setattr__
        put(self, "shape", model.shape)
        put(self, "choice_shape", tuple(model.size_of(name) for name in model.choices))
        put(self, "shock_shape", tuple(model.size_of(name) for name in model.shocks))
        put(self, "horizon", model.horizon)
        put(self, "constant", None if callable(model.discount) else float(model.discount))
        corners = 2 ** sum(
            isinstance(spec, Grid) and not self._direct(name) for name, spec in model.states.items()
        )
        branches = 2 ** sum(isinstance(post.spec, Grid) for post in model.post.values())
        put(self, "width", prod(self.shock_shape) * corners * branches)
        chains = {n: spec for n, spec in model.states.items() if isinstance(spec, Markov)}
        put(self, "depth", self.width + sum(chain.size for chain in chains.values()))
        put(self, "tastes", _tastes(model))
        for name, chain in chains.items():
            rows = np.asarray(chain.transition_matrix).reshape(-1, chain.size)
            check_rows(f"Markov state '{name}'", rows)

    def look(self, s: Index, c: Index, t: int | None = None) -> PairValues:
        model, at = self.model, self.named(s, c, t)
        feasible = np.ones(s.size, dtype=bool)
        if model.feasible is not None:
            feasible = (evaluate(model.feasible, at, s.size) != 0).all(1)
        branches = self._branches(at, feasible)  # what follows is never asked elsewhere
        gains = losses = np.zeros(s.size, WIDE)
        for f in model.reward:
            gain, loss = self._over(f, branches)
            gains, losses = gains + gain.sum(1), losses + loss.sum(1)
        reward, cancelled = gains - losses, 2.0 * np.minimum(gains, losses)
        discount = np.broadcast_to(
            evaluate(model.discount, at, s.size)[:, 0]
            if callable(model.discount)
            else np.float64(model.discount),
            s.shape,
        )
        discount = np.where(feasible, discount, 0.0)
        # What rewards alone read has no part in the continuation, however far it extrapolates.
        onward = self._branches(at, feasible, self._continued())
        targets = [
            (where, np.where(branch.chance != 0, branch.chance * weight, 0.0))
            for branch in onward
            for where, weight in self._targets(s, c, branch)
        ]

        def expect(flat: Array, absolute: bool) -> Array:
            total = np.zeros(s.size, WIDE)
            for where, weight in targets:
                total += ((np.abs(weight) if absolute else weight) * flat[where]).sum(1)
            return total

        def push(masses: Array) -> Array:
            total = np.zeros(self.n)
            for where, weight in targets:
                moved = (masses[:, None] * weight).astype(np.float64)
                total += np.bincount(where.ravel(), moved.ravel(), self.n)
            return total

        mass = np.sum([np.abs(weight).sum(1) for _, weight in targets], axis=0)
        monotone = not (discount < 0).any() and not any((w < 0).any() for _, w in targets)
        return PairValues(reward, discount, feasible, mass, cancelled, monotone, expect, push)

    def ahead(self, value: Array, t: int | None = None) -> Array:
        return self._over_chains(value.astype(WIDE), 1, t)

    def behind(self, pushed: Array, t: int | None = None) -> Array:
        return self._over_chains(pushed, 0, t).reshape(-1).astype(np.float64)

    def _over_chains(self, x: Array, side: int, t: int | None) -> Array:
        """Sum over one side of every chain's matrix: 1 is tomorrow, 0 is today."""
        result = x.reshape(self.shape)
        for axis, spec in enumerate(self.model.states.values()):
            if isinstance(spec, Markov):
                matrix = normalised(np.asarray(spec.at(t), dtype=np.float64))
                result = np.moveaxis(np.tensordot(matrix, result, axes=(side, axis)), 0, axis)
        return np.ascontiguousarray(result)

    def draws(self, s: Index, c: Index) -> tuple[dict[str, Array], Array]:
        at, width = self.named(s, c, None), prod(self.shock_shape)
        drawn: list[dict[str, Array]] = []
        chances = []
        for branch in self._branches(at, np.ones(s.size, dtype=bool)):
            known = {n: evaluate(f, branch.at, s.size) for n, f in self.model.outputs.items()} | at
            own = {f"moment_{k}": evaluate(f, known, s.size) for k, f in self.model.moments.items()}
            values = {n: np.asarray(x, np.float64) for n, x in (known | own).items()}
            drawn.append({n: np.broadcast_to(x, (s.size, width)) for n, x in values.items()})
            chances.append(branch.chance * branch.weight)
        return {n: np.hstack([x[n] for x in drawn]) for n in drawn[0]}, np.hstack(chances).astype(
            np.float64
        )

    def terminal(self) -> Array:
        if self.model.terminal is None:
            return np.zeros(self.n)
        s = np.arange(self.n)
        return evaluate(self.model.terminal, self.named(s, np.zeros_like(s), None), self.n)[:, 0]

    def outputs(self, s: Index, c: Index, t: int | None = None) -> dict[str, Array]:
        branches = self._branches(self.named(s, c, t), np.ones(s.size, dtype=bool))
        return {
            name: (gain - loss).sum(1).astype(np.float64)
            for name, (gain, loss) in (
                (name, self._over(f, branches)) for name, f in self.model.outputs.items()
            )
        }

    def _continued(self) -> list[str]:
        """Return the post variables that hang together with the rules of states, and with laws."""
        rules: list[Any] = list(self.model.transition.values())
        rules += [shock.probs for shock in self.model.shocks.values()]
        named: set[str] = set()
        while rules:
            rule = rules.pop()
            taken = _taken(rule) & set(self.model.post) - named
            rules += [self.model.post[n].rule for n in taken]
            named |= taken
        return list(named)

    def _branches(
        self, at: dict[str, NDArray[Any]], feasible: Mask, some: list[str] | None = None
    ) -> list[_Branch]:
        """Draw the shocks, and place (some of) the post variables on their grids.

        One after the other, each when all that it depends on is known: a post variable makes one
        branch for each corner.
        """
        size, width = len(feasible), prod(self.shock_shape)
        known = np.broadcast_to(feasible[:, None].astype(WIDE), (size, width))
        branches = [_Branch(at, {}, np.ones((1, 1)), known)]
        for name in self.model.drawn:
            if name in self.model.shocks:
                branches = [self._drawn(name, branch) for branch in branches]
            elif some is None or name in some:
                branches = [corner for b in branches for corner in self._corners(name, b)]
        return branches

    def _drawn(self, name: str, branch: _Branch) -> _Branch:
        counts = (branch.chance != 0) & (branch.weight != 0)
        probs = self.model.shocks[name].probs
        mine = chances(self.model, name, probs, branch.at, counts)
        return replace(branch, chance=np.where(counts, branch.chance * mine, 0.0))

    def _corners(self, name: str, branch: _Branch) -> list[_Branch]:
        post, size = self.model.post[name], len(branch.chance)
        rule = post.rule
        x = branch.at[rule] if isinstance(rule, str) else evaluate(rule, branch.at, size)
        counts = (branch.chance != 0) & (branch.weight != 0)
        x, counted = np.broadcast_arrays(x, counts)
        fault = _Fault(f"the post variable {name}", branch.at, counted)
        values = np.asarray(post.spec.values)
        return [
            _Branch(
                branch.at | {name: values[i]},
                branch.index | {name: i},
                branch.weight * w,
                branch.chance,
            )
            for i, w in _place(post.spec, np.asarray(x, dtype=np.float64), fault)
        ]

    def _over(self, f: Callable[..., Any], branches: list[_Branch]) -> tuple[Array, Array]:
        """Return a function over pairs and shocks times their chances, summed over the branches.

        In two parts: what it has above zero, and below.
        """
        names = _taken(f)
        if not names & set(self.model.post) and not any(
            _taken(shock.probs) & set(self.model.post) for shock in self.model.shocks.values()
        ):
            (branch, *_) = branches
            x = np.where(branch.chance != 0, evaluate(f, branch.at, len(branch.chance)), 0.0)
            return branch.chance * np.maximum(x, 0.0), branch.chance * np.maximum(-x, 0.0)
        gain = loss = np.zeros(branches[0].chance.shape, WIDE)
        for branch in branches:
            asked = (branch.chance != 0) & (branch.weight != 0)
            x = np.where(asked, evaluate(f, branch.at, len(branch.chance)), 0.0)
            weight = np.where(asked, branch.chance * branch.weight, 0.0)
            gain = gain + weight * np.maximum(x, 0.0)
            loss = loss + weight * np.maximum(-x, 0.0)
        return gain, loss

    def _direct(self, state: str) -> bool:
        """Tell whether a state's next index is the index of a choice or of another state."""
        rule = self.model.transition.get(state)
        return isinstance(rule, str) and self.model.grid_of(rule) is self.model.states[state]

    def named(self, s: Index, c: Index, t: int | None) -> dict[str, NDArray[Any]]:
        """Return what each name stands for: states and choices (N, 1), shocks (1, W)."""
        model, at = self.model, {}
        for group, flat, shape in (
            (model.states, s, self.shape),
            (model.choices, c, self.choice_shape),
            (model.shocks, np.arange(prod(self.shock_shape)), self.shock_shape),
        ):
            axis = 0 if group is model.shocks else 1
            for name, index in zip(group, np.unravel_index(flat, shape or (1,)), strict=False):
                at[name] = np.expand_dims(np.asarray(model.grid_of(name).values)[index], axis)
        if t is not None:
            at["t"] = np.full((1, 1), t)
        return at

    def _targets(self, s: Index, c: Index, branch: _Branch) -> tuple[tuple[Index, Array], ...]:
        at, counts = branch.at, (branch.chance != 0) & (branch.weight != 0)
        here = np.unravel_index(s, self.shape)
        numbers = np.unravel_index(c, self.choice_shape) if self.choice_shape else ()
        chosen = dict(zip(self.model.choices, numbers, strict=True))
        index_of = dict(zip(self.model.states, here, strict=True)) | chosen
        index_of = {name: i[:, None] for name, i in index_of.items()} | branch.index
        axes: list[list[tuple[Any, Any]]] = []
        for name, spec in self.model.states.items():
            rule = self.model.transition.get(name)
            if isinstance(spec, Markov):  # its sum was taken ahead; what is left is today's row
                axes.append([(index_of[name], 1.0)])
            elif isinstance(rule, str) and self._direct(name):
                axes.append([(index_of[rule], 1.0)])
            else:
                move = cast("str | Callable[..., Any]", rule)  # a model without one is refused
                x = at[move] if isinstance(move, str) else evaluate(move, at, s.size)
                x, counted = np.broadcast_arrays(x, counts)
                fault = _Fault(f"the next state {name}", at, counted)
                axes.append(_place(spec, np.asarray(x, dtype=np.float64), fault))
        strides = np.cumprod([1, *self.shape[:0:-1]])[::-1]
        targets = []
        for corner in product(*axes):
            where = sum(i * int(stride) for (i, _), stride in zip(corner, strides, strict=True))
            weight = prod((w for _, w in corner), start=branch.weight)
            targets.append(
                (np.broadcast_to(where, counts.shape), np.broadcast_to(weight, counts.shape))
            )
        return tuple(targets)


def _tastes(model: Model) -> Tastes | None:
    """Read a model's taste shocks."""
    said = model.taste
    if said is None:
        return None
    sizes = [model.size_of(name) for name in model.choices]
    index = dict(zip(model.choices, np.indices(sizes).reshape(len(sizes), -1), strict=True))
    of_choice = np.ravel_multi_index([index[name] for name in said.choices], said.shape)
    nests = zip(said.nests, said.nest_scales, strict=True)
    return Tastes(
        said.name,
        said.choices,
        said.shape,
        np.asarray(of_choice, np.int64),
        float(said.scale),
        tuple((np.asarray(members, np.int64), float(scale)) for members, scale in nests),
    )


def evaluate(
    f: Callable[..., Any], at: Mapping[str, NDArray[Any]], size: int, vector: bool = False
) -> Array:
    """Map a user's scalar function over pairs and shocks; the result is (N, W) or (N, 1).

    That of one which returns a `vector` has an axis more.
    """
    names = [name for name in inspect.signature(f).parameters if name in at]
    if not names:
        constant = np.asarray(f(), dtype=np.float64).reshape((1, 1, -1) if vector else (1, -1))
        return np.broadcast_to(constant, (size, *constant.shape[1:]))
    given = np.broadcast_arrays(*(at[name] for name in names))
    shape, length = given[0].shape, given[0].size
    # Each primitive is compiled once per length: few lengths, and most are compiled already.
    padding = (0, round_length(length) - length)
    columns = {n: np.pad(x.reshape(-1), padding, "edge") for n, x in zip(names, given, strict=True)}
    mapped = np.asarray(jax.vmap(lambda kw: f(**kw))(columns), dtype=np.float64)[:length]
    if vector:
        mapped = mapped.reshape(*shape, -1)
        return np.broadcast_to(mapped, (size, *mapped.shape[1:]))
    return np.broadcast_to(mapped.reshape(shape), (size, shape[1]))


def round_length(length: int) -> int:
    """Return one of few lengths, at least this one."""
    return 1 << (length - 1).bit_length() if length <= 2**16 else -(-length // 2**16) * 2**16


@dataclass(frozen=True)
class _Fault:
    """Says where a next state, or a post variable, came from, if it lands nowhere."""

    what: str
    at: Mapping[str, NDArray[Any]]
    counts: Mask

    def check(self, bad: Mask, x: Array, must: str) -> None:
        bad = bad & self.counts
        if bad.any():
            i, j = np.argwhere(bad)[0]
            raise ModelError(
                f"{self.what}={x[i, j]:.12g} {must}; it comes from "
                f"{_where(self.at, int(i), int(j))}"
            )


def _where(at: Mapping[str, NDArray[Any]], i: int, j: int) -> str:
    here = {name: x[min(i, x.shape[0] - 1), min(j, x.shape[1] - 1)] for name, x in at.items()}
    return ", ".join(f"{name}={value:.6g}" for name, value in here.items())


def chances(
    model: Model,
    name: str,
    probs: Any,
    at: Mapping[str, NDArray[Any]],
    counts: Mask,
) -> Array:
    """Return the probability (N, W) of a shock's value in each joint draw of all shocks.

    Parameters
    ----------
    name : str
    probs : array or function
        Its law.
    at : mapping
    counts : bool array (N, W)
        Where that is asked for; elsewhere a law may be anything.
    """
    (size, width), shock = counts.shape, model.shocks[name]
    if callable(probs):
        each = evaluate(probs, at, size, vector=True)
    else:
        each = np.broadcast_to(np.asarray(probs, np.float64), (size, 1, shock.size))
    asked = np.any(counts, axis=1)[:, None] if each.shape[1] == 1 else counts
    rows = np.where(asked[..., None], each, 1.0 / shock.size).reshape(-1, shock.size)
    w = each.shape[1]
    check_rows(f"shock '{name}'", rows, lambda i: _where(at, i // w, i % w))
    own = np.unravel_index(np.arange(width), [s.size for s in model.shocks.values()])
    index = own[list(model.shocks).index(name)]
    found = normalised(rows).reshape(each.shape)
    return np.asarray(found[np.arange(size)[:, None], np.arange(width) % w, index])


def _taken(f: Any) -> set[str]:
    """Return the names that a rule or function takes."""
    if isinstance(f, str):
        return {f}
    return set(inspect.signature(f).parameters) if callable(f) else set()


def _place(spec: Grid | Integers, x: Array, fault: _Fault) -> list[tuple[Index, Array]]:
    """Place next states on a spec: exact members of a range, neighbours on a grid."""
    values = np.asarray(spec.values, dtype=np.float64)
    last = values.size - 1
    if isinstance(spec, Integers):
        fault.check(
            ~((np.abs(x - np.round(x)) <= SLACK) & (x > spec.lo - 0.5) & (x < spec.hi + 0.5)),
            x,
            f"is no member of the integers {spec.lo} to {spec.hi}",
        )
        index = np.round(np.where(fault.counts, x, spec.lo)).astype(np.int64) - spec.lo
        return [(index, np.ones_like(x))]
    if last == 0:
        return [(np.zeros(x.shape, dtype=np.int64), np.ones_like(x))]
    fault.check(~np.isfinite(x), x, "is not a number")
    if "error" in spec.sides:
        units = UNITS * max(abs(values[0]), abs(values[-1]))
        below, above = (max(SLACK * step, units) for step in np.diff(values)[[0, -1]])
        bottom, top = (side == "error" for side in spec.sides)
        fault.check(
            (bottom & (values[0] - x > below)) | (top & (x - values[-1] > above)),
            x,
            f"leaves its grid [{values[0]:.12g}, {values[-1]:.12g}]",
        )
    x = np.where(fault.counts, x, values[0])
    if spec.outside != "extrapolate":
        x = np.clip(x, values[0], values[-1])
    low = np.clip(np.searchsorted(values, x, side="right") - 1, 0, last - 1)
    wide = values.astype(WIDE)
    share = (x - wide[low]) / (wide[low + 1] - wide[low])
    return [(low, 1.0 - share), (low + 1, share)]
