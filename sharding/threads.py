"""Batches side by side: on a CPU, a small compiled program keeps one core busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

__all__ = ["side_by_side"]


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
