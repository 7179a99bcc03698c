"""The words that a model is written in, in one place: what built-in models import.

A store keeps a checksum of its model's file. So the built-in ones have one import line, from here,
which stays as it is when a definition moves; and importing the package itself costs nothing.
"""

from dpsolve.solvers.logit.taste_shocks import nested
from dpsolve.solvers.probability.distributions import (
    beta,
    exponential,
    gamma,
    lognormal,
    normal,
    poisson,
    student_t,
    uniform,
)
from dpsolve.solvers.probability.estimated import markov_from_data
from dpsolve.solvers.probability.iid import iid
from dpsolve.solvers.probability.markov import markov, rouwenhorst, tauchen
from dpsolve.solvers.probability.vector_chains import tauchen_hussey, var1

from .grids import grid, integers, interval
from .mdp import mdp
from .model import Model
from .utility import crra

__all__ = [
    "Model",
    "beta",
    "crra",
    "exponential",
    "gamma",
    "grid",
    "iid",
    "integers",
    "interval",
    "lognormal",
    "markov",
    "markov_from_data",
    "mdp",
    "nested",
    "normal",
    "poisson",
    "rouwenhorst",
    "student_t",
    "tauchen",
    "tauchen_hussey",
    "uniform",
    "var1",
]
