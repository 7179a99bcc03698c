"""Solow's growth path: the reference numbers, and closed forms where there are some."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import dpsolve as dp

NUMBERS = json.loads((Path(__file__).parents[2] / "systems.json").read_text())["solow"]


def test_the_path_passes_the_reference_numbers() -> None:
    solow = dp.solve("solow", {"periods": 1000})
    assert solow.status == "solved"
    assert solow["path"].shape == (1001,)
    for t in (10, 100, 999, 1000):
        assert float(solow["path"][t]) == pytest.approx(NUMBERS[f"k_after_{t}"], rel=1e-14)
    assert float(solow["end"]) == float(solow["path"][1000])
    assert float(solow["steady_state"]) == pytest.approx(NUMBERS["k_star"], rel=1e-15)


def test_full_depreciation_has_a_closed_form() -> None:
    # log k is linear then: k_t = s^((1 - a^t) / (1 - a)) k_0^(a^t).
    s, a, k0, t = 0.25, 0.35, 3.0, np.arange(31)
    path = dp.solve("solow", {"s": s, "alpha": a, "delta": 1.0, "k0": k0, "periods": 30})["path"]
    np.testing.assert_allclose(path, s ** ((1 - a**t) / (1 - a)) * k0 ** (a**t), rtol=1e-13)


def test_many_parameter_sets_in_one_call() -> None:
    draw = np.random.default_rng(0)
    s, alpha = draw.uniform(0.1, 0.5, 20_000), draw.uniform(0.2, 0.6, 20_000)
    many = dp.solve_many("solow", {"s": s, "alpha": alpha, "keep_path": False})
    assert set(many.arrays) >= {"end", "steady_state"}
    assert "path" not in many.arrays
    k = np.full(s.shape, 0.2)
    for _ in range(100):
        k = s * k**alpha + 0.9 * k
    np.testing.assert_allclose(many["end"], k, rtol=1e-13)
    np.testing.assert_allclose(many["steady_state"], (s / 0.1) ** (1 / (1 - alpha)), rtol=1e-13)


def test_derivatives_of_the_steady_state_and_of_a_path_that_has_reached_it() -> None:
    def read(name: str, s: jax.Array) -> jax.Array:
        return dp.solve("solow", {"s": s, "periods": 2000, "keep_path": False})[name]

    exact = NUMBERS["k_star"] / 0.3 / (1 - 0.4)  # k* ~ s^(1 / (1 - alpha))
    assert jax.grad(lambda s: read("steady_state", s))(0.3) == pytest.approx(exact, rel=1e-13)
    assert jax.grad(lambda s: read("end", s))(0.3) == pytest.approx(exact, rel=1e-11)
