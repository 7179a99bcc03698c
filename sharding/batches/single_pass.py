"""A batch in one pass, for what does not iterate.

For what does not iterate (finite horizons, a factory's own arrays), and for a model so large that
a device solves one point at a time: what :mod:`.rounds` gains by refilling lanes is nothing there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, overload

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from dpsolve.sharding.devices.mesh import POINTS
from dpsolve.solvers.compile_forecast import learn, tell_compiling
from dpsolve.solvers.inspection.forecast import calls_pool
from dpsolve.solvers.model.factory_signature import signature
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.solve.gradients import point_with_gradients

from .base import CompiledBatch, bytes_of, placed, put


class SinglePass(CompiledBatch):
    """One factory at its sizes, compiled to solve a batch in one go.

    Attributes
    ----------
    pooled : bool
        Whether it calls LAPACK for a batch: two of them side by side could hang on a CPU.
    proved : bool
        That all of its points, which choose continuously, are concave: then that is not tested.
    """

    _compiled: Any = None
    pooled = False
    proved = False

    def _point(self, values: Mapping[str, Any]) -> dict[str, Array]:
        return point_with_gradients(
            self.factory, self.sizes, self.options, values, self.partition, self.proved
        )

    def compile(self) -> float:
        """Compile if need be; return the seconds it took when it did."""
        if self._compiled is not None:
            return self.compile_seconds
        began = time.perf_counter()
        alone = self.slots == 1
        run = self._point if alone else jax.vmap(self._point, axis_size=self.lanes)
        points = PartitionSpec() if alone else PartitionSpec(POINTS)
        if self.shape.size > 1:
            out = placed(self.dims, self.partition, lanes=not alone)
            run = jax.shard_map(
                run, mesh=self.mesh, in_specs=(points,), out_specs=out, check_vma=False
            )
        traced = jax.jit(run).trace(self.values_spec(() if alone else (self.slots,), points))
        self.pooled = calls_pool(traced.jaxpr.jaxpr)
        forecast = tell_compiling(signature(self.factory).name, traced)
        self._compiled = traced.lower().compile()
        self.compile_seconds = time.perf_counter() - began
        learn(forecast, self.compile_seconds)
        return self.compile_seconds

    @property
    def memory(self) -> int:
        """Bytes on one device, by the compiler's own account."""
        self.compile()
        return bytes_of(self._compiled)

    @overload
    def solve(self, values: Mapping[str, Numpy]) -> dict[str, AnyArray]: ...

    @overload
    def solve(
        self, values: Mapping[str, Numpy], *, keep_axis: Literal[False]
    ) -> dict[str, Array]: ...

    def solve(
        self, values: Mapping[str, Numpy], *, keep_axis: bool = True
    ) -> dict[str, AnyArray] | dict[str, Array]:
        """Solve a batch.

        Parameters
        ----------
        values : dict of str to float array (slots, ...)
            Parameters of the point in each lane; NaN where there is none.
        keep_axis : bool
            Whether a single lane keeps its axis.

        Returns
        -------
        dict of str to array (slots, ...)
        """
        self.compile()
        if self.slots == 1:
            nowhere = PartitionSpec()
            found: dict[str, Array] = self._compiled(
                {k: put(values[k][0], self.mesh, self.shape, nowhere) for k in self.parameters}
            )
            if not keep_axis:
                return found
            fetched: dict[str, AnyArray] = {k: np.asarray(x)[None] for k, x in found.items()}
            return fetched
        points = PartitionSpec(POINTS)
        out: dict[str, Array] = self._compiled(
            {k: put(values[k], self.mesh, self.shape, points) for k in self.parameters}
        )
        return out
