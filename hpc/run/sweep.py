"""A sweep from plan to report: create or resume, run, account.

The same call begins a sweep and resumes it: what is committed is never computed again.
"""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.plan.plan import make_plan
from dpsolve.hpc.store.buckets import Receipt, worst
from dpsolve.hpc.store.create import open_or_create
from dpsolve.hpc.store.failed_points import clear_failed, has_failed
from dpsolve.hpc.store.provenance import version_notes
from dpsolve.hpc.store.store import Store, check_format, open_store

from .executor import Executor, LocalExecutor
from .interrupts import on_interrupt
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
    tol : float
        The certified error that was asked for.
    seconds : float
        Wall time of this call.
    plan_seconds, compile_seconds : float
        Of which planning (tracing the model for its shapes) and compiling.
    computed : int
        Points that this call computed.
    interrupted : str or None
        The signal that ended the call early.
    """

    path: Path
    solved: int
    inexact: int
    failed: int
    pending: int
    error_bound: float
    tol: float
    seconds: float
    plan_seconds: float
    compile_seconds: float
    computed: int
    interrupted: str | None = None

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
    planned = time.perf_counter() - began
    store = open_or_create(plan, command)
    outcome = _run(store, progress, executor, retry_failed)
    return replace(outcome, seconds=time.perf_counter() - began, plan_seconds=planned)


def create_store(
    sweep: Sweep, source: ModelSource, command: str = "", worker_count: WorkerCount | None = None
) -> Store:
    """Make the store of a sweep, or open it, and run nothing; see `run_sweep`."""
    return open_or_create(make_plan(sweep, source, worker_count), command)


def resume(
    path: Path | str,
    *,
    progress: Progress,
    executor: Executor | None = None,
    retry_failed: bool = False,
) -> SweepReport:
    """Go on with the sweep that a store holds; nothing but the store is needed.

    With `retry_failed`, tasks with failed points are computed once more.

    Raises
    ------
    StoreError
        If there is no store at `path`.
    RefusedError
        If its model was installed, not a file, and is another one now; if it has a driver; or if
        it is of an earlier format.
    """
    store = open_store(path)
    check_format(store)
    store.source.load()
    return _run(store, progress, executor or LocalExecutor(), retry_failed)


def _run(store: Store, progress: Progress, executor: Executor, retry_failed: bool) -> SweepReport:
    began = time.perf_counter()
    receipts = store.receipts()
    if len(receipts) == len(store.tasks) and not (retry_failed and has_failed(receipts)):
        return _drive(store, receipts, progress, executor, began)
    with driving(store, executor=executor.kind, stop=executor.stop, note=progress.note):
        # Read again: another driver may have been at work until a moment ago.
        receipts = store.receipts()
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
    if tasks and (warning := _lack_of_space(store)):
        progress.note(warning)
    new: list[Receipt] = []
    came = None
    progress.start(store.points, before)
    try:
        if tasks:
            with on_interrupt(executor.stop) as interrupt:
                for receipt in executor.run(store, tasks, progress.note):
                    new.append(receipt)
                    progress.advance(receipt.solved, receipt.inexact, receipt.failed)
            came = interrupt.name
        # Many workers compile, or read from the cache, side by side.
        compiling = (sum if executor.kind == "local" else max)(
            [r.compile_seconds for r in new] or [0.0]
        )
        seconds = time.perf_counter() - began
        outcome = _account(store, [*receipts.values()], new, seconds, compiling, came)
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
        tol=store.options.tol,
        seconds=seconds,
        plan_seconds=0.0,
        compile_seconds=compiling,
        computed=sum(receipt.solved + receipt.inexact + receipt.failed for receipt in new),
        interrupted=came,
    )


def _lack_of_space(store: Store) -> str | None:
    needed = sum(array.nbytes for bucket in store.buckets for array in bucket.results.values())
    free = shutil.disk_usage(store.path).free
    if needed <= free:
        return None
    return (
        f"the results may take up to {needed / 2**30:.1f} GiB before compression, and "
        f"{free / 2**30:.1f} GiB are free at {store.path}"
    )
