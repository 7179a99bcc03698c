r"""Moments of a simulated panel with standard errors.

Agents :math:`i = 1..N` are independent and follow one law. Visits of each state are counted, in
integers, so the estimate of any moment is that moment of the distribution
:math:`\hat\mu(s) = \text{visits}(s) / NT`, and is the same to the last bit in whatever order the
visits are counted. Two kinds of standard error go with it.

- An expectation is linear in :math:`\hat\mu`: it is the mean over agents of
  :math:`\bar f_i = T^{-1} \sum_t f(s_{it})`, with :math:`f(s)` the expectation in the state, which
  is the moment's derivative by :math:`\mu(s)`. Its error is
  :math:`\mathrm{sd}(\bar f_i) / \sqrt N`, however strongly an agent's own periods depend on each
  other.
- Others (a quantile, ``gini``, ``var``, ``sd``) are found in :math:`G` groups of agents, too:
  :math:`\hat\sigma^2 = \sum_g (\theta_g - \bar\theta)^2 / G (G - 1)`, with :math:`G` the root of N
  and at most 64, so that it is known to some 9 %. A quantile is one of a grid's values: groups that
  agree on it give the error 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.sharding.devices.threads import in_order
from dpsolve.solvers.distributions.moments import expanded, moments_of
from dpsolve.solvers.distributions.solved_points import fixed_policy
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import STATISTIC, Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.simulation.agents import tally
from dpsolve.solvers.simulation.streams import Keys
from dpsolve.solvers.simulation.tables import PolicyTables
from dpsolve.solvers.solution import Problem, Solution

Asked = str | Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]]

PIECE = 2**14  # agents followed together
COUNT_BYTES = 64 * 2**20  # of their counts by group and state
MOST_GROUPS = 64
CURVED = ("var", "sd", "gini")  # and quantiles: not linear in the distribution


class MomentEstimate(NamedTuple):
    """A moment of a panel and its standard error: floats, or arrays (time,) with a horizon."""

    value: float | Numpy
    error: float | Numpy


def estimates(
    solution: Solution,
    model: Model | TabularModel,
    tables: PolicyTables,
    asked: Asked,
    start: Numpy,
    key: Keys,
    *,
    agents: int,
    periods: int,
    burn: int,
) -> dict[str, MomentEstimate]:
    """Estimate moments, from cumulative masses (states,); see :meth:`.simulate.Panel.moments`."""
    horizon = model.horizon is not None
    moments = _Moments(solution, model, asked, periods if horizon else None)
    groups = min(agents, max(2, min(math.isqrt(agents), MOST_GROUPS)))
    means = _Means()
    spread = _Means()
    total: Numpy | None = None
    visits = _Visits(tables, start, key, moments.shares, agents, periods, burn, horizon, groups)
    for counts, sums in visits:
        if counts is None:
            means.add(sums / periods)
            continue
        total = counts if total is None else total + counts
        spread.add(moments.of(counts)[None])
    assert total is not None
    values = moments.of(total)
    errors = spread.error
    if horizon:  # one observation of each agent at each period: the counts tell the variance
        mu = total / agents
        for i, share in zip(moments.linear, moments.shares, strict=True):
            f = np.where(mu > 0.0, share, 0.0)
            variance = (mu * (f - (mu * f).sum(-1, keepdims=True)) ** 2).sum(-1)
            errors[i] = np.sqrt(variance / (agents - 1)) if agents > 1 else np.nan
    elif moments.linear:
        errors[moments.linear] = means.error
    plain: Callable[[Any], Any] = np.asarray if horizon else float
    return {
        name: MomentEstimate(plain(value), plain(error))
        for name, value, error in zip(moments.names, values, errors, strict=True)
    }


class _Moments:
    """The moments that were asked for, as functions of counts of visits.

    Attributes
    ----------
    names : tuple of str
    linear : list of int
        Those that are expectations, by position.
    shares : list of array (states,), with a horizon (periods, states)
        Each expectation in each state.
    """

    def __init__(
        self, solution: Solution, model: Model | TabularModel, asked: Asked, periods: int | None
    ) -> None:
        # The point is an argument, as in a solve: what is concrete within a trace is not a number.
        self._point = jax.tree.map(jnp.asarray, (solution.parameters, solution.decisions))
        self._moments, slopes, names = _programs(solution.problem, _hashable(asked), periods)
        early = () if periods is None else (periods,)
        even = np.full((*early, math.prod(model.shape)), 1.0 / math.prod(model.shape))
        if not names:
            jax.eval_shape(self._moments, self._point, even)
        self.names = tuple(names)
        strings = [asked] if isinstance(asked, str) else [x for x in asked if isinstance(x, str)]
        named = () if isinstance(asked, Mapping) else expanded(model, strings)
        self.linear = [i for i, n in enumerate(self.names) if n not in named or _linear(model, n)]
        wanted = tuple(self.names[i] for i in self.linear)
        found = slopes(self._point, even, wanted) if wanted else {}
        self.shares = [np.asarray(found[name]) for name in wanted]

    def of(self, counts: Numpy) -> Numpy:
        """Return the moments (moments,), with a horizon (moments, periods)."""
        found = self._moments(self._point, counts / counts.sum(-1, keepdims=True))
        return np.stack([np.asarray(found[name]) for name in self.names])


@lru_cache(maxsize=64)
def _programs(
    problem: Problem, asked: tuple[Any, ...], periods: int | None
) -> tuple[Any, Any, dict[str, None]]:
    """Return compiled functions of a point and masses: the moments, and the slopes of some.

    The third is the moments' names, once one of these has been traced: in the order in which they
    were asked for, and not as JAX sorts them.
    """
    names: dict[str, None] = {}
    wished: Any = dict(asked[1:]) if asked[0] is Mapping else asked

    def at_once(parameters: Any, index: Any, mass: Array, t: Array | None) -> dict[str, Array]:
        made, fixed = fixed_policy(problem, parameters, index, t)
        found = moments_of(made, fixed, mass.reshape(made.shape), wished)
        names.update(dict.fromkeys(found))
        return found

    def over_time(f: Any, point: Any, mass: Array) -> Any:
        parameters, index = point
        if periods is None:
            return f(parameters, index, mass, None)
        early = {name: x[:periods] for name, x in index.items()}
        ts = jnp.arange(periods, dtype=jnp.int32)
        return lax.map(lambda x: f(parameters, *x), (early, mass, ts))

    def slopes(point: Any, mass: Array, wanted: tuple[str, ...]) -> Any:
        def some(*at: Any) -> dict[str, Array]:
            found = at_once(*at)
            return {name: found[name] for name in wanted}

        return over_time(jax.jacrev(some, argnums=2), point, mass)

    return jax.jit(partial(over_time, at_once)), jax.jit(slopes, static_argnums=2), names


def _hashable(asked: Asked) -> tuple[Any, ...]:
    if isinstance(asked, Mapping):
        return (Mapping, *asked.items())
    return (asked,) if isinstance(asked, str) else tuple(asked)


def _linear(model: Model | TabularModel, name: str) -> bool:
    """Tell whether a moment of that name is an expectation."""
    if isinstance(model, Model) and name in model.moments:
        return True
    parts = STATISTIC.fullmatch(name)
    assert parts is not None
    return parts["statistic"] not in CURVED and parts["statistic"][1:].isalpha()


class _Visits:
    """Visits of states, counted by groups of agents: pieces of the panel, in order."""

    def __init__(
        self,
        tables: PolicyTables,
        start: Numpy,
        key: Keys,
        shares: Sequence[Numpy],
        agents: int,
        periods: int,
        burn: int,
        by_period: bool,
        groups: int,
    ) -> None:
        self.shares = () if by_period else tuple(shares)
        # What is recorded is left out; the rest is placed on each device once.
        self.tables = cache(
            partial(jax.device_put, (replace(tables, values={}), start, self.shares))
        )
        self.key, self.agents, self.groups = key, agents, groups
        self.options = {"periods": periods, "burn": burn, "by_period": by_period}
        node_bytes = 8 * len(start) * (periods if by_period else 1)
        fits = max(3, COUNT_BYTES // node_bytes)  # groups whose counts are held together
        each = agents // groups
        self.piece = min(agents, PIECE, (fits - 2) * each)
        self.touched = min(groups, self.piece // each + 2)

    def __iter__(self) -> Iterator[tuple[Numpy | None, Numpy]]:
        """Yield each group's counts when they are complete, and (None, sums) of each piece."""
        pending: Numpy | None = None
        current = 0
        for first, counts, sums in in_order(self._piece, range(0, self.agents, self.piece)):
            if self.shares:
                yield None, sums
            stop = min(first + self.piece, self.agents)
            begin = self._group(first)
            for group in range(begin, self._group(stop - 1) + 1):
                if group != current and pending is not None:
                    yield pending, sums
                    pending = None
                current = group
                own = counts[..., group - begin, :]
                pending = own if pending is None else pending + own
        assert pending is not None
        yield pending, sums

    def _group(self, agent: Any) -> Any:
        """Return the number of an agent's group: groups are of one size, or one more."""
        return agent * self.groups // self.agents

    def _piece(self, first: int, device: Any) -> tuple[int, Numpy, Numpy]:
        numbers = first + np.arange(self.piece)
        group = self._group(numbers) - self._group(first)
        group = np.where(numbers < self.agents, group, self.touched)
        tables, start, shares = self.tables(device)
        counts, sums = tally(
            tables, start, self.key, np.uint32(first), group, shares,
            np.empty((self.touched, 0)), agents=self.piece, **self.options,
        )  # fmt: skip
        stop = min(self.agents - first, self.piece)
        stacked = np.stack([np.asarray(x)[:stop] for x in sums], 1) if sums else np.empty((stop, 0))
        return first, np.asarray(counts), stacked


class _Means:
    """The standard error of a mean, updated piece by piece (Chan, Golub and LeVeque, 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, x: Numpy) -> None:
        """Take in more observations (observations, ...)."""
        n, mean = len(x), x.mean(0)
        squares = ((x - mean) ** 2).sum(0)
        gap = mean - self.mean
        count = self.count + n
        self.squares = self.squares + squares + gap**2 * self.count * n / count
        self.mean = self.mean + gap * n / count
        self.count = count

    @property
    def error(self) -> Numpy:
        """Standard deviation over the root of the number; NaN for a single observation."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return np.asarray(np.sqrt(self.squares / (self.count - 1) / self.count))
