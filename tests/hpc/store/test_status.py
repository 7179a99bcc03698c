"""The state of a store, told by a process that loads nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dpsolve import StoreError
from dpsolve.hpc.plan.plan import make_plan
from dpsolve.hpc.store.create import create
from dpsolve.hpc.store.status import Failure, read_status
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.hpc.sweep_file.model_source import resolve

from ..conftest import files, run

HEAVY = ("jax", "xarray", "zarr", "dask", "distributed", "scipy", "pandas", "matplotlib")


def test_status_counts_what_xarray_shows(cake: Callable[..., Sweep]) -> None:
    sweep = cake(grid={"beta": [0.5, 1.5, 0.9, 2.5, 0.95]})
    run(sweep, command="dpsolve sweep cake.toml")
    status = read_status(sweep.store.path)
    ds = xr.open_zarr(sweep.store.path).load()
    words = ds["status"].values.tolist()
    assert (status.solved, status.failed) == (3, 2)
    assert (words.count("solved"), words.count("failed")) == (3, 2)
    assert (status.inexact, status.pending, status.points) == (0, 0, 5)
    assert (status.tasks, status.committed) == (3, 3)
    assert status.error_bound == ds["error_bound"].where(ds["status"] == "solved").max()
    assert (status.model, status.tol) == ("cake", 1e-8)
    assert status.command == "dpsolve sweep cake.toml"
    assert status.last_commit == pytest.approx(
        max(p.stat().st_mtime for p in (Path(sweep.store.path) / "status").glob("c.*"))
    )


def test_failures_are_told_once_each_with_their_parameters(cake: Callable[..., Sweep]) -> None:
    sweep = cake(grid={"beta": [0.5, 1.5, 0.9, 2.5, 0.95]})
    run(sweep)
    failures = read_status(sweep.store.path).failures
    messages = xr.open_zarr(sweep.store.path)["message"].values.tolist()
    assert [f.message for f in failures] == [*dict.fromkeys(m for m in messages if m)]
    assert sum(f.count for f in failures) == 2
    assert failures[0].parameters == {"beta": 1.5}
    assert failures[0].status == "failed"
    assert "beta=1.5" in str(failures[0])


def test_a_failure_is_named_as_everywhere_by_its_group_and_its_parameters() -> None:
    where = {"group": "n_k=100", "beta": 0.9123456789}
    several = Failure("failed", "why", 3, where)
    assert str(several) == "failed: why (at n_k=100, beta=0.9123456789, and 2 more)"
    assert str(Failure("failed", "why", 1, {})) == "failed: why"


def test_a_sweep_that_is_not_finished_says_how_to_go_on(cake: Callable[..., Sweep]) -> None:
    sweep = cake()
    create(make_plan(sweep, resolve("cake")), "dpsolve sweep")
    begun = read_status(sweep.store.path)
    assert (begun.pending, begun.committed, begun.last_commit) == (6, 0, None)
    assert np.isnan(begun.error_bound)
    run(sweep)
    (Path(sweep.store.path) / "status" / "c.2").unlink()
    status = read_status(sweep.store.path)
    assert (status.solved, status.pending, status.committed) == (4, 2, 2)
    assert f"dpsolve resume {sweep.store.path}" in str(status)
    assert "2 of 3 committed" in str(status)
    assert "worst certified error" in str(status)


def test_every_group_is_told(toy_sweep: Callable[..., Sweep]) -> None:
    sweep = toy_sweep(grid={"n": [2, 4], "a": [1.0, 2.0]})
    run(sweep)
    (Path(sweep.store.path) / "n=4" / "status" / "c.1").unlink()
    status = read_status(sweep.store.path)
    assert [(g.group, g.solved, g.pending) for g in status.groups] == [("n=2", 2, 0), ("n=4", 1, 1)]
    assert "n=4: 1 solved, 0 inexact, 0 failed, 1 pending" in str(status)
    assert "nothing is certified: the factory states no error_bound" in str(status)


def test_status_loads_nothing_heavy_and_changes_nothing(
    cake: Callable[..., Sweep], fresh_python: Callable[[str], str]
) -> None:
    sweep = cake(grid={"beta": [0.5, 1.5]})
    run(sweep)
    before = files(Path(sweep.store.path))
    shown = fresh_python(f"""
import sys
from dpsolve.hpc.store.status import Failure, read_status
print(read_status({sweep.store.path!r}))
print("heavy:", *sorted({{*{HEAVY}}} & {{*sys.modules}}))
""")
    assert "1 solved, 0 inexact, 1 failed" in shown
    assert shown.splitlines()[-1].split() == ["heavy:"]
    assert files(Path(sweep.store.path)) == before


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a store of dpsolve"):
        read_status(tmp_path)
