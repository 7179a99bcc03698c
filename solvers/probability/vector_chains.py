r"""``dp.var1``, ``dp.tauchen_hussey``: Markov chains of several variables, and by quadrature.

The process is :math:`y' = \mu + A (y - \mu) + e`, with normal innovations :math:`e` of covariance
:math:`\Sigma = L L^\top`. In :math:`x = L^{-1}(y - \mu)` it is
:math:`x' = B x + \varepsilon` with :math:`B = L^{-1} A L` and independent standard normal
:math:`\varepsilon`, and every method here works there:

- *Tauchen* (1986, *Economics Letters* 20): bins around an even grid in each :math:`x_k`.
- *Tauchen and Hussey* (1991, *Econometrica* 59): Gauss-Hermite nodes :math:`x_j` of the
  innovations, with :math:`P_{ij} \propto w_j \exp(x_j^\top B x_i)`. Good where persistence is
  moderate; near a unit root the nodes reach too little far.
- *Rouwenhorst*: where :math:`B` is symmetric, :math:`B = Q \Lambda Q^\top`, and
  :math:`u = Q^\top x` are independent AR(1)s, of which the chain is the product; it matches the
  process's covariances at every lag, whatever n. :math:`B` is symmetric where :math:`A \Sigma` is,
  so that the process looks the same backward in time: equal persistences, or uncorrelated
  innovations and a diagonal A.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Any, Literal

import numpy as np
from jax import Array
from jax.scipy.special import ndtr as traced_ndtr
from numpy.typing import ArrayLike
from scipy.special import ndtr

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.memory import check_chain
from dpsolve.solvers.numerics.tracing import is_concrete, namespace

from .distributions import cholesky
from .markov import Markov, check_ar1, rouwenhorst
from .probabilities import normalised
from .quadrature import hermite

Method = Literal["rouwenhorst", "tauchen", "tauchen_hussey"]


def tauchen_hussey(
    n: int,
    rho: Array | float,
    sigma: Array | float,
    mu: Array | float = 0.0,
    *,
    mean: Array | float | None = None,
) -> Markov:
    """Approximate an AR(1) by the quadrature of Tauchen and Hussey.

    Parameters
    ----------
    n : int
        Number of values (static).
    rho, sigma, mu, mean : float
        As for :func:`rouwenhorst`, which is the better one where `rho` is near 1.

    Returns
    -------
    Markov
        With ``values`` (n,) and ``transition_matrix`` (n, n), as :func:`rouwenhorst` returns it.

    Raises
    ------
    ModelError
        As for :func:`rouwenhorst`.
    """
    mean = check_ar1("tauchen_hussey", n, rho, sigma, mu, mean)
    xp = namespace(rho, sigma, mean)
    x, w = hermite(n)
    return Markov(mean + sigma * x, _tilted(xp.asarray(x[None, :] * rho), x[None, :], w))


def var1(
    A: ArrayLike,
    cov: ArrayLike,
    n: int | Sequence[int],
    *,
    mean: ArrayLike = 0.0,
    method: Method = "rouwenhorst",
    width: float = 3.0,
) -> Markov:
    r"""Approximate a vector autoregression of first order by a Markov chain.

    It is :math:`y' = \mu + A (y - \mu) + e`, and stands under a tuple of names:
    ``states={("g", "r"): dp.var1(A, cov, 5)}``.

    Parameters
    ----------
    A : array (m, m)
        Coefficients; row i is how variable i follows from all.
    cov : array (m, m)
        Covariance matrix of the innovations, positive definite.
    n : int or m ints
        Number of values (static) of each of the m independent components that the variables are
        combined from: the chain has n**m joint values.
    mean : array (m,) or float
        Mean of the process.
    method : {"rouwenhorst", "tauchen", "tauchen_hussey"}
        See :mod:`.vector_chains`. Rouwenhorst's asks that ``A @ cov`` be symmetric, and has no
        derivative in `A` where two of its persistences are equal.
    width : float
        Of Tauchen's grid, in stationary standard deviations.

    Returns
    -------
    Markov
        With ``values`` (m, N), what each variable is at each of the N joint values, and
        ``transition_matrix`` (N, N).

    Raises
    ------
    ModelError
        If shapes disagree, the process is not stationary, `cov` is no covariance matrix of
        innovations that all vary, or the method does not apply.
    """
    A, cov, mean, m = _check_var(A, cov, mean)
    numbers = (n,) * m if isinstance(n, int | np.integer) else tuple(n)
    if len(numbers) != m:
        raise ModelError(f"var1: n={n!r} for {m} variables; it is one number, or one for each")
    for one in numbers:
        check_ar1("var1", one, 0.0, 1.0, 0.0, None)
    check_chain("var1", int(np.prod(numbers)))
    xp = namespace(A, cov, mean)
    L = cholesky(cov, "var1: the covariance matrix")
    B = xp.linalg.solve(L, A @ L)
    if method == "rouwenhorst":
        u, P, Q = _independent(B, numbers)
        return Markov(mean[:, None] + L @ Q @ u, P)
    if method == "tauchen":
        x, P = _bins(B, numbers, width)
    elif method == "tauchen_hussey":
        nodes = [hermite(int(one)) for one in numbers]
        x = np.array(list(product(*(z for z, _ in nodes)))).T
        P = _tilted(B @ x, x, np.array([np.prod(w) for w in product(*(w for _, w in nodes))]))
    else:
        raise ModelError(
            f"var1: method={method!r}; it can be 'rouwenhorst', 'tauchen' or 'tauchen_hussey'"
        )
    return Markov(mean[:, None] + L @ x, P)


def _check_var(A: Any, cov: Any, mean: Any) -> tuple[AnyArray, AnyArray, AnyArray, int]:
    xp = namespace(A, cov, mean)
    A, cov, mean = (xp.asarray(x, np.float64) for x in (A, cov, mean))
    m = A.shape[0] if A.ndim == 2 else 0
    if not m or A.shape != (m, m) or cov.shape != (m, m) or mean.shape not in ((), (m,)):
        raise ModelError(
            f"var1: A has shape {A.shape}, cov {cov.shape} and mean {mean.shape}; of m variables "
            "they are (m, m), (m, m) and (m,)"
        )
    if is_concrete(A):
        if not np.isfinite(A).all():
            raise ModelError(f"var1: A holds {A.tolist()}, and its entries are finite numbers")
        radius = float(np.abs(np.linalg.eigvals(A)).max())
        if radius >= 1:
            raise ModelError(
                f"var1: A has an eigenvalue of modulus {radius:.6g}, and the process is stationary "
                "only if all are below 1"
            )
    if is_concrete(cov) and float(least := np.linalg.eigvalsh(np.asarray(cov))[0]) <= 0:
        raise ModelError(
            f"var1: the covariance matrix is not positive definite: its least eigenvalue is "
            f"{least:g}; leave out an innovation that does not vary"
        )
    return A, cov, xp.broadcast_to(mean, (m,)), m


def _independent(B: AnyArray, numbers: Sequence[int]) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return values (m, N), transition matrix and rotation of a symmetric B's components."""
    xp = namespace(B)
    gap = xp.abs(B - B.T).max()
    if is_concrete(B) and float(gap) > 1e-9:
        raise ModelError(
            "var1: A @ cov is not symmetric, so the variables are no mixture of independent "
            "AR(1)s, which method='rouwenhorst' is made of; take method='tauchen', or "
            "'tauchen_hussey'"
        )
    rates, Q = xp.linalg.eigh((B + B.T) / 2)
    rates = xp.where(gap > 1e-9, xp.nan, rates)
    chains = [rouwenhorst(int(n), rates[k], 1.0) for k, n in enumerate(numbers)]
    values = xp.stack([x.ravel() for x in xp.meshgrid(*(c.values for c in chains), indexing="ij")])
    return values, normalised(reduce(xp.kron, [c.transition_matrix for c in chains])), Q


def _bins(B: AnyArray, numbers: Sequence[int], width: float) -> tuple[AnyArray, AnyArray]:
    """Return values (m, N) on even grids, and the chances of falling around each."""
    xp, m = namespace(B), B.shape[0]
    vec = xp.linalg.solve(xp.eye(m * m) - xp.kron(B, B), xp.eye(m).reshape(-1))
    sd = xp.sqrt(xp.diag(vec.reshape(m, m)))
    axes = [width * sd[k] * np.linspace(-1.0, 1.0, int(n)) for k, n in enumerate(numbers)]
    axes = [a if a.shape[0] > 1 else xp.zeros(1) for a in axes]
    x = xp.stack([a.ravel() for a in xp.meshgrid(*axes, indexing="ij")])
    ahead = B @ x
    cdf = ndtr if xp is np else traced_ndtr
    chances = xp.ones((x.shape[1], 1))
    for k, axis in enumerate(axes):
        below = cdf((axis[:-1] + axis[1:])[None, :] / 2 - ahead[k][:, None])
        each = xp.diff(
            below, axis=1, prepend=xp.zeros((x.shape[1], 1)), append=xp.ones((x.shape[1], 1))
        )
        chances = (chances[:, :, None] * each[:, None, :]).reshape(x.shape[1], -1)
    return x, normalised(chances)


def _tilted(ahead: AnyArray, x: AnyArray, w: AnyArray) -> AnyArray:
    """Return chances (N, N) at nodes (m, N), given the means (m, N) that these lead to."""
    xp = namespace(ahead)
    log = ahead.T @ x + np.log(w)[None, :]
    rows = xp.exp(log - log.max(1, keepdims=True))
    found: AnyArray = normalised(rows / rows.sum(1, keepdims=True))
    return found
