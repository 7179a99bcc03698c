"""What of a store is missing, damaged or altered; taking back the commits of damaged tasks.

A commit says that a task's data were on the disk. What becomes of them later it cannot know: a disk
fails, somebody deletes a file or writes into one. Every number is compared with the manifest of its
task (:mod:`.checksums`); where one does not agree, the commit is taken back like that of failed
points, by the store's driver alone, and the task is computed again.
"""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import point_label, point_parameters
from dpsolve.hpc.zarr_format import METADATA
from dpsolve.solvers.errors import DamagedError

from . import checksums
from .atomic_files import disk_errors, read_plain
from .event_log import EventLog
from .store import read_document

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task

    from .buckets import StoredBucket
    from .store import Store


Block = dict[str, NDArray[Any]]
"""Every array of some points, the first axis the points'."""


def node_faults(store: Store) -> Iterator[str]:
    """Compare the metadata of every array and group with those in the store's own."""
    nodes = read_document(store.path / METADATA)["consolidated_metadata"]["metadata"]
    for name, node in nodes.items():
        try:
            own = read_document(store.path / name / METADATA)
        except FileNotFoundError:
            yield f"the metadata of {name} are missing: there is no {name}/{METADATA}"
            continue
        except ValueError as error:
            yield f"the metadata of {name} are damaged: {error}"
            continue
        whole = isinstance(own, dict) and own.pop("consolidated_metadata", True)
        if not whole or own != {k: v for k, v in node.items() if k != "consolidated_metadata"}:
            yield f"the metadata of {name} differ from those in the store's own {METADATA}"


def check_metadata(store: Store) -> None:
    """Refuse to write into arrays whose own metadata are not those that the store was made with.

    Raises
    ------
    DamagedError
        If some are not.
    """
    with disk_errors(store.path):
        for fault in node_faults(store):
            raise DamagedError(
                f"the store {store.path} is damaged: {fault}. Nothing was run. Restore it from a "
                "copy, or delete it and run the sweep again."
            )


def damaged_tasks(store: Store) -> Iterator[tuple[Task, list[str]]]:
    """Yield every committed task that is missing something, or holds what was not written."""
    with disk_errors(store.path):
        for bucket, group in zip(store.buckets, open_groups(store), strict=True):
            for task in bucket.committed():
                if faults := read_task(bucket, task, group)[1]:
                    yield task, faults


def open_groups(store: Store) -> list[Any]:
    """Open the group of each bucket, as zarr reads it.

    Raises
    ------
    DamagedError
        If zarr cannot read what the store says of its arrays.
    """
    import zarr

    with as_zarr_reads(store.path):
        root = zarr.open_group(store.path, mode="r")
        groups = [root[b.bucket.group] if b.bucket.group else root for b in store.buckets]
        for bucket, group in zip(store.buckets, groups, strict=True):
            for name in bucket.results:
                _ = group[name]  # type: ignore[index]  # whatever zarr raises here is the fault
    return groups


@contextmanager
def as_zarr_reads(path: Path) -> Iterator[None]:
    """Turn whatever zarr or xarray raise at a store's metadata into one error that names it.

    Raises
    ------
    DamagedError
    """
    try:
        yield
    except Exception as error:
        raise DamagedError(
            f"the store {path} is damaged: zarr cannot read it ({in_short(error)}). Restore "
            "it from a copy, or delete it and run the sweep again."
        ) from error


@contextmanager
def as_zarr_decodes(path: Path) -> Iterator[None]:
    """Turn what zarr raises while it reads a store's numbers into one error with the remedy.

    Raises
    ------
    DamagedError
        Of nothing else than what came from there.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any("zarr" in Path(frame.filename).parts for frame in frames):
            raise
        raise DamagedError(
            f"the store {path} is damaged: {in_short(error)}. What is damaged: dpsolve doctor "
            f"{shlex.quote(str(path))}"
        ) from error


def take_back(store: Store, tasks: Iterable[Task]) -> None:
    """Take back the commits of damaged tasks. Only the store's driver may do this.

    Parameters
    ----------
    store : Store
    tasks : iterable of Task

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    event_log = EventLog(store, "driver")
    for task in tasks:
        # Said first: a kill in between leaves a commit that still stands, and no work done twice.
        event_log.write("retried", task=task.id, damaged=True)
        with disk_errors(store.path):
            store.buckets[task.bucket].file("status", task).unlink(missing_ok=True)
    event_log.close()


def read_task(bucket: StoredBucket, task: Task, group: Any) -> tuple[Block, list[str]]:
    """Read everything of a task's points; return it with what is missing, damaged or altered.

    Parameters
    ----------
    bucket : StoredBucket
    task : Task
    group : zarr.Group
        Of the bucket.
    """
    block: Block = {}
    faults: list[str] = []

    def say(name: str, what: str, bad: NDArray[np.bool_] | None = None) -> None:
        where = np.arange(task.size) if bad is None else np.flatnonzero(bad)
        more = f" (and at {where.size - 1} more points of the task)" if where.size > 1 else ""
        point = point_parameters(bucket.bucket, task.start + int(where[0]))
        faults.append(f"{point_label(point)}: {name} {what}{more}")

    region = bucket.region(task)
    for name in bucket.results:
        if absent := [p.file.name for p in bucket.parts(name, task) if not p.file.is_file()]:
            say(name, f"is missing: its file {absent[0]} is not there")
            continue
        try:
            check_unpacked(bucket, name, task)
            values = np.asarray(group[name][region])
        except Exception as error:  # whatever a codec raises on damaged bytes
            say(name, f"cannot be read: {in_short(error)}")
            continue
        block[name] = values.reshape(task.size, *values.shape[len(region) :])
    _compare_manifest(bucket, task, block, say)
    return block, faults


def check_unpacked(bucket: StoredBucket, name: str, task: Task) -> None:
    """Refuse files that would unpack to more than an array has there, before they do.

    Raises
    ------
    ValueError
        If one would.
    OSError
        If one cannot be read.
    """
    array = bucket.results[name]
    for part in bucket.parts(name, task):
        if array.chunk is None:
            array.decode(read_plain(part.file))
        else:
            array.check_chunks(part.file)


def _compare_manifest(
    bucket: StoredBucket, task: Task, block: Block, say: Callable[..., None]
) -> None:
    file = checksums.manifest_file(bucket.file("status", task))
    try:
        expected = checksums.decode(read_plain(file))
    except FileNotFoundError:
        say("manifest", f"is missing: there is no {file.parent.name}/{file.name}")
        return
    except ValueError as error:
        say("manifest", f"({file.parent.name}/{file.name}) is damaged: {error}")
        return
    parts = {p.label: (name, p) for name in bucket.results for p in bucket.parts(name, task)}
    if missing := sorted((parts.keys() ^ expected.keys()) - checksums.MEASURED):
        say("manifest", f"and store do not hold the same arrays: {', '.join(missing)}")
    for piece, (name, part) in parts.items():
        if name not in block or piece not in expected or name in checksums.MEASURED:
            continue
        bad = checksums.digests(part.of(block[name]), task.size) != expected[piece]
        if bad.any():
            say(piece, "was altered: its checksum in the manifest is another", bad)


def in_short(error: Exception) -> str:
    """Return what an error says, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) < 200 else text[:200] + " ..."
