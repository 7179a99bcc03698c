"""Paths of distributions are powers of the transition matrix; what starts them is checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.distributions.initial import read_initial

SIZES = {"continuous": False, "n_a": 30, "n_z": 3}


def store(spoil=0.1, *, horizon=None):
    """Stock of 0 to 4, a share of which spoils; demand is drawn; one may order up to 2."""
    return dp.Model(
        states={"x": dp.integers(0, 4), "y": dp.markov([0.0, 1.0], [[0.9, 0.1], [0.4, 0.6]])},
        choices={"order": dp.integers(0, 2)},
        shocks={"demand": dp.iid([0, 1, 2], [0.2, 0.5, 0.3])},
        transition={"x": lambda x, order, demand: jnp.clip(x + order - demand, 0, 4)},
        reward=lambda x, y, order, demand: (
            (1 + y) * jnp.minimum(x + order, demand) - 0.3 * order - spoil * x
        ),
        discount=0.9,
        horizon=horizon,
    )


def matrix(order: np.ndarray) -> np.ndarray:
    """The transition matrix (10, 10) of a policy (5, 2), written out."""
    p = np.zeros((5, 2, 5, 2))
    for x in range(5):
        for y in range(2):
            for demand, chance in enumerate((0.2, 0.5, 0.3)):
                to = min(max(x + order[x, y] - demand, 0), 4)
                p[x, y, to] += chance * np.array([[0.9, 0.1], [0.4, 0.6]][y])
    return p.reshape(10, 10)


@pytest.mark.slow
def test_a_path_is_the_powers_of_the_matrix() -> None:
    solution = dp.solve(store)
    p = matrix(np.asarray(solution.policy_index["order"]))
    path = dp.path(solution, {"x": 3, "y": 1.0}, 12)
    mass = np.eye(10)[3 * 2 + 1]
    for t in range(13):
        np.testing.assert_allclose(path.mass[t].ravel(), mass, atol=1e-14)
        mass = mass @ p
    assert path.status == "solved"
    assert float(path.total) == pytest.approx(1.0, abs=1e-13)
    assert float(path.error_bound) < 1e-12
    assert int(path.applications) == 12
    moved = np.abs(path.mass[-1] - path.mass[-2]).sum()
    assert float(path.residual) == pytest.approx(float(moved))
    data = path.to_xarray()
    assert data.distribution_path.dims == ("time", "x", "y")
    assert data.time.values.tolist() == list(range(13))
    mean = path.moments(["mean_x"])["mean_x"]
    np.testing.assert_allclose(mean, path.mass.sum(2) @ np.arange(5.0), rtol=1e-12)


@pytest.mark.slow
def test_a_long_path_ends_in_the_stationary_distribution() -> None:
    solution = dp.solve("savings", SIZES)
    mu = dp.stationary(solution, tol=1e-11)
    np.testing.assert_allclose(dp.path(solution, {"a": 5.0}, 2000).mass[-1], mu.mass, atol=1e-10)
    np.testing.assert_allclose(dp.path(solution, mu, 3).mass[-1], mu.mass, atol=1e-11)


@pytest.mark.slow
def test_over_a_finite_horizon_each_period_has_its_own_policy() -> None:
    solution = dp.solve(store, {"horizon": 6})
    order = np.asarray(solution.policy_index["order"])
    assert (order[0] != order[-1]).any()
    path = dp.path(solution, {"x": "uniform", "y": [0.5, 0.5]})
    assert path.mass.shape == (7, 5, 2)
    mass = np.full(10, 0.1)
    for t in range(6):
        mass = mass @ matrix(order[t])
        np.testing.assert_allclose(path.mass[t + 1].ravel(), mass, atol=1e-14)
    short = dp.path(solution, {"x": "uniform", "y": [0.5, 0.5]}, 2)
    np.testing.assert_array_equal(short.mass, path.mass[:3])
    means = path.moments({"ordered": lambda order: order})["ordered"]
    chosen = (path.mass[:6] * order).sum((1, 2))
    np.testing.assert_allclose(means[:6], chosen, rtol=1e-12)
    assert np.isnan(means[6])  # after the last period nothing is chosen


@pytest.mark.slow
def test_paths_of_many_points_and_one_that_failed() -> None:
    betas = np.array([0.9, np.nan, 0.95])
    many = dp.path(dp.solve_many("savings", {"beta": betas, **SIZES}), {"a": 2.0}, 4)
    assert many.mass.shape == (3, 5, 30, 3)
    assert many.status.tolist() == ["solved", "failed", "solved"]
    assert np.isnan(many.mass[1, 1:]).all()
    one = dp.path(dp.solve("savings", {"beta": 0.95, **SIZES}), {"a": 2.0}, 4)
    np.testing.assert_allclose(many.mass[2], one.mass, atol=1e-14)
    assert many.to_xarray().distribution_path.dims == ("point", "time", "a", "z")


@pytest.mark.slow
def test_a_path_has_derivatives_at_the_fixed_policy() -> None:
    def top(rho: jax.Array) -> jax.Array:
        solution = dp.solve("savings", {"rho": rho, **SIZES})
        return dp.path(solution, {"a": 2.0, "z": [1.0, 0.0, 0.0]}, 10).mass[-1, :, 2].sum()

    at, step = 0.9, 1e-5
    central = (top(at + step) - top(at - step)) / (2 * step)
    assert jax.grad(top)(at) == pytest.approx(float(central), rel=1e-8)

    # Income has left the lowest of three values for the highest: known in closed form.
    def power(rho: float) -> float:
        p = np.asarray(dp.rouwenhorst(3, rho, 0.1).transition_matrix)
        return float(np.linalg.matrix_power(p, 10)[0, 2])

    assert float(top(at)) == pytest.approx(power(at), rel=1e-12)
    closed = (power(at + step) - power(at - step)) / (2 * step)
    assert jax.jit(jax.grad(top))(at) == pytest.approx(closed, rel=1e-7)


@pytest.mark.parametrize(
    ("initial", "periods", "error", "said"),
    [
        ({"a": 2.0}, None, dp.UsageError, "needs periods="),
        ({"a": 2.0}, 0, dp.UsageError, "periods=0"),
        ({"a": 2.0}, 1.5, dp.UsageError, r"periods=1\.5"),
        ({"b": 2.0}, 3, dp.ModelError, "'b', which is no state.* The states are: a, z"),
        ({"z": "uniform"}, 3, dp.ModelError, "says nothing of state 'a'"),
        ({"a": "stationary"}, 3, dp.ModelError, "'a' is no Markov state"),
        ({"a": "unifrom"}, 3, dp.ModelError, r"initial\['a'\] is 'unifrom'"),
        ({"a": 21.0}, 3, dp.ModelError, r"is 21, which is off the grid of 'a' \(0 to 20\)"),
        ({"a": np.nan}, 3, dp.ModelError, "is nan, which is off the grid"),
        ({"a": np.full(4, 0.25)}, 3, dp.ModelError, r"shape \(4,\); the states' shape is \(30,\)"),
        ({"a": 0.0, "z": [1.5, -0.5, 0.0]}, 3, dp.ModelError, r"mass -0\.5 at index 1"),
        ({"a": 0.0, "z": [0.5, 0.4, 0.0]}, 3, dp.ModelError, r"sums to 0\.9, .*divide it by"),
        (np.full((30, 3), 1 / 89), 3, dp.ModelError, r"sums to 1\.01123"),
        (np.full((30, 3), np.nan), 3, dp.ModelError, r"mass nan at index \(0, 0\)"),
        (np.full(90, 1 / 90), 3, dp.ModelError, r"shape \(90,\); the states' shape is \(30, 3\)"),
        ("everywhere", 3, dp.ModelError, "everywhere"),
    ],
)
def test_what_cannot_start_or_end_a_path(
    initial: object, periods: object, error: type[Exception], said: str
) -> None:
    solution = dp.solve("savings", SIZES)
    with pytest.raises(error, match=said):
        dp.path(solution, initial, periods)


def test_periods_beyond_the_horizon_and_members_that_are_none() -> None:
    solution = dp.solve(store, {"horizon": 6})
    with pytest.raises(dp.UsageError, match="periods=7, but the model has only 6"):
        dp.path(solution, {"x": 1}, 7)
    with pytest.raises(dp.ModelError, match=r"is 1\.5, which is no member of 'x' \(0 to 4\)"):
        dp.path(solution, {"x": 1.5})

    def square(x=2.0):
        return {"y": x * x}

    with pytest.raises(dp.ModelError, match="arrays of its own"):
        dp.path(dp.solve(square), {"x": 1}, 2)


@pytest.mark.slow
def test_a_value_between_grid_points_is_shared_by_nearness() -> None:
    def build(lo=0.0):
        return dp.Model(
            states={"a": dp.grid(lo, lo + 4.0, 5), "z": dp.rouwenhorst(3, 0.5, 0.1)},
            choices={"a_next": "a"},
            transition={"a": "a_next"},
            reward=lambda a, a_next: a - a_next,
            discount=0.9,
        )

    binomial = np.array([0.25, 0.5, 0.25])
    mass = read_initial({"a": 1.25}, build())
    np.testing.assert_allclose(mass, np.outer([0, 0.75, 0.25, 0, 0], binomial), atol=1e-15)
    np.testing.assert_allclose(read_initial({"a": 4.0, "z": 0.0}, build()).sum(1), np.eye(5)[4])
    # With a grid that is traced a value off it cannot be refused: it gives NaN.
    inside = jax.jit(lambda lo: read_initial({"a": 1.25}, build(lo)))
    np.testing.assert_allclose(inside(0.0), mass, atol=1e-15)
    assert np.isnan(inside(2.0)).all()


@pytest.mark.slow
def test_an_initial_value_off_the_grid_of_one_point_is_refused() -> None:
    # Growth's grid moves with beta: k = 1.6 lies on the first point's only.
    many = dp.solve_many("growth", {"continuous": False, "beta": np.array([0.90, 0.95]), "n_k": 20})
    with pytest.raises(dp.ModelError, match=r"1\.6, which is off the grid of 'k'"):
        dp.path(many, {"k": 1.6}, 2)


def test_after_the_last_period_states_have_moments_and_choices_have_none() -> None:
    def climb(beta: float = 0.9) -> dp.Model:
        return dp.Model(
            states={"x": dp.integers(0, 4)},
            choices={"u": dp.integers(0, 1)},
            transition={"x": lambda x, u: jnp.minimum(x + u, 4)},
            reward=lambda x, u: x - 2.0 * u,
            discount=beta,
            horizon=4,
            moments={"high": lambda x: x > 0},
        )

    found = dp.path(dp.solve(climb), {"x": 0}).moments(["mean_x", "mean_u", "high"])
    np.testing.assert_array_equal(found["mean_x"], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found["high"], [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found["mean_u"], [1, 0, 0, 0, np.nan])
