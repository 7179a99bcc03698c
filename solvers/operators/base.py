r"""Interfaces: BellmanOperator, PolicyOperator, Shortcut, Survey.

An operator stands for the Bellman operator
:math:`(Tv)(s) = \max_c \{ r(s, c) + \beta(s, c)\, E[v(s') \mid s, c] \}`
of one model at one parameter point, inside a JAX trace. A value is a float64 array (states...),
with the states' axes in the model's order; on a mesh, this device's part of it. A policy is an
int32 array (states...); what its numbers mean is the operator's own business (``labels``
translates). With taste shocks it is :class:`~dpsolve.solvers.discrete_choice.policy.Mixed`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.krylov import Inverse, bicgstab
from dpsolve.solvers.numerics.partition import ALONE, Partition, Reductions
from dpsolve.solvers.numerics.tridiagonal import line_solver


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Survey:
    """What one look over all feasible state-choice pairs tells about a model.

    Attributes
    ----------
    feasible : bool array (states...)
        The state has a feasible choice, one whose reward is above -inf where rewards are kept.
    finite : bool
        No feasible reward that is kept is NaN or +inf, and no grid value is NaN or infinite.
    increasing : bool
        Every grid of a state increases.
    gap : float
        The farthest that a feasible next state lies off its grid (0 if none does); infinite if
        one is NaN or infinite, on whatever grid.
    row_low, row_high : float
        Range of the sums of rows of probabilities (products, where there are several): one, but for
        rounding, unless a row was no distribution to begin with.
    least : float
        The most negative probability, or 0.
    discount_low, discount_high : float
        Range of the discount factor; infinite, as all of these are, if one is NaN.
    spread : float
        Largest sum of the absolute weights that a next state's value is interpolated with: 1,
        unless a grid extrapolates.
    magnitude : float
        What the terms that a reward is added up from exceed its own size by, where that is largest:
        twice the smaller of its positive and its negative part. And, where one sweep goes through
        several (:mod:`.cyclic`), what the values on the way may add to the ends' size.
    reach : float
        What an error may grow to on that way.
    refused : bool
        A number is out of the range that the factory may use it in: the scale of taste shocks.
    """

    feasible: Array
    finite: Array
    increasing: Array
    gap: Array
    row_low: Array
    row_high: Array
    least: Array
    discount_low: Array
    discount_high: Array
    spread: Array
    magnitude: Array | float = 0.0
    reach: Array | float = 1.0
    refused: Array | bool = False

    def over(self, reductions: Reductions) -> Survey:
        """Combine what the devices saw of their own states, to one verdict.

        Devices that came to different ones would part ways, and wait for each other for ever.
        """
        top = reductions.top
        return Survey(
            feasible=reductions.all(self.feasible),
            finite=reductions.all(self.finite),
            increasing=reductions.all(self.increasing),
            gap=top(self.gap),
            row_low=-top(-self.row_low),
            row_high=top(self.row_high),
            least=-top(-self.least),
            discount_low=-top(-self.discount_low),
            discount_high=top(self.discount_high),
            spread=top(self.spread),
            magnitude=top(jnp.asarray(self.magnitude)),
            reach=top(jnp.asarray(self.reach)),
            refused=self.refused,
        )

    @property
    def monotone(self) -> Array:
        """Whether no next state is weighed negatively."""
        return self.spread <= 1.0 + 1e-12

    @property
    def rate(self) -> Array:
        """Largest discount times the absolute weights of next states; these sum to one, or more."""
        return self.discount_high * jnp.where(self.monotone, 1.0, self.spread)

    def join(self, other: Survey) -> Survey:
        """Combine what was seen of two sets of pairs."""
        return Survey(
            feasible=self.feasible | other.feasible,
            finite=self.finite & other.finite,
            increasing=self.increasing & other.increasing,
            gap=jnp.maximum(self.gap, other.gap),
            row_low=jnp.minimum(self.row_low, other.row_low),
            row_high=jnp.maximum(self.row_high, other.row_high),
            least=jnp.minimum(self.least, other.least),
            discount_low=jnp.minimum(self.discount_low, other.discount_low),
            discount_high=jnp.maximum(self.discount_high, other.discount_high),
            spread=jnp.maximum(self.spread, other.spread),
            magnitude=jnp.maximum(self.magnitude, other.magnitude),
            reach=jnp.maximum(self.reach, other.reach),
            refused=self.refused | other.refused,
        )


OWN_DEPTH = 6
"""Units of eps that one entry of ``Tv`` may lose beside its expectation's: one for discounting and
adding the reward, the others for a reward that another program may round otherwise."""


class PolicyOperator(ABC):
    r"""One policy's reward and transition: :math:`T_\pi v = r_\pi + L_\pi v`."""

    reward: Array  # (states...)
    discount: Array  # a number, or (states...)
    reductions: Reductions = ALONE
    partition: Partition | None = None
    line: int | None = None  # the axis of a state that may walk step by step (see .line)

    @abstractmethod
    def expect(self, f: Array) -> Array:
        r"""Return :math:`P_\pi f` (states...), the expectation of a function `f` (states...)."""

    def around(self, offset: Array) -> PolicyOperator:
        """Return the same operator on what a value is above a constant."""
        other = copy.copy(self)
        other.reward = self.reward - (1.0 - self.discount) * offset
        return other

    def apply(self, v: Array) -> Array:
        r"""Return :math:`L_\pi v = \beta_\pi P_\pi v` (states...), the discounted expectation."""
        return self.discount * self.expect(v)

    def preconditioners(self) -> tuple[Inverse, Inverse]:
        """Return approximate inverses of ``x - L x`` (states...) and of its transpose, if any."""
        return None, None

    @property
    def proper(self) -> Array:
        """Whether no next state is extrapolated, so that the weights of `expect` are a chance."""
        return jnp.asarray(True)

    def evaluate(self, start: Array, tol: Array, max_iter: Array) -> tuple[Array, Array]:
        """Approach the policy's value from `start`, to a residual of `tol`.

        Parameters
        ----------
        start : array (states...)
        tol : float
            Sup-norm of the residual to reach.
        max_iter : int
            Krylov iterations at most; 0 does nothing.

        Returns
        -------
        value : array (states...)
        spent : bool
            Whether all of `max_iter` was used up before `tol` was reached.
        """
        over = self.reductions

        def solve() -> tuple[Array, Array]:
            more: dict[str, Any] = {}
            if self.line is not None:
                solver = line_solver(self.expect, self.discount, start.shape, self.line)
                more["precondition"] = solver
            return bicgstab(self.apply, self.reward, start, tol, max_iter, over, **more)

        # Much of the work comes before the first iteration, and many policies need none.
        left = over.max(jnp.abs(self.reward - start + self.apply(start)))
        wanted = (max_iter > 0) & (left > tol)
        value, k = lax.cond(wanted, solve, lambda: (start, jnp.int32(0)))
        return value, (k >= max_iter) & (max_iter > 0)


class BellmanOperator(ABC):
    """The Bellman operator of one model at one parameter point."""

    shape: tuple[int, ...]  # of the states
    constant_discount: bool  # one number for all states and choices
    reductions: Reductions = ALONE  # reductions over all states, of which this may hold a part
    depth: int  # units of eps that one entry of Tv may lose: half its roundings
    opening: Array | None = None  # a value (states...) to start from, where one is known
    kept: Any = None  # what it keeps of the pairs, for another operator of the same model

    @property
    def shift(self) -> Array | None:
        """What a constant added to a value comes to in ``Tv``, times that constant: the discount.

        None where that is no number, or none that is exact.
        """
        return None

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """Shape of a policy: that of the states."""
        return self.shape

    def undecided(self) -> Any:
        """Return a policy to begin with, before the first sweep."""
        return jnp.zeros(self.policy_shape, jnp.int32)

    def changed(self, policy: Any, last: Any) -> Array:
        """Return the share of states at which a policy is another than the last."""
        return self.reductions.mean((policy != last).astype(jnp.float64))

    def settled(self, value: Array, policy: Any) -> Any:
        """Return the policy that goes with a value (states...) that was found: the last sweep's."""
        del value
        return policy

    def responding(self, policy: Any, value: Array) -> Any:
        """Return a policy as it moves with parameters and the value (states...) ahead.

        For derivatives: choices are held fixed, and only probabilities move.
        """
        del value
        return policy

    @abstractmethod
    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return ``Tv`` and the first maximising policy: one full sweep.

        Parameters
        ----------
        v : array (states...)

        Returns
        -------
        tv : array (states...)
        policy : int32 array (states...)
            Of the shape :attr:`policy_shape`.
        """

    def improve(self, v: Array, policy: Array) -> tuple[Array, Array]:
        """Return what :meth:`greedy` does; a shortcut may look beside the last policy first.

        Parameters
        ----------
        v : array (states...)
        policy : int32 array (states...)
            Of the last sweep.
        """
        del policy
        return self.greedy(v)

    @abstractmethod
    def growth(self, w: Array) -> Array:
        r"""Return :math:`\max_c \beta(s, c) E[w(s')]` (states...), without rewards, for w > 0."""

    @abstractmethod
    def at(self, policy: Array) -> PolicyOperator:
        """Fix a policy (states...)."""

    @abstractmethod
    def survey(self) -> Survey:
        """Look over all pairs once for what would make a solution meaningless."""

    @abstractmethod
    def labels(self, policy: Array) -> dict[str, Array]:
        """Translate a policy to an index (states...) for each named choice."""

    @abstractmethod
    def policy_of(self, labels: Mapping[str, Array]) -> Array:
        """Translate an index (states...) for each named choice to a policy: ``labels`` undone."""

    def chances(self, policy: Any) -> dict[str, Array]:
        """Return the probabilities (states..., choices...) of choices that tastes decide on."""
        del policy
        return {}

    def likely(self, outputs: dict[str, Array], policy: Any) -> dict[str, Array]:
        """Return outputs by name with 0 where a policy makes them of no chance."""
        del policy
        return outputs

    def chance_error(self, value: Array, error: Array) -> dict[str, Array]:
        """Bound what a value's error makes of the probabilities that follow from it: by name."""
        del value, error
        return {}

    def start(self) -> Array:
        """Return the value (states...) that iterations start from."""
        return jnp.zeros(self.shape) if self.opening is None else self.opening


class Shortcut(BellmanOperator):
    """An operator whose sweeps cost less and may miss a better choice, so that they prove nothing.

    Attributes
    ----------
    vouches : bool
        Whether :meth:`confirms` can tell more, by a sample.
    patience : int
        Sweeps without a smaller error after which it has told all that it can.
    """

    vouches = False
    patience = 60

    def confirms(self, v: Array, tv: Array, policy: Array) -> Array:
        """Tell whether no choice that was looked at beyond the sweep's is better than the policy.

        One that does not vouch confirms nothing.

        Parameters
        ----------
        v, tv : array (states...)
            A value and what :meth:`greedy` made of it.
        policy : int32 array (states...)
            The policy that it found.

        Returns
        -------
        bool
        """
        del v, tv, policy
        return jnp.asarray(False)
