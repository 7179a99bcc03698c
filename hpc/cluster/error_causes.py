"""Whose fault an error in a worker is: the points', a device's, a package's, the disk's.

A task is marked `failed` for what its points do, never for where they were computed. What every
task would meet on a worker is therefore told apart, and ends the sweep with nothing marked:

- whatever is raised before the points are looked at (the model is loaded, traced and compiled);
- a package or file that is missing, or may not be read, also inside a model's own Python;
- devices that are missing or do not work, and a mesh that they cannot make.

Errors come wrapped: what a Python callback inside a compiled program raises arrives as the text of
its traceback within an error of JAX's.
"""

from __future__ import annotations

import builtins

from dpsolve.solvers.errors import DeviceError, RefusedError, StoreError, UsageError

from .retries import Cause

MEMORY_WORDS = (
    "RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "OUT_OF_MEMORY", "bad_alloc",
    "MemoryError",
)  # fmt: skip
DEVICE_WORDS = (
    "CUDA_ERROR", "CUDNN_STATUS", "CUBLAS_STATUS", "no kernel image", "no CUDA-capable device",
    "Unable to initialize backend", "DNN library initialization failed",
)  # fmt: skip
"""JAX tells by text alone that a device is not there, does not fit its driver, or has broken."""

_TRACEBACK = "Traceback (most recent call last)"
_ENVIRONMENT = (
    ImportError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError,
)  # fmt: skip


class Unprepared(Exception):
    """The program of a task could not be made; the cause is what was raised."""


def cause_of(error: Exception) -> Cause:
    """Return which budget of :mod:`.retries` an error of a task counts against."""
    if isinstance(error, MemoryError) or any(word in str(error) for word in MEMORY_WORDS):
        return "memory"
    return "disk" if issubclass(_innermost(error)[0], StoreError | OSError) else "error"


def is_of_environment(error: Exception) -> bool:
    """Whether the worker is at fault, not the points: every task would meet this error there."""
    kind, _ = _innermost(error)
    return cause_of(error) != "memory" and (
        issubclass(kind, (RefusedError, UsageError, DeviceError, *_ENVIRONMENT))
        or any(word in str(error) for word in DEVICE_WORDS)
    )


def in_short(error: Exception) -> str:
    """Return one line that says what was raised, first of all by the user's own code."""
    return _innermost(error)[1]


def _innermost(error: Exception) -> tuple[type[BaseException], str]:
    """Return the kind of what was raised first of all, as far as it is known, and its one line."""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    begun = [number for number, line in enumerate(lines) if _TRACEBACK in line]
    if begun:
        after = [line for line in lines[begun[-1] + 1 :] if not line[0].isspace()]
        said = after[0] if after else lines[-1].strip()  # the rest of it may have been cut off
        kind = getattr(builtins, said.partition(":")[0], Exception)
        known = isinstance(kind, type) and issubclass(kind, BaseException)
        return (kind if known else Exception), said
    name = type(error).__name__
    return type(error), f"{name}: {lines[0].strip()}" if lines else name
