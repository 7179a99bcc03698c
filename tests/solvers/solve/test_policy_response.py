"""Derivatives with the response of a continuous choice: closed forms, and central differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from household import household

pytestmark = pytest.mark.slow

ALPHA, BETA = 1 / 3, 0.95


def brock_mirman(beta: Any = BETA, alpha: Any = ALPHA, *, n: int = 60) -> dp.Model:
    """Full depreciation and log utility; concavity is proved."""
    k_ss = (ALPHA * BETA) ** (1 / (1 - ALPHA))
    return dp.Model(
        states={"k": dp.grid(0.25 * k_ss, 1.75 * k_ss, n)},
        choices={"k_next": dp.interval("k")},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k**alpha - k_next > 0,
        reward=lambda k, k_next: jnp.log(k**alpha - k_next),
        discount=beta,
        outputs={"saved": lambda k, k_next: k_next / k**alpha},
    )


def test_policy_and_value_move_as_their_closed_forms_do() -> None:
    s = dp.solve(brock_mirman, gradients=["beta", "alpha"])
    assert (s.status, s.concavity) == ("solved", "proved")
    k = np.asarray(s.grids["k"])
    inner = slice(2, -2)  # k_next stays inside of the grid

    def policy(beta: Any, alpha: Any) -> Any:
        return alpha * beta * k**alpha

    def value(beta: Any, alpha: Any) -> Any:
        b = alpha / (1 - alpha * beta)
        a = jnp.log(1 - alpha * beta) + beta * b * jnp.log(alpha * beta)
        return a / (1 - beta) + b * jnp.log(k)

    for at, name in enumerate(("beta", "alpha")):
        moved = {"policy_k_next": policy, "value": value}
        for array, f in moved.items():
            true = jax.jacfwd(f, at)(BETA, ALPHA)[inner]
            found = s[f"d_{array}_d_{name}"][inner]
            np.testing.assert_allclose(found, true, rtol=2e-4, err_msg=f"{array} by {name}")
    np.testing.assert_allclose(s["d_output_saved_d_beta"][inner], ALPHA, rtol=2e-4)


ASKED: dict[str, Any] = {"moments": ["mean_a", "gini_a"], "distribution_tol": 1e-11}


@pytest.mark.parametrize("name", ["beta", "r"])
def test_everything_moves_as_central_differences_say(name: str) -> None:
    at, step = {"beta": 0.95, "r": 0.02}[name], 2e-5
    s = dp.solve(household, {"n_a": 24}, gradients=["beta", "r"], **ASKED)
    ends = [dp.solve(household, {"n_a": 24, name: at + h}, **ASKED) for h in (step, -step)]
    assert s.status == "solved"
    for array in ("moment_mean_a", "moment_gini_a", "policy_a_next", "output_consumption"):
        up, down = (np.asarray(end[array]) for end in ends)
        difference = (up - down) / (2 * step)
        far = 1e-6 * np.max(np.abs(difference))
        np.testing.assert_allclose(
            s[f"d_{array}_d_{name}"], difference, rtol=0, atol=far, err_msg=array
        )
    assert s[f"d_distribution_d_{name}"].sum() == pytest.approx(0.0, abs=1e-9)


def test_reverse_mode_and_a_batch_give_the_same() -> None:
    def wealth(beta: jax.Array) -> jax.Array:
        solution = dp.solve(household, {"n_a": 24, "beta": beta})
        return dp.stationary(solution, tol=1e-9).moments("mean_a")["mean_a"]

    one = dp.solve(household, {"n_a": 24}, gradients=["beta", "r"], **ASKED)
    wanted = float(one["d_moment_mean_a_d_beta"])
    assert jax.grad(wealth)(0.95) == pytest.approx(wanted, rel=1e-7)
    many = dp.solve_many(
        household, {"n_a": 24, "beta": [0.94, 0.95]}, gradients=["beta", "r"], **ASKED
    )
    assert many["d_moment_mean_a_d_beta"][1] == pytest.approx(wanted, rel=1e-9)
    assert many["d_policy_a_next_d_r"].shape == (2, 24, 2)


def old_age(beta: Any = 0.95, r: Any = 0.03, debt: Any = 0.5, *, n: int = 16) -> dp.Model:
    """A horizon, a bequest, and a limit to debt that eases with the parameter."""

    def consumption(a: Any, a_next: Any, t: Any) -> Any:
        return (1 + r) * a + 1.5 - 0.1 * t - a_next

    return dp.Model(
        states={"a": dp.grid(-0.6, 6.0, n)},
        choices={"a_next": dp.interval("a", lo=lambda t: -debt * (1 - t / 5))},
        transition={"a": "a_next"},
        feasible=lambda a, a_next, t: consumption(a, a_next, t) > 0,
        reward=lambda a, a_next, t: dp.crra(consumption(a, a_next, t), 2.0),
        terminal=lambda a: 0.3 * jnp.log(a + 2.0),
        discount=beta,
        horizon=5,
        concave=True,
        outputs={"consumption": consumption},
    )


@pytest.mark.parametrize("name", ["beta", "debt"])
def test_over_a_horizon_too(name: str) -> None:
    asked: dict[str, Any] = {"initial": {"a": 1.0}}
    at, step = {"beta": 0.95, "debt": 0.5}[name], 1e-5
    s = dp.solve(old_age, gradients=["beta", "debt"], **asked)
    assert s.status == "solved"
    ends = [dp.solve(old_age, {name: at + h}, **asked) for h in (step, -step)]
    for array, near in (("policy_a_next", 1e-6), ("distribution_path", 1e-6)):
        up, down = (np.asarray(end[array]) for end in ends)
        difference = (up - down) / (2 * step)
        far = near * np.max(np.abs(difference))
        np.testing.assert_allclose(
            s[f"d_{array}_d_{name}"], difference, rtol=0, atol=far, err_msg=array
        )
    # The value's is that of the true value, of which far more nodes tell more than differences.
    fine = [dp.solve(old_age, {name: at + h, "n": 241}).value[:, ::16] for h in (step, -step)]
    true = np.asarray(fine[0] - fine[1]) / (2 * step)
    far = 0.06 * np.max(np.abs(true))
    np.testing.assert_allclose(s[f"d_value_d_{name}"], true, rtol=0, atol=far)
    if name == "debt":  # those whom the limit holds move with it
        limit = np.broadcast_to(-0.5 * (1 - np.arange(5) / 5)[:, None], (5, 16))
        held = np.abs(np.asarray(s.policy["a_next"]) - limit) < 1e-12
        assert 0 < held.sum() < held.size
        np.testing.assert_allclose(s["d_policy_a_next_d_debt"][held], limit[held] / 0.5)
