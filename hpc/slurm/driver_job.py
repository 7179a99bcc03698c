"""``dpsolve submit``: the driver as a SLURM job.

The job runs ``dpsolve resume``. Two minutes before its walltime SLURM signals it; it then stops as
at Ctrl-C, and the job puts itself back into the queue, so that a sweep may take longer than any
job lives, `RESTARTS` times at most. After a node failure SLURM requeues it by itself.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.run.job_paths import job_name, jobs_folder, make_logs_folder
from dpsolve.hpc.run.private_folders import private_folder
from dpsolve.hpc.run.single_driver import driver_record
from dpsolve.hpc.store.trust import handed_on
from dpsolve.solvers.errors import RefusedError, UsageError

from . import commands
from .directives import driver_directives
from .profiles import walltime_seconds

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store

    from .profiles import Profile, ProfileFile


RESTARTS = 100
"""How often the driver's job puts itself back into the queue."""

SHORTEST = 600.0
"""Seconds that it needs: SLURM signals it two minutes before its end."""

_SCRIPT = """\
#!/bin/bash
{directives}

{prologue}
requeue=
{python} -P -m dpsolve resume {store} --on slurm --profile {profile}{trusted} &
driver=$!
trap 'again=yes; requeue=yes; kill -INT $driver' USR1  # the walltime is nearly over
trap 'again=yes; kill -TERM $driver' TERM              # scancel
# A signal ends `wait` before the driver has ended, and with another code.
while again=; wait $driver; code=$?; [ -n "$again" ]; do :; done
if [ -n "$requeue" ] && [ "$code" = 130 ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then scontrol requeue "$SLURM_JOB_ID"
    else echo "this job has been put back into the queue {restarts} times; submit it anew"; fi
fi
exit "$code"
"""


def driver_script(profile: Profile, profile_path: Path, store: Path, trusted: str = "") -> str:
    """Return the script of the driver's job; it trusts the store of the checksum `trusted`."""
    own = profile.driver
    prologue = profile.prologue if own.prologue is None else own.prologue
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in driver_directives(profile, store)),
        prologue="\n".join(prologue),
        restarts=RESTARTS,
        python=shlex.quote(profile.python or sys.executable),
        store=shlex.quote(str(store.resolve())),
        profile=shlex.quote(str(profile_path)),
        trusted=f" --trusted {trusted}" if trusted else "",
    )


def check_driver(profile: Profile) -> None:
    """Refuse a job that would be told to end as soon as it begins, again and again.

    Raises
    ------
    UsageError
        If its walltime is too short.
    """
    walltime = profile.driver.walltime or profile.walltime
    if walltime_seconds(walltime) < SHORTEST:
        raise UsageError(
            f"the driver's job would live for {walltime}: at least {SHORTEST / 60:.0f} minutes are "
            "needed. Set walltime in [driver] of the profile."
        )


def keep_profile(found: ProfileFile, store: Path) -> Path:
    """Copy a profile beside the store: a later edit shall not change what is queued."""
    kept = private_folder(jobs_folder(store)) / "profile.toml"
    if found.path.resolve() != kept.resolve():
        shutil.copyfile(found.path, kept)
    return kept


def submit_driver(store: Store, found: ProfileFile) -> str:
    """Submit the driver of a store; return the job's number.

    Raises
    ------
    RefusedError
        If the store has a driver, or one in the queue.
    ClusterError
        If SLURM rejects the job, in its own words.
    """
    path = shlex.quote(str(store.path))
    driver = driver_record(store)
    if driver is not None and driver.alive:
        raise RefusedError(
            f"{store.path} has a driver already: {driver}. To end it: dpsolve cancel {path}"
        )
    waiting = [job for job in commands.queue(job_name(store.path, "driver")) if not job.ended]
    if waiting:
        raise RefusedError(
            f"{store.path} has a driver in the queue already: {waiting[0]}. To withdraw it: "
            f"dpsolve cancel {path}"
        )
    make_logs_folder(store.path)
    kept = keep_profile(found, store.path)
    return commands.submit(driver_script(found.profile, kept, store.path, handed_on(store)))
