"""Log-sums against extended precision, at scales where exponentials overflow and vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpsolve.solvers.logit.log_sum import LogSum

EPS = np.finfo(np.float64).eps


def exact(q, scale):
    q = q.astype(np.longdouble)
    top = q.max(-1, keepdims=True)
    weight = np.exp((q - top) / np.longdouble(scale))
    total = weight.sum(-1, keepdims=True)
    return (top + np.longdouble(scale) * np.log(total))[..., 0], weight / total


def draws(seed=0, size=(400, 7), spread=30.0):
    q = np.random.default_rng(seed).normal(size=size) * spread
    q[::5, 2] = -np.inf
    return q


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 50.0, 1e6])
def test_it_is_within_its_allowance_of_the_exact_one(scale):
    q = draws()
    shocks = LogSum(jnp.asarray(scale))
    value, p = jax.jit(shocks.value)(jnp.asarray(q))
    meant, chance = exact(q, scale)
    allowed = EPS * (float(shocks.rounding(7)) + 2 * np.abs(meant) + 2 * float(shocks.spread(7)))
    assert (np.abs(np.asarray(value) - meant) <= allowed).all()
    off = float(shocks.probability_error(jnp.zeros(()), 7))
    # An exponent is rounded relative to itself: by scale, of values that are exact.
    assert np.abs(np.asarray(p) - chance).max() <= off
    assert (np.asarray(p)[::5, 2] == 0.0).all()
    logs = np.asarray(shocks.log_probabilities(jnp.asarray(q)))
    some = chance > 0
    np.testing.assert_allclose(logs[some], np.log(chance[some]).astype(float), rtol=1e-9, atol=1e-9)


def nested():
    return LogSum(jnp.asarray(1.5), (jnp.asarray(0.4), jnp.asarray(1.0)), ((1, 4), (6, 0, 3)))


def test_nests_are_log_sums_of_log_sums():
    q, shocks = draws(1, spread=1.0), nested()
    value, p = shocks.value(jnp.asarray(q))
    first, within = exact(q[:, [1, 4]], 0.4)
    second, among = exact(q[:, [6, 0, 3]], 1.0)
    meant, above = exact(np.stack([first, second, q[:, 2], q[:, 5]], -1), 1.5)
    np.testing.assert_allclose(value, meant.astype(float), rtol=1e-13, atol=1e-13)
    chance = np.zeros(q.shape)
    chance[:, [1, 4]] = above[:, :1] * within
    chance[:, [6, 0, 3]] = above[:, 1:2] * among
    chance[:, [2, 5]] = above[:, 2:]
    np.testing.assert_allclose(p, chance, atol=1e-14)
    some = chance > 0
    logs = np.asarray(shocks.log_probabilities(jnp.asarray(q)))
    np.testing.assert_allclose(np.exp(logs)[some], chance[some], rtol=1e-11)


@pytest.mark.parametrize("shocks", [LogSum(jnp.asarray(0.7)), nested()], ids=["plain", "nested"])
def test_probabilities_are_the_slope_and_entropy_is_what_tastes_add(shocks):
    q = jnp.asarray(draws(2, spread=1.0))
    value, p = shocks.value(q)
    slope = jax.grad(lambda q: shocks.value(q)[0].sum())(q)
    np.testing.assert_allclose(slope, p, atol=1e-14)
    average = (p * jnp.where(p > 0, q, 0.0)).sum(-1)
    np.testing.assert_allclose(average + shocks.entropy(p), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shocks", [LogSum(jnp.asarray(0.7)), nested()], ids=["plain", "nested"])
def test_no_error_of_values_moves_a_probability_by_more_than_the_bound(shocks):
    rng = np.random.default_rng(3)
    q = rng.normal(size=(3000, 7)) * 0.6
    for error in (1e-3, 0.3):
        # The worst there is: one value up, the others down.
        moved = q + error * np.where(np.arange(7) == rng.integers(0, 7, (3000, 1)), 1.0, -1.0)
        gap = np.abs(shocks.value(jnp.asarray(moved))[1] - shocks.value(jnp.asarray(q))[1])
        bound = float(shocks.probability_error(jnp.asarray(error), 7))
        assert 0.3 * bound < gap.max() <= bound


def test_what_is_no_number_is_told():
    shocks = LogSum(jnp.asarray(1.0))
    q = jnp.asarray([[1.0, jnp.nan], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0]])
    value, _ = shocks.value(q)
    np.testing.assert_array_equal(value, [np.inf, -np.inf, np.inf])
    assert not bool(LogSum(jnp.asarray(0.0)).valid)
    assert not bool(LogSum(jnp.asarray(jnp.nan)).valid)
    assert not bool(LogSum(jnp.asarray(1.0), (jnp.asarray(2.0),), ((0, 1),)).valid)
