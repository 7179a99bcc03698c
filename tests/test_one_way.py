"""One way through: what a solve and a sweep build, how often, and what they leave alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jax
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.cli.main import main
from dpsolve.sharding.batches.coordinates import coordinates
from dpsolve.sharding.batches.outline import outline
from dpsolve.solvers.library.savings import savings
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.cyclic import CyclicOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.solve.gradients import differentiable_point
from dpsolve.solvers.solve.point import solve_made
from dpsolve.solvers.solve.statistics import explain_statistics


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], list[type]]:
    """Return a function that lists the calls of a method from now on, by the object's class."""

    def counted(kind: type, method: str) -> list[type]:
        calls: list[type] = []
        original = getattr(kind, method)

        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(type(self))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, method, called)
        return calls

    return counted


def test_a_sweep_builds_its_model_three_times(
    count: Callable[..., list[type]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to plan, once for the program of a round, and once for that of the results."""
    monkeypatch.chdir(tmp_path)
    models = count(Model, "__post_init__")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "sweep",
                "growth",
                "--set=continuous=false",
                "--grid=beta=.9:.95:4",
                "--set=n_k=31",
                "--no-verify",
            ]
        )
    assert ended.value.code == 0
    assert len(models) == 3
    assert (tmp_path / "growth.zarr").is_dir()


def test_a_plan_builds_its_model_once(
    count: Callable[..., list[type]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = count(Model, "__post_init__")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "plan",
                "growth",
                "--set=continuous=false",
                "--grid",
                "beta=.9:.95:4",
                "--set",
                "n_k=32",
                "--no-probe",
            ]
        )
    assert ended.value.code == 0
    assert len(models) == 1


def test_a_solve_builds_two_models_and_one_operator(count: Callable[..., list[type]]) -> None:
    """Once to see whether a choice is continuous, and how it is solved, and once to solve it."""
    models, operators = count(Model, "__post_init__"), count(GridOperator, "__init__")
    first = dp.solve("savings", {"continuous": False, "n_a": 33, "n_z": 3})
    assert (len(models), operators) == (2, [GridOperator])
    dp.solve("savings", {"continuous": False, "n_a": 33, "n_z": 3, "beta": 0.9})
    assert (len(models), operators) == (2, [GridOperator])
    assert first.status == "solved"


def week(beta: float = 0.99, *, n: int = 7) -> dp.Model:
    return dp.Model(
        states={"day": dp.integers(0, n - 1), "x": dp.grid(0.0, 1.0, 5)},
        choices={"y": "x"},
        transition={"day": lambda day: (day + 1) % n, "x": "y"},
        reward=lambda day, x, y: day * y - (x - y) ** 2,
        discount=beta,
    )


def test_a_cycle_has_one_operator_of_a_turn(count: Callable[..., list[type]]) -> None:
    turns = count(CyclicOperator, "__init__")
    assert dp.solve(week).status == "solved"
    assert turns == [CyclicOperator]


def entered(call: Callable[[], Any]) -> set[CodeType]:
    """Return the functions that a call goes through."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return seen


def test_an_ordinary_solve_keeps_out_of_gradients_and_distributions() -> None:
    seen = entered(lambda: dp.solve("growth", {"continuous": False, "n_k": 13}))
    gradients = differentiable_point.__code__.co_filename
    assert solve_made.__code__ in seen
    assert gradients not in {code.co_filename for code in seen}
    assert explain_statistics.__code__ not in seen
    asked = entered(lambda: dp.solve("growth", {"continuous": False, "n_k": 13}, gradients=("z",)))
    assert gradients in {code.co_filename for code in asked}
    seen = entered(lambda: dp.solve("growth", {"continuous": False, "n_k": 13}, distribution=True))
    assert explain_statistics.__code__ in seen


def test_a_traced_solve_has_the_value_and_the_derivative_of_an_eager_one() -> None:
    def value(z: Any) -> Any:
        return dp.solve("growth", {"continuous": False, "n_k": 14, "z": z}, tol=1e-9).value.sum()

    eager = dp.solve("growth", {"continuous": False, "n_k": 14, "z": 1.1}, tol=1e-9)
    np.testing.assert_allclose(jax.jit(value)(1.1), eager.value.sum(), rtol=1e-12)
    asked = dp.solve(
        "growth", {"continuous": False, "n_k": 14, "z": 1.1}, tol=1e-9, gradients=("z",)
    )
    np.testing.assert_allclose(jax.grad(value)(1.1), asked["d_value_d_z"].sum(), rtol=1e-8)


def test_an_outline_computes_grids_and_nothing_larger() -> None:
    found = outline(savings, {"continuous": False, "n_a": 200, "n_z": 7}, SolveOptions())
    sizes = [v.aval.size for e in found.grids.program.jaxpr.eqns for v in e.outvars]
    assert max(sizes, default=0) <= 200
    assert found.results.shapes["value"].shape == (200, 7)


def test_a_grid_moves_with_the_parameters_that_make_it() -> None:
    def model(low: float = 0.0, high: float = 1.0, beta: float = 0.9) -> dp.Model:
        return dp.Model(
            states={"x": dp.grid(low, high, 5)},
            choices={"y": "x"},
            transition={"x": "y"},
            reward=lambda x, y: x - y,
            discount=beta,
        )

    grids = outline(model, {}, SolveOptions()).grids
    assert grids.moved_by({"low"}) == grids.moved_by({"high", "beta"}) == {"x"}
    assert grids.moved_by({"beta"}) == set()
    fixed = {"low": 0.5, "high": 2.0}
    shared, moving = coordinates(grids, model, {}, fixed, ["beta"])
    np.testing.assert_array_equal(shared["x"], np.linspace(0.5, 2.0, 5))
    assert moving == set()
    assert coordinates(grids, model, {}, {"low": 0.5}, ["beta", "high"]) == ({}, {"x"})
