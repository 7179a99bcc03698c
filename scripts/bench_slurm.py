"""What driving a sweep over SLURM costs: run by ``scripts/bench slurm``, on Linux as root.

Four figures on the local SLURM of ``scripts/slurm-local``: what the driver adds to each task, what
four workers do against one on tasks that sleep (so that cores do not matter), and what the driver
takes of a core while it waits. And one on paper: a million points over a thousand workers. There
the store, the plan, what is read to resume and to tell the status are real, with tiny arrays;
tasks, as long as those of a recorded sweep, pass through a queue instead of a cluster.
"""

from __future__ import annotations

import heapq
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store

Row = tuple[str, str, str, str]  # as in benchmarks.py: what, measured, ratio, target

SCRIPT = Path(__file__).resolve().parent / "slurm-local"

SLEEPY = '''
import time
import jax, jax.numpy as jnp, numpy as np

def sleep(x):
    time.sleep({nap})
    return np.asarray(x)

def sleepy(a=1.0):
    """Sleeps once for a batch of points."""
    x = jax.pure_callback(sleep, jax.ShapeDtypeStruct((), jnp.float64), a, vmap_method="broadcast_all")
    return {{"x": x}}
'''  # noqa: E501 - as it is written to the file

TINY = '''
def tiny(a=1.0, b=2.0):
    """A product: arrays as small as they come."""
    return {"price": a * b}
'''

PROFILE = """
partition = "main"
walltime = "00:20:00"
memory = "3G"
interface = "lo"
prologue = ["export JAX_PLATFORMS=cpu"]
submit_pause = 0.1
poll = {poll}
death_timeout = 20
min_jobs = {jobs}
max_jobs = {jobs}
"""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Bring up a SLURM; yield the environment that talks to it."""
    folder = tempfile.mkdtemp(prefix="dpb", dir="/tmp")
    ours = os.environ | {"SLURM_LOCAL_DIR": folder, "JAX_PLATFORMS": "cpu"}
    try:
        subprocess.run([SCRIPT, "up"], env=ours, check=True, stdout=subprocess.DEVNULL)
        yield ours | {"SLURM_CONF": f"{folder}/slurm.conf"}
    finally:
        subprocess.run([SCRIPT, "down"], env=ours, check=True)
        shutil.rmtree(folder, ignore_errors=True)


class Bench:
    """Sweeps of sleeping tasks on the cluster."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.made = 0

    def start(self, tasks: int, nap: float, jobs: int, poll: int = 2) -> tuple[Path, Any]:
        """Start a sweep of tasks of one point each; return its store and its driver."""
        self.made += 1
        name = f"{self.made}"
        store = self.folder / f"{name}.zarr"
        model, profile = self.folder / f"m{name}.py", self.folder / f"p{name}.toml"
        model.write_text(SLEEPY.format(nap=nap))
        profile.write_text(PROFILE.format(jobs=jobs, poll=poll))
        command = [sys.executable, "-m", "dpsolve", "sweep", f"{model}:sleepy",
                   "--grid", f"a=0:1:{tasks}", "--with", "store.points_per_task=1",
                   "--store", str(store), "--on", "slurm", "--profile", str(profile)]  # fmt: skip
        driver = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return store, driver

    def finish(self, tasks: int, nap: float, jobs: int) -> list[dict[str, Any]]:
        """Run a sweep to its end; return the events of its ledger."""
        store, driver = self.start(tasks, nap, jobs)
        said, _ = driver.communicate(timeout=900)
        if driver.returncode:
            raise RuntimeError(said)
        return event_log(store)


def event_log(path: Path) -> list[dict[str, Any]]:
    """Return the events of a store's ledger in the order of time."""
    from dpsolve.hpc.store.event_log import read_events
    from dpsolve.hpc.store.store import open_store

    return [
        {"t": event.time, "writer": event.writer, "what": event.what} | event.facts
        for event in read_events(open_store(path))
    ]


def commits(events: list[dict[str, Any]]) -> list[float]:
    """Return when tasks were committed, in order."""
    return sorted(event["t"] for event in events if event["what"] == "committed")


def overhead(bench: Bench) -> Row:
    """Measure what a task takes besides its solving: from one commit to the next, on one worker."""
    tasks, nap = 300, 0.05
    events = bench.finish(tasks, nap, jobs=1)
    solving = np.median([event["seconds"] for event in events if event["what"] == "solved"])
    each = float(np.median(np.diff(commits(events))) - solving)
    return (f"driver and store per task ({tasks} tasks of {nap * 1e3:.0f} ms, one worker)",
            f"{each * 1e3:.1f} ms", "", "")  # fmt: skip


def throughput(bench: Bench) -> Row:
    """Compare four workers with one, on tasks that sleep; starts and ends do not count."""
    rates = {}
    for jobs, tasks in ((1, 40), (4, 160)):
        at = commits(bench.finish(tasks, 0.5, jobs))
        steady = at[len(at) // 4 : -len(at) // 10]
        rates[jobs] = (len(steady) - 1) / (steady[-1] - steady[0])
    measured = f"{rates[4]:.2f} tasks/s against {rates[1]:.2f} with one"
    return "four workers, tasks that sleep 0.5 s", measured, f"{rates[4] / rates[1]:.2f}", "~4"


def idle(bench: Bench, seconds: float = 60.0) -> Row:
    """Measure the processor time that a driver takes while its one worker sleeps."""
    import psutil

    _, driver = bench.start(2, 3 * seconds, jobs=1, poll=30)
    try:
        process = psutil.Process(driver.pid)
        end = time.monotonic() + 60
        while not any_running(bench.environment) and time.monotonic() < end:
            time.sleep(0.5)
        time.sleep(10)  # until it has started, and compiled

        def used() -> float:
            every = [process, *process.children(recursive=True)]
            return sum(p.cpu_times().user + p.cpu_times().system for p in every)

        before, began = used(), time.monotonic()
        time.sleep(seconds)
        share = (used() - before) / (time.monotonic() - began)
    finally:
        driver.terminate()
        driver.communicate(timeout=60)
    return f"driver while it waits, over {seconds:.0f} s", f"{share:.2%} of a core", "", "< 1 %"


def any_running(environment: dict[str, str]) -> bool:
    """Tell whether a job runs."""
    words = ["squeue", "-h", "-t", "RUNNING", "-o", "%i"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


# -- a million points over a thousand workers ------------------------------------------------------


def timed(f: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a callable returns, and the seconds it took."""
    began = time.perf_counter()
    found = f()
    return found, time.perf_counter() - began


def recorded(folder: Path) -> np.ndarray[Any, Any]:
    """Solve a small sweep, and return the seconds of its points over their mean."""
    import xarray as xr

    from dpsolve.hpc.progress import Silent
    from dpsolve.hpc.run.sweep import run_sweep
    from dpsolve.hpc.sweep_file.fields import sweep_from
    from dpsolve.hpc.sweep_file.model_source import resolve

    store = folder / "recorded.zarr"
    asked = {
        "model": "savings",
        "fixed": {"continuous": False, "n_a": 60, "n_z": 5},
        "grid": {
            "beta": {"from": 0.90, "to": 0.985, "points": 16},
            "gamma": {"from": 1.5, "to": 5.0, "points": 16},
        },
        "solve": {"tol": 1e-6},
        "store": {"path": str(store), "points_per_task": 4, "keep": ["value"]},
    }
    run_sweep(sweep_from(asked), resolve("savings"), progress=Silent())
    with xr.open_zarr(store) as ds:
        seconds = ds["seconds"].values.reshape(-1, 4).sum(1)  # by task
    return np.asarray(seconds / seconds.mean())


def million(folder: Path, per_task: int | None) -> list[Row]:
    """Plan, store, resume and tell the status of a million points; simulate their workers."""
    from dpsolve.hpc.plan.plan import make_plan
    from dpsolve.hpc.store.create import create
    from dpsolve.hpc.store.status import read_status
    from dpsolve.hpc.store.store import open_store
    from dpsolve.hpc.sweep_file.fields import sweep_from
    from dpsolve.hpc.sweep_file.model_source import resolve

    (folder / "tiny.py").write_text(TINY)
    store_path = folder / f"million-{per_task}.zarr"
    axis = {"from": 0.0, "to": 1.0, "points": 1_000}
    asked = {
        "model": f"{folder / 'tiny.py'}:tiny",
        "grid": {"a": axis, "b": axis},
        "store": {"path": str(store_path)} | ({"points_per_task": per_task} if per_task else {}),
    }
    plan, planning = timed(lambda: make_plan(sweep_from(asked), resolve(asked["model"])))
    _, creating = timed(lambda: create(plan, "bench"))
    store = open_store(store_path)
    half = len(store.tasks) // 2
    _, writing = timed(lambda: commit(store, range(half)))
    _, resuming = timed(lambda: open_store(store_path).receipts())
    _, telling = timed(lambda: read_status(store_path))
    commit(store, range(half, len(store.tasks)))
    _, again = timed(lambda: open_store(store_path).receipts())
    status, whole = timed(lambda: read_status(store_path))
    assert status.solved == 1_000_000, status
    files = sum(len(names) for _, _, names in os.walk(store_path))

    name = f"1,000,000 points, {plan.tasks[0].size:,} to a task"
    rows = [
        (name, f"{len(plan.tasks):,} tasks, {files:,} files ({plan.files:,} forecast)", "", ""),
        (f"{name}: plan, create", f"{planning:.2f} s, {creating:.2f} s", "", ""),
        (f"{name}: resume at half, at the end", f"{resuming:.2f} s, {again:.2f} s", "", ""),
        (f"{name}: status at half, at the end", f"{telling:.2f} s, {whole:.2f} s", "", ""),
        (f"{name}: a task's commit", f"{writing / half * 1e3:.1f} ms in one process", "", ""),
    ]
    if len(plan.tasks) >= 1_000:
        rows += [simulated(store, recorded(folder), name, pause=pause) for pause in (1.0, 0.1)]
    shutil.rmtree(store_path)
    return rows


def commit(store: Store, numbers: range) -> None:
    """Commit tasks as workers do, with results that nothing had to compute."""
    from dpsolve.sharding.batches.program import Batch

    bucket = store.buckets[0].bucket
    for number in numbers:
        task = store.tasks[number]
        points = bucket.points(np.arange(task.start, task.stop))
        n = task.size
        store.write_task(
            task,
            Batch(
                variables={"price": points["a"] * points["b"]},
                status=np.full(n, "solved"),
                message=np.full(n, "", dtype=object),
                residual=np.zeros(n),
                error_bound=np.full(n, np.nan),
                iterations=np.ones(n, np.int32),
                code=np.zeros(n, np.int64),
                seconds=np.full(n, 1e-3),
            ),
        )


class VirtualDask:
    """A thousand workers that only exist in time: what the coordinator takes for dask's client.

    It hands tasks out as dask's scheduler does: by priority, one to a worker that is free. It is
    also the queue that the coordinator listens to, and its clock: each event is there at its
    moment, and between two events no time passes.
    """

    status = "running"
    scheduler = None

    def __init__(self, workers: int, length: np.ndarray[Any, Any], pause: float, lost: int) -> None:
        self.now = 0.0
        self._length = length
        self._events: list[tuple[float, int, dict[str, Any]]] = []
        self._queued: list[tuple[float, int, Any]] = []
        self._futures: dict[str, Any] = {}
        self._free: set[str] = set()
        self._busy: dict[str, str] = {}  # the order that a worker is at
        self._number = 0
        self._prepared = threading.Event()
        self.lost = 0
        rng = np.random.default_rng(0)
        for worker in range(workers + lost):  # those beyond come for the lost ones
            name = f"w{worker}"
            hello = {"what": "hello", "name": name, "job": name, "host": "", "writer": ""}
            self._at(worker * pause, hello | {"worker": name, "oom_kills": 0, "threads": 1})
        for worker in rng.choice(workers, lost, replace=False):
            late = float(worker * pause + rng.uniform(10, 600))
            self._at(late, {"what": "remove-worker", "worker": f"w{worker}", "expected": False})

    def _at(self, when: float, event: dict[str, Any]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, event))

    def put(self, event: dict[str, Any]) -> None:
        """Let the coordinator hear what it told itself."""
        self._at(self.now, event)
        if event["what"] == "prepared":  # by a thread, which the time of this waits for
            self._prepared.set()

    def get(self, timeout: float = 0.0) -> dict[str, Any]:
        """Return the next event, and let it be its time."""
        self._prepared.wait()
        when, _, event = heapq.heappop(self._events)
        self.now = max(self.now, when)
        worker = event.get("worker", "")
        match event["what"]:
            case "hello":
                self._free.add(worker)
            case "remove-worker":
                self._free.discard(worker)
                key = self._busy.pop(worker, None)
                event["processing-tasks"] = [key] if key else []
                self.lost += key is not None
                if key:
                    self._futures[key].status = "error"
            case "done" if self._busy.get(worker) != event["id"]:
                return {"what": "nothing"}  # it is gone
            case "done":
                del self._busy[worker]
                self._free.add(worker)
        self._hand_out()
        return event

    def _hand_out(self) -> None:
        while self._queued and self._free:
            _, _, order = heapq.heappop(self._queued)
            worker = self._free.pop()
            self._busy[worker] = order.id
            about = {"worker": worker, "id": order.id, "error": None}
            seconds = float(self._length[order.task])
            receipt = {"task": order.task, "solved": 1, "inexact": 0, "failed": 0}
            done = {"what": "done", "task": order.task, "seconds": seconds, "computed": True}
            self._at(self.now, about | {"what": "begun"})
            self._at(self.now + seconds, about | done
                     | {"receipt": receipt | {"error_bound": np.nan}})  # fmt: skip
            self._at(self.now + seconds, about | {"what": "ended"})

    def submit(self, function: Any, run: Any, order: Any, *, priority: int, **_: Any) -> Any:
        """Queue a task for whoever is free."""
        self._number += 1
        heapq.heappush(self._queued, (-priority, self._number, order))
        self._futures[order.id] = SimpleNamespace(
            status="pending", add_done_callback=lambda f: None
        )
        self._hand_out()
        return self._futures[order.id]

    def subscribe_topic(self, topic: str, hear: Any) -> None:
        """Hear of a run: events come by `get`."""
        self._hear = hear

    def log_event(self, topic: str, event: dict[str, Any]) -> None:
        """Let the coordinator hear itself."""
        self._hear((self.now, event))

    def cancel(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is nothing to cancel or to tell."""

    unsubscribe_topic = register_plugin = retire_workers = cancel


def simulated(
    store: Store, shape: np.ndarray[Any, Any], name: str,
    workers: int = 1_000, mean: float = 60.0, pause: float = 1.0, lost: int = 20,
) -> Row:  # fmt: skip
    """Conduct tasks of recorded lengths over a thousand workers that exist on paper only.

    The coordinator is the real one: what it takes of this machine's time is the driver's own load,
    to which dask's is to be added. Workers start one a second (a profile's `submit_pause`), and
    some are lost.
    """
    from dpsolve.hpc.cluster import coordinator as module
    from dpsolve.hpc.cluster.messages import RunInfo
    from dpsolve.hpc.cluster.task_queue import TaskQueue
    from dpsolve.hpc.store.event_log import EventLog

    tasks = len(store.tasks)
    length = np.random.default_rng(0).choice(shape, tasks) * mean
    dask = VirtualDask(workers, length, pause, lost)
    pool: Any = SimpleNamespace(
        tick=lambda queue: (), joined=lambda worker_state, report: None,
        cause=lambda loss: ("job", "its node was lost"),
    )  # fmt: skip
    real = module.TaskQueue
    module.TaskQueue = partial(TaskQueue, clock=lambda: dask.now)  # type: ignore[misc,assignment]  # for this call
    try:
        driver = module.Coordinator(
            dask,
            store,
            RunInfo("", ""),
            pool,
            EventLog(store, "bench"),
            lambda text: None,  # type: ignore[arg-type]  # it stands for dask's
        )
        driver._heard = dask  # type: ignore[assignment]  # as above
        began = time.process_time()
        finished = sum(1 for _ in driver.conduct(list(range(tasks))))
        used = time.process_time() - began
    finally:
        module.TaskQueue = real  # type: ignore[misc]  # as it was
    assert finished == tasks
    spread = f"tasks of {length.min():.0f} to {length.max():.0f} s, {lost} lost workers"
    measured = (
        f"{dask.now / 60:.1f} min ({length.sum() / workers / 60:.1f} if all were there at once); "
        f"conducting takes {used / tasks * 1e3:.2f} ms a task, {used / dask.now:.1%} of a core"
    )
    return f"{name}: {workers:,} workers, {spread}", measured, "", ""


def rows() -> list[Row]:
    """Take all figures."""
    folder = Path(tempfile.mkdtemp(prefix="dpsolve-bench-"))
    try:
        with cluster() as environment:
            bench = Bench(environment, folder)
            found = [overhead(bench), throughput(bench), idle(bench)]
        for per_task in (None, 100):
            found += million(folder, per_task)
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
