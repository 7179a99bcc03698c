"""Blocks of simulated agents over the devices: agents on nodes, and agents between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from dpsolve.sharding.devices.threads import in_order
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.simulation.agents import panel
from dpsolve.solvers.simulation.between_nodes import Point, Start, panel_program
from dpsolve.solvers.simulation.streams import Keys
from dpsolve.solvers.simulation.tables import PolicyTables
from dpsolve.solvers.solution import Problem


@dataclass(frozen=True)
class OnNodes:
    """Agents that move from node to node, by tables of a policy on grid points.

    Attributes
    ----------
    tables : PolicyTables
    start : array (states,)
        Cumulative masses of the initial distribution.
    key : two words
    periods, burn : int
        Periods recorded, and before these.
    by_period : bool
        Whether there is a horizon.
    """

    tables: PolicyTables
    start: Numpy
    key: Keys
    periods: int
    burn: int
    by_period: bool

    @property
    def placed(self) -> Any:
        """What a device needs."""
        return self.tables, self.start

    def follow(self, placed: Any, first: np.uint32, agents: int) -> Mapping[str, Any]:
        """Record the variables (periods, agents) of some agents."""
        tables, start = placed
        found: Mapping[str, Any] = panel(
            tables, start, self.key, first, agents=agents, periods=self.periods, burn=self.burn,
            by_period=self.by_period,
        )  # fmt: skip
        return found

    @property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """What each variable is recorded in."""
        return {name: np.asarray(x.array).dtype for name, x in self.tables.values.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one agent's variables in one period."""
        return sum(kind.itemsize for kind in self.dtypes.values())


@dataclass(frozen=True)
class BetweenNodes:
    """Agents whose continuous states have values of their own, by the policy itself.

    Attributes
    ----------
    problem : Problem
        Of the solution.
    point : Point
        What they follow.
    start : Start
        Where they begin.
    key : two words
    variables : tuple of str
        What is recorded.
    periods, burn : int
        Periods recorded, and before these.
    """

    problem: Problem
    point: Point
    start: Start
    key: Keys
    variables: tuple[str, ...]
    periods: int
    burn: int

    @property
    def placed(self) -> Any:
        """What a device needs."""
        return self.point, self.start

    def follow(self, placed: Any, first: np.uint32, agents: int) -> Mapping[str, Any]:
        """Record the variables (periods, agents) of some agents."""
        program = panel_program(self.problem, self.variables, agents, self.periods, self.burn)
        found: Mapping[str, Any] = program(*placed, self.key, first)
        return found

    @property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """What each variable is recorded in."""
        program = panel_program(self.problem, self.variables, 1, 1)
        shapes = jax.eval_shape(program, *self.placed, self.key, np.uint32(0))
        return {name: shapes[name].dtype for name in self.variables}

    @property
    def row_bytes(self) -> int:
        """Bytes of one agent's variables in one period."""
        return sum(kind.itemsize for kind in self.dtypes.values())


def blocks_of(
    crowd: OnNodes | BetweenNodes, agents: int, block: int
) -> Iterator[tuple[int, dict[str, Numpy]]]:
    """Yield each block's first agent and its arrays (periods, agents), in order."""
    on = cache(partial(jax.device_put, crowd.placed))

    def compute(first: int, device: Any) -> tuple[int, dict[str, Numpy]]:
        found = crowd.follow(on(device), np.uint32(first), block)
        stop = min(agents - first, block)
        return first, {name: np.asarray(x)[:, :stop] for name, x in found.items()}

    yield from in_order(compute, range(0, agents, block))
