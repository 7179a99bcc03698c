"""Batches of a model with a continuous choice: what is said of each point, and finer grids."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve import Solution
from dpsolve.sharding.batches.program import program
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.solve import refinement
from household import household

BETAS = np.array([0.90, np.nan, 0.95])


@pytest.fixture(scope="module")
def many() -> Solution:
    return dp.solve_many(household, {"beta": BETAS})


def test_each_point_says_what_its_bounds_are_of(many: Solution) -> None:
    assert many.status.tolist() == ["solved", "failed", "solved"]
    assert many.certifies.tolist() == ["continuum", "none", "continuum"]
    assert many.concavity.tolist() == ["proved", "none", "proved"]
    assert many.point(0).certifies == "continuum"
    assert np.isnan(many.error_bound[1])
    assert np.isnan(many["policy_loss"][1])
    assert np.isnan(many.policy["a_next"][1]).all()
    assert many.decisions.keys() == {"a_next"}
    assert not many.policy_index
    assert "over the continuum" in repr(many)
    data = many.to_xarray()
    assert data.certifies.dims == ("point",)
    assert data.policy_lower_a_next.dims == ("point", "a", "z")
    assert "tol" not in data.attrs
    assert data.attrs["certified"] == "over the continuum"


def test_a_tolerance_compiles_nothing_and_judges_the_bounds(many: Solution) -> None:
    between = float(many.error_bound[[0, 2]].mean())
    found = dp.solve_many(household, {"beta": BETAS}, tol=between)
    assert found.compile_seconds < 2  # no program for it: some eager work at most
    assert found.status.tolist() == ["solved", "failed", "inexact"]
    assert "points of the grid allow (14 of 'a'); some " in found.message[2]
    assert f"reach tol={between:g}" in found.message[2]
    np.testing.assert_array_equal(found.value[2], many.value[2])
    assert found.tol == between


@pytest.mark.slow
def test_a_point_is_refined_until_its_own_tolerance_holds(
    many: Solution, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = (float(many.error_bound[i]) for i in (0, 2))
    tol = 0.9 * low if low > 0.3 * high else 0.5 * high
    found = dp.solve_many(household, {"beta": BETAS}, tol=tol, refine="n_a")
    assert found.status.tolist() == ["solved", "failed", "solved"]
    assert found["refined_size"].tolist()[1:] == [14, 27]
    assert found.error_bound[2] <= tol
    assert found.value.shape == (3, 14, 2)
    # The nodes are those that were asked for, and the bounds there are the narrower ones.
    assert (found.lower[2] <= many.upper[2]).all()
    assert (many.lower[2] <= found.upper[2]).all()
    assert (found.upper[2] - found.lower[2]).max() < (many.upper[2] - many.lower[2]).max()
    layout = program(household, {}, SolveOptions(tol=tol, refine=("n_a",))).layout({}, ["beta"])
    assert "refined_size" in layout.select(["value"])
    # With memory for no more, what is left is told with its reason.
    monkeypatch.setattr(refinement, "memory_of_a_device", lambda: 1)
    ended = dp.solve_many(household, {"beta": BETAS}, tol=0.99 * tol, refine="n_a")
    assert ended.status[2] == "inexact"
    assert "refine ended at n_a=14, because n_a=27 takes" in ended.message[2]
    np.testing.assert_array_equal(ended.value[2], many.value[2])


def undeclared(gamma=2.0, beta=0.9, *, n=6):
    """Concave where gamma is positive, and says nothing of it."""
    return dp.Model(
        states={"a": dp.grid(0.0, 4.0, n)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        reward=lambda a, a_next: dp.crra(1.0 + 1.03 * a - a_next, gamma),
        feasible=lambda a, a_next: 1.0 + 1.03 * a - a_next > 0,
        discount=beta,
    )


@pytest.mark.slow
def test_what_is_proved_of_a_point_decides_what_it_is_solved_by() -> None:
    gammas = np.array([2.0, -0.5, np.nan, 3.0])
    whole = program(undeclared, {}, SolveOptions())
    assert whole.promise({"gamma": gammas, "beta": np.full(4, 0.9)}) == (
        "the continuum, proved concave at 2 of 4 points or more; at the others as far as goes "
        "without concavity"
    )
    many = dp.solve_many(undeclared, {"gamma": gammas})
    assert many.certifies.tolist() == ["continuum", "grid", "none", "continuum"]
    assert many.concavity.tolist() == ["proved", "none", "none", "proved"]
    assert many.status.tolist() == ["solved", "solved", "failed", "solved"]
    assert np.isfinite(many["consumption_equivalent"]).tolist() == [True, False, False, True]
    assert np.isposinf(many["policy_loss"][1])
    alone = dp.solve_many(undeclared, {"gamma": gammas[[0]]})
    assert alone.compile_seconds == 0.0
    np.testing.assert_array_equal(alone.value[0], many.value[0])
    told = "not proved (reward: it is convex"
    assert told in dp.check(undeclared, {"gamma": -0.5})
    assert told in str(dp.describe(undeclared, {"gamma": -0.5}))
    assert "certifies: the continuum, proved concave." in dp.check(undeclared)


@pytest.mark.parametrize(
    "options",
    [
        {"warm": True}, {"gradients_fixed_policy": ["beta"]}, {"criterion": "average"},
        {"certificate": "sampled"}, {"precision": "mixed"}, {"mesh": "states=2"},
    ],
)  # fmt: skip
def test_what_means_nothing_for_a_continuous_choice_is_refused(options: dict[str, object]) -> None:
    if "mesh" in options and len(jax.devices()) < 2:
        options = {"mesh": "states=1,points=1", "warm": True}
    with pytest.raises(UsageError, match="continuous choice, 'a_next'"):
        dp.solve_many(household, {"beta": [0.9]}, **options)  # type: ignore[arg-type]


def test_a_derivative_is_refused_in_words_where_nothing_is_known_of_concavity() -> None:
    with pytest.raises(UsageError, match=r"write dp.Model.*concave=True"):
        jax.grad(lambda beta: dp.solve(undeclared, {"beta": beta}).value.sum())(0.95)
