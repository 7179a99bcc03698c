"""Threads that run batches side by side: everything is done, and the first error is raised."""

import threading

import pytest

from dpsolve.sharding.threads import side_by_side


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
