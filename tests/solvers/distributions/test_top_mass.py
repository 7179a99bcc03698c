"""Mass at the top of a grid is told, once, and stands beside every distribution."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.distributions import top_mass


def saver(beta: float = 0.9, top: float = 2.0, p: float = 0.5, *, n: int = 5) -> dp.Model:
    """A walk between two walls: for p=1/2 every point of the grid has the same mass."""
    return dp.Model(
        states={"a": dp.grid(0.0, top, n, outside="clip"), "d": dp.integers(0, 1)},
        choices={"eat": dp.integers(0, 0)},
        shocks={"luck": dp.iid([-1.0, 1.0], [1 - p, p])},
        transition={"a": lambda a, luck: a + luck * top / (n - 1), "d": lambda d: 1 - d},
        reward=lambda a: a,
        discount=beta,
    )


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_mass, "_told", set())


def test_it_is_the_mass_on_the_last_point_of_every_continuous_state() -> None:
    found = dp.solve(saver, distribution=True)
    assert [n for n in found.arrays if n.startswith("top_mass")] == ["top_mass_a"]
    np.testing.assert_allclose(found["top_mass_a"], 0.2, atol=1e-8)  # a walk between two walls
    np.testing.assert_allclose(found["top_mass_a"], found.distribution[-1].sum(), rtol=1e-12)
    assert found.to_xarray()["top_mass_a"].shape == ()
    assert float(dp.stationary(found).to_xarray()["top_mass_a"]) == pytest.approx(0.2)


def test_it_is_told_once_for_a_model_and_its_grid() -> None:
    with pytest.warns(UserWarning, match="saver: 20 % of the mass lies at the top of the grid"):
        solution = dp.solve(saver, distribution=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dp.solve(saver, {"beta": 0.8}, distribution=True)
        dp.stationary(solution)
    with pytest.warns(UserWarning, match="10 % of the mass") as told:
        dp.stationary(dp.solve(saver, {"n": 10}))
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"at 2 of 3 points up to 38 % of the mass lies"):
        dp.solve_many(saver, {"p": [0.01, 0.5, 0.6], "top": 3.0}, moments=("mean_a",))


def test_a_grid_that_is_long_enough_and_a_solve_without_a_distribution_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dp.solve(saver, {"p": 0.05}, distribution=True)
        assert found["top_mass_a"] < 1e-4
        dp.solve(saver)
        jax.jit(lambda beta: dp.solve(saver, {"beta": beta}, distribution=True).distribution)(0.9)


@pytest.mark.slow
def test_the_states_on_several_devices_give_the_same() -> None:
    alone = dp.solve(saver, {"n": 6}, distribution=True)["top_mass_a"]
    spread = dp.solve(saver, {"n": 6}, distribution=True, mesh="states=4")["top_mass_a"]
    np.testing.assert_allclose(spread, alone, rtol=1e-9)


def test_nothing_is_counted_of_failed_points() -> None:
    assert list(top_mass.too_much({"top_mass_a": np.array([np.nan, 0.0])})) == []
    assert list(top_mass.too_much({"top_mass_a": np.array(0.025), "x": np.array(1.0)})) == [
        ("a", "2.5 % of the mass")
    ]
