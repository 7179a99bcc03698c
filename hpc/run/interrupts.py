"""Ctrl-C and SIGTERM as a request to end soon.

Python hears signals in its main thread, and there between two of its own instructions. So what may
stay long in compiled code (a compiler, a solve) runs in another thread while the main one waits,
and a process that leaves such a thread behind ends without Python's own ending, which would abort
it (SIGABRT) while the thread is in compiled code.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
"""The exit code of a run that a signal ended."""

T = TypeVar("T")


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


def interruptible(work: Callable[[], T]) -> T:
    """Call something that may stay long in compiled code; Ctrl-C ends the wait at once.

    The work goes on in its thread until the process ends, which should be soon.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    found: list[T] = []
    raised: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            found.append(work())
        except BaseException as error:  # whatever it is, the caller is to see it
            raised.append(error)
        finally:
            ended.set()

    threading.Thread(target=call, daemon=True).start()
    while not ended.wait(timeout=0.2):
        pass
    if raised:
        raise raised[0]
    return found[0]


@contextmanager
def command_interrupts() -> Iterator[None]:
    """Let the first Ctrl-C of a command raise, and the next one end the process."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            end_interrupted()
        raise
    except KeyboardInterrupt:
        end_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def end_interrupted() -> None:
    """End this process at once, whatever its threads are doing."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    atexit._run_exitfuncs()  # what a library wants to put away
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)
