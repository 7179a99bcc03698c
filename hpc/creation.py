"""How a store comes into being: whole, or not at all.

The metadata and coordinates of the store are written into a draft beside its place, and the draft
is renamed. So a driver that is killed on the way leaves a draft, which the next one on the same
machine removes, and never half a store; and a folder that holds anything else is never touched,
because only an absent or empty one can be replaced.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..solvers.errors import RefusedError
from . import provenance
from .files import disk_errors
from .store import Store, is_store, open_store

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["DRAFT", "create", "open_or_create"]

DRAFT = ".draft"
"""The ending of a store's folder while it is created."""


def open_or_create(plan: Plan, command: str) -> Store:
    """Open the store of a sweep, or create it if it is not there.

    Raises
    ------
    RefusedError
        If another sweep, or anything else, lies there.
    StoreError
        If the disk refuses.
    """
    path = plan.path
    if not is_store(path):
        create(plan, command)
    store = open_store(path)
    if lines := provenance.differences(store, plan):
        raise RefusedError(_refusal(path, lines))
    # The same text, found in the folder that the caller names: that is where its imports lie.
    return replace(store, source=plan.source)


def create(plan: Plan, command: str) -> None:
    """Create a store in which every point is pending.

    Raises
    ------
    RefusedError
        If something lies at its path.
    StoreError
        If the disk refuses.
    """
    path = plan.path
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
        if ours and not _is_alive(int(process)):
            shutil.rmtree(entry, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False  # the draft is that of an earlier process with this number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refusal(path: Path, lines: list[str]) -> str:
    differing = "\n".join(f"  {line}" for line in lines)
    return (
        f"{path} holds another sweep; nothing was changed.\n{differing}\n"
        "Give this sweep a store of its own (--store OTHER.zarr), or restore the old settings and "
        f"the stored sweep goes on. To give up what is stored: rm -r {path}"
    )
