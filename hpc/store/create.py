"""Creating a store, whole or not at all; cutting its files anew for another mesh.

The metadata and coordinates of the store are written into a draft beside its place, and the draft
is renamed. So a driver that is killed on the way leaves a draft, which the next one on the same
machine removes, and never half a store; and a folder that holds anything else is never touched,
because only an absent or empty one can be replaced.

*Another mesh.* Where devices share the states of a point, each writes files of its own, so the
files are cut as the mesh is. As long as nothing is committed, there is nothing in them to lose: the
metadata are written anew, the root last, and parts that were written and never committed are
removed. A kill on the way leaves metadata that differ, and the next call does it again.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsolve.hpc.process_alive import is_alive
from dpsolve.hpc.zarr_format import group_document
from dpsolve.solvers.errors import RefusedError

from . import provenance
from .atomic_files import WRITERS, disk_errors, write_file
from .store import METADATA, Store, check_format, is_store, open_store

if TYPE_CHECKING:
    from dpsolve.hpc.plan.plan import Plan


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
    check_format(store)
    if lines := provenance.differences(store, plan):
        raise RefusedError(_refusal(path, lines))
    # The same program, installed where the caller names it.
    return replace(store, source=replace(store.source, folder=plan.source.folder))


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
    files = _files(plan, command)
    for folder in sorted({(draft / name).parent for name in files}):
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda name: write_file(draft / name, files[name]), files):
            pass


def _files(plan: Plan, command: str) -> dict[str, list[bytes]]:
    """Return the files of a new store: metadata and coordinates."""
    files: dict[str, list[bytes]] = {}
    nodes: dict[str, Any] = {}
    root = provenance.root_attributes(plan, command)
    for part in plan.buckets:
        group, own = part.bucket.group, provenance.bucket_attributes(part.bucket)
        prefix = f"{group}/" if group else ""
        documents = {name: array.document() for name, array in part.arrays.items()}
        for name, document in documents.items():
            files[f"{prefix}{name}/{METADATA}"] = [_json(document)]
        for name, (array, values) in part.coordinates.items():
            origin = array.key((0,) * len(array.dims))
            files[f"{prefix}{name}/{origin}"] = array.encode(values)
        if group:
            # Complete by itself too, for xarray.open_zarr(path, group=...).
            files[prefix + METADATA] = [_json(group_document(own, documents))]
            nodes[group] = group_document(own, {})
        else:
            root |= own
        nodes |= {prefix + name: document for name, document in documents.items()}
    files[METADATA] = [_json(group_document(root, nodes))]
    return files


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


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _refusal(path: Path, lines: list[str]) -> str:
    differing = "\n".join(f"  {line}" for line in lines)
    return (
        f"{path} holds another sweep; nothing was changed.\n{differing}\n"
        "Give this sweep a store of its own (--store OTHER.zarr), or restore the old settings and "
        f"the stored sweep goes on. To give up what is stored: rm -r {path}"
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
