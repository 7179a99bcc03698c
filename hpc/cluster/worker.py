"""How a worker carries out an order: what must hold before, and what is written down on the way.

An order is carried out only if

- its task is not committed (another worker, held for dead, may have done it), and
- the time that the job has left covers it, judged by earlier tasks and, once the first part of the
  task is solved, by the task itself.

The points of a task are solved in portions of whole batches, which changes no bit of the results
(a point depends on no other, or on those of its own strand alone), so that a worker that is told
to leave needs not finish the task, and one that cannot finish in time knows early.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve._version import __version__
from dpsolve.hpc.plan.order import back_in_place
from dpsolve.hpc.run.executor import numbers_of, prepare
from dpsolve.hpc.store.buckets import Receipt, receipt
from dpsolve.hpc.store.event_log import Ledger
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.sharding.batches.warm_order import START, STRAND

from .memory_guard import guard_memory, oom_kills
from .messages import Order, Post
from .mishaps import Unprepared, cause_of
from .shutdown import job_end, told_to_leave

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task
    from dpsolve.sharding.batches.program import Batch, Program


MARGIN = 1.25
SPARE = 5.0
"""A task is begun if its expected seconds times MARGIN, and SPARE seconds, are left of the job."""

PORTIONS = 16

Report = dict[str, Any]
Tell = Callable[[Report], None]


class Late(Exception):
    """The job ends before the task would."""


class Told(Exception):
    """The worker was told to leave."""


class Desk:
    """What a worker keeps from one order to the next."""

    def __init__(self, post: Post) -> None:
        self.one_at_a_time = threading.Lock()  # a task uses all devices of its process
        self.smallest = False
        self._programs: dict[tuple[int, int], Program] = {}
        self.devices = _prepare(post)
        self.store: Store = open_store(Path(post.store))
        self.ledger = Ledger(self.store, "worker")
        self._mesh = post.mesh
        self._limit = post.memory
        if post.memory:
            guard_memory(post.memory, self._overgrown)
        self.task: int | None = None

    def _overgrown(self, resident: int) -> None:
        """Say in the ledger, where the driver looks when a worker is lost, why this one ends."""
        self.ledger.write("memory", task=self.task, resident=resident, limit=self._limit)

    def describe(self) -> Report:
        """Return who this worker is."""
        return {
            "host": platform.node(),
            "process": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0),
            "writer": self.ledger.writer,
            "devices": self.devices,
            "left": job_end() - time.time() if job_end() else None,
            "oom_kills": oom_kills(),
            "versions": versions(),
        }

    def perform(self, order: Order, tell: Tell) -> Report:
        """Carry out an order; return the report.

        Raises
        ------
        Late
            If the job ends too soon.
        Told
            If this process was told to end.
        Unprepared
            If the program cannot be made, for another reason than memory.
        Exception
            Whatever the task itself raises.
        """
        task = self.store.tasks[order.task]
        began = time.perf_counter()
        if (done := self._committed(task)) is not None:
            self.ledger.write("skipped", task=task.id, why="committed before")
            return _token(done, 0.0, computed=False)
        if told_to_leave():
            raise Told
        check_time(order.seconds, "tasks of this sweep take")
        self.task = task.id
        self.ledger.write("started", task=task.id, halvings=order.halvings)
        program, compiling = self._compiled(task, order.halvings, tell)
        solving = time.perf_counter()
        batch = self._solve(program, task)
        solving = time.perf_counter() - solving
        self.ledger.write("solved", task=task.id, points=task.size, seconds=round(solving, 4))
        if (done := self._committed(task)) is not None:  # by a worker that was held for dead
            self.ledger.write("dropped", task=task.id, why="committed meanwhile")
            return _token(done, 0.0, computed=False)
        found = replace(self.store.write_task(task, batch), compile_seconds=compiling)
        self.ledger.write("committed", task=task.id)
        self.task = None
        seconds = time.perf_counter() - began
        return _token(found, seconds - compiling, computed=True) | {"solving": solving}

    def _committed(self, task: Task) -> Receipt | None:
        bucket = self.store.buckets[task.bucket]
        try:
            status, bound = bucket.record("status", task), bucket.record("error_bound", task)
        except ValueError:
            return None  # damaged: to be done again
        return None if status is None or bound is None else receipt(task, status, bound)

    def _compiled(self, task: Task, halvings: int, tell: Tell) -> tuple[Program, float]:
        from .compilation_cache import counting

        key = (task.bucket, halvings)
        if key in self._programs:
            self.smallest = self._programs[key].lanes == 1
            return self._programs[key], 0.0
        try:
            program = prepare(self.store, task.bucket, halvings, self._mesh)
            self.smallest = program.lanes == 1
            began = time.perf_counter()
            with counting() as use:
                program.compile()
        except Exception as error:
            if cause_of(error) == "memory":
                raise
            raise Unprepared from error
        seconds = time.perf_counter() - began
        facts = {"bucket": task.bucket, "seconds": round(seconds, 3), "hits": use.hits,
                 "misses": use.misses, "lanes": program.lanes}  # fmt: skip
        self.ledger.write("compiled", **facts)
        tell({"what": "compiled"} | facts)
        self._programs[key] = program
        return program, seconds

    def _solve(self, program: Program, task: Task) -> Batch:
        bucket = self.store.buckets[task.bucket].bucket
        numbers = numbers_of(program, bucket, task)
        parts: list[Batch] = []
        began = time.perf_counter()
        for start, stop in _portions(task, program):
            parts.append(program.run(bucket.points(numbers[start:stop])))
            if stop == task.size:
                break
            share = stop / task.size
            rest = (time.perf_counter() - began) * (1 - share) / share
            if told_to_leave(rest):
                raise Told
            whole = rest / (1 - share)
            check_time(rest, f"task {task.id} ({task.size} points) takes", whole)
        batch = parts[0] if len(parts) == 1 else _joined(parts)
        return back_in_place(batch, numbers) if program.warm else batch


def versions() -> dict[str, str]:
    """Return the versions that decide what numbers come out."""
    import jax

    return {"dpsolve": __version__, "jax": jax.__version__}


def _portions(task: Task, program: Program) -> Iterator[tuple[int, int]]:
    """Cut a task into some portions of whole batches, and of whole strands where starts are warm.

    The first and one past the last of each are places in the task.
    """
    from dpsolve.sharding.devices.threads import cores

    at_once = program.lanes * program.shape.points * cores()  # on a CPU, batches run side by side
    if program.warm:
        at_once = program.lanes * program.shape.points * program.workers * STRAND
    size = at_once * max(1, -(-task.size // (at_once * PORTIONS)))
    for start in range(0, task.size, size):
        yield start, min(start + size, task.size)


def _joined(parts: list[Batch]) -> Batch:
    from dpsolve.sharding.batches.program import Batch

    first = parts[0]
    names = {name: np.concatenate([p.variables[name] for p in parts]) for name in first.variables}
    if START in names:  # counted within each part
        before = np.cumsum([0, *(len(part.status) for part in parts[:-1])])
        sources = [p.variables[START] for p in parts]
        shifted = [np.where(x < 0, x, x + n) for x, n in zip(sources, before, strict=True)]
        names[START] = np.concatenate(shifted).astype(np.int32)
    rest = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in vars(first)
        if name != "variables"
    }
    return Batch(variables=names, **rest)


def check_time(needed: float, who: str, whole: float = 0.0) -> None:
    """Raise if the job ends before what is to be done would."""
    end = job_end()
    if not end or not needed:
        return
    left = end - time.time()
    if left < needed * MARGIN + SPARE:
        raise Late(f"{who} {whole or needed:.0f} s, and the job has {left:.0f} s left", whole)


def _token(found: Receipt, seconds: float, *, computed: bool) -> Report:
    return {"what": "done", "receipt": asdict(found), "seconds": seconds, "computed": computed}


def _prepare(post: Post) -> str:
    """Set up JAX in this process; return what it computes on."""
    from .compilation_cache import use_cache
    from .worker_devices import check_devices

    devices = check_devices(post.gpus)
    if post.cache:
        use_cache(Path(post.cache))
    return devices
