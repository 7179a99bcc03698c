"""A store of one point whose files are cut for one mesh, made ready for another.

Where devices share the states of a point, each writes files of its own, so the files are cut as the
mesh is. As long as nothing is committed, there is nothing in them to lose: the metadata are written
anew, the root last, and parts that were written and never committed are removed. A kill on the way
leaves metadata that differ, and the next call does it again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .atomic_files import disk_errors, write_file
from .store import METADATA, Store, open_store

if TYPE_CHECKING:
    from dpsolve.hpc.plan.plan import Plan


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
    meant = {name: array.document() for name, array in plan.buckets[0].results.items()}
    held = {name: array.document() for name, array in store.buckets[0].results.items()}
    if meant == held:
        return store
    with disk_errors(store.path):
        root = json.loads((store.path / METADATA).read_bytes())
        for name in meant:
            if meant[name] == held.get(name):
                continue
            for file in (store.path / name).glob("c.*"):
                file.unlink(missing_ok=True)
            write_file(store.path / name / METADATA, [json.dumps(meant[name]).encode()])
            root["consolidated_metadata"]["metadata"][name] = meant[name]
        write_file(store.path / METADATA, [json.dumps(root).encode()])
    return open_store(store.path)
