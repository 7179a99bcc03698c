"""One bucket (one set of sizes) of a store: its files and committed tasks.

*Tallies.* What is known of a committed task stands in its files, and to read those of 65,000 tasks
takes minutes on a shared disk. So a driver keeps notes of large stores: one row for each task that
it knew of, in a file of its own in ``status/tallies``, which counts only as long as the size and
the time of the task's status file are the ones noted. ``dpsolve status`` then looks into one folder
and reads what nobody noted; whoever decides what is to be computed reads the files themselves.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.store_schema import CERTIFIES, OF_WHAT, RECORDS
from dpsolve.hpc.plan.tasks import Task, cut
from dpsolve.hpc.zarr_format import ZarrArray

from .atomic_files import read_plain

if TYPE_CHECKING:
    import zarr

    from dpsolve.hpc.plan.design import Bucket


STATUSES = ("solved", "inexact", "failed")
TALLY = np.dtype(
    [("task", "<u4"), ("bytes", "<i8"), ("modified", "<i8"), ("solved", "<u4"),
     ("inexact", "<u4"), ("failed", "<u4"), ("error_bound", "<f8")]
)  # fmt: skip
"""A row of tallies; size and time are those of the task's status file."""

Tallies = NDArray[np.void]
Noted = tuple[int, int, int]
Row = tuple[int, int, int, int, int, int, float]
Counts = tuple[int, int, int, NDArray[np.bool_]]


@dataclass(frozen=True)
class Receipt:
    """What is known of a committed task: small enough to be sent anywhere.

    Attributes
    ----------
    task : int
        The task's number.
    solved, inexact, failed : int
        Its points by status.
    error_bound : float
        The worst certified error among the points that did not fail; NaN if there is none.
    compile_seconds : float
        Time to compile on the way, if this task was the first of its bucket.
    """

    task: int
    solved: int
    inexact: int
    failed: int
    error_bound: float
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Dropped(Receipt):
    """That of a task which another process had committed first: what came late was dropped."""


@dataclass(frozen=True)
class FilePart:
    """What one file holds of an array at the points of a task.

    Attributes
    ----------
    array : str
        The array's name.
    label : str
        In the manifest: the array's name, and the file's where the array has several.
    file : Path
    region : tuple of slice
        Of the array's own dimensions, after those of the points.
    """

    array: str
    label: str
    file: Path
    region: tuple[slice, ...]

    def of(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return what the file holds, of an array with the axes of points first."""
        at: tuple[Any, ...] = (..., *self.region)
        found: NDArray[Any] = block[at]
        return found


@dataclass(frozen=True, eq=False)
class StoredBucket:
    """One bucket of a store.

    Attributes
    ----------
    folder : Path
        Of its group.
    bucket : Bucket
        Its points, as the store holds them.
    results : dict of str to ZarrArray
        The arrays that tasks write, the status last.
    number, first : int
        The bucket's number, and its first task's.
    labels : dict of str to dict
        The attributes of every array, coordinates included: a reader may scale numbers by them.
    """

    folder: Path
    bucket: Bucket
    results: dict[str, ZarrArray]
    number: int
    first: int
    labels: dict[str, dict[str, Any]]

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Its tasks, in the order of their points."""
        status = self.results["status"]
        return tuple(cut(status.shape, status.cell, self.number, self.first))

    @property
    def task_count(self) -> int:
        """The number of its tasks."""
        return self.results["status"].files

    @property
    def kept(self) -> dict[str, str]:
        """The data type of each kept variable."""
        return {name: a.dtype for name, a in self.results.items() if name not in RECORDS}

    @property
    def certifies(self) -> str:
        """What bounds are of at best; '' in stores that were begun before there was a word."""
        return str(self.labels.get("error_bound", {}).get(CERTIFIES, ""))

    @property
    def of_what(self) -> str:
        """The same in words."""
        return str(self.labels.get("error_bound", {}).get(OF_WHAT, ""))

    def file(self, name: str, task: Task) -> Path:
        """Return the file in which an array holds the points of a task, the first if several do."""
        array = self.results[name]
        rest = (0,) * (len(array.dims) - len(task.cell))
        return self.folder / name / array.key(task.cell + rest)

    def parts(self, name: str, task: Task) -> tuple[FilePart, ...]:
        """Return the files in which an array holds the points of a task.

        There are several where devices share the states of one point, each with its own file.
        """
        array = self.results[name]
        first = len(task.cell)
        shape, cell = array.shape[first:], array.cell[first:]
        counts = [-(-length // part) for length, part in zip(shape, cell, strict=True)]
        found = []
        for at in product(*map(range, counts)):
            key = array.key(task.cell + at)
            label = name if math.prod(counts) == 1 else f"{name}:{key}"
            corner = [i * part for i, part in zip(at, cell, strict=True)]
            region = tuple(slice(i, i + part) for i, part in zip(corner, cell, strict=True))
            found.append(FilePart(name, label, self.folder / name / key, region))
        return tuple(found)

    def region(self, task: Task) -> tuple[slice, ...]:
        """Return where the points of a task lie along the axes of points."""
        block = self.results["status"].cell
        cells = zip(task.cell, block, task.shape, strict=True)
        return tuple(slice(i * size, i * size + length) for i, size, length in cells)

    def write(self, part: FilePart, task: Task, block: NDArray[Any]) -> None:
        """Write one file of a task, and bring it to the disk.

        Parameters
        ----------
        part : FilePart
        task : Task
        block : array
            What the file holds, with the axes of points first.
        """
        self._writable[part.array][(*self.region(task), *part.region)] = block

    @cached_property
    def _writable(self) -> dict[str, zarr.Array[Any]]:
        from .zarr_store import open_arrays

        return open_arrays(self.folder, self.results)

    def record(self, name: str, task: Task) -> NDArray[Any] | None:
        """Return what is recorded of a task's points (one of `RECORDS`), None if nothing is.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        try:
            content = read_plain(self.file(name, task))
        except FileNotFoundError:
            return None
        cell = self.results[name].decode(content)
        return cell[tuple(map(slice, task.shape))].ravel()

    def committed(self) -> list[Task]:
        """Return the tasks that have a status file, with one look into the folder."""
        names = set(os.listdir(self.folder / "status"))
        key = self.results["status"].key
        return [task for task in self.tasks if key(task.cell) in names]

    def tallies(self, noted: Mapping[Noted, Row]) -> Tallies:
        """Return what is known of every committed task, in the order of the tasks.

        A damaged status file is no commit: its task is done again.

        Parameters
        ----------
        noted : mapping
            Rows that need not be read from the task's files.
        """
        rows: list[Row] = []
        alike: dict[tuple[bytes, tuple[int, ...]], Counts] = {}
        for entry in os.scandir(self.folder / "status"):
            if (number := self._numbers.get(entry.name)) is None:
                continue
            try:
                held = entry.stat()
                at = (self.first + number, held.st_size, held.st_mtime_ns)
                row = noted.get(at) or (*at, *self._read(self.tasks[number], alike))
            except (FileNotFoundError, ValueError):  # taken back this moment; damaged
                continue
            rows.append(row)
        return np.array(sorted(rows), TALLY)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each task in the bucket, by the name of its status file."""
        status = self.results["status"]
        pairs = zip(status.shape, status.cell, strict=True)
        cells = product(*(range(-(-length // part)) for length, part in pairs))
        return {status.key(cell): number for number, cell in enumerate(cells)}

    def _read(
        self, task: Task, alike: dict[tuple[bytes, tuple[int, ...]], Counts]
    ) -> tuple[int, int, int, float]:
        """Count the points of a task by status, and find the worst bound.

        Nearly all status files of a bucket are alike; each kind is decoded once.
        """
        whole = tuple(map(slice, task.shape))
        key = (read_plain(self.file("status", task)), task.shape)
        if key not in alike:
            status = self.results["status"].decode(key[0])[whole]
            counts = [int(np.sum(status == word)) for word in STATUSES]
            alike[key] = (*counts, status != "failed")
        solved, inexact, failed, known = alike[key]
        content = read_plain(self.file("error_bound", task))
        bound = self.results["error_bound"].decode(content)[whole]
        return solved, inexact, failed, worst((bound[known] if failed else bound).ravel())


def worst(bounds: Iterable[float]) -> float:
    """Return the largest certified error, NaN if there is none."""
    held = np.fromiter(bounds, float) if not isinstance(bounds, np.ndarray) else bounds
    held = held[~np.isnan(held)]
    return float(held.max()) if held.size else math.nan


def receipt(task: Task, status: NDArray[Any], bound: NDArray[Any]) -> Receipt:
    """Return the receipt of a task, given the status and the error bound of its points."""
    counts = {word: int(np.sum(status == word)) for word in STATUSES}
    return Receipt(task.id, **counts, error_bound=worst(bound[status != "failed"]))
