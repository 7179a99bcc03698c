"""Certified dynamic programming in bulk, from a laptop to a cluster.

The public names are loaded when first used, so that ``import dpsolve`` (and with it
``dpsolve --help``) costs nothing. Numbers are float64: importing this package switches JAX's
64-bit mode on, before any array exists.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_enable_x64", True)
else:
    os.environ["JAX_ENABLE_X64"] = "1"  # read by JAX when it is first imported

if TYPE_CHECKING:
    from .hpc.loading import load as load
    from .hpc.results import open as open
    from .hpc.verification import verify as verify
    from .sharding.many import solve_many as solve_many
    from .sharding.one import solve as solve
    from .sharding.panel import Panel as Panel
    from .sharding.panel import simulate as simulate
    from .solvers.chains import markov as markov
    from .solvers.chains import rouwenhorst as rouwenhorst
    from .solvers.chains import tauchen as tauchen
    from .solvers.check import check as check
    from .solvers.describe import describe as describe
    from .solvers.distribution import Distribution as Distribution
    from .solvers.errors import DpsolveError as DpsolveError
    from .solvers.errors import ModelError as ModelError
    from .solvers.errors import RefusedError as RefusedError
    from .solvers.errors import StoreError as StoreError
    from .solvers.errors import UsageError as UsageError
    from .solvers.errors import VerificationError as VerificationError
    from .solvers.forward import path as path
    from .solvers.grids import grid as grid
    from .solvers.grids import iid as iid
    from .solvers.grids import integers as integers
    from .solvers.model import Model as Model
    from .solvers.model import TabularModel as TabularModel
    from .solvers.model import crra as crra
    from .solvers.monte_carlo import monte_carlo as monte_carlo
    from .solvers.options import SolveOptions as SolveOptions
    from .solvers.root import fixed_point as fixed_point
    from .solvers.root import implicit as implicit
    from .solvers.solution import Solution as Solution
    from .solvers.stationary import stationary as stationary
    from .solvers.tabular import mdp as mdp

# Where each public name lives.
_HOME = {
    "Model": "solvers.model",
    "crra": "solvers.model",
    "TabularModel": "solvers.model",
    "grid": "solvers.grids",
    "integers": "solvers.grids",
    "iid": "solvers.grids",
    "markov": "solvers.chains",
    "rouwenhorst": "solvers.chains",
    "tauchen": "solvers.chains",
    "mdp": "solvers.tabular",
    "SolveOptions": "solvers.options",
    "Solution": "solvers.solution",
    "solve": "sharding.one",
    "check": "solvers.check",
    "describe": "solvers.describe",
    "stationary": "solvers.stationary",
    "path": "solvers.forward",
    "Distribution": "solvers.distribution",
    "monte_carlo": "solvers.monte_carlo",
    "fixed_point": "solvers.root",
    "implicit": "solvers.root",
    "solve_many": "sharding.many",
    "Panel": "sharding.panel",
    "simulate": "sharding.panel",
    "open": "hpc.results",
    "load": "hpc.loading",
    "verify": "hpc.verification",
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
