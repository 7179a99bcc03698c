"""Seconds spent on compiling, told apart from seconds of solving.

A call compiles when its sizes or options are new, and then tracing, lowering and compiling take
many times what the solve does. They are told apart, because they are paid once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from jax import monitoring

COMPILING = "/jax/core/compile/backend_compile_duration"
EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    COMPILING,
)


@dataclass(eq=False)
class Clock:
    """What was spent on compiling, in this thread, since the clock was started.

    Attributes
    ----------
    programs : int
        How many were compiled, or read from a cache of compiled programs.
    """

    programs: int = 0
    _spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds spent."""
        return sum(end - start for start, end in self._spans)

    def hear(self, event: str, duration: float) -> None:
        """Count what has just ended. It may hold others, which were told before it."""
        if event not in EVENTS:
            return
        self.programs += event == COMPILING
        end = time.perf_counter()
        start = end - duration
        while self._spans and self._spans[-1][1] > start:
            start = min(start, self._spans.pop()[0])
        self._spans.append((start, end))


_own = threading.local()


@contextmanager
def compile_clock() -> Iterator[Clock]:
    """Time what this thread compiles inside the block."""
    _listen()
    open_ = _own.__dict__.setdefault("clocks", [])
    clock = Clock()
    open_.append(clock)
    try:
        yield clock
    finally:
        open_.remove(clock)


@cache
def _listen() -> None:
    monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, duration_secs: float, **_: str | int) -> None:
    for clock in getattr(_own, "clocks", ()):
        clock.hear(event, duration_secs)
