"""How the points of a sweep are cut into tasks.

A task is a block of neighbouring points that is solved, written and committed together. Blocks
have the shape ``(1, .., 1, m, full, .., full)`` over the parameter axes: then a block is a run of
points in C order, and a rectangle that can be one shard of every variable. No two tasks share a
file, which is what lets them be written by different processes.

The size of a task weighs four things: a kill loses one task's work (64 tasks: 1.6 % of a bucket);
each task costs a file per variable, and some milliseconds to write them; a batch should be full,
or lanes are wasted; and a task's results must fit into memory beside the solve. Where many workers
are to share a sweep, there are at least `TASKS_EACH` tasks for each of them, as long as these fill
a worker.

The cut belongs to the store: it is made once, and read back wherever the sweep goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

WANTED_TASKS = 64
LEAST_BYTES = 2 * 2**20
LEAST_BATCHES = 32
MOST_BYTES = 64 * 2**20
TASKS_EACH = 4


@dataclass(frozen=True)
class Task:
    """A run of neighbouring points of one bucket.

    Attributes
    ----------
    id : int
        Its number in the whole sweep.
    bucket : int
        Its bucket's number.
    start, stop : int
        The points: first, and one past the last, counted over the bucket's axes in C order.
    cell : tuple of int
        Its place among the blocks of the bucket, along each axis.
    shape : tuple of int
        Its extent along each axis; at the edges less than a full block.
    """

    id: int
    bucket: int
    start: int
    stop: int
    cell: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of points."""
        return self.stop - self.start


@dataclass(frozen=True)
class WorkerCount:
    """The workers that a sweep is cut for.

    Attributes
    ----------
    workers : int
        How many there may be at a time; 0 if nothing is known.
    batches : int
        Batches that each works on side by side.
    """

    workers: int = 0
    batches: int = 1

    def share(self, part: int, whole: int) -> WorkerCount:
        """Return the workers for so many points of the whole sweep's."""
        return WorkerCount(_ceil(self.workers * part, whole), self.batches)


def points_per_task(
    points: int, point_bytes: int, lanes: int, worker_count: WorkerCount | None = None
) -> int:
    """Choose how many points a task should have.

    Parameters
    ----------
    points : int
        Points of the bucket.
    point_bytes : int
        What the store keeps of one point.
    lanes : int
        Points that the compiled program solves at once.
    worker_count : WorkerCount, optional
        The workers, where they are known to be many.
    """
    most = max(MOST_BYTES // point_bytes, 1)
    # 2 MiB of results, or some batches where points are small but may be slow (a price).
    least = min(_ceil(LEAST_BYTES, point_bytes), LEAST_BATCHES * lanes)
    wanted = min(max(_ceil(points, WANTED_TASKS), least), most)
    if worker_count is not None and worker_count.workers:
        share = points // (TASKS_EACH * worker_count.workers) // lanes * lanes  # whole batches
        wanted = min(wanted, max(share, worker_count.batches * lanes))
    if wanted < points:
        wanted = _ceil(points, _ceil(points, wanted))  # the last task as large as the others
        wanted = _ceil(wanted, lanes) * lanes
    return min(wanted, points)


def block_shape(shape: tuple[int, ...], points: int, lanes: int = 1) -> tuple[int, ...]:
    """Return the shape of a block of about `points` points.

    Parameters
    ----------
    shape : tuple of int
        Lengths of the parameter axes.
    points : int
        Wanted points.
    lanes : int
        Blocks become a multiple of this where that makes them at most half as large again; one
        that would be smaller than it becomes larger, with as little as possible left over.
    """
    block = [1] * len(shape)
    inner = 1
    for axis in reversed(range(len(shape))):
        length = shape[axis]
        if inner * length > points:
            part = max(points // inner, 1)
            part = _ceil(length, _ceil(length, part))  # evenly
            step = lanes // math.gcd(lanes, inner)
            filled = _ceil(part, step) * step
            block[axis] = filled if filled <= min(length, 1.5 * part) else part
            if block[axis] * inner < lanes <= points:
                block[axis] = _least_left_over(inner, lanes, length)
            break
        block[axis] = length
        inner *= length
    return tuple(block)


def _least_left_over(inner: int, lanes: int, length: int) -> int:
    """Return how many rows of `inner` points make the fullest of one or two portions of `lanes`."""
    first, last = _ceil(lanes, inner), _ceil(2 * lanes, inner)
    if first >= length:
        return length
    rows = range(first, min(last, length) + 1)
    return min(rows, key=lambda n: (_ceil(n * inner, lanes) / (n * inner), n))


def cut(
    shape: tuple[int, ...], block: tuple[int, ...], bucket: int = 0, first: int = 0
) -> Iterator[Task]:
    """Yield the tasks of a bucket, in the order of their points.

    Parameters
    ----------
    shape, block : tuple of int
        Lengths of the parameter axes, and the extent of a block along each.
    bucket, first : int
        The bucket's number and its first task's.
    """
    counts = [_ceil(length, part) for length, part in zip(shape, block, strict=True)]
    start = 0
    for number, cell in enumerate(product(*map(range, counts))):
        extent = tuple(
            min(part, length - i * part) for i, part, length in zip(cell, block, shape, strict=True)
        )
        stop = start + math.prod(extent)
        yield Task(first + number, bucket, start, stop, cell, extent)
        start = stop


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
