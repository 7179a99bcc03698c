"""``dpsolve solve --store``: one model by one process or several.

A *round* is so many sweeps as take about a second. After it the processes tell each other how long
it took and whether one of them was told to end, and decide alike: to go on, to write a checkpoint,
to end. So a signal never leaves the others waiting in a collective.

One model, by one process or several, into a store of one point: ``dpsolve solve --store``.

The store is that of a sweep of one point, made whole by process 0. All processes then solve the
model together, and write and commit it together (:mod:`.commit`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.plan.plan import Plan, make_plan
from dpsolve.hpc.run.disk_space import check_disk
from dpsolve.hpc.run.interrupts import Interrupt, on_interrupt
from dpsolve.hpc.run.single_driver import driving
from dpsolve.hpc.store.create import open_or_create, recut
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.solvers.errors import StoreError, UsageError

from .agreement import together
from .checkpoints import KEPT, Checkpoints
from .commit import Result, commit

if TYPE_CHECKING:
    from dpsolve.hpc.progress import Progress
    from dpsolve.hpc.sweep_file.fields import Sweep
    from dpsolve.hpc.sweep_file.model_source import ModelSource
    from dpsolve.sharding.devices.mesh import MeshShape
    from dpsolve.sharding.processes.group import ProcessGroup
    from dpsolve.sharding.processes.stepwise import DeviceState, SinglePassSolve, Stepwise


NO_REFINEMENT = (
    "refine beside solve --store: a store is made whole before anything is solved. dpsolve sweep "
    "refines point by point, and keeps the nodes of the size asked for"
)
ROUND = 1.0  # seconds that a round should last
GROWTH = 8  # a round has at most so many times the sweeps of the last one
TOLD = 30.0  # seconds between two lines of progress
BEGIN_LIMIT = 3600.0  # for the first round, of which nothing is known
LIMIT, LIMIT_ROUNDS = 600.0, 50.0  # for others: seconds, or so many times what they should take


@dataclass(frozen=True)
class SolveReport:
    """How a solve ended.

    Attributes
    ----------
    path : Path
        The store.
    mesh : MeshShape
    status, message : str
        ``pending`` if it was interrupted.
    error_bound : float
    iterations : int
        Sweeps, those of earlier calls included.
    resumed : int or None
        Sweeps that had been made when this call took the solve up.
    seconds, compile_seconds : float
        Of this call.
    before : bool
        Whether an earlier call had committed it.
    interrupted : str or None
        The signal that ended it.
    tol : float or None
        The certified error that was asked for; None: whatever the grid allows.
    of_what : str
        What the certified error is of, in words.
    """

    path: Path
    mesh: MeshShape
    status: str
    message: str
    error_bound: float
    iterations: int
    resumed: int | None = None
    seconds: float = 0.0
    compile_seconds: float = 0.0
    before: bool = False
    interrupted: str | None = None
    tol: float | None = None
    of_what: str = ""

    @property
    def exit_code(self) -> int:
        """0 when solved, 130 when interrupted, otherwise 1."""
        if self.interrupted:
            return 130
        return 0 if self.status == "solved" else 1


class StoredSolve:
    """One solve on its way, as one process sees it."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        shape: MeshShape,
        group: ProcessGroup,
        every: float,
        progress: Progress,
        interrupt: Interrupt,
    ) -> None:
        self.plan, self.store, self.shape, self.group = plan, store, shape, group
        self.every, self.progress, self.interrupt = every, progress, interrupt
        self.part = plan.buckets[0]
        self.factory = plan.source.load()
        columns = self.part.bucket.points(np.array([0]))
        self.values = {name: column[0] for name, column in columns.items()}
        self.checkpoints = Checkpoints(store)
        self.resumed: int | None = None
        self.written = -1  # sweeps of the newest checkpoint
        self.earlier = 0.0  # seconds that earlier calls spent

    def to_the_end(self) -> SolveReport:
        """Solve and commit, or end at a checkpoint."""
        from dpsolve.sharding.processes.stepwise import Stepwise, stepwise

        began = time.perf_counter()
        solve = together(self.group, lambda: stepwise(
            self.factory, self.part.program.sizes, self.plan.options, self.values, self.shape
        ))  # fmt: skip
        compiling = solve.compile()
        self.group.gather()  # who compiles quickly does not wait in a collective
        if compiling > 0.1:
            self.note(f"compiled {self.plan.source.name} for {self.shape} in {compiling:.1f} s")
        began += compiling
        if isinstance(solve, Stepwise):
            with self.group.within(BEGIN_LIMIT, "the first look at the model"):
                solve.begin()
            self.resume(solve)
            if came := self.sweep(solve, began):
                return replace(self.pending(solve, came), compile_seconds=compiling)
        ending = self.commit(solve, began)
        if self.group.first:
            self.checkpoints.drop(keep=0)
        return replace(ending, compile_seconds=compiling)

    def sweep(self, solve: Stepwise, began: float) -> str | None:
        """Make sweeps until the solve ends; return the signal that came before."""
        most, limit = 1, BEGIN_LIMIT
        length = min(ROUND, self.every or ROUND)
        told = saved = time.monotonic()
        while solve.running:
            before = solve.sweeps
            with self.group.within(limit, f"a round of {most} sweeps"):
                took = solve.advance(most)
            due = bool(self.every) and time.monotonic() - saved >= self.every
            said = self.group.gather([took, due, self.interrupt.name])
            each = max(seconds for seconds, _, _ in said) / max(solve.sweeps - before, 1)
            most = max(1, min(GROWTH * most, int(length / max(each, 1e-6))))
            limit = max(LIMIT, LIMIT_ROUNDS * each * most)
            came = next((name for _, _, name in said if name), None)
            if solve.running and (said[0][1] or came):
                self.save(solve, self.earlier + time.perf_counter() - began)
                saved = time.monotonic()
            if came and solve.running:
                return str(came)
            if time.monotonic() - told >= TOLD:
                told = time.monotonic()
                self.note(f"{solve.sweeps} sweeps, certified error {solve.error:.3g}")
        return None

    # -- checkpoints ----------------------------------------------------------------------------

    def save(self, solve: Stepwise, seconds: float) -> None:
        """Write a checkpoint; a disk that refuses it does not end the solve."""
        if solve.sweeps == self.written:
            return
        began = time.perf_counter()
        failure = ""
        try:
            self.checkpoints.write(solve.sweeps, seconds, solve.parts())
        except StoreError as error:
            failure = f"{self.group.me}: {error}"
        failures = [text for text in self.group.gather(failure) if text]
        if failures:
            self.note(f"no checkpoint after {solve.sweeps} sweeps: {failures[0]}")
            return
        self.written = solve.sweeps
        if self.group.first:
            self.checkpoints.drop(keep=KEPT)
        took = time.perf_counter() - began
        self.note(
            f"checkpoint after {solve.sweeps} sweeps, certified error {solve.error:.3g}; "
            f"written in {took:.1f} s"
        )

    def resume(self, solve: Stepwise) -> None:
        """Take the solve up from the newest checkpoint that is whole in every part."""
        if not solve.running:
            return
        for name in self.group.gather(self.checkpoints.generations())[0]:
            failure, seconds = "", 0.0
            parts: list[DeviceState] = []
            try:
                parts, seconds = self.checkpoints.read(name, solve.boxes())
            except (ValueError, LookupError, TypeError, AttributeError, StoreError) as error:
                failure = str(error) or repr(error)
            failures = [text for text in self.group.gather(failure) if text]
            if failures:
                self.note(f"the checkpoint after {int(name)} sweeps is left aside: {failures[0]}")
                continue
            solve.restore(parts)
            self.resumed = self.written = int(name)
            self.earlier = seconds
            self.note(f"resuming after {self.resumed} sweeps")
            return

    # -- the end --------------------------------------------------------------------------------

    def commit(self, solve: Stepwise | SinglePassSolve, began: float) -> SolveReport:
        """Read the result off the devices, write and commit it."""
        from dpsolve.sharding.processes.stepwise import numbers
        from dpsolve.solvers.model.array_factory import rebuild
        from dpsolve.solvers.outcomes import word
        from dpsolve.solvers.solve.one_device import explain

        arrays = solve.results()
        known = {k: x.reshape(x.shape[x.ndim - len(solve.dims[k]) :])
                 for k, x in numbers(arrays).items()}  # fmt: skip
        code = int(known["code"])
        message = ""
        if self.group.first and (code or int(known.get("distribution_period", 1)) > 1):
            model = partial(rebuild, self.factory, self.values, self.part.program.sizes)
            message = explain(code, model, self.plan.options, known, refuse=False)
        records: dict[str, Any] = {
            "status": str(word(np.array([code]))[0]),
            "message": message,
            "residual": float(known["residual"]),
            "error_bound": float(known["error_bound"]),
            "iterations": int(known["iterations"]),
            "seconds": self.earlier + time.perf_counter() - began,
        }
        commit(self.store, Result(arrays, solve.dims, solve.partition, records), self.group)
        return SolveReport(
            path=self.store.path,
            mesh=self.shape,
            status=records["status"],
            message=message,
            error_bound=records["error_bound"],
            iterations=records["iterations"],
            resumed=self.resumed,
            tol=self.store.tol,
            of_what=self.store.of_what,
        )

    def pending(self, solve: Stepwise, came: str) -> SolveReport:
        """Return how an interrupted solve stands."""
        return SolveReport(
            path=self.store.path,
            mesh=self.shape,
            status="pending",
            message=f"interrupted by {came}",
            error_bound=solve.error,
            iterations=solve.sweeps,
            resumed=self.resumed,
            interrupted=came,
            tol=self.store.tol,
            of_what=self.store.of_what,
        )

    def note(self, text: str) -> None:
        """Tell what happens, once."""
        if self.group.first:
            self.progress.note(text)


def solve_into_store(
    sweep: Sweep,
    source: ModelSource,
    *,
    mesh: MeshShape | None,
    group: ProcessGroup,
    every: float,
    progress: Progress,
    command: str = "",
) -> SolveReport:
    """Solve the one point of a sweep, or go on where an earlier call ended.

    Parameters
    ----------
    sweep : Sweep
        Without anything that varies.
    source : ModelSource
        The sweep's model.
    mesh : MeshShape or None
        None for all devices of all processes.
    group : ProcessGroup
        The processes.
    every : float
        Seconds between checkpoints; 0 for none.
    progress : Progress
        Is told what happens.
    command : str
        What the user typed, for the store's attributes.

    Raises
    ------
    RefusedError
        If the store holds another sweep, or its path anything else; or if it has a driver.
    StoreError
        If the disk refuses; what is committed stays valid.
    UsageError
        If there are more or fewer devices than the mesh takes.
    AgreedError
        Any of these, where there are several processes.
    """
    from dpsolve.sharding.processes.rendezvous import check_devices

    began = time.perf_counter()
    shape = together(group, partial(check_devices, group, mesh))
    plan = together(group, partial(_planned, sweep, source, shape))
    with ExitStack() as stack:
        interrupt = stack.enter_context(on_interrupt(lambda: None))
        make = partial(_opened, plan, command, group, progress, stack, interrupt)
        together(group, make if group.first else _nothing)
        store = together(group, lambda: replace(open_store(plan.path), source=plan.source))
        found = group.gather(bool(store.receipts()))
        if found[0]:
            return replace(_recorded(store, shape), before=True)
        run = StoredSolve(plan, store, shape, group, every, progress, interrupt)
        ending = run.to_the_end()
    return replace(ending, seconds=time.perf_counter() - began)


def _planned(sweep: Sweep, source: ModelSource, shape: MeshShape) -> Plan:
    from dpsolve.sharding.devices.fit import check_fits, make_partition

    plan = make_plan(sweep, source)
    if plan.options.refine:
        raise UsageError(NO_REFINEMENT)
    if plan.points != 1:
        raise UsageError(
            f"these are {plan.points} points, and solve takes one; for many: dpsolve sweep"
        )
    (part,) = plan.buckets
    check_fits(part.program.footprint, shape, part.program.outline.shape.states)
    if shape.size == 1:
        part.program.check_possible()
    check_disk(plan)
    cut = make_partition(source.load(), part.program.sizes, shape)
    widths = {} if cut is None else {cut.state: cut.width}
    return replace(plan, buckets=(replace(part, widths=widths),))


def _nothing() -> None:
    """Wait for process 0."""


def _opened(
    plan: Plan,
    command: str,
    group: ProcessGroup,
    progress: Progress,
    stack: ExitStack,
    interrupt: Interrupt,
) -> None:
    """Make the store, or open it, and be its driver until the end."""
    store = open_or_create(plan, command)
    if store.receipts():
        return

    def stop() -> None:
        interrupt.name = "another driver"

    kind = "local" if group.alone else "distributed"
    stack.enter_context(driving(store, executor=kind, stop=stop, note=progress.note))
    recut(store, plan)


def _recorded(store: Store, shape: MeshShape) -> SolveReport:
    """Return how a committed solve ended."""
    bucket, task = store.buckets[0], store.tasks[0]

    def one(name: str) -> Any:
        found = bucket.record(name, task)
        return None if found is None else found[0]

    return SolveReport(
        path=store.path,
        mesh=shape,
        status=str(one("status")),
        message=str(one("message")),
        error_bound=float(one("error_bound")),
        iterations=int(one("iterations")),
        tol=store.tol,
        of_what=store.of_what,
    )
