"""How long a plan takes on this machine, by a probe: each program compiled, a few points solved.

What a first run of a program takes beside its sweeps (small programs of JAX's own are compiled
then) would be counted once for every batch, and is most of it where points are small. So it is
paid before the clock starts, by points without values, which fail before their first sweep. The
rest follows from how tasks are solved: batches side by side on the cores, lanes that are filled
again while points wait, and starts that are warm but for one in a strand.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.progress import span
from dpsolve.sharding.batches.refill import nowhere
from dpsolve.sharding.batches.solving_order import STRAND

if TYPE_CHECKING:
    from dpsolve.sharding.batches.program import Batch, Program

    from .plan import BucketPlan, Plan

WARM = 0.45  # of a cold point's sweeps, that a warm one takes (docs/performance.md, warm starts)
WRITE_TASK = 0.02  # seconds to write a task: a file for each array, brought to the disk
WRITE_BYTE = 5e-9  # seconds to compress and write a byte
MAKE_STORE = 0.4  # seconds to make a store
SHARE = 8  # of a bucket's points one in so many is probed at most, where one batch is less
PROBE_MOST = 60.0  # seconds of one full sweep, beyond which a plan does not wait for a probe
PROBE_SECONDS = 1.0  # that a bucket's probe should take
FIRST = np.zeros(1, np.int64)


@dataclass(frozen=True)
class CostEstimate:
    """How long a plan will take on this machine, by a probe.

    Attributes
    ----------
    begin_seconds : float
        To plan, to make the store, and what first runs take beside their sweeps.
    compile_seconds : float
        To compile every bucket's program.
    solve_seconds : float
        To solve all points, at the speed of the probed ones.
    write_seconds : float
        To write them.
    probed, failed : int
        Points that were solved to find out, and those of them that failed.
    why : str
        Why the first of those did.
    """

    begin_seconds: float
    compile_seconds: float
    solve_seconds: float
    write_seconds: float
    probed: int
    failed: int = 0
    why: str = ""

    @property
    def seconds(self) -> float:
        """Everything together; results are written while the next task is solved."""
        together = max(self.solve_seconds, self.write_seconds)
        return self.begin_seconds + self.compile_seconds + together


def estimate(plan: Plan) -> CostEstimate:
    """Compile each bucket's program and solve some points spread over the bucket.

    Raises
    ------
    UsageError
        If a program cannot work on this machine.
    """
    begin, compiling, solving, probed = plan.seconds + MAKE_STORE, 0.0, 0.0, 0
    found: list[Batch] = []
    for part in plan.buckets:
        compiling += part.program.compile(_spread(part, min(part.program.lanes, part.points)))
        began = time.perf_counter()
        if part.program.outline.shape.iterates:
            part.program.run(nowhere(1, part.bucket.points(FIRST)))
        begin += time.perf_counter() - began
        batch, points, load = _probe(part)
        found.append(batch)
        probed += points
        solving += load * sum(_loads(part.program, task.size) for task in part.tasks)
    tasks = sum(len(part.tasks) for part in plan.buckets)
    writing = tasks * WRITE_TASK + plan.bytes * WRITE_BYTE
    status = np.concatenate([batch.status for batch in found])
    messages = np.concatenate([batch.message for batch in found])
    failed = status == "failed"
    return CostEstimate(
        begin, compiling, solving, writing, probed,
        int(failed.sum()), str(messages[np.argmax(failed)]) if failed.any() else "",
    )  # fmt: skip


def long_by_count(plan: Plan) -> str:
    """Say how long the plan takes at least, by count, where one point alone is too long to probe.

    Returns
    -------
    str
        Empty where a probe is quick.
    """
    each = [
        (0.0 if part.program.outlook is None else part.program.outlook.seconds, part)
        for part in plan.buckets
    ]
    longest = max(seconds for seconds, _ in each)
    if longest <= PROBE_MOST:
        return ""
    total = sum(seconds * part.points for seconds, part in each)
    return (
        f"at least {span(total)}, by count: one full sweep, which certifies a point, takes about "
        f"{span(longest)} on two cores; nothing was probed"
    )


def _probe(part: BucketPlan) -> tuple[Batch, int, float]:
    """Solve points spread over a bucket: a batch, and if that was quick up to a share of all.

    Returns
    -------
    batch : Batch
        What was solved.
    points : int
        How many.
    load : float
        Seconds that a batch takes, all lanes filled.
    """
    number = min(part.program.lanes, part.points)
    batch, seconds = _timed(part, number)
    more = min(part.points // SHARE, int(number * PROBE_SECONDS / max(seconds, 1e-6)))
    if more > number:
        number = more
        batch, seconds = _timed(part, more)
    return batch, number, seconds / _loads(part.program, number)


def _timed(part: BucketPlan, number: int) -> tuple[Batch, float]:
    """Solve so many points, spread over the bucket, and take the time."""
    points = _spread(part, number)
    began = time.perf_counter()
    batch = part.program.run(points)
    return batch, time.perf_counter() - began


def _spread(part: BucketPlan, number: int) -> dict[str, Any]:
    """Return the parameters of so many points, each in the middle of its share of the bucket's."""
    which = ((np.arange(number) + 0.5) * part.points / number).astype(np.int64)
    return part.bucket.points(which)


def _loads(program: Program, size: int) -> float:
    """Return how many batches, one after another, so many points at once take."""
    cold = math.ceil(size / STRAND) if program.warm else size
    points = cold + (size - cold) * WARM  # as many cold ones would take as long
    side_by_side = min(program.workers, math.ceil(cold / program.lanes))
    return max(1.0, points / program.lanes / side_by_side)
