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
from typing import TYPE_CHECKING

import numpy as np

from dpsolve.sharding.batches.solving_order import STRAND

if TYPE_CHECKING:
    from dpsolve.sharding.batches.program import Program

    from .plan import BucketPlan, Plan

WARM = 0.45  # of a cold point's sweeps, that a warm one takes (docs/performance.md, warm starts)
WRITE_TASK = 0.02  # seconds to write a task: a file for each array, brought to the disk
WRITE_BYTE = 5e-9  # seconds to compress and write a byte


@dataclass(frozen=True)
class CostEstimate:
    """How long a plan will take on this machine, by a probe.

    Attributes
    ----------
    compile_seconds : float
        To compile every bucket's program.
    solve_seconds : float
        To solve all points, at the speed of the probed ones.
    write_seconds : float
        To write them.
    probed : int
        Points that were solved to find out.
    """

    compile_seconds: float
    solve_seconds: float
    write_seconds: float
    probed: int

    @property
    def seconds(self) -> float:
        """Everything together; results are written while the next task is solved."""
        return self.compile_seconds + max(self.solve_seconds, self.write_seconds)


def estimate(plan: Plan) -> CostEstimate:
    """Compile each bucket's program and time one batch of points spread over the bucket.

    Raises
    ------
    UsageError
        If a program cannot work on this machine.
    """
    compiling = solving = 0.0
    probed = 0
    for part in plan.buckets:
        compiling += part.program.compile()
        points, full, filled = _probe(part)
        probed += points
        solving += sum(_task_seconds(part.program, task.size, full, filled) for task in part.tasks)
    tasks = sum(len(part.tasks) for part in plan.buckets)
    writing = tasks * WRITE_TASK + plan.bytes * WRITE_BYTE
    return CostEstimate(compiling, solving, writing, probed)


def _probe(part: BucketPlan) -> tuple[int, float, float]:
    """Solve points spread over a bucket, from its middle if it is one.

    Returns
    -------
    points : int
        How many.
    full : float
        Seconds that the batch took.
    filled : float
        Seconds that it takes where lanes that are done are filled again.
    """
    program = part.program
    lanes = min(program.lanes, part.points)
    ends = (0, part.points - 1) if lanes > 1 else (part.points // 2,) * 2
    spread = np.linspace(*ends, lanes).round().astype(np.int64)
    points = part.bucket.points(spread)
    if program.outline.shape.iterates:
        program.run({name: np.full(1, np.nan) for name in points})
    began = time.perf_counter()
    batch = program.run(points)
    full = time.perf_counter() - began
    sweeps = np.maximum(batch.iterations, 1)
    again = program.outline.shape.iterates and lanes > 1
    return lanes, full, full * (float(sweeps.mean() / sweeps.max()) if again else 1.0)


def _task_seconds(program: Program, size: int, full: float, filled: float) -> float:
    """Return how long a task of so many points takes."""
    cold = math.ceil(size / STRAND) if program.warm else size
    side_by_side = min(program.workers, math.ceil(cold / program.lanes))
    points = cold + (size - cold) * WARM  # as many cold ones would take
    return max(full, filled * points / program.lanes / side_by_side)
