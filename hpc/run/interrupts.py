"""Ctrl-C and SIGTERM as a request to end soon."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether an interrupt came, and which."""

    name: str | None = None


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[Interrupt]:
    """Call `stop` at the first interrupt; the next one is handled as it was outside.

    Only the main thread can listen to signals: elsewhere this does nothing.
    """
    came = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        came.name = signal.Signals(number).name
        stop()

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield came
    finally:
        restore()
