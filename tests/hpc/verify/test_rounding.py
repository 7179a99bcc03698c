"""Verification shares no rounding with the solver: it refutes the bounds that used to be false."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.model_definition.bellman import WIDE_EPS
from dpsolve.hpc.verify.stored_point import Stored, examine

TYPED = np.tile([0.1, 0.2, 0.7], (3, 1)).reshape(3, 1, 3)


def claimed(solution: dp.Solution, error: float, shift: Any = 0.0) -> dp.Solution:
    """Return a solution that claims another error, around a value that is shifted."""
    value = np.asarray(solution.value) + shift
    lies = {"value": value, "lower": value - error, "upper": value + error}
    return replace(solution, arrays={**solution.arrays, **lies, "error_bound": np.float64(error)})


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12])
@pytest.mark.parametrize("rows", [TYPED, np.full((3, 1, 3), 0.3333333333)])
def test_honest_bounds_near_a_discount_of_one_are_verified(beta: float, rows: np.ndarray) -> None:
    for rewards in (np.ones((3, 1)), np.array([[1.0], [2.0], [-4.0]])):
        solution = dp.solve(dp.mdp(rewards, rows, beta), tol=1e-3)
        found = dp.verify(solution)
        assert found.ok, str(found)


@pytest.mark.skipif(WIDE_EPS > 1e-18, reason="this machine has no extended precision")
@pytest.mark.parametrize("shift", [28.0, -28.0, 1e-3])
def test_a_value_28_off_at_a_discount_of_1_less_a_billionth_is_refuted(shift: float) -> None:
    solution = dp.solve(dp.mdp(np.ones((3, 1)), TYPED, 1 - 1e-9), tol=1e-3)
    found = dp.verify(claimed(solution, 2.4e-6, shift))
    assert not found.ok
    assert any("not confirmed" in text for text in found.claims), str(found)


def test_the_value_of_rows_as_they_were_typed_is_refuted() -> None:
    """Thirds to ten digits at .999: the value of the rows undivided is 1e-4 off."""
    rows = np.full((3, 3), 0.3333333333)
    rewards = np.array([0.0, 1.0, 2.0])
    typed = np.linalg.solve(np.eye(3) - 0.999 * rows, rewards)
    solution = dp.solve(dp.mdp(rewards[:, None], rows[:, None], 0.999), tol=1e-6)
    assert dp.verify(solution).ok
    found = dp.verify(claimed(solution, 3e-9, typed - np.asarray(solution.value)))
    assert not found.ok


def windfall(beta: float = 0.9, size: float = 1e9) -> dp.Model:
    return dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"u": dp.integers(0, 1)},
        shocks={"w": dp.iid([-1.0, 0.0, 1.0], [0.3, 0.4, 0.3])},
        transition={"x": lambda x: x},
        reward=lambda u, w: size * w + 1.0 - u,
        discount=beta,
    )


def test_an_error_below_what_cancelling_payoffs_leave_is_refuted() -> None:
    solution = dp.solve(windfall, tol=1e-3)
    assert dp.verify(solution).ok
    for shift in (0.0, 3e-8):
        found = dp.verify(claimed(solution, 9e-15, shift))
        assert any("terms that cancel" in text for text in found.claims), str(found)
    small = dp.solve(windfall, {"size": 1.0}, tol=1e-10)
    assert dp.verify(small).ok


def test_what_was_left_of_one_is_nothing_here_too() -> None:
    row = [1 - 0.9 - 0.1, 0.1, 0.9]
    chain = dp.Model(
        states={"z": dp.markov([0.0, 1.0, 2.0], [row] * 3)},
        choices={"u": dp.integers(0, 1)},
        shocks={"w": dp.iid([0.0, 1.0, 2.0], lambda z: jnp.array(row) + 0 * z)},
        reward=lambda z, u, w: z - u + w,
        discount=0.9,
    )
    assert dp.verify(dp.solve(chain, tol=1e-8)).ok
    assert dp.verify(dp.solve(dp.mdp(np.ones((3, 1)), np.tile(row, (3, 1, 1)), 0.9))).ok


@pytest.mark.parametrize("lost", ["value", "lower", "upper"])
def test_a_nan_is_told(lost: str) -> None:
    solution = dp.solve(windfall, tol=1e-3)
    array = np.array(solution.arrays[lost])
    array[1] = np.nan
    found = dp.verify(replace(solution, arrays={**solution.arrays, lost: array}))
    assert any("nan" in text for text in found.claims), str(found)


def test_a_discount_that_is_no_number_is_told() -> None:
    model = replace(windfall(), discount=lambda x: jnp.where(x == 1, jnp.nan, 0.9))
    value = np.full(3, 10.0)
    found = examine(model, Stored({"value": value}, 1e-6))
    assert any("gives nan at x=1" in text for text in found.faults)


def test_a_next_state_beyond_a_grid_far_from_zero_is_named() -> None:
    model = dp.Model(
        states={"x": dp.grid(1e9, 1e9 + 1, 3)},
        choices={"u": dp.integers(0, 1)},
        transition={"x": lambda x, u: x + 0.25 * u},
        reward=lambda x, u: x + u,
        discount=0.9,
    )
    with pytest.raises(dp.ModelError, match="leaves its grid"):
        examine(model, Stored({"value": np.zeros(3)}, 1e-6))
