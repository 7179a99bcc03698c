"""Threads that run batches side by side: everything is done, and the first error is raised."""

import os
import threading

import jax
import pytest

import dpsolve as dp
from dpsolve.sharding.devices.threads import cores, side_by_side


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_item_is_done_once(workers: int) -> None:
    done: list[int] = []
    side_by_side(done.append, range(50), workers)
    assert sorted(done) == list(range(50))


def test_items_run_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=10)
    side_by_side(lambda _: together.wait() and None, range(2), 2)


def test_an_error_is_raised_and_ends_the_rest() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("item 3")
        done.append(item)

    with pytest.raises(ValueError, match="item 3"):
        side_by_side(work, range(100_000), 2)
    assert len(done) < 100_000


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_where_no_affinity_is_told_points_and_agents_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS, with its one device."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    assert cores() == os.cpu_count()
    many = dp.solve_many("cake", {"beta": [0.9, 0.95], "n_x": 12})
    assert list(many.status) == ["solved", "solved"]
    panel = dp.simulate(many.point(0), 1, agents=3, periods=4)
    assert panel.to_xarray().x.shape == (3, 4)
