"""sbatch, squeue, scancel: SLURM's commands, and their answers in words.

Output formats are asked for by field, never parsed from tables or JSON, which differ from version
to version. The controller of a site is shared by all its users: one `squeue` tells of all jobs of
a sweep, found by their common name.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from dpsolve.solvers.errors import ClusterError

SECONDS = 30.0
"""How long a controller may take to answer."""

ENDED = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT", "GONE",
})  # fmt: skip
"""States after which nothing more comes of a job. GONE is ours: SLURM knows it no more."""


@dataclass(frozen=True)
class Job:
    """A job as squeue tells of it.

    Attributes
    ----------
    id, name : str
    state : str
        ``PENDING``, ``RUNNING``, ``COMPLETED``, ...
    reason : str
        Why it pends, or ended as it did.
    nodes, elapsed : str
    """

    id: str
    name: str
    state: str
    reason: str
    nodes: str
    elapsed: str

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ENDED

    @property
    def busy(self) -> bool:
        """Whether its processes are at work: neither ended nor about to be."""
        return self.state not in ENDED | {"COMPLETING", "PENDING"}

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        where = f" on {self.nodes}" if self.nodes else ""
        return f"job {self.id} {self.state.lower()}{why}{where}"


def have_slurm() -> bool:
    """Tell whether SLURM's commands are there."""
    return shutil.which("squeue") is not None and shutil.which("sbatch") is not None


def queue(*names: str) -> list[Job]:
    """Return the user's jobs of these names: one call of squeue, ended ones included.

    SLURM forgets ended jobs after some minutes.

    Raises
    ------
    ClusterError
        If the controller does not answer.
    """
    fields = "%i|%j|%T|%r|%N|%M"
    out = run_slurm(
        "squeue", "--noheader", f"--user={_user()}", f"--name={','.join(names)}", "--states=all",
        f"--format={fields}",
    )  # fmt: skip
    rows = [line.strip().split("|") for line in out.splitlines() if line.count("|") == 5]
    # A long name is not cut in this form of --format; a state such as CANCELLED+ has a mark.
    return [Job(i, n, state.rstrip("+"), r, where, t) for i, n, state, r, where, t in rows]


def submit(script: str) -> str:
    """Submit a job script; return the job's number.

    Raises
    ------
    ClusterError
        If SLURM rejects it, in its own words.
    """
    done = _call(["sbatch", "--parsable"], script)
    if done.returncode:
        raise ClusterError(rejection(done.stderr, script))
    return done.stdout.strip().split(";")[0]


def cancel(*names: str) -> None:
    """Cancel the user's jobs of these names; there may be none."""
    for name in names:
        run_slurm("scancel", f"--user={_user()}", f"--name={name}")


def rejection(words: str, script: str) -> str:
    """Explain that SLURM did not take a job."""
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]
    said = "\n".join(f"    {line}" for line in words.strip().splitlines())
    return (
        f"SLURM did not accept the job. It says:\n{said}\n"
        f"The job asked for: {' '.join(asked)}\n"
        "Change the profile accordingly (`dpsolve profiles` shows where it lies); sinfo lists "
        "partitions and their limits."
    )


def clean_environment() -> dict[str, str]:
    """Return the environment without what SLURM set for a job around us.

    Jobs inherit the submitter's environment. A driver that is a job itself would hand its own
    allocation on, which confuses the inner one.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in {"SLURM_CONF", "SLURM_CLUSTERS"} or not name.startswith(("SLURM_", "SBATCH_"))
    }


def run_slurm(*command: str) -> str:
    """Run one of SLURM's commands; return what it printed.

    Raises
    ------
    ClusterError
        If it fails or does not answer.
    """
    done = _call(command)
    if done.returncode:
        raise ClusterError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _call(command: Sequence[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=clean_environment(),
            stdin=subprocess.DEVNULL if given is None else None,
        )
    except FileNotFoundError:
        raise ClusterError(
            f"{command[0]} is not there: --on slurm runs on a machine from which jobs are "
            "submitted (a login node). For this machine alone: --on local."
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{command[0]} did not answer within {SECONDS:.0f} s: SLURM's controller is busy or "
            "down. The same command goes on later."
        ) from None


def _user() -> str:
    return getpass.getuser()
