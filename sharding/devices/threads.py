"""Batches side by side on the cores of a CPU; how many cores there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import jax

Found = TypeVar("Found")


def cores() -> int:
    """Return how many cores this process may use: all there are, where the system tells no more."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(work: Callable[[int, Any], Found], items: Iterable[int]) -> Iterator[Found]:
    """Yield ``work(item, device)`` for each item, in order, spread over this process's devices.

    As many items are worked on at a time as there are devices (on a single CPU device: cores), and
    no more are held.
    """
    devices = jax.local_devices()
    workers = len(devices)
    if workers == 1 and devices[0].platform == "cpu":
        workers = cores()
    left = iter(items)
    while now := list(islice(left, workers)):
        found: dict[int, Found] = {}

        def one(i: int, now: list[int] = now, found: dict[int, Found] = found) -> None:
            found[i] = work(now[i], devices[i % len(devices)])

        side_by_side(one, range(len(now)), workers)
        for i in range(len(now)):
            yield found.pop(i)


def side_by_side(work: Callable[[int], None], items: Iterable[int], workers: int) -> None:
    """Call `work` on every item, on some threads; the first error is raised here.

    The threads are daemons, unlike those of ``concurrent.futures``: nothing interrupts a compiled
    program, and a process that was told to end must not wait for one.
    """
    items = list(items)
    if min(workers, len(items)) <= 1:
        for item in items:
            work(item)
        return
    left = iter(items)
    lock = threading.Lock()
    errors: list[BaseException] = []
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            with lock:
                item = next(left, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)
                stopped.set()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # interrupted while waiting: what runs is abandoned, and nothing more is begun
        stopped.set()
    if errors:
        raise errors[0]
