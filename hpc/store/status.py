"""``dpsolve status``, without JAX, zarr or xarray.

Reading changes nothing and needs no lock, so it may be done while the sweep runs.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import point_label, point_parameters
from dpsolve.hpc.terminal_text import printable
from dpsolve.hpc.zarr_format import ZarrArray
from dpsolve.solvers.distributions.top_mass import PREFIX, texts
from dpsolve.solvers.outcomes import CERTIFIES, CONCAVITY, accuracy, in_words

from .buckets import STATUSES, StoredBucket, Tallies, worst
from .store import Store, open_store

MOST_FAILURES = 5
MOST_TASKS = 200  # of a bucket whose mass at the top of a grid is looked at, a file each
MOST_LOOKED_AT = 1000  # tasks with points that are not solved: where so many fail, all do alike


@dataclass(frozen=True)
class GroupStatus:
    """How one group (one set of static sizes) stands.

    Attributes
    ----------
    group : str
        Empty when the store has only one.
    tasks, committed : int
        Tasks in all, and those committed.
    points, solved, inexact, failed : int
        Points in all, and by status.
    error_bound : float
        The worst certified error among solved and inexact points.
    """

    group: str
    tasks: int
    committed: int
    points: int
    solved: int
    inexact: int
    failed: int
    error_bound: float

    @property
    def pending(self) -> int:
        """Points not committed."""
        return self.points - self.solved - self.inexact - self.failed


@dataclass(frozen=True)
class Failure:
    """Points that are not solved for the same reason.

    Attributes
    ----------
    status, message : str
    count : int
        How many points say so, among the tasks that were looked at.
    parameters : dict
        What distinguishes the first such point: its group, if there are several, and its swept
        parameters.
    """

    status: str
    message: str
    count: int
    parameters: dict[str, Any]

    def __str__(self) -> str:
        where = point_label(self.parameters)
        more = f", and {self.count - 1} more" if self.count > 1 else ""
        return f"{self.status}: {self.message}" + (f" (at {where}{more})" if where else "")


@dataclass(frozen=True)
class StoreStatus:
    """How a store stands.

    Attributes
    ----------
    path : Path
    model : str
        As it was named.
    tol : float or None
        The certified error that is asked for; None: whatever the grid allows.
    created, host, device, command : str
        When, where and how the store was begun.
    last_commit : float or None
        When the last task was committed, in seconds since 1970.
    groups : tuple of GroupStatus
    failures : tuple of Failure
        The first few distinct messages.
    top_mass : tuple of str
        States with much mass at the top of their grids, a sentence each.
    of_what : str
        What certified errors are of, in words.
    certifies : tuple of str
        Where choices are continuous: what is certified, and of how many points, for each group.
    """

    path: Path
    model: str
    tol: float | None
    created: str
    host: str
    device: str
    command: str
    last_commit: float | None
    groups: tuple[GroupStatus, ...]
    failures: tuple[Failure, ...] = field(default=())
    top_mass: tuple[str, ...] = field(default=())
    of_what: str = ""
    certifies: tuple[str, ...] = field(default=())

    def _sum(self, name: str) -> int:
        return sum(getattr(group, name) for group in self.groups)

    @property
    def tasks(self) -> int:
        """All tasks."""
        return self._sum("tasks")

    @property
    def committed(self) -> int:
        """Tasks that are committed."""
        return self._sum("committed")

    @property
    def points(self) -> int:
        """All points."""
        return self._sum("points")

    @property
    def solved(self) -> int:
        """Points certified within tol."""
        return self._sum("solved")

    @property
    def inexact(self) -> int:
        """Points with bounds wider than tol."""
        return self._sum("inexact")

    @property
    def failed(self) -> int:
        """Points without a result."""
        return self._sum("failed")

    @property
    def pending(self) -> int:
        """Points not committed."""
        return self._sum("pending")

    @property
    def error_bound(self) -> float:
        """The worst certified error among solved and inexact points, NaN if none has any."""
        return worst(group.error_bound for group in self.groups)

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, *, goes_on: bool = False) -> str:
        """Return all this as text.

        Parameters
        ----------
        goes_on : bool
            Somebody works on it at this moment, so nothing need be done.
        """
        return "\n".join(map(printable, self._lines(goes_on)))

    def _lines(self, goes_on: bool) -> Iterator[str]:
        yield f"{self.path}: {self.points} points of the model {self.model}"
        yield f"  begun      {self.created} on {self.host} ({self.device})"
        if self.last_commit is not None:
            at = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.last_commit))
            yield f"  last task  {at}"
        if self.command:
            yield f"  command    {self.command}"
        yield f"  tasks      {self.committed} of {self.tasks} committed"
        yield f"  points     {_counts(self)}"
        if len(self.groups) > 1:
            yield from (f"    {group.group}: {_counts(group)}" for group in self.groups)
        if self.solved or self.inexact:
            what = "worst certified error"
            yield f"  accuracy   {accuracy(self.error_bound, self.tol, what, self.of_what)}"
        yield from (f"  certifies  {text}" for text in self.certifies)
        for failure in self.failures:
            yield f"  {failure}"
        yield from (f"  grid       {text}" for text in self.top_mass)
        if self.pending and not goes_on:
            yield f"  to go on: dpsolve resume {shlex.quote(str(self.path))}"


def read_status(path: Path | str) -> StoreStatus:
    """Read how a store stands.

    Raises
    ------
    StoreError
        If there is no store at `path`, or it cannot be read.
    """
    store = open_store(path)
    tallies = store.tallies()
    attributes = store.attributes
    committed = {int(n) for rows in tallies for n in rows["task"]}
    times = [int(rows["modified"].max()) for rows in tallies if rows.size]
    said = ("created", "host", "device", "command")
    return StoreStatus(
        path=store.path,
        model=store.source.reference,
        tol=store.tol,
        **{name: str(attributes.get(name, "")) for name in said},
        last_commit=max(times) / 1e9 if times else None,
        groups=tuple(map(_group, store.buckets, tallies)),
        failures=tuple(_failures(store, tallies)),
        top_mass=tuple(top_mass_texts(store, committed)),
        of_what=store.of_what,
        certifies=tuple(certified_texts(store, committed)),
    )


def _counts(status: StoreStatus | GroupStatus) -> str:
    text = f"{status.solved} solved, {status.inexact} inexact, {status.failed} failed"
    return text + (f", {status.pending} pending" if status.pending else "")


def _group(bucket: StoredBucket, tallies: Tallies) -> GroupStatus:
    return GroupStatus(
        group=bucket.bucket.group,
        tasks=bucket.task_count,
        committed=tallies.size,
        points=bucket.bucket.size,
        error_bound=worst(tallies["error_bound"]),
        **{word: int(tallies[word].sum()) for word in STATUSES},
    )


def _failures(store: Store, tallies: list[Tallies]) -> Iterator[Failure]:
    """Yield the first few distinct messages, each with its first point."""
    found: dict[tuple[str, str, str], list[Any]] = {}
    looked_at = 0
    for bucket, rows in zip(store.buckets, tallies, strict=True):
        for number in rows["task"][(rows["inexact"] > 0) | (rows["failed"] > 0)].tolist():
            if looked_at == MOST_LOOKED_AT:
                break
            looked_at += 1
            task = bucket.tasks[number - bucket.first]
            try:
                status, messages = bucket.record("status", task), bucket.record("message", task)
            except ValueError:
                continue  # damaged: dpsolve doctor tells
            if status is None or messages is None:
                continue
            for at in np.flatnonzero(status != "solved"):
                key = (bucket.bucket.group, str(status[at]), str(messages[at]))
                found.setdefault(key, [0, bucket, task.start + int(at)])[0] += 1
    for (_, word, message), (count, bucket, point) in list(found.items())[:MOST_FAILURES]:
        yield Failure(word, message, count, point_parameters(bucket.bucket, point))


def certified_texts(store: Store, committed: Collection[int]) -> Iterator[str]:
    """Yield what is certified of points with continuous choices, and of how many, for each group.

    Parameters
    ----------
    store : Store
    committed : collection of int
        Numbers of the tasks that are. Of many, some are looked at, evenly spread.
    """
    for bucket in store.buckets:
        if bucket.certifies != "continuum" or "certifies" not in bucket.results:
            continue
        kinds = (("certifies", CERTIFIES), ("concavity", CONCAVITY))
        words = [in_words(known, _values(bucket, name, committed)) for name, known in kinds]
        counts: dict[str, int] = {}
        for word, concavity in zip(*map(np.atleast_1d, words), strict=True):
            text = "nothing" if word == "none" else f"the {word}, concavity {concavity}"
            counts[text] = counts.get(text, 0) + 1
        group = f"{bucket.bucket.group}: " if bucket.bucket.group else ""
        if counts:
            yield group + "; ".join(f"{text} at {n:,} points" for text, n in counts.items())


def top_mass_texts(store: Store, committed: Collection[int]) -> Iterator[str]:
    """Yield a sentence for each state with too much mass at the top of its grid.

    Parameters
    ----------
    store : Store
    committed : collection of int
        Numbers of the tasks that are. Of many, some are looked at, evenly spread.
    """
    for bucket in store.buckets:
        names = [n for n, array in bucket.results.items() if _is_top(n, array, bucket)]
        found = {name: _values(bucket, name, committed) for name in names}
        group = f"{bucket.bucket.group}: " if bucket.bucket.group else ""
        yield from (group + text for text in texts(found))


def _is_top(name: str, array: ZarrArray, bucket: StoredBucket) -> bool:
    """Tell whether an array is this, and no factory's own of such a name."""
    return (
        name.startswith(PREFIX)
        and "distribution_error" in bucket.results
        and array.dims == bucket.results["status"].dims
        and array.chunk is None
    )


def _values(bucket: StoredBucket, name: str, committed: Collection[int]) -> NDArray[Any]:
    tasks = [task for task in bucket.tasks if task.id in committed]
    step = -(-len(tasks) // MOST_TASKS) or 1
    found = []
    for task in tasks[::step]:
        try:
            record = bucket.record(name, task)
        except (ValueError, OSError):
            continue  # damaged: dpsolve verify tells
        if record is not None:
            found.append(record)
    return np.concatenate(found) if found else np.zeros(0)
