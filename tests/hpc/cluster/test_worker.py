"""What a worker does with a task that another one commits meanwhile; and versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dpsolve.hpc.cluster.messages import RunInfo, TaskOrder
from dpsolve.hpc.cluster.worker import ShutdownRequested, TaskRunner
from dpsolve.hpc.run.sweep import create_store
from dpsolve.hpc.store.buckets import Dropped
from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.failed_points import write_failed
from dpsolve.hpc.store.store import Store
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.hpc.sweep_file.model_source import resolve


@pytest.fixture
def store(toy_sweep: Callable[..., Sweep]) -> Store:
    sweep = toy_sweep()
    return create_store(sweep, resolve(sweep.model))


def run_info(store: Store) -> RunInfo:
    return RunInfo(str(store.path), "a topic")


def nothing(report: dict[str, Any]) -> None:
    pass


def test_a_task_is_committed_once_however_late_a_worker_held_for_dead_writes(store: Store) -> None:
    """The second one commits after the first one has looked whether somebody did."""
    stopped, other = TaskRunner(run_info(store)), TaskRunner(run_info(store))
    write = stopped.store.write_task

    def late(*given: Any) -> Any:
        other.perform(TaskOrder("another attempt", 1), nothing)
        return write(*given)

    object.__setattr__(stopped.store, "write_task", late)
    report = stopped.perform(TaskOrder("an attempt", 1), nothing)
    assert not report["computed"]
    events = [event.what for event in read_events(store) if event.task == 1]
    assert events.count("committed") == 1
    assert events[-1] == "dropped"
    assert store.receipts()[1].solved == 1


def test_a_damaged_commit_is_replaced(store: Store) -> None:
    runner = TaskRunner(run_info(store))
    file = store.buckets[0].file("status", store.tasks[0])
    file.write_bytes(b"not zarr's")
    assert runner.perform(TaskOrder("an attempt", 0), nothing)["computed"]
    assert store.receipts()[0].solved == 1


def test_points_that_were_solved_after_all_are_not_marked_failed(store: Store) -> None:
    TaskRunner(run_info(store)).perform(TaskOrder("an attempt", 2), nothing)
    receipt = write_failed(store, 2, "its worker was lost (5 times)")
    assert isinstance(receipt, Dropped)
    assert (receipt.solved, receipt.failed) == (1, 0)
    message = store.buckets[0].record("message", store.tasks[2])
    assert message is not None
    assert not np.any(message == "its worker was lost (5 times)")


def test_nothing_is_begun_for_a_run_that_is_over(store: Store) -> None:
    runner = TaskRunner(run_info(store))
    runner.over.set()
    with pytest.raises(ShutdownRequested):
        runner.perform(TaskOrder("an attempt", 0), nothing)


def test_a_worker_with_other_versions_than_the_driver_says_which(store: Store) -> None:
    from dpsolve.hpc.cluster.worker_plugin import _other_versions

    ours = run_info(store)
    assert _other_versions(ours) == ""
    other = replace(ours, versions=(*ours.versions[:1], ("jax", "0.1")))
    assert ", and the driver 0.1" in _other_versions(other)
