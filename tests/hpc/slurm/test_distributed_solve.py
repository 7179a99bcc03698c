"""One model over the nodes of a real SLURM, started by srun and by the shipped job script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dpsolve as dp
from dpsolve.hpc.store.store import open_store

from ..local_slurm import LocalSlurm, until
from ..several import SLOW, environment, sweeps_of

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SRUN = ["srun", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=1G"]
SOLVE = [sys.executable, "-m", "dpsolve", "solve", "slow.py", "--distributed", "--tol", "1e-6"]
VI = ["--method", "vi", "--with", "solve.max_iter=100000"]


@pytest.fixture
def runner(slurm: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, in which each process will have two devices."""
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    slurm.environment.update(environment(2))
    return tmp_path


def test_srun_tells_the_processes_all_they_need(slurm: LocalSlurm, runner: Path):
    done = slurm.done(*SRUN, *SOLVE, "--mesh", "states=4", "--store", "x.zarr", seconds=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "points=1,states=4, 2 processes on 2 hosts" in done.stdout
    assert done.stdout.count("slow: solved") == 1
    assert dp.verify(runner / "x.zarr").ok
    assert len(list((runner / "x.zarr" / "value").glob("c.*"))) == 4


def test_a_node_that_lacks_its_process_is_named(slurm: LocalSlurm, runner: Path):
    late = "[ $SLURM_PROCID = 1 ] && sleep 20 || exec "  # process 1 hangs before it starts
    line = late + " ".join([*SOLVE, "--wait", "2", "--store", "x.zarr"])
    done = slurm.done(*SRUN, "--kill-on-bad-exit=1", "bash", "-c", line, seconds=180)
    assert done.returncode != 0
    assert "process 1 (expected on n2) did not come to n1:" in done.stderr
    assert not (runner / "x.zarr").exists()


def test_a_killed_process_is_named_and_the_same_step_resumes(slurm: LocalSlurm, runner: Path):
    words: list[str] = [*SRUN, *SOLVE, *VI, "--store", "x.zarr"]
    folder = runner / "x.zarr" / "status" / "checkpoint"
    with (runner / "out").open("w") as file:
        step = subprocess.Popen(
            [*words, "--checkpoint", "0.02"], env=slurm.environment, stdout=file, stderr=file
        )
    slurm.started.append(step)
    until(lambda: len(list(folder.glob("*/*.part"))) >= 4, "a checkpoint", 180, pause=0.02)
    (victim,) = [
        process
        for process, line in slurm.processes("SLURM_PROCID=1").items()
        if "dpsolve solve slow.py" in line and "bash" not in line
    ]
    os.kill(victim, signal.SIGKILL)
    assert step.wait(60) != 0
    said = (runner / "out").read_text()
    assert "process 1 on n2" in said
    assert "was lost" in said
    assert not open_store(runner / "x.zarr").receipts()

    done = slurm.done(*words, seconds=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweeps_of(done.stdout + done.stderr, "resuming after") > 0
    assert dp.verify(runner / "x.zarr").ok
