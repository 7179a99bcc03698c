"""Stores, shells and sites under names that nobody foresaw, on a real SLURM."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsolve.hpc.slurm.directives import log_pattern, quoted
from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.store import open_store

from ..local_slurm import PROFILE, LocalSlurm, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

ODD = 'a,b|c#d `touch x`;$(touch x) it\'s "%j" 100% a::b.zarr'


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., Path]:
    def write(**keys: Any) -> Path:
        lines = PROFILE.splitlines()
        for name, value in ({"max_jobs": 2} | keys).items():
            lines = [line for line in lines if not line.startswith(f"{name} =")]
            lines.append(f"{name} = {json.dumps(value)}")
        path = tmp_path / "p.toml"
        path.write_text("\n".join(lines))
        return path

    return write


def words(command: str, store: Path, profile: Path) -> list[object]:
    on = ["--on", "slurm"] if command == "sweep" else []
    sweep = ["cake", "--grid", "beta=0.5,0.6,0.7,0.8", "--set", "n_x=12", "--store", store]
    return [command, *sweep, "--with", "store.points_per_task=1", *on, "--profile", profile]


def facts(store: Path, what: str) -> list[dict[str, Any]]:
    return [event.facts for event in read_events(open_store(store)) if event.what == what]


def test_sbatch_reads_back_what_was_quoted(slurm: LocalSlurm, tmp_path: Path) -> None:
    odd = 'it\'s "a" #b, $HOME `c` \\d %j | e; f'
    script = f"#!/bin/bash\n#SBATCH --comment={quoted(odd)} --partition=main\nexit 0\n"
    (tmp_path / "job.sh").write_text(script)
    number = slurm.run("sbatch", "--parsable", "--output=/dev/null", tmp_path / "job.sh").strip()
    said = slurm.run("scontrol", "show", "job", "-o", number)
    assert f"Comment={odd} " in said
    assert " Partition=main " in said


def test_a_logs_name_is_the_one_that_was_meant(slurm: LocalSlurm, tmp_path: Path) -> None:
    store = tmp_path / ODD.replace("/", "")
    logs = store.with_name(f"{store.name}.jobs") / "logs"
    logs.mkdir(parents=True)
    script = f"#!/bin/bash\n#SBATCH {log_pattern(store, 'job-%j.log')}\necho heard\n"
    (tmp_path / "job.sh").write_text(script)
    number = slurm.run("sbatch", "--parsable", tmp_path / "job.sh").strip()
    log = logs / f"job-{number}.log"
    until(lambda: log.is_file() and log.read_text() == "heard\n", "the log is written")


def test_a_store_of_any_name_is_swept_and_its_jobs_are_found(
    slurm: LocalSlurm, profile: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path / ODD
    slurm.environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
    done = slurm.dpsolve(*words("sweep", store, profile()))
    assert "4 points: 4 solved" in done.stdout
    assert len(facts(store, "submitted")) == 2
    assert not (tmp_path / "x").exists()
    logs = {p.name for p in store.with_name(f"{ODD}.jobs").joinpath("logs").iterdir()}
    assert logs == {f"job-{fact['job']}.log" for fact in facts(store, "submitted")}
    assert store.with_name(f"{ODD}.jobs").stat().st_mode & 0o777 == 0o700
    assert not list(store.with_name(f"{ODD}.jobs").glob("keys-*"))
    # What this shell exports decides nothing in the jobs, and that is told.
    assert "XLA_FLAGS" in done.stdout + done.stderr
    assert all(re.match("1 x cpu", fact["devices"]) for fact in facts(store, "joined"))


def test_a_driver_in_a_job_finds_its_store_by_any_name(
    slurm: LocalSlurm, profile: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path / ODD
    said = slurm.dpsolve(*words("submit", store, profile(memory_request="cpu"))).stdout
    number = re.search(r"the driver is job (\d+)", said)
    assert number is not None
    until(lambda: not slurm.jobs(), "all is done", 90)
    assert len(open_store(store).receipts()) == 4
    log = store.with_name(f"{ODD}.jobs") / "logs" / f"driver-{number[1]}.log"
    assert "4 points: 4 solved" in log.read_text()
    assert not (tmp_path / "x").exists()


def test_a_wrong_interface_on_the_nodes_is_the_cause_that_is_said(
    slurm: LocalSlurm, profile: Callable[..., Path], tmp_path: Path
) -> None:
    given = profile(interface="ib7", login_interface="lo")
    done = slurm.dpsolve(*words("sweep", tmp_path / "a.zarr", given), code=1)
    assert "It says: interface = 'ib7' in the profile" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_that_is_not_configured_is_told_before_a_store_is_made(
    slurm: LocalSlurm, profile: Callable[..., Path], tmp_path: Path
) -> None:
    login = LocalSlurm({k: v for k, v in slurm.environment.items() if k != "SLURM_CONF"})
    for command in ("sweep", "submit"):
        done = login.dpsolve(*words(command, tmp_path / "a.zarr", profile()), code=1)
        assert "SLURM's commands are here, and do not work" in done.stderr
        assert not (tmp_path / "a.zarr").exists()
