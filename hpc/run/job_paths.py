"""Where logs, caches and job scripts of a store lie; the name of its jobs.

``growth.zarr.jobs`` holds logs and compiled programs: files that the results do not need, so that
the store itself can be copied or archived as it is, and the folder deleted at any time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def jobs_folder(store: Path) -> Path:
    """Return the folder beside a store that belongs to its jobs."""
    store = store.absolute()
    return store.with_name(f"{store.name}.jobs")


def logs_folder(store: Path) -> Path:
    """Return where jobs write what they have to say."""
    return jobs_folder(store) / "logs"


def cache_folder(store: Path) -> Path:
    """Return where compiled programs lie, for all jobs of the sweep."""
    return jobs_folder(store) / "compiled"


def driver_log(store: Path) -> Path:
    """Return where a detached driver writes."""
    return logs_folder(store) / "driver.log"


def job_name(store: Path, role: str = "") -> str:
    """Return the name of a store's jobs, by which SLURM finds them: the same from anywhere."""
    path = store.resolve()
    tag = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"dpsolve-{path.stem}-{tag}" + (f"-{role}" if role else "")
