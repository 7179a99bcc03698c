"""Failed points: committing them, and ``--retry-failed``, which takes that back.

A point that failed is committed like any other, and no resume looks at it again. Where the reason
is gone (more memory, a mended package, another device), the commit of its task is taken back: the
status file is removed, which happens at once or not at all, and all points of the task are
computed again. Only the store's driver may do this, because another one's worker may be at them.

Points that no worker can solve are marked `failed` in the store, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.plan.store_schema import RECORDS

from .atomic_files import disk_errors
from .buckets import Dropped, Receipt
from .event_log import EventLog

if TYPE_CHECKING:
    from .store import Store


def has_failed(receipts: Mapping[int, Receipt]) -> bool:
    """Whether any point failed."""
    return any(receipt.failed for receipt in receipts.values())


def clear_failed(store: Store, receipts: dict[int, Receipt]) -> list[int]:
    """Take back the commits of tasks with failed points; return the tasks' numbers.

    Parameters
    ----------
    store : Store
    receipts : dict of int to Receipt
        Of the committed tasks; those of the tasks concerned are removed from it.

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    failed = [number for number, receipt in receipts.items() if receipt.failed]
    if not failed:
        return []
    event_log = EventLog(store, "driver")
    for number in failed:
        task = store.tasks[number]
        # Said first: a kill in between leaves a commit that still stands, and no work done twice.
        event_log.write("retried", task=number, failed=receipts[number].failed)
        with disk_errors(store.path):
            store.buckets[task.bucket].file("status", task).unlink()
        del receipts[number]
    event_log.close()
    return failed


def write_failed(store: Store, number: int, message: str) -> Receipt:
    """Commit a task whose points all failed for one reason, and return its receipt.

    If a worker that was held for dead has solved it after all, that stands.
    """
    from dpsolve.sharding.batches.program import Batch

    task = store.tasks[number]
    if (found := store.receipt(task)) is not None:
        return Dropped(**asdict(found))
    bucket = store.buckets[task.bucket]
    axes = len(task.shape)

    def filled(name: str) -> Any:
        array = bucket.results[name]
        return np.full((task.size, *array.shape[axes:]), array.fill, array.dtype)

    records = {"residual": np.nan, "error_bound": np.nan, "seconds": np.nan}
    batch = Batch(
        variables={name: filled(name) for name in bucket.results if name not in RECORDS},
        status=np.full(task.size, "failed", object),
        message=np.full(task.size, message, object),
        iterations=np.zeros(task.size, np.int32),
        code=np.full(task.size, 10, np.int32),
        **{name: np.full(task.size, value) for name, value in records.items()},
    )
    return store.write_task(task, batch)
