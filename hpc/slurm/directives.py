"""#SBATCH lines: what a user or a path brings into them, written so that sbatch reads it back.

sbatch splits such a line by rules of its own: spaces part options, ``#`` ends the line, quotes and
backslashes are taken away. In the name of a log, ``%`` begins a pattern, and a backslash switches
all patterns off.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.run.job_paths import job_name, logs_folder
from dpsolve.solvers.errors import UsageError

if TYPE_CHECKING:
    from .profiles import Profile

_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+@^~%&|()\[\]*-]*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")


def quoted(text: str) -> str:
    """Return a value as it is written in an #SBATCH line; options of one word stay as they are."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def check_store_path(store: Path) -> None:
    """Refuse a path that SLURM cannot write its logs beside.

    Raises
    ------
    UsageError
        If it has a backslash or a control character, a line break for example.
    """
    path = str(store.absolute())
    if found := _UNPRINTABLE.search(path):
        raise UsageError(
            f"the store's path has the character {found[0]!r} in it: {path!r}. SLURM cannot name "
            "a job's log under such a path. Choose another one for --on slurm: --store PATH."
        )


def log_pattern(store: Path, name: str) -> str:
    """Return the option ``--output`` for a log beside a store; ``%j`` in `name` is the job."""
    check_store_path(store)
    folder = str(logs_folder(store)).replace("%", "%%")
    return f"--output={quoted(f'{folder}/{name}')}"


def memory(profile: Profile) -> str | None:
    """Return how the memory of a worker's job is asked for; None where a site refuses to be."""
    amount = profile.memory_bytes
    match profile.memory_request:
        case "node":
            return f"--mem={profile.memory}"
        case "cpu":
            return f"--mem-per-cpu={_megabytes(amount, profile.cpus)}"
        case "gpu":
            return f"--mem-per-gpu={_megabytes(amount, profile.gpus)}"
        case _:
            return None


def driver_memory(profile: Profile) -> str | None:
    """Return how the memory of the driver's job is asked for: it has CPUs, and no GPU."""
    from .profiles import memory_bytes

    own = profile.driver
    match own.memory_request or profile.memory_request:
        case "node":
            return f"--mem={own.memory}"
        case "cpu":
            return f"--mem-per-cpu={_megabytes(memory_bytes(own.memory), own.cpus)}"
        case _:
            return None


def _megabytes(amount: int, shares: int) -> str:
    return f"{-(-amount // (shares * 2**20))}M"


def gpus(profile: Profile) -> list[str]:
    """Return how the profile's GPUs are asked for."""
    if not profile.gpus or profile.gpu_request == "none":
        return []
    kind = f"{quoted(profile.gpu_type)}:" if profile.gpu_type else ""
    if profile.gpu_request == "gres":
        return [f"--gres=gpu:{kind}{profile.gpus}"]
    return [f"--{profile.gpu_request}={kind}{profile.gpus}"]


def worker_directives(profile: Profile, store: Path) -> list[str]:
    """Return what a worker's job asks for beside what dask-jobqueue writes by itself."""
    lines = [log_pattern(store, "job-%j.log"), "--open-mode=append"]
    lines += [f"--qos={quoted(profile.qos)}"] if profile.qos else []
    lines += [f"--constraint={quoted(profile.constraint)}"] if profile.constraint else []
    lines += [asked] if (asked := memory(profile)) else []
    lines += gpus(profile)
    lines.append("--requeue" if profile.requeue else "--no-requeue")
    return [*lines, *profile.directives]


def driver_directives(profile: Profile, store: Path) -> list[str]:
    """Return what the driver's job asks for."""
    own = profile.driver
    given = {
        "--job-name": job_name(store, "driver"),
        "--partition": own.partition or profile.partition,
        "--account": own.account or profile.account,
        "--qos": own.qos or (None if own.partition else profile.qos),
        "--constraint": own.constraint or (None if own.partition else profile.constraint),
        "--ntasks": "1",
        "--cpus-per-task": str(own.cpus),
        "--time": own.walltime or profile.walltime,
        "--open-mode": "append",
        "--signal": "B:USR1@120",
    }
    lines = [f"{key}={quoted(value)}" for key, value in given.items() if value is not None]
    lines += [asked] if (asked := driver_memory(profile)) else []
    return [*lines, log_pattern(store, "driver-%j.log"), "--requeue", *own.directives]
