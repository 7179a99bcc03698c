"""Refilling lanes: done points leave, waiting ones take their places."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from dpsolve.sharding.devices.threads import side_by_side
from dpsolve.solvers.numerics.arrays import Numpy

from .base import trimmed
from .rounds import Rounds
from .single_pass import SinglePass
from .solving_order import STRAND, Start, strands

# Lane-sweeps per lane that done lanes may be idle for while points wait. Beginning new points costs
# about so many sweeps, where rewards are evaluated once and kept.
PATIENCE = 8
# Sweeps to a round where a group of devices waits for others at its end.
SWEEPS = 32
FOR_EVER = 2**30


@dataclass
class Results:
    """Arrays of all points, filled as points are done.

    Attributes
    ----------
    points : int
        How many there are.
    report : function
        Is told how many are done.
    arrays : dict of str to array (points, ...)
        What was found so far.
    seconds : float array (points,)
        The time of the batches that a point was in, shared among their points.
    left : set of int
        Points that are not done.
    start : int array (points,)
        The point that a point started from, -1 for a cold start.
    """

    points: int
    report: Callable[[int], None] = lambda done: None
    arrays: dict[str, Numpy] = field(default_factory=dict)
    seconds: Numpy = field(init=False)
    left: set[int] = field(init=False)
    start: Numpy = field(init=False)
    _lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.seconds = np.zeros(self.points)
        self.left = set(range(self.points))
        self.start = np.full(self.points, -1, np.int32)

    def put(
        self, which: Numpy, lanes: Numpy, arrays: Mapping[str, Any], compiled: Rounds | SinglePass
    ) -> None:
        """Take results of points `which` (done,) out of lanes `lanes` (done,) of (slots, ...)."""
        with self._lock:
            for name, whole in arrays.items():
                x = trimmed(name, np.asarray(whole), compiled.dims[name], compiled.partition)
                if name not in self.arrays:
                    self.arrays[name] = np.empty((self.points, *x.shape[1:]), x.dtype)
                self.arrays[name][which] = x[lanes]
            self.left -= set(which.tolist())
            done = self.points - len(self.left)
        self.report(done)


def serve(
    compiled: Rounds | SinglePass,
    columns: Mapping[str, Numpy],
    found: Results,
    left: Collection[int],
    workers: int,
) -> None:
    """Solve the points that are left, on some threads.

    Parameters
    ----------
    compiled : Rounds or SinglePass
    columns : dict of str to float array (points, ...)
        Every parameter.
    found : Results
        Where results go.
    left : collection of int
        Points to solve.
    workers : int
        Batches at a time.
    """
    queue = _Queue(strands(columns, left, STRAND if compiled.warm else 1))
    crews = min(workers, -(-len(queue) // compiled.slots))

    def worker_count(_: int) -> None:
        if isinstance(compiled, Rounds):
            _in_rounds(compiled, columns, found, queue)
        else:
            _in_batches(compiled, columns, found, queue)

    side_by_side(worker_count, range(crews), crews)


def nowhere(slots: int, columns: Mapping[str, Numpy]) -> dict[str, Numpy]:
    """Return the parameters of lanes (slots, ...) without points: NaN, which fails at once."""
    return {k: np.full((slots, *c.shape[1:]), np.nan) for k, c in columns.items()}


class _Queue:
    """Strands that wait for a lane."""

    def __init__(self, waiting: Iterable[list[Start]]) -> None:
        self._waiting = deque(deque(strand) for strand in waiting)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, n: int) -> list[deque[Start]]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(n, len(self._waiting)))]


def _in_batches(
    compiled: SinglePass, columns: Mapping[str, Numpy], found: Results, queue: _Queue
) -> None:
    while taken := queue.take(compiled.slots):
        which = np.array([strand[0].point for strand in taken])
        began = time.perf_counter()
        values = nowhere(compiled.slots, columns)
        for k, c in columns.items():
            values[k][: which.size] = c[which]
        arrays = compiled.solve(values)
        found.put(which, np.arange(which.size), arrays, compiled)
        found.seconds[which] = (time.perf_counter() - began) / which.size


class _Lanes:
    """Which point is in which lane, and which follow it there.

    Attributes
    ----------
    who, source : int array (slots,)
        The point in each lane, -1 if there is none, and the one that it would start from.
    values : dict of str to float array (slots, ...)
        Its parameters.
    """

    def __init__(self, slots: int, columns: Mapping[str, Numpy]) -> None:
        self.who, self.source = np.full(slots, -1), np.full(slots, -1)
        self.values = nowhere(slots, columns)
        self._columns = columns
        self._strands: list[deque[Start]] = [deque()] * slots

    def fill(self, queue: _Queue) -> tuple[Numpy, Numpy]:
        """Give each free lane its next point; return which are new, and how far they reach."""
        free = np.flatnonzero(self.who < 0)
        idle = [lane for lane in free if not self._strands[lane]]
        taken = queue.take(len(idle))
        for lane, strand in zip(idle, taken, strict=False):
            self._strands[lane] = strand
        lanes = np.array([lane for lane in free if self._strands[lane]], int)
        starts = [self._strands[lane].popleft() for lane in lanes]
        fresh, reach = np.zeros(self.who.size, bool), np.full(self.who.size, np.nan)
        fresh[lanes] = True
        reach[lanes] = [start.reach for start in starts]
        self.who[lanes] = [start.point for start in starts]
        self.source[lanes] = [start.source for start in starts]
        for k, c in self._columns.items():
            self.values[k][lanes] = c[self.who[lanes]]
        return fresh, reach

    @property
    def waiting(self) -> bool:
        """Whether a point waits for its own lane."""
        return any(self._strands)


def _in_rounds(
    compiled: Rounds, columns: Mapping[str, Numpy], found: Results, queue: _Queue
) -> None:
    groups = compiled.shape.points
    lanes = _Lanes(compiled.slots, columns)
    carry = compiled.empty()
    while True:
        fresh, reach = lanes.fill(queue)
        busy = np.flatnonzero(lanes.who >= 0)
        if not busy.size:
            return
        waiting = len(queue) > 0 or lanes.waiting
        began = time.perf_counter()
        patience = PATIENCE * compiled.lanes if waiting else FOR_EVER
        most = SWEEPS if waiting and groups > 1 else FOR_EVER
        carry, running = compiled.advance(lanes.values, fresh, carry, patience, most, reach)
        done = (lanes.who >= 0) & ~np.asarray(running)
        if done.any():
            arrays = compiled.read(lanes.values, carry, done)
            found.put(lanes.who[done], np.flatnonzero(done), arrays, compiled)
            source = np.where(compiled.warmed(carry), lanes.source, -1)
            found.start[lanes.who[done]] = source[done]
        found.seconds[lanes.who[busy]] += (time.perf_counter() - began) / busy.size
        lanes.who[done] = -1
