r"""MacQueen-Porteus bounds on the value, from one Bellman sweep.

Let :math:`d = Tv - v`, and let the Bellman operator satisfy, for a weight function
:math:`w \ge 1` and every constant :math:`c \ge 0`,
:math:`Tv + c\,\rho_- w \le T(v + c\,w) \le Tv + c\,\rho_+ w` with
:math:`\rho_+ < 1`. Then, with :math:`\underline d = \min d/w` and :math:`\overline d = \max d/w`,

.. math::
    Tv + \frac{\rho_\pm}{1 - \rho_\pm}\,\underline d\, w \;\le\; v^* \;\le\;
    Tv + \frac{\rho_\pm}{1 - \rho_\pm}\,\overline d\, w,

where the upper bound takes :math:`\rho_+` if :math:`\overline d \ge 0` and :math:`\rho_-`
otherwise, and the lower bound the other way round. The proof uses only that :math:`T` is monotone
and how it answers to constants: nothing about where :math:`v` came from. So the iterations may be
as daring as they like.

* One discount factor: :math:`w = 1`, :math:`\rho_\pm = \beta`, as rows of probabilities sum to one.
* A discount that depends on state and choice, below 1: :math:`w = 1` and the range of the discount.
* A discount with single values of 1 or more: :math:`w` solves :math:`w = 1 + \max_c \beta E w` as
  far as it need be; :math:`\rho_+ = \max (\max_c \beta E w) / w` is then computed, not assumed,
  and :math:`\rho_- = 0`. It exists if and only if the spectral radius is below 1.
* Extrapolation makes weights negative and :math:`T` no longer monotone; it is a contraction still
  if the discount times the absolute weights is below 1, and then
  :math:`\pm\max|d|` takes the place of both ends.

*What the certificate is of*: the float64 :math:`\beta` and rewards as given, and each row's float64
probabilities divided by their exact sum.

*Around a constant.* A value near :math:`\beta = 1` is a large constant and a small rest,
:math:`v = c + u`, and with one discount factor :math:`Tv = \beta c + Tu` exactly. So the sweep is
made of the rest alone, and :math:`d = Tu - u - (1 - \beta) c` is rounded on the scale of the rest
and of one period's rewards, not of the value.

*Rounding.* An entry of a computed :math:`Tu` is off by at most ``depth * (eps * scale + 2 tiny)``:
the depth counts its roundings, two to one; the scale is that of :math:`u`, of :math:`Tu` and of the
terms that rewards are added up from (whose sum may be smaller); tiny is what XLA flushes to zero.
Choices worse than the best count with the best one's scale: a number that is far below stays below,
rounded relative to itself. An error in :math:`d` counts with its whole geometric series,
:math:`1 / (1 - \rho_+)`; what rounds when ends are put together again, shifted as they are, counts
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.partition import ALONE, Reductions
from dpsolve.solvers.numerics.tracing import EPS, TINY
from dpsolve.solvers.operators.base import BellmanOperator, Survey

MOST_GROWTH = 5_000  # sweeps spent on looking for a weight function
Growth = tuple[Array, Array, Array, Array | int]  # weights, their rate, last change, sweeps


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Modulus:
    """How the operator answers to a constant.

    Attributes
    ----------
    weight : array (states...), or the number 1
        The weight function.
    high, low : float
        The two rates; a `high` of 1 or more certifies nothing.
    monotone : bool
        Whether the operator is.
    magnitude, reach : float
        As the survey has them: see :class:`.Survey`.
    """

    weight: Array
    high: Array
    low: Array
    monotone: Array
    magnitude: Array
    reach: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bounds:
    """Certified bounds ``tv + below * w <= v* <= tv + above * w``, rounding included.

    Around a constant ``tv`` is ``T(v - offset) + discount * offset``.

    Attributes
    ----------
    below, above : float
        Multiples of the weight function.
    middle : float
        The multiple that, added to ``tv``, gives the value with the smallest certified error.
    error : float
        Certified sup-norm error of that value.
    rounding : float
        The part of it that is the allowance for rounding: no iteration gets below.
    residual : float
        Sup-norm of ``tv - v``.
    """

    below: Array
    above: Array
    middle: Array
    error: Array
    rounding: Array
    residual: Array


def modulus(operator: BellmanOperator, survey: Survey) -> Modulus:
    """Find the rates at which the operator damps constants."""
    one = jnp.ones(())
    over = operator.reductions
    beside = jnp.asarray(survey.magnitude, jnp.float64), jnp.asarray(survey.reach, jnp.float64)
    high, low, monotone = survey.rate, survey.discount_low, survey.monotone
    if operator.constant_discount:
        return Modulus(one, high, low, monotone, *beside)

    # A state-dependent discount: look for a weight function where single values reach 1.
    def proceed(carry: Growth) -> Array:
        _, _, change, k = carry
        return (k < MOST_GROWTH) & (change > 1e-3) & (high >= 1.0) & monotone

    def step(carry: Growth) -> Growth:
        w, _, _, k = carry
        grown = operator.growth(w)
        change = over.max(jnp.abs(1.0 + grown - w)) / over.max(w)
        blown = ~(over.max(grown) < 1e12)
        return (
            jnp.where(change > 1e-3, 1.0 + grown, w),
            over.max(grown / w),
            jnp.where(blown, 0.0, change),
            k + 1,
        )

    w0 = jnp.ones(operator.shape)
    begin: Growth = (w0, high, jnp.asarray(jnp.inf), 0)
    w, rate, _, _ = lax.while_loop(proceed, step, begin)
    weighted = (high >= 1.0) & monotone
    return Modulus(
        jnp.where(weighted, w, 1.0),
        jnp.where(weighted, rate * (1.0 + 4 * operator.depth * EPS), high),
        jnp.where(weighted, 0.0, low),
        monotone,
        *beside,
    )


def bounds(
    v: Array,
    tv: Array,
    modulus: Modulus,
    depth: int,
    over: Reductions = ALONE,
    offset: Array | float = 0.0,
) -> Bounds:
    """Bound the true value by what one sweep did to `v`.

    Parameters
    ----------
    v, tv : array (states...)
        A value, and what the sweep made of it.
    modulus : Modulus
        The operator's.
    depth : int
        Additions that one entry of `tv` went through.
    over : Reductions
        Reductions over all states, of which arrays may hold a part.
    offset : float
        The constant that `v` is above; other than 0 only with one discount factor.
    """
    w, high, low = modulus.weight, modulus.high, modulus.low
    step = (1.0 - low) * offset  # one discount factor, so that it is the least of them, too
    difference = (tv - v) / w - step
    top, bottom = over.max(difference), over.min(difference)
    residual = jnp.maximum(over.max(jnp.abs(tv - v - step)), 0.0)
    far = jnp.maximum(top, -bottom)
    top, bottom = (
        jnp.where(modulus.monotone, top, far),
        jnp.where(modulus.monotone, bottom, -far),
    )

    def series(d: Array, rate: Array) -> Array:
        return d * rate / (1.0 - rate)

    above = series(top, jnp.where(top >= 0, high, low))
    below = series(bottom, jnp.where(bottom < 0, high, low))
    scale = modulus.reach**2 * (over.max(jnp.maximum(jnp.abs(v), jnp.abs(tv))) + modulus.magnitude)
    of_sweep = (depth + 2) * (EPS * scale + 2 * TINY) + EPS * jnp.abs(step)
    of_ends = scale + jnp.abs(offset) + over.max(w) * jnp.maximum(jnp.abs(above), jnp.abs(below))
    rounding = of_sweep / (1.0 - high) + 2 * (EPS * of_ends + TINY)
    certain = high < 1.0
    above = jnp.where(certain, above + rounding, jnp.inf)
    below = jnp.where(certain, below - rounding, -jnp.inf)
    largest = over.max(w) * modulus.reach
    error = jnp.where(certain, (above - below) / 2 * largest, jnp.inf)
    return Bounds(
        below,
        above,
        jnp.where(certain, (above + below) / 2, 0.0),
        error,
        jnp.where(certain, rounding * largest, jnp.inf),
        residual,
    )
