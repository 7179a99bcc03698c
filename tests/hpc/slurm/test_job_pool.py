"""Jobs that end: replaced, told, and not for ever; what they are given, and how they are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpsolve.hpc.executor_choice import ExecutorChoice
from dpsolve.hpc.slurm import commands
from dpsolve.hpc.slurm.commands import Job
from dpsolve.hpc.slurm.job_pool import IN_VAIN, STILLBORN, JobPool
from dpsolve.hpc.slurm.profiles import Profile
from dpsolve.hpc.slurm.worker_process import CANNOT_START
from dpsolve.solvers.errors import ClusterError, UsageError


class Site:
    """A cluster on which every job ends as soon as it is looked at."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
        self.now, self.ending, self.joins, self.name = 0.0, ending, False, "renamed|by a, plugin"
        self.worker_spec: dict[str, None] = {}
        self.workers: dict[str, Any] = {}
        self.shared = SimpleNamespace(refusals=[])
        self.asked: list[str] = []
        self.notes: list[str] = []
        self.left = 10
        self.store = SimpleNamespace(path=path / "a,b|c#d.zarr")
        monkeypatch.setattr(commands, "run_slurm", self.answer)
        log = SimpleNamespace(write=lambda *_, **__: None)
        self.pool = JobPool(
            self, Profile.model_validate({"max_jobs": 3}), self.store, log,  # type: ignore[arg-type]
            self.notes.append, print, clock=lambda: self.now,
        )  # fmt: skip

    def open_jobs(self, count: int) -> None:
        while len(self.worker_spec) < count:
            number = str(len(self.workers) + 1)
            self.worker_spec[f"w-{number}"] = None
            self.workers[f"w-{number}"] = SimpleNamespace(job_id=number)

    def answer(self, *command: str) -> str:
        self.asked.append(" ".join(command))
        (which,) = [word for word in command if word.startswith("--jobs=")]
        return "".join(
            f"{number}|{self.ending}|0:01|n1|{self.name}|None\n"
            for number in which.removeprefix("--jobs=").split(",")
        )

    def go_on(self, ticks: int) -> None:
        for _ in range(ticks):
            self.now += 61.0
            self.pool.tick(SimpleNamespace(waiting=self.left, sent=0, worker_states={}))  # type: ignore[arg-type]
            for member in self.pool._members.values():
                member.joined = int(self.joins)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    return lambda ending: Site(tmp_path, monkeypatch, ending)


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("ending", ["CANCELLED", "PREEMPTED", "NODE_FAIL", "REVOKED"])
def test_jobs_that_the_site_ends_are_not_replaced_for_ever(
    site: Callable[..., Site], ending: str, joins: bool
) -> None:
    here = site(ending)
    here.joins = joins
    with pytest.raises(ClusterError, match=f"{IN_VAIN * 3} jobs in a row ended") as raised:
        here.go_on(100)
    assert f"{ending.lower()}" in str(raised.value)
    assert IN_VAIN * 3 <= len(here.workers) <= IN_VAIN * 3 + 2
    told = [note for note in here.notes if "it is replaced" in note]
    assert len(told) == IN_VAIN * 3 - 1  # the last one is the error
    assert all(f"at most {IN_VAIN * 3}" in note for note in told)


def test_a_committed_task_begins_the_count_anew(site: Callable[..., Site]) -> None:
    here = site("PREEMPTED")
    for _ in range(10):
        here.go_on(6)
        here.left -= 1
    assert len(here.workers) > IN_VAIN * 3


def test_a_fault_of_the_jobs_own_is_met_three_times_and_its_reason_said(
    site: Callable[..., Site],
) -> None:
    here = site("FAILED")
    logs = here.store.path.with_name("a,b|c#d.zarr.jobs") / "logs"
    logs.mkdir(parents=True)
    for number in range(1, 5):
        (logs / f"job-{number}.log").write_text(
            f"{CANNOT_START} interface = 'ib7' is none\n" + "  at tornado\n" * 50
        )
    with pytest.raises(ClusterError, match=r"It says: interface = 'ib7' is none") as raised:
        here.go_on(100)
    assert "tornado" not in str(raised.value)
    assert STILLBORN <= len(here.workers) <= STILLBORN + 2


def test_jobs_are_asked_for_by_number_whatever_they_are_called(site: Callable[..., Site]) -> None:
    here = site("RUNNING")
    here.go_on(20)
    assert len(here.workers) == 3  # none was taken for gone
    assert here.asked
    assert all("--name=" not in asked for asked in here.asked)


def test_a_line_of_squeue_is_read_whatever_the_job_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "run_slurm", lambda *_: "7|CANCELLED+|0:10|n[1-2]|a|b c|(x)\n")
    assert commands.queue_of(["7"]) == [Job("7", "a|b c", "CANCELLED", "(x)", "n[1-2]", "0:10")]


def test_what_a_shell_exports_does_not_decide_what_jobs_compute_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "x", "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "7",
        "CUDA_VISIBLE_DEVICES": "", "DASK_TEMPORARY_DIRECTORY": "/tmp", "SQUEUE_FORMAT": "%i",
        "SLURM_CONF": "/etc/slurm.conf", "MY_DATA": "/data",
    }  # fmt: skip
    monkeypatch.setattr(os, "environ", given)
    assert commands.clean_environment().keys() == {"SLURM_CONF", "MY_DATA"}
    told = commands.kept_back()
    assert "JAX_PLATFORMS, OMP_NUM_THREADS, XLA_FLAGS of this shell are not passed on" in told
    assert "SLURM" not in told
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "JAX_ENABLE_X64": "1"})  # of our own
    assert commands.kept_back() == ""


def test_without_slurm_that_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = ExecutorChoice.of("slurm", "cpu", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no SLURM commands here"):
        choice.check(tmp_path / "a.zarr")
    for name in ("squeue", "sbatch"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1"
        )
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ClusterError, match=r"do not work: .*Unable to contact slurm controller"):
        choice.check(tmp_path / "a.zarr")
    with pytest.raises(UsageError, match="SLURM cannot name"):
        choice.check(tmp_path / "a\nb.zarr")


def test_a_controller_that_forgot_the_only_job_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgot(*_: str) -> str:
        raise ClusterError("squeue failed: slurm_load_jobs error: Invalid job id specified")

    monkeypatch.setattr(commands, "run_slurm", forgot)
    assert commands.queue_of(["7"]) == []
