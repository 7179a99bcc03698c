"""The call under stochastic volatility: closed form, reference, honest errors, the same bits."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import norm

import dpsolve as dp
from dpsolve.solvers.library import call_option

NUMBERS = json.loads((Path(__file__).parents[2] / "systems.json").read_text())["call_option"]


def black(strike: float, mean: float, variance: float) -> float:
    sd = math.sqrt(variance)
    d = (mean - math.log(strike)) / sd
    return float(math.exp(mean + variance / 2) * norm.cdf(d + sd) - strike * norm.cdf(d))


def test_without_volatility_of_volatility_it_is_the_closed_form() -> None:
    frozen = dp.solve("call_option", {"nu": 0.0, "paths": 100})
    assert float(frozen["price"]) == pytest.approx(NUMBERS["h_frozen"], rel=1e-13)
    assert float(frozen["price_se"]) <= 1e-9


def test_volatility_that_dies_out_deterministically_is_a_closed_form_too() -> None:
    h = 0.3 * 0.5 ** np.arange(8)
    exact = 0.97**8 * black(90.0, math.log(95.0) + 8 * 0.01, float(np.sum(np.exp(2 * h))))
    given = {"beta": 0.97, "K": 90.0, "mu": 0.01, "rho": 0.5, "nu": 0.0, "S0": 95.0, "h0": 0.3}
    price = dp.solve("call_option", given | {"n": 8, "paths": 2})["price"]
    assert float(price) == pytest.approx(exact, rel=1e-13)


@pytest.mark.slow
def test_the_conditional_estimator_lands_on_the_reference_within_its_error() -> None:
    found = dp.solve("call_option", {"paths": 1_000_000})
    reference = NUMBERS["conditional_se"] * math.sqrt(NUMBERS["conditional_draws"] / 1e6)
    assert float(found["price_se"]) == pytest.approx(reference, rel=0.02)
    gap = float(found["price"]) - NUMBERS["conditional"]
    assert abs(gap) < 3 * math.hypot(float(found["price_se"]), NUMBERS["conditional_se"])
    assert float(found["largest_share"]) < 2e-6


@pytest.mark.slow
def test_both_estimators_agree_where_both_work() -> None:
    mild = {"n": 4, "S0": 100.0, "h0": -1.5, "nu": 0.2, "rho": 0.9, "paths": 200_000}
    one = dp.solve("call_option", mild)
    other = dp.solve("call_option", mild | {"estimator": "plain", "seed": 1})
    gap = abs(float(one["price"]) - float(other["price"]))
    assert gap < 4 * math.hypot(float(one["price_se"]), float(other["price_se"]))
    assert float(one["price_se"]) < 0.2 * float(other["price_se"])


def test_the_plain_estimator_shows_that_it_cannot_be_trusted() -> None:
    plain = dp.solve("call_option", {"paths": 100_000, "estimator": "plain"})
    assert float(plain["largest_share"]) > 0.05
    # What the standard error would be, were the draws' true deviation known, is beyond the price.
    assert NUMBERS["plain_sd"] / math.sqrt(1e7) > 6 * NUMBERS["conditional"]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["conditional", "plain"])
def test_a_seed_is_a_number_in_any_batch(estimator: str) -> None:
    fixed = {"paths": 10_000, "estimator": estimator, "nu": 0.01}
    strikes = np.linspace(60.0, 140.0, 11)
    many = dp.solve_many("call_option", fixed | {"K": strikes})
    for width in (1, 2, 5):
        few = dp.solve_many("call_option", fixed | {"K": strikes[:width]})
        for name in ("price", "price_se", "largest_share"):
            np.testing.assert_array_equal(few[name], many[name][:width])
    for i in (0, 10):
        alone = dp.solve("call_option", fixed | {"K": strikes[i]})
        assert float(alone["price"]) == many["price"][i]
        assert float(alone["price_se"]) == many["price_se"][i]
    other = dp.solve("call_option", fixed | {"K": strikes[0], "seed": 1})
    assert float(other["price"]) != many["price"][0]


@pytest.mark.slow
def test_a_seed_is_a_number_on_any_number_of_devices(fresh_python: Callable[[str], str]) -> None:
    code = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count={devices}"
import dpsolve as dp, numpy as np, jax
assert len(jax.devices()) == {devices}
many = dp.solve_many("call_option", {{"K": np.linspace(60, 140, 6), "paths": 9_000}})
print(many["price"].tobytes().hex(), many["price_se"].tobytes().hex())
"""
    one, four = (fresh_python(code.format(devices=n)).split()[-2:] for n in (1, 4))
    assert one == four


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["conditional", "plain"])
def test_memory_does_not_grow_with_the_paths(estimator: str) -> None:
    def bytes_of(paths: int, reverse: bool) -> int:
        def price(strike: jax.Array) -> jax.Array:
            return call_option(K=strike, paths=paths, estimator=estimator)["price"]

        program = jax.jit(jax.grad(price) if reverse else price).lower(100.0).compile()
        return int(program.memory_analysis().temp_size_in_bytes)

    for reverse in (False, True):
        per_path = (bytes_of(10**8, reverse) - bytes_of(10**6, reverse)) / (10**8 - 10**6)
        assert per_path < 0.1
        assert bytes_of(10**8, reverse) < 32 * 2**20


@pytest.mark.slow
def test_derivatives_are_those_of_the_closed_form() -> None:
    def price(strike: jax.Array) -> jax.Array:
        return dp.solve("call_option", {"K": strike, "nu": 0.0, "n": 4, "paths": 100})["price"]

    mean, sd = math.log(10.0) + 4 * 0.0001, 2.0
    exact = -(0.99**4) * norm.cdf((mean - math.log(20.0)) / sd)
    assert float(jax.grad(price)(20.0)) == pytest.approx(exact, rel=1e-12)
    assert float(jax.jacfwd(price)(20.0)) == pytest.approx(exact, rel=1e-12)


def test_mistakes_are_named() -> None:
    with pytest.raises(dp.UsageError, match='"conditional" or "plain"'):
        dp.solve("call_option", {"estimator": "plane"})
    with pytest.raises(dp.UsageError, match="at least 2"):
        dp.solve("call_option", {"paths": 1})
    with pytest.raises(dp.ModelError, match="strike K and the price S0 must be above 0"):
        dp.solve("call_option", {"K": -1.0, "paths": 10})
