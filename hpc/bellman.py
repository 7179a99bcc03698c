r"""The Bellman operator over lists of pairs, in plain NumPy: what verification is built on.

.. math::
    (Tv)(s) = \max_{c \,\text{feasible}} \; \sum_w p(w \mid s, c)\, r(s, c, w)
        + \beta(s, c) \sum_w p(w \mid s, c) \sum_{z'} P(z, z')\, v\bigl(x'(s, c, w), z'\bigr)

A :class:`Definition` evaluates rewards, discounts and expectations at lists of (state, choice)
pairs (:mod:`.definition` writes them down for each form of a model); :func:`bellman` takes the
maximum. Pairs are looked at in blocks, so that memory stays bounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Definition", "Index", "Look", "Mask", "Sweep", "bellman"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

BLOCK = 2**20  # entries (pairs x shocks x interpolation corners) that are looked at together


@dataclass(frozen=True)
class Look:
    """What the definition says about a list of N pairs.

    Attributes
    ----------
    reward, discount : array (N,)
        Expected reward and discount; both 0 where infeasible.
    feasible : bool array (N,)
        Whether the choice is allowed.
    monotone : bool
        Whether no feasible pair weighs a next state or the future negatively (extrapolation does).
    """

    reward: Array
    discount: Array
    feasible: Mask
    monotone: bool
    _expect: Callable[[Array, bool], Array]

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

    @property
    def n(self) -> int:
        """Number of states."""
        return prod(self.shape)

    @property
    def m(self) -> int:
        """Number of choices."""
        return prod(self.choice_shape)

    @abstractmethod
    def look(self, s: Index, c: Index, t: int | None = None) -> Look:
        """Evaluate a list of pairs, given by flat numbers of state and choice."""

    @abstractmethod
    def ahead(self, value: Array) -> Array:
        """Do what can be done of the expectation of a value (n,) once for all pairs."""

    @abstractmethod
    def terminal(self) -> Array:
        """Return the value (n,) after the last period."""

    @abstractmethod
    def outputs(self, s: Index, c: Index, t: int | None = None) -> dict[str, Array]:
        """Evaluate the outputs at a list of pairs, averaged over the shocks."""

    def blocks(self, t: int | None = None) -> Iterator[tuple[slice, slice, Look]]:
        """Walk over all pairs in blocks (states, choices); a look's pairs are in C order."""
        columns = max(1, min(self.m, BLOCK // self.width))
        rows = max(1, min(self.n, BLOCK // (self.width * columns)))
        for top in range(0, self.n, rows):
            for left in range(0, self.m, columns):
                rs = slice(top, min(top + rows, self.n))
                cs = slice(left, min(left + columns, self.m))
                s, c = np.meshgrid(np.arange(self.n)[rs], np.arange(self.m)[cs], indexing="ij")
                yield rs, cs, self.look(s.ravel(), c.ravel(), t)


@dataclass(frozen=True)
class Sweep:
    """One application of the operator to k values at once.

    Attributes
    ----------
    value : array (k, n)
        The maximum over feasible choices; −inf where there is none.
    policy : int array (k, n)
        The first choice that attains it, flat.
    discount : (float, float)
        Least and greatest discount of a feasible pair, times the sum of its weights (one, but for
        rounding and for extrapolation).
    monotone : bool
        Whether the operator preserves order.
    """

    value: Array
    policy: Index
    discount: tuple[float, float]
    monotone: bool


def bellman(definition: Definition, values: Sequence[Array], t: int | None = None) -> Sweep:
    """Apply the Bellman operator to each of several values (n,)."""
    k, n = len(values), definition.n
    best, policy = np.full((k, n), -np.inf), np.zeros((k, n), dtype=np.int64)
    ahead = [definition.ahead(value) for value in values]
    ones = definition.ahead(np.ones(n))
    least, greatest, monotone = np.inf, -np.inf, True
    for rs, cs, look in definition.blocks(t):
        if look.feasible.any():
            rates = look.growth(ones)[look.feasible]
            least, greatest = min(least, rates.min()), max(greatest, rates.max())
        monotone = monotone and look.monotone
        for i in range(k):
            q = look.q(ahead[i]).reshape(rs.stop - rs.start, -1)
            top = q.max(1)
            # A NaN wins and stays, so that it cannot hide.
            better = ~(top <= best[i, rs]) & ~np.isnan(best[i, rs])
            policy[i, rs] = np.where(better, q.argmax(1) + cs.start, policy[i, rs])
            best[i, rs] = np.where(better, top, best[i, rs])
    return Sweep(best, policy, (float(least), float(greatest)), monotone)
