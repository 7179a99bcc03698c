"""Append-only log of what happened to tasks and jobs.

Every process that works on a store appends to a file of its own, a line of JSON per event, so no
two writers ever meet and nothing needs a lock. The files lie in ``status/ledger`` of the store's
first group, beside the commits, where no reader of Zarr looks. A process that is killed leaves at
most one torn line, which readers skip. The log decides nothing: a task is committed by its
status file alone. It explains, and it proves: each computation of a task leaves `started` and
`solved`, and a task's second `started` after its `committed` would be work done twice, unless a
user wanted it (`retried`). dask's own events would not do: they end with its scheduler.

Sweeps in one process (``--on local``) keep none but for commits that were taken back: they have
neither jobs nor retries.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic_files import disk_errors, read_plain

if TYPE_CHECKING:
    from .store import Store


ENDING = ".jsonl"
LATEST = 2.0**37  # seconds: no calendar goes on for ever


@dataclass(frozen=True)
class Event:
    """One line of the log.

    Attributes
    ----------
    time : float
        Seconds since 1970, by the writer's clock.
    writer : str
        Who says so: ``driver-HOST-PID`` or ``worker-HOST-PID``.
    what : str
        The kind of event: ``started``, ``committed``, ``lost``, ...
    facts : dict
        What belongs to it: ``task``, ``job``, ``seconds``, ``message``, ...
    """

    time: float
    writer: str
    what: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> int | None:
        """The task it is about, if it is about one."""
        found = self.facts.get("task")
        return found if isinstance(found, int) else None

    def __str__(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))
        facts = ", ".join(f"{k} {_shown(v)}" for k, v in self.facts.items() if v not in ("", None))
        return f"{at}.{int(self.time % 1 * 1000):03d}  {self.writer:<28} {self.what:<10} {facts}"


class EventLog:
    """One writer's file; safe to use from several threads.

    Parameters
    ----------
    store : Store
    role : str
        ``driver`` or ``worker``: the beginning of the file's name.
    """

    def __init__(self, store: Store, role: str) -> None:
        self.writer = f"{role}-{platform.node()}-{os.getpid()}"
        started = f"{time.time():.0f}"  # numbers of processes come round again
        self.path = folder_of(store) / f"{self.writer}-{started}{ENDING}"
        self._lock = threading.Lock()
        self._file: int | None = None

    def write(self, what: str, /, **facts: Any) -> None:
        """Append an event.

        Raises
        ------
        StoreError
            If the disk refuses.
        """
        line = json.dumps({"t": round(time.time(), 6), "what": what} | facts).encode() + b"\n"
        with self._lock, disk_errors(self.path):
            if self._file is None:
                self.path.parent.mkdir(exist_ok=True)
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            # One call, so that a kill tears at most the last line. No fsync: a node that loses its
            # power may lose what it said last, which the log can bear and a commit could not.
            os.write(self._file, line)

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


def folder_of(store: Store) -> Path:
    """Return the folder of a store's event log; it need not exist."""
    return store.buckets[0].folder / "status" / "ledger"


def read_events(store: Store, writer: str = "") -> list[Event]:
    """Read all events in the order of time; or those of one writer.

    Parameters
    ----------
    store : Store
    writer : str
        The beginning of the writers' names that are wanted.
    """
    with disk_errors(store.path):
        paths = sorted(folder_of(store).glob(f"{writer}*{ENDING}"))
        found = [event for path in paths for event in _events(path)]
    return sorted(found, key=lambda event: event.time)


def _events(path: Path) -> Iterator[Event]:
    writer = path.name.removesuffix(ENDING).rpartition("-")[0]
    try:
        lines = read_plain(path).splitlines()
    except ValueError:
        return  # no file
    for line in lines:
        try:
            facts = json.loads(line)
            event = Event(float(facts.pop("t")), writer, str(facts.pop("what")), facts)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
            continue  # torn by a kill
        if 0 <= event.time < LATEST:
            yield event


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return " ".join(value.split())
    return str(value)
