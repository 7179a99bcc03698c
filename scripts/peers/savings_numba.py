"""Optimal savings in Numba: value iteration, states in parallel, a plain loop over the choices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["arrays", "sweep", "value_iteration"]

Array = NDArray[np.float64]


@lru_cache(maxsize=1)
def _compiled() -> Any:
    import numba

    @numba.njit(parallel=True)
    def bellman(a, a_next, z, ev, beta, gamma, r, tv):  # type: ignore[no-untyped-def]
        n_z, n_next = ev.shape
        for i in numba.prange(a.size):
            for j in range(n_z):
                means = (1 + r) * a[i] + z[j]
                best = -np.inf
                for k in range(n_next):
                    c = means - a_next[k]
                    if c <= 0:
                        break  # the grid ascends
                    q = c ** (1 - gamma) / (1 - gamma) + beta * ev[j, k]
                    if q > best:
                        best = q
                tv[i, j] = best

    return bellman


def arrays(h: Any) -> tuple[Any, ...]:
    """Return a :class:`~peers.savings_jax.Household` as NumPy arrays and numbers, in its order."""
    numbers = (float(h.beta), float(h.gamma), float(h.r))
    return (*numbers, *(np.asarray(x) for x in (h.a, h.a_next, h.z, h.p)))


def sweep(h: tuple[Any, ...], v: Array) -> Array:
    """Return Tv (a, z)."""
    beta, gamma, r, a, a_next, z, p = h
    tv = np.empty((a.size, z.size))
    ev = np.ascontiguousarray(p @ v.T)  # (z, a')
    _compiled()(a, a_next, z, ev, beta, gamma, r, tv)
    return tv


def value_iteration(h: tuple[Any, ...], tol: float) -> tuple[Array, int]:
    """Apply T until ``max|Tv − v| <= tol``; return the value and the number of sweeps."""
    v, k, change = np.zeros((h[3].size, h[5].size)), 0, np.inf
    while change > tol:
        tv = sweep(h, v)
        change, v, k = np.max(np.abs(tv - v)), tv, k + 1
    return v, k
