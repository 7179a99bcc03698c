r"""Methods for a stationary distribution: dense (GTH, linear, null space) or by products.

*Of small chains, by direct elimination:*

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

*By products with the chain alone.* Each of these improves an :math:`x` with mass one towards
:math:`x = P^\top x`, until :math:`\sum_s w_s |x - P^\top x|_s` is within a goal or a budget of
products is spent:

* ``plain``: :math:`x \leftarrow P^\top x`.
* ``krylov``: BiCGSTAB on the deflated system :math:`(I - P^\top + u 1^\top)\,x = u`, whose solution
  is the distribution for any :math:`u` with mass one.
* ``arnoldi``: the unit eigenvector by Arnoldi's process, restarted. As the eigenvalue is known to
  be 1, the refined vector is the singular vector of :math:`\underline{H} - \underline{I}` for its
  smallest singular value (Golub and Greif 2006, *BIT* 46).

All corrections keep to the Krylov space of the start, so that in a chain with several recurrent
classes each class keeps the mass that the start sends there. Between restarts come a few plain
steps; in a chain with period *d*, first the average of *d* of them, which removes what rotates.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics import dense
from dpsolve.solvers.numerics.krylov import bicgstab
from dpsolve.solvers.numerics.partition import ALONE, Reductions
from dpsolve.solvers.numerics.tracing import EPS


def matrix_of(expect: Map, n: int) -> Array:
    """Return the matrix (n, n) of transition probabilities, by n products."""
    return jax.vmap(expect)(jnp.eye(n)).T


def linear(p: Array) -> Array:
    """Return the distribution (n,) of p (n, n) by a linear solve; anything if there are more."""
    n = p.shape[0]
    u = jnp.full(n, 1.0 / n)
    x: Array = dense.solve(jnp.eye(n) - p.T + u[:, None], u)
    return x


def null(p: Array) -> Array:
    """Return the distribution (n,) of p (n, n) as a null vector; anything if there are more."""
    x: Array = dense.svd(jnp.eye(p.shape[0]) - p.T)[2][-1]
    return x / jnp.sum(x)


def gth(p: Array, anchor: Array, wanted: Array | bool = True) -> Array:
    """Return the distribution (n,) by elimination without subtractions.

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

    x: Array = lax.fori_loop(1, steps + 1, back, (here == 0).astype(jnp.float64))
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


Map = Callable[[Array], Array]
# x, weights, goal, budget of products -> x, products made
Improve = Callable[[Array, Array, Array, Array], tuple[Array, Array]]

CHUNK = 1000  # plain steps before the distance is looked at
RESTART = 250  # BiCGSTAB iterations, of two products each, before a restart
SMOOTHING = 10  # plain steps between restarts
BASIS = 20  # vectors of Arnoldi's process


def plain(push: Map, n: int, over: Reductions = ALONE) -> Improve:
    """Return plain iteration."""

    def improve(x: Array, weight: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        def step(c: tuple[Array, ...]) -> tuple[Array, ...]:
            k, x, _ = c
            after = push(x)
            return k + 1, after, over.sum(weight * jnp.abs(after - x))

        def proceed(c: tuple[Array, ...]) -> Array:
            return (c[0] < jnp.minimum(budget, CHUNK)) & (c[2] > goal)

        begin: tuple[Array, ...] = (jnp.int32(0), x, jnp.asarray(jnp.inf))
        k, x, _ = lax.while_loop(proceed, step, begin)
        return x, k

    return improve


def krylov(push: Map, n: int, over: Reductions = ALONE) -> Improve:
    """Return one run of BiCGSTAB on the deflated system, after smoothing."""

    def improve(x: Array, weight: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        start, made = smoothed(push, x, jnp.minimum(SMOOTHING, budget))

        def deflated(y: Array) -> Array:
            return push(y) - start * over.sum(y)

        def size(r: Array) -> Array:
            return over.sum(weight * jnp.abs(r))

        most = jnp.clip((budget - made - 2) // 2, 0, RESTART)
        x, k = bicgstab(deflated, start, start, goal, most, over, size)
        return x / over.sum(x), made + 2 * k + 2

    return improve


def arnoldi(push: Map, n: int, over: Reductions = ALONE) -> Improve:
    """Return one restart of the refined Arnoldi process, after smoothing."""
    m = min(BASIS, n)

    def basis_of(x: Array) -> tuple[Array, Array]:
        """Return the orthonormal basis (m, n) and the Hessenberg matrix (m + 1, m)."""

        def step(j: Array, c: tuple[Array, Array]) -> tuple[Array, Array]:
            v, h = c
            w = push(v[j])
            column = jnp.zeros(m + 1)
            for _ in range(2):  # the second pass restores what rounding took of orthogonality
                part = over.add(v @ w)  # rows that are still 0 take no part
                w = w - part @ v
                column = column + part
            length = jnp.sqrt(over.dot(w, w))
            unit = jnp.where(length > 0.0, w / jnp.where(length > 0.0, length, 1.0), 0.0)
            return v.at[j + 1].set(unit), h.at[:, j].set(column.at[j + 1].set(length))

        v = jnp.zeros((m + 1, n)).at[0].set(x / jnp.sqrt(over.dot(x, x)))
        v, h = lax.fori_loop(0, m, step, (v, jnp.zeros((m + 1, m))))
        return v[:m], h

    def improve(x: Array, weight: Array, goal: Array, budget: Array) -> tuple[Array, Array]:
        start, made = smoothed(push, x, jnp.minimum(SMOOTHING, budget))
        start_gap = over.sum(weight * jnp.abs(push(start) - start))

        def restart(c: tuple[Array, ...]) -> tuple[Array, ...]:
            k, x, gap = c
            v, h = basis_of(x)
            y = dense.svd(h - jnp.eye(m + 1, m))[2][-1] @ v
            y = y / over.sum(y)
            moved = push(y)
            size = over.sum(weight * jnp.abs(moved - y))
            # The refined vector is the best of its space in another norm; it may be no better here.
            better = size < gap
            return k + m + 1, jnp.where(better, moved, x), jnp.where(better, size, -1.0)

        def proceed(c: tuple[Array, ...]) -> Array:
            return (c[0] + m + 1 <= budget) & (c[2] > goal) & (c[0] < 2 * RESTART)

        begin: tuple[Array, ...] = (made + 1, start, start_gap)
        k, x, _ = lax.while_loop(proceed, restart, begin)
        return x, k

    return improve


def smoothed(push: Map, x: Array, steps: Array | int) -> tuple[Array, Array]:
    """Make plain steps from `x` (n,); return the last iterate (n,), and the steps."""
    return lax.fori_loop(0, steps, lambda _, x: push(x), x), jnp.asarray(steps, jnp.int32)


def averaged(push: Map, x: Array, cycle: Array) -> Array:
    """Return the average (n,) of `cycle` iterates, the first of them `x` itself."""

    def step(_: Array, c: tuple[Array, Array]) -> tuple[Array, Array]:
        x, total = push(c[0]), c[1]
        return x, total + x

    total: Array = lax.fori_loop(1, cycle, step, (x, x))[1]
    return total / jnp.maximum(cycle, 1)


DENSE_MOST = 256  # states up to which `auto` makes a matrix
