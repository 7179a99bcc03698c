"""Meshes of devices, ``points=.., states=..``, and devices that are missing.

Two things can be cut. ``points``: each device solves its own parameter points. ``states``: the
devices of a group share one point, each with its part of the states. A mesh of
``points=4,states=2`` is four groups of two devices.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.inspection.limits import memory_of_a_device

POINTS, STATES = "points", "states"
AUTO = "auto"

# What decides which devices JAX sees, or tells which ones SLURM gave.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "JAX_PLATFORMS",
    "ROCR_VISIBLE_DEVICES",
    "XLA_FLAGS",
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
    "SLURM_GPUS_ON_NODE",
)


@dataclass(frozen=True)
class MeshShape:
    """How many ways points and states are cut.

    Attributes
    ----------
    points : int
        Groups of devices, each with points of its own.
    states : int
        Devices in a group, each with a part of the states.
    """

    points: int = 1
    states: int = 1

    def __post_init__(self) -> None:
        for name in (POINTS, STATES):
            n = getattr(self, name)
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise UsageError(
                    f"mesh: {name}={n!r}; it is a whole number of devices, at least 1: "
                    "points=4,states=2"
                )

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.points * self.states

    def __str__(self) -> str:
        return f"{POINTS}={self.points},{STATES}={self.states}"

    @classmethod
    def read(cls, given: MeshShape | str | Mapping[str, int] | None) -> MeshShape | None:
        """Read a mesh as a user writes it: ``"points=4,states=2"``, a dict, or ``"auto"`` (None).

        Raises
        ------
        UsageError
            If it is none of these, or names an axis that there is not.
        """
        if given is None or isinstance(given, MeshShape):
            return given
        if isinstance(given, str):
            if given.strip() == AUTO:
                return None
            given = _parts(given)
        if not isinstance(given, Mapping):
            raise UsageError(f"mesh={given!r} is no mesh; write points=4,states=2, or auto")
        for name in given:
            if name not in (POINTS, STATES):
                raise UsageError(
                    f"mesh: there is no axis '{name}'.{did_you_mean(name, (POINTS, STATES))} "
                    "Points and states can be cut: points=4,states=2"
                )
        return cls(**given)


ONE_DEVICE = MeshShape()


def _parts(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (x.strip() for x in part.partition("="))
        if not number.removeprefix("-").isdecimal():
            raise UsageError(
                f"mesh: '{part.strip()}' is no axis=number; write points=4,states=2, or auto"
            )
        if name in found:
            raise UsageError(f"mesh: {name} stands twice in '{text}'")
        found[name] = int(number)
    return found


def devices_seen() -> str:
    """Say which devices JAX sees, and what decides that."""
    devices = jax.devices()
    kinds: dict[str, int] = {}
    for device in devices:
        kind = f"{device.platform} ({device.device_kind})"
        kinds[kind] = kinds.get(kind, 0) + 1
    seen = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    if jax.process_count() > 1:
        seen += f" in {jax.process_count()} processes"
    settings = ", ".join(
        f"{name}={os.environ[name]!r}" if name in os.environ else f"{name} is not set"
        for name in VARIABLES
    )
    return f"JAX sees {seen}. What decides: {settings}"


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh of devices.

    Raises
    ------
    UsageError
        If there are fewer devices than the mesh asks for.
    """
    devices = list(jax.devices() if devices is None else devices)
    if len(devices) < shape.size:
        remedy = (
            f"On a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={shape.size} makes as many"
            if all(d.platform == "cpu" for d in devices)
            else "Ask the job for more GPUs, or for a smaller mesh"
        )
        raise UsageError(
            f"the mesh {shape} takes {shape.size} devices, and there are {len(devices)}. "
            f"{devices_seen()}. {remedy}."
        )
    chosen = np.array(devices[: shape.size], dtype=object).reshape(shape.points, shape.states)
    return Mesh(chosen, (POINTS, STATES), axis_types=(AxisType.Auto, AxisType.Auto))


def enough_devices(shape: MeshShape) -> bool:
    """Tell whether this process sees as many devices as a mesh takes."""
    return len(jax.devices()) >= shape.size


def check_mesh(given: str) -> None:
    """Refuse what is no mesh, or takes more devices than there are."""
    shape = MeshShape.read(given)
    if shape is not None:
        make_mesh(shape)


def device_memory() -> int:
    """Return the bytes that one device has: an accelerator's own, or a share of the machine's."""
    share = len(jax.local_devices()) if jax.local_devices()[0].platform == "cpu" else 1
    return memory_of_a_device() // share
