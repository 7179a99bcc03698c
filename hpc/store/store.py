"""``Store``: which tasks are committed; writing and committing one more.

A store is one Zarr group (or one subgroup per set of static sizes), made whole before any task
starts. A task owns its files, so tasks may be written from many processes at once. Its data is
written first and the status of its points last: **the status file of a task is its commit**, and
nothing else is proof of anything. Everything that a worker needs (parameters, model source,
options) is read back from the store, not from the sweep that made it: what is resumed is what was
begun. Two drivers on one store repeat each other's work, and do each other no harm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import Bucket
from dpsolve.hpc.plan.store_schema import FORMAT, READABLE, RECORDS
from dpsolve.hpc.plan.tasks import Task, cut
from dpsolve.hpc.sweep_file.mistakes import path_fault
from dpsolve.hpc.sweep_file.model_source import ModelSource
from dpsolve.hpc.zarr_format import METADATA, ZarrArray
from dpsolve.solvers.errors import RefusedError, StoreError

from . import checksums
from .atomic_files import disk_errors, write_file
from .buckets import Receipt, StoredBucket, receipt

if TYPE_CHECKING:
    from dpsolve.sharding.batches.program import Batch
    from dpsolve.solvers.options import SolveOptions


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Store:
    """A store that was created whole.

    Attributes
    ----------
    path : Path
    attributes : dict
        Of the root: the provenance.
    buckets : tuple of StoredBucket
    source : ModelSource
        The model that the store is computed with.
    """

    path: Path
    attributes: dict[str, Any]
    buckets: tuple[StoredBucket, ...]
    source: ModelSource

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all buckets; a task's number is its place."""
        return tuple(task for bucket in self.buckets for task in bucket.tasks)

    @property
    def points(self) -> int:
        """The number of points."""
        return sum(task.size for task in self.tasks)

    @cached_property
    def options(self) -> SolveOptions:
        """How the points are solved."""
        from dpsolve.solvers.options import SolveOptions

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
                        found[task.id] = receipt(task, status, bound)
        return found

    def write_task(self, task: Task, batch: Batch) -> Receipt:
        """Write what a task computed, then commit it.

        Raises
        ------
        StoreError
            If the disk refuses; the task is then not committed.
        """
        bucket = self.buckets[task.bucket]
        variables = batch.variables
        if "certificate" in bucket.results and "certificate" not in variables:
            # Begun when a sample certified large models unasked: what is added is a full one, 0.
            variables = variables | {"certificate": np.zeros(task.size, np.int8)}

        blocks = {
            name: array.block(getattr(batch, name) if name in RECORDS else variables[name],
                              task.shape)
            for name, array in bucket.results.items()
        }  # fmt: skip

        parts = {
            part.label: (part, part.of(block))
            for name, block in blocks.items()
            for part in bucket.parts(name, task)
        }

        with disk_errors(self.path):
            for label, (part, block) in parts.items():
                if label != "status":
                    bucket.write(part, task, block)
            sums = {label: block for label, (_, block) in parts.items()}
            commit, block = parts["status"]
            write_file(checksums.manifest_file(commit.file), checksums.encode(sums, task.size))
            bucket.write(commit, task, block)
        return receipt(task, batch.status, batch.error_bound)


def is_store(path: Path) -> bool:
    """Tell whether a folder is a store of dpsolve, of whatever version.

    Raises
    ------
    StoreError
        If the folder cannot be read.
    """
    return "dpsolve_store" in _read_metadata(path).get("attributes", {})


def open_store(path: Path | str) -> Store:
    """Open an existing store.

    Raises
    ------
    StoreError
        If there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    if fault := path_fault(str(path)):
        raise StoreError(f"there is no such store: {fault}")
    if not path.exists():
        raise StoreError(f"there is no store at {path}. Is the path right? A sweep makes one.")
    if not is_store(path):
        raise StoreError(
            f"{path} is not a store of dpsolve: its {METADATA} is missing or does not say so."
        )
    root = _read_metadata(path)
    attributes = root["attributes"]
    if attributes["dpsolve_store"] not in READABLE:
        raise StoreError(
            f"{path} has the store format {attributes['dpsolve_store']}; this dpsolve reads "
            f"formats {' and '.join(map(str, READABLE))}. It was begun with dpsolve "
            f"{attributes.get('dpsolve_version')}: use that version, or sweep into a new store."
        )
    try:
        return Store(path, attributes, _buckets(path, root), _source(attributes))
    except FileNotFoundError as error:
        raise StoreError(_damaged(path, f"{error.filename} is missing")) from error
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(_damaged(path, repr(error))) from error


def check_format(store: Store) -> None:
    """Refuse to add points to a store of an earlier format.

    Raises
    ------
    RefusedError
        If it is one: it does not hold the whole model, so that new points might be another's.
    """
    if (held := store.attributes["dpsolve_store"]) != FORMAT:
        raise RefusedError(
            f"{store.path} has the store format {held}, which does not hold what a model file "
            f"imports; new points go into stores of format {FORMAT} alone. Finish it with dpsolve "
            f"{store.attributes.get('dpsolve_version')}, or sweep into a new store; dp.open and "
            "dpsolve status read it as it is."
        )


def _damaged(path: Path, why: str) -> str:
    return (
        f"the store {path} is damaged: {why}. Restore it from a copy, or delete it and run the "
        "sweep again."
    )


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return a folder's metadata as a Zarr group, or nothing if it is none."""
    with disk_errors(path):
        try:
            document = json.loads((path / METADATA).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
    return document if isinstance(document, dict) else {}


def _source(attributes: Mapping[str, Any]) -> ModelSource:
    names = ("reference", "name", "kind", "source", "sha256")
    given = {name: attributes[f"model_{name}"] for name in names}
    given["files"] = attributes.get("model_files", "{}")  # absent in format 1
    return ModelSource.from_dict(given, folder=Path(attributes["model_folder"]))


def _buckets(path: Path, root: Mapping[str, Any]) -> tuple[StoredBucket, ...]:
    nodes: dict[str, Any] = root["consolidated_metadata"]["metadata"]
    groups = {name: node for name, node in nodes.items() if node["node_type"] == "group"}
    groups = _in_order(groups, root["attributes"].get("groups"))
    found: list[StoredBucket] = []
    first = 0
    for name, group in (groups or {"": root}).items():
        prefix = f"{name}/" if name else ""
        arrays = {
            key.removeprefix(prefix): ZarrArray.from_document(node)
            for key, node in nodes.items()
            if key.startswith(prefix) and node["node_type"] == "array"
        }
        arrays = _in_order(arrays, group["attributes"].get("arrays"))
        bucket = _bucket(path, name, group["attributes"], arrays, len(found), first)
        found.append(bucket)
        first += len(bucket.tasks)
    return tuple(found)


def _in_order(found: dict[str, T], names: str | None) -> dict[str, T]:
    """Return nodes in the order in which they were planned.

    Stores that were begun before zarr wrote them do not name it: their metadata have it.
    """
    return found if names is None else {name: found[name] for name in json.loads(names)}


def _bucket(
    path: Path,
    name: str,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, ZarrArray],
    number: int,
    first: int,
) -> StoredBucket:
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
