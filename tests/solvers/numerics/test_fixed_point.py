"""Roots and fixed points: found, and differentiated as the implicit function theorem says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import dpsolve as dp


def cosine(a: Any, **options: Any) -> Any:
    return dp.fixed_point(lambda x: jnp.cos(a * x), 0.5, **options)


@pytest.mark.slow
def test_a_fixed_point_and_its_derivatives() -> None:
    a = 0.9
    x = brentq(lambda x: np.cos(a * x) - x, 0.0, 1.0, xtol=1e-15)
    assert float(cosine(a)) == pytest.approx(x, abs=1e-12)
    slope = -x * np.sin(a * x) / (1 + a * np.sin(a * x))
    for derivative in (jax.grad(cosine), jax.jacfwd(cosine), jax.jit(jax.grad(cosine))):
        assert float(derivative(a)) == pytest.approx(slope, rel=1e-10)
    h = 1e-4
    second = (float(jax.grad(cosine)(a + h)) - float(jax.grad(cosine)(a - h))) / (2 * h)
    assert float(jax.grad(jax.grad(cosine))(a)) == pytest.approx(second, rel=1e-6)
    many = jax.vmap(jax.grad(cosine))(jnp.array([0.5, a]))
    np.testing.assert_allclose(many, [jax.grad(cosine)(0.5), slope], rtol=1e-10)


def test_what_does_not_converge_is_not_a_number() -> None:
    assert np.isnan(cosine(0.9, max_iter=5))
    assert np.isnan(dp.fixed_point(lambda x: 2 * x + 1, 1.0, max_iter=2000))
    # A fixed number of steps is what was asked for, converged or not.
    assert float(dp.fixed_point(lambda x: 2 * x + 1, 1.0, steps=3)) == 15.0
    with pytest.raises(dp.ModelError, match=r"returns \(2,\) for \(\); there are as many"):
        dp.fixed_point(lambda x: jnp.stack([x, x]), 1.0)


@pytest.mark.parametrize("n", [3, 700])
@pytest.mark.slow
def test_linear_systems_of_any_size_have_their_derivatives(n: int) -> None:
    """x = A x + t b; above some hundred unknowns the Jacobian is applied and not built."""
    draw = np.random.default_rng(n)
    a = jnp.asarray(draw.normal(size=(n, n)) * 0.5 / np.sqrt(n))
    b = jnp.asarray(draw.normal(size=n))

    def x(t: Any) -> Any:
        return dp.fixed_point(lambda x: a @ x + t * b, jnp.zeros(n), tol=1e-14)

    exact = np.linalg.solve(np.eye(n) - a, b)
    np.testing.assert_allclose(x(2.0), 2 * exact, rtol=0, atol=1e-11)
    np.testing.assert_allclose(jax.jacfwd(x)(2.0), exact, rtol=0, atol=1e-9)
    reverse = jax.grad(lambda t: x(t) @ x(t))(2.0)
    assert float(reverse) == pytest.approx(4 * float(exact @ exact), rel=1e-9)


def test_trees_of_unknowns() -> None:
    """Supply and demand: q = a - p and p = q / 2 have p = a / 3, q = 2 a / 3."""

    def market(a: Any) -> Any:
        def step(x: Any) -> Any:
            return {"q": 0.5 * (a - x["p"] + x["q"]), "p": 0.5 * (x["q"] / 2 + x["p"])}

        return dp.fixed_point(step, {"q": 0.0, "p": 0.0}, tol=1e-14)

    found = market(6.0)
    assert (float(found["p"]), float(found["q"])) == pytest.approx((2.0, 4.0))
    slopes = jax.jacrev(market)(6.0)
    assert (float(slopes["p"]), float(slopes["q"])) == pytest.approx((1 / 3, 2 / 3), rel=1e-12)


def test_a_maximiser_found_by_any_loop() -> None:
    """max a log x - x^2 is at sqrt(a / 2), whatever loop came near it."""

    def maximiser(a: Any, steps: int = 300) -> Any:
        slope = jax.grad(lambda x: a * jnp.log(x) - x**2)

        def proceed(c: Any) -> Any:
            return c[0] < steps

        _, x = jax.lax.while_loop(proceed, lambda c: (c[0] + 1, c[1] + 0.1 * slope(c[1])), (0, 1.0))
        return dp.implicit(slope, x)

    a = 5.0
    assert float(maximiser(a)) == pytest.approx(np.sqrt(a / 2), rel=1e-12)
    assert float(jax.grad(maximiser)(a)) == pytest.approx(1 / np.sqrt(8 * a), rel=1e-12)
    assert float(jax.jacfwd(maximiser)(a)) == pytest.approx(1 / np.sqrt(8 * a), rel=1e-12)


def test_a_factory_of_ones_own_is_swept_with_its_derivatives() -> None:
    def market(a: float = 0.9) -> dict[str, Any]:
        return {"price": cosine(a)}

    many = dp.solve_many(market, {"a": np.array([0.5, 0.9])}, gradients=("a",))
    np.testing.assert_allclose(many["price"], [cosine(0.5), cosine(0.9)], rtol=1e-14)
    np.testing.assert_allclose(many["d_price_d_a"][1], jax.grad(cosine)(0.9), rtol=1e-12)


def test_out_of_iterations_is_said_and_not_that_an_array_holds_nan() -> None:
    def slow(a: float = 1.0) -> dict[str, Any]:
        return {"x": dp.fixed_point(lambda x: 0.999 * x + a, 0.0, max_iter=10)}

    def mended(a: float = 1.0) -> dict[str, Any]:
        return {"x": jnp.nan_to_num(slow(a)["x"])}

    found = dp.solve_many(slow, {"a": [0.0, 1.0]})
    assert list(found.status) == ["solved", "failed"]
    assert "dp.fixed_point made max_iter=10 steps" in found.message[1]
    assert "raise max_iter or tol" in found.message[1]
    with pytest.raises(dp.ModelError, match="made max_iter=10 steps"):
        dp.check(slow)
    assert "no fault found" in dp.check(mended)
