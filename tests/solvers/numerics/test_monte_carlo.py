"""Monte Carlo means: the draws' own mean, an honest error, the same bits, bounded memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.numerics.monte_carlo import LEAF
from dpsolve.solvers.numerics.summation import pairwise_sum


@pytest.mark.parametrize("draws", [2, 1000, LEAF, LEAF + 1, 3 * LEAF - 7])
def test_mean_and_error_are_those_of_the_draws(draws: int) -> None:
    key = jax.random.key(3)
    leaves = range(-(-draws // LEAF))
    keys = [jax.random.split(jax.random.fold_in(key, leaf), LEAF) for leaf in leaves]
    x = np.concatenate([np.asarray(jax.vmap(jax.random.exponential)(k)) for k in keys])[:draws]
    found = dp.monte_carlo(jax.random.exponential, key, draws)
    assert float(found.mean) == pytest.approx(math.fsum(x) / draws, rel=1e-15)
    assert float(found.standard_error) == pytest.approx(x.std(ddof=1) / draws**0.5, rel=1e-13)
    assert float(found.largest) == pytest.approx(x.max() / x.sum(), rel=1e-14)


def test_the_standard_error_is_honest() -> None:
    """Over many seeds the error in units of the standard error is standard normal."""

    def z(key: jax.Array) -> jax.Array:
        found = dp.monte_carlo(lambda k: jnp.exp(0.5 * jax.random.normal(k)), key, 4000)
        return (found.mean - jnp.exp(0.125)) / found.standard_error

    scores = np.asarray(jax.jit(jax.vmap(z))(jax.random.split(jax.random.key(0), 400)))
    assert abs(scores.mean()) < 4 / 20
    assert 0.85 < scores.std() < 1.15
    assert 0.90 < (np.abs(scores) < 1.96).mean() < 0.985


@pytest.mark.slow
def test_arrays_and_events_are_averaged_too() -> None:
    def draw(key: jax.Array) -> jax.Array:
        z = jax.random.normal(key, (3,))
        return jnp.stack([z, z**2])

    found = dp.monte_carlo(draw, 0, 20_000)
    assert found.mean.shape == found.standard_error.shape == found.largest.shape == (2, 3)
    exact = np.array([[0.0] * 3, [1.0] * 3])
    assert (np.abs(found.mean - exact) < 4 * found.standard_error).all()
    below = dp.monte_carlo(lambda key: jax.random.uniform(key) < 0.3, 0, 20_000)
    assert abs(float(below.mean) - 0.3) < 4 * float(below.standard_error)
    assert float(below.standard_error) == pytest.approx((0.21 / 20_000) ** 0.5, rel=0.02)


@pytest.mark.slow
def test_the_same_key_gives_the_same_bits_in_any_batch() -> None:
    # A draw that no compiler can rearrange: what is left is this library's own arithmetic.
    def both(a: jax.Array) -> jax.Array:
        found = dp.monte_carlo(lambda k: jnp.maximum(jax.random.uniform(k) - a, 0.0), 7, LEAF + 100)
        return jnp.stack([found.mean, found.standard_error])

    a = jnp.linspace(0.1, 0.9, 9)
    alone = np.stack([jax.jit(both)(x) for x in a])
    for width in (1, 4, 9):
        np.testing.assert_array_equal(jax.jit(jax.vmap(both))(a[:width]), alone[:width])


@pytest.mark.slow
def test_derivatives_are_those_of_the_draws() -> None:
    # The mean of exp(a Z) over these very draws, differentiated: the mean of Z exp(a Z).
    def mean(a: jax.Array) -> jax.Array:
        return dp.monte_carlo(lambda k: jnp.exp(a * jax.random.normal(k)), 1, 5000).mean

    def slope(key: jax.Array) -> jax.Array:
        z = jax.random.normal(key)
        return z * jnp.exp(0.3 * z)

    exact = float(dp.monte_carlo(slope, 1, 5000).mean)
    assert float(jax.grad(mean)(0.3)) == pytest.approx(exact, rel=1e-12)
    assert float(jax.jacfwd(mean)(0.3)) == pytest.approx(exact, rel=1e-12)


def test_memory_does_not_grow_with_the_draws() -> None:
    def mean(a: jax.Array, draws: int) -> jax.Array:
        return dp.monte_carlo(lambda k: jnp.exp(a * jax.random.normal(k)), 1, draws).mean

    for function in (mean, jax.grad(mean)):
        compiled = jax.jit(function, static_argnums=1).lower(0.3, 10**9).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 32 * 2**20


def test_what_is_no_number_of_draws_is_refused() -> None:
    for draws in (1, 2.5, True):
        with pytest.raises(dp.UsageError, match=f"draws={draws!r}; it is a whole number"):
            dp.monte_carlo(jax.random.normal, 0, draws)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_pairwise_sums_are_accurate(n: int) -> None:
    x = np.random.default_rng(n).lognormal(sigma=3, size=(n, 2))
    exact = [math.fsum(column) for column in x.T]
    np.testing.assert_allclose(pairwise_sum(jnp.asarray(x)), exact, rtol=1e-15)
