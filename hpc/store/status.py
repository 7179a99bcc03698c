"""``dpsolve status``, without JAX, zarr or xarray.

Reading changes nothing and needs no lock, so it may be done while the sweep runs.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpsolve.hpc.plan.design import point_label, point_parameters
from dpsolve.solvers.outcomes import accuracy

from .atomic_files import disk_errors
from .buckets import Receipt, StoredBucket, worst
from .store import Store, open_store

MOST_FAILURES = 5


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
    tol : float
        The certified error that is asked for.
    created, host, device, command : str
        When, where and how the store was begun.
    last_commit : float or None
        When the last task was committed, in seconds since 1970.
    groups : tuple of GroupStatus
    failures : tuple of Failure
        The first few distinct messages.
    """

    path: Path
    model: str
    tol: float
    created: str
    host: str
    device: str
    command: str
    last_commit: float | None
    groups: tuple[GroupStatus, ...]
    failures: tuple[Failure, ...] = field(default=())

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
        return "\n".join(self._lines(goes_on))

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
            bound = accuracy(self.error_bound, self.tol, "worst certified error")
            yield f"  accuracy   {bound}"
        for failure in self.failures:
            yield f"  {failure}"
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
    receipts = store.receipts()
    attributes = store.attributes
    return StoreStatus(
        path=store.path,
        model=attributes["model_reference"],
        tol=store.options.tol,
        created=attributes["created"],
        host=attributes["host"],
        device=attributes["device"],
        command=attributes["command"],
        last_commit=_last_commit(store),
        groups=tuple(_group(bucket, receipts) for bucket in store.buckets),
        failures=tuple(_failures(store, receipts)),
    )


def _counts(status: StoreStatus | GroupStatus) -> str:
    text = f"{status.solved} solved, {status.inexact} inexact, {status.failed} failed"
    return text + (f", {status.pending} pending" if status.pending else "")


def _group(bucket: StoredBucket, receipts: dict[int, Receipt]) -> GroupStatus:
    own = [receipts[task.id] for task in bucket.tasks if task.id in receipts]
    return GroupStatus(
        group=bucket.bucket.group,
        tasks=len(bucket.tasks),
        committed=len(own),
        points=sum(task.size for task in bucket.tasks),
        solved=sum(receipt.solved for receipt in own),
        inexact=sum(receipt.inexact for receipt in own),
        failed=sum(receipt.failed for receipt in own),
        error_bound=worst(receipt.error_bound for receipt in own),
    )


def _last_commit(store: Store) -> float | None:
    with disk_errors(store.path):
        times = [
            bucket.file("status", task).stat().st_mtime
            for bucket in store.buckets
            for task in bucket.committed()
        ]
    return max(times, default=None)


def _failures(store: Store, receipts: dict[int, Receipt]) -> Iterator[Failure]:
    """Yield the first few distinct messages, each with its first point."""
    found: dict[tuple[str, str, str], list[Any]] = {}
    for number, receipt in receipts.items():
        if not receipt.inexact + receipt.failed:
            continue
        task = store.tasks[number]
        bucket = store.buckets[task.bucket]
        status, messages = bucket.record("status", task), bucket.record("message", task)
        if status is None or messages is None:
            continue
        for at in np.flatnonzero(status != "solved"):
            key = (bucket.bucket.group, str(status[at]), str(messages[at]))
            found.setdefault(key, [0, bucket, task.start + int(at)])[0] += 1
    for (_, word, message), (count, bucket, point) in list(found.items())[:MOST_FAILURES]:
        yield Failure(word, message, count, point_parameters(bucket.bucket, point))
