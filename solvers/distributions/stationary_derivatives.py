r"""Stationary distribution of a chain known by its products, and its derivatives.

The products are :math:`P f`, a policy's expectation, and :math:`P^\top \mu`, its transpose, which
JAX makes of it. :mod:`.stationary_search` searches for the distribution and certifies its distance;
a chain with several recurrent classes has none, unless the caller says where it starts. A periodic
chain has one like any other; its period is returned beside it.

Derivatives are implicit ones: with :math:`u` any distribution,

.. math::
    (I - P^\top + u 1^\top)\, d\mu = dP^\top \mu ,

one linear solve for each direction, or, transposed, for each function of the distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics import dense
from dpsolve.solvers.numerics.krylov import resolvent
from dpsolve.solvers.numerics.partition import ALONE, Reductions
from dpsolve.solvers.outcomes import Outcome
from dpsolve.solvers.probability.probabilities import ROW_SUM_TOLERANCE

from .stationary_methods import DENSE_MOST
from .stationary_search import DENSE, invariant

Expect = Callable[[Array], Array]

MAX_ITER = 100_000
# What is read off the search beside the distribution: two numbers, and whole ones.
FOUND = ("residual", "error", "made", "cycle", "code", "proving", "classes")
TANGENT = 1e-13  # of a derivative's residual, relative to its right-hand side


class Stationary(NamedTuple):
    r"""A stationary distribution, and what is known about it.

    Attributes
    ----------
    mass : array (states...)
        Nonnegative, with sum 1; NaN where the code says that there is none.
    residual : float
        :math:`\lVert P^\top\mu - \\mu \rVert_1`.
    total, smallest : float
        Sum of the masses, and the smallest.
    error_bound : float
        Certified L1 distance from the stationary distribution; inf where nothing is certified.
    applications : int
        Products with the chain that finding it took (n for the matrix of a small chain).
    period : int
        Of the recurrent class; 0 where there is not one class.
    code : int
        An :class:`~.outcomes.Outcome`.
    certificate : int
        Products that the certificate, the classes and the period took.
    classes : int array (NAMED,)
        One state, flattened, of each recurrent class, as far as they were looked for; else -1.
    """

    mass: Array
    residual: Array
    total: Array
    smallest: Array
    error_bound: Array
    applications: Array
    period: Array
    code: Array
    certificate: Array
    classes: Array


def stationary_of(
    expect: Expect,
    shape: tuple[int, ...],
    *,
    method: str = "auto",
    tol: float = 1e-8,
    max_iter: int = MAX_ITER,
    initial: Array | None = None,
    proper: Array | bool = True,
    over: Reductions = ALONE,
) -> Stationary:
    """Find the stationary distribution of a chain, inside a trace or outside.

    It has derivatives with respect to whatever `expect` is made from.

    Parameters
    ----------
    expect : function
        ``P f``, of an array (states...).
    shape : tuple of int
        Of the states.
    method : str
        ``auto``, ``plain``, ``krylov``, ``arnoldi``, ``linear``, ``null`` or ``gth``.
    tol : float
        Certified L1 distance to reach.
    max_iter : int
        Products with the chain at most, the certificate's not counted.
    initial : array (states...), optional
        Where the chain starts. It decides, with several recurrent classes, what each gets in the
        long run; it is no more than a start otherwise.
    proper : bool
        False if the caller knows that the chain's entries are no probabilities.
    over : Reductions
        Reductions over all states, of which arrays may hold a part. Then there are no derivatives
        and no dense methods.

    Returns
    -------
    Stationary
    """
    if over != ALONE and method in DENSE:
        raise UsageError(
            f"distribution_method='{method}' needs all states on one device, and this mesh spreads "
            "them over several; take auto, krylov, arnoldi or plain"
        )
    n = prod(shape)
    ones = jnp.ones(shape)
    rows = expect(ones)
    # Rows may miss one by rounding; the chain that is solved has them divided by their sums.
    good = over.all((jnp.abs(rows - 1.0) <= ROW_SUM_TOLERANCE) & jnp.asarray(proper))
    rows = jnp.where(good, rows, 1.0)

    def forward(f: Array) -> Array:
        product: Array = (expect(f.reshape(shape)) / rows).ravel()
        return product

    def push(mass: Array) -> Array:
        moved: Array = jax.linear_transpose(forward, mass)(mass)[0]
        return moved

    u = jnp.full(n, 1.0 / n) / over.add(jnp.ones(()))
    start = u if initial is None else jnp.asarray(initial, jnp.float64).ravel()

    def imbalance(x: Array) -> Array:
        return x - push(x) + u * (over.sum(x) - 1.0)

    def find(_: Any, start: Array) -> tuple[Array, dict[str, Array]]:
        code = jnp.where(good, Outcome.RUNNING, Outcome.NOT_PROBABILITIES).astype(jnp.int32)
        found = invariant(
            forward,
            push,
            start,
            code,
            method=method,
            tol=tol,
            max_iter=max_iter,
            from_start=initial is not None,
            over=over,
        )
        # As floats, for JAX cannot carry whole numbers past a root that is differentiated.
        rest = {name: getattr(found, name).astype(jnp.float64) for name in FOUND}
        return found.mass, rest

    if over == ALONE:
        mass, rest = lax.custom_root(imbalance, start, find, _linear_solution, has_aux=True)
    else:
        mass, rest = find(None, start)
    whole = {name: rest[name].astype(jnp.int32) for name in FOUND[2:]}
    mass = mass.reshape(shape)
    smallest = jnp.where(over.all(jnp.isfinite(mass)), over.min(mass), jnp.nan)
    return Stationary(
        mass,
        rest["residual"],
        over.sum(mass),
        smallest,
        rest["error"],
        whole["made"],
        whole["cycle"],
        whole["code"],
        whole["proving"],
        whole["classes"],
    )


def respond(expect: Expect, mass: Array, b: Array, over: Reductions = ALONE) -> Array:
    r"""Solve :math:`x - P^\top x + \mu\,1^\top x = b`, so that JAX can transpose the solution.

    For :math:`b = dP^\top \mu` it is how the stationary distribution :math:`\mu` responds to a
    change of the chain, and sums to zero.

    Parameters
    ----------
    expect : function
        ``P f``, of an array (states...).
    mass, b : array (states...)
        The stationary distribution, and the right-hand side.
    """
    push = jax.linear_transpose(expect, b)
    return _linear_solution(lambda x: x - push(x)[0] + mass * over.sum(x), b, over)


def _linear_solution(g: Callable[[Array], Array], b: Array, over: Reductions = ALONE) -> Array:
    """Solve ``g(x) = b`` for a linear ``g`` with all eigenvalues within 1 of 1."""

    def solve(g: Callable[[Array], Array], b: Array) -> Array:
        if b.size > DENSE_MOST or over != ALONE:
            return resolvent(lambda x: x - g(x), b, TANGENT, over)
        columns = jax.vmap(lambda e: g(e.reshape(b.shape)).ravel())(jnp.eye(b.size))
        x: Array = dense.solve(columns.T, b.ravel())
        return x.reshape(b.shape)

    x: Array = lax.custom_linear_solve(g, b, solve, transpose_solve=solve)
    return x
