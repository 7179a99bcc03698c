"""Factories that return arrays go through sweep, store, resume, status, verify and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.pictures.picture import picture
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from

from .conftest import assert_equal_stores, run

SWEEPS: dict[str, dict[str, Any]] = {
    "solow": {"fixed": {"periods": 20}, "grid": {"s": [0.1, 0.2, 0.3], "alpha": [0.3, 0.4]}},
    "firm_quality": {
        "fixed": {"n": 30, "periods": 4},
        "grid": {"kappa": [0.01, 0.02, 0.05, 0.1], "tau": [0.1, 0.2]},
    },
    "call_option": {"fixed": {"paths": 9000}, "grid": {"K": [80.0, 90.0, 100.0, 110.0, 120.0]}},
    "ascent": {"grid": {"alpha": [-1.0, 0.0, 1.0]}, "solve": {"gradients": ["alpha"]}},
    "surface": {"fixed": {"n": 25, "keep_grid": True}, "grid": {"hi": [1.0, 2.0, 3.0]}},
}


def sweep_of(name: str, path: Path, **store: Any) -> Sweep:
    raw = {"model": name, **SWEEPS[name], "store": {"path": str(path), **store}}
    return sweep_from(raw)


def command(line: str) -> str:
    done = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.slow
def test_from_sweep_to_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.zarr"
    outcome = run(sweep_of(name, path))
    assert outcome.solved == outcome.points
    status = read_status(str(path))
    assert (status.solved, status.pending) == (outcome.points, 0)
    verified = dp.verify(path, all_points=True)
    assert verified.ok, str(verified)
    assert verified.points_checked == outcome.points
    output = command(f"plot {path} --output {tmp_path / 'it.png'}")
    assert "drew" in output
    assert (tmp_path / "it.png").stat().st_size > 5000

    # However a sweep is cut, and wherever it was interrupted, it ends in the same store.
    other = tmp_path / "other.zarr"
    one_by_one = sweep_of(name, other, points_per_task=1)
    run(one_by_one)
    store = open_store(other)
    for task in list(store.tasks)[1::2]:
        store.buckets[0].file("status", task).unlink()
    again = run(one_by_one)
    assert 0 < again.computed < again.points
    assert_equal_stores(path, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_what_was_altered_is_found(name: str, tmp_path: Path) -> None:
    """The numbers are compared with those that the factory returns when it is called again."""
    path = tmp_path / "it.zarr"
    run(sweep_of(name, path))
    solution = dp.solve_many(name, _columns(name), **SWEEPS[name].get("solve", {}))
    assert dp.verify(solution).ok
    first = {"solow": "path", "firm_quality": "mean", "call_option": "price", "ascent": "x"}
    variable = first.get(name, "mean")
    arrays = dict(solution.arrays)
    arrays[variable] = np.array(arrays[variable])
    arrays[variable][..., -1] *= 1 + 1e-6
    wrong = type(solution)(arrays, solution.parameters, solution.problem, solution.messages)
    found = dp.verify(wrong)
    assert not found.ok
    assert f"{variable}: entry" in str(found)


def _columns(name: str) -> dict[str, Any]:
    grid = SWEEPS[name]["grid"]
    mesh = np.meshgrid(*(np.array(v) for v in grid.values()), indexing="ij")
    return SWEEPS[name].get("fixed", {}) | {k: m.ravel() for k, m in zip(grid, mesh, strict=True)}


@pytest.mark.slow
def test_dimensions_and_coordinates(tmp_path: Path) -> None:
    run(sweep_of("firm_quality", tmp_path / "f.zarr"))
    data = dp.open(tmp_path / "f.zarr")
    assert data["distribution"].dims == ("kappa", "tau", "quality")
    assert data["distribution_path"].dims == ("kappa", "tau", "time", "quality")
    np.testing.assert_allclose(data["quality"], (np.arange(30) + 0.5) * 5 / 30)
    assert (data["error_bound"] < 1e-9).all()
    np.testing.assert_allclose(data["distribution"].sum("quality"), 1.0, atol=1e-13)
    mean = (data["distribution"] * data["quality"]).sum("quality")
    np.testing.assert_allclose(mean, data["mean"], rtol=1e-13)
    run(sweep_of("surface", tmp_path / "s.zarr"))
    moving = dp.open(tmp_path / "s.zarr")  # the grid depends on what is swept
    assert moving["grid_x"].dims == ("hi", "x")
    np.testing.assert_allclose(moving["grid_x"][:, -1], moving["hi"])


@pytest.mark.slow
def test_a_point_that_is_refused_hurts_no_other(tmp_path: Path) -> None:
    raw = {
        "model": "firm_quality",
        "fixed": {"n": 30},
        "grid": {"kappa": [0.0, 0.02]},
        "store": {"path": str(tmp_path / "it.zarr"), "keep": ["distribution", "mean"]},
    }
    outcome = run(sweep_from(raw))
    assert (outcome.solved, outcome.failed) == (1, 1)
    assert "without exit (kappa = 0) mass leaks" in str(read_status(str(tmp_path / "it.zarr")))
    data = dp.open(tmp_path / "it.zarr")
    assert np.isnan(data["distribution"][0]).all()
    assert np.isfinite(data["distribution"][1]).all()
    assert dp.verify(tmp_path / "it.zarr").ok


@pytest.mark.slow
def test_what_does_not_converge_is_inexact_and_its_claim_is_checked(tmp_path: Path) -> None:
    raw = {
        "model": "firm_quality",
        "fixed": {"n": 30, "method": "plain", "max_iter": 300},
        "grid": {"kappa": [0.02, 2.0]},
        "store": {"path": str(tmp_path / "it.zarr"), "keep": ["distribution"]},
    }
    outcome = run(sweep_from(raw))
    assert (outcome.solved, outcome.inexact) == (1, 1)
    data = dp.open(tmp_path / "it.zarr")
    np.testing.assert_array_equal(data["error_bound"] > 1e-6, [True, False])
    assert dp.verify(tmp_path / "it.zarr").ok
    # A store that calls the point solved contradicts its own bound.
    solution = dp.solve_many("firm_quality", raw["fixed"] | {"kappa": np.array([0.02, 2.0])})
    arrays = dict(solution.arrays) | {"code": np.zeros(2, np.int32)}
    lie = type(solution)(arrays, solution.parameters, solution.problem, np.array(["", ""]))
    assert "error_bound is above tol" in str(dp.verify(lie))


@pytest.mark.slow
def test_a_picture_shows_standard_errors_and_a_number_per_point(tmp_path: Path) -> None:
    run(sweep_of("call_option", tmp_path / "c.zarr"))
    (axis,) = picture(dp.open(tmp_path / "c.zarr")).axes
    assert axis.get_ylabel() == "price"
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["2 standard errors"]
    run(sweep_of("firm_quality", tmp_path / "f.zarr"))
    lines, summary = picture(dp.open(tmp_path / "f.zarr")).axes
    assert (lines.get_xlabel(), lines.get_ylabel()) == ("quality", "mass at each quality")
    assert (summary.get_xlabel(), summary.get_ylabel()) == ("kappa", "mean")
    assert [line.get_label() for line in summary.lines] == ["tau=0.1", "tau=0.2"]
    run(sweep_of("solow", tmp_path / "s.zarr"))
    lines, *_ = picture(dp.open(tmp_path / "s.zarr"), "path").axes
    assert len(lines.lines[0].get_ydata()) == 21


@pytest.mark.slow
def test_the_commands_show_factories_of_arrays() -> None:
    listed = command("models")
    for name in SWEEPS:
        assert f"\n  {name} " in listed
    page = command("describe firm_quality --set periods=40")
    assert "over time (41) x quality (100)" in page
    assert "states x" not in page
    text = command("solve call_option --set paths=9000")
    assert "standard error" in text
    assert "price_se" not in text
    assert "error at most" in command("solve firm_quality --set n=20")
    refused = CliRunner().invoke(cli, ["check", "firm_quality", "--set", "kappa=0"])
    assert "without exit" in refused.output


def test_many_growth_paths_need_not_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "it.zarr"
    raw = {
        "model": "solow",
        "fixed": {"keep_path": False, "periods": 50},
        "grid": {
            "s": {"from": 0.1, "to": 0.5, "points": 250},
            "alpha": {"from": 0.2, "to": 0.6, "points": 80},
        },
        "store": {"path": str(path)},
    }
    assert run(sweep_from(raw)).solved == 20_000
    data = dp.open(path)
    assert data["end"].shape == (250, 80)
    group = zarr.open_group(path, mode="r")
    assert sum(node.nbytes for _, node in group.arrays() if node.dtype.kind == "f") < 5e6
    k = np.full((250, 80), 0.2)
    for _ in range(50):
        k = data["s"].values[:, None] * k ** data["alpha"].values + 0.9 * k
    np.testing.assert_allclose(data["end"], k, rtol=1e-13)
