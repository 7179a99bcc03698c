"""Parameters that are arrays: dp.array and plain ones, in a solve, a batch, a derivative."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

PRICES = 1 + np.arange(30).reshape(3, 10) / 30


def shop(
    beta: float = 0.9,
    prices: Any = dp.array("k", fill=1.0),
    tax: Any = jnp.zeros(3),
    *,
    n: int = 10,
) -> dp.Model:
    """Sell a stock; the price depends on it, and a table of taxes has one entry that counts."""

    def revenue(k: Any, k_next: Any) -> Any:
        return prices[k] * (k - k_next) - 0.05 * (k - k_next) ** 2 - tax[1]

    return dp.Model(
        states={"k": dp.integers(0, n - 1)},
        choices={"k_next": "k"},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k_next <= k,
        reward=revenue,
        discount=beta,
    )


def by_hand(prices: Any, beta: float = 0.9) -> Any:
    """Return the value of a shop, from the empty one on."""
    value = np.zeros(len(prices))
    for k in range(1, len(prices)):
        sold = np.arange(1, k + 1)
        best = (prices[k] * sold - 0.05 * sold**2 + beta * value[k - sold]).max()
        value[k] = max(best, 0.0)  # nothing sold today, and so never
    return value


def survival(beta: float = 0.9, alive: Any = dp.array("t", fill=1.0), *, periods: int = 5) -> Any:
    return dp.Model(
        states={"k": dp.integers(0, 1)},
        choices={"k_next": "k"},
        transition={"k": "k_next"},
        reward=lambda t: alive[t],
        discount=beta,
        horizon=periods,
    )


def test_other_entries_compile_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dpsolve"):
        for prices in PRICES:
            found = dp.solve(shop, {"prices": prices})
            assert np.abs(found.value - by_hand(prices)).max() < 1e-12
    assert len([r for r in caplog.records if r.message.startswith("compiling shop")]) <= 1


def test_many_points_are_a_leading_axis_and_a_nan_hurts_no_other() -> None:
    holed = PRICES.copy()
    holed[1, 4] = np.nan
    many = dp.solve_many(shop, {"prices": holed, "tax": [0.0, 0.5, 0.0]})
    assert many.status.tolist() == ["solved", "failed", "solved"]
    assert many.message[1] == "parameter 'prices' is NaN at [4] (k_index=4)"
    for i in (0, 2):
        assert np.abs(many.value[i] - by_hand(PRICES[i]) + 0.5 / (1 - 0.9)).max() < 1e-11
    ds = many.to_xarray()
    assert ds.prices.dims == ("point", "k")
    assert ds.tax.dims == ("point", "tax_index")
    assert many.point(2).parameters["prices"].tolist() == PRICES[2].tolist()


def test_a_table_over_time_is_read_by_period() -> None:
    alive = np.array([1.0, 0.9, 0.7, 0.4, 0.2])
    found = dp.solve(survival, {"alive": alive})
    assert float(found.value[0, 0]) == pytest.approx(float(alive @ 0.9 ** np.arange(5)), abs=1e-14)
    assert found.to_xarray().alive.dims == ("t",)


@pytest.mark.parametrize(
    ("factory", "params", "text"),
    [
        (shop, {"prices": np.ones(9)}, r"'prices' has shape \(9,\), and its.* \(10,\): 10 of k"),
        (shop, {"prices": np.ones(10), "n": 12}, r"its shape is \(12,\): 12 of k"),
        (shop, {"prices": 1.0}, r"'prices' is one number.*jnp.full\(\(10,\), ...\)"),
        (shop, {"prices": PRICES}, "this is one point, and dp.solve_many takes an array for each"),
        (shop, {"prices": np.r_[PRICES[0, :9], np.nan]}, r"is NaN at \[9\] \(k_index=9\)"),
        (shop, {"tax": [0.0, 1.0]}, r"'tax' has shape \(2,\), and its shape is \(3,\)"),
        (shop, {"tax": ["a", "b", "c"]}, "a parameter is a number, or an array of numbers"),
        (survival, {"alive": np.ones(40), "periods": 60}, r"\(40,\), and its .* \(60,\): 60 of t"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_compiled(
    factory: Any, params: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "dpsolve"),
        pytest.raises(dp.ModelError, match=text) as error,
    ):
        dp.solve(factory, params)
    assert str(error.value).startswith(factory.__name__) or "tax" in params
    assert not [r for r in caplog.records if r.message.startswith("compiling")]


def of(default: Any, choice: Any = "k", compute: Any = lambda x, n: x) -> Any:
    def model(q: Any = default, *, n: int = 4) -> dp.Model:
        table = compute(q, n)
        return dp.Model(
            states={"k": dp.grid(0.0, 1.0, n)},
            choices={"c": choice},
            transition={"k": "c"},
            reward=lambda k, c: -((k - c) ** 2) + table.sum(),
            discount=0.9,
        )

    return model


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: dp.array(fill=1.0), "takes the names of states"),
        (lambda: dp.array("k", "k"), "'k' is named twice"),
        (lambda: dp.array("k", fill=np.nan), "fill is NaN"),
        (lambda: dp.array("k", fill=[[1.0]]), "fill has 2 dimensions"),
        (lambda: dp.array("k", fill="much"), "no array of numbers"),
        (lambda: dp.array("k", shape=(2, 3)), "a length for each of k"),
        (lambda: dp.solve(of(dp.array("kk", fill=1.0))), "is an array over 'kk'.*mean 'k'"),
        (lambda: dp.solve(of(dp.array("c", fill=1.0), dp.interval("k"))), "array over 'c', which"),
        (
            lambda: dp.solve(of(dp.array("k", fill=[1.0, 2.0]))),
            r"\(2,\), and the model has 4",
        ),
        (
            lambda: dp.solve(of(dp.array("k"))),
            r"needs a value for 'q', an array \(k\)",
        ),
        (lambda: dp.solve(of(np.array([]))), "an array without entries"),
        (
            lambda: dp.solve(of(dp.array("k", fill=1.0), compute=lambda q, n: q @ np.eye(n))),
            "say its shape by the names of sizes",
        ),
    ],
)
def test_a_default_that_says_nothing_is_refused(make: Any, text: str) -> None:
    with pytest.raises(dp.ModelError, match=text):
        make()


def test_a_factory_that_computes_with_its_array_says_its_shape() -> None:
    model = of(dp.array("k", fill=1.0, shape="n"), compute=lambda q, n: q @ np.eye(n))
    found = dp.solve(model, {"n": 5})
    assert float(found.value[0]) == pytest.approx(50.0, abs=1e-9)


@pytest.mark.slow
def test_derivatives_by_entries_are_differences_and_have_their_dimensions() -> None:
    found = dp.solve(shop, {"prices": PRICES[0]}, gradients=["prices", "beta"], tol=1e-12)
    slope = found.gradients["prices"]["value"]
    assert slope.shape == (10, 10)
    step = 1e-6
    for j in (3, 7):
        more = PRICES[0].copy()
        more[j] += step
        difference = (by_hand(more) - by_hand(PRICES[0])) / step
        assert np.abs(slope[:, j] - difference).max() < 1e-7
    assert found.to_xarray().d_value_d_prices.dims == ("k", "prices_k")
    by_jax = jax.grad(lambda p: dp.solve(shop, {"prices": p}).value[9])(jnp.asarray(PRICES[0]))
    assert np.abs(by_jax - slope[9]).max() < 1e-9


def test_a_grid_is_not_refined_under_an_array_of_its_nodes() -> None:
    with pytest.raises(dp.UsageError, match=r"'q' is an array of shape \(4,\) with an"):
        dp.solve(of(dp.array("k", fill=1.0), dp.interval("k")), tol=1e-3, refine="n")
