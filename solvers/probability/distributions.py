r"""``dp.normal``, ``lognormal``, ``student_t``, ``uniform``, …: distributions, on few values.

Each returns a shock of n values. ``rule="gauss"`` takes the nodes of the family's Gauss rule, which
give the expectation of every polynomial of degree 2n - 1 exactly; ``rule="equal_mass"`` the means
within n slices of equal probability (:mod:`.quadrature`). Locations and scales may be parameters of
a factory, and shapes are plain numbers: a family's nodes have no closed form in these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Literal, cast

import numpy as np
from jax import Array
from jax.scipy.special import gammainc as traced_gammainc
from jax.scipy.special import ndtr as traced_ndtr
from jax.scipy.special import xlogy as traced_xlogy
from numpy.typing import ArrayLike
from scipy.special import gammainc, gammaln, ndtr, ndtri, xlogy

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.given import check_number, depth
from dpsolve.solvers.numerics.memory import check_length
from dpsolve.solvers.numerics.tracing import is_concrete, namespace

from . import quadrature
from .iid import Iid
from .probabilities import normalised
from .quadrature import Nodes

Number = Array | float
Rule = Literal["gauss", "equal_mass"]


def normal(mean: ArrayLike, sd: ArrayLike, n: int | Sequence[int], *, rule: Rule = "gauss") -> Iid:
    r"""Make a normal shock, or several correlated ones.

    Parameters
    ----------
    mean : float or array (m,)
        Mean; an array of m means makes m shocks that are drawn together.
    sd : float or array (m, m)
        Standard deviation; or, of several, their covariance matrix. Both may be parameters.
    n : int or m ints
        Number of values (static); of several, of each of the independent standard normals that
        they are combined from, by the Cholesky factor: n**m joint draws.
    rule : {"gauss", "equal_mass"}
        As for :func:`lognormal`.

    Returns
    -------
    Iid
        With ``values`` (n,), increasing, and their ``probs`` (n,); of several, ``values``
        (m, n**m), which stand under a tuple of names: ``shocks={("ret", "y"): dp.normal(means,
        cov, 5)}``.

    Raises
    ------
    ModelError
        If `n` is no positive integer, `sd` is negative or no covariance matrix, or `rule` is
        unknown.
    """
    if not depth(mean) and not depth(sd):
        _check("normal", n, rule, mean=mean)
        scale = _not_negative("normal", "sd", sd)
        x, probs = _standard_normal(n, rule)
        return Iid(mean + scale * x, normalised(probs))
    return Iid(*_jointly("normal", mean, sd, n, rule))


def lognormal(
    mu: ArrayLike, sigma: ArrayLike, n: int | Sequence[int], *, rule: Rule = "gauss"
) -> Iid:
    r"""Make a lognormal shock: :math:`e^x` of a normal :math:`x \sim N(\mu, \sigma^2)`.

    Parameters
    ----------
    mu, sigma : float
        Mean and standard deviation of the shock's logarithm; they may be parameters. The shock's
        own mean is ``exp(mu + sigma**2 / 2)``, so that ``mu = -sigma**2 / 2`` makes it one. Means
        (m,) and a covariance matrix (m, m) make m correlated shocks, as for :func:`normal`.
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
    if depth(mu) or depth(sigma):
        if rule == "equal_mass":
            raise ModelError(
                "lognormal: rule='equal_mass' of several shocks: the means of slices are those of "
                "one; leave rule out"
            )
        values, probs = _jointly("lognormal", mu, sigma, n, rule)
        return Iid(namespace(values).exp(values), probs)
    _check("lognormal", n, rule, mu=mu)
    scale = _not_negative("lognormal", "sigma", sigma)
    xp = namespace(mu, scale)
    if rule == "gauss":
        x, probs = _standard_normal(n, rule)
        return Iid(xp.exp(mu + scale * x), normalised(probs))
    slices = int(cast("int", n))
    cuts = ndtri(np.linspace(0.0, 1.0, slices + 1))
    below, above = cuts[:-1] - scale, cuts[1:] - scale
    # Probabilities of slices to the right of zero are differences of small numbers on the left.
    flip = below > 0
    cdf = ndtr if xp is np else traced_ndtr
    mass = cdf(xp.where(flip, -below, above)) - cdf(xp.where(flip, -above, below))
    return Iid(xp.exp(mu + scale**2 / 2) * slices * mass, np.full(slices, 1.0 / slices))


def student_t(df: float, mean: Number, scale: Number, n: int, *, rule: Rule = "equal_mass") -> Iid:
    """Make a shock ``mean + scale * t``, with t of Student's distribution.

    Parameters
    ----------
    df : float
        Degrees of freedom, above 1; a plain number. The variance is ``scale**2 * df / (df - 2)``.
    mean, scale : float
        Location and scale; they may be parameters.
    n : int
        Number of values (static).
    rule : {"equal_mass", "gauss"}
        As for :func:`lognormal`. A Gauss rule rests on moments that exist only for ``df > 2n - 2``.

    Raises
    ------
    ModelError
        If a parameter is outside of its range.
    """
    _check("student_t", n, rule, mean=mean)
    nu = _shape("student_t", "df", df)
    scale = _not_negative("student_t", "scale", scale)
    rules = {"gauss": quadrature.student, "equal_mass": quadrature.student_slices}
    x, probs = rules[rule](int(n), nu)
    return Iid(mean + scale * x, normalised(probs))


def uniform(lo: Number, hi: Number, n: int, *, rule: Rule = "gauss") -> Iid:
    """Make a shock that is uniform between `lo` and `hi`, which may be parameters.

    Parameters
    ----------
    lo, hi : float
    n : int
        Number of values (static).
    rule : {"gauss", "equal_mass"}
        Gauss-Legendre nodes, or the midpoints of n slices.

    Raises
    ------
    ModelError
        If `lo` is not below `hi`, `n` is no positive integer, or `rule` is unknown.
    """
    _check("uniform", n, rule, lo=lo, hi=hi)
    if is_concrete(lo, hi) and float(lo) >= float(hi):
        raise ModelError(f"uniform: lo={lo} is not below hi={hi}")
    width = _not_negative("uniform", "hi - lo", hi - lo)
    rules = {"gauss": quadrature.legendre, "equal_mass": quadrature.uniform_slices}
    x, probs = rules[rule](int(n))
    return Iid(lo + width * x, normalised(probs))


def exponential(mean: Number, n: int, *, rule: Rule = "gauss") -> Iid:
    """Make an exponential shock with a mean, which may be a parameter.

    Parameters
    ----------
    mean : float
    n : int
        Number of values (static).
    rule : {"gauss", "equal_mass"}
        Gauss-Laguerre nodes, or as for :func:`lognormal`.

    Raises
    ------
    ModelError
        If the mean is negative, `n` is no positive integer, or `rule` is unknown.
    """
    return _gamma("exponential", 1.0, "mean", mean, n, rule)


def gamma(shape: float, scale: Number, n: int, *, rule: Rule = "gauss") -> Iid:
    """Make a gamma shock; its mean is ``shape * scale``, its variance ``shape * scale**2``.

    Parameters
    ----------
    shape : float
        A plain number.
    scale : float
        It may be a parameter.
    n : int
        Number of values (static).
    rule : {"gauss", "equal_mass"}
        Generalised Gauss-Laguerre nodes, or as for :func:`lognormal`.

    Raises
    ------
    ModelError
        If a parameter is outside of its range.
    """
    return _gamma("gamma", _shape("gamma", "shape", shape), "scale", scale, n, rule)


def _gamma(what: str, shape: float, name: str, scale: Any, n: Any, rule: Any) -> Iid:
    _check(what, n, rule)
    scale = _not_negative(what, name, scale)
    rules = {"gauss": quadrature.laguerre, "equal_mass": quadrature.gamma_slices}
    x, probs = rules[rule](int(n), shape)
    return Iid(scale * x, normalised(probs))


def beta(a: float, b: float, n: int, *, rule: Rule = "gauss") -> Iid:
    """Make a beta shock, between 0 and 1; its mean is ``a / (a + b)``.

    Parameters
    ----------
    a, b : float
        Shapes, plain numbers.
    n : int
        Number of values (static).
    rule : {"gauss", "equal_mass"}
        Gauss-Jacobi nodes, or as for :func:`lognormal`.

    Raises
    ------
    ModelError
        If a parameter is outside of its range.
    """
    _check("beta", n, rule)
    rules = {"gauss": quadrature.jacobi, "equal_mass": quadrature.beta_slices}
    x, probs = rules[rule](int(n), _shape("beta", "a", a), _shape("beta", "b", b))
    return Iid(x, normalised(probs))


def poisson(mean: Number, n: int) -> Iid:
    """Make a Poisson shock on the whole numbers from 0 to n - 1, as demand is.

    Parameters
    ----------
    mean : float
        It may be a parameter.
    n : int
        Number of values (static). The last has the chance of all that are n - 1 or more.

    Returns
    -------
    Iid
        With integer ``values`` 0, ..., n - 1.

    Raises
    ------
    ModelError
        If the mean is negative, or at or above the last value; or `n` is no positive integer.
    """
    _check("poisson", n, "gauss")
    n, mean = int(n), _not_negative("poisson", "mean", mean)
    if is_concrete(mean) and float(mean) >= max(n - 1, 1):
        raise ModelError(
            f"poisson: n={n} values reach to {n - 1}, and the mean is {mean:g}: the last value "
            "stands for all above it; take n well beyond the mean"
        )
    k = np.arange(n)
    plain = is_concrete(mean)
    xp = namespace(mean)
    power = (xlogy if plain else traced_xlogy)(k[:-1] * 1.0, mean)
    within = xp.exp(power - mean - gammaln(k[:-1] + 1.0))
    tail = (gammainc if plain else traced_gammainc)(n - 1.0, mean) if n > 1 else xp.ones(())
    return Iid(k, normalised(xp.append(within, tail)))


# -- what they have in common -------------------------------------------------------------------


def _standard_normal(n: Any, rule: str) -> Nodes:
    rules: dict[str, Callable[[int], Nodes]] = {
        "gauss": quadrature.hermite,
        "equal_mass": quadrature.normal_slices,
    }
    return rules[rule](int(n))


def _jointly(what: str, means: Any, cov: Any, n: Any, rule: str) -> tuple[AnyArray, AnyArray]:
    """Return joint draws (m, N) of correlated normals, and their probabilities (N,)."""
    xp = namespace(means, cov)
    means, cov = xp.asarray(means, float), xp.asarray(cov, float)
    m = means.shape[0] if means.ndim == 1 else 0
    if not m or cov.shape != (m, m):
        raise ModelError(
            f"{what}: means of shape {means.shape} and a covariance matrix of shape {cov.shape}; "
            "of m shocks they are (m,) and (m, m), of one both are numbers"
        )
    numbers = (n,) * m if np.ndim(n) == 0 else tuple(n)
    if len(numbers) != m:
        raise ModelError(f"{what}: n={n!r} for {m} shocks; it is one number, or one for each")
    for one in numbers:
        _check(what, one, rule)
    check_length(f"{what}: n={n}", m * int(np.prod(numbers)))
    nodes = [_standard_normal(one, rule) for one in numbers]
    z = np.array(list(product(*(x for x, _ in nodes)))).T
    probs = np.array([np.prod(w) for w in product(*(w for _, w in nodes))])
    return means[:, None] + cholesky(cov, f"{what}: the covariance matrix") @ z, normalised(probs)


def cholesky(cov: AnyArray, what: str) -> AnyArray:
    """Return the lower triangular factor (m, m) of a covariance matrix, which may be singular.

    Of one that is none it is NaN, where that cannot be told before: its point fails.

    Raises
    ------
    ModelError
        If plain numbers are not symmetric, or not positive semidefinite.
    """
    xp, m = namespace(cov), cov.shape[0]
    size = xp.abs(cov).max()
    slack = 1e-12 * size
    if is_concrete(cov):
        if not np.isfinite(np.asarray(cov)).all():
            raise ModelError(f"{what} holds {cov.tolist()}, and its entries are finite numbers")
        apart = np.abs(np.asarray(cov) - np.asarray(cov).T)
        if (apart > slack).any():
            row, column = np.unravel_index(np.argmax(apart), apart.shape)
            raise ModelError(
                f"{what} is not symmetric: {cov[row, column]:g} in row {row}, "
                f"column {column}, and {cov[column, row]:g} across the diagonal"
            )
        if (least := np.linalg.eigvalsh(cov)[0]) < -slack:
            raise ModelError(
                f"{what} is not positive semidefinite: its least eigenvalue is {least:g}; "
                "variances stand on its diagonal, and no correlation is beyond 1"
            )
    rows: list[list[Any]] = []
    for i in range(m):
        part: list[Any] = []
        for above in rows:
            left = cov[i, len(part)] - sum(x * y for x, y in zip(part, above, strict=False))
            pivot = above[-1]
            some = pivot > 0
            # Of what does not vary, nothing covaries with anything.
            none = xp.where(xp.abs(left) > 1e-5 * size, xp.nan, 0.0)
            part.append(xp.where(some, left / xp.where(some, pivot, 1.0), none))
        left = cov[i, i] - sum(x**2 for x in part)
        some = left > slack
        root = xp.where(some, xp.sqrt(xp.where(some, left, 1.0)), 0.0)
        part.append(xp.where(left < -slack, xp.nan, root))
        rows.append(part)
    zero = xp.zeros(())
    return xp.stack([xp.stack([*row, *[zero] * (m - len(row))]) for row in rows])  # type: ignore[no-any-return]


def _check(what: str, n: Any, rule: Any, **numbers: Any) -> None:
    """Refuse a number of values, a rule or a parameter that is none."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ModelError(
            f"{what}: n={n!r}; the number of values is a positive integer, and static: in a "
            "factory, put it after the '*'"
        )
    if not isinstance(rule, str) or rule not in ("gauss", "equal_mass"):
        raise ModelError(f"{what}: rule={rule!r}; it can be 'gauss' or 'equal_mass'")
    check_length(f"{what}: n={n}", int(n))
    for name, x in numbers.items():
        check_number(x, f"{what}: {name}")


def _not_negative(what: str, name: str, x: Any) -> Any:
    """Return a scale; of one that is traced and turns out negative, NaN: its point fails."""
    check_number(x, f"{what}: {name}")
    if not is_concrete(x):
        return namespace(x).where(x >= 0, x, np.nan)
    if float(x) < 0:
        words = {"sd": "a standard deviation", "sigma": "a standard deviation"}
        raise ModelError(f"{what}: {name}={x}; {words.get(name, 'it')} is not negative")
    return x


def _shape(what: str, name: str, x: Any) -> float:
    """Return a shape, a plain positive number."""
    check_number(x, f"{what}: {name}")
    if not is_concrete(x):
        raise ModelError(
            f"{what}: {name} is a parameter of the factory, and the nodes have no closed form in "
            f"a shape; make it a size: put it after the '*'"
        )
    if not (float(x) > 0 and np.isfinite(float(x))):
        raise ModelError(f"{what}: {name}={x}; it is a positive number")
    return float(x)
