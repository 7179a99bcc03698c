"""Nothing is lost, on a real SLURM: whatever dies, the same command ends in the same store."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.store import Store, open_store

from ..conftest import assert_equal_stores, done_twice
from ..local_slurm import NAPPING, PROFILE, LocalSlurm, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SEED = 20260
POINTS, POINTS_PER_TASK = 320, 2
NAP = "0.25"
DEATH_TIMEOUT = 20.0  # of the profile: how long a job outlives its driver
BOUND = 280.0  # seconds, for everything

SWEEP = f"""
model = "napping.py:napping"
[fixed]
n_x = 12
[grid]
beta = {{ from = 0.3, to = 0.95, points = {POINTS} }}
[solve]
verify = 0 # the last check would nap beside the points: what is asked is who was solved again
tol = 1e-8
[store]
path = "chaos.zarr"
points_per_task = {POINTS_PER_TASK}
"""


@dataclass
class Chaos:
    """A sweep under way, and everything that can happen to it."""

    slurm: LocalSlurm
    folder: Path
    rng: np.random.Generator
    driver: subprocess.Popen[str] | None = None
    happened: list[str] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "chaos.zarr"

    @property
    def output(self) -> Path:
        return self.folder / "driver.out"

    def begin(self) -> None:
        """Start the driver: always by the same command."""
        command = ("sweep", self.folder / "chaos.toml", "--store", self.store, "--on", "slurm")
        profile = ("--profile", self.folder / "chaos-profile.toml")
        self.driver = self.slurm.start(*command, *profile, output=self.output)

    def committed(self) -> int:
        folder = self.store / "status"
        return len([n for n in os.listdir(folder) if n.startswith("c.")]) if folder.is_dir() else 0

    def running(self) -> list[str]:
        """The numbers of the worker jobs that run, on nodes that are not lost already."""
        lost = {name.split()[-1] for name in self.happened if "dies on" in name}
        return [job.id for job in self.slurm.jobs("RUNNING") if job.node not in lost]

    def pick(self, from_: list[str], what: str) -> str:
        assert from_, f"nothing to choose from: {what}"
        return from_[int(self.rng.integers(len(from_)))]

    # -- what happens --------------------------------------------------------------------------

    def worker_is_killed(self) -> None:
        """In the middle of a task: of those that a job of the present driver has begun."""

        def busy() -> list[str]:
            doing: dict[str, str] = {}
            for event in read_events(open_store(self.store)):
                if event.what == "begun":
                    doing = {}
                elif event.what == "started":
                    doing[event.writer] = "task"
                elif event.writer in doing:
                    del doing[event.writer]
            workers = self.slurm.workers(str(self.folder))
            return sorted(p for p in map(str, workers) if any(w.endswith(f"-{p}") for w in doing))

        victim = self.pick(until(busy, "a worker at work"), "workers")
        os.kill(int(victim), signal.SIGKILL)

    def job_is_cancelled(self) -> None:
        self.slurm.run("scancel", self.pick(until(self.running, "a job to cancel"), "jobs"))

    def job_is_requeued(self) -> None:
        victim = self.pick(until(self.running, "a job to requeue"), "jobs")
        self.slurm.run("scontrol", "requeue", victim)
        until(lambda: self.slurm.job(victim)["Restarts"] == "1", "SLURM requeues the job")

    def node_loses_power(self) -> None:
        self._lose()

    def slurmd_dies(self) -> None:
        """The jobs of its node run on, while SLURM believes them lost."""
        self._lose("--daemon")

    def _lose(self, *how: str) -> None:
        job = self.pick(until(self.running, "a job whose node to lose"), "jobs")
        node = self.slurm.job(job)["NodeList"]
        self.slurm.crash(node, *how)
        self.happened.append(f"slurmd dies on {node}")

    def driver_is_killed(self) -> None:
        assert self.driver is not None
        assert self.driver.poll() is None, self.output.read_text()
        self.driver.kill()
        assert self.driver.wait() == -signal.SIGKILL
        time.sleep(float(self.rng.uniform(0, 2)))
        self.begin()

    # -- what is asked afterwards --------------------------------------------------------------

    def computed_after_commit(self, store: Store) -> list[str]:
        """By the model's own notes: points whose computation began after their commit.

        The notes know nothing of the ledger, and every point is in them at least once.
        """
        bucket = store.buckets[0]
        betas = bucket.bucket.axes["beta"]
        committed = {
            float(beta): bucket.file("status", task).stat().st_mtime
            for task in store.tasks
            for beta in betas[task.start : task.stop]
        }
        late = []
        noted: set[float] = set()
        for note in (self.folder / "naps").iterdir():
            for line in note.read_text().splitlines():
                began, *points = map(float, line.split())
                noted.update(points)
                # A file's time comes from a clock that ticks every few milliseconds.
                twice = [p for p in points if began > committed.get(p, np.inf) + 0.05]
                late += [f"{note.name}: {twice}"] if twice else []
        assert noted >= committed.keys()
        return late


def test_the_store_survives_anything(slurm: LocalSlurm, tmp_path: Path) -> None:
    began = time.monotonic()
    (tmp_path / "napping.py").write_text(NAPPING)
    (tmp_path / "chaos.toml").write_text(SWEEP)
    # Two jobs to a node: two nodes can be lost, and four jobs still run.
    profile = (
        PROFILE.replace("cpus = 1", "cpus = 2") + "requeue = true\nmin_jobs = 4\nmax_jobs = 4\n"
    )
    (tmp_path / "chaos-profile.toml").write_text(profile)
    undisturbed = tmp_path / "undisturbed.zarr"
    slurm.environment["NAP"] = "0"
    slurm.dpsolve("sweep", tmp_path / "chaos.toml", "--store", undisturbed)
    for note in (tmp_path / "naps").iterdir():
        note.unlink()
    slurm.environment["NAP"] = NAP

    rng = np.random.default_rng(SEED)
    chaos = Chaos(slurm, tmp_path, rng)
    once = [chaos.node_loses_power, chaos.slurmd_dies, chaos.job_is_requeued]
    twice = [chaos.driver_is_killed, chaos.worker_is_killed, chaos.job_is_cancelled] * 2
    order: list[Callable[[], None]] = [*once, *twice]
    rng.shuffle(order)  # type: ignore[arg-type]  # NumPy shuffles any sequence
    tasks = POINTS // POINTS_PER_TASK
    spread = np.linspace(0.05, 0.85, len(order)) * tasks
    moments = (spread + rng.uniform(-0.03, 0.03, len(order)) * tasks).astype(int)

    def rest() -> float:
        return BOUND - (time.monotonic() - began)

    def said() -> str:
        return f"{chaos.happened} happened; the driver said:\n{chaos.output.read_text()}"

    chaos.begin()
    for at, happen in zip(moments, order, strict=True):
        until(lambda at=at: chaos.committed() >= at, f"{at} tasks committed; {said()}", rest())
        chaos.happened.append(f"{happen.__name__} at {chaos.committed()}")
        happen()
    assert chaos.driver is not None
    until(lambda: chaos.driver.poll() is not None, f"the sweep ends; {said()}", rest())  # type: ignore[union-attr]  # begun above
    assert chaos.driver.returncode == 0, said()
    took = time.monotonic() - began

    assert_equal_stores(chaos.store, undisturbed)
    store = open_store(chaos.store)
    assert len(store.receipts()) == tasks
    events = read_events(store)
    assert {event.task for event in events if event.what == "committed"} == {*range(tasks)}
    assert done_twice(events) == []
    assert chaos.computed_after_commit(store) == []
    until(lambda: not slurm.jobs(), "no job is left", DEATH_TIMEOUT + 15)
    until(lambda: not slurm.processes(str(tmp_path)), "no process is left", DEATH_TIMEOUT + 15)
    print(f"\n{took:.0f} s, and {time.monotonic() - began - took:.0f} s until nothing was left")
    print("; ".join(chaos.happened))
