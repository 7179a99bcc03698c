"""Mass at the top of a state's grid, over the points of a store; without JAX or zarr."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.zarr_format import ZarrArray
from dpsolve.solvers.distributions.top_mass import PREFIX, texts

from .buckets import StoredBucket
from .store import Store

MOST_TASKS = 200  # of a bucket that are looked at, a file each


def top_mass_texts(store: Store, committed: Collection[int]) -> Iterator[str]:
    """Yield a sentence for each state with too much mass at the top of its grid.

    Parameters
    ----------
    store : Store
    committed : collection of int
        Numbers of the tasks that are. Of many, some are looked at, evenly spread.
    """
    for bucket in store.buckets:
        names = [n for n, array in bucket.results.items() if _is_top(n, array, bucket)]
        found = {name: _values(bucket, name, committed) for name in names}
        group = f"{bucket.bucket.group}: " if bucket.bucket.group else ""
        yield from (group + text for text in texts(found))


def _is_top(name: str, array: ZarrArray, bucket: StoredBucket) -> bool:
    """Tell whether an array is this, and no factory's own of such a name."""
    return (
        name.startswith(PREFIX)
        and "distribution_error" in bucket.results
        and array.dims == bucket.results["status"].dims
        and array.chunk is None
    )


def _values(bucket: StoredBucket, name: str, committed: Collection[int]) -> NDArray[Any]:
    tasks = [task for task in bucket.tasks if task.id in committed]
    step = -(-len(tasks) // MOST_TASKS) or 1
    found = []
    for task in tasks[::step]:
        try:
            record = bucket.record(name, task)
        except (ValueError, OSError):
            continue  # damaged: dpsolve verify tells
        if record is not None:
            found.append(record)
    return np.concatenate(found) if found else np.zeros(0)
