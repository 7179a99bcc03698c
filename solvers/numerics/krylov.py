r"""BiCGSTAB: the value of one policy without a matrix.

BiCGSTAB (van der Vorst 1992, *SIAM J. Sci. Stat. Comput.* 13) with the residual measured in the
sup norm, the norm that the certificate is in. Nothing here is trusted: a breakdown, or a result
that is no better than the start, returns the start, which is a step of value iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from .partition import ALONE, Reductions
from .tracing import EPS


def bicgstab(
    apply: Callable[[Array], Array],
    b: Array,
    x0: Array,
    tol: Array,
    max_iter: Array,
    over: Reductions = ALONE,
    size: Callable[[Array], Array] | None = None,
    precondition: Callable[[Array], Array] = lambda r: r,
    residual: Array | None = None,
) -> tuple[Array, Array]:
    r"""Solve :math:`x - L x = b` to ``max |b - x + L x| <= tol``.

    Parameters
    ----------
    apply : function
        ``L``, from arrays (...) to arrays (...).
    b, x0 : array (...)
        Right-hand side and start, of one shape.
    tol : float
        Sup-norm of the residual to reach.
    max_iter : int
        Iterations at most, of two applications each; may be traced, and 0 returns `x0`.
    over : Reductions
        Sums and maxima over all entries, where they are spread over devices.
    size : function, optional
        Measures a residual, in place of the sup norm.
    precondition : function, optional
        Solves a system like this one, approximately: linear. It is applied on the right, so that
        residuals are those of the system itself.
    residual : array (...), optional
        That of `x0`, where it is known.

    Returns
    -------
    x : array (...)
        The last iterate, or `x0` if that is no worse.
    iterations : int
        How many were made.
    """

    def operator(x: Array) -> Array:
        return x - apply(x)

    def norm(r: Array) -> Array:
        return over.max(jnp.abs(r)) if size is None else size(r)

    def safe(numerator: Array, denominator: Array) -> Array:
        return numerator / jnp.where(denominator == 0.0, jnp.inf, denominator)

    r0 = b - operator(x0) if residual is None else residual
    shadow = r0
    one = jnp.ones(())

    def proceed(c: tuple[Array, ...]) -> Array:
        k, left = c[0], c[1]
        return (k < max_iter) & (left > tol) & jnp.isfinite(left)

    def step(c: tuple[Array, ...]) -> tuple[Array, ...]:
        k, _, x, r, p, ap, rho, alpha, omega = c
        rho_new = over.dot(shadow, r)
        beta = safe(rho_new, rho) * safe(alpha, omega)
        p = r + beta * (p - omega * ap)
        way = precondition(p)
        ap = operator(way)
        alpha = safe(rho_new, over.dot(shadow, ap))
        s = r - alpha * ap
        turn = precondition(s)
        at = operator(turn)
        omega = safe(over.dot(at, s), over.dot(at, at))
        x = x + alpha * way + omega * turn
        r = s - omega * at
        # A breakdown leaves everything as it is for ever: stop there.
        left = jnp.where(rho_new == 0.0, jnp.nan, norm(r))
        return k + 1, left, x, r, p, ap, rho_new, alpha, omega

    zero = jnp.zeros_like(r0)
    start = norm(r0)
    carry: tuple[Array, ...] = (jnp.int32(0), start, x0, r0, zero, zero, one, one, one)
    k, _, x, *_ = lax.while_loop(proceed, step, carry)

    def judge(c: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(norm(b - operator(c[0])) < start, c[0], x0), jnp.asarray(True)

    # The recursive residual drifts from the true one; keep the result only if it is truly better.
    # A loop, since of a batch none may have been iterated, and then nothing is applied.
    kept = lax.while_loop(lambda c: ~c[1], judge, (x, k == 0))
    return kept[0], k


def nearer(
    apply: Callable[[Array], Array],
    b: Array,
    x: Array,
    inverse: Callable[[Array], Array],
    over: Reductions = ALONE,
) -> tuple[Array, Array]:
    """Move `x` (...) by an approximate inverse of ``x - L x``, if that makes its residual smaller.

    Returns
    -------
    x, residual : array (...)
    """
    left = b - x + apply(x)
    moved = x + inverse(left)
    after = b - moved + apply(moved)
    better = over.max(jnp.abs(after)) < over.max(jnp.abs(left))
    return jnp.where(better, moved, x), jnp.where(better, after, left)


def richardson(apply: Callable[[Array], Array], b: Array, x0: Array, steps: Array) -> Array:
    r"""Apply :math:`x \mapsto b + L x`, for arrays (...), a number of times (0 returns `x0`)."""
    x: Array = lax.fori_loop(0, steps, lambda _, x: b + apply(x), x0)
    return x


ROUNDS = 60  # restarts of the robust solve
SMOOTHING = 20  # plain steps between two of them


Inverse = Callable[[Array], Array] | None  # of a linear map, approximately


def resolvent(
    apply: Callable[[Array], Array],
    b: Array,
    tol: float,
    over: Reductions = ALONE,
    precondition: Callable[[Array], Array] | None = None,
) -> Array:
    r"""Solve :math:`x - L x = b` for any right-hand side (...), or return NaN.

    A right-hand side with few non-zeros can break BiCGSTAB down. So it is restarted, after plain
    steps, which converge by themselves and fill in the zeros, until the residual is within `tol`
    of the right-hand side's size; with a preconditioner, which fills them in, too, only from the
    second round on. A residual that stays above the square root of `tol` gives NaN:
    no answer instead of a wrong one.
    """
    scale = over.max(jnp.abs(b))

    def size(left: Array) -> Array:
        return over.max(jnp.abs(left))

    def step(c: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, x, _ = c
        first = 0 if precondition else SMOOTHING
        x = richardson(apply, b, x, jnp.where(c[0] == 0, first, SMOOTHING))
        near: dict[str, Any] = {"precondition": precondition} if precondition else {}
        x, _ = bicgstab(apply, b, x, 0.1 * tol * scale, jnp.int32(200), over, **near)
        return k + 1, x, size(b - x + apply(x))

    def proceed(c: tuple[Array, Array, Array]) -> Array:
        rounding = 100.0 * EPS * over.max(jnp.abs(c[1]))
        return (c[0] < ROUNDS) & (c[2] > jnp.maximum(tol * scale, rounding))

    start, left = b, apply(b)
    if precondition:
        start, left = nearer(apply, b, jnp.zeros_like(b), precondition, over)
    _, x, gap = lax.while_loop(proceed, step, (jnp.int32(0), start, size(left)))
    return jnp.where(jnp.isfinite(gap) & (gap <= tol**0.5 * scale), x, jnp.nan)


def transposable_resolvent(
    apply: Callable[[Array], Array],
    b: Array,
    tol: float,
    over: Reductions = ALONE,
    preconditioners: tuple[Inverse, Inverse] = (None, None),
) -> Array:
    """Solve ``x - L x = b`` as :func:`resolvent` does, so that JAX can transpose the solution.

    Preconditioners are those of ``I - L`` and of its transpose.
    """
    transposed = jax.linear_transpose(apply, b)
    near, beside = preconditioners
    x: Array = lax.custom_linear_solve(
        lambda x: x - apply(x),
        b,
        solve=lambda _, b: resolvent(apply, b, tol, over, near),
        transpose_solve=lambda _, b: resolvent(lambda y: transposed(y)[0], b, tol, over, beside),
    )
    return x
