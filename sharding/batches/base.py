"""What both kinds of compiled batch have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpsolve.sharding.devices.mesh import POINTS, STATES, MeshShape, make_mesh
from dpsolve.solvers.model.factory_signature import Factory, abstract, signature
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.options import SolveOptions

from .outline import outline


class CompiledBatch:
    """One factory at one set of sizes, for batches of a fixed number of lanes.

    Parameters
    ----------
    factory, sizes, options
        What to solve; the options of a whole batch.
    lanes : int
        Points side by side on a device (or a group of devices along ``states``).
    shape : MeshShape
        How points and states are cut.
    partition : Partition or None
        The state whose axis is cut.

    Attributes
    ----------
    warm : bool
        Whether a lane's next point may start from what was found at the one before.
    """

    warm: bool = False

    def __init__(
        self,
        factory: Factory,
        sizes: Mapping[str, Any],
        options: SolveOptions,
        lanes: int,
        shape: MeshShape,
        partition: Partition | None,
    ) -> None:
        self.factory, self.sizes = factory, dict(sizes)
        # Lanes share the memory that the options grant.
        self.options = replace(options, memory=max(1, options.memory // lanes))
        self.lanes, self.shape, self.partition = lanes, shape, partition
        self.mesh = make_mesh(shape)
        self.outline = outline(factory, self.sizes, options)
        results = self.outline.results
        self.dims = {name: results.dims.get(name, ()) for name in results.shapes}
        self.parameters = tuple(signature(factory).parameters)
        self._abstract = abstract(factory, self.sizes)
        self.slots = lanes * shape.points
        self.compile_seconds = 0.0

    def values_spec(self, lead: tuple[int, ...], where: PartitionSpec) -> dict[str, Any]:
        """Return the parameters (lead..., shape...) without values, and where they lie."""
        return {k: self.spec((*lead, *x.shape), x.dtype, where) for k, x in self._abstract.items()}

    def spec(self, shape: tuple[int, ...], dtype: Any, where: PartitionSpec) -> Any:
        """Return an array without values, and where it lies on the mesh."""
        sharding = NamedSharding(self.mesh, where) if self.shape.size > 1 else None
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def placed(
    dims: Mapping[str, tuple[str, ...]], partition: Partition | None, lanes: bool = True
) -> dict[str, PartitionSpec]:
    """Return along which mesh axes every array lies, given its dimensions; lanes come first."""
    first = (POINTS,) if lanes else ()

    def place(name: str) -> PartitionSpec:
        if partition is None or name.startswith("grid_"):
            return PartitionSpec(*first)
        return PartitionSpec(
            *first, *(STATES if d == partition.state else None for d in dims[name])
        )

    return {name: place(name) for name in dims}


def trimmed(
    name: str, x: AnyArray, dims: tuple[str, ...], partition: Partition | None, first: int = 1
) -> AnyArray:
    """Drop the copies that made parts equal.

    Of an array (..., dims...) the axis of the state that is cut gets its own length again; `first`
    axes come before the array's own.
    """
    if partition is None or name.startswith("grid_") or partition.state not in dims:
        return x
    if partition.size % partition.parts == 0:
        return x
    keep = slice(0, partition.size)
    return np.asarray(x)[(slice(None),) * (first + dims.index(partition.state)) + (keep,)]


def put(x: Numpy, mesh: Mesh, shape: MeshShape, where: PartitionSpec) -> AnyArray:
    """Put an array (...) onto the devices of a mesh; each process puts what its devices hold."""
    if shape.size == 1:
        return x
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, where), lambda at: x[at])


def bytes_of(compiled: Any) -> int:
    """Return the bytes that a compiled program takes on a device."""
    found = compiled.memory_analysis()
    return int(
        found.temp_size_in_bytes
        + found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
    )
