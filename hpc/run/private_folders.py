"""Folders that only their owner enters: logs, job scripts, compiled programs, keys, scratch.

A compiled program is code, and so is whatever lies in a folder that Python searches: who can write
there runs code as the user. A shared file system and a node's ``/tmp`` are open to others, so such
a folder is made for its owner alone, and one that is there already is looked at before it is used.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from dpsolve.hpc.store.atomic_files import disk_errors
from dpsolve.solvers.errors import RefusedError

OWNER_ONLY = 0o700


def private_folder(path: Path) -> Path:
    """Return a folder that only this user enters: made, or found to be one.

    Parents that are missing are made as any folder is.

    Raises
    ------
    RefusedError
        If it belongs to somebody else, or if others could write there until now.
    StoreError
        If the disk refuses.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = False
        with suppress(FileExistsError):
            path.mkdir(mode=OWNER_ONLY)
            made = True
        found = path.stat()  # of what a link leads to: a user may keep logs on another disk
        if not stat.S_ISDIR(found.st_mode):
            raise RefusedError(f"{path} is no folder: move it away.")
        if made and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
            raise RefusedError(
                f"{path} was just made for {_name(os.geteuid())} alone, and is not: this file "
                "system keeps no permissions. Put the store on a disk that does."
            )
        if found.st_uid != os.geteuid():
            raise RefusedError(
                f"{path} belongs to {_name(found.st_uid)}, and not to {_name(os.geteuid())}, who "
                "runs this: what lies there is not to be trusted. Move it away; it holds logs, "
                "scripts and compiled programs, and no results."
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RefusedError(
                f"others can write to {path} (its mode is {stat.S_IMODE(found.st_mode):o}): what "
                "lies there is not to be trusted. Delete it; it holds logs, scripts and compiled "
                "programs, and no results."
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(OWNER_ONLY)
    return path


def scratch_folder(parent: str | None = None) -> Path:
    """Return a folder for temporary files that only this user enters.

    dask would take ``/tmp/dask-scratch-space``, whoever made it, and let Python search it for
    modules.

    Parameters
    ----------
    parent : str, optional
        Where it is to be; by default where Python keeps temporary files.
    """
    import tempfile

    above = Path(parent or tempfile.gettempdir())
    try:
        return private_folder(above / f"dpsolve-{os.geteuid()}")
    except RefusedError:  # somebody took the name
        return Path(tempfile.mkdtemp(prefix="dpsolve-", dir=above))


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
