"""The Executor protocol, and ``--on local``: tasks in this process.

A worker gets a store's path and a task's number. All else comes from the store, and the results go
there: what travels back is a :class:`~.buckets.Receipt`. So any process that reaches the store can
carry a task out, on whatever machine (see :mod:`.worker`).
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import POINT
from dpsolve.hpc.store.buckets import Receipt
from dpsolve.hpc.store.store import Store
from dpsolve.sharding.batches.solving_order import START, as_table, solving_order
from dpsolve.solvers.notices import told_to

if TYPE_CHECKING:
    from dpsolve.hpc.plan.design import Bucket
    from dpsolve.hpc.plan.plan import Plan
    from dpsolve.hpc.plan.tasks import Task, WorkerCount
    from dpsolve.sharding.batches.program import Batch, Program


Note = Callable[[str], None]

AUTO = "auto"
"""The word for a mesh that suits the model and the devices."""

GRACE = 2.0
"""Seconds that an interrupted run waits for the file it is writing."""


class Executor(Protocol):
    """Runs tasks and tells of each that is committed.

    Attributes
    ----------
    kind : str
        ``local``, ``dask`` or ``slurm``.
    worker_count : WorkerCount or None
        The workers there may be, for the cut of a new store; None: as for one machine.
    """

    kind: str
    worker_count: WorkerCount | None

    def run(self, store: Store, tasks: Sequence[Task], note: Note) -> Iterator[Receipt]:
        """Run tasks in whatever order, and yield a receipt for each once it is committed.

        The first error of a task ends the run and is raised; what was committed stays.
        """

    def stop(self) -> None:
        """End `run` within seconds. Safe to call from a signal handler."""


class LocalExecutor:
    """Runs tasks in this process: one is solved while the one before is written.

    Solving happens in a thread, because nothing interrupts a compiled program: Ctrl-C ends the
    run at once, and the batch in flight is abandoned.

    Parameters
    ----------
    mesh : str
        How points and states are cut over this process's devices.

    Raises
    ------
    UsageError
        If the mesh is none, or takes more devices than there are.
    """

    kind = "local"
    worker_count: WorkerCount | None = None

    def __init__(self, mesh: str = AUTO) -> None:
        if mesh != AUTO:
            from dpsolve.sharding.devices.mesh import check_mesh

            check_mesh(mesh)
        self._mesh = mesh
        self._events: SimpleQueue[Receipt | str | Exception | None] = SimpleQueue()
        self._stopped = threading.Event()

    def check(self, plan: Plan) -> None:
        """Refuse a plan that cannot work on this process's devices.

        Raises
        ------
        UsageError
            With the bytes or the time, and the nearest size that would do.
        """
        from dpsolve.sharding.batches.program import program_for
        from dpsolve.sharding.devices.mesh import MeshShape

        for part in plan.buckets:
            made, most = part.program, max(task.size for task in part.tasks)
            mesh = MeshShape.read(self._mesh)
            program_for(made.factory, made.sizes, made.options, most, mesh).check_possible()

    def run(self, store: Store, tasks: Sequence[Task], note: Note) -> Iterator[Receipt]:
        """Run tasks in order; see `Executor`."""
        ended = threading.Event()

        def work() -> None:
            try:
                self._work(store, tasks)
            finally:
                ended.set()

        threading.Thread(target=work, daemon=True).start()
        try:
            while (event := self._next_event()) is not None:
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, str):
                    note(event)
                else:
                    yield event
        finally:
            failed = not self._stopped.is_set()
            self._stopped.set()
            _leave(ended, exit_code=1 if failed else 130)
        while not self._events.empty():  # what was being written when the run was stopped
            if isinstance(event := self._events.get(), Receipt):
                yield event

    def _next_event(self) -> Receipt | str | Exception | None:
        while True:
            # Python handles signals in the main thread, and only when it is awake.
            with suppress(Empty):
                return self._events.get(timeout=0.2)

    def stop(self) -> None:
        """End `run`: a task being written is committed, a task being solved is abandoned."""
        self._stopped.set()
        self._events.put(None)

    def _work(self, store: Store, tasks: Sequence[Task]) -> None:
        try:
            with ThreadPoolExecutor(1, "dpsolve-writer") as writer:
                writing: Future[None] | None = None
                for task in tasks:
                    if self._stopped.is_set():
                        return
                    batch, seconds = _solve(store, task, self._events.put, self._mesh)
                    if writing is not None:
                        writing.result()  # at most one task waits, so that memory stays bounded
                    if self._stopped.is_set():
                        return
                    writing = writer.submit(self._write, store, task, batch, seconds)
                if writing is not None:
                    writing.result()
        except Exception as error:
            self._events.put(error)
        else:
            self._events.put(None)

    def _write(self, store: Store, task: Task, batch: Batch, compile_seconds: float) -> None:
        try:
            receipt = store.write_task(task, batch)
        except Exception as error:
            self._events.put(error)  # at once, not when the next task is solved
            raise
        self._events.put(replace(receipt, compile_seconds=compile_seconds))


def _leave(ended: threading.Event, exit_code: int) -> None:
    """Wait for a worker to end, but not for a long batch."""
    # Python aborts (SIGABRT) if it ends while a thread is inside compiled code. Registered before
    # the wait, which another Ctrl-C may end; and an event is asked, because an interrupted join
    # takes the thread for ended (Python 3.11).
    atexit.register(_exit_unless, ended, exit_code)
    ended.wait(GRACE)


def _exit_unless(ended: threading.Event, exit_code: int) -> None:
    if not ended.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _solve(
    store: Store, task: Task, note: Note | None = None, mesh: str = AUTO
) -> tuple[Batch, float]:
    """Solve the points of a task; return them with the seconds spent on compiling."""
    compiled = prepare(store, task.bucket, mesh=mesh)
    bucket = store.buckets[task.bucket].bucket
    began = time.perf_counter()
    numbers = numbers_of(compiled, bucket, task)
    points = bucket.points(numbers)
    with told_to(note) if note is not None else nullcontext():
        compiled.compile(points)
    seconds = time.perf_counter() - began
    if note is not None and seconds > 0.1:
        where = f" {bucket.group}" if bucket.group else ""
        note(f"compiled {store.source.name}{where} in {seconds:.1f} s")
    batch = compiled.run(points)
    return batch.back_in_place(numbers), seconds


def numbers_of(program: Program, bucket: Bucket, task: Task) -> NDArray[np.intp]:
    """Return the numbers of a task's points, in the order in which a program is to solve them."""
    if not program.warm:
        return np.arange(task.start, task.stop)
    table = None
    if tuple(bucket.axes) == (POINT,) and bucket.parameters:
        rows = {n: x[task.start : task.stop] for n, (_, x) in bucket.parameters.items()}
        table = as_table(rows, task.size)
    return task.start + solving_order(task.shape, table)


def prepare(store: Store, number: int, halvings: int = 0, mesh: str = AUTO) -> Program:
    """Return the program of a bucket, not yet compiled.

    Parameters
    ----------
    store : Store
    number : int
        The bucket's.
    halvings : int
        How often to halve its lanes: for a task that ran out of memory. Another number of lanes is
        another program, whose results may differ in the last digits.
    mesh : str
        How points and states are cut over this process's devices.
    """
    from dpsolve.sharding.batches.program import Program, program, program_for
    from dpsolve.sharding.devices.mesh import MeshShape
    from dpsolve.solvers.model.factory_signature import signature

    factory = store.source.load()
    stored = store.buckets[number]
    given = stored.bucket.sizes
    sizes = {name: given.get(name, default) for name, default in signature(factory).sizes.items()}
    most = max(task.size for task in stored.tasks)
    options = store.options
    if program(factory, sizes, options).warm != (START in stored.results):
        # The store says how it was begun, before there were warm starts or by another rule.
        options = replace(options, warm=START in stored.results)
    whole = program_for(factory, sizes, options, most, MeshShape.read(mesh))
    if not halvings:
        return whole
    smaller = Program(factory, sizes, options, whole.shape)
    smaller.lanes = max(1, smaller.lanes >> halvings)
    return smaller
