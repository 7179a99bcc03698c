"""Failed points are computed once more when a user asks for it, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import resume
from dpsolve.hpc.store.event_log import Event, read_events
from dpsolve.hpc.store.failed_points import write_failed
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep

from ..conftest import assert_equal_stores, done_twice, run


@pytest.fixture
def path(toy_sweep: Callable[..., Sweep]) -> Path:
    """A store of three tasks, one of which was given up."""
    outcome = run(toy_sweep())
    store = open_store(outcome.path)
    store.buckets[0].file("status", store.tasks[1]).unlink()
    write_failed(store, 1, "no such package")
    return outcome.path


def test_a_resume_leaves_failed_points_alone_unless_it_is_told_otherwise(
    path: Path, toy_sweep: Callable[..., Sweep]
) -> None:
    left = resume(path, progress=Silent())
    assert (left.solved, left.failed, left.computed) == (2, 1, 0)
    again = resume(path, progress=Silent(), retry_failed=True)
    assert (again.solved, again.failed, again.computed) == (3, 0, 1)
    assert_equal_stores(path, run(toy_sweep("undisturbed.zarr")).path)
    assert [(e.what, e.task) for e in read_events(open_store(path))] == [("retried", 1)]


def test_a_sweep_computes_them_once_more_as_well(
    path: Path, toy_sweep: Callable[..., Sweep]
) -> None:
    assert run(toy_sweep()).failed == 1
    assert run(toy_sweep(), retry_failed=True).failed == 0
    assert run(toy_sweep(), retry_failed=True).computed == 0


def test_a_commit_taken_back_is_no_work_done_twice() -> None:
    whats = ["started", "committed", "retried", "started", "committed"]
    events = [Event(float(i), "w", what, {"task": 1}) for i, what in enumerate(whats)]
    assert done_twice(events) == []
    assert done_twice([*events, Event(9.0, "w", "started", {"task": 1})])
