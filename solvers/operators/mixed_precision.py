"""Sweeps in float32, ahead of the certifying ones in float64.

A sweep over rewards that are kept reads each of them once, and memory sets its speed. In float32
they are half as long. So a solve may go ahead in single precision until its certified error stops
falling, and go on from there in double precision, whose sweeps are the certificate. What single
precision cannot hold (values beyond 1e38, or a policy lost in rounding) costs the sweeps ahead.
"""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
from jax import Array

from .base import Shortcut
from .bellman import GridOperator, GridPolicy


class SinglePrecisionOperator(GridOperator, Shortcut):
    """An operator whose maxima are found in float32; policies are evaluated in float64.

    Parameters
    ----------
    double : GridOperator
        The operator itself, which keeps its rewards.
    """

    patience = 2

    def __init__(self, double: GridOperator) -> None:
        assert double.kept is not None
        self.__dict__.update(copy.copy(double).__dict__)
        self.double = double
        known = double.expectation
        self.kept, *early = jax.tree.map(
            _halved, (double.kept.lean(), known.early_locations, known.early_probabilities)
        )
        self.expectation = known.given(*early)

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return ``Tv`` (states...) as far as single precision goes, and the policy it finds."""
        value, policy = super().greedy(_halved(v))
        return value.astype(jnp.float64), policy

    def at(self, policy: Array) -> GridPolicy:
        """Fix a policy (states...), in double precision."""
        return self.double.at(policy)


def _halved(x: Array) -> Array:
    return x.astype(jnp.float32) if x.dtype == jnp.float64 else x
