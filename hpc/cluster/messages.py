"""Messages from a driver to its workers: the run, then task by task."""

from __future__ import annotations

from dataclasses import dataclass

from dpsolve.hpc.run.executor import AUTO


@dataclass(frozen=True)
class RunInfo:
    """What a worker has to know of a sweep.

    Attributes
    ----------
    store : str
        The path, as the workers see it.
    topic : str
        Of this run: where reports go.
    cache : str
        Folder of compiled programs; empty to leave JAX as it is.
    gpus : int
        GPUs that every worker was given.
    memory : int
        Bytes that a worker may take; 0 for no limit of ours.
    mesh : str
        How points and states are cut over a worker's devices.
    trusted : str
        The checksum of the store whose model the driver trusts; a worker runs no other.
    folder : str
        Of the model, where what it names beside itself is looked for.
    """

    store: str
    topic: str
    cache: str = ""
    gpus: int = 0
    memory: int = 0
    mesh: str = AUTO
    trusted: str = ""
    folder: str = ""


@dataclass(frozen=True)
class TaskOrder:
    """One task to be carried out.

    Attributes
    ----------
    id : str
        Of this attempt.
    task : int
    seconds : float
        How long such a task takes, as measured; 0 if nothing is known.
    halvings : int
        How often the batch is to be halved, after there was too little memory.
    """

    id: str
    task: int
    seconds: float = 0.0
    halvings: int = 0
