r"""Stationary distributions of small chains, by direct elimination.

* ``linear``: Gaussian elimination of the deflated system :math:`(I - P^\top + u 1^\top)\,x = u`.
* ``null``: the null space of :math:`I - P^\top`, by its singular vectors.
* ``gth``: states are eliminated one by one, the chain being watched only while it is in the rest
  (Grassmann, Taksar and Heyman 1985, *Operations Research* 33). Nothing is subtracted, so every
  entry is accurate in relative terms, however small it is and however close the chain is to
  falling apart (O'Cinneide 1993, *Numerische Mathematik* 65).

*The error of* ``gth``. Each elimination from *k* + 1 states to *k* computes every off-diagonal
probability of the watched chain to a relative :math:`(k + 4)` units. A chain of *k* states whose
off-diagonal probabilities are off by a factor :math:`1 + \eta` has stationary probabilities off by
:math:`2 k \eta` (O'Cinneide), so all the steps together lose
:math:`\sum_k 2k(k + 4) \approx \tfrac23 n^3 + 4 n^2` units, and substituting back
:math:`\tfrac12 n^2`: a bound that no condition number enters.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dpsolve.solvers.numerics import dense
from dpsolve.solvers.numerics.tracing import EPS

from .stationary_methods import Map

Array = Any


def matrix_of(expect: Map, n: int) -> Array:
    """Return the matrix (n, n) of transition probabilities, by n products."""
    return jax.vmap(expect)(jnp.eye(n)).T


def linear(p: Array) -> Array:
    """Return the distribution by one linear solve; anything if it is not the only one."""
    n = p.shape[0]
    u = jnp.full(n, 1.0 / n)
    x: Array = dense.solve(jnp.eye(n) - p.T + u[:, None], u)
    return x


def null(p: Array) -> Array:
    """Return the distribution as a null vector; anything if it is not the only one."""
    x = dense.svd(jnp.eye(p.shape[0]) - p.T)[2][-1]
    return x / jnp.sum(x)


def gth(p: Array, anchor: Array, wanted: Array | bool = True) -> Array:
    """Return the distribution by elimination without subtractions.

    Parameters
    ----------
    p : array (n, n)
        Probabilities; what stays on the diagonal is not looked at.
    anchor : int
        A state that every state leads to: the one that is left at the end.
    wanted : bool
        False does nothing, and returns anything.
    """
    n = p.shape[0]
    here = jnp.arange(n)
    order = jnp.where(here == 0, anchor, jnp.where(here == anchor, 0, here))

    def eliminate(i: Array, a: Array) -> Array:
        k = n - 1 - i
        row = jnp.where(here < k, a[k], 0.0)
        column = jnp.where(here < k, a[:, k], 0.0) / jnp.sum(row)
        # Paths through k become direct ones.
        return (a + column[:, None] * row).at[:, k].set(jnp.where(here < k, column, a[:, k]))

    steps = jnp.where(jnp.asarray(wanted), n - 1, 0)
    a = lax.fori_loop(0, steps, eliminate, p[order][:, order])

    def back(k: Array, x: Array) -> Array:
        x = x.at[k].set(jnp.sum(jnp.where(here < k, x * a[:, k], 0.0)))
        return x / jnp.max(x)

    x = lax.fori_loop(1, steps + 1, back, (here == 0).astype(jnp.float64))
    return (x / jnp.sum(x))[order]


def gth_error(n: int) -> float:
    """Return the relative error of every entry that elimination can have made."""
    return 0.5 * EPS * (2.0 / 3.0 * n**3 + 5.0 * n**2 + 40.0 * n)


def hitting(p: Array, s: Array) -> Array:
    """Return the expected times until state `s` is next visited, (n,)."""
    n = p.shape[0]
    killed = jnp.where(jnp.arange(n) == s, 0.0, p)
    h: Array = dense.solve(jnp.eye(n) - killed, jnp.ones(n))
    return h
