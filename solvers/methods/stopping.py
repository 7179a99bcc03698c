"""When a loop stops: certified, stuck, out of iterations, or not finite.

A loop ends with the sweep whose certified error is within ``tol``; else after ``max_iter`` sweeps,
when it is stuck, or when a sweep's result is no number. It does not begin where the look over all
pairs found what makes a solution meaningless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.numerics.partition import ALONE, Reductions
from dpsolve.solvers.operators.base import Survey
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome
from dpsolve.solvers.probability.probabilities import ROW_SUM_TOLERANCE

from .bounds import Modulus

TOWARDS_OVERFLOW = 1e100  # values beyond it have diverged by themselves
FEW_SWEEPS = 8  # below so many sweeps to go, plain value iteration is the cheapest way to end


@dataclass(frozen=True)
class LoopState:
    """A solve under way: sweeps made are its state's `k`, how it ended its `code`."""

    state: Any

    @property
    def running(self) -> Array:
        """Whether there is more to do: a bool, or one for each lane."""
        code: Array = self.state.code
        return code == Outcome.RUNNING

    @property
    def sweeps(self) -> Array:
        """Sweeps made: a whole number, or one for each lane."""
        k: Array = self.state.k
        return k


def first_fault(survey: Survey, rates: Modulus | None) -> Array:
    """Return the code of the first thing that makes a solution meaningless, else RUNNING.

    Over a finite horizon (`rates` None) any discount that is a number will do.
    """
    leaks = ~(
        (survey.row_high <= 1.0 + ROW_SUM_TOLERANCE)
        & (survey.row_low >= 1.0 - ROW_SUM_TOLERANCE)
        & (survey.least >= 0.0)
    )
    ill_posed = ~(survey.discount_low >= 0.0)
    if rates is not None:
        ill_posed |= ~(rates.high < 1.0) & rates.monotone
    numbers = (
        survey.gap,
        survey.row_low,
        survey.row_high,
        survey.least,
        survey.discount_low,
        survey.discount_high,
    )
    finite = survey.finite & jnp.isfinite(jnp.stack(numbers)).all()
    faults = (
        (Outcome.REFUSED, jnp.asarray(survey.refused)),
        (Outcome.NOT_INCREASING, survey.finite & ~survey.increasing),
        (Outcome.INFEASIBLE, ~survey.feasible.all()),
        (Outcome.NOT_FINITE, ~finite),
        (Outcome.LEAK, leaks),
        (Outcome.OFF_GRID, ~(survey.gap <= 0.0)),
        (Outcome.DISCOUNT, ill_posed),
    )
    code: Array = jnp.int32(Outcome.RUNNING)
    for outcome, found in reversed(faults):
        code = jnp.where(found, jnp.int32(outcome), code)
    return code


def unsound(v: Array, tv: Array, over: Reductions = ALONE) -> Array:
    """Return the code of a sweep whose result is not finite, else RUNNING.

    A sweep of finite numbers far from overflow was told so by the model: +inf tells of a pair with
    a NaN or +inf (:mod:`.maximum`), and -inf that no choice pays more. Where rewards are not kept,
    this is where such ones are noticed.
    """
    grown = ~(over.max(jnp.abs(v)) < TOWARDS_OVERFLOW)
    told = jnp.where(over.all(tv < jnp.inf), Outcome.INFEASIBLE, Outcome.NOT_FINITE)
    code = jnp.where(grown, Outcome.DIVERGED, told)
    return jnp.where(over.all(jnp.isfinite(tv)), Outcome.RUNNING, code).astype(jnp.int32)


def told_by(outputs: Mapping[str, Array], over: Reductions = ALONE) -> Array:
    """Return NOT_FINITE if an output at the optimum is NaN or +inf, else RUNNING."""
    code: Array = jnp.int32(Outcome.RUNNING)
    for x in outputs.values():
        good = over.all(~jnp.isnan(x) & (x < jnp.inf))
        code = jnp.where(good, code, jnp.int32(Outcome.NOT_FINITE))
    return code


def stuck(error: Array, rounding: Array, otherwise: Outcome) -> Array:
    """Return why a loop gets no further: rounding, if the error is nearly that, or `otherwise`."""
    return jnp.where(error <= 100.0 * rounding, jnp.int32(Outcome.ROUNDING), jnp.int32(otherwise))


def verdict(
    error: Array, k: Array, given_up: Array, unsound: Array, options: SolveOptions
) -> Array:
    """Return how the loop ends at its k-th sweep, or RUNNING.

    `given_up` is the code of a loop that gets no further, `unsound` that of a sweep whose result is
    no number; else they are RUNNING, too. All are numbers of one point.
    """
    running = jnp.int32(Outcome.RUNNING)
    code = jnp.where(k >= options.max_iter, jnp.int32(Outcome.MAX_ITER), running)
    code = jnp.where(given_up == Outcome.RUNNING, code, given_up)
    code = jnp.where(error <= options.tol_on_grid, jnp.int32(Outcome.SOLVED), code)
    return jnp.where(unsound == Outcome.RUNNING, code, unsound)


def nearly_done(error: Array, ratio: Array, plain: Array, k: Array, tol: float) -> Array:
    """Tell whether, at the last sweep's rate, few of value iteration are left; or none is made."""
    left = jnp.log(tol / error) / jnp.log(ratio)
    return (plain & (ratio < 1.0) & (left <= FEW_SWEEPS)) | (k < 1)


def share_left(changed: Array) -> Array:
    """Return the share of the error to which a policy is evaluated: less if it has settled."""
    return jnp.where(changed > 0.01, 0.1, jnp.where(changed > 0.0, 0.01, 0.0))
