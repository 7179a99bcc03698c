"""``dpsolve plan``: tasks, bytes, files, memory and time, before anything runs.

A plan is made without compiling or solving anything. The time is another matter: see
:mod:`.cost_estimate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpsolve.hpc.sweep_file.fields import asked_for, options_of
from dpsolve.hpc.zarr_format import ZarrArray, item_bytes
from dpsolve.sharding.batches.solving_order import START, STRAND
from dpsolve.solvers.certified import REFINED

from . import store_schema
from .tasks import TASKS_EACH, Task, WorkerCount, block_shape, cut, points_per_task

if TYPE_CHECKING:
    from dpsolve.hpc.sweep_file.fields import Sweep
    from dpsolve.hpc.sweep_file.model_source import ModelSource
    from dpsolve.sharding.batches.program import Program
    from dpsolve.sharding.batches.result_arrays import Layout, Variable
    from dpsolve.solvers.options import SolveOptions

    from .design import Bucket, Design


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """One bucket: its program, its arrays and its tasks.

    Attributes
    ----------
    bucket : Bucket
    program : Program
        Not yet compiled.
    layout : Layout
        All that the model computes.
    variables : dict of str to Variable
        What is kept of it.
    block : tuple of int
        Extent of a task along each parameter axis.
    tasks : tuple of Task
    widths : dict of str to int
        Of states whose axis is cut into several files, for a solve by several devices: the members
        in each.
    """

    bucket: Bucket
    program: Program
    layout: Layout
    variables: dict[str, Variable]
    block: tuple[int, ...]
    tasks: tuple[Task, ...]
    widths: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def coordinates(self) -> store_schema.Coordinates:
        """The coordinate arrays with their values."""
        return store_schema.coordinates(self.bucket, self.layout, self.variables)

    @cached_property
    def results(self) -> dict[str, ZarrArray]:
        """The arrays that tasks write."""
        shape = self.program.outline.shape
        what = REFINED if self.program.options.refine else shape.of_what
        said = {store_schema.CERTIFIES: shape.certifies, store_schema.OF_WHAT: what}
        said = said if shape.own is None else {}
        return store_schema.results(self.bucket, self.variables, self.block, self.widths, said)

    @property
    def arrays(self) -> dict[str, ZarrArray]:
        """Every array of the bucket's group."""
        return {name: array for name, (array, _) in self.coordinates.items()} | self.results

    @property
    def points(self) -> int:
        """The number of points."""
        return math.prod(self.bucket.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all arrays before compression."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def files(self) -> int:
        """The number of files of the bucket's group, once it is complete."""
        metadata, manifests = 1 + len(self.arrays), len(self.tasks)
        return metadata + manifests + sum(array.files for array in self.arrays.values())

    @property
    def memory_per_task(self) -> int:
        """Bytes that one task takes at most: a batch being solved and the results of the task."""
        most = max(task.size for task in self.tasks)
        batch: int = self.program.forecast().bytes
        return batch + most * _point_bytes(self.layout.variables)


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole sweep, cut into tasks.

    Attributes
    ----------
    sweep : Sweep
    source : ModelSource
    options : SolveOptions
    buckets : tuple of BucketPlan
    seconds : float
        What planning took.
    """

    sweep: Sweep
    source: ModelSource
    options: SolveOptions
    buckets: tuple[BucketPlan, ...]
    seconds: float = 0.0

    @property
    def path(self) -> Path:
        """Where the store lies."""
        return Path(self.sweep.store.path).expanduser()

    @property
    def tol(self) -> float | None:
        """The certified error to reach; None: as good as the grid allows."""
        return self.options.tolerance(
            any(part.program.outline.shape.continuous for part in self.buckets)
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all buckets."""
        return tuple(task for part in self.buckets for task in part.tasks)

    @property
    def points(self) -> int:
        """The number of points."""
        return sum(part.points for part in self.buckets)

    @property
    def bytes(self) -> int:
        """Bytes of all arrays before compression."""
        return sum(part.bytes for part in self.buckets)

    @property
    def files(self) -> int:
        """The number of files of the store, once it is complete."""
        subgroups = any(part.bucket.group for part in self.buckets)
        return subgroups + sum(part.files for part in self.buckets)

    @property
    def memory_per_task(self) -> int:
        """Bytes that the largest task takes."""
        return max(part.memory_per_task for part in self.buckets)


def make_plan(sweep: Sweep, source: ModelSource, worker_count: WorkerCount | None = None) -> Plan:
    """Cut a sweep into tasks, without compiling or solving anything.

    Parameters
    ----------
    sweep : Sweep
    source : ModelSource
        The sweep's model.
    worker_count : WorkerCount, optional
        The workers, where they are known to be many. A store that exists keeps its own cut.

    Raises
    ------
    UsageError
        If the sweep asks for what the model does not have.
    ModelError
        If the model is wrong.
    """
    from dpsolve.sharding.batches.program import program
    from dpsolve.solvers.model.factory_signature import signature

    from .array_parameters import completed
    from .design import make_design

    began = time.perf_counter()
    factory = source.load()
    options = options_of(sweep)
    design: Design = make_design(sweep, signature(factory))
    parts: list[BucketPlan] = []
    first = 0
    worker_count = worker_count or WorkerCount()
    points = sum(math.prod(bucket.shape) for bucket in design.buckets)
    for number, bucket in enumerate(completed(design, factory).buckets):
        compiled = program(factory, bucket.sizes, options)
        part = _plan_bucket(
            number,
            first,
            bucket,
            compiled,
            sweep,
            worker_count.share(math.prod(bucket.shape), points),
        )
        parts.append(part)
        first += len(part.tasks)
    return Plan(sweep, source, options, tuple(parts), time.perf_counter() - began)


def _plan_bucket(
    number: int,
    first: int,
    bucket: Bucket,
    program: Program,
    sweep: Sweep,
    worker_count: WorkerCount,
) -> BucketPlan:
    layout = program.layout(bucket.fixed, bucket.parameters)
    if program.options.refine:  # what is wrong with it is told before there is a store
        one = bucket.points(np.array([0]))
        program.refinement.check({name: x[0] for name, x in one.items()})
    also = asked_for(sweep)
    if options_of(sweep).initial is not None and "distribution_path" in layout.variables:
        also = (*also, "distribution_path")  # over a finite horizon initial alone asks for it
    variables = layout.select(sweep.store.keep, also)
    points, size = sweep.store.points_per_task, math.prod(bucket.shape)
    if size == 1:
        variables.pop(START, None)  # there is nothing to start from
    if points is None:
        unit = _unit(program, size, worker_count)
        points = points_per_task(size, _point_bytes(variables), unit, worker_count)
        block = block_shape(bucket.shape, points, unit)
    else:
        block = block_shape(bucket.shape, points)
    tasks = tuple(cut(bucket.shape, block, number, first))
    part = BucketPlan(bucket, program, layout, variables, block, tasks)
    _ = part.coordinates  # names that clash are found now
    return part


def _unit(program: Program, points: int, worker_count: WorkerCount) -> int:
    """Return how many points a task should be a multiple of: a batch; a strand, in large sweeps.

    A strand that a task cuts short has fewer points that start from their neighbours. Few points
    for many workers are shared out all the same.
    """
    if not program.warm:
        return program.lanes
    places = max(1, worker_count.workers * worker_count.batches)
    if 2 * points >= 3 * STRAND * places:
        return max(program.lanes, STRAND)
    return max(program.lanes, min(STRAND, points // (TASKS_EACH * places)), 1)


def _point_bytes(variables: Mapping[str, Variable]) -> int:
    kept = sum(math.prod(v.shape) * item_bytes(v.dtype) for v in variables.values())
    return kept + sum(item_bytes(dtype) for dtype, _, _ in store_schema.RECORDS.values())
