"""Derivatives of a solution are those of the fixed point: they match central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

STEP = 1e-5
NAMES = ("beta", "gamma", "r", "rho", "sigma")


def value(p: jax.Array) -> jax.Array:
    params = dict(zip(NAMES, p, strict=True)) | {"n_a": 30, "n_z": 3}
    return dp.solve("savings", params, tol=1e-11).value[12, 1]


def difference(f, x: jax.Array) -> np.ndarray:
    """Central differences of fourth order."""
    steps = STEP * jnp.eye(x.size) if x.ndim else jnp.array([STEP])
    rows = [
        (8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * STEP) for e in steps
    ]
    return np.array(rows if x.ndim else rows[0])


def test_forward_and_reverse_match_central_differences() -> None:
    p = jnp.array([0.93, 2.0, 0.03, 0.9, 0.1])
    reverse = jax.grad(value)(p)
    np.testing.assert_allclose(jax.jacfwd(value)(p), reverse, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(reverse, difference(value, p), rtol=1e-6, atol=1e-6)


def test_a_grid_that_moves_with_the_parameter_and_an_output() -> None:
    def capital(beta: jax.Array) -> jax.Array:
        s = dp.solve("growth", {"beta": beta, "n_k": 40}, tol=1e-11)
        return s.value[20] + s.outputs["consumption"][20] + s.policy["k_next"][7]

    beta = jnp.asarray(0.95)
    assert jax.grad(capital)(beta) == pytest.approx(float(difference(capital, beta)), rel=1e-6)


def test_the_steady_state_s_derivative_has_a_closed_form() -> None:
    # v(k_ss) = log(c_ss) / (1 - beta) with k_ss held at its grid point; z scales c and k_ss alike,
    # k_ss ~ z^(1/(1-alpha)), so d v / d log z = 1 / (1 - alpha) / (1 - beta).
    def steady(z: jax.Array) -> jax.Array:
        return dp.solve("growth", {"z": z}, tol=1e-11).value[33]

    assert jax.grad(steady)(1.0) == pytest.approx(1 / 0.65 / 0.05, rel=1e-8)


def test_finite_horizons_and_arrays_have_derivatives_too() -> None:
    def cake(beta: jax.Array) -> jax.Array:
        return dp.solve("cake", {"beta": beta, "horizon": 8, "n_x": 20}).value[0, -1]

    beta = jnp.asarray(0.95)
    assert jax.grad(cake)(beta) == pytest.approx(float(difference(cake, beta)), rel=1e-8)

    p = np.random.default_rng(0).dirichlet(np.ones(5), size=(5, 2))

    def tabular(bonus=1.0):
        return dp.mdp(bonus * np.arange(10.0).reshape(5, 2), p, 0.9)

    def first(bonus: jax.Array) -> jax.Array:
        return dp.solve(tabular, {"bonus": bonus}, tol=1e-11).value[0]

    # The value is proportional to the bonus.
    assert jax.grad(first)(2.0) == pytest.approx(float(first(2.0)) / 2, rel=1e-9)


def test_derivatives_of_many_points_at_once() -> None:
    def one(beta: jax.Array) -> jax.Array:
        return dp.solve("growth", {"beta": beta, "n_k": 40}, tol=1e-11).value[20]

    betas = jnp.array([0.92, 0.95])
    many = jax.vmap(jax.grad(one))(betas)
    np.testing.assert_allclose(many, [jax.grad(one)(b) for b in betas], rtol=1e-9)
