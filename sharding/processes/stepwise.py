"""One model solved sweep by sweep, so that it can be left and resumed.

The solve is that of :class:`.Rounds` with one lane. Between two calls all that it remembers is a
value over the states, the policy of the last sweep and some numbers (:meth:`Stepwise.parts`); given
them back, on the same mesh, it goes on to the same bits, and on another one to the same answer
within its bounds. Every process has the parts of its own devices, and sees no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from dpsolve.sharding.batches.rounds import Rounds
from dpsolve.sharding.batches.single_pass import SinglePass
from dpsolve.sharding.devices.fit import iterates, make_partition
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.model.factory_signature import Factory
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.options import SolveOptions

UNTIL_DONE = 2**30
NOT_KEPT = ("tv",)  # the next sweep makes it


@dataclass(frozen=True)
class StateBlock:
    """A device's part of the states, copies of the last member of the cut axis included.

    Attributes
    ----------
    number, parts : int
        Of the device along the axis of states, and how many devices there are.
    axis : int
        The axis of the states that is cut.
    first, width : int
        Its members' positions along that axis.
    size : int
        Members that the whole axis has; what lies beyond are copies of the last one.
    """

    number: int
    parts: int
    axis: int
    first: int
    width: int
    size: int

    @property
    def members(self) -> int:
        """How many members are its own, and no copies."""
        return max(0, min(self.width, self.size - self.first))


@dataclass(frozen=True)
class DeviceState:
    """What one device remembers of a solve under way.

    Attributes
    ----------
    box : StateBlock
    arrays : dict of str to array (states...)
        Over the box's states.
    numbers : dict of str to number
        The same on all devices.
    """

    box: StateBlock
    arrays: dict[str, Numpy]
    numbers: dict[str, Any]


@dataclass(frozen=True)
class ResultBlock:
    """A part of a result, copies dropped; `box` is None for what is not cut."""

    box: StateBlock | None
    values: Numpy


class Stepwise:
    """One model at one parameter point, on a mesh.

    Parameters
    ----------
    factory, sizes, options
        What to solve.
    values : mapping of str to float or array
        Every economic parameter.
    shape : MeshShape
        All devices of all processes.
    """

    def __init__(
        self,
        factory: Factory,
        sizes: Mapping[str, Any],
        options: SolveOptions,
        values: Mapping[str, Any],
        shape: MeshShape,
    ) -> None:
        self.partition = make_partition(factory, sizes, shape)
        # What is remembered has all states, so that a solve can be taken up on another mesh.
        options = replace(options, cycles=False)
        self._rounds = Rounds(factory, sizes, options, 1, shape, self.partition)
        self.dims = self._rounds.dims
        self._columns = {k: np.asarray(v, np.float64)[None] for k, v in values.items()}
        try:  # whole as it may be here, what is remembered may be taken up by several devices
            partition = self.partition or make_partition(factory, sizes, MeshShape(states=2))
        except UsageError:
            partition = None
        self.axis = self.dims["value"].index(partition.state) if partition is not None else 0
        self._carry: Any = None
        self.running = True

    @property
    def sweeps(self) -> int:
        """Sweeps made."""
        return int(_own(self._carry.run.sweeps).ravel()[0])

    @property
    def error(self) -> float:
        """The smallest certified error so far."""
        return float(_own(self._carry.run.state.best).ravel()[0])

    def compile(self) -> float:
        """Compile if need be; return the seconds it took when it did."""
        return self._rounds.compile()

    def begin(self) -> None:
        """Look the model over; no sweep is made."""
        self._go(True, self._rounds.empty(), 0)

    def advance(self, sweeps: int) -> float:
        """Make so many sweeps, or fewer if the solve ends; return the seconds they took."""
        began = time.perf_counter()
        self._go(False, self._carry, sweeps)
        return time.perf_counter() - began

    def _go(self, fresh: bool, carry: Any, most: int) -> None:
        mask = np.full(1, fresh)
        self._carry, running = self._rounds.advance(self._columns, mask, carry, UNTIL_DONE, most)
        self.running = bool(_own(running).all())  # what waits here is the whole round

    def results(self) -> dict[str, Array]:
        """Return every array of the result, (1, ...): with an axis of one point first."""
        return self._rounds.read(self._columns, self._carry, np.full(1, True))

    # -- to be left and taken up again ----------------------------------------------------------

    def boxes(self) -> list[StateBlock]:
        """Return the parts of this process's devices."""
        spread = self._carry.run.state.v
        return [self._box(shard.index, spread) for shard in spread.addressable_shards]

    def parts(self) -> Iterator[DeviceState]:
        """Yield what this process's devices remember, one copied to the host after the other."""
        leaves, spread = self._leaves(), self._carry.run.state.v
        for i, shard in enumerate(spread.addressable_shards):
            arrays, numbers = {}, {}
            for name, leaf in leaves.items():
                own = np.asarray(leaf.addressable_shards[i].data)[0, 0]
                if own.ndim:
                    arrays[name] = own
                else:
                    numbers[name] = own.item()
            yield DeviceState(self._box(shard.index, spread), arrays, numbers)

    def restore(self, parts: Sequence[DeviceState]) -> None:
        """Go on from what was remembered: a part for each of :meth:`boxes`, after :meth:`begin`."""
        by_number = {part.box.number: part for part in parts}
        leaves, spread = self._leaves(), self._carry.run.state.v

        def place(name: str, leaf: Array) -> Array:
            def own(at: tuple[slice, ...] | None) -> Numpy:
                assert at is not None
                part = by_number[self._box(at, spread).number]
                held = part.arrays[name] if name in part.arrays else part.numbers[name]
                return np.asarray(held, leaf.dtype)[None, None]

            return jax.make_array_from_callback(leaf.shape, leaf.sharding, own)

        state = self._carry.run.state
        found = {name: place(name, leaf) for name, leaf in leaves.items()}
        whole = jax.tree_util.tree_map_with_path(
            lambda path, leaf: found.get(_name(path), leaf), state
        )
        self._carry = replace(self._carry, run=replace(self._carry.run, state=whole))
        self.running = True

    def _leaves(self) -> dict[str, Array]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(self._carry.run.state)
        named = {_name(path): leaf for path, leaf in leaves}
        return {name: leaf for name, leaf in named.items() if name not in NOT_KEPT}

    def _box(self, at: tuple[slice, ...], spread: Array) -> StateBlock:
        number = at[0].start or 0
        width = int(spread.shape[2 + self.axis])
        parts, size = (
            (self.partition.parts, self.partition.size)
            if self.partition is not None
            else (1, width)
        )
        return StateBlock(number, parts, self.axis, number * width, width, size)


class SinglePassSolve:
    """A finite horizon on a mesh: solved in one go, with nothing to take up again."""

    running = True

    def __init__(
        self,
        factory: Factory,
        sizes: Mapping[str, Any],
        options: SolveOptions,
        values: Mapping[str, Any],
        shape: MeshShape,
    ) -> None:
        self.partition = make_partition(factory, sizes, shape)
        self._whole = SinglePass(factory, sizes, options, 1, shape, self.partition)
        self.dims = self._whole.dims
        self._columns = {k: np.asarray(v, np.float64)[None] for k, v in values.items()}

    def compile(self) -> float:
        """Compile if need be; return the seconds it took when it did."""
        return self._whole.compile()

    def results(self) -> dict[str, Array]:
        """Return every array of the result, without an axis of points."""
        return self._whole.solve(self._columns, keep_axis=False)


def stepwise(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    shape: MeshShape,
) -> Stepwise | SinglePassSolve:
    """Return the way to solve a model: sweep by sweep, or in one go over a finite horizon.

    Raises
    ------
    UsageError
        If the mesh cuts points, of which there is one, or states that the model does not have.
    """
    if shape.points > 1:
        raise UsageError(
            f"mesh {shape}: one model is one point, and there is nothing to cut along points; take "
            f"states={shape.size}"
        )
    kind = Stepwise if iterates(factory, sizes) else SinglePassSolve
    return kind(factory, sizes, options, values, shape)


def pieces(
    name: str, x: Array, dims: tuple[str, ...], partition: Partition | None, *, every: bool
) -> Iterator[ResultBlock]:
    """Yield the parts of a result that are to be written by this process.

    Parameters
    ----------
    name : str
    x : array (dims...), or (1, dims...)
        With or without an axis of one point first.
    dims : tuple of str
        Its own dimensions.
    partition : Partition or None
    every : bool
        Whether this process writes what is not cut, too: one of them does.
    """
    lead = x.ndim - len(dims)
    if partition is None or partition.state not in dims or name.startswith("grid_"):
        if every:
            yield ResultBlock(None, _own(x).reshape(x.shape[lead:]))
        return
    axis = dims.index(partition.state)
    for shard in x.addressable_shards:
        number = (shard.index[lead + axis].start or 0) // partition.width
        box = StateBlock(
            number, partition.parts, axis, number * partition.width, partition.width, partition.size
        )
        if shard.replica_id == 0 and box.members:
            own = np.asarray(shard.data).reshape(shard.data.shape[lead:])
            yield ResultBlock(box, own[(slice(None),) * axis + (slice(0, box.members),)])


def numbers(found: Mapping[str, Array]) -> dict[str, Numpy]:
    """Return what is whole on every device: numbers, and grids."""
    whole = {k: x for k, x in found.items() if x.is_fully_replicated}
    return {k: _own(x) for k, x in whole.items()}


def _own(x: Array) -> Numpy:
    """Return what this process's first device has."""
    return np.asarray(x.addressable_shards[0].data)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path).lstrip(".")
