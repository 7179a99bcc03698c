"""Messages from a driver to its workers: the run, then task by task."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpsolve._version import __version__
from dpsolve.hpc.run.executor import AUTO


def versions() -> tuple[tuple[str, str], ...]:
    """Return the packages that decide what numbers come out, with this process's versions."""
    import jax

    return (("dpsolve", __version__), ("jax", jax.__version__))


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
        Where compiled programs are kept, if the driver was told (``DPSOLVE_CACHE``).
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
    versions : tuple of pairs
        The driver's: a worker with others would compute other numbers.
    """

    store: str
    topic: str
    cache: str = ""
    gpus: int = 0
    memory: int = 0
    mesh: str = AUTO
    trusted: str = ""
    folder: str = ""
    versions: tuple[tuple[str, str], ...] = field(default_factory=versions)

    @property
    def plugin(self) -> str:
        """The name of the worker plugin: a later run of the store takes an earlier one's place."""
        return f"dpsolve {self.store}"


@dataclass(frozen=True)
class TaskOrder:
    """One task to be carried out.

    Attributes
    ----------
    id : str
        Of this attempt.
    task : int
    seconds : float
        How long such a task took when this one was submitted; 0 if nothing was known.
    halvings : int
        How often the batch is to be halved, after there was too little memory.
    """

    id: str
    task: int
    seconds: float = 0.0
    halvings: int = 0
