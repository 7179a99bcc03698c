"""Sentences for whoever waits: what is compiled and about how long, how far a long call is.

They go to the logger ``dpsolve.waiting``, which writes to standard error;
``logging.getLogger("dpsolve.waiting").setLevel("WARNING")`` silences it. A sweep listens itself,
and shows them beside its progress.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Listener = Callable[[str], None]

FIRST, EVERY = 5.0, 10.0  # seconds until a long call is told of, and between two lines

_listeners: list[Listener] = []


class _StandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is when a sentence comes: notebooks and tests replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _logger() -> logging.Logger:
    log = logging.getLogger("dpsolve.waiting")
    if not log.handlers:
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("dpsolve: %(message)s"))
        log.addHandler(handler)
        log.propagate = False
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    return log


def tell(text: str) -> None:
    """Say a sentence to whoever listens."""
    if _listeners:
        _listeners[-1](text)
    else:
        _logger().info("%s", text)


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Let somebody else hear what is told inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Countdown:
    """Tells how far a long call is: after some seconds, and then now and again.

    Parameters
    ----------
    what : str
        The call.
    total : int
        Points in all.
    clock : function
        Seconds that pass.
    """

    def __init__(self, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.total, self._clock = what, total, clock
        self._begun = clock()
        self._next = self._begun + FIRST
        self._lock = threading.Lock()

    def __call__(self, done: int) -> None:
        """Count: so many points are done."""
        with self._lock:
            now = self._clock()
            if now < self._next or not 0 < done < self.total:
                return
            self._next = now + EVERY
            left = (now - self._begun) * (self.total - done) / done
        tell(f"{self.what}: {done:,} of {self.total:,} points, about {in_words(left)} left")


def in_words(seconds: float) -> str:
    """Return about how long that is: ``3 s``, ``2 min``, ``1.5 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
