"""An oracle for every test: dynamic programs by explicit loops, with no dpsolve in it.

A :class:`Problem` is a dynamic program as plain Python: lists of numbers and functions of floats.
:meth:`Problem.table` visits each state, choice and shock in nested loops, calls the functions on
floats and writes down the reward, the discount and the transition probabilities of every pair.
:func:`solve_table` and :func:`solve_finite` then iterate the Bellman operator in NumPy until
nothing moves. Nothing is vectorised over the model and nothing is exploited, so there is little
here that could be wrong; it is meant for models of at most a few hundred states.

:meth:`Problem.model` states the same problem to dpsolve, and :func:`random_problem` draws one
from a seed: any mix of continuous, integer and Markov states, several choices, shocks with
probabilities that move, feasibility, state-dependent discounts and finite horizons.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Space:
    """The values of a state or a choice; ``matrix`` makes it a Markov chain."""

    values: tuple[float, ...]
    kind: str = "grid"  # "grid" (interpolated), "integers" (exact) or "markov"
    matrix: tuple[tuple[float, ...], ...] = ()
    outside: str = "error"

    def weights(self, x: float) -> list[tuple[int, float]]:
        """Return ``(index, weight)`` pairs that place ``x`` on this space."""
        values, last = self.values, len(self.values) - 1
        if self.kind == "integers":
            return [(values.index(x), 1.0)]
        if last == 0:
            return [(0, 1.0)]
        if self.outside == "clip":
            x = min(max(x, values[0]), values[-1])
        slack = 1e-9 * (values[-1] - values[0])
        if self.outside == "error" and not values[0] - slack <= x <= values[-1] + slack:
            raise ValueError(f"next state {x} leaves [{values[0]}, {values[-1]}]")
        low = 0
        while low < last - 1 and values[low + 1] <= x:
            low += 1
        share = (x - values[low]) / (values[low + 1] - values[low])
        return [(low, 1.0 - share), (low + 1, share)]


@dataclass(frozen=True)
class Shock:
    """The values of an independent shock; ``probs`` are numbers or a function of names."""

    values: tuple[float, ...]
    probs: tuple[float, ...] | Function


@dataclass(frozen=True)
class Table:
    """Every (state, choice) pair of a problem, states and choices flattened in C order.

    ``reward``, ``discount`` and ``feasible`` are (states, choices), ``transition`` is
    (states, choices, states), and each output is (states, choices).
    """

    reward: Array
    discount: Array
    feasible: NDArray[np.bool_]
    transition: Array
    outputs: dict[str, Array]

    def q(self, value: Array) -> Array:
        """Return the value of each pair when ``value`` (states,) follows, −inf if infeasible."""
        total = self.reward + self.discount * (self.transition @ value)
        return np.where(self.feasible, total, -np.inf)


@dataclass(frozen=True)
class Answer:
    """What the oracle found: arrays over flattened states, with a leading ``t`` if finite."""

    value: Array
    policy: NDArray[np.int64]  # flat number of the first best choice
    q: Array


@dataclass(frozen=True)
class Problem:
    """A dynamic program as plain Python; the fields mean what they mean for ``dp.Model``."""

    states: Mapping[str, Space]
    choices: Mapping[str, Space | str]
    transition: Mapping[str, str | Function]
    reward: Sequence[Function]
    discount: float | Function
    shocks: Mapping[str, Shock] = field(default_factory=dict)
    feasible: Function | None = None
    outputs: Mapping[str, Function] = field(default_factory=dict)
    horizon: int | None = None
    terminal: Function | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each state."""
        return tuple(len(space.values) for space in self.states.values())

    @property
    def choice_shape(self) -> tuple[int, ...]:
        """The number of values of each choice."""
        return tuple(len(self.choice_space(name).values) for name in self.choices)

    def choice_space(self, name: str) -> Space:
        """Return the space of a choice, which may be the space of a state."""
        space = self.choices[name]
        return self.states[space] if isinstance(space, str) else space

    def pairs(self) -> Iterator[tuple[int, int, dict[str, float], tuple[int, ...]]]:
        """Walk over all pairs: flat state, flat choice, values by name, state indices."""
        spaces = [self.states[name] for name in self.states]
        menus = [self.choice_space(name).values for name in self.choices]
        for s, index in enumerate(itertools.product(*[range(len(x.values)) for x in spaces])):
            here = {n: self.states[n].values[i] for n, i in zip(self.states, index, strict=True)}
            for c, picks in enumerate(itertools.product(*menus)):
                yield s, c, here | dict(zip(self.choices, picks, strict=True)), index

    def allows(self, at: dict[str, float]) -> bool:
        """Tell whether a pair is feasible, whatever the shocks."""
        if self.feasible is None:
            return True
        joint = itertools.product(*[shock.values for shock in self.shocks.values()])
        return all(
            bool(call(self.feasible, at | dict(zip(self.shocks, x, strict=True)))) for x in joint
        )

    def draws(self, at: dict[str, float]) -> Iterator[tuple[float, dict[str, float]]]:
        """Walk over the joint values of the shocks with their probability at a pair."""
        names = list(self.shocks)
        probs = [call(x.probs, at) if callable(x.probs) else x.probs for x in self.shocks.values()]
        for picks in itertools.product(*[range(len(x.values)) for x in self.shocks.values()]):
            weight = 1.0
            for p, i in zip(probs, picks, strict=True):
                weight *= float(p[i])
            yield weight, {n: self.shocks[n].values[i] for n, i in zip(names, picks, strict=True)}

    def landing(self, at: dict[str, float], index: tuple[int, ...]) -> Iterator[tuple[int, float]]:
        """Walk over the next states of a pair and a shock: flat state and its weight."""
        axes: list[list[tuple[int, float]]] = []
        for axis, (name, space) in enumerate(self.states.items()):
            if space.kind == "markov":
                axes.append(list(enumerate(space.matrix[index[axis]])))
            else:
                rule = self.transition[name]
                x = at[rule] if isinstance(rule, str) else float(call(rule, at))
                axes.append(space.weights(x))
        for corner in itertools.product(*axes):
            weight = 1.0
            for _, share in corner:
                weight *= share
            where = tuple(i for i, _ in corner)
            yield int(np.ravel_multi_index(where, self.shape)), weight

    def table(self, t: int | None = None) -> Table:
        """Write down every pair, at period ``t`` if the horizon is finite."""
        n, m = int(np.prod(self.shape)), int(np.prod(self.choice_shape))
        reward, discount = np.full((n, m), -np.inf), np.zeros((n, m))
        feasible = np.zeros((n, m), dtype=bool)
        transition = np.zeros((n, m, n))
        outputs = {name: np.full((n, m), np.nan) for name in self.outputs}
        clock = {} if t is None else {"t": t}
        for s, c, pair, index in self.pairs():
            at = pair | clock
            if not self.allows(at):
                continue
            feasible[s, c], reward[s, c] = True, 0.0
            discount[s, c] = call(self.discount, at) if callable(self.discount) else self.discount
            for name in outputs:
                outputs[name][s, c] = 0.0
            for weight, shock in self.draws(at):
                if weight == 0.0:
                    continue
                now = at | shock
                reward[s, c] += weight * sum(float(call(r, now)) for r in self.reward)
                for name, f in self.outputs.items():
                    outputs[name][s, c] += weight * float(call(f, now))
                for target, share in self.landing(now, index):
                    transition[s, c, target] += weight * share
        return Table(reward, discount, feasible, transition, outputs)

    def terminal_value(self) -> Array:
        """Return the value after the last period, (states,); zero without ``terminal``."""
        value = np.zeros(int(np.prod(self.shape)))
        for s, c, at, _ in self.pairs():
            if c == 0 and self.terminal is not None:
                value[s] = float(call(self.terminal, at))
        return value

    def solve(self, tol: float = 1e-12) -> Answer:
        """Solve by brute force."""
        if self.horizon is None:
            return solve_table(self.table(), tol)
        return solve_finite([self.table(t) for t in range(self.horizon)], self.terminal_value())

    def model(self) -> Any:
        """State the same problem to dpsolve."""
        import dpsolve as dp

        def spec(space: Space) -> Any:
            if space.kind == "integers":
                return dp.integers(int(space.values[0]), int(space.values[-1]))
            if space.kind == "markov":
                return dp.markov(np.array(space.values), np.array(space.matrix))
            return dp.grid(np.array(space.values), outside=space.outside)

        def probs(shock: Shock) -> Any:
            return shock.probs if callable(shock.probs) else np.array(shock.probs)

        optional: dict[str, Any] = {}
        if self.shocks:
            optional["shocks"] = {
                n: dp.iid(np.array(x.values), probs(x)) for n, x in self.shocks.items()
            }
        if self.feasible is not None:
            optional["feasible"] = self.feasible
        if self.horizon is not None:
            optional |= {"horizon": self.horizon, "terminal": self.terminal}
        return dp.Model(
            states={n: spec(x) for n, x in self.states.items()},
            choices={n: x if isinstance(x, str) else spec(x) for n, x in self.choices.items()},
            transition=dict(self.transition),
            reward=list(self.reward),
            discount=self.discount,
            outputs=dict(self.outputs),
            **optional,
        )


def call(f: Function, at: Mapping[str, float]) -> Any:
    """Call a function on the values that its arguments name."""
    return f(**{name: at[name] for name in inspect.signature(f).parameters if name in at})


def solve_table(table: Table, tol: float = 1e-12, start: Array | None = None) -> Answer:
    """Iterate v ← max q(v) until it moves by less than ``tol`` relative to its size.

    The last step is polished by one exact evaluation of the greedy policy, so that the answer is
    the fixed point to rounding and not merely within ``tol``/(1−β) of it.
    """
    n = table.reward.shape[0]
    value = np.zeros(n) if start is None else start
    for _ in range(200_000):
        new = table.q(value).max(axis=1)
        step, value = float(np.max(np.abs(new - value))), new
        if step <= tol * max(1.0, float(np.max(np.abs(value)))):
            break
    else:
        raise ArithmeticError(f"the oracle did not converge: last step {step:.3g}")
    value = evaluate(table, table.q(value).argmax(axis=1))
    q = table.q(value)
    return Answer(q.max(axis=1), q.argmax(axis=1), q)


def solve_finite(tables: Sequence[Table], terminal: Array) -> Answer:
    """Go backward from the terminal value; the answer has a leading time axis."""
    value, values, policies, qs = terminal, [], [], []
    for table in reversed(tables):
        q = table.q(value)
        value = q.max(axis=1)
        values.append(value)
        policies.append(q.argmax(axis=1))
        qs.append(q)
    return Answer(np.stack(values[::-1]), np.stack(policies[::-1]), np.stack(qs[::-1]))


def evaluate(table: Table, policy: NDArray[np.int64]) -> Array:
    """Return the value of following ``policy`` for ever, by one linear solve."""
    s = np.arange(policy.size)
    matrix = table.discount[s, policy][:, None] * table.transition[s, policy]
    return np.linalg.solve(np.eye(policy.size) - matrix, table.reward[s, policy])


def solve_arrays(reward: Array, transition: Array, discount: float | Array) -> Answer:
    """Solve a tabular problem: reward (n, m) with −inf where infeasible, transition (n, m, n)."""
    feasible = reward > -np.inf
    beta = np.broadcast_to(np.asarray(discount, dtype=float), reward.shape)
    return solve_table(Table(reward, beta, feasible, transition, {}))


# ---------------------------------------------------------------------------------------------
# Random problems. The functions use only + − × ÷, abs and //, so that the same ones run on floats
# here and on tracers in JAX; their argument names are real, because dpsolve binds by name.


def squash(x: Any) -> Any:
    """Map the line smoothly into (0, 1) by arithmetic alone."""
    return 0.5 + 0.5 * x / (1.0 + abs(x))


def function_of(names: Sequence[str], body: Callable[..., Any]) -> Function:
    """Return a function whose arguments bear the given names."""
    arguments = ", ".join(names)
    made: Function = eval(f"lambda {arguments}: body({arguments})", {"body": body})
    return made


def random_surface(rng: np.random.Generator, count: int) -> Callable[..., Any]:
    """Return a random smooth, non-separable function of ``count`` numbers."""
    slope, bend = rng.normal(size=count).tolist(), rng.normal(size=count).tolist()
    base, height = float(rng.normal()), 3.0 * float(rng.normal())

    def surface(*x: Any) -> Any:
        line = sum(s * value for s, value in zip(slope, x, strict=True))
        ridge = sum(b * value for b, value in zip(bend, x, strict=True))
        return base + line + height * squash(ridge)

    return surface


def some(rng: np.random.Generator, names: Sequence[str], least: int = 1) -> list[str]:
    """Draw a non-empty subset of names, in order."""
    count = int(rng.integers(least, len(names) + 1))
    return sorted(rng.choice(names, size=count, replace=False).tolist(), key=list(names).index)


def random_space(rng: np.random.Generator, kind: str, outside: bool = True) -> Space:
    """Draw a space of the given kind with two to five values."""
    n = int(rng.integers(2, 6))
    if kind == "integers":
        low = int(rng.integers(-2, 3))
        return Space(tuple(float(low + i) for i in range(n)), kind)
    values = tuple(np.cumsum(rng.uniform(0.2, 0.8, n)).tolist())
    if kind == "markov":
        matrix = rng.dirichlet(np.full(n, 0.7), size=n)
        return Space(values, kind, tuple(map(tuple, matrix.tolist())))
    rule = str(rng.choice(["error", "clip", "extrapolate"])) if outside else "error"
    return Space(values, kind, outside=rule)


def random_rule(rng: np.random.Generator, space: Space, names: Sequence[str]) -> Function:
    """Draw a law of motion into ``space`` that names some of ``names``."""
    used = some(rng, names)
    surface, low, high = random_surface(rng, len(used)), space.values[0], space.values[-1]
    if space.kind == "integers":
        return function_of(used, lambda *x: low + (squash(surface(*x)) * (high - low) + 0.5) // 1)
    # A grid that allows it is left by up to 6 % of its length on either side: extrapolation
    # then stays a contraction.
    over = 0.0 if space.outside == "error" else 0.06 * (high - low)
    return function_of(
        used, lambda *x: low - over + squash(surface(*x)) * (high - low + 2.0 * over)
    )


def random_probs(rng: np.random.Generator, names: Sequence[str], n: int) -> Function:
    """Draw shock probabilities that depend on states and choices."""
    used = some(rng, names)
    surface, left, right = random_surface(rng, len(used)), rng.dirichlet([1] * n), None
    right = rng.dirichlet([1] * n)

    def probs(*x: Any) -> Any:
        share = squash(surface(*x))
        return left * share + right * (1.0 - share)

    return function_of(used, probs)


def random_feasible(rng: np.random.Generator, problem: Problem, names: Sequence[str]) -> Function:
    """Draw a feasibility rule that always allows the first choice."""
    first = list(problem.choices)
    used = [*[n for n in some(rng, names) if n not in first], *first]
    surface = random_surface(rng, len(used))
    lowest = [problem.choice_space(n).values[0] for n in first]

    def feasible(*x: Any) -> Any:
        picks = x[len(used) - len(first) :]
        safe: Any = True
        for pick, low in zip(picks, lowest, strict=True):
            safe = safe & (pick == low)
        return (surface(*x) > -0.3) | safe

    return function_of(used, feasible)


def random_problem(
    seed: int,
    *,
    finite: bool | None = None,
    discount: str | None = None,
    outside: bool = True,
) -> Problem:
    """Draw a problem from a seed.

    Arguments
    ---------
    finite : whether the horizon is finite; drawn (rarely) if None.
    discount : ``"constant"``, ``"varying"`` (below one) or ``"above"`` (a function that exceeds
        one at some pairs while the problem stays well posed); drawn if None.
    outside : whether grids may clip or extrapolate. Extrapolation gives negative weights, so the
        Bellman operator is no longer monotone: bounds that rest on monotonicity do not hold.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["grid", "integers", "markov"], size=int(rng.integers(1, 4)))
    if all(kind == "markov" for kind in kinds):
        kinds[0] = "grid"
    states = {f"s{i}": random_space(rng, str(kind), outside) for i, kind in enumerate(kinds)}
    endogenous = [name for name, space in states.items() if space.kind != "markov"]

    choices: dict[str, Space | str] = {}
    for i in range(int(rng.integers(1, 3))):
        share = str(rng.choice(endogenous)) if rng.random() < 0.5 else ""
        kind = str(rng.choice(["grid", "integers"]))
        choices[f"c{i}"] = share or random_space(rng, kind, outside=False)

    finite = bool(rng.random() < 0.2) if finite is None else finite
    pair_names = [*states, *choices]
    shocks: dict[str, Shock] = {}
    for i in range(int(rng.integers(0, 3))):
        n = int(rng.integers(2, 4))
        probs: Any = tuple(rng.dirichlet([1] * n).tolist())
        if rng.random() < 0.5:
            probs = random_probs(rng, pair_names, n)
        shocks[f"w{i}"] = Shock(tuple(rng.normal(size=n).tolist()), probs)

    names = [*pair_names, *shocks]
    dated = [*names, "t"] if finite else names
    transition: dict[str, str | Function] = {}
    for name in endogenous:
        shared = [c for c, space in choices.items() if space == name]
        if shared and rng.random() < 0.7:
            transition[name] = str(rng.choice(shared))
        else:
            transition[name] = random_rule(rng, states[name], names)

    rewards = []
    for _ in range(int(rng.integers(1, 4))):
        used = some(rng, dated)
        rewards.append(function_of(used, random_surface(rng, len(used))))
    used = some(rng, dated)
    draft = Problem(
        states=states,
        choices=choices,
        transition=transition,
        reward=rewards,
        discount=float(rng.uniform(0.5, 0.95)),
        shocks=shocks,
        outputs={"effect": function_of(used, random_surface(rng, len(used)))},
        horizon=int(rng.integers(2, 6)) if finite else None,
        terminal=function_of(list(states), random_surface(rng, len(states))) if finite else None,
    )
    if rng.random() < 0.6:
        rule = random_feasible(rng, draft, pair_names)
        draft = Problem(**{**vars(draft), "feasible": rule})
    kind = discount or str(rng.choice(["constant", "varying", "above"], p=[0.6, 0.25, 0.15]))
    if kind == "constant":
        return draft
    return _with_discount(rng, draft, kind, pair_names)


def _with_discount(
    rng: np.random.Generator, draft: Problem, kind: str, names: Sequence[str]
) -> Problem:
    """Give a problem a discount that depends on states and choices, scaled to stay well posed."""
    used = some(rng, names)
    surface = random_surface(rng, len(used))
    top = 0.95 if kind == "varying" else 1.3
    while True:
        rule = function_of(used, lambda *x, top=top: 0.3 + (top - 0.3) * squash(surface(*x)))
        problem = Problem(**{**vars(draft), "discount": rule})
        if problem.horizon is not None or contracts(problem.table()):
            return problem
        top *= 0.93


def contracts(table: Table, sweeps: int = 400) -> bool:
    """Tell whether the discounted transitions shrink fast enough for an oracle to converge."""
    weight = np.ones(table.reward.shape[0])
    bare = Table(
        np.zeros_like(table.reward),
        table.discount,
        table.feasible,
        np.abs(table.transition),
        {},
    )
    for _ in range(sweeps):
        weight = bare.q(weight).max(axis=1)
    return bool(np.max(weight) < 1e-8)


def random_arrays(
    seed: int, n: int = 12, m: int = 4, *, sparse: bool = False, masked: bool = True
) -> tuple[Array, Array, float]:
    """Draw a tabular problem: reward (n, m), transition (n, m, n) and a discount.

    With ``masked`` about a third of the pairs are infeasible (−inf), never a whole state; with
    ``sparse`` each row of the transition reaches three states only.
    """
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(n, m))
    if masked:
        hide = rng.random((n, m)) < 0.35
        hide[np.arange(n), rng.integers(0, m, n)] = False
        reward[hide] = -np.inf
    transition = rng.dirichlet(np.full(n, 0.5), size=(n, m))
    if sparse:
        keep = np.argsort(rng.random((n, m, n)), axis=-1) < 3
        transition = np.where(keep, transition + 1e-3, 0.0)
        transition /= transition.sum(axis=-1, keepdims=True)
    return reward, transition, float(rng.uniform(0.6, 0.97))
