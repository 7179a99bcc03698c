"""Index-valued arguments: ``a_index`` is the position of ``a`` among its values, for table lookups.

A position is found from the value: the nearest of those that `a` can have. So it means something
of an agent between two nodes, too, and nothing where two of the values are the same.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.tracing import is_concrete

SUFFIX = "_index"


def looked_up(argument: str) -> str | None:
    """Return whose position an argument would be by its name, or None."""
    base = argument.removesuffix(SUFFIX)
    return base if base and base != argument else None


@dataclass(frozen=True, eq=False)
class Position:
    """The position of a value, as a function of it.

    Attributes
    ----------
    name : str
        What has the values.
    values : array (n,)
        All that it can be, in order.
    """

    name: str
    values: Any

    @cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature([inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY)])

    def __call__(self, **given: Any) -> Array:
        """Return the position, from 0."""
        xp: Any = np if is_concrete(self.values) else jnp
        points = xp.asarray(self.values, np.float64)
        order = xp.argsort(points)
        between = 0.5 * (points[order][1:] + points[order][:-1])
        at = jnp.searchsorted(jnp.asarray(between), jnp.asarray(given[self.name], jnp.float64))
        return jnp.asarray(order, jnp.int64)[at]

    @property
    def doubt(self) -> Array | None:
        """Whether two values are the same, so that they have no position; None if surely not."""
        if is_concrete(self.values):
            return None
        return jnp.any(jnp.diff(jnp.sort(jnp.asarray(self.values, jnp.float64))) == 0.0)

    def check(self, what: str) -> None:
        """Refuse values two of which are the same.

        Raises
        ------
        ModelError
            Naming them, and `what` looks them up.
        """
        if not is_concrete(self.values):
            return
        x = np.asarray(self.values, np.float64)
        order = np.argsort(x, kind="stable")
        same = np.flatnonzero(np.diff(x[order]) == 0.0)
        if same.size:
            i, j = sorted(order[same[0] : same[0] + 2])
            raise ModelError(
                f"{what} takes '{self.name}{SUFFIX}', and values {i} and {j} of '{self.name}' are "
                f"both {x[i]:g}, so that they cannot be told apart; let the values be positions, "
                f"jnp.arange({x.size}), and look up in a table what they stand for"
            )


@dataclass(frozen=True, eq=False)
class Positions:
    """The positions of a family's members, as a function of their values.

    Attributes
    ----------
    each : tuple of Position
    """

    each: tuple[Position, ...]

    @cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature(
            [inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY) for p in self.each]
        )

    def __call__(self, **given: Any) -> Array:
        """Return the positions (members,)."""
        return jnp.stack([p(**{p.name: given[p.name]}) for p in self.each])

    @property
    def doubt(self) -> Array | None:
        """Whether one of them is none; None if surely not."""
        found = [p.doubt for p in self.each]
        return next((d for d in found if d is not None), None)  # of one and the same grid
