"""The local SLURM of `scripts/slurm-local`, as tests see it, and a sweep that takes its time."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm-local"
DPSOLVE = [sys.executable, "-m", "dpsolve"]

NAPPING = '''
import os, time
import jax, jax.numpy as jnp, numpy as np
import dpsolve as dp

def nap(beta):
    """Write down which points are computed, when and where; then let the time pass."""
    log = os.environ.get("NAP_LOG")
    if log:
        points = np.ravel(beta)[~np.isnan(np.ravel(beta))]
        line = " ".join([repr(time.time()), *map(repr, points.tolist())]) + "\\n"
        file = os.open(f"{log}/{os.uname().nodename}-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)
        time.sleep(float(os.environ.get("NAP", "0")))
    return np.asarray(beta)

def napping(beta=0.9, *, n_x=12):
    """A cake, eaten after a nap; a batch of points naps once."""
    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    beta = jax.pure_callback(nap, scalar, beta, vmap_method="broadcast_all")
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, n_x)}, choices={"x_next": "x"}, transition={"x": "x_next"},
        feasible=lambda x, x_next: x_next <= x, reward=lambda x, x_next: jnp.sqrt(x - x_next),
        discount=beta,
    )
'''  # noqa: E501 - as it is written to the file

PROFILE = """
description = "the tests'"
partition = "main"
walltime = "00:10:00"
cpus = 1
memory = "3G"
interface = "lo"
prologue = ["export JAX_PLATFORMS=cpu"]
submit_pause = 0.1
poll = 1
death_timeout = 20
grace = 3
"""


@dataclass(frozen=True)
class Job:
    """What squeue says of a job."""

    id: str
    name: str
    state: str
    node: str
    reason: str


@dataclass
class LocalSlurm:
    """A running cluster, and what this test started on it."""

    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *words: object, check: bool = True, seconds: float = 60) -> str:
        """Run a program against the cluster; return its output."""
        done = self.done(*words, seconds=seconds)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def done(self, *words: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        command = [str(word) for word in words]
        try:
            return subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=seconds,
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            said = b"".join(part for part in (late.stdout, late.stderr) if isinstance(part, bytes))
            pytest.fail(f"{shlex.join(command)}: not within {seconds} s\n{said.decode()}")

    def dpsolve(
        self, *words: object, code: int | None = 0, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of dpsolve to its end."""
        done = self.done(*DPSOLVE, *words, seconds=seconds)
        said = f"dpsolve {' '.join(map(str, words))}: exit code {done.returncode}\n"
        assert code is None or done.returncode == code, said + done.stdout + done.stderr
        return done

    def start(self, *words: object, output: Path) -> subprocess.Popen[str]:
        """Start a command of dpsolve; its output is appended to a file."""
        with output.open("a") as file:
            process = subprocess.Popen(
                [*DPSOLVE, *map(str, words)], env=self.environment, stdout=file,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def jobs(self, *states: str) -> list[Job]:
        """Return the jobs that are there, or those in certain states, the oldest first."""
        chosen = ["--states", ",".join(states)] if states else []
        listed = self.run("squeue", "-h", "-o", "%i|%j|%T|%N|%r", "-S", "i", *chosen)
        return [Job(*line.split("|")) for line in listed.splitlines()]

    def job(self, number: str) -> dict[str, str]:
        """Return what scontrol knows of a job, ended or not."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", "-o", number)))

    def crash(self, node: str, *how: str) -> None:
        self.run(SCRIPT, "crash", node, *how)

    def restart(self, node: str) -> None:
        self.run(SCRIPT, "restart", node)

    def processes(self, mark: str) -> dict[int, str]:
        """Return the living processes that have a text in their environment or command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
                said = line + b"\0" + (folder / "environ").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if mark.encode() in said and int(folder.name) != os.getpid():
                found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace")
        return found

    def workers(self, mark: str) -> dict[int, str]:
        """Return the worker processes of a sweep: those that compute, without their nannies."""
        found = {}
        for process, line in self.processes(mark).items():
            if "spawn_main" in line or "forkserver" in line:
                try:
                    environment = Path(f"/proc/{process}/environ").read_bytes()
                except OSError:
                    continue
                if b"\0SLURM_JOB_ID=" in environment:
                    found[process] = line
        return found


def until(
    true: Callable[[], Any], what: str, seconds: float = 60, pause: float = 0.1
) -> Any:  # whatever `true` returned
    """Wait until something is true; fail with its name when it is not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(pause)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


@contextmanager
def local_slurm() -> Iterator[dict[str, str]]:
    """Bring up a cluster of this process's own; yield the environment that talks to it."""
    folder = tempfile.mkdtemp(prefix="dps", dir="/tmp")  # unix sockets allow no long path
    ours = os.environ | {"SLURM_LOCAL_DIR": folder}
    try:
        up = subprocess.run(
            [SCRIPT, "up"], env=ours, capture_output=True, text=True, timeout=300, check=False
        )
        assert up.returncode == 0, up.stderr
        lines = dict(re.findall(r"(\w+)=(\S+)", up.stdout))
        assert lines.keys() == {"SLURM_CONF", "SLURM_LOCAL_DIR"}, up.stdout
        yield ours | lines
    finally:
        subprocess.run([SCRIPT, "down"], env=ours, capture_output=True, timeout=120, check=True)
        shutil.rmtree(folder, ignore_errors=True)


def why_not() -> str:
    """Return why no SLURM can be brought up here, or nothing."""
    if sys.platform != "linux":
        return "SLURM runs on Linux only"
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    if shutil.which("slurmctld") is None and "CI" not in os.environ:
        return "SLURM is not installed: scripts/slurm-local up installs it"
    return ""


def events(slurm: LocalSlurm, store: Path) -> list[dict[str, Any]]:
    """Return the ledger of a store, as `dpsolve status --events --json` prints it."""
    said = json.loads(slurm.dpsolve("status", store, "--events", "--json").stdout)
    found: list[dict[str, Any]] = said["events"] if isinstance(said, dict) else said
    return found
