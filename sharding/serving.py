"""The host's side of a batch: which points are in which lanes, and where results go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from .compiled import trimmed
from .rounds import Rounds
from .threads import side_by_side
from .whole import Whole

__all__ = ["Results", "serve"]

Numpy = np.ndarray[Any, Any]

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
    arrays : dict of str to array (points, ...)
        What was found so far.
    seconds : float array (points,)
        The time of the batches that a point was in, shared among their points.
    left : set of int
        Points that are not done.
    """

    points: int
    arrays: dict[str, Numpy] = field(default_factory=dict)
    seconds: Numpy = field(init=False)
    left: set[int] = field(init=False)
    _lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.seconds = np.zeros(self.points)
        self.left = set(range(self.points))

    def put(
        self, which: Numpy, lanes: Numpy, arrays: Mapping[str, Any], compiled: Rounds | Whole
    ) -> None:
        """Take the results of points `which` out of lanes `lanes`."""
        with self._lock:
            for name, whole in arrays.items():
                x = trimmed(name, np.asarray(whole), compiled.dims[name], compiled.cut)
                if name not in self.arrays:
                    self.arrays[name] = np.empty((self.points, *x.shape[1:]), x.dtype)
                self.arrays[name][which] = x[lanes]
            self.left -= set(which.tolist())


def serve(
    compiled: Rounds | Whole, columns: Mapping[str, Numpy], found: Results, workers: int
) -> None:
    """Solve the points that are left, on some threads.

    Parameters
    ----------
    compiled : Rounds or Whole
    columns : dict of str to float array (points,)
        Every parameter.
    found : Results
        Where results go.
    workers : int
        Batches at a time.
    """
    queue = deque(sorted(found.left))
    crews = min(workers, -(-len(queue) // compiled.slots))
    lock = Lock()

    def take(n: int) -> tuple[Numpy, bool]:
        with lock:
            taken = [queue.popleft() for _ in range(min(n, len(queue)))]
            return np.array(taken, int), bool(queue)

    def crew(_: int) -> None:
        if isinstance(compiled, Rounds):
            _in_rounds(compiled, columns, found, take)
        else:
            _in_batches(compiled, columns, found, take)

    side_by_side(crew, range(crews), crews)


def _in_batches(compiled: Whole, columns: Mapping[str, Numpy], found: Results, take: Any) -> None:
    while True:
        which, _ = take(compiled.slots)
        if not which.size:
            return
        began = time.perf_counter()
        pad = (0, compiled.slots - which.size)
        arrays = compiled.solve(
            {k: np.pad(c[which], pad, constant_values=np.nan) for k, c in columns.items()}
        )
        found.put(which, np.arange(which.size), arrays, compiled)
        found.seconds[which] = (time.perf_counter() - began) / which.size


def _in_rounds(compiled: Rounds, columns: Mapping[str, Numpy], found: Results, take: Any) -> None:
    slots, groups = compiled.slots, compiled.shape.points
    who = np.full(slots, -1)
    values = {k: np.full(slots, np.nan) for k in columns}
    carry = compiled.empty()
    while True:
        free = np.flatnonzero(who < 0)
        new, waiting = take(free.size)
        lanes = free[: new.size]
        who[lanes] = new
        for k, c in columns.items():
            values[k][lanes] = c[new]
        fresh = np.zeros(slots, bool)
        fresh[lanes] = True
        busy = np.flatnonzero(who >= 0)
        if not busy.size:
            return
        began = time.perf_counter()
        patience = PATIENCE * compiled.lanes if waiting else FOR_EVER
        most = SWEEPS if waiting and groups > 1 else FOR_EVER
        carry, running = compiled.advance(values, fresh, carry, patience, most)
        done = (who >= 0) & ~np.asarray(running)
        if done.any():
            arrays = compiled.read(values, carry, done)
            found.put(who[done], np.flatnonzero(done), arrays, compiled)
        found.seconds[who[busy]] += (time.perf_counter() - began) / busy.size
        who[done] = -1
