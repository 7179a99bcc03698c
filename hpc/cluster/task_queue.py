"""What dask is given when, and which tasks its workers are at.

dask's scheduler decides which worker gets which task: it hands queued tasks out by priority, one
for each free thread, and gives those of a worker that is lost to others. Three things are done
before, each for a behaviour of dask (measured with distributed 2026.8):

- *A program's first task goes alone*, and the others when it has compiled, so that they find the
  program in the cache. As dask's own dependencies they would all be given to the worker that holds
  the first one's result: 40 tasks took four workers 4.3 s where 1.05 s would do.
- *Few tasks go one for each worker that is free.* dask keeps tasks in its queue only where their
  group is larger than twice the cluster. Of a smaller one, each is bound to a worker at once,
  though another is free before: six to eight tasks of 0.05 to 1 s took four workers 1.2 times as
  long.
- *Many go by and by.* A submit takes dask half a millisecond; and an order holds what was known
  when it was submitted.

Who is at which task, and since when, is kept for what dask has no word for: idle jobs, the cause of
a loss and whose fault it is, tasks that are longer than a job.
"""

from __future__ import annotations

import heapq
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .messages import TaskOrder

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task

    from .retries import Retries


WINDOW = 2_000
"""Tasks that dask has at a time."""

REMEMBERED = 32


@dataclass
class WorkerState:
    """A worker.

    Attributes
    ----------
    address : str
    name, job, host, writer : str
        Its name for dask, the SLURM job it belongs to, its machine, its name in the event log.
    oom_kills : int
        How many processes of its job the kernel had killed when it came.
    threads : int
        How many tasks dask gives it at a time; it solves one.
    orders : dict
        What it has begun: since when, by order.
    leaving : bool
        It takes no further order.
    idle_since : float
    """

    address: str
    name: str = ""
    job: str = ""
    host: str = ""
    writer: str = ""
    oom_kills: int = 0
    threads: int = 1
    orders: dict[str, float] = field(default_factory=dict)
    leaving: bool = False
    idle_since: float = 0.0


@dataclass(frozen=True)
class Loss:
    """A worker that is gone, and the task that it was solving.

    Attributes
    ----------
    worker_state : WorkerState
    order : TaskOrder
    lasted : float
        Seconds since it was begun.
    at : float
        When the loss was noticed, by the monotonic clock.
    """

    worker_state: WorkerState
    order: TaskOrder
    lasted: float
    at: float


@dataclass
class _Open:
    order: TaskOrder
    rank: int
    bucket: int
    worker: str = ""


class TaskQueue:
    """The tasks of one run: those that wait here, and those that dask has.

    Whatever is asked after every event is answered from counts and sets that are kept up to date,
    so that an event costs the same with ten workers and ten tasks as with a thousand and a million.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker_states: dict[str, WorkerState] = {}
        self.waiting = 0
        """Tasks that dask does not have."""
        self._tasks = {task.id: task for task in tasks}
        self._queues: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        """By bucket: a heap of rank and number of the waiting tasks."""
        self._first = 0
        self._retries = retries
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._group = 0  # tasks of dask's group of ours, which it forgets with its last one
        self._threads = self._usable = 0
        self._warm: set[int] = set()
        self._warming: dict[int, str] = {}  # the order that compiles a bucket's program
        self._seconds: dict[int, deque[float]] = {}
        for rank, task in enumerate(self._tasks.values()):
            self._wait(rank, task.id)

    @property
    def sent(self) -> int:
        """Tasks that dask has."""
        return len(self._open)

    # -- workers -----------------------------------------------------------------------------------

    def joined(self, worker_state: WorkerState) -> None:
        """Count on a worker."""
        self.lost(worker_state.address)
        worker_state.idle_since = self._clock()
        self.worker_states[worker_state.address] = worker_state
        self._threads += worker_state.threads
        self._usable += 1

    def leaving(self, address: str) -> None:
        """Count on a worker for nothing more than what it has begun."""
        worker_state = self.worker_states.get(address)
        if worker_state is not None and not worker_state.leaving:
            worker_state.leaving = True
            self._usable -= 1

    def lost(
        self, address: str, orders: Collection[str] = ()
    ) -> tuple[list[Loss], list[TaskOrder]]:
        """Count on a worker no more.

        Return what it had of the orders that dask says it had: those that may be why it was lost,
        and others. The one in work may be; if it told of none, any may. Of a worker that was
        leaving, or had not even come, none is. They stay with dask until they are `done` with.
        """
        found = [self._open[key].order for key in orders if key in self._open]
        worker_state = self.worker_states.pop(address, None)
        if worker_state is None:
            return [], found
        self._threads -= worker_state.threads
        self._usable -= not worker_state.leaving
        begun, now = worker_state.orders, self._clock()
        for key in begun.keys() & self._open.keys():
            self._open[key].worker = ""
        silent = not begun and not worker_state.leaving
        blamed = [order for order in found if silent or order.id in begun]
        losses = [Loss(worker_state, x, now - begun.get(x.id, now), now) for x in blamed]
        return losses, [order for order in found if order not in blamed]

    # -- tasks -------------------------------------------------------------------------------------

    def due(self, calls: Sized) -> Iterator[tuple[TaskOrder, int]]:
        """Give dask what it is to have by now: orders with their priorities.

        Parameters
        ----------
        calls : sized
            Those that have not ended for dask, with what is given meanwhile. A report comes before
            the end, and dask does not know yet that its worker is free.
        """
        while self._room(calls) and (bucket := self._ready()) is not None:
            rank, number = heapq.heappop(self._queues[bucket])
            self.waiting -= 1
            task = self._tasks[number]
            order = TaskOrder(
                # dask counts keys as one group that begin alike, up to the first number.
                id=f"dpsolve-{task.id}-{uuid.uuid4().hex[:12]}",
                task=task.id,
                seconds=self.expected(task.bucket),
                halvings=self._retries.halvings(task.id, task.bucket),
            )
            if task.bucket not in self._warm:
                self._warming[task.bucket] = order.id
            self._open[order.id] = _Open(order, rank, task.bucket)
            self._group += 1
            yield order, -rank

    def _room(self, calls: Sized) -> bool:
        if not calls:
            self._group = 0
        if self._group > 2 * self._threads > 0:
            return len(self._open) < WINDOW
        return len(calls) < self._usable

    def begun(self, address: str, order: str) -> None:
        """Note that a worker is at a task."""
        if order in self._open and address in self.worker_states:
            self._open[order].worker = address
            self.worker_states[address].orders[order] = self._clock()

    def compiled(self, bucket: int) -> None:
        """Let all workers begin with a bucket: its program is in the cache."""
        self._warm.add(bucket)
        self._warming.pop(bucket, None)

    def has(self, order: str) -> bool:
        """Whether dask has an order."""
        return order in self._open

    def done(self, order: str, seconds: float | None = None) -> TaskOrder | None:
        """Take back an order that dask had; None if it was not expected any more.

        Parameters
        ----------
        order : str
        seconds : float, optional
            How long the task took, if it was computed.
        """
        found = self._open.pop(order, None)
        if found is None:
            return None
        worker_state = self.worker_states.get(found.worker)
        if worker_state is not None:
            worker_state.orders.pop(order, None)
            worker_state.idle_since = self._clock()
        if self._warming.get(found.bucket) == order:
            del self._warming[found.bucket]  # if it has not compiled, another one will
        if seconds is not None:
            self.compiled(found.bucket)
            self._seconds.setdefault(found.bucket, deque(maxlen=REMEMBERED)).append(seconds)
        return found.order

    def put_back(self, task: int) -> None:
        """Let a task be done by whoever is free next."""
        self._first -= 1
        self._wait(self._first, task)

    def recall(self, task: int) -> list[str]:
        """Take back what is not begun of a task's bucket, in its place; return the orders.

        They hold a batch that is known by now to be too large.
        """
        bucket = self._tasks[task].bucket
        found = [x for x in self._open.values() if x.bucket == bucket and not x.worker]
        for x in found:
            self.done(x.order.id)
            self._wait(x.rank, x.order.task)
        return [x.order.id for x in found]

    def expected(self, bucket: int) -> float:
        """Return how long a task of a bucket takes at most, by the last ones; 0 if unknown."""
        return max(self._seconds.get(bucket, ()), default=0.0)

    def in_work(self) -> list[float]:
        """Return how many seconds each task in work is expected to take yet; 0 if unknown."""
        now = self._clock()
        return [
            max(0.0, since + self.expected(self._open[key].bucket) - now)
            for worker_state in self.worker_states.values()
            for key, since in worker_state.orders.items()
        ]

    def _wait(self, rank: int, task: int) -> None:
        heapq.heappush(self._queues[self._tasks[task].bucket], (rank, task))
        self.waiting += 1

    def is_due(self, calls: Sized) -> bool:
        """Whether dask is to have one more."""
        return self._room(calls) and self._ready() is not None

    def _ready(self) -> int | None:
        """Return the bucket of the first task whose program is compiled, or compiled by nobody."""
        ready = [
            (queue[0], bucket)
            for bucket, queue in self._queues.items()
            if queue and (bucket in self._warm or bucket not in self._warming)
        ]
        return min(ready)[1] if ready else None
