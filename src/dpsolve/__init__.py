"""Certified dynamic programming in bulk, from a laptop to a cluster.

The public names are loaded when first used, so that ``import dpsolve`` (and with it
``dpsolve --help``) costs nothing. Numbers are float64: importing this package switches JAX's
64-bit mode on, before any array exists.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_enable_x64", True)
else:
    os.environ["JAX_ENABLE_X64"] = "1"  # read by JAX when it is first imported

__version__ = "0.1.0"

_HOME = {
    "DpsolveError": "solvers.errors",
    "ModelError": "solvers.errors",
    "RefusedError": "solvers.errors",
    "StoreError": "solvers.errors",
    "UsageError": "solvers.errors",
    "VerificationError": "solvers.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dpsolve' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
