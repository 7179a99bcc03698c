"""What a worker does with a task, from the order to the report.

dask runs `perform` in a thread of the worker's process, which is prepared when it comes
(:mod:`.worker_plugin`).

An order is carried out only if

- its task is not committed (another worker, held for dead, may have done it), and
- the time that the job has left covers it, judged by earlier tasks and, once the first part of the
  task is solved, by the task itself.

The points of a task are solved in portions of whole batches, which changes no bit of the results
(a point depends on no other, or on those of its own strand alone), so that a worker that is told
to leave needs not finish the task, and one that cannot finish in time knows early.

*Reports.* `perform` answers by *reports*, small dicts that dask carries to the driver as events of
the sweep's topic, and returns nothing. For what is told on the way (begun, compiled) there is no
other way; and of the end, too, a worker that dies takes no answer with it, while a result has to be
fetched from the worker's own port. So no array ever passes the scheduler.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsolve.hpc.run.compiled_programs import VARIABLE, counting, keep_compiled_programs
from dpsolve.hpc.run.executor import numbers_of, prepare
from dpsolve.hpc.run.job_logs import mark
from dpsolve.hpc.store.buckets import Dropped, Receipt
from dpsolve.hpc.store.damage import check_metadata
from dpsolve.hpc.store.event_log import EventLog
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.hpc.store.trust import trusted
from dpsolve.sharding.batches.solving_order import STRAND
from dpsolve.solvers.errors import DpsolveError

from .error_causes import Unprepared, cause_of, in_short, is_of_environment
from .memory_guard import guard_memory, oom_kills
from .messages import RunInfo, TaskOrder
from .shutdown import finish_and_close, job_end, told_to_leave

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task
    from dpsolve.sharding.batches.program import Batch, Program


MARGIN = 1.25
SPARE = 5.0
"""A task is begun if its expected seconds times MARGIN, and SPARE seconds, are left of the job."""

PORTIONS = 16

Report = dict[str, Any]
Tell = Callable[[Report], None]


class TooLittleTime(Exception):
    """The job ends before the task would."""


class ShutdownRequested(Exception):
    """The worker was told to leave, or the run is over."""


class TaskRunner:
    """What a worker keeps from one order to the next."""

    def __init__(self, run_info: RunInfo) -> None:
        self.one_at_a_time = threading.Lock()  # a task uses all devices of its process
        self.over = threading.Event()
        """The driver waits for no task any more."""
        self.smallest = False
        self._took: dict[int, float] = {}  # by bucket: orders were submitted long ago
        self._programs: dict[tuple[int, int], Program] = {}
        self.devices = _prepare(run_info)
        self.store: Store = _trusted_store(run_info)
        self.event_log = EventLog(self.store, "worker")
        self._mesh = run_info.mesh
        self._limit = run_info.memory
        if run_info.memory:
            guard_memory(run_info.memory, self._overgrown)
        self.task: int | None = None

    def _overgrown(self, resident: int) -> None:
        """Say in the event log, where the driver looks when a worker is lost, why this one ends."""
        self.event_log.write("memory", task=self.task, resident=resident, limit=self._limit)

    def describe(self) -> Report:
        """Return who this worker is."""
        return {
            "host": platform.node(),
            "process": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0),
            "writer": self.event_log.writer,
            "devices": self.devices,
            "left": job_end() - time.time() if job_end() else None,
            "oom_kills": oom_kills(),
        }

    def perform(self, order: TaskOrder, tell: Tell) -> Report:
        """Carry out an order; return the report.

        Raises
        ------
        TooLittleTime
            If the job ends too soon.
        ShutdownRequested
            If this process was told to end.
        Unprepared
            If the program cannot be made, for another reason than memory.
        Exception
            Whatever the task itself raises.
        """
        task = self.store.tasks[order.task]
        began = time.perf_counter()
        if (done := self.store.receipt(task)) is not None:
            self.event_log.write("skipped", task=task.id, why="committed before")
            return _token(done, 0.0, computed=False)
        if told_to_leave() or self.over.is_set():
            raise ShutdownRequested
        needed = max(order.seconds, self._took.get(task.bucket, 0.0))
        check_time(needed, "tasks of this sweep take")
        self.task = task.id
        self.event_log.write("started", task=task.id, halvings=order.halvings)
        program, compiling = self._compiled(task, order.halvings, tell)
        solving = time.perf_counter()
        batch = self._solve(program, task)
        solving = time.perf_counter() - solving
        self.event_log.write("solved", task=task.id, points=task.size, seconds=round(solving, 4))
        if (done := self.store.receipt(task)) is not None:  # by a worker that was held for dead
            self.event_log.write("dropped", task=task.id, why="committed meanwhile")
            return _token(done, 0.0, computed=False)
        found = replace(self.store.write_task(task, batch), compile_seconds=compiling)
        if isinstance(found, Dropped):
            self.event_log.write("dropped", task=task.id, why="committed meanwhile")
            return _token(found, 0.0, computed=False)
        self.event_log.write("committed", task=task.id)
        self.task = None
        seconds = time.perf_counter() - began - compiling
        self._took[task.bucket] = max(seconds, self._took.get(task.bucket, 0.0))
        return _token(found, seconds, computed=True) | {"solving": solving}

    def _compiled(self, task: Task, halvings: int, tell: Tell) -> tuple[Program, float]:
        key = (task.bucket, halvings)
        if key in self._programs:
            self.smallest = self._programs[key].lanes == 1
            return self._programs[key], 0.0
        try:
            program = prepare(self.store, task.bucket, halvings, self._mesh)
            self.smallest = program.lanes == 1
            bucket = self.store.buckets[task.bucket].bucket
            points = bucket.points(numbers_of(program, bucket, task))
            began = time.perf_counter()
            with counting() as use:
                program.compile(points)
        except Exception as error:
            if cause_of(error) == "memory":
                raise
            raise Unprepared from error
        seconds = time.perf_counter() - began
        facts = {"bucket": task.bucket, "seconds": round(seconds, 3), "hits": use.hits,
                 "misses": use.misses, "lanes": program.lanes}  # fmt: skip
        self.event_log.write("compiled", **facts)
        tell({"what": "compiled"} | facts)
        self._programs[key] = program
        return program, seconds

    def _solve(self, program: Program, task: Task) -> Batch:
        from dpsolve.sharding.batches.program import Batch

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
            if told_to_leave(rest) or self.over.is_set():
                raise ShutdownRequested
            whole = rest / (1 - share)
            check_time(rest, f"task {task.id} ({task.size} points) takes", whole)
        return Batch.joined(parts).back_in_place(numbers)


def _trusted_store(run_info: RunInfo) -> Store:
    """Open the store, if it is the one that the driver trusts, to the last parameter."""
    held = open_store(Path(run_info.store))
    store = trusted(held, run_info.trusted or False, writing=True)
    check_metadata(store)
    return replace(
        store, source=replace(store.source, folder=run_info.folder or store.source.folder)
    )


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


def check_time(needed: float, who: str, whole: float = 0.0) -> None:
    """Raise if the job ends before what is to be done would."""
    end = job_end()
    if not end or not needed:
        return
    left = end - time.time()
    if left < needed * MARGIN + SPARE:
        raise TooLittleTime(
            f"{who} {whole or needed:.0f} s, and the job has {left:.0f} s left", whole
        )


def _token(found: Receipt, seconds: float, *, computed: bool) -> Report:
    return {"what": "done", "receipt": asdict(found), "seconds": seconds, "computed": computed}


def _prepare(run_info: RunInfo) -> str:
    """Set up JAX in this process; return what it computes on."""
    from .worker_devices import check_devices

    devices = check_devices(run_info.gpus)
    if run_info.cache:
        os.environ[VARIABLE] = run_info.cache
        keep_compiled_programs()
    return devices


def perform(run_info: RunInfo, order: TaskOrder) -> None:
    """Carry out an order, and report how it ended."""
    from distributed import get_worker

    me = get_worker()
    about = {"worker": me.address, "id": order.id, "task": order.task}

    def tell(report: Report) -> None:
        me.log_event(run_info.topic, about | report)

    runner = runner_of(run_info)
    with runner.one_at_a_time:
        tell({"what": "begun"})
        try:
            tell(runner.perform(order, tell))
        except TooLittleTime as late:
            me.loop.add_callback(finish_and_close, me, "its job is nearly over")
            runner.event_log.write("declined", task=order.task, why=late.args[0])
            tell({"what": "late", "seconds": late.args[1], "message": str(late.args[0])})
        except ShutdownRequested:
            runner.event_log.write("abandoned", task=order.task, why="told to leave")
            tell({"what": "left"})
        except Exception as raised:
            unprepared = isinstance(raised, Unprepared) and isinstance(raised.__cause__, Exception)
            error = raised.__cause__ if unprepared else raised
            assert isinstance(error, Exception)
            cause = cause_of(error)
            text = str(error) if isinstance(error, DpsolveError) else in_short(error)
            # For the job's log, where `dpsolve logs` looks for the mark.
            print(mark(order.task), traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
            if cause != "disk":
                runner.event_log.write("error", task=order.task, cause=cause, message=text)
            tell({"what": "error", "cause": cause, "message": text,
                  "smallest": runner.smallest,
                  "ours": unprepared or is_of_environment(error)})  # fmt: skip


@lru_cache(maxsize=2)
def runner_of(run_info: RunInfo) -> TaskRunner:
    """Return what this process keeps of a run; made once, or not at all.

    Raises
    ------
    DeviceError, StoreError
        If it cannot work for the run.
    """
    return TaskRunner(run_info)
