"""A surface is summarised without being built."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.library import surface

NUMBERS = json.loads((Path(__file__).parents[2] / "systems.json").read_text())["surface"]


@pytest.mark.parametrize("n", [80, 6000])
def test_the_reference_numbers(n: int) -> None:
    found = dp.solve("surface", {"n": n})
    for name, number in NUMBERS[str(n)].items():
        assert float(found[name]) == pytest.approx(number, rel=1e-15), name


def test_the_grid_itself_where_it_is_asked_for() -> None:
    found = dp.solve("surface", {"n": 40, "lo": -1.0, "hi": 3.0, "frequency": 2.0, "keep_grid": 1})
    x = np.linspace(-1.0, 3.0, 40)
    r = x[:, None] ** 2 + x**2
    np.testing.assert_allclose(found["surface"], np.cos(2 * r) / (1 + r), atol=1e-15)
    assert float(found["mean"]) == pytest.approx(float(np.mean(found["surface"])), rel=1e-14)
    assert found.to_xarray()["surface"].dims == ("x", "y")
    np.testing.assert_allclose(found.to_xarray()["y"], x, atol=1e-15)


@pytest.mark.parametrize("derivative", [False, True])
def test_memory_is_that_of_rows(derivative: bool) -> None:
    def mean(frequency: jax.Array) -> jax.Array:
        return surface(frequency=frequency, n=20_000)["mean"]

    program = jax.jit(jax.grad(mean) if derivative else mean).lower(1.0).compile()
    assert program.memory_analysis().temp_size_in_bytes < 8 * 2**20  # the mesh would take 6.4 GB


def test_the_derivative_by_the_frequency() -> None:
    def mean(frequency: jax.Array) -> jax.Array:
        return dp.solve("surface", {"frequency": frequency, "n": 30})["mean"]

    x = np.linspace(-2.0, 2.0, 30)
    r = x[:, None] ** 2 + x**2
    assert float(jax.grad(mean)(1.5)) == pytest.approx(np.mean(-r * np.sin(1.5 * r) / (1 + r)))
