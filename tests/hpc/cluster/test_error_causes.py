"""Whose fault an error is, also when it comes wrapped in text."""

from __future__ import annotations

import pytest

from dpsolve.hpc.cluster.error_causes import cause_of, in_short, is_of_environment
from dpsolve.solvers.errors import DeviceError, ModelError, StoreError, UsageError

CALLBACK = """INTERNAL: CpuCallback error calling callback: Traceback (most recent call last):
  File "jax/_src/callback.py", line 96, in pure_callback_impl
  File "model.py", line 8, in price
{}"""


def wrapped(said: str) -> Exception:
    """As JAX tells of what a Python callback raised."""
    return RuntimeError(CALLBACK.format(said))


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'curve_fit' from 'scipy.optimize'"),
        ModuleNotFoundError("No module named 'interpolation'"),
        FileNotFoundError(2, "No such file or directory", "prices.csv"),
        PermissionError(13, "Permission denied", "prices.csv"),
        UsageError("the mesh points=4,states=2 takes 8 devices, and there are 4."),
        DeviceError("this worker was given 1 GPU"),
        RuntimeError("Unable to initialize backend 'cuda': no supported devices found"),
        RuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"),
        wrapped("ModuleNotFoundError: No module named 'interpolation'"),
        wrapped("FileNotFoundError: [Errno 2] No such file or directory: 'prices.csv'"),
    ],
)
def test_what_every_task_would_meet_there_is_not_the_points_fault(error: Exception) -> None:
    assert is_of_environment(error)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no root in sight"), "error"),
        (ModelError("beta must be below 1"), "error"),
        (ZeroDivisionError(), "error"),
        (wrapped("ValueError: no root in sight"), "error"),
        (wrapped("interp.NoRoot: ImportError is not what this is"), "error"),
        (MemoryError(), "memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"), "memory"),
        (RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "memory"),
        (wrapped("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB"), "memory"),
        (StoreError("the disk is full"), "disk"),
        (OSError(116, "Stale file handle"), "disk"),
    ],
)
def test_what_a_point_does_is_its_own_fault(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
    assert not is_of_environment(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no root\nin sight"), "ValueError: no root"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (wrapped("ValueError: beta is 0.3\nand that is too low"), "ValueError: beta is 0.3"),
        (wrapped("AssertionError"), "AssertionError"),
        (wrapped(CALLBACK.format("model.NoRoot: none")), "model.NoRoot: none"),
        (wrapped("ValueError: beta is 0.3\n\n--------------------\nFor simplicity, JAX has "
                 "removed its internal frames"), "ValueError: beta is 0.3"),
        (wrapped("KeyError: 'k'\n\nDuring handling of the above exception, another exception "
                 "occurred:\n\nTraceback (most recent call last):\n  File \"m.py\", line 3\n"
                 "ValueError: beta is 0.3"), "ValueError: beta is 0.3"),
        (wrapped(""), 'File "model.py", line 8, in price'),  # cut off: better than nothing
    ],
)  # fmt: skip
def test_the_reason_is_told_not_its_wrapping(error: Exception, said: str) -> None:
    assert in_short(error) == said
