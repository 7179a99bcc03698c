r"""``dp.path``: a distribution pushed forward over time.

A policy moves a distribution :math:`\mu` over the states to :math:`\mu' = P_\pi^\top \mu`. The
transpose is JAX's, of the policy's expectation: a scatter with interpolation weights, then the
Markov states' own chains, in O(states x Markov states) and without a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.finite import all_finite
from dpsolve.solvers.numerics.given import MOST
from dpsolve.solvers.numerics.memory import machine_memory, round_down, shown_bytes
from dpsolve.solvers.outcomes import Outcome
from dpsolve.solvers.solution import Problem, Solution

from .certificate import rounding
from .distribution import Distribution
from .initial import initial_of
from .recurrent_classes import NAMED
from .solved_points import at_points, fixed_policy, horizon_of, states_of, with_grids


def path(
    solution: Solution,
    initial: ArrayLike | Mapping[str, ArrayLike] | Distribution,
    periods: int | None = None,
    *,
    distribution_grid: Mapping[str, int] | None = None,
) -> Distribution:
    """Push an initial distribution through time under a solution's policy.

    Parameters
    ----------
    solution : Solution
        Of a finite or an infinite horizon; with points, all start from the same words or masses.
    initial : mapping, array (states...) or Distribution
        At time 0. By state name: a number (all mass there, shared between the two grid points
        around it), an array (n,) of masses, ``"uniform"``, or ``"stationary"`` for a Markov state,
        which is also what a Markov state is that is left out. The joint distribution is the
        product.
    periods : int, optional
        Steps. With a horizon, the policy of period t moves time t to t + 1, and the default is all
        periods.
    distribution_grid : mapping of str to int, optional
        Points of continuous states, as for :func:`dpsolve.stationary`.

    Returns
    -------
    Distribution
        Its ``mass`` has ``periods + 1`` times in front of the states, the initial one first. Inside
        a trace it has derivatives with respect to economic parameters, the policy held fixed: it is
        a discrete choice, and does not move with a small change of a parameter.

    Raises
    ------
    ModelError
        If `initial` is no distribution over the states, or the solution has none.
    UsageError
        If `periods` is missing, not positive or beyond the horizon.
    """
    solution = with_grids(solution, distribution_grid)
    states = states_of(solution, "path of distributions")
    steps = _periods(periods, horizon_of(solution.problem, solution.decisions))
    _check_room(solution, states, steps)
    masses = initial_of(solution, initial)
    program = _program(solution.problem, steps)
    arrays = program(solution.parameters, solution.decisions, solution.code, masses)
    return Distribution(
        arrays, solution.parameters, solution.decisions, states, solution.problem, True
    )


def _check_room(solution: Solution, states: Mapping[str, AnyArray], periods: int) -> None:
    """Refuse a path that does not fit into this machine's memory."""
    points = np.shape(solution.code)[0] if solution.problem.batched else 1
    each = 8 * points * prod(np.shape(grid)[-1] for grid in states.values())
    if each * (periods + 1) > machine_memory():
        raise UsageError(
            f"a path of {periods:,} periods takes {shown_bytes(each * (periods + 1))}, and this "
            f"machine has {shown_bytes(machine_memory())} of memory. At most "
            f"{round_down(machine_memory() / each):,} periods fit"
        )


def _periods(periods: int | None, horizon: int | None) -> int:
    if periods is None:
        if horizon is None:
            raise UsageError("dp.path needs periods=, the number of steps: the horizon is infinite")
        return horizon
    if isinstance(periods, bool) or not isinstance(periods, int) or not 1 <= periods <= MOST:
        raise UsageError(
            f"periods={periods!r}; it is a whole number of steps, at least 1 and at most {MOST:,}"
        )
    if horizon is not None and periods > horizon:
        raise UsageError(
            f"periods={periods}, but the model has only {horizon}: after the last one nothing is "
            "chosen; leave periods out for all of them"
        )
    return periods


@lru_cache(maxsize=64)
def _program(problem: Problem, periods: int) -> Callable[..., dict[str, Array]]:
    """Return the compiled program that follows a problem's points."""

    def one(parameters: Any, index: Any, code: Array, start: Array) -> dict[str, Array]:
        if horizon_of(point, index) is None:
            _, fixed = fixed_policy(problem, parameters, index)
            proper = fixed.proper & (code < 10)

            def step(mass: Array, t: Array) -> Array:
                return jnp.where(proper, pushed(fixed.expect, mass), jnp.nan)
        else:

            def step(mass: Array, t: Array) -> Array:
                now = {c: i[t] for c, i in index.items()}
                _, fixed = fixed_policy(problem, parameters, now, t)
                proper = fixed.proper & (code < 10)
                return jnp.where(proper, pushed(fixed.expect, mass), jnp.nan)

        return _described(path_of(step, start, periods), code, periods)

    point = replace(problem, batched=False)

    def run(*args: Any) -> dict[str, Array]:
        found: dict[str, Array] = at_points(problem, one, *args, vectors=periods + 8)
        return found

    return jax.jit(run)


def _described(mass: Array, code: Array, periods: int) -> dict[str, Array]:
    totals = mass.reshape(periods + 1, -1).sum(-1)
    good = all_finite(mass)
    improper = jnp.where(good, Outcome.SOLVED, Outcome.NOT_PROBABILITIES)
    # A step moves no two distributions apart, so what each loses to rounding adds up.
    lost = periods * rounding(mass[0].size)
    return {
        "mass": mass,
        "residual": jnp.sum(jnp.abs(mass[-1] - mass[-2])),
        "total": totals[jnp.argmax(jnp.abs(totals - 1.0))],
        "smallest": jnp.where(good, jnp.min(mass), jnp.nan),
        "error_bound": jnp.where(good, lost, jnp.nan),
        "applications": jnp.int32(periods),
        "certificate": jnp.int32(0),
        "period": jnp.int32(0),
        "classes": jnp.full(NAMED, -1, jnp.int32),
        "code": jnp.where(code < 10, improper, code).astype(jnp.int32),
    }


def pushed(expect: Callable[[Array], Array], mass: Array) -> Array:
    """Move a distribution (states...) by one period: the transpose of an expectation."""
    moved: Array = jax.linear_transpose(expect, mass)(mass)[0]
    return moved


def path_of(step: Callable[[Array, Array], Array], mass: Array, periods: int) -> Array:
    """Push a distribution many periods, inside a trace.

    Parameters
    ----------
    step : function
        Takes a distribution and the period t (a traced int32) and returns the distribution at
        t + 1: ``lambda mass, t: pushed(policy.expect, mass)``, or, over a finite horizon, with the
        policy of period t (``policy_index[choice][t]`` and ``GridOperator(model, t=t)``).
    mass : array (states...)
        At time 0.
    periods : int
        Steps (static).

    Returns
    -------
    array (periods + 1, states...)
        Time 0 first.
    """

    def move(mass: Array, t: Array) -> tuple[Array, Array]:
        after = step(mass, t)
        return after, after

    _, rest = lax.scan(move, mass, jnp.arange(periods, dtype=jnp.int32))
    return jnp.concatenate([mass[None], rest])
