"""Creating a store, whole or not at all; cutting its files anew for another mesh.

The metadata and coordinates of the store are written into a draft beside its place, sealed
(:mod:`.trust`), and the draft is renamed. So a driver that is killed on the way leaves a draft,
which the next one on the same machine removes, and never half a store; and a folder that holds
anything else is never touched, because only an absent or empty one can be replaced.

*Another mesh.* Where devices share the states of a point, each writes files of its own, so the
files are cut as the mesh is. As long as nothing is committed, there is nothing in them to lose: the
metadata are written anew, the root last, and parts that were written and never committed are
removed. A kill on the way leaves metadata that differ, and the next call does it again.
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.process_alive import is_alive
from dpsolve.hpc.zarr_format import METADATA
from dpsolve.solvers.errors import RefusedError, UsageError

from . import provenance
from .atomic_files import disk_errors
from .store import MOST_TASKS, Store, check_format, is_store, open_store
from .trust import seal, trusted

if TYPE_CHECKING:
    from dpsolve.hpc.plan.plan import Plan


DRAFT = ".draft"
"""The ending of a store's folder while it is created."""


def open_or_create(plan: Plan, command: str) -> Store:
    """Open the store of a sweep, or create it if it is not there.

    Raises
    ------
    RefusedError
        If another sweep, or anything else, lies there; or if the store was altered.
    StoreError
        If the disk refuses.
    """
    path = plan.path
    if not is_store(path):
        create(plan, command)
    store = open_store(path)
    check_format(store)
    if lines := provenance.differences(store, plan):
        raise RefusedError(_refusal(path, lines))
    # The same program: what runs is the caller's own.
    return trusted(store, plan.source)


def create(plan: Plan, command: str) -> None:
    """Create a store in which every point is pending.

    Raises
    ------
    RefusedError
        If something lies at its path.
    StoreError
        If the disk refuses.
    UsageError
        If it would have too many tasks.
    """
    path = plan.path
    if len(plan.tasks) > MOST_TASKS:
        raise UsageError(
            f"the sweep has {len(plan.tasks):,} tasks, each with a file for every variable; a "
            f"store takes {MOST_TASKS:,}. Give a task more points: points_per_task in [store]."
        )
    with disk_errors(path):
        if path.is_dir() and any(path.iterdir()):
            raise RefusedError(
                f"{path} exists and is not a store of dpsolve; nothing in it was touched. Choose "
                "another place with --store, or move that folder away."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead_drafts(path)
        draft = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}{DRAFT}")
        try:
            _write_draft(draft, plan, command)
            _publish(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _write_draft(draft: Path, plan: Plan, command: str) -> None:
    from .zarr_store import consolidate, create_group

    root = provenance.root_attributes(plan, command)
    if subgroups := any(part.bucket.group for part in plan.buckets):
        create_group(draft, root, {}, {})
        root = {}
    for part in plan.buckets:
        # Complete by itself too, for xarray.open_zarr(path, group=...).
        create_group(
            draft / part.bucket.group,
            root | provenance.bucket_attributes(part.bucket, part.arrays),
            part.arrays,
            {name: values for name, (_, values) in part.coordinates.items()},
        )
    if subgroups:
        consolidate(draft)
    seal(open_store(draft))


def _publish(draft: Path, path: Path) -> None:
    try:
        os.rename(draft, path)
    except OSError as error:
        # Another driver was faster: its store is the one to open and compare.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_store(path):
            raise


def _remove_dead_drafts(path: Path) -> None:
    """Remove what killed drivers of this machine left behind."""
    start = f".{path.name}.{platform.node()}-"
    for entry in path.parent.iterdir():
        process = entry.name.removeprefix(start).removesuffix(DRAFT)
        ours = entry.name == f"{start}{process}{DRAFT}" and process.isdecimal()
        if not ours:
            continue
        # A draft with this process's number is that of an earlier one.
        if int(process) == os.getpid() or not is_alive(int(process)):
            shutil.rmtree(entry, ignore_errors=True)


def _refusal(path: Path, lines: list[str]) -> str:
    differing = "\n".join(f"  {line}" for line in lines)
    return (
        f"{path} holds another sweep; nothing was changed.\n{differing}\n"
        "Give this sweep a store of its own (--store OTHER.zarr), or restore the old settings and "
        "the stored sweep goes on. To give up what is stored "
        f"({shlex.quote(str(path))}): --overwrite (overwrite=True)"
    )


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
    return replace(open_store(store.path), source=store.source)
