r"""Certified error of a stationary distribution, from expected hitting times.

Let *s* be any state, and :math:`Q` the chain's matrix without its column *s*. If some
:math:`h \ge 0` has :math:`h - Q h \ge \delta > 0` at every state, then :math:`I - Q` is an
M-matrix with :math:`G = (I - Q)^{-1} \ge 0` and :math:`G\,1 \le h / \delta`: from everywhere the
chain reaches *s* within :math:`h / \delta` steps on average. So *s* is recurrent, there is **one**
recurrent class, and for any distribution :math:`\mu` with residual
:math:`r = P^\top \mu - \mu`

.. math::
    \lVert \mu - \mu^* \rVert_1 \;\le\; \frac{2}{\delta} \sum_{s' \ne s} |r_{s'}|\, h_{s'} .

*Proof.* Choose *c* so that :math:`x = \mu - c \mu^*` vanishes at *s*. As :math:`x - P^\top x = -r`,
elsewhere :math:`x = -G^\top r`, so :math:`\lVert x \rVert_1 \le \sum |r| h / \delta`; and
:math:`|1 - c| = |\sum x| \le \lVert x \rVert_1`. ∎

It takes nothing on trust: *h* may come from anywhere, for only the inequality is used. Both
:math:`h - Qh` and *r* are charged with what float64 may have lost in them. A sum of *m* terms is
taken to lose at most :math:`4 \sqrt{m}` units, four times what independent rounding errors do
(Higham and Mary 2019, *SIAM J. Sci. Comput.* 41); the worst case, *m* units, is never seen.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.numerics.krylov import bicgstab, richardson
from dpsolve.solvers.numerics.partition import ALONE, Reductions
from dpsolve.solvers.numerics.tracing import EPS

from .stationary_methods import Map

GOOD = 0.5  # of the slack: a better one would at most halve the bound
TRIES = 250  # BiCGSTAB iterations at a time
SMOOTHING = 20  # plain steps before them, which converge by themselves


def rounding(n: int) -> float:
    """Return what one product with a chain of n states may lose, relative to what it adds up."""
    return 0.5 * EPS * (16.0 + 4.0 * math.sqrt(n))


def slack(expect: Map, s: Array, h: Array, over: Reductions = ALONE) -> Array:
    r"""Return :math:`\delta`, the least of :math:`h - Qh` that rounding leaves; -inf if none.

    The times `h` are an array (n,); `s` is a state's number, `expect` a function of arrays (n,).
    """
    killed = jnp.where(over.numbers(h.shape[0]) == s, 0.0, h)
    ahead = expect(killed)
    least = over.min(h - ahead - rounding(h.shape[0]) * (h + ahead))
    return jnp.where(over.all(jnp.isfinite(h) & (h >= 0.0)), least, -jnp.inf)


def hitting_times(
    expect: Map, s: Array, start: Array, wanted: Array | bool, over: Reductions = ALONE
) -> tuple[Array, Array, Array]:
    r"""Approach the times until state `s` is next visited, well enough for a certificate.

    Parameters
    ----------
    start : array (n,)
        To go on from; 0 at first.
    wanted : bool
        False makes no product.

    Returns
    -------
    h, delta : array (n,), float
        Times, and their slack; the certificate holds if it is positive.
    applications : int
        Products made.
    """
    n = start.shape[0]
    one = jnp.ones(n)
    away = over.numbers(n) != s

    def onward(h: Array) -> Array:
        return expect(jnp.where(away, h, 0.0))

    most = jnp.where(jnp.asarray(wanted), TRIES, 0)
    h = richardson(onward, one, start, jnp.minimum(most, SMOOTHING))
    h, k = bicgstab(onward, one, h, jnp.asarray(0.5 * (1.0 - GOOD)), most, over)
    h = jnp.maximum(h, 0.0)
    made = jnp.minimum(most, SMOOTHING) + 2 * k + 3
    return h, slack(expect, s, h, over), jnp.where(jnp.asarray(wanted), made, 0).astype(jnp.int32)


def distance(
    mass: Array, moved: Array, s: Array, h: Array, delta: Array, over: Reductions = ALONE
) -> Array:
    """Return the certified L1 distance of a distribution from the stationary one; inf if none.

    Parameters
    ----------
    mass, moved : array (n,)
        The distribution, and what one step makes of it.
    """
    n = mass.shape[0]
    r = jnp.abs(moved - mass) + rounding(n) * (moved + mass)
    found = over.sum(r * weights(s, h, delta, over)) + jnp.abs(1.0 - over.sum(mass))
    return jnp.where((delta > 0.0) & over.all(jnp.isfinite(r)), found, jnp.inf)


def weights(s: Array, h: Array, delta: Array, over: Reductions = ALONE) -> Array:
    """Return what a unit of residual at each state can shift the distribution by, (n,)."""
    away = over.numbers(h.shape[0]) != s
    return jnp.where(away, 2.0 * h / jnp.where(delta > 0.0, delta, 1.0), 0.0)
