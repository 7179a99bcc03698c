"""Which job's log tells of which task: ``dpsolve logs``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.store.event_log import Event, read_events
from dpsolve.hpc.terminal_text import printable

from .job_paths import logs_folder

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store


MOST_READ = 2**26
"""Bytes of a log's end that are looked at."""

BAD = frozenset({"error", "lost", "memory", "give up", "stop"})


@dataclass(frozen=True)
class Attempt:
    """One time that a worker began a task.

    Attributes
    ----------
    task : int
    job, writer : str
        The SLURM job and the worker.
    log : Path or None
        The log of that job, if there is one.
    ended : str
        How it ended: ``committed``, ``error``, ``lost``, ... with what was said; or ``running``.
    failed : bool
        Whether it ended badly.
    """

    task: int
    job: str
    writer: str
    log: Path | None
    ended: str
    failed: bool

    def __str__(self) -> str:
        where = str(self.log) if self.log is not None else f"(no log; worker {self.writer})"
        return f"{printable(f'task {self.task}: {self.ended}')}\n    {printable(where)}"


def attempts(store: Store) -> Iterator[Attempt]:
    """Yield every attempt at a task, in order of time."""
    events = read_events(store)
    jobs = {e.writer: str(e.facts.get("job", "")) for e in events if e.what == "joined"}
    begun: dict[tuple[str, int], Event] = {}
    ends: dict[tuple[str, int], str] = {}
    order: list[tuple[tuple[str, int], str, bool]] = []
    for event in events:
        if event.task is None:
            continue
        writer = str(event.facts.get("worker", event.writer))  # `lost` is told by the driver
        key = (writer, event.task)
        if event.what == "started":
            begun[key] = event
        elif key in begun and event.what in BAD | {"committed", "abandoned", "declined", "dropped"}:
            said = str(event.facts.get("message") or event.facts.get("why") or "")
            ends[key] = f"{event.what}{': ' * bool(said)}{said}"
            order.append((key, ends[key], event.what in BAD))
            del begun[key]
    order += [(key, "running, or lost with its worker", False) for key in begun]
    for (writer, task), ended, failed in order:
        job = jobs.get(writer, "")
        job = job if job.isdecimal() else ""  # the log may come from anywhere, as its store may
        log = logs_folder(store.path) / f"job-{job}.log"
        yield Attempt(task, job, writer, log if log.is_file() else None, ended, failed)


def log_files(store: Store) -> list[Path]:
    """Return all logs of a store's jobs and drivers, the latest last."""
    found = [path for path in logs_folder(store.path).glob("*.log") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def mark(task: int) -> str:
    """Return the line by which a worker begins to tell of a task's error."""
    return f"[dpsolve] error in task {task}:"


def excerpt(path: Path, task: int, lines: int) -> list[str]:
    """Return the end of what a log says of a task's error; if it says nothing, the log's end.

    As a terminal may show it: whatever a job printed stands there.
    """
    text = _lines(path)
    found = [i for i, line in enumerate(text) if line == mark(task)]
    if not found:
        return text[-lines:] if lines else []
    after = text[found[-1] + 1 :]
    end = next((i for i, line in enumerate(after) if line.startswith("[dpsolve]")), len(after))
    # An error ends with an empty line; what follows is dask's.
    end = next((i for i, line in enumerate(after[:end]) if not line.strip()), end)
    return after[:end][-lines:] if lines else []


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log, as a terminal may show them."""
    return _lines(path)[-lines:] if lines else []


def _lines(path: Path) -> list[str]:
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - MOST_READ))
        lines = log.read(MOST_READ).splitlines()
    return [printable(line.decode(errors="replace")) for line in lines]
