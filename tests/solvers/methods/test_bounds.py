"""Bounds hold on whatever is thrown at them: lower <= v* <= upper, and the error is within tol."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from reference import random_arrays, random_problem, solve_arrays


def assert_certified(solution: dp.Solution, truth: np.ndarray, rounding: float = 1e-12) -> None:
    """Assert that the bounds hold, up to the rounding of the oracle itself."""
    truth = truth.reshape(np.shape(solution.value))
    slack = rounding * max(1.0, float(np.max(np.abs(truth))))
    assert np.all(solution.lower <= truth + slack)
    assert np.all(truth <= solution.upper + slack)
    error = np.max(np.abs(solution.value - truth))
    assert error <= float(solution.error_bound) + slack


SEEDS = [6, 20, 97]  # some of which broke an earlier version


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"block": 2, "method": "pi"}, marks=pytest.mark.slow)],
    ids=["kept", "streamed"],
)
def test_random_problems(seed: int, options: dict) -> None:
    problem = random_problem(seed)
    solution = dp.solve(problem.model(), tol=1e-7, **options)
    assert solution.status == "solved", solution.message
    assert float(solution.error_bound) <= 1e-7
    assert_certified(solution, problem.solve().value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 210))
def test_more_random_problems(seed: int) -> None:
    problem = random_problem(seed)
    solution = dp.solve(problem.model(), tol=1e-7)
    assert solution.status in ("solved", "inexact"), solution.message
    assert_certified(solution, problem.solve().value)


@pytest.mark.parametrize("discount", ["varying", "above"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.slow
def test_state_dependent_discounts_even_above_one(discount: str, seed: int) -> None:
    problem = random_problem(seed, discount=discount, finite=False, outside=False)
    solution = dp.solve(problem.model(), tol=1e-7)
    assert solution.status == "solved", solution.message
    assert_certified(solution, problem.solve().value)


@pytest.mark.parametrize("method", ["auto", "vi", "pi", "opi"])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_arrays(method: str, seed: int) -> None:
    reward, transition, beta = random_arrays(seed)
    solution = dp.solve(dp.mdp(reward, transition, beta), tol=1e-9, method=method)
    assert solution.status == "solved"
    assert_certified(solution, solve_arrays(reward, transition, beta).value)


def _exact(reward: np.ndarray, transition: np.ndarray, beta: float) -> np.ndarray:
    """Policy iteration with dense solves: exact where value iteration would take for ever."""
    own = np.arange(len(reward))
    policy = reward.argmax(1)
    while True:
        p = transition[own, policy]
        v = np.linalg.solve(np.eye(len(own)) - beta * p, reward[own, policy])
        q = reward + beta * transition @ v
        better = q.max(1) > q[own, policy] + 1e-12 * np.abs(v).max()
        if not better.any():
            return v
        policy = np.where(better, q.argmax(1), policy)


@pytest.mark.slow
def test_a_periodic_chain_at_discount_9999() -> None:
    rng = np.random.default_rng(3)
    n, m = 40, 3
    reward = rng.normal(size=(n, m))
    transition = np.zeros((n, m, n))
    transition[np.arange(n), :, (np.arange(n) + 1) % n] = 1.0
    truth = _exact(reward, transition, 0.9999)
    for method in ("auto", "pi"):
        solution = dp.solve(dp.mdp(reward, transition, 0.9999), tol=1e-5, method=method)
        assert solution.status == "solved", solution.message
        assert_certified(solution, truth)
    # Value iteration cannot: it says so, and its bounds hold all the same.
    short = dp.solve(dp.mdp(reward, transition, 0.9999), tol=1e-5, method="vi", max_iter=500)
    assert short.status == "inexact"
    assert "sweeps" in short.message
    assert float(short.error_bound) > 1e-5
    assert_certified(short, truth)


def test_a_metastable_chain_at_discount_9999() -> None:
    n, m = 120, 3
    reward = np.sin(np.arange(n) / 10)[:, None] - 0.01 * np.arange(m)
    transition = np.zeros((n, m, n))
    for i in range(n):
        for a in range(m):
            up, down = 0.02 + 0.02 * a * (i > n // 2), 0.03
            transition[i, a, min(i + 1, n - 1)] += up
            transition[i, a, max(i - 1, 0)] += down
            transition[i, a, i] += 1 - up - down
    truth = _exact(reward, transition, 0.9999)
    solution = dp.solve(dp.mdp(reward, transition, 0.9999), tol=1e-5)
    assert solution.status == "solved", solution.message
    assert_certified(solution, truth)


def test_near_ties_lose_no_value() -> None:
    rng = np.random.default_rng(5)
    reward, transition, beta = random_arrays(5, masked=False)
    reward = np.repeat(reward[:, :1], 4, 1) + 1e-14 * rng.normal(size=(len(reward), 4))
    solution = dp.solve(dp.mdp(reward, transition, beta), tol=1e-9)
    assert solution.status == "solved"
    assert_certified(solution, solve_arrays(reward, transition, beta).value)


def test_extrapolation_without_contraction_is_not_certified() -> None:
    # From the grid's end the next state lies a whole grid width beyond it: the weights are -1 and
    # 2, and .95 * 3 > 1. The value (zero) may be right, but no bound can say so.
    model = dp.Model(
        states={"x": dp.grid(0.0, 1.0, 2, outside="extrapolate")},
        choices={"c": [0.0]},
        transition={"x": lambda x: 2 * x},
        reward=lambda x: 0.0 * x,
        discount=0.95,
    )
    solution = dp.solve(model)
    assert solution.status == "inexact"
    assert np.isinf(solution.error_bound)
    assert "extrapolat" in solution.message


@pytest.mark.slow
def test_tolerance_below_rounding_is_inexact_and_honest() -> None:
    solution = dp.solve("growth", {"continuous": False, "beta": 0.999}, tol=1e-14)
    assert solution.status == "inexact"
    assert "rounding" in solution.message
    assert 1e-14 < float(solution.error_bound) < 1e-8
    truth = dp.solve("growth", {"continuous": False, "beta": 0.999}, tol=1e-9)
    assert np.all(solution.lower <= truth.upper)
    assert np.all(truth.lower <= solution.upper)


def test_the_greedy_policy_loses_no_more_than_the_bounds_allow() -> None:
    reward, transition, beta = random_arrays(9, n=30, m=6)
    solution = dp.solve(dp.mdp(reward, transition, beta), tol=1e-3, method="vi")
    own, policy = np.arange(30), np.asarray(solution.policy_index["action"])
    worth = np.linalg.solve(np.eye(30) - beta * transition[own, policy], reward[own, policy])
    truth = solve_arrays(reward, transition, beta).value
    assert np.max(truth - worth) <= 2 * float(solution.error_bound) + 1e-12


@pytest.mark.slow
def test_value_iteration_converges_under_a_varying_discount() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={"c": [0.0]},
        transition={"x": lambda x: 1 - x},
        reward=lambda x: 1.0 + x,
        discount=lambda x: 0.3 + 0.65 * x,
    )
    v0 = (1 + 0.3 * 2) / (1 - 0.3 * 0.95)
    for method in ("vi", "opi", "pi", "auto"):
        solution = dp.solve(model, tol=1e-9, method=method)
        assert solution.status == "solved", (method, solution.message)
        assert_certified(solution, np.array([v0, 2 + 0.95 * v0]))


def test_a_finite_horizon_s_bound_is_the_worst_of_all_periods() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 1)},
        transition={"x": "x"},
        reward=lambda x, c: 1.0 * x - c,
        discount=0.01,
        horizon=10,
        terminal=lambda x: 1e8 * (x + 1.0),
    )
    solution = dp.solve(model, tol=1e-5)
    widest = float(np.max(solution.upper - solution.value))
    assert float(solution.error_bound) == pytest.approx(widest, rel=1e-2)
    assert dp.solve(model, tol=1e-9).status == "inexact"


@pytest.mark.slow
def test_what_cannot_happen_may_be_anything() -> None:
    # At the top of the grid an arrival has probability zero: it would leave the grid, and its
    # reward is NaN.
    def arrivals(n):
        return jnp.where(n < 3, jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0]))

    model = dp.Model(
        states={"n": dp.integers(0, 3)},
        choices={"c": [0.0, 1.0]},
        shocks={"w": dp.iid([0, 1], arrivals)},
        transition={"n": lambda n, w: n + w},
        reward=lambda n, w, c: jnp.where(n + w > 3, jnp.nan, 1.0 * n) - c,
        discount=0.9,
    )
    dp.check(model)
    solution = dp.solve(model, tol=1e-9)
    assert solution.status == "solved", solution.message
    v = np.zeros(4)
    for _ in range(400):
        up = np.append(v[1:], v[3])
        v = np.arange(4) + 0.9 * np.where(np.arange(4) < 3, (v + up) / 2, v)
    assert_certified(solution, v)
