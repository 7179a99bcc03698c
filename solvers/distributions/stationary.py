"""``dp.stationary``: the stationary distribution of a policy or a Markov chain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from dpsolve.solvers.compile_forecast import tell_compiling
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.model.mdp import SparseRows, TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import AnyArray, Sparse
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.options import STATIONARY_METHODS, canonical
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.probability.probabilities import (
    ROW_SUM_TOLERANCE,
    check_distribution,
    normalised,
)
from dpsolve.solvers.solution import Problem, Solution

from .distribution import Distribution
from .initial import check_masses, initial_of
from .moments import top_masses
from .solved_points import at_points, fixed_policy, horizon_of, states_of, with_grids
from .stationary_derivatives import MAX_ITER, Stationary, stationary_of
from .stationary_methods import DENSE_MOST
from .top_mass import warn


def stationary(
    target: Solution | Markov | ArrayLike | Sparse,
    *,
    method: str = "auto",
    tol: float = 1e-8,
    max_iter: int = MAX_ITER,
    initial: ArrayLike | Mapping[str, ArrayLike] | Distribution | None = None,
    distribution_grid: Mapping[str, int] | None = None,
) -> Distribution:
    r"""Find a stationary distribution, to a certified distance.

    Parameters
    ----------
    target : Solution, Markov, or array (n, n) dense or scipy sparse
        A solution of an infinite horizon (of many points, too), whose optimal policy moves the
        states; a chain; or transition probabilities, row i from state i.
    method : str
        ``auto``, ``plain`` (iteration), ``krylov`` (accelerated), ``arnoldi`` (eigenvector), and
        for small chains ``linear``, ``null`` (null space) or ``gth`` (elimination, accurate in
        every entry). None changes what is certified.
    tol : float
        Certified L1 distance :math:`\lVert\mu - \mu^*\rVert_1` to reach.
    max_iter : int
        Products with the chain at most; those of the certificate come on top.
    initial : array (states...), mapping or Distribution, optional
        Where the chain starts, as for :func:`dpsolve.path`. With several recurrent classes it
        decides what each of them gets; without it the mass is NaN then.
    distribution_grid : mapping of str to int, optional
        Of a solution: ``{"a": 1000}`` puts the distribution on 1,000 points of the state `a`, with
        the ends and the spacing of its grid; the policy is interpolated linearly there. By default
        as the solve was asked, else the value's own grid.

    Returns
    -------
    Distribution
        ``status`` is ``solved`` where the certified distance is within `tol`. Several classes,
        a period, transitions that are no probabilities: ``message`` names them.

        Inside ``jax.grad``, ``jacfwd`` or ``vmap`` the mass has derivatives with respect to the
        economic parameters (or the array's entries), by the implicit function theorem: one linear
        solve. The response of a continuous choice (``dp.interval``) is part of them. **A policy
        of choices from a list is held fixed.** It is a choice among grid points, which a small
        change of a parameter leaves as it is, but for the values at which it jumps. So what is
        differentiated is the chain under today's policy: how incomes move, not how people react.

    Raises
    ------
    ModelError
        If there is no policy or a finite horizon, an array is not square or its rows are no
        probabilities, or `initial` is no distribution.
    UsageError
        If an option is unknown or unusable.
    """
    options = _options(method, tol, max_iter)
    if isinstance(target, Solution):
        return _of_solution(with_grids(target, distribution_grid), options, initial)
    if distribution_grid:
        raise UsageError("distribution_grid is for a solution; a chain's states are what they are")
    if isinstance(target, Markov):
        if target.moves:
            raise ModelError(
                "the chain moves with the period, and has no stationary distribution; dp.path "
                "follows one that is solved with a horizon"
            )
        return _of_array(target.transition_matrix, target.values, options, initial)
    return _of_array(target, None, options, initial)


def _options(method: str, tol: float, max_iter: int) -> tuple[tuple[str, Any], ...]:
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise UsageError(f"max_iter={max_iter!r}; it is a whole number, at least 1")
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not 0.0 < tol < math.inf:
        raise UsageError(f"tol={tol!r}; it is the certified L1 distance to reach, above 0")
    chosen = canonical("method", method, STATIONARY_METHODS)
    return (("method", chosen), ("tol", float(tol)), ("max_iter", max_iter))


def _of_solution(
    solution: Solution, options: tuple[tuple[str, Any], ...], initial: Any
) -> Distribution:
    states = states_of(solution, "stationary distribution")
    if horizon_of(solution.problem, solution.decisions) is not None:
        raise ModelError(
            f"{solution.problem.name} has a finite horizon, and so no stationary distribution: "
            "each period has its own policy. dp.path(solution, initial) follows a distribution "
            "through the periods."
        )
    start = () if initial is None else (initial_of(solution, initial),)
    n = math.prod(int(np.shape(grid)[-1]) for grid in states.values())
    program, told = _program(solution.problem, options, n)
    given = (solution.parameters, solution.decisions, solution.code, *start)
    if is_concrete(given) and not told:
        told.append(
            tell_compiling(f"a distribution of {solution.problem.name}", program.trace(*given))
        )
    arrays = program(*given)
    if is_concrete(arrays):
        warn(solution.problem.name, arrays, states)
    return Distribution(arrays, solution.parameters, solution.decisions, states, solution.problem)


@lru_cache(maxsize=64)
def _program(
    problem: Problem, options: tuple[tuple[str, Any], ...], n: int
) -> tuple[Any, list[float]]:
    """Return the program that finds the distributions of a problem's points, over `n` states.

    Beside it is a list that holds, once it was told that it is compiled, how long that takes.
    """

    def one(parameters: Any, index: Any, code: Array, start: Array | None = None) -> Any:
        made, fixed = fixed_policy(problem, parameters, index)
        proper = fixed.proper & (code < 10)
        if start is not None:
            proper &= jnp.isfinite(start).all()
        found = stationary_of(
            fixed.expect, made.shape, initial=start, proper=proper, **dict(options)
        )
        arrays = found._replace(code=jnp.where(code < 10, found.code, code))._asdict()
        return arrays | top_masses(made, found.mass)

    def run(*args: Any) -> Any:
        vectors = 64 if n > DENSE_MOST else 64 + 6 * n
        return at_points(problem, one, *args, vectors=vectors)

    return jax.jit(run), []


def _of_array(
    given: Any, values: AnyArray | None, options: tuple[tuple[str, Any], ...], initial: Any
) -> Distribution:
    if isinstance(given, str | Model | TabularModel) or callable(given):
        raise ModelError("dp.stationary takes a solution: dp.stationary(dp.solve(model, params))")
    sparse = hasattr(given, "tocsr")
    matrix: Any = given if sparse else jnp.asarray(given, jnp.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ModelError(
            f"the transition probabilities have shape {matrix.shape}; they are a square array, row "
            "i for the state i that is left"
        )
    n = int(matrix.shape[0])
    if sparse:
        if (matrix.tocsr().data < -ROW_SUM_TOLERANCE).any():
            raise ModelError("the transition probabilities have a negative entry")
        check_distribution(np.asarray(matrix.sum(1)).reshape(-1, 1), "the transition probabilities")
        matrix = SparseRows.from_scipy(matrix).normalised()
    elif is_concrete(matrix):
        check_distribution(np.asarray(matrix), "the transition probabilities")
    if not sparse:
        matrix = jnp.asarray(normalised(matrix))
    start = None
    if initial is not None:
        start = check_masses(getattr(initial, "mass", initial), (n,), "initial")
    arrays = _of_rows(matrix, start, options)
    return Distribution(arrays, {}, {}, {"state": np.arange(n) if values is None else values})


def _of_rows(
    rows: Array | SparseRows, start: Array | None, options: tuple[tuple[str, Any], ...]
) -> dict[str, Array]:
    if isinstance(rows, SparseRows):
        found = jax.jit(
            lambda values, start: _search(replace(rows, values=values), values, start, options)
        )(rows.values, start)
    else:
        found = _of_dense(rows, start, options)
    arrays: dict[str, Array] = found._asdict()
    return arrays


def _search(
    rows: Any, entries: Array, start: Array | None, options: tuple[tuple[str, Any], ...]
) -> Stationary:
    n, proper = rows.shape[0], (entries >= 0.0).all()
    return stationary_of(lambda f: rows @ f, (n,), initial=start, proper=proper, **dict(options))


@partial(jax.jit, static_argnames="options")
def _of_dense(p: Array, start: Array | None, options: tuple[tuple[str, Any], ...]) -> Stationary:
    return _search(p, p, start, options)
