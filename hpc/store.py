"""An existing store: which tasks are committed, and how one more is written.

A store is one Zarr group (or one subgroup per set of static sizes), made whole before any task
starts. A task owns its files, so tasks may be written from many processes at once. Its data is
written first and the status of its points last: **the status file of a task is its commit**, and
nothing else is proof of anything. Everything that a worker needs (parameters, model source,
options) is read back from the store, not from the sweep that made it: what is resumed is what was
begun. Two drivers on one store repeat each other's work, and do each other no harm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..solvers.errors import StoreError
from . import provenance
from .files import disk_errors, write_file
from .schema import RECORDS
from .tasks import Task, cut
from .zarr_format import ZarrArray

if TYPE_CHECKING:
    from ..solvers.options import SolveOptions
    from .design import Bucket
    from .resolve import ModelSource

__all__ = ["Receipt", "Store", "StoredBucket", "is_store", "open_store"]

METADATA = "zarr.json"


class Results(Protocol):
    """What `Store.write_task` takes: arrays over the points of a task (see `sharding.Batch`)."""

    variables: dict[str, NDArray[Any]]
    status: NDArray[Any]
    message: NDArray[Any]
    residual: NDArray[Any]
    error_bound: NDArray[Any]
    iterations: NDArray[Any]
    seconds: NDArray[Any]


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
        The worst certified error among the points that did not fail; 0 if all failed.
    compile_seconds : float
        Time to compile on the way, if this task was the first of its bucket.
    """

    task: int
    solved: int
    inexact: int
    failed: int
    error_bound: float
    compile_seconds: float = 0.0


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
        """Return the file in which an array holds the points of a task."""
        array = self.results[name]
        rest = (0,) * (len(array.dims) - len(task.cell))
        return self.folder / name / array.key(task.cell + rest)

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


@dataclass(frozen=True, eq=False)
class Store:
    """A store that was created whole.

    Attributes
    ----------
    path : Path
    attributes : dict
        Of the root: the provenance.
    buckets : tuple of StoredBucket
    """

    path: Path
    attributes: dict[str, Any]
    buckets: tuple[StoredBucket, ...]

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all buckets; a task's number is its place."""
        return tuple(task for bucket in self.buckets for task in bucket.tasks)

    @property
    def points(self) -> int:
        """The number of points."""
        return sum(task.size for task in self.tasks)

    @cached_property
    def source(self) -> ModelSource:
        """The model that the store is computed with."""
        from .resolve import ModelSource

        names = ("reference", "name", "kind", "source", "sha256")
        given = {name: self.attributes[f"model_{name}"] for name in names}
        return ModelSource.from_dict(given, folder=Path(self.attributes["model_folder"]))

    @cached_property
    def options(self) -> SolveOptions:
        """How the points are solved."""
        from ..solvers.options import SolveOptions

        return SolveOptions.from_mapping(json.loads(self.attributes["solve"]))

    def receipts(self) -> dict[int, Receipt]:
        """Return a receipt for each committed task.

        A damaged status file is no commit: its task is done again.
        """
        found: dict[int, Receipt] = {}
        with disk_errors(self.path):
            for bucket in self.buckets:
                for task in bucket.committed():
                    try:
                        status = bucket.record("status", task)
                        bound = bucket.record("error_bound", task)
                    except ValueError:
                        continue
                    if status is not None and bound is not None:
                        found[task.id] = _receipt(task, status, bound)
        return found

    def write_task(self, task: Task, results: Results) -> Receipt:
        """Write what a task computed, then commit it.

        Raises
        ------
        StoreError
            If the disk refuses; the task is then not committed.
        """
        bucket = self.buckets[task.bucket]
        with disk_errors(self.path):
            for name, array in bucket.results.items():  # the status comes last
                values = getattr(results, name) if name in RECORDS else results.variables[name]
                block = np.asarray(values).reshape(task.shape + array.shape[len(task.shape) :])
                write_file(bucket.file(name, task), array.encode(block))
        return _receipt(task, results.status, results.error_bound)


def is_store(path: Path) -> bool:
    """Tell whether a folder is a store of dpsolve."""
    try:
        return "dpsolve_store" in _read_metadata(path)["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_store(path: Path | str) -> Store:
    """Open an existing store.

    Raises
    ------
    StoreError
        If there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise StoreError(f"there is no store at {path}. Is the path right? dpsolve sweep makes one.")
    if not is_store(path):
        raise StoreError(
            f"{path} is not a store of dpsolve: its {METADATA} is missing or does not say so."
        )
    root = _read_metadata(path)
    attributes = root["attributes"]
    if attributes["dpsolve_store"] != provenance.FORMAT:
        raise StoreError(
            f"{path} has the store format {attributes['dpsolve_store']}; this dpsolve reads format "
            f"{provenance.FORMAT}. It was begun with dpsolve {attributes.get('dpsolve_version')}: "
            "use that version, or sweep into a new store."
        )
    try:
        return Store(path, attributes, _buckets(path, root))
    except FileNotFoundError as error:
        raise StoreError(_damaged(path, f"{error.filename} is missing")) from error
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(_damaged(path, repr(error))) from error


def _damaged(path: Path, why: str) -> str:
    return (
        f"the store {path} is damaged: {why}. Restore it from a copy, or delete it and run the "
        "sweep again."
    )


def _read_metadata(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / METADATA).read_text(encoding="utf-8"))
    return document


def _buckets(path: Path, root: Mapping[str, Any]) -> tuple[StoredBucket, ...]:
    nodes: dict[str, Any] = root["consolidated_metadata"]["metadata"]
    groups = {name: node for name, node in nodes.items() if node["node_type"] == "group"}
    found: list[StoredBucket] = []
    first = 0
    for name, group in (groups or {"": root}).items():
        prefix = f"{name}/" if name else ""
        arrays = {
            key.removeprefix(prefix): ZarrArray.from_document(node)
            for key, node in nodes.items()
            if key.startswith(prefix) and node["node_type"] == "array"
        }
        bucket = _bucket(path, name, group["attributes"], arrays, len(found), first)
        found.append(bucket)
        first += len(bucket.tasks)
    return tuple(found)


def _bucket(
    path: Path,
    name: str,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, ZarrArray],
    number: int,
    first: int,
) -> StoredBucket:
    from .design import Bucket

    folder = path / name
    status = arrays["status"]
    swept: list[str] = json.loads(attributes["swept"])

    def values(coordinate: str) -> NDArray[Any]:
        array = arrays[coordinate]
        return array.decode((folder / coordinate / array.key((0,) * len(array.dims))).read_bytes())

    axes = {dim: values(dim) for dim in status.dims}
    bucket = Bucket(
        group=name,
        sizes=json.loads(attributes["sizes"]),
        axes=axes,
        parameters={p: (arrays[p].dims, axes[p] if p in axes else values(p)) for p in swept},
        fixed=json.loads(attributes["fixed"]),
    )
    on_axes = {k: a for k, a in arrays.items() if a.dims[: len(axes)] == status.dims}
    results = {k: a for k, a in on_axes.items() if k not in axes and k not in swept}
    results["status"] = results.pop("status")
    tasks = tuple(cut(status.shape, status.cell, number, first))
    return StoredBucket(folder, bucket, results, tasks)


def _receipt(task: Task, status: NDArray[Any], bound: NDArray[Any]) -> Receipt:
    counts = {word: int(np.sum(status == word)) for word in ("solved", "inexact", "failed")}
    certified = bound[status != "failed"]
    worst = float(np.max(certified, initial=0.0)) if certified.size else 0.0
    return Receipt(task.id, counts["solved"], counts["inexact"], counts["failed"], worst)
