"""What is drawn together: correlated shocks, vector chains, and a state drawn anew each period."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

P = np.array([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]])
REGIMES = np.array([[0.9, 1.0, 1.1], [0.02, 0.0, -0.01]])


def risky(sd=0.15, corr=0.4, *, n_a=12):
    """Risky saving: correlated return and income, a regime of both, and an offer of work."""
    cov = jnp.array([[sd**2, corr * sd * 0.3], [corr * sd * 0.3, 0.09]])
    return dp.Model(
        states={
            "a": dp.grid(0.0, 6.0, n_a, outside="clip"),
            ("w", "g"): dp.markov(REGIMES, P),
            "offer": dp.uniform(0.0, 1.0, 3),
        },
        choices={"save": dp.grid(0.0, 6.0, n_a), "work": dp.integers(0, 1)},
        shocks={("ret", "y"): dp.lognormal([0.0, -0.045], cov, (3, 2))},
        transition={"a": lambda save, ret, y, g: save * ret * (1 + g) + 0.1 * y},
        feasible=lambda a, w, offer, work, save: a + w + work * offer - save > 0,
        reward=[
            lambda a, w, offer, work, save: jnp.log(a + w + work * offer - save) - 0.3 * work,
            lambda ret, save: -0.01 * save * ret**2,
        ],
        discount=lambda w: 0.9 - 0.01 * w,
        outputs={"risk": lambda ret, save: save * ret},
        moments={"product": lambda w, y: w * y},
    )


def by_hand(sd=0.15, corr=0.4, *, n_a=12):
    """The same, with joint draws numbered and looked up by the user."""
    cov = jnp.array([[sd**2, corr * sd * 0.3], [corr * sd * 0.3, 0.09]])
    both = dp.lognormal([0.0, -0.045], cov, (3, 2))
    ret, y = jnp.asarray(both.values)
    w, g = jnp.asarray(REGIMES)
    offers = dp.uniform(0.0, 1.0, 3)
    return dp.Model(
        states={
            "a": dp.grid(0.0, 6.0, n_a, outside="clip"),
            "i": dp.markov(np.arange(3), P),
            "offer": dp.markov(offers.values, [offers.probs] * 3),
        },
        choices={"save": dp.grid(0.0, 6.0, n_a), "work": dp.integers(0, 1)},
        shocks={"k": dp.iid(np.arange(6), both.probs)},
        transition={"a": lambda save, k, i: save * ret[k] * (1 + g[i]) + 0.1 * y[k]},
        feasible=lambda a, i, offer, work, save: a + w[i] + work * offer - save > 0,
        reward=[
            lambda a, i, offer, work, save: jnp.log(a + w[i] + work * offer - save) - 0.3 * work,
            lambda k, save: -0.01 * save * ret[k] ** 2,
        ],
        discount=lambda i: 0.9 - 0.01 * w[i],
    )


@pytest.fixture(scope="module")
def solution():
    return dp.solve(risky, tol=1e-8, distribution=True, moments=["mean_w", "product", "sd_g"])


def test_joint_draws_are_what_a_user_would_number_by_hand(solution) -> None:
    np.testing.assert_allclose(solution.value, dp.solve(by_hand, tol=1e-8).value, atol=2e-8)
    assert dict(solution.to_xarray().sizes) == {"a": 12, "w_g": 3, "offer": 3}
    # States are outputs, so that results have their values, and moments their names.
    np.testing.assert_array_equal(solution.outputs["g"][5, :, 1], REGIMES[1])
    mass = np.linalg.matrix_power(P, 2000)[0]
    assert solution.moments["mean_w"] == pytest.approx(mass @ REGIMES[0], abs=1e-9)
    draws = dp.lognormal([0.0, -0.045], [[0.0225, 0.018], [0.018, 0.09]], (3, 2))
    mean = mass @ REGIMES[0] * (draws.values[1] @ draws.probs)
    assert solution.moments["product"] == pytest.approx(mean, abs=1e-9)
    assert "3 values" in str(dp.describe(risky))


def test_a_drawn_state_is_independent_of_the_period_before(solution) -> None:
    np.testing.assert_allclose(
        solution.distribution.sum((0, 1)), dp.uniform(0.0, 1.0, 3).probs, atol=1e-10
    )


@pytest.mark.slow
def test_joint_draws_are_verified_and_simulated(solution) -> None:
    assert dp.verify(solution).ok
    panel = dp.simulate(solution, 1, agents=2000, periods=6, variables=("w", "ret_y"))
    assert set(np.unique(panel.to_xarray()["w"].values)) == set(REGIMES[0])
    assert np.bincount(np.asarray(panel.to_xarray()["ret_y"].values, int).ravel()).size == 6


@pytest.mark.parametrize(
    ("shocks", "words"),
    [
        ({"e": dp.normal([0, 0], np.eye(2), 2)}, ["'e' is one name for 2", "('a', 'b')"]),
        ({("e", "f"): dp.normal(0.0, 1.0, 2)}, ["('e', 'f')", "one variable", "dp.normal(means"]),
        ({("e", "e"): dp.normal([0, 0], np.eye(2), 2)}, ["2 different"]),
        ({("e", "save"): dp.normal([0, 0], np.eye(2), 2)}, ["'save' stands under choices"]),
    ],
)
def test_names_and_variables_fit(shocks, words) -> None:
    with pytest.raises(dp.ModelError) as refused:
        dp.Model(
            states={"a": [0.0, 1.0]},
            choices={"save": [0.0, 1.0]},
            shocks=shocks,
            transition={"a": "save"},
            reward=lambda save: save,
            discount=0.9,
        )
    for word in words:
        assert word in str(refused.value)


def test_a_parameter_named_like_a_part_is_refused() -> None:
    def shadowed(g=1.0):
        return dp.Model(
            states={("w", "g"): dp.markov(REGIMES, P)},
            choices={"c": [0.0, 1.0]},
            reward=lambda g, c: g * c,
            discount=0.9,
        )

    with pytest.raises(dp.ModelError, match="'g' is a parameter, and a state"):
        dp.solve(shadowed)
