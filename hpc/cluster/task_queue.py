"""Which worker gets which task next.

Tasks are handed to workers by name, and dask only carries them: so it is known at any moment which
task is on which worker and for how long, a lost worker is blamed on the one task that it was
solving and not on those that waited behind it, and no task is ever tried again but by decision.

Two rules beyond first come, first served. A program is compiled by one worker first, while the
others wait for it or take tasks of another program: they then find it in the cache. And a worker
gets a second task to have ready only while tasks are short and many are left, where the way to the
driver and back would count.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .messages import TaskOrder

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task

    from .retries import Retries


SHORT = 5.0
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
    orders : dict
        What it has to do: when it was sent by order, the one in work first.
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
    orders: dict[str, tuple[TaskOrder, float]] = field(default_factory=dict)
    leaving: bool = False
    idle_since: float = 0.0


class TaskQueue:
    """The tasks of one run, and who works on them.

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
        """Tasks that no worker has."""
        self.sent = 0
        """Tasks that workers have."""
        self._tasks = {task.id: task for task in tasks}
        self._queues: defaultdict[int, deque[tuple[int, int]]] = defaultdict(deque)
        """By bucket: rank and number of waiting tasks, in order of rank."""
        self._first = 0
        self._retries = retries
        self._clock = clock
        self._warm: set[int] = set()
        self._warming: dict[int, str] = {}  # the order that compiles a bucket's program
        self._seconds: dict[int, deque[float]] = {}
        self._free: dict[str, None] = {}  # workers with nothing to do; a set that keeps its order
        self._single: defaultdict[int, dict[str, None]] = defaultdict(dict)  # one task, by bucket
        self._bucket_of: dict[str, int] = {}  # where a worker stands in `_single`
        for rank, task in enumerate(self._tasks.values()):
            self._queues[task.bucket].append((rank, task.id))
            self.waiting += 1

    def joined(self, worker_state: WorkerState) -> None:
        """Count on a worker."""
        worker_state.idle_since = self._clock()
        self.worker_states[worker_state.address] = worker_state
        self._file(worker_state)

    def lost(self, address: str) -> list[tuple[TaskOrder, float]]:
        """Count on a worker no more; return its orders and how long they were there.

        The one in work comes first. Those that waited behind it are given to others at once; the
        first one is the caller's to judge and to `put_back`.
        """
        worker_state = self.worker_states.pop(address, None)
        if worker_state is None:
            return []
        self._file(worker_state)
        self.sent -= len(worker_state.orders)
        orders = [(order, self._clock() - since) for order, since in worker_state.orders.values()]
        for order, _ in orders:
            self._cool(order.id)
        for order, _ in reversed(orders[1:]):
            self.put_back(order.task)
        return orders

    def put_back(self, task: int) -> None:
        """Let a task be done by whoever is free next."""
        self._first -= 1
        self._queues[self._tasks[task].bucket].appendleft((self._first, task))
        self.waiting += 1

    def leaving(self, address: str) -> None:
        """Send a worker nothing more."""
        if address in self.worker_states:
            self.worker_states[address].leaving = True
            self._file(self.worker_states[address])

    def compiled(self, bucket: int) -> None:
        """Let all workers begin with a bucket: its program is in the cache."""
        self._warm.add(bucket)
        self._warming.pop(bucket, None)

    def done(self, address: str, order: str, seconds: float | None = None) -> TaskOrder | None:
        """Take an order off a worker; None if it was not expected any more.

        Parameters
        ----------
        address, order : str
        seconds : float, optional
            How long the task took, if it was computed.
        """
        worker_state = self.worker_states.get(address)
        found = worker_state.orders.pop(order, None) if worker_state is not None else None
        if worker_state is None or found is None:
            return None
        self.sent -= 1
        now = self._clock()
        worker_state.idle_since = now
        for key, (waited, _) in list(worker_state.orders.items())[:1]:
            worker_state.orders[key] = (waited, now)  # it begins now
        self._file(worker_state)
        self._cool(order)
        if seconds is not None:
            task = self._tasks[found[0].task]
            self.compiled(task.bucket)
            self._seconds.setdefault(task.bucket, deque(maxlen=REMEMBERED)).append(seconds)
            self._retries.worked(task.bucket, found[0].halvings)
        return found[0]

    def expected(self, bucket: int) -> float:
        """Return how long a task of a bucket takes at most, by the last ones; 0 if unknown."""
        return max(self._seconds.get(bucket, ()), default=0.0)

    def orders(self) -> Iterator[tuple[WorkerState, TaskOrder]]:
        """Hand out what can be handed out now: first a task for each, then one to have ready."""
        while self._free and (task := self._next()) is not None:
            yield self._order(next(iter(self._free)), task)
        for bucket in [bucket for bucket, worker_states in self._single.items() if worker_states]:
            if not 0 < self.expected(bucket) < SHORT:
                continue
            while self._single[bucket] and self.waiting > len(self.worker_states):
                task = self._next()
                if task is None:
                    return
                yield self._order(next(iter(self._single[bucket])), task)

    def _order(self, address: str, task: Task) -> tuple[WorkerState, TaskOrder]:
        worker_state = self.worker_states[address]
        order = TaskOrder(
            id=f"dpsolve-{task.id}-{uuid.uuid4().hex[:12]}",
            task=task.id,
            seconds=self.expected(task.bucket),
            halvings=self._retries.halvings(task.id, task.bucket),
        )
        if task.bucket not in self._warm:
            self._warming[task.bucket] = order.id
        worker_state.orders[order.id] = (order, self._clock())
        self.sent += 1
        self._file(worker_state)
        return worker_state, order

    def _file(self, worker_state: WorkerState) -> None:
        """Put a worker where `orders` finds it: by how much it has to do."""
        address = worker_state.address
        self._free.pop(address, None)
        if (before := self._bucket_of.pop(address, None)) is not None:
            del self._single[before][address]
        if self.worker_states.get(address) is not worker_state or worker_state.leaving:
            return
        if not worker_state.orders:
            self._free[address] = None
        elif len(worker_state.orders) == 1:
            ((order, _),) = worker_state.orders.values()
            bucket = self._bucket_of[address] = self._tasks[order.task].bucket
            self._single[bucket][address] = None

    def _next(self) -> Task | None:
        """Take the first waiting task whose program is compiled, or being compiled by nobody."""
        ready = [
            queue
            for bucket, queue in self._queues.items()
            if queue and (bucket in self._warm or bucket not in self._warming)
        ]
        if not ready:
            return None
        _, task = min(ready, key=lambda queue: queue[0]).popleft()
        self.waiting -= 1
        return self._tasks[task]

    def _cool(self, order: str) -> None:
        """Let another worker compile what this order was to compile."""
        for bucket, by in list(self._warming.items()):
            if by == order:
                del self._warming[bucket]
