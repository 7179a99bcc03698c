r"""Stored distributions and moments against the definition.

With the stored policy, the definition tells where each state's mass goes. So, in NumPy and with
none of the solver's code:

1. a distribution has no negative entry and sums to one;
2. one period moves it by no more than its claimed residual, :math:`\|\mu P - \mu\|_1`;
3. up to `MOST_STATES` states, :math:`\mu^* = \mu^* P` is solved densely, and the stored
   distribution lies no farther from it than its claimed error;
4. each date of a path is where one period takes the date before, and the first is the initial one;
5. moments are what their definitions give for the stored distribution.

Rounding: an entry of :math:`\mu P` is a sum of at most ``depth`` products, and the user's functions
may place a next state some units in the last place apart; the masses it is split into then differ
by as much, relative to the step of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.model_definition.bellman import Array, Decisions
from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.model import STATISTIC, Model
from dpsolve.solvers.probability.markov import Markov

from .proofs import EPS, Place, axes

MOST_STATES = 1500  # of a chain that is solved again, densely
TOLERANCE = 1e-9  # of a moment, relative to the largest value of what it is a moment of
NOTHING = 1e-9  # a mean of so small a share of the largest value has no Gini coefficient
SURE = 1e-10  # of a cumulative mass that decides on a quantile
NAMES = ("distribution", "distribution_path")
TOP_MASS = "top_mass_"


@dataclass(frozen=True)
class Asked:
    """What the sweep asked for that stored numbers cannot tell.

    Attributes
    ----------
    initial : mapping or None
        The initial distribution, by state.
    """

    initial: Mapping[str, Any] | None = None


def distribution_faults(
    place: Place, policy: Decisions | None, arrays: Mapping[str, NDArray[Any]], asked: Asked
) -> Iterator[str]:
    """Yield what is wrong with the distributions and moments stored of one point.

    Parameters
    ----------
    place : Place
    policy : Decisions or None
        None if they are not stored.
    arrays : mapping
        What is stored.
    asked : Asked
    """
    held = [name for name in NAMES if name in arrays]
    faults = [text for name in held for text in _no_distribution(place, name, arrays[name])]
    yield from faults
    finer = any(_mass_size(name, arrays[name]) != place.definition.n for name in held)
    if policy is None or faults or finer:  # on a grid of its own: that it is one was looked at
        return
    chain = _Chain(place, policy)
    if "distribution" in arrays and place.definition.horizon is None:
        mass = np.asarray(arrays["distribution"], dtype=np.float64).reshape(-1)
        yield from _not_stationary(chain, mass, arrays)
        yield from _other_tops(place, mass, arrays)
        yield from _other_moments(place, policy, mass, arrays)
    if "distribution_path" in arrays:
        yield from _path_faults(chain, arrays["distribution_path"], asked)


def _no_distribution(place: Place, name: str, stored: NDArray[Any]) -> Iterator[str]:
    n = _mass_size(name, stored)
    dates = np.asarray(stored, dtype=np.float64).reshape(-1, n)
    for time, mass in enumerate(dates):
        when = f" at time={time}" if name == "distribution_path" else ""
        if not np.isfinite(mass).all():
            if not np.isnan(dates).all():  # whole arrays of NaN are honest, and told by the status
                yield f"{name}{when} holds {mass[~np.isfinite(mass)][0]}"
            return
        if mass.min() < 0.0:
            s = int(np.argmin(mass))
            yield f"{name}{when} has the negative mass {mass[s]:.3g} at {place.at(s)}"
            return
        allowed = 32 * EPS * (n**0.5 + time * place.definition.depth)
        if not abs(mass.sum() - 1.0) <= allowed:
            yield f"{name}{when} sums to {mass.sum():.15g}, not to 1"
            return


def _mass_size(name: str, stored: NDArray[Any]) -> int:
    """Return the number of states that a stored distribution, or each of a path, is over."""
    shape = np.shape(stored)[1:] if name == "distribution_path" else np.shape(stored)
    return int(np.prod(shape))


@dataclass
class _Chain:
    """The chain that a policy makes of a model, period by period."""

    place: Place
    policy: Decisions
    _looks: dict[int | None, Any] = field(default_factory=dict)

    def push(self, mass: Array, t: int | None = None) -> Array:
        """Return next period's distribution."""
        definition = self.place.definition
        if t not in self._looks:
            self._looks.clear()  # one period's next states at a time
            states = np.arange(definition.n)
            self._looks[t] = [
                (definition.look(states, choice, t), chance)
                for choice, chance in self.policy.at(t or 0)
            ]
        return definition.behind(sum(look.push(mass * p) for look, p in self._looks[t]), t)

    @cached_property
    def rounding(self) -> float:
        """What rounding may move, in the L1 norm."""
        steps = 0.0
        if isinstance(self.place.model, Model):
            for name, spec in self.place.model.states.items():
                if isinstance(spec, Grid) and spec.size > 1:
                    values = axes(self.place.model)[name].astype(np.float64)
                    steps += float(np.max(np.abs(values)) / np.min(np.diff(values)))
        return EPS * (64 + 4 * self.place.definition.depth + 64 * steps)

    @cached_property
    def matrix(self) -> Array:
        """The matrix of probabilities (n, n), rows from and columns to."""
        return transition(self.push, self.place.definition.n)


def transition(push: Callable[[Array], Array], n: int) -> Array:
    """Return a chain's matrix, of how it moves each state's mass."""
    return np.stack([push(row) for row in np.eye(n)])


def _not_stationary(
    chain: _Chain, mass: Array, arrays: Mapping[str, NDArray[Any]]
) -> Iterator[str]:
    if np.isnan(mass).any():
        return
    change = float(np.abs(chain.push(mass) - mass).sum())
    claimed = float(arrays.get("distribution_residual", np.nan))
    if not np.isnan(claimed) and not change <= claimed * (1 + 8 * EPS) + chain.rounding:
        yield (
            f"distribution: one period moves it by {change:.3g}, but distribution_residual claims "
            f"{claimed:.3g} (rounding allows {chain.rounding:.1g})"
        )
        return
    error = float(arrays.get("distribution_error", np.nan))
    if not np.isfinite(error) or chain.place.definition.n > MOST_STATES:
        return
    exact = _solved(chain.matrix)
    if exact is None:
        return
    away = float(np.abs(mass - exact).sum())
    if not away <= error + 1e-11:  # the dense solve has its own error
        yield (
            f"distribution: it lies {away:.3g} from the solution of mu = mu P (L1 distance), but "
            f"distribution_error claims {error:.3g}"
        )


def _solved(matrix: Array) -> Array | None:
    """Return the stationary distribution, None where it is not the only one."""
    n = len(matrix)
    system = np.eye(n) - matrix.T + 1.0 / n
    try:
        if not np.linalg.cond(system, 1) < 1e12:
            return None
        return np.asarray(np.linalg.solve(system, np.full(n, 1.0 / n)))
    except np.linalg.LinAlgError:
        return None


def _path_faults(chain: _Chain, stored: NDArray[Any], asked: Asked) -> Iterator[str]:
    definition = chain.place.definition
    path = np.asarray(stored, dtype=np.float64).reshape(-1, definition.n)
    if np.isnan(path).any():
        return
    start = _initial(chain.place.model, asked.initial or {})
    if not np.abs(path[0] - start).sum() <= 1e-8:
        s = int(np.argmax(np.abs(path[0] - start)))
        yield (
            f"distribution_path at time=0, {chain.place.at(s)} is {path[0][s]:.12g}, but the "
            f"initial distribution has {start[s]:.12g} there"
        )
    for time in range(len(path) - 1):
        t = None if definition.horizon is None else time
        gap = path[time + 1] - chain.push(path[time], t)
        if not np.abs(gap).sum() <= chain.rounding:
            s = int(np.argmax(np.abs(gap)))
            yield (
                f"distribution_path at time={time + 1}, {chain.place.at(s)} is "
                f"{path[time + 1][s]:.12g}, but one period from time={time} gives "
                f"{path[time + 1][s] - gap[s]:.12g}"
            )
            return


def _initial(model: Any, given: Mapping[str, Any]) -> Array:
    """Return the initial distribution (n,): the product of what is said of each state."""
    joint = np.ones(1)
    for name, values in axes(model).items():
        spec = model.states[name] if isinstance(model, Model) else Integers(0, values.size - 1)
        said = given.get(name, "stationary")
        if said == "uniform":
            mass = np.full(values.size, 1.0 / values.size)
        elif isinstance(said, str):
            if not isinstance(spec, Markov) or spec.moves:
                raise ModelError(f"initial says nothing of state '{name}'")
            found = _solved(np.asarray(spec.transition_matrix, dtype=np.float64))
            mass = np.full(values.size, np.nan) if found is None else found
        elif np.ndim(said) == 1:
            mass = np.asarray(said, dtype=np.float64)
        else:  # shared between the neighbours in proportion to nearness
            points = np.arange(values.size)
            at = np.interp(float(said), values.astype(np.float64), points)
            mass = np.maximum(0.0, 1.0 - np.abs(points - at))
        joint = np.multiply.outer(joint, mass).reshape(-1)
    return joint


# -- moments --------------------------------------------------------------------------------------


def _other_moments(
    place: Place, policy: Decisions, mass: Array, arrays: Mapping[str, NDArray[Any]]
) -> Iterator[str]:
    held = {n.removeprefix("moment_"): float(x) for n, x in arrays.items() if _is_moment(n)}
    if not held or np.isnan(mass).any():
        return
    drawn = [
        (*place.definition.draws(np.arange(place.definition.n), choice), chance)
        for choice, chance in policy.at(0)
    ]
    values = {name: np.hstack([each[name] for each, _, _ in drawn]) for name in drawn[0][0]}
    law = mass[:, None] * np.hstack([probs * chance[:, None] for _, probs, chance in drawn])
    for name, stored in held.items():
        x, statistic = _variable(name, values)
        if x is None:
            yield f"moment_{name} is stored, but the model has no such moment"
            continue
        if statistic in ("top", "bottom"):
            ends = axes(place.model)[name.partition("_")[2]]
            x, statistic = (x == ends[-1 if statistic == "top" else 0]).astype(float), "mean"
        x, w = np.broadcast_to(x, law.shape).ravel(), law.ravel()
        largest = float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))
        x, w = x[w > 0], w[w > 0]
        if statistic[0] == "p":
            text = _quantile_fault(stored, x, w, int(statistic[1:]) / 100.0)
        else:
            text = _statistic_fault(stored, x, w, statistic, largest)
        if text:
            yield f"moment_{name} is {stored:.12g}, but {text}"


def _other_tops(place: Place, mass: Array, arrays: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    names = list(axes(place.model))
    joint = mass.reshape([x.size for x in axes(place.model).values()])
    for name, stored in arrays.items():
        if (state := name.removeprefix(TOP_MASS)) in names and name != state:
            if np.ndim(stored):
                yield f"{name} has the shape {np.shape(stored)}, and is one number"
                continue
            top = float(joint.take(-1, axis=names.index(state)).sum())
            if not (abs(float(stored) - top) <= TOLERANCE or np.isnan(top)):
                yield f"{name} is {stored:.12g}, but the stored distribution has {top:.12g} there"


def _is_moment(name: str) -> bool:
    return name.startswith("moment_")


def _variable(name: str, values: Mapping[str, Array]) -> tuple[Array | None, str]:
    """Return what a moment is of (a variable, a function of the model's own); and its statistic."""
    if f"moment_{name}" in values:
        return values[f"moment_{name}"], "mean"
    usual = STATISTIC.fullmatch(name)
    return (values.get(usual["variable"]), usual["statistic"]) if usual else (None, "")


def _statistic_fault(stored: float, x: Array, w: Array, statistic: str, largest: float) -> str:
    mean = float(w @ x)
    scale = float(np.max(np.abs(x), initial=0.0))
    if statistic == "mean":
        found = mean
    elif statistic == "gini":
        undefined = bool((x < 0).any()) or mean <= NOTHING * largest
        if undefined or np.isnan(stored):
            at_the_edge = abs(mean - NOTHING * largest) <= EPS**0.5 * mean
            told = np.isnan(stored) == undefined or at_the_edge
            if told:
                return ""
            return "it is of something negative or zero" if undefined else "it can be computed"
        order = np.argsort(x, kind="stable")
        # One less twice the area under the Lorenz curve.
        share = np.concatenate([[0.0], np.cumsum((w * x)[order])]) / mean
        found, scale = float(1.0 - w[order] @ (share[1:] + share[:-1]) / w.sum()), 1.0
    else:
        found = float(w @ (x - mean) ** 2)
        # The root of a variance is as good as the variance is, relative to itself.
        if statistic == "var":
            scale = scale**2
        else:
            found = found**0.5
            if max(stored, found) <= TOLERANCE**0.5 * scale:
                return ""
    same = stored == found or (np.isnan(stored) and np.isnan(found))  # infinite, or no number
    if same or abs(stored - found) <= TOLERANCE * scale:
        return ""
    return f"the stored distribution gives {found:.12g}"


def _quantile_fault(stored: float, x: Array, w: Array, share: float) -> str:
    near = TOLERANCE * float(np.max(np.abs(x), initial=0.0))
    up_to, below = float(w[x <= stored + near].sum()), float(w[x < stored - near].sum())
    if not (np.abs(x - stored) <= near).any():
        return "that is no value that has mass"
    if up_to < share - SURE or below >= share + SURE:
        return (
            f"the stored distribution has {below:.12g} below it and {up_to:.12g} up to it, which "
            f"does not reach {share:g} there first"
        )
    return ""
