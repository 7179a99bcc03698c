r"""A model with continuous choices, evaluated in NumPy at any pairs of state and choice.

.. math::
    v(x, z) = \max_{y \in Y(x, z)} F(x, y, z)
              + \sum_{z'} D(z, z')\, E_w v\bigl(f(x, y, z, w), z'\bigr)

with continuous states x (d of them), Markov states z, choices y (m of them), and
:math:`D = \beta(z) P(z, z')`. Nothing here comes from the solver: the user's functions are mapped
over lists of pairs, one primitive at a time. Their slopes are JAX's derivatives of that one scalar
function (``jax.grad``); everything after that is NumPy. Post-decision variables are replaced by
their rules, and not read from a grid.

Arrays are over (z, i, ...): the Markov states, flattened, and a list of places.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.probability.markov import Markov

from .arrays import normalised
from .pairs import chances, evaluate, round_length

SLACK = 1e-9  # relative to a grid's larger end: what rounding may carry a next state past it

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Constraints:
    """What must not be negative: h (z, i, k), with its slopes in states and in choices."""

    h: Floats
    hx: Floats
    hy: Floats


@dataclass(frozen=True)
class ContinuousProblem:
    """A model whose choices are intervals, beside continuous and Markov states."""

    model: Model

    # -- what it consists of ------------------------------------------------------------------

    @cached_property
    def states(self) -> list[str]:
        """The continuous states."""
        return [n for n, spec in self.model.states.items() if isinstance(spec, Grid)]

    @cached_property
    def chains(self) -> list[str]:
        """The Markov states."""
        return [n for n, spec in self.model.states.items() if isinstance(spec, Markov)]

    @cached_property
    def choices(self) -> list[str]:
        """The choices, in the model's order."""
        return list(self.model.continuous)

    @cached_property
    def axes(self) -> list[Floats]:
        """The nodes of each continuous state."""
        return [np.asarray(self.model.grid_of(n).values, np.float64) for n in self.states]

    @cached_property
    def nodes(self) -> Floats:
        """All nodes (n, d), in C order."""
        return np.stack(np.meshgrid(*self.axes, indexing="ij"), -1).reshape(-1, len(self.axes))

    @cached_property
    def box(self) -> tuple[Floats, Floats]:
        """The corners (d,) of the nodes' hull."""
        return np.array([a[0] for a in self.axes]), np.array([a[-1] for a in self.axes])

    @cached_property
    def members(self) -> dict[str, NDArray[Any]]:
        """Each Markov state's value (z,) at the members of the joint chain."""
        values = [np.asarray(self.model.grid_of(n).values) for n in self.chains]
        grids = np.meshgrid(*values, indexing="ij") if values else []
        return {n: x.reshape(-1) for n, x in zip(self.chains, grids, strict=True)}

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Members of each Markov state."""
        return tuple(self.model.size_of(n) for n in self.chains)

    @property
    def nz(self) -> int:
        """Members of the joint chain."""
        return prod(self.lengths)

    @property
    def entries(self) -> int:
        """Pairs of a node's draws, today's members and tomorrow's."""
        draws = prod(s.size for s in self.model.shocks.values())
        return len(self.nodes) * self.nz**2 * draws

    def chances(self, t: int | None) -> Floats:
        """Return the joint chain's matrix (z, z)."""
        joint: Floats = np.ones((1, 1))
        for name in self.chains:
            spec: Any = self.model.states[name]
            matrix = np.asarray(spec.at(t), np.float64)
            joint = np.asarray(np.kron(joint, normalised(matrix)), np.float64)
        return joint

    @cached_property
    def shocks(self) -> dict[str, NDArray[Any]]:
        """The joint draws (1, w) of the shocks, by name."""
        values = [np.asarray(s.values) for s in self.model.shocks.values()]
        grids = np.meshgrid(*values, indexing="ij") if values else []
        return {n: x.reshape(1, -1) for n, x in zip(self.model.shocks, grids, strict=True)}

    @property
    def unreadable(self) -> str:
        """Why the model is none of these; empty where it is."""
        others = [n for n, s in self.model.states.items() if not isinstance(s, Grid | Markov)]
        if others:
            return f"the state '{others[0]}' is a range of integers"
        if self.model.gridded:
            return f"the choice '{next(iter(self.model.gridded))}' is a list of values"
        return ""

    @property
    def unchecked(self) -> str:
        """Why bounds over the continuum are not computed here; empty where they are."""
        model, varying = self.model, {*self.states, *self.choices}
        if callable(model.discount) and varying & _named(model.discount):
            return "the discount depends on what is continuous"
        for name, shock in model.shocks.items():
            if callable(shock.probs) and varying & _named(self._closed(shock.probs)):
                return f"the probabilities of shock '{name}' depend on what is continuous"
        for name in self.states:
            bottom, top = self.sides(name)
            if "extrapolate" in (bottom, top):
                return f"the grid of '{name}' is extrapolated"
            if bottom == "clip":
                return f"states below the grid of '{name}' are lifted to it, which is not concave"
        return ""

    def sides(self, name: str) -> tuple[str, str]:
        """Return what a next state below a grid means, and what one above."""
        spec = self.model.states[name]
        assert isinstance(spec, Grid)
        return spec.sides

    def by_members(self, array: NDArray[Any]) -> Floats:
        """Bring an array over (periods, states...) to (periods, z, i)."""
        order = [list(self.model.states).index(n) for n in (*self.chains, *self.states)]
        whole = np.asarray(array, np.float64).reshape(-1, *self.model.shape)
        moved = np.transpose(whole, (0, *(k + 1 for k in order)))
        return moved.reshape(len(whole), self.nz, len(self.nodes))

    def name(self, z: int, x: Floats, t: int | None) -> str:
        """Name a place by the values of its states."""
        at = {n: float(v) for n, v in zip(self.states, x, strict=True)}
        at |= {n: float(values[z]) for n, values in self.members.items()}
        named = [f"{n}={at[n]:.6g}" for n in self.model.states]
        return ", ".join(named if t is None else [f"t={t}", *named])

    # -- the model's functions ----------------------------------------------------------------

    def _at(self, x: Floats, y: Floats, t: int | None) -> dict[str, NDArray[Any]]:
        """Return what each name stands for: (pairs, 1), shocks (1, w)."""
        at: dict[str, NDArray[Any]] = {
            n: x[..., k].reshape(-1, 1) for k, n in enumerate(self.states)
        }
        at |= {n: y[..., k].reshape(-1, 1) for k, n in enumerate(self.choices)}
        for n, values in self.members.items():
            at[n] = np.repeat(values, x.shape[1]).reshape(-1, 1)
        return at | self.shocks | ({} if t is None else {"t": np.full((1, 1), t)})

    def _closed(self, f: Callable[..., Any] | str) -> Callable[..., Any]:
        """Return a rule as a function in which post variables are replaced by their rules."""
        posts = self.model.post
        if isinstance(f, str) and f not in posts:
            return _identity(f)
        inner = posts[f].rule if isinstance(f, str) else f
        if isinstance(f, str):
            return self._closed(inner)
        named = [n for n in inspect.signature(f).parameters if n in posts]
        if not named:
            return f
        rules = {n: self._closed(posts[n].rule) for n in named}
        own = [n for n in _named(f) if n not in posts]
        wanted = sorted({*own, *(n for rule in rules.values() for n in _named(rule))})

        def whole(**at: Any) -> Any:
            done = {n: rule(**{k: at[k] for k in _named(rule)}) for n, rule in rules.items()}
            return f(**{n: at[n] for n in own}, **done)

        return signed(whole, wanted)

    def _value(
        self, f: Callable[..., Any] | str, at: Mapping[str, NDArray[Any]], size: int
    ) -> Floats:
        with np.errstate(all="ignore"):
            return np.asarray(evaluate(self._closed(f), at, size), np.float64)

    def _slopes(
        self,
        f: Callable[..., Any] | str,
        at: Mapping[str, NDArray[Any]],
        size: int,
        by: list[str],
    ) -> Floats:
        """Return a function's derivatives (pairs, w, names); 0 by what it does not name."""
        rule = self._closed(f)
        names = [n for n in inspect.signature(rule).parameters if n in at]
        inner = [n for n in by if n in names]
        given = np.broadcast_arrays(*(at[n] for n in names)) if names else [np.zeros((1, 1))]
        shape, length = given[0].shape, given[0].size
        found = np.zeros((size, shape[1], len(by)))
        if not inner:
            return found
        padding = (0, round_length(length) - length)
        columns = {
            n: jnp.asarray(np.pad(a.reshape(-1), padding, "edge"))
            for n, a in zip(names, given, strict=True)
        }

        def scalar(own: dict[str, Any], rest: dict[str, Any]) -> Any:
            return jnp.asarray(rule(**own, **rest), jnp.float64)

        own = {n: columns.pop(n) for n in inner}
        slopes = jax.vmap(jax.grad(scalar))(own, columns)
        for n in inner:
            found[..., by.index(n)] = np.asarray(slopes[n])[:length].reshape(shape)
        return found

    def probs(self, t: int | None) -> Floats:
        """Return the chances (z, w) of the joint draws of the shocks."""
        at = self._at(np.zeros((self.nz, 1, len(self.states))), self._no_choice(1), t)
        joint = np.ones((self.nz, prod(s.size for s in self.model.shocks.values())))
        for name in self.model.drawn:
            if name in self.model.shocks:
                probs = self.model.shocks[name].probs
                closed = self._closed(probs) if callable(probs) else probs
                joint = joint * chances(self.model, name, closed, at, joint != 0)
        return joint.astype(np.float64)

    def _no_choice(self, size: int) -> Floats:
        return np.zeros((self.nz, size, len(self.choices)))

    def weights(self, t: int | None) -> Floats:
        """Return discount times the chances (z, z') of the next member."""
        discount = self.model.discount
        if not callable(discount):
            return float(discount) * self.chances(t)
        at = self._at(np.zeros((self.nz, 1, len(self.states))), self._no_choice(1), t)
        return self._value(discount, at, self.nz)[:, :1] * self.chances(t)

    def reward(self, x: Floats, y: Floats, t: int | None) -> Floats:
        """Return F (z, i), −inf where a choice is infeasible."""
        at, size = self._at(x, y, t), x.shape[0] * x.shape[1]
        likely = np.repeat(self.probs(t), x.shape[1], 0)
        total = np.zeros(size)
        for f in self.model.reward:
            values = np.where(likely > 0, self._value(f, at, size), 0.0)
            with np.errstate(invalid="ignore"):
                total = total + (likely * values).sum(1)
        total = np.where(np.isnan(total), -np.inf, total)
        return np.where(self.feasible(x, y, t).reshape(-1), total, -np.inf).reshape(x.shape[:2])

    def feasible(self, x: Floats, y: Floats, t: int | None) -> NDArray[np.bool_]:
        """Tell (z, i) where the model's conditions hold, whatever shock may come."""
        at, size = self._at(x, y, t), x.shape[0] * x.shape[1]
        likely = np.repeat(self.probs(t), x.shape[1], 0)
        told = self.model.feasible
        good = np.ones(size, dtype=bool)
        for f in () if told is None else told if isinstance(told, list | tuple) else (told,):
            good &= ((self._value(f, at, size) != 0) | (likely <= 0)).all(1)
        return good.reshape(x.shape[:2])

    def reward_slopes(self, x: Floats, y: Floats, t: int | None) -> tuple[Floats, Floats]:
        """Return F's slopes in the states (z, i, d) and in the choices (z, i, m)."""
        at, size = self._at(x, y, t), x.shape[0] * x.shape[1]
        likely = np.repeat(self.probs(t), x.shape[1], 0)[..., None]
        by = [*self.states, *self.choices]
        total = np.zeros((size, len(by)))
        for f in self.model.reward:
            slopes = np.where(likely > 0, self._slopes(f, at, size, by), 0.0)
            with np.errstate(invalid="ignore"):
                total = total + (likely * slopes).sum(1)
        whole = total.reshape(*x.shape[:2], -1)
        return whole[..., : len(self.states)], whole[..., len(self.states) :]

    def moves(self, x: Floats, y: Floats, t: int | None) -> tuple[Floats, Floats, Floats]:
        """Return f (z, i, w, d), and its slopes in states and choices (z, i, w, d, ...).

        What lies above a grid that is clipped there is at its top.
        """
        at, size = self._at(x, y, t), x.shape[0] * x.shape[1]
        by, w = [*self.states, *self.choices], prod(s.size for s in self.model.shocks.values())
        places, slopes = [], []
        for name in self.states:
            rule = self.model.rule_of(name)
            place = np.broadcast_to(self._value(rule, at, size), (size, w))
            slope = np.broadcast_to(self._slopes(rule, at, size, by), (size, w, len(by)))
            if self.sides(name)[1] == "clip":
                top = self.axes[self.states.index(name)][-1]
                slope = np.where((place > top)[..., None], 0.0, slope)
                place = np.minimum(place, top)
            places.append(place)
            slopes.append(slope)
        f = np.stack(places, -1).reshape(*x.shape[:2], w, -1)
        both = np.stack(slopes, -2).reshape(*f.shape, -1)
        return f, both[..., : len(self.states)], both[..., len(self.states) :]

    def leaves(self, place: Floats) -> NDArray[np.bool_]:
        """Tell which places (z, i, w, d) lie off a grid that nothing may leave: (z, i, w)."""
        off = np.zeros(place.shape[:-1], bool)
        for k, (name, axis) in enumerate(zip(self.states, self.axes, strict=True)):
            slack = SLACK * max(abs(axis[0]), abs(axis[-1]))
            bottom, top = (side == "error" for side in self.sides(name))
            off |= bottom & (place[..., k] < axis[0] - slack)
            off |= top & (place[..., k] > axis[-1] + slack)
        return off

    def ends(self, x: Floats, y: Floats, t: int | None) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the ends of the intervals (z, i, m), and their slopes (z, i, m, d + m)."""
        at, size = self._at(x, y, t), x.shape[0] * x.shape[1]
        by = [*self.states, *self.choices]
        found, sloped = [], []
        for which, pick in ((0, np.maximum), (1, np.minimum)):
            values = np.zeros((size, len(self.choices)))
            slopes = np.zeros((size, len(self.choices), len(by)))
            for j, interval in enumerate(self.model.continuous.values()):
                end, slope = np.full(size, (-np.inf, np.inf)[which]), np.zeros((size, len(by)))
                if interval.state is not None:
                    k = self.states.index(interval.state)
                    end = np.full(size, self.axes[k][(0, -1)[which]])
                cut = (interval.lo, interval.hi)[which]
                if callable(cut):
                    own = self._value(cut, at, size)[:, 0]
                    cuts = pick(own, end) == own
                    slope = np.where(cuts[:, None], self._slopes(cut, at, size, by)[:, 0], slope)
                    end = pick(own, end)
                elif cut is not None:
                    end = pick(end, float(cut))
                values[:, j], slopes[:, j] = end, slope
            found.append(values.reshape(*x.shape[:2], -1))
            sloped.append(slopes.reshape(*x.shape[:2], len(self.choices), -1))
        return found[0], found[1], sloped[0], sloped[1]

    def constraints(self, x: Floats, y: Floats, t: int | None) -> Constraints:
        """Return the constraints: ends of intervals, then grids that next states must not leave."""
        d = len(self.states)
        low, high, by_low, by_high = self.ends(x, y, t)
        own = np.zeros((*y.shape, d + y.shape[-1]))
        own[..., np.arange(y.shape[-1]), d + np.arange(y.shape[-1])] = 1.0
        h, slopes = [y - low, high - y], [own - by_low, by_high - own]
        f, fx, fy = self.moves(x, y, t)
        both = np.concatenate([fx, fy], -1)
        for k, name in enumerate(self.states):
            rule = self.model.rule_of(name)
            if isinstance(rule, str) and (
                rule in self.choices and self.model.continuous[rule].state == name
            ):
                continue  # its interval keeps it there
            for side, sign in enumerate((1.0, -1.0)):
                if self.sides(name)[side] != "error":
                    continue
                room = sign * (f[..., k] - self.axes[k][-side])
                worst = np.argmin(room, -1)[..., None]
                h.append(np.take_along_axis(room, worst, -1))
                slopes.append(sign * np.take_along_axis(both[..., k, :], worst[..., None], 2))
        every = np.concatenate(slopes, -2)
        return Constraints(np.concatenate(h, -1), every[..., :d], every[..., d:])

    def terminal(self) -> tuple[Floats, Floats]:
        """Return the value after the last period (z, i), and its slopes (z, i, d)."""
        x = np.broadcast_to(self.nodes, (self.nz, *self.nodes.shape))
        size = x.shape[0] * x.shape[1]
        f = self.model.terminal
        if f is None:
            return np.zeros(x.shape[:2]), np.zeros(x.shape)
        at = self._at(x, self._no_choice(x.shape[1]), None)
        slopes = self._slopes(f, at, size, self.states)[:, 0]
        return self._value(f, at, size)[:, 0].reshape(x.shape[:2]), slopes.reshape(x.shape)

    def outputs(self, x: Floats, y: Floats, t: int | None) -> dict[str, Floats]:
        """Return the outputs (z, i), averaged over the shocks."""
        at, size = self._at(x, y, t), x.shape[0] * x.shape[1]
        likely = np.repeat(self.probs(t), x.shape[1], 0)
        return {
            n: (likely * np.where(likely > 0, self._value(f, at, size), 0.0))
            .sum(1)
            .reshape(x.shape[:2])
            for n, f in self.model.outputs.items()
        }

    def named_values(self, x: Floats, y: Floats) -> dict[str, Floats]:
        """Return states, choices, shocks, outputs and the model's moments: (pairs, w) or less."""
        at, size = self._at(x, y, None), x.shape[0] * x.shape[1]
        known = at | {n: self._value(f, at, size) for n, f in self.model.outputs.items()}
        own = {f"moment_{n}": self._value(f, known, size) for n, f in self.model.moments.items()}
        return {n: np.asarray(v, np.float64) for n, v in (known | own).items()}


def _named(f: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(f).parameters)


def _identity(name: str) -> Callable[..., Any]:
    return signed(lambda **at: at[name], [name])


def signed(f: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """Say what a function of keywords takes."""
    kind = inspect.Parameter.KEYWORD_ONLY
    f.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]  # inspect reads it
    return f
