"""One bucket (one set of sizes) of a store: its files and committed tasks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.store_schema import RECORDS
from dpsolve.hpc.plan.tasks import Task
from dpsolve.hpc.zarr_format import ZarrArray

if TYPE_CHECKING:
    import zarr

    from dpsolve.hpc.plan.design import Bucket


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
    tasks : tuple of Task
    """

    folder: Path
    bucket: Bucket
    results: dict[str, ZarrArray]
    tasks: tuple[Task, ...]

    @property
    def kept(self) -> dict[str, str]:
        """The data type of each kept variable."""
        return {name: a.dtype for name, a in self.results.items() if name not in RECORDS}

    def file(self, name: str, task: Task) -> Path:
        """Return the file in which an array holds the points of a task, the first if several do."""
        return self.parts(name, task)[0].file

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
            content = self.file(name, task).read_bytes()
        except FileNotFoundError:
            return None
        cell = self.results[name].decode(content)
        return cell[tuple(map(slice, task.shape))].ravel()

    def committed(self) -> list[Task]:
        """Return the tasks that have a status file, with one look into the folder."""
        names = {entry.name for entry in os.scandir(self.folder / "status")}
        return [task for task in self.tasks if self.file("status", task).name in names]


def worst(bounds: Iterable[float]) -> float:
    """Return the largest certified error, NaN if there is none."""
    return max((bound for bound in bounds if not math.isnan(bound)), default=math.nan)


def receipt(task: Task, status: NDArray[Any], bound: NDArray[Any]) -> Receipt:
    """Return the receipt of a task, given the status and the error bound of its points."""
    counts = {word: int(np.sum(status == word)) for word in ("solved", "inexact", "failed")}
    return Receipt(task.id, **counts, error_bound=worst(bound[status != "failed"].tolist()))
