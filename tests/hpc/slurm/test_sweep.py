"""Sweeps over the jobs of a real SLURM: the same store, and plain words when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.store import open_store

from ..conftest import assert_equal_stores, done_twice
from ..local_slurm import NAPPING, PROFILE, LocalSlurm, until

TEMPLATE = Path(__file__).resolve().parents[3] / "slurm" / "distributed.sh"

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SWEEP = """
model = "napping.py:napping"
[grid]
beta = {{ from = 0.3, to = 0.95, points = {points} }}
[solve]
tol = 1e-8
[store]
path = "naps.zarr"
points_per_task = 2
"""


class LoginNode:
    """A folder with a sweep and a profile in it, and the commands that a user would type."""

    def __init__(self, slurm: LocalSlurm, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        self.store = folder / "naps.zarr"
        self.output = folder / "driver.out"
        (folder / "napping.py").write_text(NAPPING)
        self.sweep(points=24, nap=0.2)
        self.profile()

    def sweep(self, points: int, nap: float) -> None:
        (self.folder / "naps.toml").write_text(SWEEP.format(points=points))
        self.slurm.environment["NAP"] = str(nap)

    def profile(self, **keys: Any) -> None:
        """Write the profile: the tests' own, with some keys set."""
        lines = PROFILE.splitlines()
        for name, value in ({"max_jobs": 2} | keys).items():
            lines = [line for line in lines if not line.startswith(f"{name} =")]
            lines.append(f"{name} = {json.dumps(value)}")
        (self.folder / "p.toml").write_text("\n".join(lines))

    def words(self, command: str = "sweep") -> list[object]:
        on = ["--on", "slurm"] if command == "sweep" else []
        target = [command, self.folder / "naps.toml", "--store", self.store]
        return [*target, *on, "--profile", self.folder / "p.toml"]

    def run(self, code: int = 0, seconds: float = 120) -> str:
        done = self.slurm.dpsolve(*self.words(), code=code, seconds=seconds)
        return done.stdout + done.stderr

    def facts(self, what: str) -> list[dict[str, Any]]:
        return [event.facts for event in read_events(open_store(self.store)) if event.what == what]

    def committed(self) -> int:
        folder = self.store / "status"
        return len([n for n in os.listdir(folder) if n.startswith("c.")]) if folder.is_dir() else 0

    def assert_whole(self, tasks: int = 12) -> None:
        """Every task is committed, none was computed again, nothing is left running."""
        store = open_store(self.store)
        assert len(store.receipts()) == tasks
        assert done_twice(read_events(store)) == []
        self.assert_nothing_runs()

    def assert_nothing_runs(self) -> None:
        until(lambda: not self.slurm.jobs(), "no job is left", 40)
        until(lambda: not self.slurm.processes(str(self.folder)), "no process is left", 40)


@pytest.fixture
def login(slurm: LocalSlurm, tmp_path: Path) -> LoginNode:
    return LoginNode(slurm, tmp_path)


def test_a_sweep_over_jobs_makes_the_store_of_a_sweep_at_home(login: LoginNode) -> None:
    said = login.run()
    assert "24 points: 24 solved" in said
    assert "jobs: " in said
    home = login.folder / "home.zarr"
    login.slurm.dpsolve("sweep", login.folder / "naps.toml", "--store", home)
    assert_equal_stores(login.store, home)
    login.assert_whole()
    assert {event["task"] for event in login.facts("committed")} == {*range(12)}
    assert len({event["job"] for event in login.facts("submitted")}) == 2
    again = login.run()
    assert "every point was committed before" in again
    assert len(login.facts("submitted")) == 2


def test_the_programs_are_compiled_once(login: LoginNode) -> None:
    """Of a model without callbacks: JAX keeps no program that calls back."""
    model = [
        "sweep",
        "growth",
        "--set=continuous=false",
        "--grid=beta=0.90:0.96:24",
        "--set=n_k=30",
    ]
    cut = ["--with", "store.points_per_task=2", "--store", login.store]
    profile = ["--on", "slurm", "--profile", login.folder / "p.toml"]
    login.slurm.dpsolve(*model, *cut, *profile)
    compiled = sorted(login.facts("compiled"), key=lambda event: -int(event["misses"]))
    assert compiled[0]["misses"] > 0
    assert all(event["misses"] == 0 and event["hits"] > 0 for event in compiled[1:])
    login.assert_whole()


def test_a_driver_as_a_job_needs_no_login_session(login: LoginNode) -> None:
    dry = login.slurm.dpsolve(*login.words("submit"), "--dry-run").stdout
    for line in ("#SBATCH", "24 points", "tasks       12,"):
        assert line in dry
    assert not login.store.exists()
    assert login.slurm.jobs() == []
    login.slurm.dpsolve(*login.words("submit"))
    until(lambda: login.committed() == 12, "all tasks are committed", 90)
    until(lambda: not login.slurm.jobs(), "the driver's job ends", 60)
    assert "24 solved" in login.slurm.dpsolve("status", login.store).stdout
    login.assert_whole()
    logs = login.slurm.dpsolve("logs", login.store).stdout
    named = re.findall(r"/\S+\.log", logs)
    assert named
    assert all(Path(name).is_file() for name in named)


def test_a_cancelled_sweep_goes_on_by_the_same_command(login: LoginNode) -> None:
    login.sweep(points=60, nap=0.4)
    driver = login.slurm.start(*login.words(), output=login.output)
    until(lambda: login.committed() >= 3, "some tasks are committed")
    login.slurm.dpsolve("cancel", login.store)
    until(lambda: driver.poll() is not None, "the driver ends", 30)
    assert driver.returncode == 130
    login.assert_nothing_runs()
    assert 3 <= login.committed() < 30
    login.run()
    login.assert_whole(30)


def test_ctrl_c_commits_what_is_in_work_and_ends_the_jobs(login: LoginNode) -> None:
    login.profile(grace=12)  # the second worker may still be compiling
    login.sweep(points=60, nap=0.4)
    driver = login.slurm.start(*login.words(), output=login.output)
    until(lambda: login.committed() >= 1, "a task is committed")
    driver.send_signal(signal.SIGINT)
    until(lambda: driver.poll() is not None, "the driver ends", 25)
    assert driver.returncode == 130
    assert "The same command resumes" in login.output.read_text()
    begun, committed = ({fact["task"] for fact in login.facts(what)}
                        for what in ("started", "committed"))  # fmt: skip
    assert begun == committed
    assert len(committed) < 30
    until(lambda: not login.slurm.jobs(), "no job is left", 10)


def test_jobs_end_by_themselves_when_their_driver_is_killed(login: LoginNode) -> None:
    login.sweep(points=200, nap=0.4)
    driver = login.slurm.start(*login.words(), output=login.output)
    until(lambda: login.committed() >= 1, "a task is committed")
    driver.kill()
    killed = time.monotonic()
    until(lambda: not login.slurm.jobs("RUNNING"), "the jobs end", 20 + 15)
    print(f"the jobs ended {time.monotonic() - killed:.0f} s after their driver")
    login.slurm.run("scancel", "--quiet", "--user=root", check=False)


def test_sbatch_is_quoted_when_it_refuses(login: LoginNode) -> None:
    login.profile(partition="nowhere")
    began = time.monotonic()
    said = login.run(code=1)
    assert "invalid partition specified: nowhere" in said
    assert "Traceback" not in said
    assert time.monotonic() - began < 40


def test_a_job_without_a_working_python_is_explained_by_its_log(login: LoginNode) -> None:
    login.profile(prologue=["echo 'no such module' >&2", "exit 7"])
    said = login.run(code=1)
    assert "no such module" in said
    assert "Traceback" not in said
    login.assert_nothing_runs()


def test_a_worker_that_cannot_reach_the_driver_is_explained(login: LoginNode) -> None:
    """As on a site whose nodes have no route to the login node: jobs without any network."""
    cut_off = 'if [ -z "$CUT_OFF" ]; then CUT_OFF=1 exec unshare --net bash "$0"; fi'
    login.profile(prologue=[cut_off], death_timeout=6)
    said = login.run(code=1)
    assert "interface" in said
    assert "Traceback" not in said.partition("The end of its log")[0]
    login.assert_nothing_runs()


def test_a_job_that_can_never_start_says_why(login: LoginNode) -> None:
    login.profile(partition="short", walltime="00:05:00")  # its limit is one minute
    driver = login.slurm.start(*login.words(), output=login.output)
    until(lambda: "PartitionTimeLimit" in login.output.read_text(), "the reason is shown", 40)
    driver.send_signal(signal.SIGINT)
    until(lambda: driver.poll() is not None, "the driver ends", 20)
    login.assert_nothing_runs()


def test_a_second_driver_is_refused_while_the_first_lives(login: LoginNode) -> None:
    login.sweep(points=60, nap=0.3)
    first = login.slurm.start(*login.words(), output=login.output)
    until(lambda: login.committed() >= 1, "the first driver is at work")
    said = login.run(code=3)
    assert "has a driver already" in said
    assert str(first.pid) in said
    until(lambda: first.poll() is not None, "the first driver ends", 90)
    assert first.returncode == 0
    login.assert_whole(30)


def test_gpus_are_those_that_slurm_gave(login: LoginNode) -> None:
    """Two workers in a job of two GPUs: each sees one, and they see different ones."""
    login.profile(gpus=2, workers_per_job=2, cpus=2, max_jobs=1)
    login.run()
    joined = login.facts("joined")
    assert len(joined) == 2
    assert all("1 GPU" in event["devices"] for event in joined)
    login.assert_whole()


def test_a_preempted_job_loses_at_most_its_task_in_flight(login: LoginNode) -> None:
    login.sweep(points=60, nap=0.5)
    login.profile(partition="low", requeue=True, cpus=4, max_jobs=4, grace=10)
    driver = login.slurm.start(*login.words(), output=login.output)
    until(lambda: len(login.slurm.jobs("RUNNING")) == 4, "the jobs fill the cluster")
    until(lambda: login.committed() >= 4, "some tasks are committed")
    urgent = login.slurm.run("sbatch", "--parsable", "-c4", "-o/dev/null", "--wrap=sleep 2").strip()
    until(lambda: login.slurm.job(urgent)["JobState"] == "COMPLETED", "main preempts low", 45)
    until(lambda: driver.poll() is not None, f"the sweep ends: {login.output.read_text()}", 90)
    assert driver.returncode == 0, login.output.read_text()
    login.assert_whole(30)


def test_a_model_that_needs_too_much_memory_is_given_smaller_batches(login: LoginNode) -> None:
    """A batch takes 5 MB a lane, held while it naps: 256 lanes are 1.28 GB, and the job has one."""
    hungry = "    hoard = np.ones((np.size(beta), 625_000))\n    log = os.environ"
    (login.folder / "napping.py").write_text(NAPPING.replace("    log = os.environ", hungry))
    login.sweep(points=4, nap=0.8)  # longer than the guard of memory looks away
    login.profile(memory="1G", max_jobs=1)
    login.run(seconds=240)
    retries = login.facts("retry")
    assert {event["cause"] for event in retries} == {"memory"}
    assert max(event["halvings"] for event in retries) >= 2
    login.assert_whole(2)


def test_a_task_that_always_fails_is_marked_and_the_sweep_goes_on(login: LoginNode) -> None:
    broken = NAPPING.replace(
        "    log = os.environ",
        "    if np.any(np.abs(beta - 0.3) < 1e-6): raise ValueError('beta is 0.3')\n"
        "    log = os.environ",
    )
    (login.folder / "napping.py").write_text(broken)
    said = login.run(code=1)
    assert "22 solved" in said
    assert "2 failed" in said
    assert "beta is 0.3" in login.slurm.dpsolve("status", login.store).stdout
    assert len([e for e in login.facts("started") if e["task"] == 0]) == 3
    failed = login.slurm.dpsolve("logs", login.store, "--failed").stdout
    assert "beta is 0.3" in failed or re.search(r"/\S+\.log", failed)


def test_a_package_that_jobs_lack_ends_the_sweep_and_marks_nothing(login: LoginNode) -> None:
    lacking = (
        "    if 'SLURM_JOB_ID' in os.environ and 'MENDED' not in os.environ: import not_there\n"
        "    log = os.environ"
    )
    (login.folder / "napping.py").write_text(NAPPING.replace("    log = os.environ", lacking))
    said = login.run(code=1)
    assert "No module named 'not_there'" in said
    assert "nothing was marked failed" in said
    assert "Traceback" not in said
    assert login.committed() == 0
    login.assert_nothing_runs()
    login.slurm.environment["MENDED"] = "1"
    assert "24 solved" in login.run()
    login.assert_whole()


def test_workers_leave_before_their_walltime_and_are_replaced(login: LoginNode) -> None:
    """Jobs of a minute for two minutes of work: no task is begun that would not end in time."""
    login.sweep(points=48, nap=6.0)
    login.profile(partition="short", walltime="00:01:00", max_jobs=2)
    login.run(seconds=240)
    login.assert_whole(24)
    jobs = {event["job"] for event in login.facts("submitted")}
    assert len(jobs) > 2
    assert all(login.slurm.job(job)["JobState"] != "TIMEOUT" for job in jobs)


def test_a_task_longer_than_any_walltime_is_named_at_once(login: LoginNode) -> None:
    """Known from its first half: four batches of 35 s, two at a time, in a minute."""
    login.sweep(points=2_000, nap=35.0)
    login.profile(partition="short", walltime="00:01:00", max_jobs=1)
    text = (login.folder / "naps.toml").read_text()
    (login.folder / "naps.toml").write_text(
        text.replace("points_per_task = 2", "points_per_task = 2000")
    )
    said = login.run(code=1, seconds=240)
    assert "walltime" in said
    assert "points_per_task" in said
    login.assert_nothing_runs()


def test_the_template_solves_one_model_on_two_nodes(slurm: LocalSlurm, tmp_path: Path) -> None:
    slurm.environment |= {
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STORE": str(tmp_path / "distributed.zarr"),
        "SIZES": "--set continuous=false --set n_a=100 --set n_z=3",
    }
    log = tmp_path / "job.log"
    asked = ["--gres=gpu:1", "--mem=4G", "--cpus-per-task=1", f"--output={log}"]
    slurm.run("sbatch", "--wait", *asked, TEMPLATE, seconds=180)
    assert "savings: solved" in log.read_text()
    assert "2 processes on 2 hosts" in log.read_text()
