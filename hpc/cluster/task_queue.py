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

from .messages import Order

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task

    from .retries import Retries


SHORT = 5.0
REMEMBERED = 32


@dataclass
class Hand:
    """A worker.

    Attributes
    ----------
    address : str
    name, job, host, writer : str
        Its name for dask, the SLURM job it belongs to, its machine, its name in the ledger.
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
    orders: dict[str, tuple[Order, float]] = field(default_factory=dict)
    leaving: bool = False
    idle_since: float = 0.0


class Dispatch:
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
        self.hands: dict[str, Hand] = {}
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

    def joined(self, hand: Hand) -> None:
        """Count on a worker."""
        hand.idle_since = self._clock()
        self.hands[hand.address] = hand
        self._file(hand)

    def lost(self, address: str) -> list[tuple[Order, float]]:
        """Count on a worker no more; return its orders and how long they were there.

        The one in work comes first. Those that waited behind it are given to others at once; the
        first one is the caller's to judge and to `put_back`.
        """
        hand = self.hands.pop(address, None)
        if hand is None:
            return []
        self._file(hand)
        self.sent -= len(hand.orders)
        orders = [(order, self._clock() - since) for order, since in hand.orders.values()]
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
        if address in self.hands:
            self.hands[address].leaving = True
            self._file(self.hands[address])

    def compiled(self, bucket: int) -> None:
        """Let all workers begin with a bucket: its program is in the cache."""
        self._warm.add(bucket)
        self._warming.pop(bucket, None)

    def done(self, address: str, order: str, seconds: float | None = None) -> Order | None:
        """Take an order off a worker; None if it was not expected any more.

        Parameters
        ----------
        address, order : str
        seconds : float, optional
            How long the task took, if it was computed.
        """
        hand = self.hands.get(address)
        found = hand.orders.pop(order, None) if hand is not None else None
        if hand is None or found is None:
            return None
        self.sent -= 1
        now = self._clock()
        hand.idle_since = now
        for key, (waited, _) in list(hand.orders.items())[:1]:
            hand.orders[key] = (waited, now)  # it begins now
        self._file(hand)
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

    def orders(self) -> Iterator[tuple[Hand, Order]]:
        """Hand out what can be handed out now: first a task for each, then one to have ready."""
        while self._free and (task := self._next()) is not None:
            yield self._order(next(iter(self._free)), task)
        for bucket in [bucket for bucket, hands in self._single.items() if hands]:
            if not 0 < self.expected(bucket) < SHORT:
                continue
            while self._single[bucket] and self.waiting > len(self.hands):
                task = self._next()
                if task is None:
                    return
                yield self._order(next(iter(self._single[bucket])), task)

    def _order(self, address: str, task: Task) -> tuple[Hand, Order]:
        hand = self.hands[address]
        order = Order(
            id=f"dpsolve-{task.id}-{uuid.uuid4().hex[:12]}",
            task=task.id,
            seconds=self.expected(task.bucket),
            halvings=self._retries.halvings(task.id, task.bucket),
        )
        if task.bucket not in self._warm:
            self._warming[task.bucket] = order.id
        hand.orders[order.id] = (order, self._clock())
        self.sent += 1
        self._file(hand)
        return hand, order

    def _file(self, hand: Hand) -> None:
        """Put a worker where `orders` finds it: by how much it has to do."""
        address = hand.address
        self._free.pop(address, None)
        if (before := self._bucket_of.pop(address, None)) is not None:
            del self._single[before][address]
        if self.hands.get(address) is not hand or hand.leaving:
            return
        if not hand.orders:
            self._free[address] = None
        elif len(hand.orders) == 1:
            ((order, _),) = hand.orders.values()
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
