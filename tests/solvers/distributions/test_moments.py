"""Moments: what their definitions give, computed here by hand or by brute force in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dpsolve as dp
from dpsolve.solvers.distributions.moments import (
    check_moments,
    expanded,
    moment_names,
    moments_of,
    usual_moments,
)
from dpsolve.solvers.methods.choose_operator import make_operator
from dpsolve.solvers.options import SolveOptions

VALUES = np.array([0.0, 1.0, 2.0, 5.0, 9.0])
MASS = np.array([0.1, 0.3, 0.2, 0.25, 0.15])


def chain(values: Any) -> Any:
    return dp.markov(values, np.eye(len(values)))


def moment(name: str, values: Any, mass: Any) -> float:
    return float(
        moments_of(chain(values), None, jnp.asarray(mass), [f"{name}_state"])[f"{name}_state"]
    )


def brute_gini(x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> float:
    """Half the mean absolute difference of two draws, relative to the mean."""
    pairs = itertools.product(zip(x, w, strict=True), repeat=2)
    return float(sum(a * b * abs(p - q) for (p, a), (q, b) in pairs) / (2 * (x @ w)))


def model(**more: Any) -> dp.Model:
    """Two continuous states and a shock that an output is drawn with."""
    return dp.Model(
        states={"a": dp.grid(0.0, 3.0, 4), "z": dp.markov([0.5, 1.5], [[0.8, 0.2], [0.3, 0.7]])},
        choices={"a_next": "a", "effort": dp.grid(1.0, 2.0, 2)},
        transition={"a": "a_next"},
        shocks={"luck": dp.iid([-1.0, 0.0, 2.0], [0.25, 0.5, 0.25])},
        reward=lambda a, a_next, z, effort: -((a_next - 0.5 * a - z) ** 2) + effort * (z - 1.0),
        discount=0.9,
        outputs={"income": lambda z, luck, effort: effort * z + luck, "a": lambda z: -z},
        **more,
    )


def solved(made: dp.Model) -> tuple[dp.Solution, Any]:
    solution = dp.solve(made)
    operator = make_operator(made, SolveOptions())
    return solution, operator.at(operator.policy_of(solution.policy_index))


# -- a law of few values, by hand ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", 3.3),
        ("var", 0.1 * 3.3**2 + 0.3 * 2.3**2 + 0.2 * 1.3**2 + 0.25 * 1.7**2 + 0.15 * 5.7**2),
        ("top", 0.15),
        ("bottom", 0.1),
        ("p1", 0.0),
        ("p10", 0.0),  # F(0) is 0.1, and rounding does not make the quantile the next value
        ("p11", 1.0),
        ("p40", 1.0),
        ("p60", 2.0),  # .1 + .3 + .2 is below .6 in floating point
        ("p85", 5.0),
        ("p86", 9.0),
        ("p99", 9.0),
    ],
)
def test_a_law_by_hand(name: str, value: float) -> None:
    assert moment(name, VALUES, MASS) == pytest.approx(value, rel=1e-14)
    order = [3, 0, 4, 2, 1]  # the order in which values stand does not matter
    if name not in ("top", "bottom"):
        assert moment(name, VALUES[order], MASS[order]) == pytest.approx(value, rel=1e-14)


@pytest.mark.slow
def test_the_gini_of_known_laws() -> None:
    assert moment("gini", [1.0, 1.0, 1.0], [0.2, 0.3, 0.5]) == pytest.approx(0.0, abs=1e-15)
    # A share p that has everything: 1 - p.
    assert moment("gini", [0.0, 4.0], [0.7, 0.3]) == pytest.approx(0.7, rel=1e-14)
    # Uniform on 1..n: the mean difference is (n^2 - 1) / (3 n), and the mean (n + 1) / 2.
    n = 50
    assert moment("gini", np.arange(1.0, n + 1), np.full(n, 1 / n)) == pytest.approx(
        (n - 1) / (3 * n), rel=1e-13
    )


@pytest.mark.slow
def test_the_gini_of_what_cannot_be_shared_is_nan() -> None:
    assert np.isnan(moment("gini", [-1.0, 1.0], [0.5, 0.5]))
    assert np.isnan(moment("gini", [0.0, 1.0], [1.0, 0.0]))
    # What a linear solve left in place of zero is not shared unequally: it is nothing.
    assert np.isnan(moment("gini", [0.0, 1.0, 20.0], [1 - 3e-12, 2e-12, 1e-12]))
    assert moment("gini", [-1.0, 1.0, 3.0], [0.0, 0.5, 0.5]) == pytest.approx(0.25)


LAWS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays(float, n, elements=st.floats(0.0, 100.0).map(lambda x: round(x, 3))),
        arrays(float, n, elements=st.floats(0.01, 1.0)),
    )
)


@settings(max_examples=60, deadline=None)
@given(LAWS)
@pytest.mark.slow
def test_any_law_by_brute_force(law: tuple[Any, Any]) -> None:
    x, w = law[0] + 0.5, law[1] / law[1].sum()
    found = {n: moment(n, x, w) for n in ("mean", "sd", "gini", "p25", "p50", "p90")}
    assert found["mean"] == pytest.approx(x @ w, rel=1e-13)
    assert found["sd"] == pytest.approx(np.sqrt(w @ (x - x @ w) ** 2), rel=1e-10, abs=1e-12)
    assert found["gini"] == pytest.approx(brute_gini(x, w), rel=1e-10, abs=1e-14)
    for p in (25, 50, 90):
        reach = min(v for v in x if w[x <= v].sum() >= p / 100 - 1e-12)
        assert found[f"p{p}"] == reach


def test_a_small_spread_about_a_large_mean_does_not_cancel() -> None:
    x = 1e8 + np.array([-1.0, 1.0])
    assert moment("var", x, [0.5, 0.5]) == pytest.approx(1.0, rel=1e-12)
    assert moment("sd", x, [0.5, 0.5]) == pytest.approx(1.0, rel=1e-12)


def test_a_distribution_of_nan_has_moments_of_nan() -> None:
    for name in ("mean", "sd", "gini", "p50", "top"):
        assert np.isnan(moment(name, VALUES, np.full(5, np.nan))), name


# -- of a model ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_moments_of_states_choices_and_outputs() -> None:
    made = model()
    solution, fixed = solved(made)
    rng = np.random.default_rng(3)
    mass = rng.random((4, 2))
    mass /= mass.sum()
    found = moments_of(
        made, fixed, jnp.asarray(mass),
        ["mean_a", "sd_z", "mean_effort", "sd_income", "gini_a", "top_a", "mean_income"],
    )  # fmt: skip
    a, z = np.arange(4.0), np.array([0.5, 1.5])
    assert float(found["mean_a"]) == pytest.approx(mass.sum(1) @ a)  # the state, not the output
    assert float(found["sd_z"]) == pytest.approx(np.sqrt(mass.sum(0) @ (z - mass.sum(0) @ z) ** 2))
    assert float(found["mean_effort"]) == pytest.approx((mass * solution.policy["effort"]).sum())
    assert float(found["top_a"]) == pytest.approx(mass[3].sum())
    assert float(found["gini_a"]) == pytest.approx(brute_gini(a, mass.sum(1)))
    # An output's law is of what is drawn: its shock adds to the deviation, not to the mean.
    luck, chance = np.array([-1.0, 0.0, 2.0]), np.array([0.25, 0.5, 0.25])
    income = (solution.policy["effort"] * z)[..., None] + luck
    weight = mass[..., None] * chance
    mean = (weight * income).sum()
    assert float(found["mean_income"]) == pytest.approx(mean)
    assert float(found["mean_income"]) == pytest.approx((mass * solution.outputs["income"]).sum())
    assert float(found["sd_income"]) == pytest.approx(
        np.sqrt((weight * (income - mean) ** 2).sum())
    )


@pytest.mark.slow
def test_a_models_own_moments() -> None:
    made = model(
        moments={
            "poor": lambda a: a < 1.0,
            "windfall": lambda a, luck, income: jnp.where(luck > 0, a * income, 0.0),
            "known_a": lambda a: a,
        }
    )
    solution, fixed = solved(made)
    mass = np.arange(1.0, 9.0).reshape(4, 2) / 36.0
    found = moments_of(made, fixed, jnp.asarray(mass), ["poor", "windfall", "known_a"])
    assert float(found["poor"]) == pytest.approx(mass[0].sum())
    z = np.array([0.5, 1.5])
    income = solution.policy["effort"] * z + 2.0
    assert float(found["windfall"]) == pytest.approx(
        0.25 * (mass * np.arange(4.0)[:, None] * income).sum()
    )
    assert float(found["known_a"]) == pytest.approx(mass.sum(1) @ np.arange(4.0))


@pytest.mark.slow
def test_functions_given_on_the_spot() -> None:
    made = model()
    _, fixed = solved(made)
    mass = jnp.full((4, 2), 1 / 8)

    def rich(a: Any) -> Any:
        return a > 1.5

    assert float(moments_of(made, fixed, mass, ["mean_a", rich])["rich"]) == pytest.approx(0.5)
    assert float(moments_of(made, fixed, mass, {"r": rich})["r"]) == pytest.approx(0.5)
    with pytest.raises(dp.ModelError, match="takes an argument 'b'"):
        moments_of(made, fixed, mass, {"r": lambda b: b})


@pytest.mark.slow
def test_a_value_that_is_no_number_counts_only_where_there_is_mass() -> None:
    made = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"d": dp.integers(0, 1)},
        transition={"x": lambda x, d: jnp.minimum(x + d, 2)},
        reward=lambda x, d: x * 1.0,
        discount=0.9,
        outputs={"log_x": lambda x: jnp.log(x * 1.0)},
    )
    _, fixed = solved(made)
    at_top = moments_of(made, fixed, jnp.array([0.0, 0.5, 0.5]), ["mean_log_x"])
    assert float(at_top["mean_log_x"]) == pytest.approx(0.5 * np.log(2.0))
    reductions = moments_of(made, fixed, jnp.full(3, 1 / 3), ["mean_log_x"])
    assert float(reductions["mean_log_x"]) == -np.inf


def test_moments_of_a_model_of_arrays() -> None:
    made = dp.mdp(np.array([[0.0, 1.0], [0.0, -1.0]]), np.full((2, 2, 2), 0.5), 0.9)
    solution, fixed = solved(made)
    found = moments_of(
        made, fixed, jnp.array([0.25, 0.75]), ["moments", "mean_action", "top_state"]
    )
    assert set(found) == {"mean_state", "sd_state", "mean_action", "top_state"}
    assert float(found["mean_state"]) == 0.75
    np.testing.assert_array_equal(solution.policy["action"], [1, 0])
    assert float(found["mean_action"]) == 0.25


def test_moments_can_be_traced_and_differentiated() -> None:
    values = jnp.asarray(VALUES)

    def gini(shift: Any) -> Any:
        law = dp.markov(values + shift, np.eye(5))
        return moments_of(law, None, jnp.asarray(MASS), ["gini_state"])["gini_state"]

    h = 1e-5
    slope = (gini(1.0 + h) - gini(1.0 - h)) / (2 * h)
    assert float(jax.jit(jax.grad(gini))(1.0)) == pytest.approx(float(slope), rel=1e-8)

    def deviation(scale: Any) -> Any:
        law = dp.markov(values * scale, np.eye(5))
        return moments_of(law, None, jnp.asarray(MASS), ["sd_state"])["sd_state"]

    assert np.isfinite(jax.grad(deviation)(0.0))  # a constant has a deviation of zero, not of NaN


# -- names -----------------------------------------------------------------------------------------


def test_the_usual_moments() -> None:
    made = model(moments={"poor": lambda a: a < 1.0})
    assert usual_moments(made) == (
        "poor", "mean_a", "sd_a", "mean_z", "sd_z", "mean_income", "sd_income", "top_a",
    )  # fmt: skip
    assert expanded(made, ["gini_a", "moments", "sd_a"]) == (
        "gini_a", "poor", "mean_a", "sd_a", "mean_z", "sd_z", "mean_income", "sd_income", "top_a",
    )  # fmt: skip
    check_moments(made, moment_names(made))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gini_b", ["no moment 'gini_b'", "Did you mean 'gini_", "a, z, a_next, effort, income"]),
        ("median_a", ["'median_a'", "p1 to p99"]),
        ("p0_a", ["'p0_a'"]),
        ("p100_a", ["'p100_a'"]),
        ("por", ["Did you mean 'poor'", "poor (the model's own)"]),
        ("top_income", ["'income' is no state", "a, z"]),
        ("mean_luck", ["'mean_luck'"]),
    ],
)
def test_an_unknown_moment_is_refused_with_what_there_is(name: str, words: list[str]) -> None:
    with pytest.raises(dp.UsageError) as caught:
        check_moments(model(moments={"poor": lambda a: a < 1.0}), [name])
    for word in words:
        assert word in str(caught.value)


def test_moments_are_checked_when_the_model_is_made() -> None:
    with pytest.raises(dp.ModelError, match="moment 'poor' takes an argument 'wealth'"):
        model(moments={"poor": lambda wealth: wealth < 1.0})
    with pytest.raises(dp.ModelError, match="the mean of 'a', which every model has"):
        model(moments={"mean_a": lambda a: a})
    with pytest.raises(dp.ModelError, match="is not a name"):
        model(moments={"the poor": lambda a: a < 1.0})


# -- moments of what is not certified --------------------------------------------------------------

ROWS = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
PLAIN = {"distribution_method": "plain", "moments": ("mean_z",)}


def turns(slow: float = 0.0) -> dp.Model:
    """Plain iteration does not converge where nobody stays: the chain is periodic."""
    rows = (1 - slow) * jnp.asarray(ROWS) + slow * jnp.eye(3)
    return dp.Model(
        states={"z": dp.markov([0.0, 1.0, 5.0], rows)},
        choices={"d": dp.integers(0, 1)},
        reward=lambda z, d: z - d,
        discount=0.9,
    )


def test_moments_of_a_distribution_that_is_not_certified_are_refused_with_its_bound() -> None:
    mu = dp.stationary(dp.solve(turns), method="plain")
    bound = float(mu.error_bound)
    assert (mu.status, bound > 0.1) == ("inexact", True)
    with pytest.raises(dp.UsageError) as caught:
        mu.moments("mean_z")
    far = f"from the true one is at most {bound:.3g}" if bound < np.inf else "nothing bounds"
    for word in ("not certified", far, "use method='auto'", "uncertified=True"):
        assert word in str(caught.value)
    given = float(mu.moments("mean_z", uncertified=True)["mean_z"])
    assert given == pytest.approx(float(mu.mass @ np.array([0.0, 1.0, 5.0])))
    assert abs(given - 1.75) > 0.01  # it does lie
    good = dp.stationary(dp.solve(turns))
    assert float(good.moments("mean_z")["mean_z"]) == pytest.approx(1.75, abs=1e-7)
    with pytest.raises(dp.UsageError, match="not certified"):
        dp.stationary(ROWS, method="plain").moments("mean_state")


def test_of_many_points_and_inside_a_trace_they_are_nan() -> None:
    slow = jnp.array([0.5, 0.0])
    many = dp.stationary(dp.solve_many(turns, {"slow": slow}), method="plain")
    np.testing.assert_allclose(many.moments("mean_z")["mean_z"], [1.75, np.nan], atol=1e-6)
    assert np.isfinite(many.moments("mean_z", uncertified=True)["mean_z"]).all()

    def mean(slow: Any) -> Any:
        mu = dp.stationary(dp.solve(turns, {"slow": slow}), method="plain")
        return mu.moments("mean_z")["mean_z"]

    assert float(jax.jit(mean)(0.5)) == pytest.approx(1.75, abs=1e-6)
    assert np.isnan(jax.jit(mean)(0.0))


def test_the_moments_of_a_solution_carry_the_status_of_its_distribution() -> None:
    found = dp.solve(turns, **PLAIN)
    assert found.status == "inexact"
    assert "the moments are of a distribution that is not certified (distance" in found.message
    with pytest.raises(dp.UsageError, match=r"not certified .*solution\['moment_mean_z'\]"):
        _ = found.moments
    assert np.isfinite(float(found["moment_mean_z"]))
    many = dp.solve_many(turns, {"slow": [0.5, 0.0]}, **PLAIN)
    assert list(many.status) == ["solved", "inexact"]
    np.testing.assert_allclose(many.moments["mean_z"], [1.75, np.nan], atol=1e-6)
    # A value that is inexact, too, does not hide it.
    both = dp.solve(turns, max_iter=1, tol=1e-12, method="vi", **PLAIN)
    assert "largest number of sweeps" in both.message
    assert "distribution that is not certified" in both.message
