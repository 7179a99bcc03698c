r"""Bellman operator over lists of pairs in plain NumPy.

.. math::
    (Tv)(s) = \max_{c \,\text{feasible}} \; \sum_w p(w \mid s, c)\, r(s, c, w)
        + \beta(s, c) \sum_w p(w \mid s, c) \sum_{z'} P(z, z')\, v\bigl(x'(s, c, w), z'\bigr)

A :class:`Definition` evaluates rewards, discounts and expectations at lists of (state, choice)
pairs (:mod:`.pairs` writes them down for each form of a model); :func:`bellman` takes the
maximum, and with taste shocks the log-sum over some choices of the maximum over the others. Pairs
are looked at in blocks, so that memory stays bounded.

Numbers are added up in extended precision (64 bits of mantissa on x86, 113 on some others; where a
machine has no more than float64, allowances are that much wider), and each row of probabilities is
divided by its own sum here, so that rounding is not the solver's either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

WIDE = np.longdouble
WIDE_EPS = float(np.finfo(WIDE).eps)
BLOCK = 2**16  # entries (pairs x shocks x interpolation corners) that are looked at together


@dataclass(frozen=True)
class Tastes:
    """Extreme value shocks of mean zero to the alternatives, the combinations of some choices.

    Attributes
    ----------
    name : str
        What their probabilities are called in results.
    choices : tuple of str
    shape : tuple of int
        Values of each choice.
    of_choice : int array (choices,)
        The alternative that a flat choice belongs to.
    scale : float
    nests : tuple of (int array, float)
        Members and scale of each nest; the others are alone.
    """

    name: str
    choices: tuple[str, ...]
    shape: tuple[int, ...]
    of_choice: Index
    scale: float
    nests: tuple[tuple[Index, float], ...]

    @property
    def alternatives(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def steepest(self) -> float:
        """What a probability moves by, at most, when each value does by one."""
        return max([0.5 / self.scale, *(16 / 27 / scale for _, scale in self.nests)])

    @property
    def room(self) -> float:
        """What a log-sum is rounded on the scale of, beside that of its values."""
        return self.scale * (float(np.log(self.alternatives)) + self.alternatives / 2 + 16)

    def log_sum(self, q: Array) -> tuple[Array, Array]:
        """Return log-sums (...) and chances (..., alternatives) of values."""
        groups = [members for members, _ in self.nests]
        taken = np.concatenate([*groups, np.zeros(0, np.int64)])
        alone = np.setdiff1d(np.arange(self.alternatives), taken)
        inner = [_log_sum(q[..., members], scale) for members, scale in self.nests]
        outer = np.concatenate([*(v[..., None] for v, _ in inner), q[..., alone]], -1)
        value, above = _log_sum(outer, self.scale)
        chance: Array = np.zeros(q.shape, WIDE)
        for k, members in enumerate(groups):
            chance[..., members] = above[..., k, None] * inner[k][1]
        chance[..., alone] = above[..., len(groups) :]
        return value, chance


def _log_sum(q: Array, scale: float) -> tuple[Array, Array]:
    top = q.max(-1)
    with np.errstate(invalid="ignore"):
        weight = np.exp((q - top[..., None]) / WIDE(scale))  # a NaN stays: it cannot hide
        total = weight.sum(-1)
        value = top + WIDE(scale) * np.log(total)
    return np.where(top == -np.inf, top, value), weight / total[..., None]


@dataclass(frozen=True)
class Decisions:
    """What is done at each state: one choice, or several by their chances.

    Attributes
    ----------
    choice : int array (periods, n, alternatives)
        Flat choices; without taste shocks there is one alternative.
    chance : array (periods, n, alternatives)
    """

    choice: Index
    chance: Array

    @classmethod
    def sure(cls, choice: Index) -> Decisions:
        """Return decisions for one flat choice (periods, n)."""
        return cls(choice[..., None], np.ones((*choice.shape, 1)))

    def at(self, t: int) -> Iterator[tuple[Index, Array]]:
        """Yield a period's choices and chances (n,), alternative by alternative."""
        for j in range(self.choice.shape[-1]):
            yield self.choice[t, :, j], self.chance[t, :, j]


@dataclass(frozen=True)
class PairValues:
    """What the definition says about a list of N pairs.

    Attributes
    ----------
    reward, discount : array (N,)
        Expected reward and discount; both 0 where infeasible.
    feasible : bool array (N,)
        Whether the choice is allowed.
    mass : array (N,)
        Sum of the weights of next states, each by its absolute value: one, but for extrapolation.
    cancelled : array (N,)
        What the terms of the reward exceed its own size by: twice the smaller of their positive and
        their negative part.
    monotone : bool
        Whether no feasible pair weighs a next state or the future negatively (extrapolation does).
    """

    reward: Array
    discount: Array
    feasible: Mask
    mass: Array
    cancelled: Array
    monotone: bool
    _expect: Callable[[Array, bool], Array]
    _push: Callable[[Array], Array]

    def push(self, mass: Array) -> Array:
        """Return where the masses (N,) of the pairs go, for ``Definition.behind`` to finish."""
        return self._push(np.where(self.feasible, mass, 0.0))

    def expect(self, ahead: Array, absolute: bool = False) -> Array:
        """Return the expectation (N,) of a value that ``Definition.ahead`` has prepared.

        With `absolute`, every weight counts by its absolute value.
        """
        return np.where(self.feasible, self._expect(ahead.reshape(-1), absolute), 0.0)

    def q(self, ahead: Array) -> Array:
        """Return reward plus discounted expectation (N,), −inf where infeasible."""
        total = self.reward + self.discount * self.expect(ahead)
        return np.where(self.feasible, total, -np.inf)

    def growth(self, ahead: Array) -> Array:
        """Return the discounted expectation (N,), every factor by its absolute value."""
        return np.abs(self.discount) * self.expect(ahead, absolute=True)


class Definition(ABC):
    """A problem, pair by pair: ``n`` states and ``m`` choices, both flattened in C order."""

    shape: tuple[int, ...]
    choice_shape: tuple[int, ...]
    horizon: int | None
    width: int  # entries that one pair takes up in a block
    depth: int  # additions that one entry of an expectation goes through
    constant: float | None  # the discount, where it is one number
    units: int  # of the last place, in which the solver's model may differ from this one
    tastes: Tastes | None = None

    @property
    def n(self) -> int:
        """Number of states."""
        return prod(self.shape)

    @property
    def m(self) -> int:
        """Number of choices."""
        return prod(self.choice_shape)

    @abstractmethod
    def look(self, s: Index, c: Index, t: int | None = None) -> PairValues:
        """Evaluate a list of pairs, given by flat numbers of state and choice."""

    @abstractmethod
    def ahead(self, value: Array, t: int | None = None) -> Array:
        """Do what can be done of the expectation of a value (n,) once for all pairs of a period."""

    @abstractmethod
    def behind(self, pushed: Array, t: int | None = None) -> Array:
        """Return the masses (n,) of next period's states: the transpose of ``ahead``."""

    @abstractmethod
    def terminal(self) -> Array:
        """Return the value (n,) after the last period."""

    @abstractmethod
    def outputs(self, s: Index, c: Index, t: int | None = None) -> dict[str, Array]:
        """Evaluate the outputs at a list of pairs, averaged over the shocks."""

    @abstractmethod
    def draws(self, s: Index, c: Index) -> tuple[dict[str, Array], Array]:
        """Return values (N, W) as drawn with W shocks, and the chances of those.

        By name: states, choices, shocks, outputs, and the model's own ``moment_<name>``.
        """

    def blocks(
        self, t: int | None = None, states: Index | None = None
    ) -> Iterator[tuple[slice, slice, PairValues]]:
        """Walk over all pairs in blocks, a look's pairs in C order.

        Yields the slice of `states` (all, or the flat numbers given), that of the choices, and
        the look.
        """
        rows = np.arange(self.n) if states is None else states
        width = max(1, min(self.m, BLOCK // self.width))
        height = max(1, min(rows.size, BLOCK // (self.width * width)))
        for top in range(0, rows.size, height):
            for left in range(0, self.m, width):
                down = slice(top, min(top + height, rows.size))
                across = slice(left, min(left + width, self.m))
                s, c = np.meshgrid(rows[down], np.arange(self.m)[across], indexing="ij")
                yield down, across, self.look(s.ravel(), c.ravel(), t)


@dataclass(frozen=True)
class BellmanSweep:
    """One application of the operator to k values at once.

    Attributes
    ----------
    value : array (k, states)
        The maximum over feasible choices; −inf where there is none.
    policy : int array (k, states)
        The first choice that attains it, flat; with taste shocks (k, states, alternatives).
    discount : (float, float)
        Least and greatest discount of a feasible pair, times the mass of its next states.
    cancelled : float
        The most that the terms of a feasible pair's reward exceed its size by.
    monotone : bool
        Whether the operator preserves order.
    each, chance : array (k, states, alternatives), or None
        With taste shocks, each alternative's greatest value, and its chance.
    """

    value: Array
    policy: Index
    discount: tuple[float, float]
    cancelled: float
    monotone: bool
    each: Array | None = None
    chance: Array | None = None


def bellman(
    definition: Definition,
    values: Sequence[Array],
    t: int | None = None,
    states: Index | None = None,
) -> BellmanSweep:
    """Apply the Bellman operator to each of several values (n,), at all or at some states."""
    tastes, rows = definition.tastes, definition.n if states is None else states.size
    of_choice = np.zeros(definition.m, np.int64) if tastes is None else tastes.of_choice
    best = [_Best(len(values), rows) for _ in range(int(of_choice.max()) + 1)]
    ahead = [definition.ahead(value, t) for value in values]
    least, greatest, cancelled, monotone = np.inf, -np.inf, 0.0, True
    for down, across, look in definition.blocks(t, states):
        products = (np.abs(look.discount) * look.mass)[look.feasible]
        least = min(least, products.min(initial=np.inf))
        greatest = max(greatest, products.max(initial=-np.inf))
        cancelled = max(cancelled, float(look.cancelled[look.feasible].max(initial=0.0)))
        monotone = monotone and look.monotone
        columns = np.arange(across.start, across.stop)
        for k, prepared in enumerate(ahead):
            score = look.q(prepared).reshape(down.stop - down.start, -1)
            for j in np.unique(of_choice[across]):
                own = of_choice[across] == j
                best[j].update(k, down, columns[own], score[:, own])
    rates = (float(least), float(greatest))
    if monotone and definition.constant is not None:  # rows sum to one
        rates = (definition.constant, definition.constant)
    if tastes is None:
        return BellmanSweep(best[0].value, best[0].policy, rates, cancelled, monotone)
    each = np.stack([one.value for one in best], -1)
    value, chance = tastes.log_sum(each)
    policy = np.stack([one.policy for one in best], -1)
    cancelled += tastes.room
    return BellmanSweep(value, policy, rates, cancelled, monotone, each, chance)


def growth(definition: Definition, weight: Array) -> tuple[Array, Index]:
    """Return the greatest discounted expectation of a weight (n,), and the choice that has it.

    It is the operator without rewards, every factor by its absolute value.
    """
    best = _Best(1, definition.n)
    ahead = definition.ahead(weight)
    for down, across, look in definition.blocks():
        score = np.where(look.feasible, look.growth(ahead), -np.inf)
        columns = np.arange(across.start, across.stop)
        best.update(0, down, columns, score.reshape(down.stop - down.start, -1))
    return best.value[0], best.policy[0]


class _Best:
    """The maximum so far, and the first choice that attains it."""

    def __init__(self, k: int, n: int) -> None:
        self.value: Array = np.full((k, n), -np.inf, WIDE)
        self.policy = np.zeros((k, n), dtype=np.int64)

    def update(self, k: int, down: slice, columns: Index, score: Array) -> None:
        top, old = score.max(1), self.value[k, down]
        better = ~(top <= old) & ~np.isnan(old)  # a NaN wins and stays: it cannot hide
        first = columns[score.argmax(1)]
        self.policy[k, down] = np.where(better, first, self.policy[k, down])
        self.value[k, down] = np.where(better, top, old)
