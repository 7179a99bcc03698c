"""A sweep from plan to report: create or resume, run, account.

The same call begins a sweep and resumes it: what is committed is never computed again.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.plan.plan import make_plan
from dpsolve.hpc.store.buckets import Receipt, worst
from dpsolve.hpc.store.create import open_or_create
from dpsolve.hpc.store.damage import check_metadata, damaged_tasks, take_back
from dpsolve.hpc.store.failed_points import clear_failed, has_failed
from dpsolve.hpc.store.provenance import version_notes
from dpsolve.hpc.store.status import certified_texts, top_mass_texts
from dpsolve.hpc.store.store import MANY_TASKS, Store, check_format, open_store
from dpsolve.hpc.store.trust import Trust, trusted

from .disk_space import check_disk, lack_of_space
from .executor import Executor, LocalExecutor
from .interrupts import on_interrupt
from .overwrite import remove_store
from .single_driver import driving

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import WorkerCount
    from dpsolve.hpc.progress import Progress
    from dpsolve.hpc.sweep_file.fields import Sweep
    from dpsolve.hpc.sweep_file.model_source import ModelSource


@dataclass(frozen=True)
class SweepReport:
    """How a sweep stands when a call returns.

    Attributes
    ----------
    path : Path
        The store.
    solved, inexact, failed, pending : int
        Points by status, those of earlier calls included.
    error_bound : float
        The worst certified error among the solved and inexact points; NaN where nothing is
        certified (a factory that returns arrays).
    tol : float or None
        The certified error that was asked for; None: whatever the grid allows.
    seconds : float
        Wall time of this call.
    plan_seconds, compile_seconds : float
        Of which planning (tracing the model for its shapes) and compiling.
    computed : int
        Points that this call computed.
    interrupted : str or None
        The signal that ended the call early.
    source : ModelSource or None
        The model that ran, for whoever looks at the store next.
    of_what : str
        What certified errors are of, in words.
    certifies : tuple of str
        Where choices are continuous: what is certified, and of how many points, for each group.
    """

    path: Path
    solved: int
    inexact: int
    failed: int
    pending: int
    error_bound: float
    tol: float | None
    seconds: float
    plan_seconds: float
    compile_seconds: float
    computed: int
    interrupted: str | None = None
    source: ModelSource | None = field(default=None, repr=False)
    of_what: str = ""
    certifies: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """All points of the sweep."""
        return self.solved + self.inexact + self.failed + self.pending

    @property
    def exit_code(self) -> int:
        """0 when every point is solved, 130 when interrupted, otherwise 1."""
        if self.interrupted:
            return 130
        return 0 if self.solved == self.points else 1


def run_sweep(
    sweep: Sweep,
    source: ModelSource,
    *,
    progress: Progress,
    command: str = "",
    executor: Executor | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> SweepReport:
    """Solve every point of a sweep that its store does not hold yet.

    Parameters
    ----------
    sweep : Sweep
    source : ModelSource
        The sweep's model.
    progress : Progress
        Is told what happens.
    command : str
        What the user typed, for the store's attributes.
    executor : Executor, optional
        Where tasks run; by default in this process.
    retry_failed : bool
        Compute tasks with failed points once more.
    overwrite : bool
        Begin anew where there is a store: it is deleted, once the sweep is found to be in order.

    Raises
    ------
    RefusedError
        If the store holds another sweep, or its path anything else; or if it has a driver.
    StoreError
        If the disk refuses; what is committed stays valid.
    """
    began = time.perf_counter()
    executor = executor or LocalExecutor()
    plan = make_plan(sweep, source, executor.worker_count)
    check_disk(plan)
    if isinstance(executor, LocalExecutor):
        executor.check(plan)
    planned = time.perf_counter() - began
    if overwrite:
        remove_store(plan.path)
    store = open_or_create(plan, command)
    outcome = _run(store, progress, executor, retry_failed)
    return replace(outcome, seconds=time.perf_counter() - began, plan_seconds=planned)


def create_store(
    sweep: Sweep,
    source: ModelSource,
    command: str = "",
    worker_count: WorkerCount | None = None,
    overwrite: bool = False,
) -> Store:
    """Make the store of a sweep, or open it, and run nothing; see `run_sweep`."""
    plan = make_plan(sweep, source, worker_count)
    check_disk(plan)
    if overwrite:
        remove_store(plan.path)
    return open_or_create(plan, command)


def resume(
    path: Path | str,
    *,
    progress: Progress,
    executor: Executor | None = None,
    retry_failed: bool = False,
    repair: bool = False,
    trust: Trust = False,
) -> SweepReport:
    """Go on with the sweep that a store holds; nothing but the store is needed.

    Parameters
    ----------
    path : path
    progress : Progress
        Is told what happens.
    executor : Executor, optional
        Where tasks run; by default in this process.
    retry_failed : bool
        Compute tasks with failed points once more.
    repair : bool
        Look at all that is committed, and compute tasks whose data are damaged once more.
    trust : Trust
        Why the model that the store keeps may run.

    Raises
    ------
    StoreError
        If there is no store at `path`.
    RefusedError
        If its model is not trusted; if what decides its numbers was altered; if its model was
        installed, not a file, and is another one now; if it has a driver; or if it is of an
        earlier format.
    """
    held = open_store(path)
    check_format(held)
    store = trusted(held, trust, writing=True)
    store.source.load()
    return _run(store, progress, executor or LocalExecutor(), retry_failed, repair)


def _run(
    store: Store,
    progress: Progress,
    executor: Executor,
    retry_failed: bool,
    repair: bool = False,
) -> SweepReport:
    began = time.perf_counter()
    receipts = store.receipts()
    again = repair or (retry_failed and has_failed(receipts))
    if len(receipts) == len(store.tasks) and not again:
        return _drive(store, receipts, progress, executor, began)
    check_metadata(store)
    with driving(store, executor=executor.kind, stop=executor.stop, note=progress.note):
        # Read again: another driver may have been at work until a moment ago.
        receipts = store.receipts()
        if repair:
            damaged = [task for task, _ in damaged_tasks(store)]
            take_back(store, damaged)
            receipts = store.receipts()
            progress.note(
                f"{len(damaged)} of {len(store.tasks)} tasks have damaged data and are computed "
                "once more"
                if damaged
                else "every committed number agrees with its checksum"
            )
        if retry_failed and (cleared := clear_failed(store, receipts)):
            progress.note(f"{len(cleared)} tasks with failed points are computed once more")
        return _drive(store, receipts, progress, executor, began)


def _drive(
    store: Store,
    receipts: dict[int, Receipt],
    progress: Progress,
    executor: Executor,
    began: float,
) -> SweepReport:
    tasks = [task for task in store.tasks if task.id not in receipts]
    before = sum(task.size for task in store.tasks) - sum(task.size for task in tasks)
    if receipts and tasks:
        progress.note(
            f"resuming {store.path}: {len(receipts)} of {len(store.tasks)} tasks are committed"
        )
        for note in version_notes(store.attributes):
            progress.note(note)
    if tasks and (warning := lack_of_space(store)):
        progress.note(warning)
    new: list[Receipt] = []
    came = None
    many = len(store.tasks) >= MANY_TASKS
    if tasks and many:
        store.note(receipts.values(), anew=True)
    progress.start(store.points, before)
    try:
        if tasks:
            with on_interrupt(executor.stop) as interrupt:
                for receipt in executor.run(store, tasks, progress.note):
                    new.append(receipt)
                    if many:
                        store.note([receipt])
                    progress.advance(receipt.solved, receipt.inexact, receipt.failed)
            came = interrupt.name
        # Many workers compile, or read from the cache, side by side.
        compiling = (sum if executor.kind == "local" else max)(
            [r.compile_seconds for r in new] or [0.0]
        )
        seconds = time.perf_counter() - began
        outcome = _account(store, [*receipts.values()], new, seconds, compiling, came)
        if new:
            for text in top_mass_texts(store, {*receipts, *(receipt.task for receipt in new)}):
                progress.note(text)
        if outcome.interrupted and outcome.pending:
            progress.note(
                f"interrupted ({came}): {outcome.points - outcome.pending} of {outcome.points} "
                f"points are committed. The same command resumes, or: dpsolve resume "
                f"{shlex.quote(str(store.path))}"
            )
    finally:
        progress.stop()
    return outcome


def _account(
    store: Store,
    old: list[Receipt],
    new: list[Receipt],
    seconds: float,
    compiling: float,
    came: str | None,
) -> SweepReport:
    every = [*old, *new]
    solved, inexact, failed = (
        sum(getattr(receipt, name) for receipt in every) for name in ("solved", "inexact", "failed")
    )
    return SweepReport(
        path=store.path,
        solved=solved,
        inexact=inexact,
        failed=failed,
        pending=store.points - solved - inexact - failed,
        error_bound=worst(receipt.error_bound for receipt in every),
        tol=store.tol,
        seconds=seconds,
        plan_seconds=0.0,
        compile_seconds=compiling,
        computed=sum(receipt.solved + receipt.inexact + receipt.failed for receipt in new),
        interrupted=came,
        source=store.source,
        of_what=store.of_what,
        certifies=tuple(certified_texts(store, {receipt.task for receipt in every})),
    )
