"""The driver's loop: greets workers, hands tasks out, hears reports, judges losses.

All decisions are made in the thread that iterates over `conduct`. dask's threads only put what
they hear into a queue, and between two events the coordinator sleeps: an idle run costs next to
nothing. What differs between a scheduler's address and SLURM jobs is left to a `WorkerPool`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from dpsolve.hpc.store.buckets import Receipt
from dpsolve.hpc.store.event_log import EventLog, read_events
from dpsolve.hpc.store.failed_points import write_failed
from dpsolve.solvers.errors import ClusterError

from .error_causes import cause_of, is_of_environment
from .messages import RunInfo, TaskOrder
from .retries import Cause, Retries, Verdict
from .task_queue import TaskQueue, WorkerState
from .worker import dismiss, introduce, perform

if TYPE_CHECKING:
    from distributed import Client, Future

    from dpsolve.hpc.store.store import Store


TICK = 1.0
UNFIT = 3
SILENT = 60.0
HELLO = "dpsolve-hello-"
BYE = "dpsolve-bye-"

Note = Callable[[str], None]


@dataclass(frozen=True)
class Loss:
    """A worker that is gone, and the task that it was solving.

    Attributes
    ----------
    worker_state : WorkerState
    order : TaskOrder
    lasted : float
        Seconds since it was sent.
    at : float
        When the loss was noticed, by the monotonic clock.
    """

    worker_state: WorkerState
    order: TaskOrder
    lasted: float
    at: float


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
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        run_info: RunInfo,
        pool: WorkerPool,
        event_log: EventLog,
        note: Note,
    ) -> None:
        self._client = client
        self._store = store
        self._run_info = run_info
        self._pool = pool
        self._event_log = event_log
        self._note = note
        self._retries = Retries()
        self._heard: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._futures: dict[str, tuple[str, Future[Any]]] = {}  # with the worker's address
        self._losses: list[Loss] = []
        self._met: set[str] = set()
        self._committed: set[int] = set()
        self._withheld: dict[int, str] = {}  # tasks given up while none was solved, and why
        self._unfit = 0
        self._last_sign = time.monotonic()
        self._queue = TaskQueue((), self._retries)

    def stop(self) -> None:
        """End `conduct` soon; safe in a signal handler and from any thread."""
        self._heard.put(None)

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
                for address in self._pool.tick(self._queue):
                    self._part_with(address)
                self._hand_out()
                report = self._next()
                if report is None:
                    return
                yield from self._answer(report)
                self._judge_losses()
                if self._retries.hopeful or self._all_decided(numbers):
                    yield from self._give_up_withheld()
                self._watch()
        finally:
            self._part()

    # -- listening -----------------------------------------------------------------------------

    def _listen(self) -> None:
        client = self._client
        client.subscribe_topic(self._run_info.topic, lambda event: self._heard.put(event[1]))
        client.subscribe_topic("all", self._hear_of_workers)
        for address in client.scheduler_info(n_workers=-1)["workers"]:
            self._heard.put({"what": "add-worker", "worker": address})

    def _hear_of_workers(self, event: tuple[float, Any]) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action in ("add-worker", "remove-worker"):
            self._heard.put({"what": action, "worker": message["worker"]})

    def _next(self) -> dict[str, Any] | None:
        try:
            return self._heard.get(timeout=0.1 if self._losses else TICK)
        except Empty:
            return {"what": "nothing"}

    def _part(self) -> None:
        """Let go of everything that workers still hold for this run."""
        with suppress(Exception):  # the scheduler may be gone, and that is why we are here
            self._client.unsubscribe_topic(self._run_info.topic)
            self._client.unsubscribe_topic("all")
            self._client.cancel([future for _, future in self._futures.values()], force=True)
        self._futures.clear()

    # -- handing out ---------------------------------------------------------------------------

    def _hand_out(self) -> None:
        for worker_state, order in self._queue.orders():
            self._send(order.id, perform, worker_state.address, order)

    def _send(self, key: str, function: Callable[..., None], address: str, *given: Any) -> None:
        future = self._client.submit(
            function, self._run_info, *given, key=key, workers=[address], allow_other_workers=False,
            pure=False,
        )  # fmt: skip
        self._futures[key] = address, future
        future.add_done_callback(lambda done: self._ended(key, address, done))

    def _ended(self, key: str, address: str, future: Future[Any]) -> None:
        """Hear, in a thread of dask's, that a call ended; its report came before."""
        failed = future.status == "error"
        error = future.exception() if failed else None
        self._heard.put({"what": "ended", "id": key, "worker": address, "error": error})

    # -- answering -----------------------------------------------------------------------------

    def _answer(self, report: dict[str, Any]) -> Iterator[Receipt]:
        match report["what"]:
            case "add-worker":
                self._meet(report["worker"])
            case "hello":
                self._greet(report)
            case "unfit":
                self._refuse(report)
            case "compiled":
                self._queue.compiled(report["bucket"])
                if report["seconds"] > 0.1 and report["misses"]:
                    self._note(f"compiled {self._store.source.name} in {report['seconds']:.1f} s")
            case "done":
                yield from self._committed_by(report)
            case "late":
                if (order := self._take_off(report)) is not None:
                    self._queue.put_back(order.task)
                    self._part_with(report["worker"])
                    self._pool.late(order, report["seconds"], report["message"])
            case "left":
                if (order := self._take_off(report)) is not None:
                    self._queue.put_back(order.task)
                self._part_with(report["worker"])
            case "leaving":
                self._part_with(report["worker"])
            case "error":
                self._mishap(report)
            case "remove-worker":
                self._lose(report["worker"])
            case "ended":
                self._close_call(report)

    def _meet(self, address: str) -> None:
        self._last_sign = time.monotonic()
        if address not in self._met:
            self._met.add(address)
            self._send(f"{HELLO}{address}-{time.time()}", introduce, address)

    def _greet(self, report: dict[str, Any]) -> None:
        if wrong := _other_versions(report.get("versions", {})):
            self._refuse(report | {"message": wrong})
            return
        names = ("name", "job", "host", "writer", "oom_kills")
        worker_state = WorkerState(report["worker"], **{name: report[name] for name in names})
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
        self._retire(report["worker"])
        if self._unfit >= UNFIT and not self._queue.worker_states:
            raise ClusterError(
                f"{self._unfit} workers in a row cannot work. The last one ({where}) says: "
                f"{report['message']}"
            )

    def _committed_by(self, report: dict[str, Any]) -> Iterator[Receipt]:
        seconds = report["seconds"] if report["computed"] else None
        self._queue.done(report["worker"], report["id"], seconds)
        if report["computed"]:
            self._retries.solved()
        task = report["task"]
        if task not in self._committed:  # a worker that was held for dead may have told before
            self._committed.add(task)
            self._withheld.pop(task, None)
            yield Receipt(**report["receipt"])

    def _take_off(self, report: dict[str, Any]) -> TaskOrder | None:
        return self._queue.done(report["worker"], report["id"])

    def _mishap(self, report: dict[str, Any]) -> None:
        order = self._take_off(report)
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
            else worker_state.host or worker
        )
        self._event_log.write("stop", task=order.task, job=worker_state.job, message=message)
        raise ClusterError(
            f"{message}\nThis is what a worker ({where}) met at task {order.task}, and it is not "
            "the fault of the points: the sweep ends, and nothing was marked failed. `dpsolve logs "
            f"{self._store.path} --failed` shows the whole traceback. When it is mended, the same "
            "command goes on."
        )

    def _close_call(self, report: dict[str, Any]) -> None:
        """Forget a call that ended; if dask itself failed to make it, say so."""
        key = report["id"]
        self._futures.pop(key, None)
        if report["error"] is None or key.startswith(BYE):
            return
        text = f"{type(report['error']).__name__}: {report['error']}"
        if key.startswith(HELLO):
            self._refuse({"job": "", "host": report["worker"], "message": text} | report)
        elif (order := self._take_off(report)) is not None:
            # `perform` reports what a task raises; this is dask's, or the worker's own.
            error = report["error"]
            if isinstance(error, AttributeError | TypeError) or is_of_environment(error):
                self._end(order, report["worker"], text)
            self._decide(order, "disk" if cause_of(error) == "disk" else "job", text)

    # -- what goes wrong -----------------------------------------------------------------------

    def _lose(self, address: str) -> None:
        worker_state = self._queue.worker_states.get(address)
        for order, lasted in self._queue.lost(address)[:1]:
            assert worker_state is not None
            self._losses.append(Loss(worker_state, order, lasted, time.monotonic()))
        self._met.discard(address)
        for key in [k for k, (worker, _) in self._futures.items() if worker == address]:
            self._futures.pop(key)

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
            self._queue.put_back(task)
            return
        self._note(f"task {task} is given up: {verdict.message}")
        self._withheld[task] = verdict.message

    def _all_decided(self, numbers: list[int]) -> bool:
        return len(self._committed) + len(self._withheld) == len(numbers)

    def _give_up_withheld(self) -> Iterator[Receipt]:
        """Mark the points of given-up tasks: another task was solved, so it is their own fault."""
        while self._withheld:
            task, message = self._withheld.popitem()
            receipt = write_failed(self._store, task, message)
            self._event_log.write("committed", task=task, failed=receipt.failed)
            self._committed.add(task)
            yield receipt

    def _part_with(self, address: str) -> None:
        """Let a worker go once it has nothing left to do."""
        self._queue.leaving(address)
        worker_state = self._queue.worker_states.get(address)
        if worker_state is not None and not worker_state.orders:
            self._queue.lost(address)
            self._retire(address)

    def _retire(self, address: str) -> None:
        self._send(f"{BYE}{address}-{time.time()}", dismiss, address)

    def _watch(self) -> None:
        """Say it when nobody works; end when the scheduler is gone."""
        if self._client.status not in ("running", "connecting"):
            raise ClusterError(
                f"the dask scheduler {self._post_address()} is gone. What was committed stays "
                "valid; with a scheduler at hand the same command goes on."
            )
        if self._queue.worker_states:
            self._last_sign = time.monotonic()
        elif time.monotonic() - self._last_sign > SILENT:
            self._last_sign = time.monotonic()
            self._note("still no worker")

    def _post_address(self) -> str:
        scheduler = self._client.scheduler
        return str(getattr(scheduler, "address", ""))


def _other_versions(theirs: dict[str, str]) -> str:
    """Say how a worker's packages differ from the driver's, if they do: so would the results."""
    from .worker import versions

    found = [
        f"it has {name} {theirs[name]}, and the driver {own}"
        for name, own in versions().items()
        if theirs.get(name, own) != own
    ]
    if not found:
        return ""
    return f"{'; '.join(found)}. Give the jobs the driver's environment (python in the profile)."
