r"""``dp.fixed_point`` and ``dp.implicit``: roots with implicit derivatives.

A loop that approaches the root :math:`x^*(\theta)` of :math:`F(x; \theta) = 0` and stops after
some steps returns nearly :math:`x^*`. Differentiating *through the loop* returns the derivative of
that iterate, which lags behind: after :math:`K` gradient steps towards :math:`\theta` it is
:math:`1 - (1-2h)^K` and not 1. The implicit function theorem gives the true one,

.. math::
    \frac{\partial F}{\partial x}\,\frac{dx^*}{d\theta} = -\frac{\partial F}{\partial\theta},

evaluated at what the loop returned: one linear solve, forward or (transposed) in reverse, however
long the loop was, and no memory for its steps. Up to ``DENSE`` unknowns the Jacobian is factorised;
above it is only applied, by GMRES (Saad & Schultz 1986, *SIAM J. Sci. Stat. Comput.* 7), and a
solve that does not converge gives NaN.

Stopping rule of :func:`fixed_point`: the largest change of one step is within `tol`, relative to
the size of `x`. If the map contracts by `L`, the error is at most ``L / (1 - L)`` of that change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import gmres

from dpsolve.solvers.errors import ModelError

from . import dense
from .finite import any_nan, largest

Tree = Any  # an array (...), or a pytree of arrays: no type can say that

DENSE = 512  # unknowns whose Jacobian is built and factorised
TOLERANCE = 1e-12  # of a derivative's residual, relative to its right-hand side, by GMRES
RESTART = 40  # vectors that GMRES keeps
ROUNDS = 250  # restarts at most


def implicit(condition: Callable[[Tree], Tree], x: Tree) -> Tree:
    """Return `x` unchanged, with the derivatives of the solution of ``condition(x) = 0``.

    Parameters
    ----------
    condition : function
        Of an array (or a pytree of arrays) of the shape of `x`, to one of the same shape. What it
        closes over, such as a factory's parameters, is what `x` is differentiated by. For a
        maximum pass the slope, ``jax.grad(objective)``.
    x : array (...) or pytree
        The solution, from any loop. That its own computation depends on parameters is ignored.

    Returns
    -------
    array (...) or pytree
        As `x`.

    Raises
    ------
    ModelError
        If `condition` returns another shape than that of `x`.

    Examples
    --------
    The maximiser of ``-(x - a)**2`` after 50 gradient steps, with the true derivative 1::

        slope = jax.grad(lambda x: -((x - a) ** 2))
        x = jax.lax.fori_loop(0, 50, lambda _, x: x + 0.1 * slope(x), x0)
        x = dp.implicit(slope, x)
    """
    x = lax.stop_gradient(_floats(x))  # so that any loop will do, also one JAX cannot transpose
    _same_shapes("condition", condition, x)
    return lax.custom_root(condition, x, lambda _, found: found, _linear_solve)


def fixed_point(
    step: Callable[[Tree], Tree],
    start: Tree,
    *,
    tol: float = 1e-12,
    max_iter: int = 100_000,
    steps: int | None = None,
) -> Tree:
    """Repeat ``x = step(x)`` until it stands still; derivatives are those of the fixed point.

    Parameters
    ----------
    step : function
        Of an array (or a pytree of arrays), to one of the same shape. It may close over traced
        parameters.
    start : array (...) or pytree
        Where to begin. The fixed point is taken not to depend on it.
    tol : float
        Largest change in one step, relative to the largest entry of `x` (or to 1), to stop at.
    max_iter : int
        Steps at most.
    steps : int, optional
        Make exactly so many steps instead, whatever the change.

    Returns
    -------
    array (...) or pytree
        The last iterate, of the shape of `start`; NaN if `tol` was not reached in `max_iter`
        steps. With `steps`, the iterate after so many.

    Raises
    ------
    ModelError
        If `step` returns another shape than that of `start`.

    Examples
    --------
    A price that clears ``x = cos(a x)``::

        x = dp.fixed_point(lambda x: jnp.cos(a * x), 0.5)
    """
    start = _floats(start)
    _same_shapes("step", step, start)

    def displacement(x: Tree) -> Tree:
        return jax.tree.map(jnp.subtract, x, step(x))

    def solve(f: Callable[[Tree], Tree], x: Tree) -> tuple[Tree, Array]:
        def advance(x: Tree) -> Tree:
            return jax.tree.map(jnp.subtract, x, f(x))

        if steps is not None:
            return lax.fori_loop(0, steps, lambda _, x: advance(x), x), jnp.zeros(())

        def once(c: tuple[Array, Tree, Array]) -> tuple[Array, Tree, Array]:
            k, x, _ = c
            new = advance(x)
            return k + 1, new, _change(new, x)

        def proceed(c: tuple[Array, Tree, Array]) -> Array:
            return (c[0] < max_iter) & (c[2] > tol)

        _, x, change = lax.while_loop(proceed, once, (jnp.int32(0), x, jnp.asarray(jnp.inf)))
        return jax.tree.map(lambda a: jnp.where(change <= tol, a, jnp.nan), x), change

    found, change = lax.custom_root(displacement, start, solve, _linear_solve, has_aux=True)
    if (told := _told.get()) is not None:

        def note(change: Array) -> None:
            if float(change) > tol:
                told.append(
                    f"dp.fixed_point made max_iter={max_iter:,} steps, and the last one still "
                    f"changed x by {float(change):.3g}, above tol={tol:g}; raise max_iter or tol, "
                    "begin closer, or damp the step: x + 0.5 * (step(x) - x)"
                )

        jax.debug.callback(note, change)
    return found


_told: ContextVar[list[str] | None] = ContextVar("told", default=None)


@contextmanager
def listening(told: list[str]) -> Iterator[None]:
    """Let programs that are traced in this block tell, each time they run, what did not converge.

    Parameters
    ----------
    told : list of str
        Where the sentences go.
    """
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


def _change(new: Tree, old: Tree) -> Array:
    a, b = ravel_pytree(new)[0], ravel_pytree(old)[0]
    change = jnp.max(jnp.abs(a - b)) / jnp.maximum(1.0, jnp.max(jnp.abs(a)))
    return jnp.where(any_nan(a), jnp.nan, change)  # which ends the loop


def _floats(x: Tree) -> Tree:
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), x)


def _same_shapes(what: str, f: Callable[[Tree], Tree], x: Tree) -> None:
    try:
        found = jax.eval_shape(f, x)
    except TypeError as error:
        if "not a valid JAX type" not in str(error):
            raise
        raise ModelError(f"{what} returns what is no array of numbers: {error}") from None

    def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    if shapes(found) != shapes(x):
        raise ModelError(
            f"{what} returns {_shown(shapes(found))} for {_shown(shapes(x))}; there are as many "
            "equations as unknowns, of the same shapes"
        )


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}".strip() for name, shape in shapes.items())


def _linear_solve(apply: Callable[[Tree], Tree], b: Tree) -> Tree:
    """Solve ``apply(x) = b`` for a linear map, so that JAX can transpose the solution."""
    flat, restore = ravel_pytree(b)

    def matvec(x: Array) -> Array:
        return ravel_pytree(apply(restore(x)))[0]

    if flat.size == 1:
        return restore(flat / matvec(jnp.ones(1)))
    solve = _eliminate if flat.size <= DENSE else _krylov
    return restore(lax.custom_linear_solve(matvec, flat, solve, transpose_solve=solve))


def _eliminate(matvec: Callable[[Array], Array], b: Array) -> Array:
    x: Array = dense.solve(jax.vmap(matvec)(jnp.eye(b.size)).T, b)
    return x


def _krylov(matvec: Callable[[Array], Array], b: Array) -> Array:
    x, _ = gmres(matvec, b, tol=TOLERANCE, restart=RESTART, maxiter=ROUNDS)
    gap = largest(jnp.abs(b - matvec(x)))
    near = gap <= TOLERANCE**0.5 * jnp.max(jnp.abs(b))
    return jnp.where(jnp.isfinite(gap) & near, x, jnp.nan)
