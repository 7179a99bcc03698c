"""Utility functions: ``dp.crra``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

LEAST_LOG = -800.0  # below the logarithm of any positive number
CRRA = "dpsolve_crra"  # under this name it stands in a trace, where proofs of concavity know it


def crra(consumption: ArrayLike, gamma: ArrayLike) -> Array:
    r"""Return the utility of constant relative risk aversion, ``c**(1-gamma)/(1-gamma)``.

    Parameters
    ----------
    consumption : float or array (...)
        Positive consumption; the result is -inf at zero and NaN below when ``gamma >= 1``.
    gamma : float
        Relative risk aversion; at 1 the utility is ``log(c)``.

    Returns
    -------
    array (...)
        Of the shape of `consumption`.
    """
    found: Array = _compiled(consumption, gamma)
    return found


def _crra(consumption: ArrayLike, gamma: ArrayLike) -> Array:
    # Choices between arrays would be clearer. But sums, products and maxima are what XLA fuses with
    # the maximum over choices that follows, and evaluates by vectors: three times as fast.
    log_c = jnp.log(consumption)
    power = 1.0 - jnp.asarray(gamma, dtype=log_c.dtype)
    is_log = power == 0.0
    exponent = jnp.where(is_log, 1.0, power)
    scale = jnp.where(is_log, 0.0, 1.0 / exponent)
    powered = jnp.exp(exponent * log_c) * scale
    # Where this is multiplied by 0 it must be finite, also at no consumption.
    floor = jnp.where(is_log, -jnp.inf, LEAST_LOG)
    logged = jnp.where(is_log, 1.0, 0.0) * jnp.maximum(log_c, floor)
    return powered + logged


_crra.__name__ = CRRA
_compiled = jax.jit(_crra)
