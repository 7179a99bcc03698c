"""Points of a batch on finer grids: which are solved again, how often, and what is kept of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpsolve.sharding.batches.program import Batch
from dpsolve.sharding.batches.refined_points import refined_points
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome
from dpsolve.solvers.solve.refinement import Refinement
from household import household

TOL = 0.01
DIMS = {"value": ("a", "z"), "grid_a": ("a",), "distribution": ("a", "z")}


def solved(doublings: int, errors: np.ndarray[Any, Any]) -> Batch:
    """What a solver of second order would give: a value that is the grid, a uniform mass."""
    n, points = 13 * 2**doublings + 1, len(errors)
    grid = 8.0 * np.linspace(0.0, 1.0, n) ** 2
    error = errors / 4.0**doublings
    failed = np.isnan(errors)
    code = np.where(error <= TOL, Outcome.SOLVED, Outcome.TOO_COARSE)
    code = np.where(failed, Outcome.NOT_FINITE, code)
    return Batch(
        variables={
            "value": np.tile(grid[None, :, None] + 100.0 * doublings, (points, 1, 2)),
            "grid_a": np.tile(grid, (points, 1)),
            "distribution": np.full((points, n, 2), 1.0 / (2 * n)),
        },
        status=np.where(failed, "failed", "solved").astype(object),
        message=np.full(points, "", object),
        residual=np.zeros(points),
        error_bound=error,
        seconds=np.ones(points),
        iterations=np.zeros(points, np.int32),
        code=code.astype(np.int32),
    )


def test_each_point_goes_as_far_as_its_own_bounds_ask() -> None:
    errors = np.array([0.005, 0.03, np.nan, 0.7, 0.039])
    asked: list[tuple[int, list[float]]] = []

    def finer(doublings: int, columns: Any) -> Batch:
        asked.append((doublings, columns["beta"].tolist()))
        return solved(doublings, columns["beta"])

    refinement = Refinement(household, {}, SolveOptions(tol=TOL, refine=("n_a",)))
    columns = {"beta": errors}
    found = refined_points(solved(0, errors), columns, refinement, DIMS, finer)
    assert found.code.tolist() == [0, 0, Outcome.NOT_FINITE, 0, 0]
    assert found.variables["refined_size"].tolist() == [14, 27, 14, 14 * 16 - 15, 27]
    assert asked == [(1, [0.03, 0.039]), (3, [0.7]), (4, [0.7])]
    assert found.seconds.tolist() == [1.0, 2.0, 1.0, 3.0, 2.0]
    # The nodes that were asked for are kept, of the finer value.
    value, grid = found.variables["value"], found.variables["grid_a"]
    np.testing.assert_allclose(grid, np.tile(grid[0], (5, 1)), rtol=1e-14)
    np.testing.assert_allclose(value[3, :, 0], grid[0] + 400.0, rtol=1e-14)
    # Mass between nodes goes to both, its mean unchanged.
    mass = found.variables["distribution"]
    np.testing.assert_allclose(mass.sum((1, 2)), 1.0, rtol=1e-12)
    fine = solved(4, errors[3:4]).variables
    mean = (fine["distribution"][0].sum(1) * fine["grid_a"][0]).sum()
    np.testing.assert_allclose((mass[3].sum(1) * grid[3]).sum(), mean, rtol=1e-12)


def test_how_far_a_point_goes_does_not_depend_on_the_others() -> None:
    errors = np.array([0.03, 0.7])
    refinement = Refinement(household, {}, SolveOptions(tol=TOL, refine=("n_a",)))

    def finer(doublings: int, columns: Any) -> Batch:
        return solved(doublings, columns["beta"])

    def run(some: np.ndarray[Any, Any]) -> Batch:
        return refined_points(solved(0, some), {"beta": some}, refinement, DIMS, finer)

    both, alone = run(errors), run(errors[1:])
    for name, x in alone.variables.items():
        np.testing.assert_array_equal(both.variables[name][1:], x)


def test_a_point_that_gains_nothing_ends_and_says_so() -> None:
    errors = np.array([0.5])

    def stuck(doublings: int, columns: Any) -> Batch:
        return solved(0 if doublings < 2 else doublings, columns["beta"] * 4.0**doublings)

    refinement = Refinement(household, {}, SolveOptions(tol=TOL, refine=("n_a",)))
    first = solved(0, errors)
    found = refined_points(first, {"beta": errors}, refinement, DIMS, stuck)
    assert found.code[0] == Outcome.TOO_COARSE
    assert "no longer narrow" in found.message[0]
