"""Result of a distributed solve: written by all processes, committed by one.

Each process writes the parts of the states that its devices have, and tells their checksums;
process 0 writes what is not cut, the manifest of all checksums, and last the status, which is the
commit. No process ever has the whole of an array that is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.store_schema import RECORDS
from dpsolve.hpc.store import checksums
from dpsolve.hpc.store.atomic_files import disk_errors, write_file

from .agreement import together

if TYPE_CHECKING:
    from dpsolve.hpc.store.buckets import StoredBucket
    from dpsolve.hpc.store.store import Store
    from dpsolve.sharding.processes.group import ProcessGroup
    from dpsolve.solvers.numerics.partition import Partition


Sums = dict[str, int]


class Result:
    """What was found at one point: arrays on the devices of all processes.

    Parameters
    ----------
    arrays : mapping of str to jax.Array
    dims : mapping of str to tuple of str
    cut : Partition or None
        The state whose axis is cut.
    records : mapping
        What is recorded of the point: `RECORDS` by name.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        dims: Mapping[str, tuple[str, ...]],
        partition: Partition | None,
        records: Mapping[str, Any],
    ) -> None:
        self.arrays, self.dims, self.partition, self.records = arrays, dims, partition, records


def commit(store: Store, result: Result, group: ProcessGroup) -> None:
    """Write the one point of a store, and commit it.

    Raises
    ------
    StoreError
        If the disk refuses, in one process alone.
    AgreedError
        The same, in every one of several processes.
    """
    bucket = store.buckets[0]
    own = together(group, lambda: _write_parts(store, bucket, result, every=group.first))
    sums: Sums = {label: each for some in group.gather(own) for label, each in some.items()}
    together(group, partial(_commit, store, bucket, result, sums) if group.first else _nothing)


def _nothing() -> None:
    """Wait for process 0."""


def _write_parts(store: Store, bucket: StoredBucket, result: Result, *, every: bool) -> Sums:
    """Write what this process has of the arrays; return the checksums."""
    from dpsolve.sharding.processes.stepwise import pieces

    task = bucket.tasks[0]
    sums: Sums = {}
    for name, array in bucket.results.items():
        if name in RECORDS:
            continue
        files = bucket.parts(name, task)
        x, dims = result.arrays[name], result.dims[name]
        for piece in pieces(name, x, dims, result.partition, every=every):
            file = files[piece.box.number if piece.box is not None else 0]
            block = np.asarray(piece.values, np.dtype(array.dtype))[None]
            with disk_errors(store.path):
                bucket.write(file, task, block)
            sums[file.label] = int(checksums.digests(block, 1)[0])
    return sums


def _commit(store: Store, bucket: StoredBucket, result: Result, sums: Sums) -> None:
    """Write records and manifest, and last the status."""
    task = bucket.tasks[0]
    blocks: dict[str, NDArray[Any]] = {
        name: bucket.results[name].block([result.records[name]], task.shape) for name in RECORDS
    }
    sums = sums | {name: int(checksums.digests(block, 1)[0]) for name, block in blocks.items()}
    vouched = [name for name in bucket.results if name not in checksums.MEASURED]
    labels = [part.label for name in vouched for part in bucket.parts(name, task)]
    table = {label: np.array([sums[label]], np.uint32) for label in labels}
    status = bucket.file("status", task)
    with disk_errors(store.path):
        for name, block in blocks.items():
            if name != "status":
                bucket.write(bucket.parts(name, task)[0], task, block)
        write_file(checksums.manifest_file(status), checksums.seal(table))
        bucket.write(bucket.parts("status", task)[0], task, blocks["status"])
