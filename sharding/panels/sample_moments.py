r"""Moments of simulated agents whose states have values of their own, with standard errors.

Agents :math:`i = 1..N` are independent and follow one law.

- An expectation is estimated by the mean over agents of their averages over time; its error is the
  standard deviation of these over :math:`\sqrt N`, however strongly an agent's own periods depend
  on each other. ``top_a`` and ``bottom_a`` are the shares at or beyond the last and at the first
  node.
- ``var``, ``sd``, ``gini`` and quantiles are those of the whole sample, agents and periods
  together. They are found in :math:`G` groups of agents, too:
  :math:`\hat\sigma^2 = \sum_g (\theta_g - \bar\theta)^2 / G (G - 1)`, with :math:`G` the root of N
  and at most 64.

Shocks are those that were drawn. With a horizon every period has its own moments.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.distributions.moments import NOTHING, expanded, sorted_out
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.model.arguments import bind
from dpsolve.solvers.model.model import STATISTIC, Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.operators.named_arrays import NamedArray, mapped
from dpsolve.solvers.simulation.tables import variable_names

from .moments import CURVED, MOST_GROUPS, Asked, MomentEstimate

MOST_BYTES = 4 * 2**30  # of a sample that is held for what is no expectation
DIMS = ("time", "agent")


class Sample:
    """What a panel's moments need of its agents, taken in block by block.

    Parameters
    ----------
    model : Model
        At the point.
    asked : str, list of str and functions, or dict of functions
    agents, periods : int

    Attributes
    ----------
    variables : tuple of str
        What must be recorded.
    """

    def __init__(self, model: Model, asked: Asked, agents: int, periods: int) -> None:
        self.model, self.agents, self.periods = model, agents, periods
        self.by_period = model.horizon is not None
        names, functions = sorted_out(model, asked)
        usual, more = variable_names(model)
        env = dict.fromkeys((*usual, *more))
        # By name: a variable and its statistic, or a function to be averaged.
        self._statistics: dict[str, tuple[str, str]] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        for name in expanded(model, names):
            if name in model.moments:
                self._functions[name] = model.moments[name]
                continue
            parts = STATISTIC.fullmatch(name)
            assert parts is not None
            self._statistics[name] = (parts["statistic"], parts["variable"])
        for name, f in functions.items():
            bind(f, env, f"moment '{name}'")
            self._functions[name] = f
        self.names = (*expanded(model, names), *functions)
        needed = {v for _, v in self._statistics.values()}
        for f in self._functions.values():
            needed |= set(inspect.signature(f).parameters) & set(env)
        self.variables = tuple(n for n in env if n in needed)
        curved = {v for s, v in self._statistics.values() if _is_curved(s)}
        if 8 * agents * periods * len(curved) > MOST_BYTES:
            raise UsageError(
                f"quantiles, var, sd and gini of {', '.join(sorted(curved))} need the whole "
                f"sample, {8 * agents * periods * len(curved):,} bytes of at most {MOST_BYTES:,}: "
                "ask for fewer at once, or take fewer agents or periods"
            )
        self._held = {v: np.empty((periods, agents)) for v in curved}
        times = periods if self.by_period else 1
        self._means = {n: np.empty((times, agents)) for n in self.names if n not in self._curved}

    @property
    def _curved(self) -> set[str]:
        return {n for n, (s, _) in self._statistics.items() if _is_curved(s)}

    def add(self, first: int, found: Mapping[str, Numpy]) -> None:
        """Take in a block of agents: arrays (periods, agents) by variable."""
        stop = first + next(iter(found.values())).shape[1]
        for variable, held in self._held.items():
            held[:, first:stop] = found[variable]
        for name, means in self._means.items():
            x = self._scores(name, found)
            means[:, first:stop] = x if self.by_period else x.mean(0, keepdims=True)

    def _scores(self, name: str, found: Mapping[str, Numpy]) -> Numpy:
        """Return what is averaged (periods, agents)."""
        if name in self._functions:
            env = {v: NamedArray(jnp.asarray(x), DIMS) for v, x in found.items()}
            y = mapped(self._functions[name], env, DIMS, f"moment '{name}'")
            shape = next(iter(found.values())).shape
            return np.asarray(jnp.broadcast_to(y.array, shape), dtype=np.float64)
        statistic, variable = self._statistics[name]
        x = np.asarray(found[variable], dtype=np.float64)
        if statistic == "mean":
            return x
        nodes = np.asarray(self.model.states[variable].values)
        at_end: Numpy = x >= nodes[-1] if statistic == "top" else x <= nodes[0]
        return at_end.astype(np.float64)

    def estimates(self) -> dict[str, MomentEstimate]:
        """Return each moment and its standard error: floats, or arrays (time,) with a horizon."""
        found = {}
        for name in self.names:
            if name in self._means:
                found[name] = _of_mean(self._means[name])
                continue
            statistic, variable = self._statistics[name]
            found[name] = self._of_sample(statistic, self._held[variable])
        plain: Callable[[Any], Any] = np.asarray if self.by_period else lambda x: float(x[0])
        return {n: MomentEstimate(plain(x.value), plain(x.error)) for n, x in found.items()}

    def _of_sample(self, statistic: str, x: Numpy) -> MomentEstimate:
        rows = x if self.by_period else x.T.reshape(1, -1)  # an agent's periods side by side
        each = 1 if self.by_period else self.periods
        value = np.array([_statistic(statistic, row) for row in rows])
        groups = min(self.agents, max(2, min(math.isqrt(self.agents), MOST_GROUPS)))
        if groups < 2:
            return MomentEstimate(value, np.full_like(value, np.nan))
        cuts = [each * (g * self.agents // groups) for g in range(1, groups)]
        parts = np.array([[_statistic(statistic, part) for part in np.split(row, cuts)]
                          for row in rows])  # fmt: skip
        return MomentEstimate(value, parts.std(1, ddof=1) / math.sqrt(groups))


def _is_curved(statistic: str) -> bool:
    """Tell whether a statistic is no expectation."""
    return statistic in CURVED or statistic[1:].isdigit()


def _of_mean(means: Numpy) -> MomentEstimate:
    n = means.shape[1]
    error = means.std(1, ddof=1) / math.sqrt(n) if n > 1 else np.full(len(means), np.nan)
    return MomentEstimate(means.mean(1), error)


def _statistic(statistic: str, x: Numpy) -> float:
    """Return a statistic of a sample (n,), as :mod:`~.distributions.moments` has it."""
    if statistic in ("var", "sd"):
        variance = float(np.mean((x - x.mean()) ** 2))
        return variance if statistic == "var" else math.sqrt(variance)
    if statistic == "gini":
        ranked, n, mean = np.sort(x), x.size, float(x.mean())
        if ranked[0] < 0.0 or mean <= NOTHING * float(np.max(np.abs(x))):
            return math.nan
        return float(np.sum(ranked * (2.0 * np.arange(1, n + 1) - n - 1)) / (n * n * mean))
    return float(np.quantile(x, int(statistic[1:]) / 100.0, method="inverted_cdf"))
