"""One driver to a store: a second is refused, a dead one's place is taken.

The driver's sign of life is a record in the store (``status/driver.json`` of the first group):
host, process, SLURM job, and a mark that is renewed every `BEAT` seconds. A second driver reads it
and is refused while the first one lives. A lock file would outlive a killed driver, and locks are
the part of a shared file system that is most often missing or wrong; this record expires by itself:

- on the same host at once, when no process of that number and age is there;
- from another host when the record has not been renewed for `STALE` seconds, counted by the file
  server's clock alone, so that hosts whose clocks differ agree. A record that is dated ahead of
  that clock (somebody set it, or the record) tells no time: it counts as a dead driver's, unless it
  is renewed while a rival watches it for two beats.

A record is made with link(2), which succeeds for one of several rivals. Only where a dead driver's
record is replaced does a window remain: two drivers that replace it within `SETTLE` seconds of
each other see who was last and the other one gives up; if one of them is held up for longer than
that between reading and writing, both drive until the next beat, at most `BEAT` seconds, when the
one whose record was replaced stops. Meanwhile they can repeat each other's tasks, and nothing
worse: a task is committed whole, and a worker looks for the commit before it begins.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.process_alive import process_age, showing, shows
from dpsolve.hpc.store.atomic_files import PARTIAL, disk_errors, read_plain, write_file
from dpsolve.hpc.terminal_text import printable
from dpsolve.solvers.errors import RefusedError

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store


BEAT = 10.0
STALE = 60.0
SETTLE = 1.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class DriverRecord:
    """The record of a driver.

    Attributes
    ----------
    id : str
        Of this run.
    host : str
    process, process_start : int
        Its number, and when the kernel says it began: numbers come round again.
    job : str
        The SLURM job it runs in, or nothing.
    executor : str
        Where tasks run: ``local``, ``dask`` or ``slurm``.
    began : float
        In seconds since 1970, by its host's clock.
    silence : float
        Seconds since the last sign of it, by the file server's clock.
    """

    id: str
    host: str
    process: int
    process_start: int
    job: str
    executor: str
    began: float
    silence: float = 0.0

    @property
    def here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return self.host == platform.node()

    @property
    def alive(self) -> bool:
        """Whether it is to be taken as alive."""
        if self.here:
            return process_age(self.process) == self.process_start
        return self.silence < STALE

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return printable(f"process {self.process} on {self.host}{job} (--on {self.executor})")


def driver_record(store: Store) -> DriverRecord | None:
    """Return the record of the store's driver, or of the last one that was killed."""
    with disk_errors(store.path):
        return _read(_record(store), ask_server=False)  # to look must change nothing


@contextmanager
def driving(
    store: Store, *, executor: str, stop: Callable[[], None], note: Note
) -> Iterator[DriverRecord]:
    """Be the store's driver inside the block.

    Parameters
    ----------
    store : Store
    executor : str
        Where tasks run, for the record.
    stop : callable
        Is called, from another thread, when this driver finds that it was replaced.
    note : callable
        Is told when this waits.

    Raises
    ------
    RefusedError
        If another driver lives.
    StoreError
        If the disk refuses.
    """
    path = _record(store)
    own = DriverRecord(
        id=uuid.uuid4().hex,
        host=platform.node(),
        process=os.getpid(),
        process_start=process_age(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID", ""),
        executor=executor,
        began=time.time(),
    )
    with showing(_token(path, own)):  # before there is a record, so that it is never without
        with disk_errors(store.path):
            _claim(store.path, path, own, note)
        yield from _beating(path, own, stop, note)


def is_driver(store: Store, record: DriverRecord) -> bool:
    """Tell whether the process that a record names is this store's driver, beyond doubt.

    A store may come from anywhere, with any record in it. The process has to be this user's, on
    this machine, of the record's age, and to show a token of this very folder and record.
    """
    return (
        record.here
        and record.alive
        and record.process_start > 0
        and shows(record.process, _token(_record(store), record))
    )


def _token(path: Path, own: DriverRecord) -> str:
    """Return what a driver shows of itself: its record's number, and which folder it lies in.

    A copy of the record in another store is therefore no proof.
    """
    folder = path.parent.stat()
    return f"{own.id[:64]}-{folder.st_dev:x}-{folder.st_ino:x}"


def _beating(
    path: Path, own: DriverRecord, stop: Callable[[], None], note: Note
) -> Iterator[DriverRecord]:
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, own, ended, stop, note), daemon=True)
    beating.start()
    try:
        yield own
    finally:
        ended.set()
        beating.join()
        with suppress(OSError):
            if _holds(path, own):
                path.unlink()


def _record(store: Store) -> Path:
    return store.buckets[0].folder / "status" / "driver.json"


def _claim(store: Path, path: Path, own: DriverRecord, note: Note) -> None:
    """Make the record of this driver, if there is no other's that counts."""
    if _link(path, own):
        return
    other = _read(path)
    if other is not None and not other.here and _dated_ahead(path):
        note(
            f"the record of this store's driver, {other}, is dated ahead. Waiting {2 * BEAT:.0f} s "
            "for a sign of it"
        )
        other = _watch(path, other)
    if other is not None and not other.here and BEAT * 2 < other.silence < STALE:
        note(
            f"the driver of this store was {other}; it has been silent for "
            f"{other.silence:.0f} s. Waiting until {STALE:.0f} s have passed"
        )
        other = _listen(path, other)
    if other is not None and other.alive:
        raise RefusedError(_refusal(store, other))
    _write(path, own)  # in place of a dead one's
    time.sleep(SETTLE if other is None or not other.here else SETTLE / 5)
    if not _holds(path, own):
        raise RefusedError(_refusal(store, _read(path)))


def _listen(path: Path, other: DriverRecord) -> DriverRecord | None:
    """Wait until a silent driver gives a sign or may be taken as dead."""
    found: DriverRecord | None = other
    while found is not None and found.id == other.id and 2 * BEAT < found.silence < STALE:
        time.sleep(1.0)
        found = _read(path)
    return found


def _watch(path: Path, other: DriverRecord) -> DriverRecord | None:
    """Wait for two beats whether a record is renewed; then its driver lives, whatever the date."""
    written = path.stat().st_mtime_ns
    end = time.monotonic() + 2 * BEAT
    while time.monotonic() < end:
        time.sleep(BEAT / 10)
        try:
            if path.stat().st_mtime_ns != written:
                found = _read(path)
                return None if found is None else replace(found, silence=0.0)
        except FileNotFoundError:
            return None
    return replace(other, silence=STALE)


def _link(path: Path, own: DriverRecord) -> bool:
    """Make the record if there is none; tell whether it is ours."""
    draft = path.with_name(f"{path.name}.{own.id}{PARTIAL}")
    write_file(draft, [_encoded(own)])
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: rivals meet in _claim
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _beat(
    path: Path, own: DriverRecord, ended: threading.Event, stop: Callable[[], None], note: Note
) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):  # a disk that hangs for a while: silence is what others see
            if not _holds(path, own):
                note("another driver has taken over this store: this one stops")
                stop()
                return
            _write(path, own)


def _holds(path: Path, own: DriverRecord) -> bool:
    found = _read(path)
    return found is not None and found.id == own.id


def _write(path: Path, own: DriverRecord) -> None:
    write_file(path, [_encoded(own)])


def _encoded(own: DriverRecord) -> bytes:
    return json.dumps({k: v for k, v in asdict(own).items() if k != "silence"}).encode()


def _read(path: Path, *, ask_server: bool = True) -> DriverRecord | None:
    try:
        content = read_plain(path)
        written = path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return None
    try:
        record = DriverRecord(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None  # not ours, or damaged: nobody's
    if not _is_sound(record):
        return None
    if record.here:
        return record
    now = _server_time(path) if ask_server else time.time()
    silence = max(0.0, now - written) if written <= now + BEAT else STALE
    return replace(record, silence=silence)


def _is_sound(record: DriverRecord) -> bool:
    """Tell whether a record says what a driver says: 0 and -1 are no process, but many."""
    texts = (record.id, record.host, record.job, record.executor)
    numbers = (record.process, record.process_start)
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and 0 < record.process < 2**31
        and all(type(seconds) in (int, float) for seconds in (record.began, record.silence))
    )


def _dated_ahead(path: Path) -> bool:
    try:
        return path.stat().st_mtime > _server_time(path) + BEAT
    except FileNotFoundError:
        return False


def _server_time(path: Path) -> float:
    """Return the time by the clock that stamps the files of this folder."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # a reader without permission to write: the clocks may differ a little
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _refusal(store: Path, other: DriverRecord | None) -> str:
    who = str(other) if other is not None else "another process"
    since = ""
    if other is not None and not other.here:
        since = (
            f" Its last sign came {other.silence:.0f} s ago; {STALE:.0f} s after the last one it "
            "counts as dead, and then this command goes on where it ended."
        )
    path = shlex.quote(str(store))
    return (
        f"{store} has a driver already: {who}.{since} Two drivers would repeat each other's work. "
        f"To watch it: dpsolve status {path}. To end it: dpsolve cancel {path}."
    )
