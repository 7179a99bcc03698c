"""One model, by one process or several, into a store of one point: ``dpsolve solve --store``.

The store is that of a sweep of one point, made whole by process 0. All processes then solve the
model together (:mod:`.solve`), and write and commit it together (:mod:`.commit`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dpsolve.hpc.plan.plan import Plan, make_plan
from dpsolve.hpc.run.interrupts import Interrupt, on_interrupt
from dpsolve.hpc.run.single_driver import driving
from dpsolve.hpc.store.create import open_or_create
from dpsolve.hpc.store.recutting import recut
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.solvers.errors import UsageError

from .agreement import together
from .solve import Ending, Run

if TYPE_CHECKING:
    from dpsolve.hpc.progress import Progress
    from dpsolve.hpc.sweep_file.fields import Sweep
    from dpsolve.hpc.sweep_file.model_source import ModelSource
    from dpsolve.sharding.devices.mesh import MeshShape
    from dpsolve.sharding.processes.group import Roll


def solve_into_store(
    sweep: Sweep,
    source: ModelSource,
    *,
    mesh: MeshShape | None,
    roll: Roll,
    every: float,
    progress: Progress,
    command: str = "",
) -> Ending:
    """Solve the one point of a sweep, or go on where an earlier call ended.

    Parameters
    ----------
    sweep : Sweep
        Without anything that varies.
    source : ModelSource
        The sweep's model.
    mesh : MeshShape or None
        None for all devices of all processes.
    roll : Roll
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
    shape = together(roll, partial(check_devices, roll, mesh))
    plan = together(roll, partial(_planned, sweep, source, shape))
    with ExitStack() as stack:
        interrupt = stack.enter_context(on_interrupt(lambda: None))
        make = partial(_opened, plan, command, roll, progress, stack, interrupt)
        together(roll, make if roll.first else _nothing)
        store = together(roll, lambda: replace(open_store(plan.path), source=plan.source))
        found = roll.gather(bool(store.receipts()))
        if found[0]:
            return replace(_recorded(store, shape), before=True)
        run = Run(plan, store, shape, roll, every, progress, interrupt)
        ending = run.to_the_end()
    return replace(ending, seconds=time.perf_counter() - began)


def _planned(sweep: Sweep, source: ModelSource, shape: MeshShape) -> Plan:
    from dpsolve.sharding.devices.fit import check_fits, make_cut

    plan = make_plan(sweep, source)
    if plan.points != 1:
        raise UsageError(
            f"these are {plan.points} points, and solve takes one; for many: dpsolve sweep"
        )
    (part,) = plan.buckets
    check_fits(part.program.footprint, shape)
    cut = make_cut(source.load(), part.program.sizes, shape)
    widths = {} if cut is None else {cut.state: cut.width}
    return replace(plan, buckets=(replace(part, widths=widths),))


def _nothing() -> None:
    """Wait for process 0."""


def _opened(
    plan: Plan,
    command: str,
    roll: Roll,
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

    kind = "local" if roll.alone else "distributed"
    stack.enter_context(driving(store, executor=kind, stop=stop, note=progress.note))
    recut(store, plan)


def _recorded(store: Store, shape: MeshShape) -> Ending:
    """Return how a committed solve ended."""
    bucket, task = store.buckets[0], store.tasks[0]

    def one(name: str) -> Any:
        found = bucket.record(name, task)
        return None if found is None else found[0]

    return Ending(
        path=store.path,
        mesh=shape,
        status=str(one("status")),
        message=str(one("message")),
        error_bound=float(one("error_bound")),
        iterations=int(one("iterations")),
    )
