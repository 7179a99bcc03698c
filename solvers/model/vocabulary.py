"""The words that a model is written in, in one place: what built-in models import.

A store keeps a checksum of its model's file. So the built-in ones have one import line, from here,
which stays as it is when a definition moves; and importing the package itself costs nothing.
"""

from dpsolve.solvers.logit.taste_shocks import nested

from .grids import grid, iid, integers, interval, lognormal
from .markov import markov, rouwenhorst, tauchen
from .mdp import mdp
from .model import Model
from .utility import crra

__all__ = [
    "Model",
    "crra",
    "grid",
    "iid",
    "integers",
    "interval",
    "lognormal",
    "markov",
    "mdp",
    "nested",
    "rouwenhorst",
    "tauchen",
]
