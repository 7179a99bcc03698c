"""Bytes of a point on a device, and the mesh on which it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.inspection.forecast import Footprint
from dpsolve.solvers.inspection.limits import nearest
from dpsolve.solvers.model.factory_signature import Factory, look_over, signature
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.solve.result_dims import ModelShape, shape_of

from .mesh import STATES, MeshShape, device_memory

MOST_DEVICES = 4096  # along `states`


def iterates(factory: Factory, sizes: Mapping[str, Any]) -> bool:
    """Tell whether a factory's model is solved by iterating."""
    return look_over(factory, sizes, shape_of).iterates


def make_partition(factory: Factory, sizes: Mapping[str, Any], mesh: MeshShape) -> Partition | None:
    """Choose the state of a factory's model whose axis is cut; see :func:`partition_of`."""
    if mesh.states == 1:
        return None
    return partition_of(look_over(factory, sizes, shape_of), signature(factory).name, mesh)


def partition_of(model: ModelShape, name: str, mesh: MeshShape) -> Partition | None:
    """Choose the state whose axis is cut: the longest of those that follow a rule, else a chain.

    Raises
    ------
    UsageError
        If there is nothing to cut, or less than there are devices.
    """
    if mesh.states == 1:
        return None
    if model.own is not None:
        raise UsageError(
            f"mesh {mesh}: {name} returns arrays of its own and has no states to cut; cut its "
            f"points: points={mesh.size}"
        )
    if model.continuous:
        raise UsageError(
            f"mesh {mesh}: {name} has a continuous choice, '{model.continuous[0]}' (dp.interval), "
            "and is solved on one device, for there are no pairs whose states could be cut; leave "
            f"mesh out, or cut points: points={mesh.size}"
        )
    lengths = {n: size for n, size in model.states.items() if n not in model.chains}
    lengths = lengths or dict(model.states)
    state = max(lengths, key=lambda n: lengths[n])
    if lengths[state] < mesh.states:
        raise UsageError(
            f"mesh {mesh}: the longest axis of {name}, {state}, has {lengths[state]} members, "
            f"fewer than {mesh.states} devices; take states={lengths[state]} or fewer"
        )
    return Partition(state, lengths[state], mesh.states, STATES)


def bytes_on_device(size: Footprint, mesh: MeshShape) -> int:
    """Forecast what one point takes on a device: its part, and others' where it looks them up."""
    if mesh.states == 1:
        return size.bytes
    return -(-size.bytes // mesh.states) + 8 * size.states


def check_fits(
    size: Footprint, mesh: MeshShape, states_of: Mapping[str, int] | None = None
) -> None:
    """Refuse a model of which one point does not fit into a device's memory.

    Parameters
    ----------
    size : Footprint
    mesh : MeshShape
    states_of : dict of str to int, optional
        Sizes of the states.

    Raises
    ------
    UsageError
        With the smallest number of devices along `states` that would do, and the nearest size.
    """
    has = device_memory()
    needs = bytes_on_device(size, mesh)
    if needs <= has:
        return
    shown = f"one point takes {needs / 2**30:.1f} GiB on a device, which has {has / 2**30:.1f} GiB"
    remedy = f"lower memory= or the sizes. {nearest(states_of, has / needs) if states_of else ''}"
    # A factory's own arrays count as one state: there is nothing to cut.
    most = 1 if size.whole else min(size.states, MOST_DEVICES)
    for states in range(mesh.states + 1, most + 1):
        if bytes_on_device(size, MeshShape(1, states)) <= has:
            raise UsageError(
                f"{shown}. The smallest mesh that would do is states={states}: cut the states over "
                f"{states} devices, or {remedy}".rstrip(". ")
            )
    raise UsageError(f"{shown}, and no mesh would do; {remedy}".rstrip(". "))


def automatic(size: Footprint, lanes: int, points: int, devices: int) -> MeshShape:
    """Choose a mesh: as few devices to a point as it fits on, and no group without points.

    On a CPU one group does: its batches run side by side on all cores.

    Parameters
    ----------
    size : Footprint
        Of one point.
    lanes : int
        Points that a group solves side by side.
    points : int
        Points in all.
    devices : int
        That there are.
    """
    states = fewest_devices(size, devices)
    if jax.local_devices()[0].platform == "cpu":
        return MeshShape(1, states)
    return MeshShape(min(devices // states, max(1, -(-points // lanes))), states)


def fewest_devices(size: Footprint, devices: int) -> int:
    """Return the fewest devices along `states` that one point fits on, of those there are."""
    if size.whole:
        return 1
    has = device_memory()
    fits = (n for n in range(1, devices + 1) if bytes_on_device(size, MeshShape(1, n)) <= has)
    return next(fits, devices)
