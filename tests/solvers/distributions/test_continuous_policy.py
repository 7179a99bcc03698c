"""Distributions of continuous policies: by a lottery that keeps the mean, on any grid."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from by_hand import solution_of

R, Y = np.array([0.8, 1.1]), np.array([0.5, 1.5])


def cash(outside: Any = "error", **more: Any) -> dp.Model:
    """Cash on hand m' = R (m - c) + y, with c chosen from an interval."""
    return dp.Model(
        states={"m": dp.grid(0.5, 12.0, 40, curve=2, outside=outside)},
        choices={"c": dp.interval(0.0, lambda m: m)},
        shocks={"ret": dp.iid(R, [0.25, 0.75]), "y": dp.iid(Y, [0.5, 0.5])},
        transition={"m": lambda m, c, ret, y: ret * (m - c) + y},
        reward=lambda c: jnp.log(c),
        discount=0.9,
        **more,
    )


def household(beta: float = 0.96, r: float = 0.0373, *, n_a: int = 40, n_z: int = 2) -> dp.Model:
    """The household of the README, by a continuous choice."""

    def consumption(a: Any, z: Any, a_next: Any) -> Any:
        return (1 + r) * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 20.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, 0.9, 0.1)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), 2.0),
        discount=beta,
        concave=True,
        outputs={"consumption": consumption},
    )


def lottery(nodes: Any, to: Any) -> Any:
    """Return the matrix (from, node) of moves that keep the mean, in plain NumPy."""
    rows = np.zeros((len(to), len(nodes)))
    for i, x in enumerate(to):
        k = int(np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2))
        share = (x - nodes[k]) / (nodes[k + 1] - nodes[k])
        rows[i, k], rows[i, k + 1] = 1 - share, share
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("points", [None, 150])
def test_a_function_with_shocks_moves_mass_as_plain_numpy_does(points: int | None) -> None:
    solution = solution_of(cash(), {"c": lambda m: 0.45 * m})
    finer = None if points is None else {"m": points}
    n = 40 if points is None else points
    nodes = 0.5 + 11.5 * np.linspace(0.0, 1.0, n) ** 2
    # 0.45 m is linear, so that between the value's nodes it is 0.45 m, too.
    matrix = sum(
        p * 0.5 * lottery(nodes, r * 0.55 * nodes + y)
        for p, r in zip((0.25, 0.75), R, strict=True)
        for y in Y
    )
    mass = np.full(n, 1 / n)
    path = dp.path(solution, {"m": "uniform"}, 4, distribution_grid=finer)
    for t in range(5):
        np.testing.assert_allclose(path.mass[t], mass, atol=1e-14)
        mass = mass @ matrix
    mean = path.moments("mean_m")["mean_m"]
    growth = (0.25 * 0.8 + 0.75 * 1.1) * 0.55
    np.testing.assert_allclose(mean[1:], growth * mean[:-1] + 1.0, rtol=1e-12)
    found = dp.stationary(solution, distribution_grid=finer)
    values, vectors = np.linalg.eig(matrix.T)
    true = np.real(vectors[:, np.argmax(np.real(values))])
    assert np.abs(found.mass - true / true.sum()).sum() <= float(found.error_bound) + 1e-11
    assert float(found.moments("mean_m")["mean_m"]) == pytest.approx(1 / (1 - growth), rel=1e-7)
    assert float(found.moments("mean_c")["mean_c"]) == pytest.approx(0.45 / (1 - growth), rel=1e-7)


@pytest.mark.slow
def test_each_period_of_a_horizon_has_its_own_policy() -> None:
    model = cash(horizon=3)
    solution = solution_of(model, {"c": lambda m, t: (0.2 + 0.1 * t) * m})
    path = dp.path(solution, {"m": 4.0}, distribution_grid={"m": 300})
    mean = path.moments("mean_m")["mean_m"]
    for t in range(3):
        kept = 1 - (0.2 + 0.1 * t)
        assert float(mean[t + 1]) == pytest.approx(1.025 * kept * float(mean[t]) + 1.0, rel=1e-12)
    assert path.to_xarray()["distribution_path"].dims == ("time", "m_distribution")


def test_moments_of_choices_need_no_grid_of_theirs() -> None:
    solution = solution_of(cash(), {"c": lambda m: 0.45 * m})
    found = dp.stationary(solution)
    asked = [f"{s}_{x}" for s in ("mean", "sd", "var", "gini", "p50", "p90") for x in "mc"]
    moments = {n: float(x) for n, x in found.moments(asked).items()}
    for statistic, power in (("mean", 1), ("sd", 1), ("var", 2), ("gini", 0), ("p50", 1)):
        scaled = 0.45**power * moments[f"{statistic}_m"]
        assert moments[f"{statistic}_c"] == pytest.approx(scaled, rel=1e-9)


def test_a_choice_from_a_list_beside_a_continuous_one_is_the_nearest_nodes() -> None:
    model = dp.Model(
        states={"a": dp.grid(0.0, 4.0, 5)},
        choices={"work": dp.integers(0, 1), "a_next": dp.interval("a")},
        transition={"a": "a_next"},
        reward=lambda work, a_next: work - a_next,
        discount=0.9,
    )
    policy = {"work": lambda a: a < 2.0, "a_next": lambda a: np.where(a < 2.0, a + 1.0, a - 1.0)}
    solution = solution_of(model, policy)
    path = dp.path(solution, {"a": 1.25}, 1, distribution_grid={"a": 17})
    nodes = path.grids["a"]
    assert float(np.asarray(nodes)[np.argmax(path.mass[1])]) == 2.0  # as at 1, for 1.25 is nearer
    moments = dp.path(solution, {"a": 1.75}, 1, distribution_grid={"a": 17}).moments(
        ["mean_work", "mean_a_next"]
    )
    at_once = {name: float(x[0]) for name, x in moments.items()}
    assert at_once == {"mean_work": 0.0, "mean_a_next": 1.0}  # as at 2


@pytest.mark.slow
def test_a_solve_gives_the_same_distribution_and_moments() -> None:
    options: dict[str, Any] = {"initial": {"a": 1.0}, "periods": 3, "distribution": True}
    names = ["mean_a", "mean_a_next", "p50_a_next"]
    solution = dp.solve(household, distribution_grid={"a": 150}, moments=names, **options)
    assert solution.status == "solved"
    found = dp.stationary(solution)
    assert found.mass.shape == (150, 2)
    np.testing.assert_allclose(solution.distribution, found.mass, atol=2e-8)
    for name, x in found.moments(names).items():
        assert float(solution.moments[name]) == pytest.approx(float(x), rel=1e-6)
    assert float(solution.moments["mean_a"]) == pytest.approx(
        float(solution.moments["mean_a_next"]), rel=1e-6
    )
    data = solution.to_xarray()
    assert data["distribution"].dims == ("a_distribution", "z")
    assert data["distribution_path"].dims == ("time", "a_distribution", "z")
    np.testing.assert_allclose(data["a_distribution"], 20 * np.linspace(0, 1, 150) ** 2, rtol=1e-12)


def test_a_grid_from_an_array_is_made_finer_by_number() -> None:
    model = dp.Model(
        states={"a": np.array([0.0, 1.0, 4.0])},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        reward=lambda a_next: -a_next,
        discount=0.9,
    )
    solution = solution_of(model, {"a_next": lambda a: 0.5 * a})
    path = dp.path(solution, {"a": 4.0}, 1, distribution_grid={"a": 5})
    np.testing.assert_allclose(path.grids["a"], [0.0, 0.5, 1.0, 2.5, 4.0])
    np.testing.assert_allclose(path.mass[1], [0, 0, 1 / 3, 2 / 3, 0])


@pytest.mark.slow
def test_a_grid_choice_has_a_finer_distribution_too() -> None:
    solution = dp.solve("savings", {"continuous": False, "n_a": 60, "beta": 0.95})
    found = dp.stationary(solution, distribution_grid={"a": 200})
    assert found.mass.shape == (200, 7)
    assert found.status == "solved"


def test_much_mass_at_the_top_is_told() -> None:
    model = cash(outside="clip")
    with pytest.warns(UserWarning, match="top of the grid of m"):
        dp.stationary(solution_of(model, {"c": lambda m: 0.1 * m}), distribution_grid={"m": 77})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"b": 10}, "'b', which is no state"),
        ({"z": 10}, "a Markov chain and stands for itself"),
        ({"a": 1}, "a is 1; it is a whole number of points, at least 2"),
        ({"a": 2.5}, "a is 2.5"),
        ({"a": True}, "a is True"),
        (7, "distribution_grid=7"),
    ],
)
def test_grids_that_cannot_be_are_refused(given: Any, why: str) -> None:
    made = household()
    solution = solution_of(made, {"a_next": lambda a, z: 0.5 * a})
    with pytest.raises(dp.UsageError, match=why):
        dp.stationary(solution, distribution_grid=given)
    with pytest.raises(dp.UsageError, match=why):
        dp.path(solution, {"a": 1.0}, 2, distribution_grid=given)
    with pytest.raises(dp.UsageError, match=why):
        dp.solve(made, distribution=True, distribution_grid=given)


def test_a_chain_and_a_model_of_arrays_have_no_finer_grid() -> None:
    with pytest.raises(dp.UsageError, match="for a solution"):
        dp.stationary(dp.rouwenhorst(3, 0.9, 0.1), distribution_grid={"a": 10})
    tabular = dp.solve(dp.mdp(np.eye(2), np.full((2, 2, 2), 0.5), 0.9))
    with pytest.raises(dp.UsageError, match="it has no grids"):
        dp.stationary(tabular, distribution_grid={"state": 10})
