"""Sizes that cannot work are refused at once, with the bytes and the nearest that fits."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dpsolve as dp
from dpsolve import DpsolveError, ModelError, SolveOptions, UsageError
from dpsolve.hpc.cli.main import main
from dpsolve.solvers.inspection import limits
from dpsolve.solvers.inspection.limits import check_time
from dpsolve.solvers.notices import told_to
from dpsolve.solvers.numerics import memory

GIB = 2**30


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand on a machine of 16 GiB, whatever this one is."""
    monkeypatch.chdir(tmp_path)
    for name in ("dpsolve.solvers.numerics.memory", "dpsolve.solvers.inspection.limits",
                 "dpsolve.hpc.plan.limits", "dpsolve.sharding.solve_many"):  # fmt: skip
        monkeypatch.setattr(f"{name}.machine_memory", lambda: 16 * GIB)
    monkeypatch.setattr(limits.os, "cpu_count", lambda: 2)


def cannot(call: Any, *args: Any, **given: Any) -> str:
    with pytest.raises(DpsolveError) as refused:
        call(*args, **given)
    assert isinstance(refused.value, ModelError | UsageError)
    assert not list(Path.cwd().iterdir())
    return str(refused.value)


def test_more_points_than_a_machine_can_lay_out() -> None:
    axis = {"from": 0.5, "to": 0.9, "points": 10**9}
    text = cannot(dp.sweep, "cake", grid={"beta": axis})
    assert "7.45 GiB" in text
    assert "At most 260,000,000 fit" in text
    draws = {"method": "sobol", "points": 10**9, "beta": {"from": 0.5, "to": 0.9}}
    assert "1,000,000,000 points" in cannot(dp.sweep, "cake", sample=draws)


def test_results_that_no_compression_brings_onto_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=73 * GIB))
    axis = {"from": 0.9, "to": 0.98, "points": 10**6}
    text = cannot(
        dp.sweep, "growth", grid={"beta": axis}, fixed={"continuous": False, "n_k": 100_000}
    )
    assert "3.64 TiB before compression (value 745 GiB" in text
    assert "73 GiB are free" in text
    assert "About 19,000 points fit, in place of 1,000,000" in text


def test_one_model_into_a_store_is_held_to_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*sizes: str) -> str:
        sized = [f"--set={size}" for size in ("continuous=false", *sizes)]
        with pytest.raises(SystemExit) as ended:
            main(["solve", "savings", *sized, "--store", "a.zarr"])
        assert ended.value.code == 2
        assert not list(Path.cwd().iterdir())
        return capsys.readouterr().err

    monkeypatch.setattr("dpsolve.sharding.devices.fit.device_memory", lambda: 16 * GIB)
    assert "about 10 days" in refused("n_a=10000000")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert "100 bytes are free" in refused("n_a=20", "n_z=2")


def test_grids_of_which_one_array_is_too_many() -> None:
    for call in (
        lambda: dp.solve("savings", {"continuous": False, "n_a": 10**9}),
        lambda: dp.sweep(
            "savings", grid={"beta": [0.9]}, fixed={"continuous": False, "n_a": 10**9}
        ),
        lambda: dp.grid(0.0, 1.0, 10**9),
        lambda: dp.integers(0, 10**9 - 1).values,
    ):
        text = cannot(call)
        assert "1,000,000,000 points are 7.45 GiB" in text
        assert "At most 89,000,000 points fit" in text
    assert "At most n=23,000 fits" in cannot(dp.rouwenhorst, 10**6, 0.9, 0.1)
    assert "1,000,000 x 1,000,000" in cannot(dp.tauchen, 10**6, 0.9, 0.1)


def test_states_that_do_not_fit_into_memory() -> None:
    sizes = {"continuous": False, "n_a": 10**7, "n_z": 30}
    assert "53.6 GiB, where there are 16 GiB. About 2,900,000 points of a would do" in cannot(
        dp.solve, "savings", sizes
    )


def test_a_certificate_that_takes_days(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"continuous": False, "n_a": 10**7}
    for call in (
        lambda: dp.solve("savings", sizes),
        lambda: dp.sweep("savings", grid={"beta": [0.9, 0.91]}, fixed=sizes),
    ):
        monkeypatch.setattr("dpsolve.sharding.devices.fit.device_memory", lambda: 16 * GIB)
        text = cannot(call)
        assert "about 10 days" in text
        assert "About 3,100,000 points of a would do" in text


def test_a_certificate_that_takes_a_while_is_told_and_not_probed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    with told_to(heard.append):
        check_time({"a": 200_000, "z": 7}, 200_000, SolveOptions(), "savings")
        check_time({"a": 200, "z": 7}, 200, SolveOptions(), "savings")
    assert heard == ["certifying savings looks at 280,000,000,000 pairs, about 6 min a point"]
    monkeypatch.setattr("dpsolve.hpc.plan.cost_estimate.PROBE_MOST", 0.0)
    with pytest.raises(SystemExit):
        main(["plan", "savings", "--set=continuous=false", "--set=n_a=50", "--grid=beta=0.9,0.91"])
    assert "nothing was probed" in capsys.readouterr().out


def test_a_probe_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "growth", "--set=continuous=false", "--set=n_k=10", "--grid=beta=0.9,1.2"])
    assert "failed      1 of the 2 probed points: " in capsys.readouterr().out


def test_results_of_many_points_that_do_not_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpsolve.sharding.solve_many.machine_memory", lambda: 10_000)
    text = cannot(dp.solve_many, "cake", {"beta": np.linspace(0.5, 0.9, 100), "n_x": 12})
    assert "points fit; dp.sweep puts results into a store" in text


def test_paths_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"initial": (("a", 0.0),), "periods": 10**9}
    text = cannot(dp.solve, "savings", {"continuous": False, "n_a": 10, "n_z": 2}, **asked)
    assert "298 GiB of it for what is asked for beside the value" in text
    solution = dp.solve("savings", {"continuous": False, "n_a": 10, "n_z": 2})
    monkeypatch.setattr("dpsolve.solvers.distributions.path.machine_memory", lambda: 16 * GIB)
    text = cannot(dp.path, solution, {"a": 0.0}, periods=10**9)
    assert "takes 149 GiB" in text
    assert "At most 100,000,000 periods fit" in text


def test_a_number_is_cut_to_two_digits() -> None:
    assert [memory.round_down(x) for x in (0.2, 7, 123, 98_765)] == [1, 7, 120, 98_000]
