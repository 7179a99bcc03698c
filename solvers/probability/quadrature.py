r"""Few values in place of a distribution: Gauss quadrature, or the means of equally likely slices.

Both are of the family's standard member, plain numbers that a location and a scale are applied to:
so these may be parameters, and shapes may not. A Gauss rule of n nodes gives the expectation of
every polynomial of degree 2n - 1 exactly (Golub and Welsch 1969, *Mathematics of Computation* 23).
Slices keep the mean, whatever n is, and have a variance that is too small; they exist where a Gauss
rule does not, for want of moments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import (
    betainc,
    betaincinv,
    gammainc,
    gammaincinv,
    gammaln,
    ndtri,
    roots_genlaguerre,
    roots_hermitenorm,
    roots_jacobi,
    roots_legendre,
    stdtrit,
)

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import Numpy

Nodes = tuple[Numpy, Numpy]  # values (n,), and their probabilities


def hermite(n: int) -> Nodes:
    """Return n Gauss nodes of the standard normal."""
    return _checked("normal", n, *roots_hermitenorm(n))


def legendre(n: int) -> Nodes:
    """Return n Gauss nodes of the uniform distribution on [0, 1]."""
    x, w = roots_legendre(n)
    return _checked("uniform", n, (1.0 + x) / 2.0, w)


def laguerre(n: int, shape: float) -> Nodes:
    """Return n Gauss nodes of the gamma distribution with scale 1."""
    return _checked("gamma", n, *roots_genlaguerre(n, shape - 1.0))


def jacobi(n: int, a: float, b: float) -> Nodes:
    """Return n Gauss nodes of the beta distribution."""
    x, w = roots_jacobi(n, b - 1.0, a - 1.0)
    return _checked("beta", n, (1.0 + x) / 2.0, w)


def student(n: int, df: float) -> Nodes:
    r"""Return n Gauss nodes of Student's t, which has 2n - 1 moments if its `df` exceeds 2n - 2.

    Its polynomials obey :math:`p_{k+1} = x p_k - \beta_k p_{k-1}` with
    :math:`\beta_k = \nu k (\nu + 1 - k) / ((\nu - 2k)(\nu + 2 - 2k))`: those of Gegenbauer at an
    imaginary argument, and :math:`\beta_1` is the variance.
    """
    if not df > 2 * n - 2:
        raise ModelError(
            f"student_t: rule='gauss' of n={n} values rests on moments up to the {2 * n - 1}th, "
            f"which need df above {2 * n - 2}, and df={df:g}; take fewer values, or "
            "rule='equal_mass'"
        )
    k = np.arange(1.0, n)
    beta = df * k * (df + 1 - k) / ((df - 2 * k) * (df + 2 - 2 * k))
    x, vectors = eigh_tridiagonal(np.zeros(n), np.sqrt(beta))
    return _checked("student_t", n, (x - x[::-1]) / 2, vectors[0] ** 2)


def _checked(what: str, n: int, x: Any, w: Any) -> Nodes:
    with np.errstate(invalid="ignore"):
        probs = w / w.sum()
    if not (np.isfinite(x).all() and np.isfinite(probs).all() and (np.diff(x) > 0).all()):
        raise ModelError(f"{what}: n={n}; the nodes of so large a rule are not found: take fewer")
    return x, probs


def normal_slices(n: int) -> Nodes:
    """Return the means of n equally likely slices of the standard normal."""
    return _slices(n, ndtri, lambda x: -np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def uniform_slices(n: int) -> Nodes:
    """Return the means of n equally likely slices of the uniform distribution on [0, 1]."""
    return (np.arange(n) + 0.5) / n, np.full(n, 1.0 / n)


def gamma_slices(n: int, shape: float) -> Nodes:
    """Return the means of n equally likely slices of the gamma distribution with scale 1."""
    return _slices(n, lambda q: gammaincinv(shape, q), lambda x: shape * gammainc(shape + 1.0, x))


def beta_slices(n: int, a: float, b: float) -> Nodes:
    """Return the means of n equally likely slices of the beta distribution."""
    mean = a / (a + b)
    return _slices(n, lambda q: betaincinv(a, b, q), lambda x: mean * betainc(a + 1.0, b, x))


def student_slices(n: int, df: float) -> Nodes:
    """Return the means of n equally likely slices of Student's t; its mean exists above df = 1."""
    if not df > 1:
        raise ModelError(f"student_t: df={df:g}, and its mean exists only above 1")
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - np.log(df * np.pi) / 2

    def below(x: Numpy) -> Numpy:
        found: Numpy = -df / (df - 1) * np.exp(constant - (df - 1) / 2 * np.log1p(x**2 / df))
        return found

    return _slices(n, lambda q: stdtrit(df, q), below)


def _slices(n: int, quantile: Callable[[Numpy], Numpy], below: Callable[[Numpy], Numpy]) -> Nodes:
    """Return slices' means, given E[x; x <= cut], which may leave out a constant."""
    cuts = np.asarray(quantile(np.linspace(0.0, 1.0, n + 1)), np.float64)
    return n * np.diff(below(cuts)), np.full(n, 1.0 / n)
