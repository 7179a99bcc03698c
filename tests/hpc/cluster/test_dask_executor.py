"""Tasks on dask workers: the same store, whatever becomes of a worker. No SLURM is needed here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dpsolve.hpc.cluster import coordinator, dask_executor
from dpsolve.hpc.cluster.dask_executor import DaskExecutor
from dpsolve.hpc.cluster.dask_settings import quiet_dask
from dpsolve.hpc.cluster.messages import RunInfo
from dpsolve.hpc.cluster.task_queue import TaskQueue
from dpsolve.hpc.run.executor import prepare
from dpsolve.hpc.store.event_log import Event, read_events
from dpsolve.hpc.store.failed_points import write_failed
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.store.trust import trusted
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.solvers.errors import ClusterError

from ..conftest import Listener, assert_equal_stores, done_twice, run
from ..local_slurm import until

pytestmark = pytest.mark.slow

NAUGHTY = '''
import os, pathlib, time
import jax, jax.numpy as jnp, numpy as np

def behave(a, folder):
    """Do to this process what the point asks for; `once` files make it happen a few times."""
    a = np.asarray(a)
    for kind, act in (
        ("die", lambda: os._exit(9)), ("err", _err), ("hog", _hog), ("imp", _imp)
    ):
        for file in pathlib.Path(folder).glob(f"{kind}-*"):
            value = float(file.name.split("-")[1])
            if (np.ravel(a) == value).any():
                times = int(file.read_text())
                if times:
                    file.write_text(str(times - 1))
                    act()
    if (pathlib.Path(folder) / "slow").exists():
        time.sleep(0.5)
    return a

def _err():
    raise ValueError("no root in sight")

def _hog():
    raise MemoryError("out of memory: 12 GiB wanted")

def _imp():
    import a_package_that_the_worker_lacks

FOLDER = str(pathlib.Path(__file__).parent)

def naughty(a=1.0, b=2.0):
    """A product that may do harm on its way."""
    # Its folder travels in the source: a worker runs a copy of this file from the store.
    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    a = jax.pure_callback(lambda x: behave(x, "@FOLDER@"), scalar, a, vmap_method="broadcast_all")
    return {"price": a * b}
'''


@dataclass
class Cluster:
    """Two dask workers, each a process of its own, under a nanny."""

    address: str
    processes: Callable[[], list[int]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of a scheduler that is set as ours are."""
    from distributed import Client, LocalCluster

    with (
        quiet_dask(),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local,
        Client(local, set_as_default=False) as client,
    ):
        yield Cluster(local.scheduler_address, lambda: [*client.run(os.getpid).values()])


@contextmanager
def by_hand(folder: Path, threads: int) -> Iterator[Cluster]:
    """A scheduler and two workers that somebody started without a thought of this."""
    from distributed import Client

    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as stack, (folder / "log").open("wb") as log:
        for words in (["scheduler", "--host=127.0.0.1", "--port=0"],
                      ["worker", "--nworkers=2", f"--nthreads={threads}"]):  # fmt: skip
            process = subprocess.Popen(
                [*dask, *words, f"--scheduler-file={file}", "--dashboard-address=:0"],
                cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)
            until(file.exists, "the scheduler is there", 30)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            yield Cluster(client.scheduler.address, lambda: [*client.run(os.getpid).values()])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with by_hand(tmp_path_factory.mktemp("foreign"), threads=2) as found:
        yield found


def kill_after(count: int, victim: int) -> Listener:
    class Killing(Listener):
        def advance(self, solved: int, inexact: int, failed: int) -> None:
            super().advance(solved, inexact, failed)
            if sum(self.counts) == count:  # in the middle of the next task
                threading.Timer(0.25, os.kill, (victim, signal.SIGKILL)).start()

    return Killing()


@pytest.fixture
def naughty(tmp_path: Path) -> Callable[..., Sweep]:
    (tmp_path / "naughty.py").write_text(NAUGHTY.replace("@FOLDER@", str(tmp_path)))

    def make(points: int = 8, per_task: int = 1, **behaviour: int) -> Sweep:
        for name, times in behaviour.items():
            kind, point = name.split("_")
            (tmp_path / f"{kind}-{point}").write_text(str(times))
        return sweep_from({
            "model": f"{tmp_path / 'naughty.py'}:naughty",
            "grid": {"a": [float(i) for i in range(points)]},
            "store": {"path": str(tmp_path / "naughty.zarr"), "points_per_task": per_task},
        })  # fmt: skip

    return make


def events(path: Path, *kinds: str) -> list[Event]:
    found = read_events(open_store(path))
    assert done_twice(found) == []
    return [event for event in found if not kinds or event.what in kinds]


def test_the_store_is_that_of_the_local_executor(
    cake: Callable[..., Sweep], cluster: Cluster
) -> None:
    here = run(cake("here.zarr"))
    seen: list[str] = []
    there = run(cake("there.zarr"), executor=DaskExecutor(cluster.address, seen.append))
    assert there.solved == here.solved == 6
    assert_equal_stores(here.path, there.path)
    assert seen[-1] == "2 workers"
    assert sorted(e.task for e in events(there.path, "solved") if e.task is not None) == [0, 1, 2]
    assert not (there.path / "status" / "driver.json").exists()


def test_one_worker_compiles_and_the_other_finds_the_program(
    cake: Callable[..., Sweep], cluster: Cluster
) -> None:
    sweep = cake(fixed={"n_x": 13}, store={"points_per_task": 1})  # not compiled by a test before
    path = run(sweep, executor=DaskExecutor(cluster.address)).path
    compiled = events(path, "compiled")
    assert compiled[0].facts["misses"] > 0
    assert all(e.facts["hits"] and not e.facts["misses"] for e in compiled[1:])
    first = compiled[0].time
    begun = [event.time for event in events(path, "started")]
    assert len([t for t in begun if t < first]) == 1  # the others waited


def test_what_is_committed_is_not_computed_again(
    naughty: Callable[..., Sweep], cluster: Cluster
) -> None:
    from dpsolve.hpc.run.sweep import create_store
    from dpsolve.hpc.sweep_file.model_source import resolve

    sweep = naughty()
    store = create_store(sweep, resolve(sweep.model))

    class Behind(DaskExecutor):
        """As a driver that holds a task for lost while its worker commits it."""

        def run(self, store: Any, tasks: Any, note: Any) -> Any:
            write_failed(store, 3, "committed by somebody else")
            yield from super().run(store, tasks, note)

    outcome = run(sweep, executor=Behind(cluster.address))
    assert (outcome.solved, outcome.failed) == (7, 1)
    assert [e.task for e in events(store.path, "skipped")] == [3]
    assert 3 not in [e.task for e in events(store.path, "started")]


def test_a_killed_worker_costs_the_task_in_its_hands(
    naughty: Callable[..., Sweep], cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    sweep = naughty(points=12)
    listener = kill_after(3, cluster.processes()[0])
    outcome = run(sweep, listener, executor=DaskExecutor(cluster.address))
    assert not any("start the scheduler" in note for note in listener.notes)
    assert outcome.solved == 12
    lost = events(outcome.path, "lost")
    assert [e.facts["cause"] for e in lost] == ["process"]
    # It may die with an order that it had not begun, and with results that are not committed yet.
    assert 12 <= len(events(outcome.path, "solved")) <= 13
    assert 12 <= len(events(outcome.path, "started")) <= 13
    assert len(events(outcome.path, "committed")) == 12


def test_a_task_that_fails_three_times_is_marked_and_the_sweep_goes_on(
    naughty: Callable[..., Sweep], cluster: Cluster, listener: Listener
) -> None:
    outcome = run(naughty(err_5=99, err_2=2), listener, executor=DaskExecutor(cluster.address))
    assert (outcome.solved, outcome.failed, outcome.exit_code) == (7, 1, 1)
    store = open_store(outcome.path)
    status, message = (
        store.buckets[0].record(name, store.tasks[5]) for name in ("status", "message")
    )
    assert status is not None
    assert message is not None
    assert (*status, *message) == ("failed", "ValueError: no root in sight (3 times)")
    retries = [e.task for e in events(outcome.path, "retry")]
    assert (retries.count(5), retries.count(2)) == (2, 2)
    assert any("task 5 is given up" in note for note in listener.notes)
    assert run(naughty()).computed == 0  # the verdict stands


def test_a_package_that_a_worker_lacks_ends_the_sweep_and_marks_nothing(
    naughty: Callable[..., Sweep], cluster: Cluster
) -> None:
    sweep = naughty(imp_4=99)
    with pytest.raises(ClusterError, match="No module named 'a_package_that_the_worker") as raised:
        run(sweep, executor=DaskExecutor(cluster.address))
    assert "nothing was marked failed" in str(raised.value)
    store = open_store(sweep.store.path)
    assert sum(receipt.failed for receipt in store.receipts().values()) == 0
    assert [e.task for e in events(store.path, "error", "stop")] == [4, 4]
    for file in Path(sweep.store.path).parent.glob("imp-*"):
        file.unlink()
    assert run(sweep, executor=DaskExecutor(cluster.address)).solved == 8


def test_a_mesh_that_a_worker_cannot_make_ends_the_sweep(
    naughty: Callable[..., Sweep], cluster: Cluster
) -> None:
    sweep = naughty()
    executor = DaskExecutor(cluster.address, mesh="points=64")
    with pytest.raises(ClusterError, match="takes 64 devices, and there are"):
        run(sweep, executor=executor)
    assert open_store(sweep.store.path).receipts() == {}


def test_failed_points_are_computed_once_more_on_demand(
    naughty: Callable[..., Sweep], cluster: Cluster, tmp_path: Path
) -> None:
    sweep = naughty(err_5=3)
    path = run(sweep, executor=DaskExecutor(cluster.address)).path
    again = run(sweep, executor=DaskExecutor(cluster.address), retry_failed=True)
    assert (again.solved, again.failed, again.computed) == (8, 0, 1)
    assert [e.task for e in events(path, "retried")] == [5]
    assert run(sweep, retry_failed=True).computed == 0  # none is left


def test_points_are_marked_only_once_another_task_was_solved(
    naughty: Callable[..., Sweep], cluster: Cluster
) -> None:
    """Fewer tasks than would make the sweep hopeless: the last word comes at its end."""
    outcome = run(naughty(points=3, err_0=99, err_1=99, err_2=99),
                  executor=DaskExecutor(cluster.address))  # fmt: skip
    assert (outcome.solved, outcome.failed) == (0, 3)
    made = events(outcome.path, "give up", "committed")
    assert [e.what for e in made] == ["give up"] * 3 + ["committed"] * 3


def test_a_task_that_kills_its_workers_is_marked(
    naughty: Callable[..., Sweep], cluster: Cluster
) -> None:
    outcome = run(naughty(points=4, die_2=99), executor=DaskExecutor(cluster.address))
    assert (outcome.solved, outcome.failed) == (3, 1)
    assert len([e for e in events(outcome.path, "lost") if e.task == 2]) == 5
    halvings = {e.facts["halvings"] for e in events(outcome.path, "started")}
    assert halvings == {0}  # nothing points at memory, and another batch has other bits


def test_a_task_with_too_little_memory_gets_a_smaller_batch(
    naughty: Callable[..., Sweep], cluster: Cluster
) -> None:
    outcome = run(naughty(hog_1=2), executor=DaskExecutor(cluster.address))
    assert outcome.solved == 8
    halvings = [e.facts["halvings"] for e in events(outcome.path, "started") if e.task == 1]
    assert halvings == [0, 1, 2]
    store = trusted(open_store(outcome.path))
    lanes = prepare(store, 0).lanes
    assert [prepare(store, 0, n).lanes for n in (1, 2, 20)] == [lanes // 2, lanes // 4, 1]


def test_a_scheduler_set_otherwise_does_as_well_and_is_told_what_would_suit(
    naughty: Callable[..., Sweep], foreign: Cluster, tmp_path: Path
) -> None:
    """There dask itself runs lost tasks again; whose fault it is is judged all the same."""
    (tmp_path / "slow").touch()
    listener = kill_after(3, foreign.processes()[0])
    outcome = run(naughty(points=12), listener, executor=DaskExecutor(foreign.address))
    assert outcome.solved == 12
    assert [e.facts["cause"] for e in events(outcome.path, "lost")] == ["process"]
    (advice,) = [note for note in listener.notes if "start the scheduler" in note]
    for word in ("WORKER_SATURATION=1.0", "ALLOWED_FAILURES=0", "--nthreads 1"):
        assert word in advice


def test_a_task_that_kills_its_workers_is_marked_there_too(
    naughty: Callable[..., Sweep], foreign: Cluster
) -> None:
    outcome = run(naughty(points=4, die_2=99), executor=DaskExecutor(foreign.address))
    assert (outcome.solved, outcome.failed) == (3, 1)
    assert len([e for e in events(outcome.path, "lost") if e.task == 2]) == 5


def test_a_worker_that_is_not_needed_is_let_go_and_nothing_is_lost(
    naughty: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow").touch()
    let_go: list[str] = []

    def tick(self: Any, queue: TaskQueue) -> list[str]:
        idle = [w.address for w in queue.worker_states.values() if not w.orders and not w.leaving]
        found = idle[:1] if not let_go and len(queue.worker_states) == 2 else []
        let_go.extend(found)
        return found

    monkeypatch.setattr(dask_executor._Workers, "tick", tick)
    with by_hand(tmp_path, threads=1) as ours:
        assert run(naughty(points=6), executor=DaskExecutor(ours.address)).solved == 6
        assert len(let_go) == 1
        until(lambda: len(ours.processes()) == 1, "it is gone", 20)
    assert events(tmp_path / "naughty.zarr", "lost") == []


def test_workers_that_cannot_work_say_so_and_leave(
    naughty: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    listener: Listener,
) -> None:  # fmt: skip
    other = partial(RunInfo, versions=(("jax", "0.1"),))
    monkeypatch.setattr(dask_executor, "RunInfo", other)
    monkeypatch.setattr(coordinator, "UNFIT", 2)
    with by_hand(tmp_path, threads=1) as ours:
        with pytest.raises(ClusterError, match=r"2 workers in a row cannot work.* driver 0\.1"):
            run(naughty(), listener, executor=DaskExecutor(ours.address))
        until(lambda: not ours.processes(), "they are gone", 20)
    assert len([note for note in listener.notes if "cannot work" in note]) == 2
    assert events(tmp_path / "naughty.zarr", "started") == []


def test_stopping_commits_what_is_in_work_begins_nothing_and_the_rest_is_resumed(
    naughty: Callable[..., Sweep], cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    sweep = naughty(points=20)
    executor = DaskExecutor(cluster.address)

    class Stopping(Listener):
        def advance(self, solved: int, inexact: int, failed: int) -> None:
            super().advance(solved, inexact, failed)
            if sum(self.counts) == 2:
                executor.stop()

    began = time.monotonic()
    outcome = run(sweep, Stopping(), executor=executor)
    assert time.monotonic() - began < 30
    assert 0 < outcome.pending < 20
    begun, committed = ({e.task for e in events(outcome.path, what)}
                        for what in ("started", "committed"))  # fmt: skip
    assert begun == committed
    assert outcome.solved == len(committed)
    (tmp_path / "slow").unlink()
    assert run(sweep, executor=DaskExecutor(cluster.address)).solved == 20
    events(outcome.path)


def test_a_worker_whose_job_is_nearly_over_takes_no_task(
    naughty: Callable[..., Sweep], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own clock decides; orders say how long such a task takes."""
    from dpsolve.hpc.cluster import shutdown, worker

    monkeypatch.setenv(shutdown.JOB_END, str(time.time() + 60))
    worker.check_time(10.0, "a task takes")
    with pytest.raises(worker.TooLittleTime, match=r"and the job has (59|60) s left"):
        worker.check_time(50.0, "a task takes")
    worker.check_time(0.0, "nothing is known yet")


def test_without_a_scheduler_the_address_is_named(naughty: Callable[..., Sweep]) -> None:
    executor = DaskExecutor("tcp://127.0.0.1:1")
    import dpsolve.hpc.cluster.dask_executor as module

    module.CONNECT, before = 0.5, module.CONNECT
    try:
        with pytest.raises(ClusterError, match=r"no dask scheduler at tcp://127\.0\.0\.1:1"):
            run(naughty(), executor=executor)
    finally:
        module.CONNECT = before
