"""Sweeps of a model with a continuous choice: stored, killed and resumed, loaded, told of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.run.sweep import create_store
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.verify.audit import record_faults
from dpsolve.solvers.errors import RefusedError, UsageError

from .conftest import assert_equal_stores, reseal, run

BETAS = [0.90, 0.92, 0.93, 0.95]


def household(path: Path, betas: list[float] | None = None, **changes: Any) -> Sweep:
    """Four points in two tasks."""
    raw: dict[str, Any] = {
        "model": "household:household",
        "grid": {"beta": BETAS if betas is None else betas},
        "store": {"path": str(path), "points_per_task": 2},
    }
    return sweep_from(raw | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "whole.zarr"
    assert run(household(path)).solved == 4
    return path


def command(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_store_holds_bounds_policies_and_what_they_are_of(store: Path) -> None:
    data = xr.open_zarr(store)
    assert {"policy_a_next", "policy_lower_a_next", "policy_upper_a_next"} <= set(data.data_vars)
    assert "policy_index_a_next" not in data
    assert data.certifies.values.tolist() == [1] * 4
    assert data.concavity.values.tolist() == [2] * 4
    assert data.certifies.dtype == np.int8
    assert (data.policy_loss > 0).all()
    assert data.error_bound.attrs["of_what"] == "over the continuum"
    inside = (data.policy_lower_a_next <= data.policy_a_next) & (
        data.policy_a_next <= data.policy_upper_a_next
    )
    assert inside.all()


def test_what_was_lost_in_a_kill_is_computed_again_bit_by_bit(store: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed.zarr"
    shutil.copytree(store, killed)
    for name in ("status", "value", "policy_a_next"):  # killed before the commit
        (file,) = (killed / name).glob("c.1*")
        file.unlink()
    done = command("resume", killed, "--no-verify")
    assert done.exit_code == 0, done.output
    assert "2 points" in done.output  # that were computed now
    assert_equal_stores(killed, store)


def test_another_tolerance_is_another_sweep(store: Path) -> None:
    with pytest.raises(RefusedError, match=r"tol: the store has nothing, this call asks for 0\.01"):
        run(household(store, solve={"tol": 0.01}))
    with pytest.raises(RefusedError, match="tol"):
        run(household(store, solve={"tol": 1e-6}))  # which is no default here


def test_a_loaded_point_is_the_solution_that_was_stored(store: Path) -> None:
    found = dp.load(store, beta=0.93)
    assert (found.status, found.certifies, found.concavity) == ("solved", "continuum", "proved")
    assert found.decisions["a_next"].shape == (14, 2)
    assert found.policy["a_next"] is not None
    low, high = found.policy_lower["a_next"], found.policy_upper["a_next"]
    assert (low <= found.policy["a_next"]).all()
    assert (found.policy["a_next"] <= high).all()
    wealth, income = np.asarray(found.grids["a"])[:, None], np.exp(np.asarray(found.grids["z"]))
    spent = 1.02 * wealth + income - np.asarray(found.policy["a_next"])
    np.testing.assert_allclose(found.outputs["consumption"], spent, rtol=1e-12)
    assert "over the continuum" in repr(found)
    assert dp.stationary(found).status == "solved"


def test_every_account_of_a_store_says_what_its_bounds_are_of(store: Path) -> None:
    status = read_status(store)
    assert status.tol is None
    text = str(status)
    assert "over the continuum" in text
    assert "tol" not in text
    assert "certifies  the continuum, concavity proved at 4 points" in text
    found = dp.verify(store)
    assert found.ok
    assert "certified errors over the continuum" in str(found)
    plan = command("plan", "household:household", "--grid", "beta=0.9,0.95", "--no-probe",
                   "--store", store.parent / "none.zarr")  # fmt: skip
    assert "certifies:  the continuum" in plan.output
    assert "starts      cold" in plan.output


def test_a_store_without_a_point_yet_says_nothing_of_bounds(tmp_path: Path) -> None:
    sweep = household(tmp_path / "none.zarr")
    create_store(sweep, resolve(sweep.model))
    assert read_status(sweep.store.path).certifies == ()


@pytest.mark.slow
def test_a_point_is_refined_and_the_nodes_asked_for_are_kept(store: Path, tmp_path: Path) -> None:
    bounds = xr.open_zarr(store).error_bound.values
    tol = float(0.5 * bounds[3])  # of the last point: a grid of one doubling is enough
    path = tmp_path / "refined.zarr"
    solve = {"tol": tol, "refine": "n_a"}
    places = {"store": {"path": str(path), "points_per_task": 1}}
    sweep = household(path, [0.95], solve=solve, **places)
    assert run(sweep).solved == 1
    data = xr.open_zarr(path)
    assert (int(data.refined_size[0]), data.sizes["a"]) == (27, 14)
    assert float(data.error_bound[0]) <= tol
    assert "between the nodes of refined_size" in str(read_status(path))
    found = dp.load(path, beta=0.95)
    assert int(found["refined_size"]) == 27
    assert "between the nodes of refined_size" in repr(found)
    done = command("solve", "household:household", "--tol", tol, "--refine", "n_a",
                   "--store", tmp_path / "x.zarr")  # fmt: skip
    assert (done.exit_code, "keeps the nodes of the size asked for" in done.output) == (2, True)


def test_a_refinement_that_changes_the_model_makes_no_store(tmp_path: Path) -> None:
    sweep = household(tmp_path / "x.zarr", solve={"tol": 1e-2, "refine": "n_z"})
    with pytest.raises(UsageError, match="the chain 'z' changes with it"):
        run(sweep)
    assert not Path(sweep.store.path).exists()
    done = command("plan", "savings", "--set", "continuous=false",
                   "--grid", "beta=0.9,0.92", "--tol", 1e-3,
                   "--with", "solve.refine=n_a", "--store", tmp_path / "y.zarr")  # fmt: skip
    assert "solve.refine" in done.output
    assert "write dp.interval" in done.output


def test_a_position_cannot_be_kept(tmp_path: Path) -> None:
    for name in ("policy_index", "policy_index_a_next"):
        wrong = household(tmp_path / "x.zarr")
        wrong = wrong.model_copy(
            update={"store": wrong.store.model_copy(update={"keep": ("value", name)})}
        )
        with pytest.raises(UsageError, match="'a_next' is continuous"):
            run(wrong)


def test_records_of_continuous_choices_are_compared_with_each_other() -> None:
    def faults(tol: float | None, **one: Any) -> list[str]:
        block = {name: np.array([x]) for name, x in one.items()}
        return [text for bad, text in record_faults(block, tol, True) if bad.any()]

    fine = {"status": "solved", "message": "", "error_bound": 0.5, "certifies": 1}
    assert not faults(None, **fine)
    assert faults(0.1, **fine)
    assert faults(None, **fine | {"error_bound": np.inf})
    assert faults(None, **fine | {"certifies": 4})
    coarse = {"status": "inexact", "message": "x", "error_bound": 0.5, "certifies": 1}
    assert not faults(0.1, **coarse)
    assert faults(0.6, **coarse)


# -- stores that were begun before ----------------------------------------------------------------


def test_a_store_that_was_begun_before_reads_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "old.zarr"
    sweep = sweep_from(
        {"model": "growth", "fixed": {"continuous": False, "n_k": 10},
         "grid": {"beta": [0.9, 0.92]}, "store": {"path": str(path)}}
    )  # fmt: skip
    run(sweep)

    def older(document: dict[str, Any]) -> None:
        """As it was written: the default tolerance was an option, and nothing told its kind."""
        attributes = document["attributes"]
        if "solve" in attributes:
            options = json.loads(attributes["solve"])
            assert "tol" not in options
            attributes["solve"] = json.dumps({"tol": 1e-06, **options})
        nodes = document.get("consolidated_metadata", {}).get("metadata", {})
        for node in (document, *nodes.values()):
            for name in ("certifies", "of_what"):
                node["attributes"].pop(name, None)

    for file in (path / "zarr.json", path / "error_bound" / "zarr.json"):
        document = json.loads(file.read_text())
        older(document)
        file.write_text(json.dumps(document))
    reseal(path)
    held = open_store(path)
    assert (held.options.tol, held.tol, held.of_what) == (1e-6, 1e-6, "")
    assert run(sweep).computed == 0
    assert dp.verify(path).ok
    assert "(tol 1e-06)" in str(read_status(path))
    assert dp.load(path, beta=0.92).tol == 1e-6


def test_choices_on_a_grid_say_that_of_a_continuous_one_nothing_is_known(tmp_path: Path) -> None:
    sizes = ("--set=continuous=false", "--set=n_a=8", "--set=n_z=2")
    done = command("sweep", "savings", *sizes, "--grid", "beta=0.9,0.92",
                   "--store", tmp_path / "s.zarr", "--no-verify")  # fmt: skip
    sentence = "for choices on this grid (tol 1e-06); of a continuous choice it says nothing"
    assert sentence in done.output
    assert sentence in str(read_status(tmp_path / "s.zarr"))
    assert "choices on this grid; of a continuous choice it says nothing (dp.interval)" in (
        command("describe", "savings", "--set=continuous=false").output
    )
