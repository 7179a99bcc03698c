"""Profiles: found by name, every mistake at once; and the job scripts that come of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dpsolve.hpc.cluster.worker_devices import gpu_environment, share_of_gpus
from dpsolve.hpc.run.job_paths import job_name
from dpsolve.hpc.slurm.directives import check_store_path
from dpsolve.hpc.slurm.driver_job import check_driver, driver_script
from dpsolve.hpc.slurm.profiles import (
    Profile,
    ProfileFile,
    find_profile,
    list_profiles,
    memory_bytes,
    walltime_seconds,
)
from dpsolve.solvers.errors import UsageError


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "dpsolve" / "profiles"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("1:30", 90), ("02:00:00", 7200), ("2-00", 172800), ("1-12:30", 131400),
        ("1-00:00:01", 86401),
    ],
)  # fmt: skip
def test_durations_as_slurm_writes_them(text: str, seconds: float) -> None:
    assert walltime_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1G", 2**30), ("1.5GiB", 3 * 2**29), ("100", 100 * 2**20), ("4000M", 4000 * 2**20)],
)
def test_sizes_as_slurm_takes_them(text: str, size: int) -> None:
    assert memory_bytes(text) == size


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        'walltime = "soon"\ngpuss = 3\ndirectives = "--exclusive"\nmemory = "much"\n'
        'min_jobs = -1\ngpu_request = "please"\n[driver]\nwalltme = "1:00:00"\n'
    )
    with pytest.raises(UsageError) as raised:
        find_profile(str(path))
    text = str(raised.value)
    assert "site.toml: 7 mistakes, nothing was started" in text
    assert "line 1, walltime" in text
    assert "line 2, gpuss = 3: unknown key. Did you mean 'gpus'?" in text
    assert 'a list of lines is expected: ["--exclusive"]' in text
    assert "line 6" in text
    assert "line 8, driver.walltme" in text
    assert "Did you mean 'walltime'?" in text


@pytest.mark.parametrize(
    ("tables", "remedy"),
    [
        ({"min_jobs": 5, "max_jobs": 2}, "min_jobs = 5 is above max_jobs = 2"),
        ({"gpus": 4, "workers_per_job": 3}, "workers_per_job = 1"),
        ({"gpu_type": "a100"}, "how many GPUs"),
        ({"directives": ["#SBATCH --exclusive"]}, "without #SBATCH"),
        ({"prologue": ["a\nb"]}, "one line"),
        ({"walltime": "0"}, "some time"),
        ({"partition": "a b"}, "one word"),
        ({"account": 'a"b'}, "one word"),
        ({"qos": "a\u001bb"}, "not printed"),
        ({"directives": ["--job-name=mine"]}, "--job-name is said by dpsolve"),
        ({"directives": ["-J mine"]}, "-J is said by dpsolve"),
        ({"directives": ["-omine"]}, "-o is said by dpsolve"),
        ({"memory_request": "gpu"}, 'memory_request = "gpu" without gpus'),
        ({"memory_request": "much"}, "must be"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tables: dict[str, object], remedy: str, tmp_path: Path
) -> None:
    file = tmp_path / "site.toml"
    file.write_text("\n".join(f"{name} = {json.dumps(x)}" for name, x in tables.items()))
    with pytest.raises(UsageError, match=remedy):
        find_profile(str(file))


def test_a_users_profile_hides_a_shipped_one(user_folder: Path) -> None:
    shipped = find_profile("local-test")
    (user_folder / "local-test.toml").write_text('description = "mine"')
    own = find_profile("local-test")
    assert shipped.profile.description != "mine"
    assert (own.profile.description, own.path.parent) == ("mine", user_folder)
    assert find_profile(str(shipped.path)).profile == shipped.profile


def test_an_unknown_name_lists_those_that_are_known(user_folder: Path) -> None:
    (user_folder / "galaxy.toml").touch()
    with pytest.raises(UsageError, match="Did you mean 'galaxy'") as raised:
        find_profile("galxy")
    assert "local-test" in str(raised.value)
    assert str(user_folder) in str(raised.value)


def test_a_faulty_profile_does_not_hide_the_others(user_folder: Path) -> None:
    (user_folder / "faulty.toml").write_text("walltime = ")
    found = list(list_profiles())
    wrong = [entry for entry in found if not isinstance(entry, ProfileFile)]
    assert [(name, path.name) for name, path, _ in wrong] == [("faulty", "faulty.toml")]
    assert len(found) > 3


def test_the_job_script_asks_for_what_the_profile_says(tmp_path: Path) -> None:
    from dpsolve.hpc.slurm.worker_job import job_script

    profile = Profile.model_validate({
        "account": "abc", "partition": "gpu", "qos": "long", "constraint": "a100&nvlink",
        "walltime": "12:00:00", "cpus": 32, "memory": "64G", "gpus": 4, "gpu_type": "a100",
        "workers_per_job": 4, "requeue": True, "directives": ["--exclusive"],
        "prologue": ["module load cuda"], "python": "/opt/a python/bin/python",
        "scratch": "$TMPDIR", "interface": "ib0", "death_timeout": 90, "grace": 20,
    })  # fmt: skip
    keys = tmp_path / "growth.zarr.jobs" / "keys-1"
    script = job_script(profile, tmp_path / "growth.zarr", "tls://10.0.0.1:8786", keys)
    directives = {line for line in script.splitlines() if line.startswith("#SBATCH")}
    logs = f"{tmp_path}/growth.zarr.jobs/logs/job-%j.log"
    for wanted in (
        "-A abc", "-p gpu", "--qos=long", "--constraint=a100&nvlink", "-t 12:00:00",
        "--cpus-per-task=32", "--mem=64G", "--gres=gpu:a100:4", "--requeue", "--exclusive",
        f"--output={logs}", "-n 1",
    ):  # fmt: skip
        assert f"#SBATCH {wanted}" in directives
    *before, last = script.rstrip().splitlines()
    assert before[-1] == "module load cuda"
    assert "+ 43200 ))" in before[-2]
    assert last.startswith(
        "exec '/opt/a python/bin/python' -P -m dpsolve.hpc.slurm.worker_process tls://10."
    )
    for words in (
        "--scratch '$TMPDIR'", "--workers 4", "--gpus 1", "--interface ib0",
        "--death-timeout 90", f"--keys {keys}",
    ):  # fmt: skip
        assert words in last


def test_a_users_dask_configuration_changes_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    from dpsolve.hpc.slurm.worker_job import job_script

    profile = Profile.model_validate({"memory": "4G"})
    script = partial(job_script, profile, tmp_path / "a.zarr", "tls://h:1", tmp_path / "keys")
    plain = script()
    theirs = {"queue": "theirs", "job-extra-directives": ["--theirs"], "python": "theirs"}
    with dask.config.set({"jobqueue.slurm": theirs}):
        assert script() == plain


def test_importing_dask_jobqueue_leaves_ctrl_c_as_it_was(
    fresh_python: Callable[[str], str],
) -> None:
    code = """
import signal
mine = lambda *_: None
signal.signal(signal.SIGINT, mine)
import dpsolve.hpc.slurm.worker_job
print(signal.getsignal(signal.SIGINT) is mine)
"""
    assert fresh_python(code).strip() == "True"


def test_workers_of_one_job_share_its_gpus_in_order() -> None:
    four = {"CUDA_VISIBLE_DEVICES": "0,1,4,5"}
    assert [share_of_gpus(four, i, 2) for i in range(2)] == ["0,1", "4,5"]
    assert [share_of_gpus(four, i, 4) for i in range(4)] == ["0", "1", "4", "5"]
    assert share_of_gpus(four, 0, 1) is None  # one worker owns all
    assert share_of_gpus({}, 0, 4) is None


def test_what_the_user_says_of_gpu_memory_stands() -> None:
    given = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}
    assert gpu_environment(given, 1) == {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    assert gpu_environment({}, 0) == {}


def test_no_two_jobs_of_a_run_have_one_name(tmp_path: Path) -> None:
    """A lost job's name, given to the next one, would pass its number on as well."""
    import dask

    from dpsolve.hpc.cluster.run_keys import run_keys
    from dpsolve.hpc.slurm.worker_job import SETTINGS, make_cluster

    with dask.config.set(SETTINGS), run_keys(tmp_path / "s.zarr.jobs") as keys:
        cluster = make_cluster(Profile.model_validate({}), tmp_path / "s.zarr", keys)
        names = [name for _ in range(3) for name in cluster.new_worker_spec()]
        cluster.close()
    assert len({*names}) == 3


@pytest.mark.parametrize(
    ("asked", "worker", "driver"),
    [
        ("node", "--mem=64G", "--mem=2G"),
        ("cpu", "--mem-per-cpu=2048M", "--mem-per-cpu=2048M"),
        ("gpu", "--mem-per-gpu=32768M", None),
        ("none", None, None),
    ],
)
def test_memory_is_asked_for_as_the_site_wants_it(
    asked: str, worker: str | None, driver: str | None, tmp_path: Path
) -> None:
    from dpsolve.hpc.slurm.worker_job import job_script

    given = {"memory": "64G", "cpus": 32, "gpus": 2, "memory_request": asked}
    profile = Profile.model_validate(given)
    workers = job_script(profile, tmp_path / "a.zarr", "tls://h:1", tmp_path / "keys")
    drivers = driver_script(profile, tmp_path / "profile.toml", tmp_path / "a.zarr")
    for wanted, script in ((worker, workers), (driver, drivers)):
        found = [line for line in script.splitlines() if line.startswith("#SBATCH --mem")]
        assert found == ([f"#SBATCH {wanted}"] if wanted else [])


@pytest.mark.parametrize("name", ["a,b|c#d", "it's a store", "über %j", "a`x`;b", "-c", "a::b"])
def test_jobs_have_plain_names_whatever_the_store_is_called(name: str, tmp_path: Path) -> None:
    plain = job_name(tmp_path / f"{name}.zarr")
    assert re.fullmatch(r"dpsolve-[A-Za-z0-9_.-]+-[0-9a-f]{8}", plain)
    assert plain != job_name(tmp_path / f"{name}2.zarr")


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\tb"])
def test_a_path_that_slurm_cannot_write_logs_to_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Choose another one"):
        check_store_path(tmp_path / f"{name}.zarr")


def test_a_driver_that_would_be_told_to_end_at_once_is_refused() -> None:
    check_driver(Profile.model_validate({"walltime": "5", "driver": {"walltime": "10"}}))
    with pytest.raises(UsageError, match="at least 10 minutes"):
        check_driver(Profile.model_validate({"walltime": "5"}))


@pytest.mark.parametrize(("restarts", "again"), [(0, True), (99, True), (100, False)])
def test_a_drivers_job_is_put_back_a_stated_number_of_times(
    restarts: int, again: bool, tmp_path: Path
) -> None:
    """The script as it is, with a driver that is interrupted and an scontrol that says so."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho requeued\n")
    (tmp_path / "python").write_text(
        f"#!{sys.executable}\nimport os, signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: os._exit(130))\n"
        "time.sleep(0.3)\nos.kill(os.getppid(), signal.SIGUSR1)\ntime.sleep(9)\n"
    )
    for program in ("scontrol", "python"):
        (tmp_path / program).chmod(0o755)
    profile = Profile.model_validate({"python": str(tmp_path / "python")})
    script = driver_script(profile, tmp_path / "p.toml", tmp_path / "a.zarr")
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash"], input=script, text=True,
        env=given | {"SLURM_RESTART_COUNT": str(restarts)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert ("requeued" in done.stdout) == again
    assert ("submit it anew" in done.stdout) == (not again)
