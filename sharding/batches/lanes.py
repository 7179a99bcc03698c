"""Lanes: how many points a device solves side by side, by memory.

Never by the number of points: so a program is compiled once whatever is asked of it.
"""

from __future__ import annotations

import jax
import numpy as np

from dpsolve.sharding.devices.mesh import device_memory
from dpsolve.solvers.inspection.forecast import Footprint

# Bytes of state-choice arrays that the lanes of a batch take together. On a CPU they should stay
# in cache; on an accelerator they should fill it.
CPU_BYTES = 2 * 2**20
ACCELERATOR_SHARE = 1 / 8
MOST_LANES = 4096


def lanes_of(size: Footprint) -> int:
    """Return how many points a device solves side by side, where it has whole points."""
    return 1 if hangs_beside_others(size) else fitting_lanes(size.bytes)


def hangs_beside_others(size: Footprint) -> bool:
    """Tell whether points must not share a batch on this process's devices."""
    return size.alone and jax.local_devices()[0].platform == "cpu"


def fitting_lanes(size: int) -> int:
    """Choose how many points are solved side by side: a power of two."""
    budget = CPU_BYTES
    if jax.local_devices()[0].platform != "cpu":
        budget = int(device_memory() * ACCELERATOR_SHARE)
    fits = max(1, budget // max(1, size))
    return int(min(MOST_LANES, 2 ** int(np.log2(fits))))
