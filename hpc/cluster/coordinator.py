"""The driver's loop: submits tasks, hears reports, judges losses.

dask's scheduler decides which worker gets which task, and gives the tasks of workers that leave to
others. What is decided here, dask measurably lacks: what a loss means and whether its task is
tried again (:mod:`.retries`), when a task is submitted (:mod:`.task_queue`), that tasks in work are
waited for when a run is stopped, and all of it in words.

Reports come as events and by `Future.add_done_callback`, not by `as_completed`: that waits for
nothing but results, while this loop has jobs to look after and hears of what is not done yet; and
it is not faster (1,000 tiny results took 1.2 to 1.8 times as long, each fetched from its worker).

All decisions are made in the thread that iterates over `conduct`. dask's threads only put what
they hear into a queue, and between two events the coordinator sleeps: an idle run costs next to
nothing. What differs between a scheduler's address and SLURM jobs is left to a `WorkerPool`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from dpsolve.hpc.store.buckets import Dropped, Receipt
from dpsolve.hpc.store.event_log import EventLog, read_events
from dpsolve.hpc.store.failed_points import write_failed
from dpsolve.solvers.errors import ClusterError

from .error_causes import cause_of, is_of_environment
from .messages import RunInfo, TaskOrder
from .retries import Cause, Retries, Verdict
from .task_queue import Loss as Loss
from .task_queue import TaskQueue, WorkerState
from .worker import perform

if TYPE_CHECKING:
    from distributed import Client, Future

    from dpsolve.hpc.store.store import Store


TICK = 1.0
UNFIT = 3
SILENT = 60.0
HANGS = 60.0
AT_ONCE = 100
"""Tasks that are submitted before reports are heard again."""

GRACE = 10.0
SETTLED = 0.3
"""Seconds after which a task that a worker began while it was cancelled has told of it."""

Note = Callable[[str], None]


class WorkerPool(Protocol):
    """Where workers come from."""

    def tick(self, queue: TaskQueue) -> Iterable[str]:
        """Do what is due, about once a second and after every event; return workers to let go."""

    def joined(self, worker_state: WorkerState, report: dict[str, Any]) -> None:
        """Note that a worker presented itself."""

    def unfit(self, report: dict[str, Any]) -> None:
        """Note that a worker cannot work."""

    def returned(self, loss: Loss, report: dict[str, Any]) -> tuple[Cause, str]:
        """Say why a worker was lost, now that another one has taken its place in its job."""

    def cause(self, loss: Loss) -> tuple[Cause, str] | None:
        """Say why a worker was lost, in words too; None: not known yet, ask again."""

    def late(self, order: TaskOrder, whole: float, message: str) -> None:
        """Note that a task did not fit into a job.

        Raises
        ------
        ClusterError
            If it would fit into no job.
        """


class Coordinator:
    """One run of a store's tasks over the workers of one dask scheduler.

    Parameters
    ----------
    client : distributed.Client
    store : Store
    run_info : RunInfo
        What every worker has to know.
    pool : WorkerPool
    event_log : EventLog
        The driver's.
    note : callable
        Is told what a user should know.
    grace : float
        Seconds for tasks in work when the run is stopped.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        run_info: RunInfo,
        pool: WorkerPool,
        event_log: EventLog,
        note: Note,
        grace: float = GRACE,
    ) -> None:
        self._client = client
        self._address = getattr(client.scheduler, "address", "")  # forgotten when it is gone
        self._store = store
        self._run_info = run_info
        self._pool = pool
        self._event_log = event_log
        self._note = note
        self._grace = grace
        self._retries = Retries()
        self._heard: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._hears = Event()
        self._futures: dict[str, Future[Any]] = {}
        self._losses: list[Loss] = []
        self._committed: set[int] = set()
        self._withheld: dict[int, str] = {}  # tasks given up while none was solved, and why
        self._unfit = 0
        self._began = self._last_sign = time.monotonic()
        self._stops = 0
        self._prepared = False
        self._queue = TaskQueue((), self._retries)

    def stop(self) -> None:
        """End `conduct` soon: nothing is begun any more. Safe in a signal handler."""
        self._stops += 1
        self._heard.put({"what": "nothing"})

    def conduct(self, numbers: list[int]) -> Iterator[Receipt]:
        """Run tasks, and yield a receipt for each that is committed.

        Raises
        ------
        ClusterError
            If the run cannot go on.
        """
        self._queue = TaskQueue((self._store.tasks[n] for n in numbers), self._retries)
        if len(numbers) < len(self._store.tasks):
            self._retries.solved()  # in an earlier run
        self._listen()
        try:
            while len(self._committed) < len(numbers):
                self._retire(list(self._pool.tick(self._queue)))
                self._submit()
                yield from self._answer(self._next())
                if self._stops:
                    yield from self._wind_up()
                    return
                self._judge_losses()
                if self._retries.hopeful or self._all_decided(numbers):
                    yield from self._give_up_withheld()
                self._watch()
        finally:
            self._part()

    # -- listening -----------------------------------------------------------------------------

    def _listen(self) -> None:
        client = self._client
        client.subscribe_topic("all", self._hear_of_losses)
        client.subscribe_topic(self._run_info.topic, self._hear)
        # In a thread: it waits until every worker there is has been prepared, which takes some
        # seconds. No task is submitted before, unless one hangs.
        Thread(target=self._prepare, daemon=True, name="dpsolve-plugin").start()

    def _prepare(self) -> None:
        from .worker_plugin import JoinRun

        with suppress(Exception):  # a worker that is lost meanwhile; all others are prepared
            # Subscribing goes another way than registering, and may be overtaken: dask sends no
            # event to those who subscribe after it.
            while not self._hears.wait(0.02):
                self._client.log_event(self._run_info.topic, {"what": "listening"})
            self._client.register_plugin(JoinRun(self._run_info), name=self._run_info.plugin)
        self._heard.put({"what": "prepared"})

    def _hear(self, event: tuple[float, Any]) -> None:
        self._hears.set()
        self._heard.put(event[1])

    def _hear_of_losses(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            self._heard.put(message | {"what": "remove-worker"})

    def _next(self) -> dict[str, Any]:
        try:
            return self._heard.get(timeout=0.1 if self._losses or self._stops else TICK)
        except Empty:
            return {"what": "nothing"}

    def _part(self) -> None:
        """Let go of everything that dask still holds for this run."""
        with suppress(Exception):  # the scheduler may be gone, and that is why we are here
            self._client.unsubscribe_topic(self._run_info.topic)
            self._client.unsubscribe_topic("all")
            self._client.cancel([*self._futures.values()], force=True)
        self._futures.clear()

    # -- submitting ----------------------------------------------------------------------------

    def _submit(self) -> None:
        waited = self._queue.worker_states and time.monotonic() > self._began + HANGS
        if not (self._prepared or waited):
            return
        for order, priority in islice(self._queue.due(self._futures), AT_ONCE):
            future = self._client.submit(
                perform, self._run_info, order, key=order.id, priority=priority, pure=False
            )
            self._futures[order.id] = future
            future.add_done_callback(partial(self._ended, order.id))
        if self._queue.is_due(self._futures):
            self._heard.put({"what": "nothing"})

    def _ended(self, key: str, future: Future[Any]) -> None:
        """Hear, in a thread of dask's, that a call ended; its report came before."""
        failed = future.status == "error"
        error = future.exception() if failed else None
        self._heard.put({"what": "ended", "id": key, "error": error})

    def _cancel(self, orders: Iterable[str]) -> None:
        """Let what is not begun never begin; a thread that is at a task goes on, and reports."""
        futures = [f for key in orders if (f := self._futures.pop(key, None)) is not None]
        if futures:
            self._client.cancel(futures, force=True)

    def _wind_up(self) -> Iterator[Receipt]:
        """Begin nothing more, and wait for what is in work, if it may end within the grace.

        dask cancels a task in work by forgetting it: its thread goes on, and nobody waits.
        """
        self._cancel(list(self._futures))
        began = time.monotonic()
        told = False
        while (passed := time.monotonic() - began) < max(self._grace, SETTLED):
            rest = self._queue.in_work()
            if passed > SETTLED and all(passed + left > self._grace for left in rest):
                return  # nothing is in work, or nothing that would end in time
            if rest and not told and passed > SETTLED:
                told = True
                self._note(f"waiting up to {self._grace:.0f} s for {len(rest)} tasks in work; "
                           "once more, and they are abandoned")  # fmt: skip
            report = self._next()
            if self._stops > 1:
                return
            if report["what"] == "done":
                yield from self._committed_by(report)
            elif report["what"] in ("late", "left", "error"):
                self._queue.done(report["id"])
            elif report["what"] == "begun":
                self._queue.begun(report["worker"], report["id"])
            elif report["what"] == "remove-worker":
                self._queue.lost(report["worker"])

    # -- answering -----------------------------------------------------------------------------

    def _answer(self, report: dict[str, Any]) -> Iterator[Receipt]:
        match report["what"]:
            case "prepared":
                self._prepared = True
            case "hello":
                self._greet(report)
            case "unfit":
                self._refuse(report)
            case "begun":
                self._queue.begun(report["worker"], report["id"])
            case "compiled":
                self._queue.compiled(report["bucket"])
                if report["seconds"] > 0.1 and report["misses"]:
                    self._note(f"compiled {self._store.source.name} in {report['seconds']:.1f} s")
            case "done":
                yield from self._committed_by(report)
            case "late":
                self._queue.leaving(report["worker"])
                if (order := self._queue.done(report["id"])) is not None:
                    self._queue.put_back(order.task)
                    self._pool.late(order, report["seconds"], report["message"])
            case "left":
                self._queue.leaving(report["worker"])
                if (order := self._queue.done(report["id"])) is not None:
                    self._queue.put_back(order.task)
            case "leaving":
                self._queue.leaving(report["worker"])
            case "error":
                self._mishap(report)
            case "remove-worker":
                self._lose(report)
            case "ended":
                self._close_call(report)

    def _greet(self, report: dict[str, Any]) -> None:
        names = ("name", "job", "host", "writer", "oom_kills", "threads")
        worker_state = WorkerState(report["worker"], **{name: report[name] for name in names})
        self._last_sign = time.monotonic()
        self._unfit = 0
        self._queue.joined(worker_state)
        self._pool.joined(worker_state, report)
        for loss in [
            x for x in self._losses if x.worker_state.job and x.worker_state.job == worker_state.job
        ]:
            if loss.worker_state.name == worker_state.name:
                found = self._last_words(loss) or self._pool.returned(loss, report)
                self._judge(loss, *found)

    def _refuse(self, report: dict[str, Any]) -> None:
        self._unfit += 1
        self._event_log.write("unfit", worker=report["worker"], job=report["job"],
                           message=report["message"])  # fmt: skip
        where = f"job {report['job']} on {report['host']}" if report["job"] else report["host"]
        self._note(f"a worker ({where}) cannot work: {report['message']}")
        self._pool.unfit(report)
        if self._unfit >= UNFIT and not self._queue.worker_states:
            raise ClusterError(
                f"{self._unfit} workers in a row cannot work. The last one ({where}) says: "
                f"{report['message']}"
            )

    def _committed_by(self, report: dict[str, Any]) -> Iterator[Receipt]:
        seconds = report["seconds"] if report["computed"] else None
        order = self._queue.done(report["id"], seconds)
        task = report["task"]
        if report["computed"]:
            self._retries.solved()
            bucket = self._store.tasks[task].bucket
            if order is not None and self._retries.worked(bucket, order.halvings):
                self._cancel(self._queue.recall(task))
        if task not in self._committed:  # a worker that was held for dead may have told before
            self._committed.add(task)
            self._withheld.pop(task, None)
            yield Receipt(**report["receipt"])

    def _mishap(self, report: dict[str, Any]) -> None:
        order = self._queue.done(report["id"])
        if order is None:
            return
        if report["ours"]:
            self._end(order, report["worker"], report["message"])
        self._decide(order, report["cause"], report["message"], smallest=report["smallest"])

    def _end(self, order: TaskOrder, worker: str, message: str) -> NoReturn:
        """End the sweep: the fault is in a worker's environment, and every task would meet it."""
        worker_state = self._queue.worker_states.get(worker, WorkerState(worker))
        where = (
            f"job {worker_state.job} on {worker_state.host}"
            if worker_state.job
            else worker_state.host or worker or "whichever it was"
        )
        self._event_log.write("stop", task=order.task, job=worker_state.job, message=message)
        path = shlex.quote(str(self._store.path))
        raise ClusterError(
            f"{message}\nThis is what a worker ({where}) met at task {order.task}, and it is not "
            "the fault of the points: the sweep ends, and nothing was marked failed. `dpsolve logs "
            f"{path} --failed` shows the whole traceback. When it is mended, the same command goes "
            "on."
        )

    def _close_call(self, report: dict[str, Any]) -> None:
        """Release a call that ended; if dask itself failed to make it, say so."""
        from distributed import KilledWorker

        key, error = report["id"], report["error"]
        self._futures.pop(key, None)
        if isinstance(error, KilledWorker):
            return  # as "remove-worker" says, too
        order = self._queue.done(key)
        if order is None:
            return
        if error is None:  # cancelled by somebody else
            self._queue.put_back(order.task)
            return
        # `perform` reports what a task raises; this is dask's, or the worker's own.
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, AttributeError | TypeError) or is_of_environment(error):
            self._end(order, "", text)
        self._decide(order, "disk" if cause_of(error) == "disk" else "job", text)

    # -- what goes wrong -----------------------------------------------------------------------

    def _lose(self, report: dict[str, Any]) -> None:
        """See to what a worker had when it was lost; what one had that left, dask sees to."""
        held = () if report.get("expected") else report["processing-tasks"]
        losses, others = self._queue.lost(report["worker"], held)
        self._losses += losses
        for order in others:
            self._again(order)

    def _again(self, order: TaskOrder) -> None:
        """Submit a task once more, unless dask is about to run it again.

        It does where its `allowed-failures` are not ours: a user's own scheduler.
        """
        future = self._futures.get(order.id)
        runs = self._queue.has(order.id) and future is not None and future.status == "pending"
        bucket = self._store.tasks[order.task].bucket
        if runs and order.halvings == self._retries.halvings(order.task, bucket):
            return
        self._drop(order)
        self._queue.put_back(order.task)

    def _drop(self, order: TaskOrder) -> None:
        self._cancel([order.id])
        self._queue.done(order.id)

    def _judge_losses(self) -> None:
        for loss in list(self._losses):
            found = self._last_words(loss) or self._pool.cause(loss)
            if found is not None:
                self._judge(loss, *found)

    def _judge(self, loss: Loss, cause: Cause, words: str) -> None:
        self._losses.remove(loss)
        self._event_log.write("lost", task=loss.order.task, worker=loss.worker_state.writer,
                           job=loss.worker_state.job, cause=cause, message=words)  # fmt: skip
        self._decide(loss.order, cause, words)

    def _last_words(self, loss: Loss) -> tuple[Cause, str] | None:
        """Look into the event log of a lost worker: it may have said why it ended."""
        if not loss.worker_state.writer:
            return None
        for event in reversed(read_events(self._store, loss.worker_state.writer)):
            if event.what == "memory":
                used, limit = (event.facts[k] / 2**30 for k in ("resident", "limit"))
                return "memory", f"it took {used:.1f} GiB of {limit:.1f} GiB"
        return None

    def _decide(
        self, order: TaskOrder, cause: Cause, message: str, *, smallest: bool = False
    ) -> None:
        task = order.task
        if task in self._committed:
            return
        verdict: Verdict = self._retries.judge(
            task, cause, message, tried=order.halvings, smallest=smallest
        )
        self._event_log.write(verdict.action, task=task, cause=cause, attempt=verdict.attempt,
                           halvings=verdict.halvings, message=verdict.message)  # fmt: skip
        if verdict.action == "stop":
            raise ClusterError(verdict.message)
        if verdict.action == "retry":
            self._again(order)
            return
        self._drop(order)
        self._note(f"task {task} is given up: {verdict.message}")
        self._withheld[task] = verdict.message

    def _all_decided(self, numbers: list[int]) -> bool:
        return len(self._committed) + len(self._withheld) == len(numbers)

    def _give_up_withheld(self) -> Iterator[Receipt]:
        """Mark the points of given-up tasks: another task was solved, so it is their own fault."""
        while self._withheld:
            task, message = self._withheld.popitem()
            receipt = write_failed(self._store, task, message)
            if not isinstance(receipt, Dropped):
                self._event_log.write("committed", task=task, failed=receipt.failed)
            self._committed.add(task)
            yield receipt

    def _retire(self, addresses: list[str]) -> None:
        """Let workers go that have nothing to do."""
        for address in addresses:
            self._queue.leaving(address)
        if addresses:
            with suppress(Exception):  # they may be gone already
                self._client.retire_workers(addresses, close_workers=True)

    def _watch(self) -> None:
        """Say it when nobody works; end when the scheduler is gone."""
        if self._client.status not in ("running", "connecting"):
            raise ClusterError(
                f"the dask scheduler {self._address} is gone. What was committed stays "
                "valid; with a scheduler at hand the same command goes on."
            )
        if self._queue.worker_states:
            self._last_sign = time.monotonic()
        elif time.monotonic() - self._last_sign > SILENT:
            self._last_sign = time.monotonic()
            self._note("still no worker")
