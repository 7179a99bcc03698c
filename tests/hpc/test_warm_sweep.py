"""Warm starts in a sweep: the store says where each point began, and every road ends there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from dpsolve import RefusedError
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.cluster import worker as desks
from dpsolve.hpc.cluster.messages import RunInfo, TaskOrder
from dpsolve.hpc.cluster.worker import TaskRunner
from dpsolve.hpc.plan.design import Bucket, make_design
from dpsolve.hpc.plan.tasks import Task, cut
from dpsolve.hpc.run.executor import LocalExecutor, numbers_of
from dpsolve.hpc.run.sweep import create_store, resume
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.sharding.batches.solving_order import STRAND
from dpsolve.solvers.library import growth as growth_factory
from dpsolve.solvers.model.factory_signature import signature

from .conftest import Listener, assert_equal_stores, reseal, run


def growth(path: Path, warm: bool | None = True, **changes: Any) -> Sweep:
    """Growth at 4 x 10 points, in two tasks of 20."""
    raw: dict[str, Any] = {
        "model": "growth",
        "fixed": {"continuous": False, "n_k": 20},
        "grid": {
            "beta": [0.90, 0.91, 0.92, 0.93],
            "alpha": {"from": 0.3, "to": 0.345, "points": 10},
        },
        "solve": {"tol": 1e-8} | ({} if warm is None else {"warm": warm}),
        "store": {"path": str(path), "points_per_task": 20},
    }
    return sweep_from(raw | changes)


def starts(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(xr.open_zarr(path).start)


# -- the order of the points ----------------------------------------------------------------------


WARM: Any = SimpleNamespace(warm=True)  # all that is asked of a program here


def bucket_of(**tables: Any) -> Bucket:
    sweep = sweep_from({"model": "growth", "store": {"path": "x.zarr"}, **tables})
    return make_design(sweep, signature(growth_factory)).buckets[0]


@pytest.mark.parametrize("block", [(1, 1, 2), (1, 2, 4), (1, 3, 4), (2, 3, 4)])
def test_each_step_along_the_axes_is_one_along_one_of_them(block: tuple[int, ...]) -> None:
    shape = (2, 3, 4)
    bucket = bucket_of(
        grid={"beta": [0.8, 0.9], "delta": [0.1, 0.2, 0.3], "alpha": [0.2, 0.3, 0.4, 0.5]}
    )
    for task in cut(shape, block):
        order = numbers_of(WARM, bucket, task)
        np.testing.assert_array_equal(np.sort(order), np.arange(task.start, task.stop))
        at = np.array(np.unravel_index(order, shape))
        assert (np.abs(np.diff(at, axis=1)).sum(axis=0) == 1).all()


def test_points_of_a_sample_are_followed_from_nearest_to_nearest() -> None:
    ranges = {"beta": {"from": 0.9, "to": 0.97}, "delta": {"from": 0.02, "to": 0.2}}
    bucket = bucket_of(sample={"method": "sobol", "points": 64, "seed": 1, **ranges})
    order = numbers_of(WARM, bucket, Task(0, 0, 16, 64, (0,), (48,)))
    np.testing.assert_array_equal(np.sort(order), np.arange(16, 64))

    def way(numbers: Any) -> float:
        at = np.stack([values[numbers] for _, values in bucket.parameters.values()], axis=1)
        return float(np.linalg.norm(np.diff(at / np.ptp(at, axis=0), axis=0), axis=1).sum())

    assert way(order) < 0.4 * way(np.arange(16, 64))


# -- what the store holds -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_store_says_where_each_point_started(tmp_path: Path) -> None:
    warm, cold = growth(tmp_path / "w.zarr"), growth(tmp_path / "c.zarr", warm=False)
    assert run(warm).solved == run(cold).solved == 40
    found, other = (xr.open_zarr(sweep.store.path) for sweep in (warm, cold))
    assert "start" not in other
    # Rows turn back: 0..9, then 19..10, in strands of eight; the second task begins at 20.
    order = [*range(10), *range(19, 9, -1)]
    expected = np.full(20, -1)
    for place in range(20):
        if place % STRAND:
            expected[order[place]] = order[place - 1]
    both = np.concatenate([expected, np.where(expected < 0, -1, expected + 20)])
    np.testing.assert_array_equal(starts(tmp_path / "w.zarr").ravel(), both)
    assert found.iterations.sum() < other.iterations.sum()
    assert np.abs(found.value - other.value).max() <= 2e-8
    assert (found.lower <= other.upper).all()
    assert (other.lower <= found.upper).all()
    assert found.start.attrs["long_name"].startswith("number of the point")


@pytest.mark.slow
def test_whoever_runs_a_task_and_in_whatever_portions_the_store_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"fixed": {"continuous": False, "n_k": 400}}  # one point at a time
    whole = growth(tmp_path / "whole.zarr", **large)
    run(whole)
    # One task by itself, the last first; the other by a worker's desk, strand by strand.
    parts = growth(tmp_path / "parts.zarr", **large)
    store = create_store(parts, resolve("growth"))
    assert len([*LocalExecutor().run(store, [store.tasks[1]], print)]) == 1
    monkeypatch.setattr(desks, "PORTIONS", 10**6)
    monkeypatch.setattr("dpsolve.sharding.devices.threads.cores", lambda: 1)
    monkeypatch.setattr("dpsolve.sharding.batches.program.Program.workers", 1)
    runner = TaskRunner(RunInfo(store=str(store.path), topic=""))
    program = runner._compiled(store.tasks[0], 0, lambda _: None)[0]
    assert program.lanes == 1
    assert [*desks._portions(store.tasks[0], program)] == [(0, 8), (8, 16), (16, 20)]
    runner.perform(TaskOrder(id="", task=0), lambda _: None)
    assert_equal_stores(tmp_path / "whole.zarr", tmp_path / "parts.zarr")


@pytest.mark.slow
def test_a_store_goes_on_as_it_was_begun(tmp_path: Path, listener: Listener) -> None:
    """A store of an older version, or by another rule, has no starts: its points start cold."""
    cold, other = growth(tmp_path / "cold.zarr", warm=None), growth(tmp_path / "other.zarr", None)
    run(cold)
    assert "start" not in xr.open_zarr(cold.store.path)
    store = create_store(other, resolve("growth"))
    metadata = store.path / "zarr.json"
    root = json.loads(metadata.read_text())
    # As if the default were warm where the store is not.
    root["attributes"]["solve"] = json.dumps(replace(store.options, warm=True).as_dict())
    metadata.write_text(json.dumps(root))
    reseal(store.path)
    assert resume(store.path, progress=listener).solved == 40
    np.testing.assert_array_equal(
        xr.open_zarr(cold.store.path).iterations, xr.open_zarr(other.store.path).iterations
    )


def test_the_other_kind_of_start_is_another_sweep(tmp_path: Path) -> None:
    create_store(growth(tmp_path / "w.zarr"), resolve("growth"))
    with pytest.raises(RefusedError, match=r"solve\.warm"):
        create_store(growth(tmp_path / "w.zarr", warm=False), resolve("growth"))
    again = create_store(growth(tmp_path / "w.zarr"), resolve("growth"))
    assert "start" in again.buckets[0].results


def test_one_flag_turns_it_off_and_on(tmp_path: Path) -> None:
    def plan(*words: str) -> str:
        line = ["plan", "growth", "--set=continuous=false", "--grid=beta=0.9:0.95:40", *words]
        found = CliRunner().invoke(cli, [*line, "--no-probe", "--store", str(tmp_path / "x.zarr")])
        assert found.exit_code == 0, found.output
        return found.output

    assert "start" not in plan("--set", "n_k=30")
    assert "start" in plan("--set", "n_k=30", "--warm")
    assert "start" in plan("--set", "n_k=600")
    assert "start" not in plan("--set", "n_k=600", "--cold")


@pytest.mark.slow
def test_a_point_by_itself_has_nothing_to_start_from(tmp_path: Path) -> None:
    sweep = growth(tmp_path / "one.zarr", grid={"beta": [0.9]})
    store = create_store(sweep, resolve("growth"))
    assert "start" not in store.buckets[0].results
    assert open_store(store.path).options.warm is True
    assert run(sweep).solved == 1


# -- compiling ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("warm", [True, False])
def test_a_sweep_compiles_once_for_each_set_of_sizes(
    tmp_path: Path, warm: bool, caplog: pytest.LogCaptureFixture, listener: Listener
) -> None:
    caplog.set_level("INFO", "dpsolve")
    sizes = [23, 24] if warm else [25, 26]
    sweep = growth(
        tmp_path / "sizes.zarr",
        warm=warm,
        fixed={"continuous": False},
        grid={"n_k": sizes, "beta": {"from": 0.9, "to": 0.93, "points": 24}},
        store={"path": str(tmp_path / "sizes.zarr"), "points_per_task": 8},
    )
    outcome = run(sweep, listener)
    assert outcome.solved == 48
    # Others say so when they trace for shapes.
    told = [r.getMessage() for r in caplog.records if r.module == "rounds"]
    assert told == [f"compiling growth(n_k={n}, continuous=False)" for n in sizes]
    assert 0 < outcome.compile_seconds < outcome.seconds
    assert sum(note.startswith("compiled growth") for note in listener.notes) == 2
