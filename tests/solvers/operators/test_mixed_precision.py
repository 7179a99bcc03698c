"""Mixed precision: float32 finds a start, and float64 certifies as ever."""

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.library import savings
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.mixed_precision import SinglePrecisionOperator


@pytest.fixture(scope="module")
def double() -> dp.Solution:
    return dp.solve("savings", {"continuous": False, "n_a": 60, "n_z": 3}, tol=1e-9)


@pytest.mark.slow
def test_what_is_certified_does_not_change(double: dp.Solution) -> None:
    mixed = dp.solve(
        "savings", {"continuous": False, "n_a": 60, "n_z": 3}, tol=1e-9, precision="mixed"
    )
    assert mixed.status == "solved"
    assert mixed.value.dtype == np.float64
    np.testing.assert_allclose(mixed.value, double.value, atol=2e-9)
    assert (mixed.lower <= double.upper).all()
    assert (double.lower <= mixed.upper).all()


@pytest.mark.slow
def test_its_sweeps_are_those_of_single_precision(double: dp.Solution) -> None:
    operator = GridOperator(savings(n_a=60, n_z=3, continuous=False))
    value, policy = jax.jit(SinglePrecisionOperator(operator).greedy)(double.value)
    expected, _ = jax.jit(operator.greedy)(double.value)
    error = np.abs(value - expected).max()
    assert 0 < error <= 1e-5 * np.abs(expected).max()
    assert value.dtype == np.float64
    assert policy.dtype == np.int32


def large(scale=1.0):
    """Rewards that single precision cannot hold."""
    return dp.Model(
        states={"x": dp.integers(0, 9)},
        choices={"y": dp.integers(0, 9)},
        transition={"x": "y"},
        reward=lambda x, y: scale * (y - 0.1 * x * y),
        discount=0.9,
    )


@pytest.mark.slow
def test_what_single_precision_cannot_hold_is_solved_in_double() -> None:
    small = dp.solve(large, tol=1e-8)
    found = dp.solve(large, {"scale": 1e50}, tol=1e42, precision="mixed")
    assert found.status == "solved"
    np.testing.assert_allclose(found.value / 1e50, small.value, atol=2e-8)
