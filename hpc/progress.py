"""Progress and remaining time: a bar on a terminal, timed lines in a log.

The sweep tells a :class:`Progress` what happened and knows nothing of terminals. The lines are
rate-limited, because a batch job's log is read once, at the end, by a person.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from dpsolve.hpc.terminal_text import printable


class Progress(Protocol):
    """What a sweep reports while it runs."""

    def start(self, total: int, done: int) -> None:
        """Begin: `total` points in the sweep, of which `done` were committed before."""

    def note(self, text: str) -> None:
        """Say one sentence (compiling, resuming, ...)."""

    def jobs(self, text: str) -> None:
        """Say how the workers or jobs stand; called often, with the same words or others."""

    def advance(self, solved: int, inexact: int, failed: int) -> None:
        """Count points that were just committed."""

    def stop(self) -> None:
        """End, whether finished or interrupted. Safe to call twice."""


class Silent:
    """Reports nothing: for use from Python."""

    def start(self, total: int, done: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def jobs(self, text: str) -> None:
        """Ignore."""

    def advance(self, solved: int, inexact: int, failed: int) -> None:
        """Ignore."""

    def stop(self) -> None:
        """Ignore."""


class _Tally:
    """The counts of one run and what follows from them: share, rate, remaining time.

    The rate counts only the points of this run, so that a resumed sweep does not claim the speed
    of its past; and only the time after the notes before the first of them, so that compiling
    does not inflate the remaining time.
    """

    def __init__(self, total: int, done: int, clock: Callable[[], float]) -> None:
        self.total = total
        self.before = done
        self.solved = self.inexact = self.failed = 0
        self._clock = clock
        self._begun = clock()

    @property
    def now(self) -> int:
        return self.solved + self.inexact + self.failed

    @property
    def done(self) -> int:
        return self.before + self.now

    @property
    def rate(self) -> float:
        elapsed = self._clock() - self._begun
        return self.now / elapsed if elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        rate = self.rate
        return (self.total - self.done) / rate if rate > 0 else None

    def add(self, solved: int, inexact: int, failed: int) -> None:
        self.solved += solved
        self.inexact += inexact
        self.failed += failed

    def noted(self) -> None:
        if not self.now:
            self._begun = self._clock()

    def counts(self) -> str:
        return f"{self.solved} solved, {self.inexact} inexact, {self.failed} failed"

    def __str__(self) -> str:
        share = 100.0 * self.done / self.total if self.total else 100.0
        text = f"{self.done}/{self.total} points ({share:.0f}%): {self.counts()}"
        if self.before:
            text += f" (and {self.before} from before)"
        if self.now:
            text += f"; {rate_of(self.rate)}"
        if self.remaining and self.done < self.total:
            text += f", {span(self.remaining)} left"
        return text


class Lines:
    """Plain lines with a time stamp, at most one every `every` seconds and one at the end."""

    def __init__(
        self,
        stream: TextIO | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self._last = clock()
        self._tally: _Tally | None = None
        self._told = -1
        self._jobs = self._jobs_told = ""

    def start(self, total: int, done: int) -> None:
        """Announce the size of the sweep."""
        self._tally = _Tally(total, done, self._clock)
        self._last = self._clock()
        before = f", {done} of them committed before" if done else ""
        self._write(f"{total} points{before}")

    def note(self, text: str) -> None:
        """Write the sentence."""
        self._write(printable(text, lines=True))
        if self._tally is not None:
            self._tally.noted()

    def jobs(self, text: str) -> None:
        """Write the first words at once, others with the next line or when the last one is old."""
        first, self._jobs = not self._jobs, text
        due = self._clock() - self._last >= self._every
        if first or (due and text != self._jobs_told):
            self._tell()

    def advance(self, solved: int, inexact: int, failed: int) -> None:
        """Count, and write a line if the last one is old enough."""
        if self._tally is None:
            return
        self._tally.add(solved, inexact, failed)
        if self._clock() - self._last >= self._every:
            self._tell()

    def stop(self) -> None:
        """Write the final counts, once."""
        if self._tally is not None:
            if self._tally.done != self._told:
                self._tell()
            self._tally = None

    def _tell(self) -> None:
        if self._tally is not None:
            self._last, self._told = self._clock(), self._tally.done
            self._jobs_told = self._jobs
            self._write("; ".join(filter(None, (str(self._tally), self._jobs))))

    def _write(self, text: str) -> None:
        print(time.strftime("%H:%M:%S"), text, file=self._stream, flush=True)


class Bar:
    """A live bar: counts by status, rate and remaining time."""

    def __init__(self) -> None:
        self._live: Any = None
        self._task: Any = None
        self._tally: _Tally | None = None

    def start(self, total: int, done: int) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Live

        self._tally = _Tally(total, done, time.monotonic)
        self._live = Live(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TextColumn("{task.fields[pace]}", style="dim"),
            TextColumn("{task.fields[jobs]}", style="dim", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._live.add_task(
            "", total=total, completed=done, counts="", pace="", jobs=""
        )
        self._live.start()

    def note(self, text: str) -> None:
        """Write the sentence above the bar."""
        text = printable(text, lines=True)
        if self._tally is not None:
            self._tally.noted()
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def jobs(self, text: str) -> None:
        """Show the words beside the bar."""
        if self._live is not None:
            self._live.update(self._task, jobs=text)

    def advance(self, solved: int, inexact: int, failed: int) -> None:
        """Count and redraw."""
        if self._tally is None or self._live is None:
            return
        tally = self._tally
        tally.add(solved, inexact, failed)
        left = tally.remaining
        pace = rate_of(tally.rate) + (f", {span(left)} left" if left else "")
        self._live.update(self._task, completed=tally.done, counts=_coloured(tally), pace=pace)

    def stop(self) -> None:
        """Take the bar down."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def progress_for(stream: TextIO | None = None) -> Progress:
    """Return a bar when `stream` (standard error) is a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    return Bar() if stream.isatty() else Lines(stream)


def span(seconds: float) -> str:
    """Return a duration as people say it: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``5 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 else f"{1000 * seconds:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def rate_of(points_per_second: float) -> str:
    """Return a rate with as many digits as mean something."""
    if points_per_second >= 10:
        return f"{points_per_second:,.0f} points/s"
    return f"{points_per_second:.2g} points/s"


def _coloured(tally: _Tally) -> str:
    parts = [f"[green]{tally.solved} solved[/]"]
    parts.append(f"[yellow]{tally.inexact} inexact[/]" if tally.inexact else "0 inexact")
    parts.append(f"[red]{tally.failed} failed[/]" if tally.failed else "0 failed")
    return ", ".join(parts)
