"""Certified dynamic programming in bulk, from a laptop to a cluster.

The public names are loaded when first used, so that ``import dpsolve`` (and with it
``dpsolve --help``) costs nothing. Numbers are float64: importing this package switches JAX's
64-bit mode on, before any array exists; and it lets JAX keep what it compiles (``DPSOLVE_CACHE``).
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .hpc.run.compiled_programs import keep_compiled_programs

if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_enable_x64", True)
else:
    os.environ["JAX_ENABLE_X64"] = "1"  # read by JAX when it is first imported
keep_compiled_programs()

if TYPE_CHECKING:
    from . import plot as plot
    from .hpc.python_sweep import sweep as sweep
    from .hpc.store.load import load as load
    from .hpc.store.open import open as open
    from .hpc.sweep_file.array_file import read_mdp as read_mdp
    from .hpc.verify.verification import verify as verify
    from .sharding.convergence import convergence as convergence
    from .sharding.panels.simulate import Panel as Panel
    from .sharding.panels.simulate import simulate as simulate
    from .sharding.solve import solve as solve
    from .sharding.solve_many import solve_many as solve_many
    from .solvers.distributions.distribution import Distribution as Distribution
    from .solvers.distributions.path import path as path
    from .solvers.distributions.stationary import stationary as stationary
    from .solvers.errors import DpsolveError as DpsolveError
    from .solvers.errors import ModelError as ModelError
    from .solvers.errors import RefusedError as RefusedError
    from .solvers.errors import StoreError as StoreError
    from .solvers.errors import UsageError as UsageError
    from .solvers.errors import VerificationError as VerificationError
    from .solvers.inspection.check import check as check
    from .solvers.inspection.describe import describe as describe
    from .solvers.logit.taste_shocks import nested as nested
    from .solvers.model.grids import grid as grid
    from .solvers.model.grids import integers as integers
    from .solvers.model.grids import interval as interval
    from .solvers.model.mdp import TabularModel as TabularModel
    from .solvers.model.mdp import mdp as mdp
    from .solvers.model.model import Model as Model
    from .solvers.model.utility import crra as crra
    from .solvers.named_arguments.families import family as family
    from .solvers.numerics.fixed_point import fixed_point as fixed_point
    from .solvers.numerics.fixed_point import implicit as implicit
    from .solvers.numerics.monte_carlo import monte_carlo as monte_carlo
    from .solvers.options import SolveOptions as SolveOptions
    from .solvers.parameters.array import array as array
    from .solvers.probability.distributions import beta as beta
    from .solvers.probability.distributions import exponential as exponential
    from .solvers.probability.distributions import gamma as gamma
    from .solvers.probability.distributions import lognormal as lognormal
    from .solvers.probability.distributions import normal as normal
    from .solvers.probability.distributions import poisson as poisson
    from .solvers.probability.distributions import student_t as student_t
    from .solvers.probability.distributions import uniform as uniform
    from .solvers.probability.estimated import markov_from_data as markov_from_data
    from .solvers.probability.iid import iid as iid
    from .solvers.probability.markov import markov as markov
    from .solvers.probability.markov import rouwenhorst as rouwenhorst
    from .solvers.probability.markov import tauchen as tauchen
    from .solvers.probability.vector_chains import tauchen_hussey as tauchen_hussey
    from .solvers.probability.vector_chains import var1 as var1
    from .solvers.solution import Solution as Solution
    from .solvers.solve.certify import certify as certify
    from .solvers.solve.euler_errors import euler_errors as euler_errors
    from .solvers.solve.log_likelihood import log_likelihood as log_likelihood

# Where each public name lives.
_HOME = {
    "Model": "solvers.model.model",
    "crra": "solvers.model.utility",
    "TabularModel": "solvers.model.mdp",
    "grid": "solvers.model.grids",
    "nested": "solvers.logit.taste_shocks",
    "integers": "solvers.model.grids",
    "iid": "solvers.probability.iid",
    "interval": "solvers.model.grids",
    "normal": "solvers.probability.distributions",
    "lognormal": "solvers.probability.distributions",
    "student_t": "solvers.probability.distributions",
    "uniform": "solvers.probability.distributions",
    "exponential": "solvers.probability.distributions",
    "gamma": "solvers.probability.distributions",
    "beta": "solvers.probability.distributions",
    "poisson": "solvers.probability.distributions",
    "markov": "solvers.probability.markov",
    "rouwenhorst": "solvers.probability.markov",
    "tauchen": "solvers.probability.markov",
    "tauchen_hussey": "solvers.probability.vector_chains",
    "var1": "solvers.probability.vector_chains",
    "markov_from_data": "solvers.probability.estimated",
    "mdp": "solvers.model.mdp",
    "array": "solvers.parameters.array",
    "read_mdp": "hpc.sweep_file.array_file",
    "family": "solvers.named_arguments.families",
    "SolveOptions": "solvers.options",
    "Solution": "solvers.solution",
    "solve": "sharding.solve",
    "certify": "solvers.solve.certify",
    "euler_errors": "solvers.solve.euler_errors",
    "log_likelihood": "solvers.solve.log_likelihood",
    "check": "solvers.inspection.check",
    "describe": "solvers.inspection.describe",
    "stationary": "solvers.distributions.stationary",
    "path": "solvers.distributions.path",
    "Distribution": "solvers.distributions.distribution",
    "monte_carlo": "solvers.numerics.monte_carlo",
    "fixed_point": "solvers.numerics.fixed_point",
    "implicit": "solvers.numerics.fixed_point",
    "solve_many": "sharding.solve_many",
    "convergence": "sharding.convergence",
    "Panel": "sharding.panels.simulate",
    "simulate": "sharding.panels.simulate",
    "sweep": "hpc.python_sweep",
    "open": "hpc.store.open",
    "load": "hpc.store.load",
    "verify": "hpc.verify.verification",
    "DpsolveError": "solvers.errors",
    "ModelError": "solvers.errors",
    "RefusedError": "solvers.errors",
    "StoreError": "solvers.errors",
    "UsageError": "solvers.errors",
    "VerificationError": "solvers.errors",
}


_PARTS = ("plot",)  # modules that are names themselves


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'dpsolve' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOME, *_PARTS])
