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
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import Bucket
from dpsolve.hpc.plan.store_schema import FORMAT, READABLE, RECORDS
from dpsolve.hpc.plan.tasks import Task
from dpsolve.hpc.sweep_file.mistakes import path_fault
from dpsolve.hpc.sweep_file.model_source import Kind, ModelSource, StoredSource
from dpsolve.hpc.terminal_text import printable
from dpsolve.hpc.zarr_format import METADATA, ZarrArray
from dpsolve.solvers.errors import DamagedError, RefusedError, StoreError, UsageError

from . import checksums
from .atomic_files import disk_errors, read_plain, write_file
from .buckets import TALLY, Dropped, Receipt, Row, StoredBucket, Tallies, receipt

if TYPE_CHECKING:
    from dpsolve.sharding.batches.program import Batch
    from dpsolve.solvers.options import SolveOptions


TALLIES = ".tallies"
MANY_TASKS = 1000
"""From so many tasks on, drivers note what they know of them."""

MOST_TASKS, MOST_PARTS = 2**22, 2**16
"""Tasks of a store, and files of one array for one of them: each device writes its own."""

MOST_BYTES, MOST_RATIO = 2**28, 100

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
        return sum(bucket.bucket.size for bucket in self.buckets)

    @cached_property
    def options(self) -> SolveOptions:
        """How the points are solved."""
        from dpsolve.solvers.options import SolveOptions

        return SolveOptions.from_mapping(json.loads(self.attributes["solve"]))

    @property
    def tol(self) -> float | None:
        """The certified error to reach; None: as good as the grid allows."""
        return self.options.tolerance(any(b.certifies == "continuum" for b in self.buckets))

    @property
    def of_what(self) -> str:
        """What certified errors are of, in words."""
        return next(iter({b.of_what: None for b in self.buckets if b.of_what}), "")

    def receipts(self) -> dict[int, Receipt]:
        """Return a receipt for each committed task.

        A damaged status file is no commit: its task is done again.
        """
        with disk_errors(self.path):
            rows = [row for bucket in self.buckets for row in bucket.tallies({}).tolist()]
        return {task: Receipt(task, *counts) for task, _, _, *counts in rows}

    def tallies(self) -> list[Tallies]:
        """Return what is known of the committed tasks of each bucket, as drivers noted it."""
        with disk_errors(self.path):
            noted = {row[:3]: row for row in self._noted()}
            return [bucket.tallies(noted) for bucket in self.buckets]

    def note(self, receipts: Iterable[Receipt], *, anew: bool = False) -> None:
        """Note what is known of committed tasks, in the one file of this process.

        The disk may refuse it: then their own files are read.

        Parameters
        ----------
        receipts : iterable of Receipt
        anew : bool
            Of many tasks, for some of which there may be notes already.
        """
        with suppress(OSError):
            noted = {row[:3] for row in self._noted()} if anew else ()
            rows = []
            for each in receipts:
                held = self._status(each.task).stat()
                at = (each.task, held.st_size, held.st_mtime_ns)
                if at not in noted:
                    rows.append((*at, each.solved, each.inexact, each.failed, each.error_bound))
            if rows:
                self._notes.parent.mkdir(exist_ok=True)
                with self._notes.open("ab") as file:
                    file.write(np.array(rows, TALLY).tobytes())

    def _noted(self) -> Iterator[Row]:
        for file in sorted(self._notes.parent.glob(f"*{TALLIES}")):
            try:
                content = read_plain(file)
            except (OSError, ValueError):
                continue
            whole = len(content) - len(content) % TALLY.itemsize  # a kill may have torn the last
            yield from np.frombuffer(content[:whole], TALLY).tolist()

    @cached_property
    def _notes(self) -> Path:
        writer = f"{platform.node()}-{os.getpid()}-{time.time_ns()}{TALLIES}"
        return self.buckets[0].folder / "status" / "tallies" / writer

    def _status(self, number: int) -> Path:
        task = self.tasks[number]
        return self.buckets[task.bucket].file("status", task)

    def write_task(self, task: Task, batch: Batch) -> Receipt:
        """Write what a task computed, then commit it, unless another process has done so.

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
            sums = {label: block for label, (part, block) in parts.items()
                    if part.array not in checksums.MEASURED}  # fmt: skip
            commit, block = parts["status"]
            write_file(checksums.manifest_file(commit.file), checksums.encode(sums, task.size))
            try:
                bucket.write(commit, task, block)
            except FileExistsError:  # of a worker that was held for dead, or of another driver
                if (found := self.receipt(task)) is not None:
                    return Dropped(**asdict(found))
                commit.file.unlink()  # damaged
                bucket.write(commit, task, block)
        return receipt(task, batch.status, batch.error_bound)

    def receipt(self, task: Task) -> Receipt | None:
        """Return the receipt of a task, None if it is not committed or its commit is damaged."""
        bucket = self.buckets[task.bucket]
        try:
            status, bound = bucket.record("status", task), bucket.record("error_bound", task)
        except ValueError:
            return None
        return None if status is None or bound is None else receipt(task, status, bound)


def is_store(path: Path) -> bool:
    """Tell whether a folder is a store of dpsolve, of whatever version.

    Raises
    ------
    StoreError
        If the folder cannot be read.
    """
    return "dpsolve_store" in _attributes(_read_metadata(path))


NONSENSE = (
    LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError
)  # fmt: skip
"""What comes of reading metadata that nobody checked: any value may stand in any place."""


def open_store(path: Path | str) -> Store:
    """Open an existing store, to be read: nothing of it can run (see :mod:`.trust`).

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
    root = _read_metadata(path)
    attributes = _attributes(root)
    if "dpsolve_store" not in attributes:
        raise StoreError(f"{path} is not a store of dpsolve: {_no_metadata(path)}.")
    if attributes["dpsolve_store"] not in READABLE:
        raise StoreError(
            f"{path} has the store format {attributes['dpsolve_store']}; this dpsolve reads "
            f"formats {' and '.join(map(str, READABLE))}. It was begun with dpsolve "
            f"{attributes.get('dpsolve_version')}: use that version, or sweep into a new store."
        )
    try:
        with disk_errors(path):
            store = Store(path, attributes, _buckets(path, root), _source(attributes))
            _ = store.options
            return store
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            missing = f"{error.__cause__.filename} is missing"
            raise DamagedError(_damaged(path, missing)) from error.__cause__
        raise
    except UsageError as error:  # of the options
        raise DamagedError(_damaged(path, str(error))) from error
    except NONSENSE as error:
        why = str(error) if isinstance(error, ValueError) else repr(error)
        raise DamagedError(_damaged(path, why)) from error


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
        f"the store {path} is damaged: {printable(why)}. Restore it from a copy, or delete it and "
        "run the sweep again."
    )


def read_document(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    ValueError
        If it is none, in words.
    OSError
        If it cannot be read.
    """
    content = read_plain(file)
    if not content.strip():
        raise ValueError(f"{file.name} is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is no JSON, or only a part of it ({error})") from None


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return a folder's metadata as a Zarr group, or nothing if it is none."""
    with disk_errors(path):
        try:
            document = read_document(path / METADATA)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
    return document if isinstance(document, dict) else {}


def _attributes(document: Mapping[str, Any]) -> dict[str, Any]:
    found = document.get("attributes")
    return found if isinstance(found, dict) else {}


def _no_metadata(path: Path) -> str:
    """Say why a folder has no metadata of a store."""
    try:
        read_document(path / METADATA)
    except ValueError as error:
        return f"{error}. If a store was here, restore that file from a copy"
    except OSError:
        return f"it has no {METADATA}"
    return f"its {METADATA} does not say so"


def _source(attributes: Mapping[str, Any]) -> StoredSource:
    names = ("reference", "name", "kind", "source", "sha256")
    given = {name: attributes[f"model_{name}"] for name in names}
    given["files"] = attributes.get("model_files", "{}")  # absent in format 1
    found = StoredSource.from_dict(given, folder=Path(attributes["model_folder"]))
    assert isinstance(found, StoredSource)
    texts = [getattr(found, name) for name in names]
    if not all(isinstance(text, str) for text in (*texts, *chain(*found.files))):
        raise TypeError("the model's source is no text")
    for name, _ in found.files:
        for part in name.split("/"):
            _plain_name(part)
    if found.kind not in get_args(Kind) or (found.kind == "builtin") != found.is_builtin:
        raise ValueError(f"there is no model {found.reference} of the kind {found.kind}")
    return found


def _plain_name(name: Any) -> str:
    """Return a name if it is that of a folder in the store, and nowhere else.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\0"):
        raise ValueError(
            f"{name!r} is no name of a group, an array or a file: it leads out of the store"
        )
    return name


def _inside(folder: Path) -> Path:
    """Return a folder of the store, unless it is a link to somewhere else."""
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, and a store holds its files itself")
    return folder


def _buckets(path: Path, root: Mapping[str, Any]) -> tuple[StoredBucket, ...]:
    nodes: dict[str, Any] = root["consolidated_metadata"]["metadata"]
    for name in nodes:
        for part in name.split("/"):
            _plain_name(part)
    groups = {name: node for name, node in nodes.items() if node["node_type"] == "group"}
    groups = _in_order(groups, root["attributes"].get("groups"))
    found: list[StoredBucket] = []
    first = 0
    for name, group in (groups or {"": root}).items():
        prefix = f"{_plain_name(name)}/" if name else ""
        arrays = {
            key.removeprefix(prefix): ZarrArray.from_document(node)
            for key, node in nodes.items()
            if key.startswith(prefix) and node["node_type"] == "array"
        }
        for array in (
            "",
            *map(_plain_name, arrays),
            "status/ledger",
            "status/checkpoint",
            "status/tallies",
        ):
            _inside(path / name / array if name or array else path / "status")
        arrays = _in_order(arrays, group["attributes"].get("arrays"))
        bucket = _bucket(path, name, group["attributes"], arrays, len(found), first)
        found.append(bucket)
        first += bucket.task_count
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
    fixed: list[str] = json.loads(attributes.get("fixed_arrays", "[]"))
    _check_sizes(folder, arrays, {*status.dims, *swept, *fixed})

    def values(coordinate: str) -> NDArray[Any]:
        array = arrays[coordinate]
        try:
            return array.decode(read_plain(_only_file(folder, coordinate, array)))
        except ValueError as error:
            raise ValueError(f"the coordinate {coordinate} cannot be read: {error}") from None

    axes = {dim: values(dim) for dim in status.dims}
    bucket = Bucket(
        group=name,
        sizes=_numbers(attributes["sizes"], bool | int | float | str | None),
        axes=axes,
        parameters={
            p: (
                tuple(d for d in arrays[p].dims if d in axes),
                axes[p] if p in axes else values(p),
            )
            for p in swept
        },
        fixed=_numbers(attributes["fixed"], int | float) | {p: values(p) for p in fixed},
        own={
            p: own
            for p in (*swept, *fixed)
            if (own := tuple(d for d in arrays[p].dims if d not in axes))
        },
    )
    on_axes = {k: a for k, a in arrays.items() if a.dims[: len(axes)] == status.dims}
    results = {k: a for k, a in on_axes.items() if k not in axes and k not in (*swept, *fixed)}
    if missing := [record for record in RECORDS if record not in results]:
        raise ValueError(f"{missing[0]} does not lie along the dimensions of its points")
    results["status"] = results.pop("status")
    for result, array in results.items():
        if array.shape[: len(axes)] != bucket.shape or array.cell[: len(axes)] != status.cell:
            raise ValueError(f"{result} and status differ in their points")
        if array.files > MOST_PARTS * status.files:
            raise ValueError(f"{result} has more than {MOST_PARTS:,} files for each task")
    labels = {name: array.attributes for name, array in arrays.items()}
    return StoredBucket(folder, bucket, results, number, first, labels)


def _numbers(text: str, kind: Any) -> dict[str, Any]:
    """Read values by name.

    Raises
    ------
    TypeError
        If it is something else.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(x, kind) for x in found.values()):
        raise TypeError(f"{text[:80]} are no values by name")
    return found


def _only_file(folder: Path, name: str, array: ZarrArray) -> Path:
    return folder / name / array.key((0,) * len(array.dims))


def _check_sizes(folder: Path, arrays: Mapping[str, ZarrArray], names: Iterable[str]) -> None:
    """Refuse what a small file makes large, before memory is taken for it.

    Raises
    ------
    ValueError
        If there are more tasks than :data:`MOST_TASKS`, or the parameters' values take more than
        :data:`MOST_BYTES` of memory and hardly any of the disk.
    """
    status = arrays["status"]
    tasks = status.files
    if tasks > MOST_TASKS:
        raise ValueError(
            f"it has {tasks:,} tasks, and this dpsolve takes up to {MOST_TASKS:,}: a sweep into a "
            "new store with more points_per_task has fewer"
        )
    read = {name: arrays[name] for name in names}
    needed = sum(array.nbytes for array in read.values())
    if needed > MOST_BYTES:
        held = sum(_only_file(folder, n, array).stat().st_size for n, array in read.items())
        if needed > MOST_RATIO * held:
            raise ValueError(f"its parameters unpack to {needed:,} bytes from {held:,} on the disk")
