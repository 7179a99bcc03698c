"""Dense linear solves under ``vmap`` on a CPU, around a deadlock of jaxlib.

A *batched* LAPACK call shares its batch out over XLA's pool of threads, from inside that pool, and
waits there. Two of them at a time, in one program or in two that run side by side, can each hold
the threads that the other waits for, and hang for ever (jaxlib 0.10; eight 100 x 100
systems twice over on two cores do it). A call for one matrix asks nobody. So a batch is mapped here
as a loop; on an accelerator it stays a batch.

Those mapped have no derivatives: put them inside ``lax.custom_linear_solve`` or
``lax.custom_root``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import sequential_vmap

Result = TypeVar("Result")


# Seen with jaxlib 0.10.2, every time: the program of tests/solvers/test_dense.py, with
# `jnp.linalg.solve` in place of `solve`. No report of the hang is known upstream. Two are of the
# same sharing out over the pool: jax-ml/jax#39292 (eigh corrupts the heap, 0.10.2 and 0.11.0) and
# #36927 (batched solves are slower from 0.10.0 on). When that test passes with `jnp.linalg.solve`
# on the oldest jaxlib that pyproject allows, this module and `arrays.POOLED` can go.


def _one_by_one(function: Callable[..., Result]) -> Callable[..., Result]:
    looped = sequential_vmap(function)

    @wraps(function)
    def call(*arrays: Array) -> Result:
        mapped: Callable[..., Result] = looped if jax.default_backend() == "cpu" else function
        return mapped(*arrays)

    return call


@_one_by_one
def solve(a: Array, b: Array) -> Array:
    """Solve ``a x = b`` by Gaussian elimination, for a (n, n) and b (n,); return x (n,)."""
    x: Array = jnp.linalg.solve(a, b)
    return x


@_one_by_one
def svd(a: Array) -> tuple[Array, Array, Array]:
    """Return the singular value decomposition of a (m, n): u (m, m), s (min(m, n),), vh (n, n)."""
    u, s, vh = jnp.linalg.svd(a)
    return u, s, vh


def eliminate(a: Array, b: Array) -> Array:
    """Solve ``a x = b`` for a few unknowns, written out, so that a batch is plain arithmetic.

    Parameters
    ----------
    a : array (n, n)
        Definite: there is no pivoting.
    b : array (n, k)
    """
    n = a.shape[0]
    rows = [jnp.concatenate([a[i], b[i]]) for i in range(n)]
    for i in range(n):
        rows[i] = rows[i] / rows[i][i]
        rows = [row if j == i else row - row[i] * rows[i] for j, row in enumerate(rows)]
    return jnp.stack([row[n:] for row in rows])
