"""GPUs of a worker: which it was given, their memory, whether it sees them.

A worker that was given a GPU and computes on a CPU is a hundred times slower and says nothing, so
each one is asked what it sees before it gets its first task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dpsolve.solvers.errors import DeviceError


def share_of_gpus(environment: Mapping[str, str], worker: int, workers: int) -> str | None:
    """Return ``CUDA_VISIBLE_DEVICES`` for one of a job's workers; None if nothing is to change.

    SLURM names a job's GPUs in that variable. Workers share them in order: of four GPUs and two
    workers the second one gets the last two.
    """
    given = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if workers == 1 or not given:
        return None
    each = len(given) // workers
    return ",".join(given[worker * each : (worker + 1) * each])


def gpu_environment(environment: Mapping[str, str], gpus: int) -> dict[str, str]:
    """Return the variables that JAX needs before it starts, but for those that are set already.

    A worker has its GPUs to itself, so JAX may take nearly all of their memory at once, which
    avoids fragmentation; the rest is for the CUDA libraries.
    """
    if not gpus:
        return {}
    wanted = {"XLA_PYTHON_CLIENT_PREALLOCATE": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.90"}
    return {name: value for name, value in wanted.items() if name not in environment}


def check_devices(gpus: int) -> str:
    """Return what this process computes on, in words.

    Parameters
    ----------
    gpus : int
        How many GPUs it was given; 0 if none was asked for.

    Raises
    ------
    DeviceError
        If it does not see that many.
    """
    import jax

    devices = jax.local_devices()
    kinds = [device.device_kind for device in devices]
    seen = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    if not gpus:
        return seen
    if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu":
        given = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        if len(given) != gpus:
            raise DeviceError(_explained(gpus, seen))
        return f"{seen} (JAX_PLATFORMS=cpu: {gpus} GPUs are left alone)"
    if devices[0].platform == "cpu" or len(devices) != gpus:
        raise DeviceError(_explained(gpus, seen))
    return seen


def _explained(gpus: int, seen: str) -> str:
    from dpsolve.sharding.devices.mesh import VARIABLES

    set_ = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    unset = [name for name in VARIABLES[:2] if name not in set_]
    lines = [f"{name}={value}" for name, value in set_.items()] + [f"{n} is unset" for n in unset]
    return (
        f"this worker was given {gpus} GPU{'s' * (gpus > 1)}, and JAX sees: {seen}. What decides "
        f"it: {'; '.join(lines)}. If CUDA_VISIBLE_DEVICES is unset, SLURM gave none: check gpus "
        "and gpu_request in the profile. If it is set, JAX cannot use them: pip install "
        "'dpsolve[cuda12]' in the environment that the jobs use, and load no other CUDA."
    )
