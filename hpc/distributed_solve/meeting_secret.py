"""What the processes of one solve know and nobody else: a secret in a file beside their store.

All of them write to the store, so all see its folder; whoever comes first makes the file, and the
others read it. Only its owner can. It stays for the next solve into the same store, so that nobody
has to agree on who removes it, and may be deleted whenever no process is about to start.
"""

from __future__ import annotations

import os
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from dpsolve.hpc.run.job_paths import jobs_folder
from dpsolve.hpc.run.private_folders import private_folder
from dpsolve.hpc.store.atomic_files import PARTIAL, disk_errors
from dpsolve.solvers.errors import RefusedError

FILE = "meeting.key"


def meeting_secret(store: Path) -> bytes:
    """Return the secret of the solves into a store; made, if there is none yet.

    Raises
    ------
    RefusedError
        If the folder or the file is not this user's own.
    StoreError
        If the disk refuses.
    """
    path = private_folder(jobs_folder(store)) / FILE
    with disk_errors(path):
        _make(path)
        found = path.lstat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise RefusedError(
                f"{path} is not yours alone, so it is no secret: delete it, and start all "
                "processes again."
            )
        return path.read_bytes()


def _make(path: Path) -> None:
    """Make the file, whole, if there is none."""
    draft = path.with_name(f"{FILE}.{uuid.uuid4().hex}{PARTIAL}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        # link(2) succeeds for one of several, whatever they believe to see on a shared disk.
        with suppress(FileExistsError):
            os.link(draft, path)
    except OSError:  # a file system without links: the first processes may have to start again
        if not path.exists():
            os.rename(draft, path)
    finally:
        draft.unlink(missing_ok=True)
