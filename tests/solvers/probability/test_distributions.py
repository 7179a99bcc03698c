"""Distributions on few values: moments, slices, parameters that are traced, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dpsolve as dp

N = 4
GAUSS = {
    "normal": (dp.normal(1.0, 2.0, N), stats.norm(1.0, 2.0)),
    "student_t": (dp.student_t(9, 1.0, 2.0, N, rule="gauss"), stats.t(9, 1.0, 2.0)),
    "uniform": (dp.uniform(-1.0, 3.0, N), stats.uniform(-1.0, 4.0)),
    "exponential": (dp.exponential(mean=2.0, n=N), stats.expon(scale=2.0)),
    "gamma": (dp.gamma(2.5, 2.0, N), stats.gamma(2.5, scale=2.0)),
    "beta": (dp.beta(0.5, 2.0, N), stats.beta(0.5, 2.0)),
}
SLICES = {
    "normal": (dp.normal(1.0, 2.0, N, rule="equal_mass"), stats.norm(1.0, 2.0)),
    "student_t": (dp.student_t(3, 1.0, 2.0, N), stats.t(3, 1.0, 2.0)),
    "uniform": (dp.uniform(-1.0, 3.0, N, rule="equal_mass"), stats.uniform(-1.0, 4.0)),
    "exponential": (dp.exponential(2.0, N, rule="equal_mass"), stats.expon(scale=2.0)),
    "gamma": (dp.gamma(2.5, 2.0, N, rule="equal_mass"), stats.gamma(2.5, scale=2.0)),
    "beta": (dp.beta(0.5, 2.0, N, rule="equal_mass"), stats.beta(0.5, 2.0)),
}


@pytest.mark.parametrize("family", GAUSS)
def test_a_gauss_rule_has_2n_minus_1_moments(family: str) -> None:
    shock, true = GAUSS[family]
    assert (np.diff(shock.values) > 0).all()
    assert shock.probs.sum() == pytest.approx(1.0, abs=1e-15)
    for k in range(1, 2 * N):
        moment = true.expect(lambda x, k=k: x**k, epsabs=1e-13, epsrel=1e-11, limit=200)
        assert shock.probs @ shock.values**k == pytest.approx(moment, rel=1e-8)


@pytest.mark.parametrize("family", SLICES)
def test_equal_masses_are_the_means_of_slices(family: str) -> None:
    shock, true = SLICES[family]
    np.testing.assert_array_equal(shock.probs, 1 / N)
    for i, x in enumerate(shock.values):
        ends = true.ppf([i / N, (i + 1) / N])
        assert x == pytest.approx(true.expect(lb=ends[0], ub=ends[1], conditional=True), rel=1e-7)


def test_a_poisson_s_last_value_has_its_tail() -> None:
    shock = dp.poisson(3.0, 8)
    np.testing.assert_array_equal(shock.values, np.arange(8))
    assert shock.values.dtype == np.int64
    np.testing.assert_allclose(shock.probs[:-1], stats.poisson(3.0).pmf(np.arange(7)), rtol=1e-13)
    assert shock.probs[-1] == pytest.approx(stats.poisson(3.0).sf(6), rel=1e-12)
    np.testing.assert_array_equal(dp.poisson(0.0, 3).probs, [1.0, 0.0, 0.0])


def test_locations_and_scales_may_be_traced() -> None:
    def shocks(m, s):
        both = dp.normal([m, 2 * m], jnp.array([[s**2, s / 4], [s / 4, 1.0]]), 3)
        made = (
            dp.normal(m, s, 5),
            dp.uniform(m, m + s, 3, rule="equal_mass"),
            dp.poisson(m, 9),
            dp.student_t(4, m, s, 3),
            dp.exponential(s, 3),
            dp.gamma(2.0, s, 3),
            both,
        )
        return [x for shock in made for x in (shock.values, shock.probs)]

    for traced, plain in zip(jax.jit(shocks)(1.5, 0.5), shocks(1.5, 0.5), strict=True):
        np.testing.assert_allclose(traced, plain, rtol=1e-14)
    slope = jax.grad(lambda m: dp.poisson(m, 9).probs[2])(1.5)
    assert slope == pytest.approx(stats.poisson(1.5).pmf(1) - stats.poisson(1.5).pmf(2))
    scales = jax.jacobian(lambda s: dp.normal(0.0, s, 3).values)(0.5)
    np.testing.assert_allclose(scales, [-np.sqrt(3), 0.0, np.sqrt(3)], atol=1e-15)
    assert np.isnan(jax.jit(lambda s: dp.normal(0.0, s, 3).values)(-1.0)).all()


def test_correlated_shocks_have_their_covariance() -> None:
    cov = np.array([[0.04, 0.01, 0.0], [0.01, 0.09, -0.02], [0.0, -0.02, 0.05]])
    shock = dp.normal([1.0, 2.0, 3.0], cov, n=(2, 3, 4))
    assert shock.values.shape == (3, 24)
    apart = shock.values - [[1.0], [2.0], [3.0]]
    np.testing.assert_allclose(shock.values @ shock.probs, [1, 2, 3], atol=1e-14)
    np.testing.assert_allclose(apart * shock.probs @ apart.T, cov, atol=1e-15)
    # One that does not vary, and two that are one: the covariance matrix is singular.
    flat = dp.normal([0.0, 1.0, 2.0], [[4.0, 0.0, 4.0], [0.0, 0.0, 0.0], [4.0, 0.0, 4.0]], 3)
    np.testing.assert_array_equal(flat.values[1], 1.0)
    np.testing.assert_allclose(flat.values[2] - flat.values[0], 2.0, atol=1e-14)
    logs = dp.lognormal([-0.02, 0.1], [[0.04, 0.02], [0.02, 0.09]], 7)
    np.testing.assert_allclose(logs.values @ logs.probs, np.exp([0.0, 0.145]), rtol=1e-9)
    np.testing.assert_allclose(logs.probs @ logs.values.prod(0), np.exp(0.145 + 0.02), rtol=1e-7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dp.normal(0.0, -1.0, 3), ["normal: sd=-1.0", "not negative"]),
        (lambda: dp.normal(0.0, 1.0, 0), ["normal: n=0", "'*'"]),
        (lambda: dp.normal(0.0, 1.0, 3, rule="halton"), ["rule='halton'", "equal_mass"]),
        (lambda: dp.normal("a", 1.0, 3), ["mean='a'"]),
        (lambda: dp.normal([0.0, 1.0], 1.0, 3), ["shape (2,)", "shape ()", "(m, m)"]),
        (lambda: dp.normal([0.0, 1.0], np.eye(2), (3, 3, 3)), ["n=(3, 3, 3)", "2 shocks"]),
        (lambda: dp.normal([0, 1], [[1, 2], [2, 1]], 3), ["semidefinite", "-1", "correlation"]),
        (lambda: dp.normal([0, 1], [[1, 2], [0, 1]], 3), ["symmetric", "2 in row 0, column 1"]),
        (lambda: dp.lognormal([0, 1], np.eye(2), 3, rule="equal_mass"), ["equal_mass", "several"]),
        (lambda: dp.student_t(3, 0.0, 1.0, 3, rule="gauss"), ["df above 4", "df=3", "equal_mass"]),
        (lambda: dp.student_t(1, 0.0, 1.0, 3), ["df=1", "above 1"]),
        (lambda: dp.student_t(0, 0.0, 1.0, 3), ["df=0", "positive"]),
        (lambda: dp.uniform(1.0, 1.0, 3), ["lo=1.0", "hi=1.0"]),
        (lambda: dp.exponential(-2.0, 3), ["exponential: mean=-2.0"]),
        (lambda: dp.gamma(0.0, 1.0, 3), ["gamma: shape=0.0", "positive"]),
        (lambda: dp.beta(1.0, -1.0, 3), ["beta: b=-1.0", "positive"]),
        (lambda: dp.poisson(20.0, 5), ["reach to 4", "mean is 20"]),
        (lambda: dp.poisson(-1.0, 5), ["mean=-1.0"]),
        (lambda: jax.jit(lambda a: dp.beta(a, 1.0, 3).values)(1.0), ["a is a parameter", "'*'"]),
        (lambda: dp.rouwenhorst(3, 0.9, 0.1, 0.2, mean=1.0), ["mu=0.2 beside mean=1.0"]),
    ],
)
def test_what_is_no_distribution_is_refused(make, words) -> None:
    with pytest.raises(dp.ModelError) as refused:
        make()
    for word in words:
        assert word in str(refused.value)


def test_a_chain_s_mean_is_its_constant_over_one_minus_rho() -> None:
    for chain in (dp.rouwenhorst, dp.tauchen):
        one, other = chain(n=5, rho=0.9, sigma=0.1, mean=2.0), chain(5, 0.9, 0.1, mu=0.2)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-14)
        np.testing.assert_array_equal(one.transition_matrix, other.transition_matrix)
