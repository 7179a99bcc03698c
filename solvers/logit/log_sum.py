r"""Log-sums of values with type-I extreme value shocks, plain and nested.

With shocks :math:`\varepsilon_j` of scale :math:`\sigma` and mean zero, one for each alternative
:math:`j`, the expected maximum and the chance that :math:`j` has it are (McFadden 1978)

.. math::
    V(q) = E \max_j (q_j + \varepsilon_j) = \sigma \log \sum_j e^{q_j / \sigma}, \qquad
    P_j = \frac{\partial V}{\partial q_j} = e^{(q_j - V) / \sigma}.

With nests, within which shocks are correlated, of scales :math:`\lambda_k \le \sigma`,

.. math::
    I_k = \lambda_k \log \sum_{j \in k} e^{q_j / \lambda_k}, \quad
    V = \sigma \log \sum_k e^{I_k / \sigma}, \quad
    P_j = e^{(I_k - V) / \sigma}\, e^{(q_j - I_k) / \lambda_k}.

:math:`V` is monotone, moves with a constant added to all of :math:`q`, and is
:math:`\sum_j P_j q_j` plus the entropy :math:`H(P)`, which is what tastes are worth:
:math:`-\sigma \sum_j P_j \log P_j`, with nests :math:`-\sigma \sum_k P_k \log P_k
- \sum_k \lambda_k \sum_{j \in k} P_j \log (P_j / P_k)`. At given :math:`P` that is affine in
:math:`q`, and touches :math:`V` from below.

*Overflow.* Exponentials are of what lies below the greatest value: they are at most one, and their
sum is at least one, whatever the scale. As :math:`\sigma \to 0`, :math:`V \to \max_j q_j`.

*Rounding.* Errors in :math:`q` pass on to :math:`V` averaged by :math:`P`; where :math:`q_j` is far
below, its relative error counts with :math:`P_j |q_j - V| \le \sigma / e`, and
:math:`\sum_j P_j |q_j - \max q| \le \sigma \log J`. Exponentials and the logarithm are good to a
few units in the last place, and a sum of :math:`J` terms to :math:`J / 2` of them: absolutely, for
the sum is at least one. :func:`rounding` adds this up.

*Probabilities.* If each :math:`q_j` is off by :math:`\delta` at most, then :math:`P_j` is so by
:math:`\delta \max \sum_i |\partial P_j / \partial q_i| = \delta \max 2 P_j (1 - P_j) / \sigma =
\delta / (2 \sigma)`, whatever the number of alternatives. With nests, of :math:`a = P_{j|k}` and
:math:`b = P_k`, it is at most :math:`2 \delta\, ab\, [(1 - a) / \lambda_k + (1 - b) / \sigma]
\le (16 / 27)\, \delta / \lambda_k`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.summation import short_sum
from dpsolve.solvers.numerics.tracing import EPS

from .taste_shocks import TasteShocks

FEW = 16  # alternatives that are added one after another
OF_LOG_SUM = 16  # units of eps that exponentials, their sum, its logarithm and scaling may lose


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogSum:
    """The log-sum of some alternatives.

    Attributes
    ----------
    scale : float
        Of the shocks, in units of the values.
    nest_scales : tuple of float
        Of each nest.
    nests : tuple of tuples of int
        The alternatives of each nest; those in none are alone.
    """

    scale: Array
    nest_scales: tuple[Array, ...] = ()
    nests: tuple[tuple[int, ...], ...] = field(metadata={"static": True}, default=())

    @property
    def valid(self) -> Array:
        """Whether all scales are positive numbers, and no nest's is larger than the outer one."""
        ok = jnp.isfinite(self.scale) & (self.scale > 0.0)
        for scale in self.nest_scales:
            ok &= (scale > 0.0) & (scale <= self.scale)
        return ok

    def value(self, q: Array) -> tuple[Array, Array]:
        """Return log-sum (...) and probabilities (..., alternatives) of values.

        A value of -inf has no chance. Where all are, so is the log-sum; where one is NaN or +inf,
        it is +inf.
        """
        if not self.nests:
            return _log_sum(q, self.scale)
        inner = [
            _log_sum(q[..., np.asarray(nest)], scale)
            for nest, scale in zip(self.nests, self.nest_scales, strict=True)
        ]
        alone = self._alone(q.shape[-1])
        of_nests = jnp.stack([value for value, _ in inner], -1)
        top, chances = _log_sum(jnp.concatenate([of_nests, q[..., alone]], -1), self.scale)
        k = len(inner)
        parts = [within * chances[..., i, None] for i, (_, within) in enumerate(inner)]
        joined = jnp.concatenate([*parts, chances[..., k:]], -1)
        return top, joined[..., self._order(q.shape[-1])]

    def log_probabilities(self, q: Array) -> Array:
        """Return the logarithms of the probabilities (..., alternatives); -inf of no chance."""
        if not self.nests:
            return _log_chances(q, _log_sum(q, self.scale)[0], self.scale)
        parts, of_nests = [], []
        for nest, scale in zip(self.nests, self.nest_scales, strict=True):
            own = q[..., np.asarray(nest)]
            of_nests.append(_log_sum(own, scale)[0])
            parts.append(_log_chances(own, of_nests[-1], scale))
        outer = jnp.concatenate([jnp.stack(of_nests, -1), q[..., self._alone(q.shape[-1])]], -1)
        above = _log_chances(outer, _log_sum(outer, self.scale)[0], self.scale)
        k = len(parts)
        joined = [part + above[..., i, None] for i, part in enumerate(parts)]
        found = jnp.concatenate([*joined, above[..., k:]], -1)
        return found[..., self._order(q.shape[-1])]

    def entropy(self, p: Array) -> Array:
        """Return what tastes add (...) to the average value under probabilities p (..., n)."""
        if not self.nests:
            return self.scale * short_sum(_surprise(p, p))
        added = jnp.zeros(p.shape[:-1])
        outer = []
        for nest, scale in zip(self.nests, self.nest_scales, strict=True):
            own = p[..., np.asarray(nest)]
            whole = own.sum(-1, keepdims=True)
            added += scale * short_sum(_surprise(own, own / jnp.where(whole > 0.0, whole, 1.0)))
            outer.append(whole)
        among = jnp.concatenate([*outer, p[..., self._alone(p.shape[-1])]], -1)
        return added + self.scale * short_sum(_surprise(among, among))

    def spread(self, alternatives: int) -> Array:
        """Return what values that count may lie below the greatest, on average."""
        return self.scale * float(np.log(alternatives))

    def rounding(self, alternatives: int) -> Array:
        """Return what a log-sum may lose beside the errors of its values, over eps."""
        levels = 2 if self.nests else 1
        return levels * self.scale * (alternatives / 2 + OF_LOG_SUM)

    def probability_error(self, error: Array, alternatives: int) -> Array:
        """Bound the error of a probability, given one on that of the values; 1 is no news."""
        steepest = 0.5 / self.scale
        for scale in self.nest_scales:
            steepest = jnp.maximum(steepest, 16 / 27 / scale)
        own = (alternatives + 2 * OF_LOG_SUM) * EPS
        bound = error * steepest + own
        return jnp.where(bound < 1.0, bound, 1.0)

    def _alone(self, alternatives: int) -> NDArray[np.int64]:
        """Return the alternatives that are in no nest."""
        taken = {j for nest in self.nests for j in nest}
        return np.asarray([j for j in range(alternatives) if j not in taken], np.int64)

    def _order(self, alternatives: int) -> NDArray[np.int64]:
        """Return where each alternative stands when nests come first, one after the other."""
        listed = np.concatenate([*(np.asarray(n) for n in self.nests), self._alone(alternatives)])
        order: NDArray[np.int64] = np.argsort(listed.astype(np.int64))
        return order


def log_sum_of(taste: TasteShocks) -> LogSum:
    """Return the log-sum of values with a model's taste shocks."""
    scales = tuple(jnp.asarray(x, jnp.float64) for x in taste.nest_scales)
    return LogSum(jnp.asarray(taste.scale, jnp.float64), scales, taste.nests)


def _log_sum(q: Array, scale: Array) -> tuple[Array, Array]:
    # Over few alternatives by operations on whole arrays, which XLA turns into vectors.
    few = [q[..., j] for j in range(q.shape[-1])] if q.shape[-1] <= FEW else []
    if few:
        top = reduce(jnp.maximum, (jnp.where(jnp.isnan(x), jnp.inf, x) for x in few))
    else:
        top = largest(q, -1)
    top = lax.stop_gradient(top)
    good = jnp.isfinite(top)
    base = jnp.where(good, top, 0.0)
    possible = q > -jnp.inf
    # Masked twice: what has no chance must not put a NaN into derivatives, either.
    below = jnp.where(possible, q - base[..., None], 0.0) / scale
    weight = jnp.where(possible, jnp.exp(below), 0.0)
    parts = reduce(jnp.add, (weight[..., j] for j in range(len(few)))) if few else weight.sum(-1)
    total = jnp.where(good, parts, 1.0)
    return jnp.where(good, base + scale * jnp.log(total), top), weight / total[..., None]


def _log_chances(q: Array, value: Array, scale: Array) -> Array:
    possible = (q > -jnp.inf) & jnp.isfinite(value)[..., None]
    apart = jnp.where(possible, q, 0.0) - jnp.where(possible, value[..., None], 0.0)
    return jnp.where(possible, apart / scale, -jnp.inf)


def _surprise(p: Array, share: Array) -> Array:
    """Return -p log(share), 0 where p is."""
    some = p > 0.0
    return jnp.where(some, -p * jnp.log(jnp.where(some, share, 1.0)), 0.0)
