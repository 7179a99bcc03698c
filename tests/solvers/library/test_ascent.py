"""Gradient ascent: the iterate of the reference, the derivative of the maximiser."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import dpsolve as dp

NUMBERS = json.loads((Path(__file__).parents[2] / "systems.json").read_text())["ascent"]


def test_the_iterate_is_that_of_fifty_steps() -> None:
    ascent = dp.solve("ascent")
    assert float(ascent["x"]) == NUMBERS["x"]
    assert float(ascent["slope"]) == pytest.approx(2 * (2.0 - NUMBERS["x"]), rel=1e-10)
    assert float(ascent["height"]) == pytest.approx(-((2.0 - NUMBERS["x"]) ** 2), rel=1e-9)


def test_a_batch_of_hills_from_zero() -> None:
    many = dp.solve_many("ascent", {"alpha": np.array(NUMBERS["alphas"]), "x0": 0.0})
    np.testing.assert_allclose(many["x"], NUMBERS["x_from_0"], rtol=1e-14)
    np.testing.assert_allclose(
        many["x"], np.array(NUMBERS["alphas"]) * NUMBERS["unrolled_derivative"], rtol=1e-14
    )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 50])
def test_the_derivative_is_that_of_the_maximiser_and_not_of_the_loop(steps: int) -> None:
    def x(alpha: jax.Array, x0: jax.Array = 0.5, step: jax.Array = 0.1) -> jax.Array:
        return dp.solve("ascent", {"alpha": alpha, "x0": x0, "step": step, "steps": steps})["x"]

    assert float(jax.grad(x)(2.0)) == 1.0
    assert float(jax.jacfwd(x)(2.0)) == 1.0
    assert float(jax.jit(jax.grad(x))(2.0)) == 1.0
    assert float(jax.grad(x, 1)(2.0, 0.5)) == 0.0
    assert float(jax.grad(x, 2)(2.0, 0.5, 0.1)) == 0.0
    assert float(jax.grad(jax.grad(x))(2.0)) == 0.0
    np.testing.assert_array_equal(jax.vmap(jax.grad(x))(np.linspace(-1.0, 1.0, 5)), np.ones(5))
