r"""A batch compiled in rounds: begin, advance all lanes by some sweeps, read off.

A device has a fixed number of *lanes*, each with one point, side by side under ``vmap``. A round
moves all lanes on by sweeps. Under one loop until the last lane is done, a single hard point would
hold its neighbours for as long as it takes; so a round ends when the lanes that are done have
waited for too long in sum (``patience``, in lane-sweeps: about what it costs to begin new points,
which makes the waste at most twice the least). The host then reads what is done and fills the
lanes again. A lane computes the same, to the last bit, whoever is beside it and however its sweeps
are cut into rounds.

On a mesh, one program runs on all devices (``jax.shard_map``): groups along ``points`` have lanes
of their own and run free of each other inside a round; devices along ``states`` have each a part of
the states of the group's points, and meet where the operator needs them to. What is carried from
round to round stays on its device: every array has a leading axis of devices.

Where starts are *warm*, the next point of a lane begins from what the lane found last
(:mod:`.warm_start`), which is at hand: nothing moves. Which points follow each other in a lane
is decided beforehand (:mod:`.solving_order`), so that timing decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec

from dpsolve.sharding.devices.mesh import POINTS, STATES
from dpsolve.solvers.compile_forecast import learn, tell_compiling
from dpsolve.solvers.methods.choose_operator import Operators
from dpsolve.solvers.methods.discounted import SolveState
from dpsolve.solvers.methods.loop import iterate
from dpsolve.solvers.methods.warm_start import LaneMemory, judge, reached, remembered
from dpsolve.solvers.model.factory_signature import build, signature
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.solve.gradients import gradients_of, read_point
from dpsolve.solvers.solve.point import begin_point

from .base import CompiledBatch, bytes_of, placed, put

LANES = "lanes"
log = logging.getLogger("dpsolve")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Carry:
    """What stays on the devices between rounds: arrays (devices, lanes, ...).

    Attributes
    ----------
    kept : pytree
        What the operators keep, rewards over states and choices in the main.
    run : SolveState
        The solves under way.
    lane_memory : LaneMemory or None
        What lanes remember of the points before, where starts are warm.
    """

    kept: Any
    run: Any  # SolveState, or AverageState
    lane_memory: LaneMemory | None


class Rounds(CompiledBatch):
    """One factory at one set of sizes, compiled to be run in rounds."""

    _advance: Any = None
    _read: Any = None

    # -- what runs on a device ------------------------------------------------------------------

    def _each(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Map over lanes; one lane alone is not mapped, which would only hide its structure."""
        if self.lanes > 1:
            return jax.vmap(f, axis_name=LANES)

        def alone(*args: Any) -> Any:
            return _stacked(f(*jax.tree.map(lambda x: x[0], args)))

        return alone

    def _waiting(self, running: Array) -> Array:
        """Return how many lanes are done."""
        idle = (~running).astype(jnp.int32)
        return lax.psum(idle, LANES) if self.lanes > 1 else idle

    def _any(self, fresh: Array) -> Array:
        """Tell whether any lane's point is new: one answer for all lanes, so that it can branch."""
        return lax.psum(fresh.astype(jnp.int32), LANES) > 0 if self.lanes > 1 else fresh

    def _begin(self, values: dict[str, Array]) -> Carry:
        """Begin a point in a lane without a past."""
        operators = Operators(build(self.factory, values, self.sizes), self.options, self.partition)
        kept, run, started = begin_point(operators, values)
        return Carry(kept, run, remembered(run, None, started) if self.warm else None)

    def _go_on(
        self, model: Any, values: dict[str, Array], fresh: Array, reach: Array, last: Carry
    ) -> Carry:
        """Begin the next point of a lane, from where the points before it led."""
        start = None
        if last.lane_memory is not None:
            start = reached(last.run, last.lane_memory, reach)
        operators = Operators(model, self.options, self.partition)
        kept, run, started = begin_point(operators, values, start, fresh)
        lane_memory = (
            None if last.lane_memory is None else remembered(last.run, last.lane_memory, started)
        )
        return Carry(kept, run, lane_memory)

    def _round(
        self,
        values: dict[str, Array],
        fresh: Array,
        reach: Array,
        carry: Carry,
        patience: Array,
        most: Array,
    ) -> tuple[Carry, Array]:
        carry = jax.tree.map(lambda x: x[0], carry)

        def lane(values: dict[str, Array], fresh: Array, reach: Array, carry: Carry) -> Carry:
            model = build(self.factory, values, self.sizes)

            def fill() -> Carry:
                begun = self._go_on(model, values, fresh, reach, carry)
                if self.lanes == 1:
                    return begun
                filled: Carry = jax.tree.map(
                    lambda new, old: jnp.where(fresh, new, old), begun, carry
                )
                return filled

            carry = lax.cond(self._any(fresh), fill, lambda: carry)
            operator = Operators(model, self.options, self.partition, carry.kept).loop

            def proceed(c: tuple[Any, Array, Array]) -> Array:
                (run, _), idle, k = c
                running: Array = run.running
                return running & (idle < patience) & (k < most)

            def sweep(c: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
                (run, lane_memory), idle, k = c
                moved = iterate(operator, self.options, run)
                if lane_memory is not None:
                    moved, lane_memory = judge(operator, moved, lane_memory)
                # A lane that is done is moved on beside the others, and what it finds is dropped.
                return (
                    (moved, lane_memory),
                    idle + self._waiting(run.running & moved.running),
                    k + 1,
                )

            zero = jnp.int32(0)
            moving = (carry.run, carry.lane_memory)
            (run, lane_memory), _, _ = lax.while_loop(proceed, sweep, (moving, zero, zero))
            return replace(carry, run=run, lane_memory=lane_memory)

        carry = self._each(lane)(values, fresh, reach, carry)
        return _stacked(carry), carry.run.running

    def _read_off(self, values: dict[str, Array], carry: Carry, done: Array) -> dict[str, Array]:
        carry = jax.tree.map(lambda x: x[0], carry)

        def lane(values: dict[str, Array], run: SolveState, done: Array) -> dict[str, Array]:
            model = build(self.factory, values, self.sizes)
            arrays = read_point(Operators(model, self.options, self.partition), run, done)
            return gradients_of(
                self.factory, self.sizes, self.options, values, arrays, self.partition
            )

        found: dict[str, Array] = self._each(lane)(values, carry.run, done)
        return found

    # -- the programs ---------------------------------------------------------------------------

    def _sharded(self, f: Callable[..., Any], given: Any, returned: Any) -> Callable[..., Any]:
        if self.shape.size == 1:
            return f
        return jax.shard_map(f, mesh=self.mesh, in_specs=given, out_specs=returned, check_vma=False)

    def compile(self) -> float:
        """Compile if need be; return the seconds it took when it did."""
        if self._advance is not None:
            return self.compile_seconds
        began = time.perf_counter()
        shown = ", ".join(f"{k}={v}" for k, v in self.sizes.items())
        log.info("compiling %s(%s)", signature(self.factory).name, shown)
        points, own = PartitionSpec(POINTS), PartitionSpec((POINTS, STATES))
        nowhere = PartitionSpec()
        values = self.values_spec((self.slots,), points)
        mask = self.spec((self.slots,), np.bool_, points)
        number = self.spec((), np.int32, nowhere)

        shapes = self._held()
        carry = jax.tree.map(lambda x: self.spec(x.shape, x.dtype, own), shapes)
        self._carry = carry
        given = (points, points, points, own, nowhere, nowhere)
        advance = self._sharded(self._round, given, (own, points))
        reach = self.spec((self.slots,), np.float64, points)
        advancing = jax.jit(advance, donate_argnums=3).trace(
            values, mask, reach, carry, number, number
        )
        read = self._sharded(
            self._read_off, (points, own, points), placed(self.dims, self.partition)
        )
        reading = jax.jit(read).trace(values, carry, mask)
        forecast = tell_compiling(signature(self.factory).name, advancing, reading)
        self._advance = advancing.lower().compile()
        self._read = reading.lower().compile()
        self.compile_seconds = time.perf_counter() - began
        learn(forecast, self.compile_seconds)
        return self.compile_seconds

    def _held(self) -> Carry:
        """Return the shapes of what stays on the devices between rounds."""
        if self.shape.size == 1 and self.lanes == self.outline.lanes:
            one = self._held_by_one()
            every: Carry = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((1, self.lanes, *x.shape), x.dtype), one
            )
            return every
        points, own = PartitionSpec(POINTS), PartitionSpec((POINTS, STATES))

        def begun(values: dict[str, Array]) -> Carry:
            made: Carry = _stacked(self._each(self._begin)(values))
            return made

        values = self.values_spec((self.slots,), points)
        shapes: Carry = jax.eval_shape(self._sharded(begun, (points,), own), values)
        return shapes

    def _held_by_one(self) -> Carry:
        """Return the shapes of what one lane holds, as the point's outline has them."""
        kept, run = self.outline.results.run
        lane_memory = None
        if self.warm:
            warm = jax.ShapeDtypeStruct((), bool)
            lane_memory = jax.eval_shape(lambda run, warm: remembered(run, None, warm), run, warm)
        return Carry(kept, run, lane_memory)

    @property
    def memory(self) -> int:
        """Bytes on one device, by the compiler's own account of a round."""
        self.compile()
        return bytes_of(self._advance)

    # -- running --------------------------------------------------------------------------------

    def empty(self) -> Carry:
        """Return a carry of lanes that are done."""
        self.compile()
        made: Carry = jax.tree.map(self._zeros, self._carry)
        return made

    def _zeros(self, spec: Any) -> Array:
        if spec.sharding is None:
            return jnp.zeros(spec.shape, spec.dtype)
        shape = spec.sharding.shard_shape(spec.shape)
        return jax.make_array_from_callback(
            spec.shape, spec.sharding, lambda _: np.zeros(shape, spec.dtype)
        )

    def _put(self, x: Any, where: PartitionSpec) -> Any:
        return put(x, self.mesh, self.shape, where)

    def advance(
        self,
        values: Mapping[str, Numpy],
        fresh: Numpy,
        carry: Carry,
        patience: int,
        most: int,
        reach: Numpy | None = None,
    ) -> tuple[Carry, Array]:
        """Run one round.

        Parameters
        ----------
        values : dict of str to float array (slots, ...)
            Parameters of the point in each lane.
        fresh : bool array (slots,)
            Lanes whose point is new.
        carry : Carry
            Of the last round; it is used up.
        patience : int
            Lane-sweeps that lanes may be idle for, in sum.
        most : int
            Sweeps at most.
        reach : float array (slots,), optional
            Where starts are warm: how far a new point lies from the one that its lane solved
            before (see :func:`~.warm_start.reached`); NaN starts cold, as all do by default.

        Returns
        -------
        carry : Carry
        running : bool array (slots,)
            Lanes that are not done.
        """
        self.compile()
        points, nowhere = PartitionSpec(POINTS), PartitionSpec()
        carry, running = self._advance(
            {k: self._put(values[k], points) for k in self.parameters},
            self._put(fresh, points),
            self._put(np.full(self.slots, np.nan) if reach is None else reach, points),
            carry,
            self._put(np.int32(patience), nowhere),
            self._put(np.int32(most), nowhere),
        )
        return carry, running

    def warmed(self, carry: Carry) -> Numpy:
        """Tell which lanes' points began from another's value: bool array (slots,)."""
        if carry.lane_memory is None:
            return np.zeros(self.slots, bool)
        found = np.asarray(carry.lane_memory.warm)  # (devices, lanes)
        return np.asarray(found[:: self.shape.states].reshape(self.slots))

    def read(self, values: Mapping[str, Numpy], carry: Carry, done: Numpy) -> dict[str, Array]:
        """Return every array (slots, ...) of lanes that are `done`; others' are not worked out."""
        points = PartitionSpec(POINTS)
        found: dict[str, Array] = self._read(
            {k: self._put(values[k], points) for k in self.parameters},
            carry,
            self._put(done, points),
        )
        return found


def _stacked(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
