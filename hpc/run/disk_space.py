"""Whether a sweep's results fit on the disk: refused where they cannot, told where they may not."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from dpsolve.hpc.plan.plan import Plan
from dpsolve.hpc.store.store import Store
from dpsolve.hpc.zarr_format import item_bytes
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics.memory import round_down, shown_bytes

COMPRESSION = 10  # to so small a part results may shrink: beyond that they never fit


def check_disk(plan: Plan) -> None:
    """Refuse results that do not fit on the disk, not even at a tenth of their size.

    Those that may fit once they are compressed are warned of when the sweep begins.

    Raises
    ------
    UsageError
        With the bytes, and the nearest number of points that fits.
    """
    place = next((p for p in (plan.path, *plan.path.absolute().parents) if p.exists()), Path("/"))
    if place == plan.path:
        return  # begun: what is left of it may fit
    free = shutil.disk_usage(place).free
    if plan.bytes <= COMPRESSION * free:
        return
    sizes: dict[str, int] = {}
    for part in plan.buckets:
        points = math.prod(part.bucket.shape)
        for name, variable in part.variables.items():
            each = math.prod(variable.shape) * item_bytes(variable.dtype)
            sizes[name] = sizes.get(name, 0) + points * each
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    shown = ", ".join(f"{name} {shown_bytes(sizes[name])}" for name in largest)
    raise UsageError(
        f"the results take {shown_bytes(plan.bytes)} before compression ({shown}), and "
        f"{shown_bytes(free)} are free at {place}. About "
        f"{round_down(plan.points * free / plan.bytes):,} points fit, in place of "
        f"{plan.points:,}; or keep less (keep), or store elsewhere"
    )


def lack_of_space(store: Store) -> str | None:
    """Return a warning where results may not fit on the disk, in words."""
    needed = sum(array.nbytes for bucket in store.buckets for array in bucket.results.values())
    free = shutil.disk_usage(store.path).free
    if needed <= free:
        return None
    return (
        f"the results may take up to {needed / 2**30:.1f} GiB before compression, and "
        f"{free / 2**30:.1f} GiB are free at {store.path}"
    )
