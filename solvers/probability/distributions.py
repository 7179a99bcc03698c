"""``dp.lognormal``: distributions of shocks, on few values."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jax import Array
from jax.scipy.special import ndtr as traced_ndtr
from scipy.special import ndtr, ndtri, roots_hermitenorm

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.given import check_number
from dpsolve.solvers.numerics.memory import check_length
from dpsolve.solvers.numerics.tracing import is_concrete, namespace

from .iid import Iid
from .probabilities import normalised


def lognormal(
    mu: Array | float,
    sigma: Array | float,
    n: int,
    *,
    rule: Literal["gauss", "equal_mass"] = "gauss",
) -> Iid:
    r"""Make a lognormal shock: :math:`e^x` of a normal :math:`x \sim N(\mu, \sigma^2)`.

    Parameters
    ----------
    mu, sigma : float
        Mean and standard deviation of the shock's logarithm; they may be parameters. The shock's
        own mean is ``exp(mu + sigma**2 / 2)``, so that ``mu = -sigma**2 / 2`` makes it one.
    n : int
        Number of values (static).
    rule : {"gauss", "equal_mass"}
        Gauss-Hermite nodes, :math:`e^{\mu + \sigma x_i}` (they give the expectation of a
        polynomial of degree 2n - 1 in the logarithm exactly); or n equally likely values, the
        means within n slices of equal probability.

    Returns
    -------
    Iid
        With increasing ``values`` (n,), and their ``probs`` (n,).

    Raises
    ------
    ModelError
        If `n` is no positive integer, `sigma` is negative, or `rule` is unknown.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ModelError(
            f"lognormal: n={n!r}; the number of values is a positive integer, and static: in a "
            "factory, put it after the '*'"
        )
    for name, x in (("mu", mu), ("sigma", sigma)):
        check_number(x, f"lognormal: {name}")
    if is_concrete(sigma) and float(sigma) < 0:
        raise ModelError(f"lognormal: sigma={sigma}; a standard deviation is not negative")
    if not isinstance(rule, str) or rule not in ("gauss", "equal_mass"):
        raise ModelError(f"lognormal: rule={rule!r}; it can be 'gauss' or 'equal_mass'")
    check_length(f"lognormal: n={n}", int(n))
    xp = namespace(mu, sigma)
    if rule == "gauss":
        nodes, weights = roots_hermitenorm(int(n))
        return Iid(xp.exp(mu + sigma * nodes), normalised(weights / weights.sum()))
    cuts = ndtri(np.linspace(0.0, 1.0, int(n) + 1))
    below, above = cuts[:-1] - sigma, cuts[1:] - sigma
    # Probabilities of slices to the right of zero are differences of small numbers on the left.
    flip = below > 0
    cdf = ndtr if xp is np else traced_ndtr
    mass = cdf(xp.where(flip, -below, above)) - cdf(xp.where(flip, -above, below))
    means = xp.exp(mu + sigma**2 / 2) * n * mass
    return Iid(means, np.full(int(n), 1.0 / n))
