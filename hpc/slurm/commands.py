"""sbatch, squeue, scancel: SLURM's commands, and their answers in words.

Output formats are asked for by field, never parsed from tables or JSON, which differ from version
to version. The controller of a site is shared by all its users: one `squeue` tells of all jobs of
a sweep, by their numbers for who submitted them, by their common name for who did not.

What the submitting shell exports must not decide what a job computes on, so jobs are given an
environment without it (`clean_environment`): such settings belong into the profile's prologue.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
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


def check_slurm() -> None:
    """See that SLURM answers here, before anything is made.

    Raises
    ------
    ClusterError
        If its commands are missing, or know no controller.
    """
    if not have_slurm():
        raise ClusterError(
            "there are no SLURM commands here (sbatch, squeue). Run this on a login node, or "
            "take --on local for this machine alone."
        )
    try:
        run_slurm("squeue", "--noheader", f"--user={_user()}", "--format=%i")
    except ClusterError as error:
        raise ClusterError(
            f"SLURM's commands are here, and do not work: {error} Is this a login node, and does "
            "`squeue` work in this shell? For this machine alone: --on local."
        ) from None


def queue(*names: str) -> list[Job]:
    """Return the user's jobs of these names: one call of squeue, ended ones included.

    SLURM forgets ended jobs after some minutes.

    Raises
    ------
    ClusterError
        If the controller does not answer.
    """
    return _listed(f"--name={','.join(names)}")


def queue_of(numbers: Iterable[str]) -> list[Job]:
    """Return the user's jobs of these numbers, ended ones included, whatever they are called.

    Raises
    ------
    ClusterError
        If the controller does not answer.
    """
    try:
        return _listed(f"--jobs={','.join(numbers)}")
    except ClusterError as error:
        if "Invalid job id" in str(error):  # the only one, and forgotten
            return []
        raise


def _listed(which: str) -> list[Job]:
    out = run_slurm(
        "squeue", "--noheader", f"--user={_user()}", which, "--states=all",
        "--format=%i|%T|%M|%N|%j|%r",
    )  # fmt: skip
    found = []
    for line in out.splitlines():
        if line.count("|") < 5:
            continue
        number, state, elapsed, nodes, rest = line.strip().split("|", 4)
        name, _, reason = rest.rpartition("|")  # a plugin may give a job any name
        # A state such as CANCELLED+ has a mark.
        found.append(Job(number, name, state.rstrip("+"), reason, nodes, elapsed))
    return found


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


def cancel(*names: str, numbers: Sequence[str] = ()) -> None:
    """Cancel the user's jobs of these names and numbers; there may be none."""
    for name in names:
        run_slurm("scancel", f"--user={_user()}", f"--name={name}")
    if numbers:
        with suppress(ClusterError):  # one that is forgotten makes scancel fail
            run_slurm("scancel", "--quiet", *numbers)


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


_OF_THE_JOB_AROUND = ("SLURM_", "SBATCH_", "SRUN_", "SCANCEL_", "SQUEUE_")
_STAYS = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER"})

_DECIDES = (
    "JAX_", "XLA_", "LIBTPU_", "TF_", "DASK_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_",
    "BLIS_", "NUMEXPR_", "VECLIB_", "NCCL_",
)  # fmt: skip
_DEVICES = frozenset({
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "NPROC",
})  # fmt: skip

# Set by this package and by JAX, not by the user, and without a say in any number.
_OURS = frozenset({
    "JAX_ENABLE_X64", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "TF_CPP_MIN_LOG_LEVEL",
})  # fmt: skip


def clean_environment() -> dict[str, str]:
    """Return the environment that jobs are given: without what must not decide how they compute.

    Jobs inherit the submitter's environment. A driver that is a job itself would hand its own
    allocation on, which confuses the inner one; and a shell's ``JAX_PLATFORMS=cpu`` would let GPU
    jobs compute on the CPU, without a word.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _STAYS or not (name.startswith(_OF_THE_JOB_AROUND) or _decides(name))
    }


def kept_back() -> str:
    """Return which settings of this shell jobs are not given, in words; or nothing."""
    found = sorted(name for name in os.environ if _decides(name) and name not in _OURS)
    if not found:
        return ""
    return (
        f"{', '.join(found)} of this shell {'is' if len(found) == 1 else 'are'} not passed on to "
        "jobs: what they compute on, and how, is said by the profile. To set it there: "
        f'prologue = ["export {found[0]}=..."]'
    )


def _decides(name: str) -> bool:
    return name.startswith(_DECIDES) or name in _DEVICES


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
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace").strip()
        raise ClusterError(
            f"{command[0]} did not answer within {SECONDS:.0f} s: SLURM's controller is busy or "
            f"down{f' ({said.splitlines()[-1]})' if said else ''}. The same command goes on later."
        ) from None


def _user() -> str:
    return getpass.getuser()
