"""A sweep's account of itself, and how it ends when it is interrupted or fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dpsolve import StoreError
from dpsolve.hpc.plan.plan import make_plan
from dpsolve.hpc.run import executor as executors
from dpsolve.hpc.run.executor import LocalExecutor
from dpsolve.hpc.run.interrupts import on_interrupt
from dpsolve.hpc.run.sweep import resume
from dpsolve.hpc.store.create import create
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.sharding.batches.program import Program

from ..conftest import BETAS, Listener, assert_equal_stores, run


def test_an_outcome_counts_every_point(cake: Callable[..., Sweep], listener: Listener) -> None:
    outcome = run(sweep := cake(), listener)
    assert (outcome.solved, outcome.inexact, outcome.failed, outcome.pending) == (6, 0, 0, 0)
    assert (outcome.points, outcome.computed, outcome.tol) == (6, 6, 1e-8)
    assert (outcome.exit_code, outcome.interrupted) == (0, None)
    assert outcome.path == Path(sweep.store.path)
    ds = xr.open_zarr(sweep.store.path)
    assert outcome.error_bound == ds["error_bound"].max().compute() <= 1e-8
    assert 0 <= outcome.compile_seconds < outcome.seconds
    assert 0 < outcome.plan_seconds < outcome.seconds - outcome.compile_seconds
    assert listener.begun == (6, 0)
    assert listener.counts == [6, 0, 0]
    assert listener.stopped


def test_points_that_are_not_solved_are_counted_and_hurt_no_other(
    cake: Callable[..., Sweep],
) -> None:
    outcome = run(cake(grid={"beta": [0.5, 0.9, 1.5, 0.95]}))
    assert (outcome.solved, outcome.failed, outcome.exit_code) == (3, 1, 1)
    ds = xr.open_zarr(outcome.path).load()
    assert ds["status"].values.tolist() == ["solved", "solved", "failed", "solved"]
    assert "discount" in str(ds["message"].values[2])
    assert outcome.error_bound <= 1e-8
    alone = cake("alone.zarr", grid={"beta": [0.5, 0.9, 0.95]})
    run(alone)
    np.testing.assert_array_equal(
        ds["value"].values[[0, 1, 3]], xr.open_zarr(alone.store.path)["value"].values
    )


def test_points_that_end_early_are_inexact_with_the_bounds_they_have(
    cake: Callable[..., Sweep],
) -> None:
    outcome = run(cake(solve={"tol": 1e-10, "method": "vi", "max_iter": 3}, grid={"beta": [0.99]}))
    assert (outcome.inexact, outcome.exit_code) == (1, 1)
    assert 1e-10 < outcome.error_bound < np.inf
    ds = xr.open_zarr(outcome.path)
    assert (ds["lower"] <= ds["upper"]).all().compute()


def test_nothing_is_certified_of_plain_arrays(toy_sweep: Callable[..., Sweep]) -> None:
    outcome = run(toy_sweep())
    assert outcome.solved == 3
    assert np.isnan(outcome.error_bound)


def test_the_program_is_compiled_once_for_each_set_of_sizes(
    toy_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    original = Program.__init__

    def counted(self: Program, *arguments: Any) -> None:
        made.append(1)
        original(self, *arguments)

    monkeypatch.setattr(Program, "__init__", counted)
    sweep = toy_sweep(grid={"n": [6, 7], "a": [1.0, 2.0, 3.0]})
    assert run(sweep).solved == 6
    assert len(made) == 2  # the plan's program is the workers'


def test_a_worker_needs_only_the_path_and_a_number(
    cake: Callable[..., Sweep], fresh_python: Callable[[str], str]
) -> None:
    sweep, undisturbed = cake(), cake("undisturbed.zarr")
    run(undisturbed)
    create(make_plan(sweep, resolve("cake")), "test")
    shown = fresh_python(f"""
from dpsolve.hpc.cluster.worker import TaskRunner
from dpsolve.hpc.cluster.messages import RunInfo, TaskOrder
runner = TaskRunner(RunInfo(store={sweep.store.path!r}, topic=""))
done = [runner.perform(TaskOrder(id="", task=number), lambda _: None) for number in (2, 0)]
print([report["receipt"]["solved"] for report in done])
""")
    assert shown.strip() == "[2, 2]"
    assert run(sweep).computed == 2
    assert_equal_stores(sweep.store.path, undisturbed.store.path)


def test_writing_overlaps_solving_and_never_runs_ahead(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one task is written the next is solved, and no third one waits in memory."""
    log: list[str] = []
    solve, write = executors._solve, executors.Store.write_task

    def logged_solve(store: Any, task: Any, note: Any = None, mesh: str = "auto") -> Any:
        log.append(f"solve {task.id}")
        return solve(store, task, note, mesh)

    def slow_write(self: Any, task: Any, batch: Any) -> Any:
        time.sleep(0.2)
        receipt = write(self, task, batch)
        log.append(f"wrote {task.id}")
        return receipt

    monkeypatch.setattr(executors, "_solve", logged_solve)
    monkeypatch.setattr(executors.Store, "write_task", slow_write)
    run(cake())
    assert log == ["solve 0", "solve 1", "wrote 0", "solve 2", "wrote 1", "wrote 2"]


def test_an_error_in_a_task_is_raised_and_what_is_committed_stays(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    original = Program.run
    calls: list[int] = []

    def failing(self: Program, points: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no more")
        return original(self, points)

    monkeypatch.setattr(Program, "run", failing)
    sweep = cake()
    with pytest.raises(MemoryError, match="no more"):
        run(sweep, listener)
    assert listener.stopped
    assert [*open_store(sweep.store.path).receipts()] == [0]
    assert run(sweep).computed == 4


def test_lack_of_space_is_told_before_it_hurts(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    class Nothing:
        free = 1000  # which compressed results might just fit into

    monkeypatch.setattr("dpsolve.hpc.run.disk_space.shutil.disk_usage", lambda path: Nothing)
    run(cake(), listener)
    assert any("may take up to" in note and "are free at" in note for note in listener.notes)


def test_resume_needs_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        resume(tmp_path / "nowhere.zarr", progress=Listener())


# --- interrupts ----------------------------------------------------------------------------------

# A sweep in a process of its own, whose tasks say when they are solved. What is solved at the end
# is a long compiled program, which nothing interrupts.
CHILD = """
import json, sys, time
from dpsolve.hpc.progress import Lines
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.hpc.run.sweep import run_sweep

sweep = sweep_from(json.loads(sys.argv[1]))
outcome = run_sweep(sweep, resolve(sweep.model), progress=Lines(every=0.0), command="child")
print(outcome.interrupted, outcome.solved, outcome.pending, flush=True)
sys.exit(outcome.exit_code)
"""

SLOW = """
import jax

def slow(a=1.0):
    return {"x": jax.lax.fori_loop(0, (a * 1e9).astype(int), lambda i, x: x * 0.5 + a, a)}
"""


@pytest.fixture
def slow_sweep(tmp_path: Path) -> Sweep:
    """Two quick points, then one that takes minutes."""
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    return sweep_from(
        {
            "model": f"{tmp_path / 'slow.py'}:slow",
            "grid": {"a": [1e-9, 2e-9, 1e3]},
            "store": {"path": str(tmp_path / "slow.zarr"), "points_per_task": 1},
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_within_seconds_and_says_how_to_resume(
    slow_sweep: Sweep, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(slow_sweep.as_dict())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    status = Path(slow_sweep.store.path) / "status" / "c.1"
    started = time.monotonic()
    while not status.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - started < 60
        time.sleep(0.01)
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < executors.GRACE + 3
    assert process.returncode == 130, err
    assert out.split() == [number.name, "2", "1"]
    assert "2 of 3 points are committed" in err
    assert f"dpsolve resume {slow_sweep.store.path}" in err
    assert [*open_store(slow_sweep.store.path).receipts()] == [0, 1]


def test_an_interrupt_between_tasks_keeps_what_is_being_written(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: the signal comes while the first task is written."""
    write = executors.Store.write_task

    def interrupted(self: Any, task: Any, batch: Any) -> Any:
        if task.id == 0:
            signal.raise_signal(signal.SIGINT)  # to this thread: the main one has to notice
            time.sleep(0.5)
        return write(self, task, batch)

    monkeypatch.setattr(executors.Store, "write_task", interrupted)
    before = signal.getsignal(signal.SIGINT)
    outcome = run(sweep := cake())
    assert signal.getsignal(signal.SIGINT) is before
    assert (outcome.interrupted, outcome.exit_code) == ("SIGINT", 130)
    assert (outcome.solved, outcome.pending) == (2, 4)
    assert [*open_store(sweep.store.path).receipts()] == [0]
    monkeypatch.undo()
    assert run(sweep).computed == 4


@pytest.fixture
def own_handler() -> Iterator[list[int]]:
    """The handlers of somebody who runs a sweep from a program of theirs."""
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    yield received
    signal.signal(signal.SIGINT, before)


def test_the_second_interrupt_is_handled_as_outside(own_handler: list[int]) -> None:
    stops: list[int] = []
    with on_interrupt(lambda: stops.append(1)) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert (stops, own_handler, interrupt.name) == ([1], [], "SIGINT")
        signal.raise_signal(signal.SIGINT)
        assert (stops, own_handler) == ([1], [signal.SIGINT])
    signal.raise_signal(signal.SIGINT)
    assert own_handler == [signal.SIGINT] * 2


def test_a_sweep_may_run_outside_the_main_thread(cake: Callable[..., Sweep]) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(run(cake()).solved))
    thread.start()
    thread.join(60)
    assert found == [6]


def test_an_executor_that_is_stopped_beforehand_runs_nothing(
    cake: Callable[..., Sweep],
) -> None:
    sweep = cake(grid={"beta": BETAS[:2]})
    create(make_plan(sweep, resolve("cake")), "test")
    store = open_store(sweep.store.path)
    executor = LocalExecutor()
    executor.stop()
    assert [*executor.run(store, store.tasks, lambda text: None)] == []
    assert store.receipts() == {}
