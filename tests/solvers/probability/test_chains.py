"""Vector chains, chains estimated from data, and chains that move with the period."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

COV = np.array([[0.04, 0.01], [0.01, 0.02]])
MEAN = np.array([1.0, -1.0])
REVERSIBLE = 10.0 * COV @ np.diag([1.0, 3.0])  # times COV it is symmetric


def covariances(chain):
    """A chain's own mean, covariance matrix, and that with the period before."""
    p = np.asarray(chain.transition_matrix)
    mass = np.linalg.matrix_power(p, 4096)[0]
    y = np.asarray(chain.values)
    mean = y @ mass
    apart = y - mean[:, None]
    return mean, apart * mass @ apart.T, (apart @ p.T) * mass @ apart.T


def true_covariances(A):
    """Of the process: its covariance matrix, and that with the period before."""
    now = np.linalg.solve(np.eye(4) - np.kron(A, A), COV.ravel()).reshape(2, 2)
    return now, A @ now


@pytest.mark.parametrize(
    ("A", "method", "n", "near"),
    [
        (0.95 * np.eye(2), "rouwenhorst", (3, 2), 1e-12),
        (REVERSIBLE, "rouwenhorst", 2, 1e-12),
        (np.array([[0.5, 0.2], [-0.1, 0.3]]), "tauchen", 21, 0.05),
        (np.array([[0.5, 0.2], [-0.1, 0.3]]), "tauchen_hussey", 9, 1e-4),
    ],
)
def test_a_vector_chain_has_the_process_s_covariances(A, method, n, near) -> None:
    chain = dp.var1(A, COV, n, mean=MEAN, method=method)
    mean, now, lagged = covariances(chain)
    true_now, true_lagged = true_covariances(A)
    np.testing.assert_allclose(mean, MEAN, atol=1e-10)
    np.testing.assert_allclose(now, true_now, rtol=near, atol=near * 0.01)
    np.testing.assert_allclose(lagged, true_lagged, rtol=near, atol=near * 0.02)
    traced = jax.jit(lambda c: dp.var1(jnp.asarray(A), c, n, mean=MEAN, method=method).values)(COV)
    np.testing.assert_allclose(traced, chain.values, atol=1e-12)


def test_one_variable_is_the_chain_of_one() -> None:
    for method, one in (("rouwenhorst", dp.rouwenhorst), ("tauchen", dp.tauchen),
                        ("tauchen_hussey", dp.tauchen_hussey)):  # fmt: skip
        vector = dp.var1([[0.6]], [[0.04]], 5, mean=[2.0], method=method)
        chain = one(5, 0.6, 0.2, mean=2.0)
        np.testing.assert_allclose(vector.values[0], chain.values, rtol=1e-13)
        np.testing.assert_allclose(vector.transition_matrix, chain.transition_matrix, atol=1e-14)


def test_tauchen_hussey_integrates_over_its_own_nodes() -> None:
    """At the mean, where no node is tilted, the chances are the quadrature's weights."""
    chain, shock = dp.tauchen_hussey(7, 0.3, 0.1), dp.normal(0.0, 0.1, 7)
    np.testing.assert_allclose(chain.values, shock.values, atol=1e-16)
    np.testing.assert_allclose(chain.transition_matrix[3], shock.probs, atol=1e-15)
    np.testing.assert_allclose(
        chain.transition_matrix[2:5] @ chain.values, 0.3 * chain.values[2:5], atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dp.var1([[0.9, 0.5], [0.0, 0.8]], COV, 3), ["not symmetric", "'tauchen'"]),
        (lambda: dp.var1(1.1 * np.eye(2), COV, 3), ["modulus 1.1", "stationary"]),
        (lambda: dp.var1(np.eye(3) / 2, COV, 3), ["(3, 3)", "(2, 2)"]),
        (lambda: dp.var1(np.eye(2) / 2, np.zeros((2, 2)), 3), ["not positive definite"]),
        (lambda: dp.var1(np.eye(2) / 2, COV, (3, 3, 3)), ["n=(3, 3, 3)", "2 variables"]),
        (lambda: dp.var1(np.eye(2) / 2, COV, 3, method="ols"), ["method='ols'"]),
        (lambda: dp.tauchen_hussey(3, 1.0, 0.1), ["rho=1.0"]),
        (lambda: dp.markov_from_data([0, 1, 2]), ["value 2", "prior=1"]),
        (lambda: dp.markov_from_data([[0, 1], [1, 5]], [0, 1]), ["5 at (1, 1)", "[0, 1]"]),
        (lambda: dp.markov_from_data([1.0]), ["at least 2 periods"]),
        (lambda: dp.markov_from_data([0, 1, 0], n=2, values=[0, 1]), ["not both"]),
        (lambda: dp.markov_from_data([0, 0, 0, 1], n=3), ["empty"]),
        (lambda: dp.markov([0, 1], lambda z: z), ["function of t", "(z)"]),
        (lambda: dp.markov([0, 1], np.ones((2, 3, 2)) / 2), ["(horizon, 2, 2)"]),
        (lambda: two_ages(chain=dp.markov([0, 1], np.ones((3, 2, 2)) / 2)), ["(3, 2, 2)", "(4, 2"]),
        (
            lambda: two_ages(chain=dp.markov([0, 1], lambda t: jnp.eye(2) * t)),
            ["row 0 of", "t=3 sums to 3"],
        ),
        (lambda: two_ages(horizon=None, terminal=None), ["moves with the period", "horizon=T"]),
    ],
)
def test_what_is_no_chain_is_refused(make, words) -> None:
    with pytest.raises(dp.ModelError) as refused:
        make()
    for word in words:
        assert word in str(refused.value)


def test_a_chain_is_estimated_by_the_shares_of_its_moves() -> None:
    panel = [[0, 1, 1, 0, 1], [1, np.nan, 1, 1, 0]]  # 0-1 twice; 1-1 twice, 1-0 twice
    chain = dp.markov_from_data(panel)
    np.testing.assert_array_equal(chain.values, [0, 1])
    np.testing.assert_allclose(chain.transition_matrix, [[0, 1], [0.5, 0.5]])
    smooth = dp.markov_from_data(panel, [0, 1, 2], prior=1)
    np.testing.assert_allclose(smooth.transition_matrix[2], 1 / 3)
    np.testing.assert_allclose(smooth.transition_matrix[0], [1 / 5, 3 / 5, 1 / 5])
    # Of an AR(1) in bins: persistence of the estimate is near the process's.
    rng = np.random.default_rng(1)
    y = np.zeros((200, 200))
    for t in range(1, 200):
        y[:, t] = 0.8 * y[:, t - 1] + rng.normal(size=200)
    binned = dp.markov_from_data(y[:, 50:], n=9)
    mean, slope = binned.transition_matrix @ binned.values, binned.values
    assert np.polyfit(slope, mean, 1)[0] == pytest.approx(0.8, abs=0.03)


# -- chains that move with the period -------------------------------------------------------------


def moving(t):
    stay = 0.9 - 0.2 * t
    return jnp.array([[stay, 1 - stay], [0.3, 0.7]])


def two_ages(beta=0.9, *, chain=None, horizon=4, terminal=lambda a: jnp.sqrt(a), save=None):
    """Saving with an income whose risk grows with age."""
    return dp.Model(
        states={"a": dp.grid(0.0, 3.0, 7), "y": chain or dp.markov([0.4, 1.0], moving)},
        choices={"c": save or dp.grid(0.0, 3.0, 7)},
        transition={"a": "c"},
        feasible=lambda a, y, c: a + y - c > 0,
        reward=lambda a, y, c: jnp.log(a + y - c),
        discount=beta,
        horizon=horizon,
        terminal=terminal,
    )


def ages(beta=0.9):
    return two_ages(beta)


def ages_continuous(beta=0.9):
    return two_ages(beta, save=dp.interval("a"))


@pytest.fixture(scope="module")
def solution():
    return dp.solve(ages)


def by_hand():
    """Backward induction in NumPy: values (t, a, y) and policy."""
    a, y = np.linspace(0.0, 3.0, 7), np.array([0.4, 1.0])
    v = np.sqrt(a)[:, None] * np.ones(2)
    values, policies = [], []
    for t in reversed(range(4)):
        after = v @ np.asarray(moving(t)).T  # (a', y)
        c = a[:, None, None] + y[:, None] - a
        q = np.where(c > 0, np.log(np.where(c > 0, c, 1.0)) + 0.9 * after.T, -np.inf)
        v = q.max(-1)
        values, policies = [v, *values], [q.argmax(-1), *policies]
    return np.stack(values), np.stack(policies)


def test_a_chain_that_moves_is_solved_verified_and_followed(solution) -> None:
    values, policies = by_hand()
    np.testing.assert_allclose(solution.value, values, rtol=1e-13)
    np.testing.assert_array_equal(solution.policy_index["c"], policies)
    assert dp.verify(solution).ok
    np.testing.assert_allclose(
        solution.transition_matrix("y"), [moving(t) for t in range(4)], atol=1e-16
    )
    np.testing.assert_array_equal(solution.to_xarray()["t"], np.arange(4))
    initial = {"a": 1.0, "y": [1.0, 0.0]}
    mass = np.array([1.0, 0.0])
    path = dp.path(solution, initial).mass.sum(1)
    panel = dp.simulate(solution, 0, agents=4000, periods=4, initial=initial, variables="y")
    seen = (panel.to_xarray()["y"].values == 1.0).mean(0)
    for t in range(4):
        np.testing.assert_allclose(path[t], mass, atol=1e-14)
        assert seen[t] == pytest.approx(mass[1], abs=0.03)
        mass = mass @ np.asarray(moving(t))


@pytest.mark.slow
def test_a_continuous_choice_follows_a_chain_that_moves(solution) -> None:
    found = dp.solve(ages_continuous)
    assert found.status == "solved"
    assert found.certifies == "continuum"
    assert dp.verify(found).ok
    # Any choice of the grid is one of the interval's; the value between nodes is above its chord.
    assert (np.asarray(found.upper) >= np.asarray(solution.value) - 1e-12).all()
    assert (np.asarray(found.lower) <= np.asarray(found.upper)).all()


@pytest.mark.slow
def test_the_matrix_of_a_state_is_found_by_name(solution) -> None:
    def both(rho=0.5, beta=0.9):
        cov = jnp.array([[0.04, 0.0], [0.0, 0.01]])
        return dp.Model(
            states={("g", "r"): dp.var1(rho * jnp.eye(2), cov, 2, method="tauchen")},
            choices={"x": [0.0, 1.0]},
            reward=lambda g, r, x: x * (g + r),
            discount=beta,
        )

    one = dp.solve(both, {"rho": 0.3})
    many = dp.solve_many(both, {"rho": np.array([0.1, 0.3])})
    matrix = many.transition_matrix("g_r")
    assert matrix.shape == (2, 4, 4)
    np.testing.assert_allclose(matrix[1], one.transition_matrix("g_r"), atol=1e-15)
    np.testing.assert_allclose(matrix.sum(-1), 1.0)
    with pytest.raises(dp.UsageError, match="part of 'g_r'"):
        one.transition_matrix("g")
    with pytest.raises(dp.UsageError, match="Those are: y"):
        solution.transition_matrix("a")
    with pytest.raises(dp.ModelError, match="moves with the period"):
        dp.path(solution, {"a": 1.0})
