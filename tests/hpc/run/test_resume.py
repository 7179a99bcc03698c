"""Nothing is lost: whatever is killed, the same call ends in the store of an undisturbed run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dpsolve import ModelError, RefusedError
from dpsolve.hpc.run.sweep import create_store, resume
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.verify.audit import metadata_faults
from dpsolve.sharding.batches.program import Program
from dpsolve.sharding.batches.result_arrays import Layout

from ..conftest import BETAS, TOY, Listener, arrays, assert_equal_stores, files, reseal, run

# Runs a sweep in a process of its own, which kills itself (SIGKILL) at the n-th file of its tasks:
# before it is written, in the middle (as a draft), or right after. With n = 0 it lives.
CHILD = """
import json, os, signal, sys, threading
from dpsolve.hpc.store import atomic_files, store, zarr_store
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.hpc.run.sweep import run_sweep

raw, last, moment = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
written, lock = [0], threading.Lock()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counted(original):
    def write(path, pieces):
        if ".draft/" in str(path):
            return original(path, pieces)  # the store comes into being
        with lock:  # one file at a time, so that the moment is the same each time
            written[0] += 1
            if written[0] == last and moment == "before":
                die()
            if written[0] == last and moment == "within":
                atomic_files.os.replace = atomic_files.os.link = lambda *names: die()
            original(path, pieces)
            if written[0] == last and moment == "after":
                die()
    return write

store.write_file = zarr_store.write_file = counted(zarr_store.write_file)
zarr_store.write_once = counted(zarr_store.write_once)
sweep = sweep_from(raw)
outcome = run_sweep(sweep, resolve(sweep.model), progress=Silent(), command="child")
print(outcome.computed, outcome.solved)
"""


def child(sweep: Sweep, last: int, moment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(sweep.as_dict()), str(last), moment],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def growth(path: Path) -> Sweep:
    """Six points in six tasks of the built-in `growth`, whose grid depends on the parameters."""
    return sweep_from(
        {
            "model": "growth",
            "fixed": {"continuous": False, "n_k": 20},
            "grid": {"beta": [0.9, 0.94], "alpha": [0.3, 0.33, 0.36]},
            "solve": {"tol": 1e-8},
            "store": {"path": str(path), "points_per_task": 1},
        }
    )


@pytest.mark.slow
def test_kill_9_again_and_again_ends_in_the_undisturbed_store(tmp_path: Path) -> None:
    undisturbed, killed = growth(tmp_path / "undisturbed.zarr"), growth(tmp_path / "killed.zarr")
    assert run(undisturbed).solved == 6
    rng = np.random.default_rng(20)
    left = 6
    for moment in ("before", "within", "after"):
        last = int(rng.integers(8, 20))  # somewhere in the first or second task: 12 files each
        done = child(killed, last, moment)
        assert done.returncode == -signal.SIGKILL, done.stderr
        committed = len(open_store(killed.store.path).receipts())
        assert committed == 6 - left + (last - (moment != "after")) // 12
        left = 6 - committed
    assert 0 < left < 6
    before = {name: text for name, text in files(tmp_path / "killed.zarr").items()}
    assert any(name.endswith(".partial") for name in before)
    outcome = run(killed)
    assert (outcome.computed, outcome.solved) == (left, 6)
    assert_equal_stores(killed.store.path, undisturbed.store.path)
    unchanged = [n for n, text in files(tmp_path / "killed.zarr").items() if before.get(n) == text]
    assert len([n for n in unchanged if n.startswith("status/c")]) == 6 - left


@pytest.mark.slow
@pytest.mark.parametrize(("last", "moment"), [(18, "within"), (16, "after")])
def test_killed_between_data_and_status_the_task_is_done_again(
    toy_sweep: Callable[..., Sweep], last: int, moment: str
) -> None:
    """A task of `toy` has nine files, the status last: number 18 is the second task's commit."""
    undisturbed, killed = toy_sweep("undisturbed.zarr"), toy_sweep("killed.zarr")
    run(undisturbed)
    done = child(killed, last, moment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    ds = xr.open_zarr(killed.store.path)
    assert ds["status"].values.tolist() == ["solved", "pending", "pending"]
    assert ds["price"].values[1] == 4.0  # the data is there, and proves nothing
    assert run(killed).computed == 2
    assert_equal_stores(killed.store.path, undisturbed.store.path)


@pytest.mark.slow
def test_killed_at_any_instant(cake: Callable[..., Sweep]) -> None:
    """From outside, while it solves and writes: nobody chose the file."""
    points = {"beta": {"from": 0.3, "to": 0.9, "points": 60}}
    undisturbed, killed = (
        cake(name, grid=points, store={"points_per_task": 1}) for name in ("a.zarr", "b.zarr")
    )
    run(undisturbed)
    command = [sys.executable, "-c", CHILD, json.dumps(killed.as_dict()), "0", ""]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    status = Path(killed.store.path) / "status"
    started = time.monotonic()
    while not (status.is_dir() and len([*status.iterdir()]) > 20):
        assert time.monotonic() - started < 60
        assert process.poll() is None, process.stderr
        time.sleep(0.002)
    process.kill()
    process.communicate()
    committed = sum(r.solved for r in open_store(killed.store.path).receipts().values())
    assert 0 < committed < 60
    outcome = run(killed)
    assert (outcome.computed, outcome.solved) == (60 - committed, 60)
    assert_equal_stores(killed.store.path, undisturbed.store.path)


def test_a_finished_store_is_left_alone(cake: Callable[..., Sweep], listener: Listener) -> None:
    sweep = cake()
    run(sweep)
    before = files(Path(sweep.store.path))
    outcome = run(sweep, listener)
    assert (outcome.computed, outcome.solved, outcome.exit_code) == (0, 6, 0)
    assert listener.begun == (6, 6)
    assert files(Path(sweep.store.path)) == before


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"solve": {"tol": 1e-6}}, "solve.tol: the store has 1e-08, this call asks for 1e-06"),
        ({"solve": {"tol": 1e-8, "method": "vi"}},
         "solve.method: the store has auto, this call asks for vi"),
        ({"grid": {"beta": [*BETAS, 0.96]}},
         "parameter beta: the store has [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], this call asks for "
         "7 values from 0.5 to 0.96"),
        ({"grid": {"beta": [0.5, 0.6, 0.7, 0.8, 0.91, 0.95]}}, "0.8, 0.91, 0.95]"),
        ({"fixed": {"n_x": 13}}, "size n_x: the store has 12, this call asks for 13"),
        ({"store": {"keep": ["value"]}},
         "keep: the store has lower, policy_x_next, upper, value, this call asks for value"),
        ({"grid": {}, "zip": {"beta": BETAS}},
         "dimensions: the store has beta, this call asks for point"),
        ({"fixed": {}, "grid": {"beta": BETAS, "n_x": [12, 14]}},
         "sizes: the store has n_x=12, horizon=None, this call asks for n_x=12, n_x=14"),
        ({"model": "growth", "fixed": {"continuous": False}},
         "model: the store has cake, this call asks for growth"),
    ],
)  # fmt: skip
def test_another_sweep_is_refused_with_the_difference(
    cake: Callable[..., Sweep], changed: dict[str, Any], line: str
) -> None:
    sweep = cake()
    run(sweep)
    before = files(Path(sweep.store.path))
    with pytest.raises(RefusedError) as caught:
        run(cake(**changed))
    message = str(caught.value)
    assert line in message
    assert "--store" in message
    assert f"({sweep.store.path}): --overwrite" in message
    assert files(Path(sweep.store.path)) == before


def test_other_values_are_refused_even_if_their_ends_agree(cake: Callable[..., Sweep]) -> None:
    run(cake(grid={"beta": {"from": 0.1, "to": 0.9, "points": 9}}))
    moved = [0.1, 0.2, 0.3, 0.4, 0.55, 0.6, 0.7, 0.8, 0.9]
    with pytest.raises(RefusedError, match=r"number 5 0\.5, .* number 5 0\.55"):
        run(cake(grid={"beta": moved}))


def test_another_parameter_that_stays_put_is_refused(toy_sweep: Callable[..., Sweep]) -> None:
    run(toy_sweep(fixed={"b": 3.0}))
    with pytest.raises(RefusedError, match=r"fixed b: the store has 3\.0, this call asks for 2\.0"):
        run(toy_sweep())


def test_another_data_type_is_refused(
    toy_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(toy_sweep())
    original = Program.layout

    def single(self: Program, *arguments: Any) -> Layout:
        layout = original(self, *arguments)
        price = replace(layout.variables["price"], dtype="float32")
        return replace(layout, variables=layout.variables | {"price": price})

    monkeypatch.setattr(Program, "layout", single)
    with pytest.raises(
        RefusedError, match="dtype of price: the store has float64, this call asks for float32"
    ):
        run(toy_sweep())


def test_the_same_sweep_in_other_words_is_resumed(cake: Callable[..., Sweep]) -> None:
    run(cake())
    other = cake(
        grid={"beta": tuple(BETAS)},
        solve={"tol": 1e-8, "method": "auto"},
        store={"points_per_task": 3, "keep": ["policy", "upper", "lower", "value"]},
    )
    assert run(other).computed == 0


def test_an_edited_model_is_refused_and_the_lines_are_shown(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = toy_sweep()
    run(sweep)
    (tmp_path / "toy.py").write_text(TOY.replace("a * b,", "a / b,"), encoding="utf-8")
    with pytest.raises(RefusedError) as caught:
        run(sweep)
    message = str(caught.value)
    assert "model source (sha256): the store has" in message
    assert '-    return {"price": a * b,' in message
    assert '+    return {"price": a / b,' in message


def test_a_store_goes_on_by_itself_without_the_model_file(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep, undisturbed = toy_sweep(), toy_sweep("undisturbed.zarr")
    run(undisturbed)
    run(sweep)
    for status in [*(Path(sweep.store.path) / "status").glob("c.[12]")]:
        status.unlink()
    (tmp_path / "toy.py").write_text("raise SystemExit", encoding="utf-8")
    outcome = resume(sweep.store.path, progress=Listener())
    assert (outcome.computed, outcome.solved) == (2, 3)
    assert_equal_stores(sweep.store.path, undisturbed.store.path)


def test_a_broken_model_file_does_not_resume(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = toy_sweep()
    run(sweep)
    (tmp_path / "toy.py").write_text("def toy(a=1.0:", encoding="utf-8")
    before = files(Path(sweep.store.path))
    with pytest.raises(ModelError):
        run(sweep)
    assert files(Path(sweep.store.path)) == before


def test_another_version_of_jax_is_told_and_not_refused(
    toy_sweep: Callable[..., Sweep], listener: Listener
) -> None:
    sweep = toy_sweep()
    run(sweep)
    root = Path(sweep.store.path) / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["jax_version"] = "0.1.2"
    root.write_text(json.dumps(document))
    reseal(root.parent)
    (Path(sweep.store.path) / "status" / "c.1").unlink()
    assert run(sweep, listener).computed == 1
    assert any("begun with jax 0.1.2" in note for note in listener.notes)
    assert any("2 of 3 tasks are committed" in note for note in listener.notes)


def recorded(path: str, certificate: str | None) -> None:
    """Write into a store how an earlier version would have recorded the option."""
    root = Path(path) / "zarr.json"
    document = json.loads(root.read_text())
    solve = json.loads(document["attributes"]["solve"])
    solve.pop("certificate", None)
    given = {} if certificate is None else {"certificate": certificate}
    document["attributes"]["solve"] = json.dumps(solve | given)
    root.write_text(json.dumps(document))
    reseal(path)


@pytest.mark.parametrize("certificate", ["auto", "full"])
def test_a_default_that_was_recorded_once_is_no_difference(
    cake: Callable[..., Sweep], certificate: str
) -> None:
    sweep = cake()
    run(sweep)
    recorded(sweep.store.path, certificate)
    store = open_store(sweep.store.path)
    assert store.options.certificate == "full"
    assert list(metadata_faults(store)) == []
    assert run(sweep).computed == 0


def test_a_store_that_was_to_sample_unasked_goes_on_with_full_certificates(
    tmp_path: Path,
) -> None:
    sweep = sweep_from({
        "model": "savings",
        "fixed": {"continuous": False, "n_a": 300, "n_z": 2},
        "grid": {"beta": [0.9, 0.95]},
        "solve": {"tol": 1e-6, "certificate": "sampled", "sample": 20},
        "store": {"path": str(tmp_path / "s.zarr"), "points_per_task": 1},
    })  # fmt: skip
    create_store(sweep, resolve("savings"))
    recorded(sweep.store.path, None)
    assert resume(sweep.store.path, progress=Listener()).solved == 2
    assert xr.open_zarr(sweep.store.path)["certificate"].values.tolist() == [0, 0]


def test_only_uncommitted_tasks_are_touched(cake: Callable[..., Sweep]) -> None:
    sweep = cake()
    run(sweep)
    path = Path(sweep.store.path)
    (path / "status" / "c.1").unlink()
    before = {p: p.stat().st_mtime_ns for p in path.rglob("c.*")}
    reference = arrays(path)
    assert run(sweep).computed == 2
    after = {p: p.stat().st_mtime_ns for p in path.rglob("c.*")}
    written = {p.name for p in after if after[p] != before.get(p)}
    assert written == {"c.1", "c.1.0"}
    assert (arrays(path)["value"] == reference["value"]).all()
    assert resolve("cake").sha256 == open_store(path).source.sha256
