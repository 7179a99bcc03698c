"""``--overwrite``: a store taken away, so that the same path holds another sweep."""

from __future__ import annotations

import os
import shlex
import shutil
import uuid
from pathlib import Path

from dpsolve.hpc.store.atomic_files import disk_errors
from dpsolve.hpc.store.store import is_store, open_store
from dpsolve.solvers.errors import RefusedError

from .single_driver import driver_record


def remove_store(path: Path) -> None:
    """Delete a store; what is none stays as it is.

    Its folder is renamed first, so that a kill leaves a whole store at its path, or none.

    Raises
    ------
    RefusedError
        If a driver is at work on it, or it is not this user's own folder.
    StoreError
        If the disk refuses.
    """
    if not path.is_dir() or not is_store(path):
        return
    if path.is_symlink():
        raise RefusedError(
            f"--overwrite: {path} is a link to {path.resolve()}, and nothing was deleted. Name "
            "that folder, or remove the link."
        )
    if path.stat().st_uid != os.geteuid():
        raise RefusedError(
            f"--overwrite: {path} belongs to another user, and nothing was deleted. Sweep into a "
            "store of your own: --store OTHER.zarr"
        )
    driver = driver_record(open_store(path))
    if driver is not None and driver.alive:
        raise RefusedError(
            f"--overwrite: {driver} is at work on {path}. End it first: dpsolve cancel "
            f"{shlex.quote(str(path))}"
        )
    with disk_errors(path):
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.removed")
        path.rename(aside)
        shutil.rmtree(aside)
