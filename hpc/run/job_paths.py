"""Where logs and job scripts of a store lie; the name of its jobs.

``growth.zarr.jobs`` holds files that the results do not need, so that
the store itself can be copied or archived as it is, and the folder deleted at any time. It is its
owner's alone (:mod:`.private_folders`).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from .private_folders import private_folder

NAME = 32
"""Characters of a store's name that its jobs bear."""


def jobs_folder(store: Path) -> Path:
    """Return the folder beside a store that belongs to its jobs."""
    store = store.absolute()
    return store.with_name(f"{store.name}.jobs")


def make_logs_folder(store: Path) -> Path:
    """Make the folder of a store's jobs, with that of their logs, for its owner alone.

    Raises
    ------
    RefusedError
        If it is not this user's own.
    """
    private_folder(jobs_folder(store))
    return private_folder(logs_folder(store))


def logs_folder(store: Path) -> Path:
    """Return where jobs write what they have to say."""
    return jobs_folder(store) / "logs"


def driver_log(store: Path) -> Path:
    """Return where a detached driver writes."""
    return logs_folder(store) / "driver.log"


def job_name(store: Path, role: str = "") -> str:
    """Return the name of a store's jobs, by which SLURM finds them: the same from anywhere.

    It is plain whatever the store is called: squeue takes a comma for the next name, and sbatch a
    space for the next option. The tag tells stores of one name apart.
    """
    path = store.resolve()
    tag = hashlib.sha256(bytes(path)).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem, flags=re.ASCII)[:NAME]
    return f"dpsolve-{stem}-{tag}" + (f"-{role}" if role else "")
