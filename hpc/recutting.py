"""A store of one point whose files are cut for one mesh, made ready for another.

Where devices share the states of a point, each writes files of its own, so the files are cut as the
mesh is. As long as nothing is committed, there is nothing in them to lose: the metadata are written
anew, the root last, and parts that were written and never committed are removed. A kill on the way
leaves metadata that differ, and the next call does it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .files import disk_errors
from .store import Store, open_store
from .zarr_format import METADATA

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["recut"]


def recut(store: Store, plan: Plan) -> Store:
    """Return the store of a plan, its files cut as the plan says.

    Parameters
    ----------
    store : Store
        Of the same sweep, of one point, with nothing committed.
    plan : Plan

    Raises
    ------
    StoreError
        If the disk refuses.
    """
    meant, held = plan.buckets[0].results, store.buckets[0].results
    cuts = {name: (array.cell, array.chunk) for name, array in held.items()}
    others = [name for name, array in meant.items() if (array.cell, array.chunk) != cuts.get(name)]
    if not others:
        return store
    # Only now: zarr takes a while to import, and a store that stays as it is needs none.
    from .zarr_store import consolidate, create_array

    with disk_errors(store.path):
        for name in others:
            # Not the whole folder: that of the status holds the driver's record and more.
            for file in (store.path / name).glob("c.*"):
                file.unlink(missing_ok=True)
            (store.path / name / METADATA).unlink(missing_ok=True)
            create_array(store.path, name, meant[name])
        consolidate(store.path)
    return open_store(store.path)
