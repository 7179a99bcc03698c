"""The built-in models reach the reference numbers of the systems the project grew from."""

import json
from pathlib import Path

import numpy as np
import pytest

import dpsolve as dp

NUMBERS = json.loads((Path(__file__).parent / "systems.json").read_text())
METHODS = ["auto", "vi", "pi", "opi"]


@pytest.mark.parametrize("method", METHODS)
def test_cake_reaches_its_fixed_point(method: str) -> None:
    numbers = NUMBERS["cake"]
    cake = dp.solve("cake", tol=1e-9, method=method)
    assert cake.status == "solved"
    np.testing.assert_allclose(cake.value, numbers["v_fixed_full"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(cake.policy_index["x_next"], numbers["policy_fixed_index"])


def test_cake_after_exactly_100_sweeps_is_a_horizon_of_100() -> None:
    numbers = NUMBERS["cake"]
    cake = dp.solve("cake", {"horizon": 100})
    assert cake.status == "solved"
    assert cake.value.shape == (100, 100)
    np.testing.assert_allclose(cake.value[0], numbers["v_100_full"], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(cake.policy_index["x_next"][0], numbers["policy_100_index"])


@pytest.mark.parametrize("method", METHODS)
def test_growth_reaches_its_fixed_point(method: str) -> None:
    numbers = NUMBERS["growth"]
    growth = dp.solve("growth", {"continuous": False}, tol=1e-8, method=method)
    assert growth.status == "solved"
    assert np.max(np.abs(growth.value - np.array(numbers["v_fixed"]))) <= 1e-8
    np.testing.assert_array_equal(growth.policy_index["k_next"], numbers["policy"])
    # Grid point 33 is the steady state, where the value has a closed form.
    np.testing.assert_allclose(growth.grids["k"][33], numbers["k_ss"], rtol=1e-15)
    np.testing.assert_allclose(growth.value[33], numbers["v_ss"], rtol=0, atol=1e-8)


def test_growth_after_300_sweeps_lies_where_the_reference_says() -> None:
    gap = np.array(NUMBERS["growth"]["v_fixed"]) - np.array(NUMBERS["growth"]["v_T300"])
    growth = dp.solve("growth", {"continuous": False}, tol=1e-10)
    np.testing.assert_allclose(growth.value - np.array(NUMBERS["growth"]["v_T300"]), gap, atol=1e-9)
    assert np.max(np.abs(gap)) == pytest.approx(4.4e-7, rel=0.01)


@pytest.mark.slow
def test_savings_agrees_between_all_methods() -> None:
    values = [dp.solve("savings", {"continuous": False}, tol=1e-7, method=m) for m in METHODS]
    for one in values:
        assert one.status == "solved"
        for other in values:
            assert np.all(one.lower <= other.upper)
    assert values[0].value.shape == (200, 7)


@pytest.mark.slow
def test_savings_agrees_with_brute_force() -> None:
    beta, gamma, r, n_a, n_z = 0.95, 1.5, 0.02, 40, 3
    s = dp.solve(
        "savings",
        {"continuous": False, "beta": beta, "gamma": gamma, "r": r, "n_a": n_a, "n_z": n_z},
        tol=1e-9,
    )
    chain = dp.rouwenhorst(n_z, 0.9, 0.1)
    a, z, p = np.linspace(0, 20, n_a), chain.values, chain.transition_matrix
    c = (1 + r) * a[:, None, None] + np.exp(z)[:, None] - a
    u = np.where(c > 0, np.where(c > 0, c, 1.0) ** (1 - gamma) / (1 - gamma), -np.inf)
    v = np.zeros((n_a, n_z))
    for _ in range(1000):
        v = np.max(u + beta * (v @ p.T).T[None], -1)
    assert np.max(np.abs(s.value - v)) <= 2e-9
    assert np.all(s.lower <= v + 1e-12)
    assert np.all(v - 1e-12 <= s.upper)
    np.testing.assert_allclose(
        s.outputs["consumption"],
        (1 + r) * a[:, None] + np.exp(z) - s.policy["a_next"],
        rtol=0,
        atol=1e-12,
    )


# Bounds on the true value of savings at wealth 0 and 5, lowest, middle and highest income, from
# 6,000 nodes by the endogenous grid method, in NumPy.
SAVINGS = {
    0.0: [(-30.4606673, -30.4606670), (-25.3806652, -25.3806647), (-21.3882177, -21.3882165)],
    5.0: [(-24.0535134, -24.0535113), (-21.4421146, -21.4421127), (-18.7317783, -18.7317762)],
}


@pytest.mark.slow
def test_the_true_value_of_savings_is_between_its_bounds() -> None:
    n_a = 201  # the middle one is at 5
    s = dp.solve("savings", {"n_a": n_a})
    assert (s.status, s.certifies) == ("solved", "continuum")
    assert float(s.error_bound) < 4e-3
    for a, truth in SAVINGS.items():
        node = int(np.argmin(np.abs(s.grids["a"] - a)))
        np.testing.assert_allclose(s.grids["a"][node], a, atol=1e-12)
        below, above = np.array(truth).T
        assert np.all(s.lower[node, ::3] <= above)
        assert np.all(s.upper[node, ::3] >= below)
        np.testing.assert_allclose(s.value[node, ::3], below, atol=3e-4)


@pytest.mark.slow
def test_the_true_value_of_growth_is_between_its_bounds() -> None:
    numbers = NUMBERS["growth"]
    growth = dp.solve("growth", {"n_k": 31})
    assert (growth.status, growth.certifies) == ("solved", "continuum")
    np.testing.assert_allclose(growth.grids["k"][10], numbers["k_ss"], rtol=1e-14)
    assert growth.lower[10] <= numbers["v_ss"] <= growth.upper[10]
    assert growth.policy_lower["k_next"][10] <= numbers["k_ss"] <= growth.policy_upper["k_next"][10]
    assert growth.upper[10] - growth.lower[10] < 1e-6
    assert float(growth.error_bound) < 2e-2


@pytest.mark.parametrize("name", ["savings", "growth"])
def test_continuous_is_true_or_false(name: str) -> None:
    with pytest.raises(dp.UsageError, match=r"continuous='no'; it is True or False"):
        dp.solve(name, {"continuous": "no"})
