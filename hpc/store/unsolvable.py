"""Points that no worker can solve: marked `failed` in the store, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.plan.store_schema import RECORDS

from .buckets import Receipt

if TYPE_CHECKING:
    from .store import Store


def write_failed(store: Store, number: int, message: str) -> Receipt:
    """Commit a task whose points all failed for one reason, and return its receipt."""
    from dpsolve.sharding.batches.program import Batch

    task = store.tasks[number]
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
