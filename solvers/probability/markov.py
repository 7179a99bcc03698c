r"""``dp.markov``, ``dp.rouwenhorst``, ``dp.tauchen``: finite Markov chains.

The process is :math:`y' = \mu + \rho y + \sigma\varepsilon` with standard normal
:math:`\varepsilon`. Tauchen (1986), *Economics Letters* 20, cuts the line into bins around evenly
spaced points; Rouwenhorst (1995, in Cooley's *Frontiers*) matches the process's persistence,
variance and, by a binomial law, its stationary distribution, and stays accurate as
:math:`\rho \to 1` (Kopecky and Suen, 2010, *Review of Economic Dynamics* 13).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import ndtr as traced_ndtr
from numpy.typing import ArrayLike
from scipy.special import ndtr

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.given import MOST, check_number, vectors
from dpsolve.solvers.numerics.memory import check_chain
from dpsolve.solvers.numerics.tracing import is_concrete, namespace
from dpsolve.solvers.program_keys.fingerprint import refuse_randomness

from .probabilities import check_distribution, normalised


@dataclass(frozen=True, eq=False)
class Markov:
    """A state that moves by its own chain, whatever is chosen.

    Attributes
    ----------
    values : array (n,) or (m, n)
        What the state can be; of m states that move together, what each is at each joint value.
    transition_matrix : array (n, n), (horizon, n, n) or function
        Row i holds the probabilities of the next value, given value i now; of a chain that moves
        with the period, from each period to the next. A model with a horizon makes an array of a
        function of ``t``.
    """

    values: AnyArray
    transition_matrix: Any

    @property
    def size(self) -> int:
        """Number of values, or of joint values."""
        return int(self.values.shape[-1])

    @property
    def moves(self) -> bool:
        """Whether the transition matrix moves with the period."""
        return callable(self.transition_matrix) or self.transition_matrix.ndim == 3

    def at(self, t: ArrayLike | None) -> AnyArray:
        """Return the transition matrix (n, n) from period `t` to the next."""
        p: Any = self.transition_matrix
        matrix: AnyArray = p if p.ndim == 2 else (p if is_concrete(t) else jnp.asarray(p))[t]
        return matrix

    def over(self, name: str, horizon: int | None) -> Markov:
        """Return the chain with an array for a function of ``t``, checked against the horizon.

        Raises
        ------
        ModelError
            If it moves with the period, and there is no horizon, or another.
        """
        p = self.transition_matrix
        if not self.moves:
            return self
        if horizon is None:
            raise ModelError(
                f"the transition matrix of state '{name}' moves with the period, and the model has "
                "no end; add horizon=T, or make the period a state: dp.integers(...)"
            )
        if callable(p):
            matrices = jax.vmap(lambda t: jnp.asarray(p(t=t), jnp.float64))(jnp.arange(horizon))
            p = np.asarray(matrices) if is_concrete(matrices) else matrices
        n = self.size
        if p.shape != (horizon, n, n):
            raise ModelError(
                f"the transition matrix of state '{name}' has shape {p.shape}, and {horizon} "
                f"periods of {n} values need {(horizon, n, n)}: one from each period to the next"
            )
        if is_concrete(p):
            check_distribution(np.asarray(p), f"the transition matrix of state '{name}'")
        return replace(self, transition_matrix=normalised(p))


def markov(values: ArrayLike, transition_matrix: ArrayLike | Callable[..., Any]) -> Markov:
    """Make a Markov chain from its values and its transition matrix.

    Parameters
    ----------
    values : array (n,) or (m, n)
        What the state can be; of m states that move together, and stand under a tuple of m names,
        what each is at each joint value.
    transition_matrix : array (n, n), (T, n, n) or function
        Row i holds the probabilities of the next value, given value i now. With a horizon T it may
        move with the period: an array (T, n, n), from each period to the next, or a function of
        ``t`` that returns (n, n). Rows within 1e-9 of a distribution are divided by their sum
        (:mod:`.probabilities`).

    Raises
    ------
    ModelError
        If the shapes disagree, an entry is negative, or a row does not sum to one.
    """
    values = vectors(values, "markov: values")
    if callable(transition_matrix):
        taken = tuple(inspect.signature(transition_matrix).parameters)
        if taken != ("t",):
            raise ModelError(
                f"markov: a transition matrix that moves is a function of t, and this one takes "
                f"({', '.join(taken)}): lambda t: ..."
            )
        refuse_randomness(transition_matrix, "the transition matrix")
        return Markov(values, transition_matrix)
    xp = namespace(transition_matrix)
    try:
        p = xp.asarray(transition_matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelError(
            f"markov: the transition matrix is {transition_matrix!r}; it is a matrix of numbers"
        ) from None
    n = values.shape[-1]
    if p.shape != (n, n) and not (p.ndim == 3 and p.shape[1:] == (n, n)):
        raise ModelError(
            f"markov: {n} values need a transition matrix of shape ({n}, {n}), not {p.shape}; one "
            f"that moves with the period has shape (horizon, {n}, {n})"
        )
    if is_concrete(p):
        check_distribution(np.asarray(p), "the transition matrix")
    return Markov(values, normalised(p))


def rouwenhorst(
    n: int,
    rho: Array | float,
    sigma: Array | float,
    mu: Array | float = 0.0,
    *,
    mean: Array | float | None = None,
) -> Markov:
    """Approximate an AR(1) by Rouwenhorst's method.

    Parameters
    ----------
    n : int
        Number of values (static).
    rho : float
        Persistence, in (-1, 1).
    sigma : float
        Standard deviation of the innovation.
    mu : float
        Constant of the process; its mean is ``mu / (1 - rho)``.
    mean : float, optional
        The process's mean, in place of `mu`.

    Returns
    -------
    Markov
        With ``values`` (n,), evenly spaced around the mean, and ``transition_matrix`` (n, n), whose
        row i holds the probabilities of the next value, given value i now.

    Raises
    ------
    ModelError
        If `n` is no positive integer, `rho` is not in (-1, 1), `sigma` is not positive, or both
        `mu` and `mean` are given.
    """
    mean = check_ar1("rouwenhorst", n, rho, sigma, mu, mean)
    xp = namespace(rho, sigma, mean)
    p = (1.0 + rho) / 2.0
    row = np.arange(n)

    def grown(m: Any, matrix: Any) -> Any:
        """Return the matrix of m values, in a corner of (n, n), from that of m - 1."""
        below = xp.pad(matrix, ((1, 0), (0, 0)))[:-1]
        beside, across = (xp.pad(x, ((0, 0), (1, 0)))[:, :-1] for x in (matrix, below))
        found = p * matrix + (1 - p) * beside + (1 - p) * below + p * across
        inner = (row >= 1) & (row < m - 1)  # the recursion counts every inner row twice
        return found * xp.where(inner, 0.5, 1.0)[:, None]

    matrix = xp.asarray((row[:, None] == 0) & (row == 0), np.float64)
    if xp is np:
        for m in range(2, n + 1):
            matrix = grown(m, matrix)
    else:
        matrix = lax.fori_loop(2, n + 1, grown, matrix)
    width = sigma * xp.sqrt((n - 1) / (1.0 - rho**2))
    values = mean + width * np.linspace(-1.0, 1.0, n)
    return Markov(values, normalised(matrix))


def tauchen(
    n: int,
    rho: Array | float,
    sigma: Array | float,
    mu: Array | float = 0.0,
    width: float = 3.0,
    *,
    mean: Array | float | None = None,
) -> Markov:
    """Approximate an AR(1) by Tauchen's method.

    Parameters
    ----------
    n : int
        Number of values (static).
    rho, sigma, mu, mean : float
        As for :func:`rouwenhorst`.
    width : float
        The grid reaches this many stationary standard deviations to each side of the mean.

    Returns
    -------
    Markov
        With ``values`` (n,) and ``transition_matrix`` (n, n), as :func:`rouwenhorst` returns it.

    Raises
    ------
    ModelError
        As for :func:`rouwenhorst`.
    """
    mean = check_ar1("tauchen", n, rho, sigma, mu, mean, width=width)
    xp = namespace(rho, sigma, mean)
    reach = width * sigma / xp.sqrt(1.0 - rho**2)
    centred = reach * np.linspace(-1.0, 1.0, n)
    if n == 1:
        return Markov(xp.zeros(1) + mean, xp.ones((1, 1)))
    step = 2.0 * reach / (n - 1)
    cdf = ndtr if xp is np else traced_ndtr
    edges = centred[None, :-1] + step / 2 - rho * centred[:, None]
    below = cdf(edges / sigma)
    matrix = xp.diff(below, axis=1, prepend=xp.zeros((n, 1)), append=xp.ones((n, 1)))
    return Markov(mean + centred, normalised(matrix))


def check_ar1(what: str, n: Any, rho: Any, sigma: Any, mu: Any, mean: Any, **more: Any) -> Any:
    """Refuse what no AR(1) is; return its mean."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ModelError(
            f"{what}: n={n!r}; the number of values is a positive integer, and static: in a "
            "factory, put it after the '*'"
        )
    for name, x in (("rho", rho), ("sigma", sigma), ("mu", mu), *more.items()):
        check_number(x, f"{what}: {name}")
    check_chain(what, int(n))
    if n * n > MOST:
        raise ModelError(
            f"{what}: n={n:,}; the chain's matrix would have {n * n:,} entries, and they are "
            f"counted to {MOST:,}: take fewer values"
        )
    # A NaN passes: it is found later, at its point.
    if is_concrete(rho) and abs(float(rho)) >= 1:
        raise ModelError(f"{what}: rho={rho} must lie strictly between -1 and 1")
    if is_concrete(sigma) and float(sigma) <= 0:
        raise ModelError(f"{what}: sigma={sigma} must be positive")
    if mean is None:
        return mu / (1.0 - rho)
    check_number(mean, f"{what}: mean")
    if not is_concrete(mu) or float(mu) != 0.0:
        raise ModelError(
            f"{what}: mu={mu} beside mean={mean}: the mean is mu / (1 - rho); leave one of them out"
        )
    return mean
