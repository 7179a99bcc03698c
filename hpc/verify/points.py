"""Points of a store's task, or of a solution, with what names and what builds each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import point_label, point_parameters
from dpsolve.hpc.store.damage import Block
from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.model.array_factory import rebuild
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.solution import Solution

from . import audit
from .distributions import Asked
from .stored_point import Stored

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task
    from dpsolve.hpc.store.buckets import StoredBucket
    from dpsolve.hpc.store.store import Store


@dataclass(frozen=True)
class Points:
    """Some points that are looked at together, and how to name and to build one by its number."""

    block: Block
    parameters: Callable[[int], dict[str, Any]]
    model: Callable[..., Any]
    options: SolveOptions
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def label(self, i: int) -> str:
        """Name a point by its parameters."""
        return point_label(self.parameters(i))

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which points have no result."""
        if "status" not in self.block:
            return np.zeros(0, dtype=bool)
        return np.asarray(self.block["status"] == "failed")

    def stored(self, i: int) -> Stored:
        """Return what is stored of a point."""
        own = {k: v[i] for k, v in self.block.items() if k not in audit.RECORDS}
        bound = float(self.block["error_bound"][i]) if "error_bound" in self.block else math.nan
        initial = self.options.initial
        asked = Asked(None if initial is None else dict(initial))
        return Stored({**self.coords, **own}, bound, asked, self._finer(i))

    def _finer(self, i: int) -> Callable[[], Any] | None:
        """Return what builds the model on the grid that was solved on, if less of it is kept."""
        names = self.options.refine
        keys = ["refined_size"] if len(names) == 1 else [f"refined_size_{n}" for n in names]
        found = {n: int(self.block[k][i]) for n, k in zip(names, keys, strict=True)
                 if k in self.block}  # fmt: skip
        if all(self.sizes.get(n) == size for n, size in found.items()):
            return None
        return lambda: self.model(i, found)

    def faults(self) -> Iterator[tuple[NDArray[np.bool_], str]]:
        """Compare the records of the points with each other."""
        certified = self.certified()
        tol = self.options.tolerance(certified and "certifies" in self.block)
        return audit.record_faults(self.block, tol, certified, self.options.distribution_tol)

    def certified(self) -> bool:
        """Tell whether error bounds are claimed: not for a factory that returns its own arrays."""
        try:
            return isinstance(self.model(0), Model | TabularModel)
        except ModelError:
            return True


def of_task(
    store: Store,
    bucket: StoredBucket,
    task: Task,
    block: Block,
    coordinates: Mapping[str, NDArray[Any]],
) -> Points:
    """Return the points of a task."""
    part = bucket.bucket
    swept = {*part.axes, *part.parameters, *part.own}

    def model(i: int, sizes: Mapping[str, Any] = MappingProxyType({})) -> Any:
        values = part.points(np.array([task.start + i]))
        given = {name: value[0] for name, value in values.items()}
        return rebuild(store.source.load(), given, {**part.sizes, **sizes})

    return Points(
        block=block,
        parameters=lambda i: point_parameters(part, task.start + i),
        model=model,
        sizes=part.sizes,
        options=store.options,
        coords={name: values for name, values in coordinates.items() if name not in swept},
    )


def of_solution(solution: Solution) -> Points:
    """Return the points of a solution, of which there may be one."""
    problem = solution.problem
    count = np.size(solution.status)
    block = {name: np.asarray(x) for name, x in solution.arrays.items()}
    if not problem.batched:
        block = {name: x[None] for name, x in block.items()}
    block["status"] = np.asarray(solution.status, dtype=object).reshape(count)
    if solution.messages is not None:
        block["message"] = np.asarray(solution.messages, dtype=object).reshape(count)
    values = {k: np.asarray(v) for k, v in solution.parameters.items()}
    if not problem.batched:
        values = {name: x[None] for name, x in values.items()}

    def parameters(i: int) -> dict[str, Any]:
        return {name: x[i] if x.ndim > 1 else float(x[i]) for name, x in values.items()}

    def model(i: int, sizes: Mapping[str, Any] = MappingProxyType({})) -> Any:
        if problem.factory is None:
            return problem.model
        return rebuild(problem.factory, parameters(i), {**dict(problem.sizes), **sizes})

    return Points(block, parameters, model, problem.options, sizes=dict(problem.sizes))
