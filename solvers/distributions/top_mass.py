"""Mass on the last point of a state's grid: a sign that the grid ends too early.

A grid that cuts a distribution off moves all of it: mean wealth is 10.2 where the grid of savings
ends at 20, and 20.0 where it ends at 100. So the mass at the top of every continuous state's grid
stands beside each stationary distribution (``top_mass_<state>``), and above `TOP` it is told, once
for a model and its grid.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

TOP = 1e-4
"""Mass at the top of a grid that is told."""

PREFIX = "top_mass_"

_told: set[tuple[Any, ...]] = set()


def too_much(arrays: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each state with too much mass at the top of its grid, and how much, in words.

    Parameters
    ----------
    arrays : mapping
        Of one point or of many: ``top_mass_<state>`` and whatever else.
    """
    for name, given in arrays.items():
        if not name.startswith(PREFIX):
            continue
        mass = np.atleast_1d(np.asarray(given, np.float64))
        many = int((mass > TOP).sum())  # NaN, of a failed point, is none
        if many:
            percent = 100 * float(np.nanmax(mass))
            share = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
            share = f"{share} % of the mass"
            if mass.size > 1:
                share = f"at {many:,} of {mass.size:,} points up to {share}"
            yield name.removeprefix(PREFIX), share


def in_words(state: str, how_much: str) -> str:
    """Return the sentence of a state with too much mass at the top of its grid."""
    return (
        f"{how_much} lies at the top of the grid of {state}, which cuts the distribution off: its "
        f"mean and quantiles are the grid's doing. Let the grid of {state} end further up"
    )


def warn(model: str, arrays: Mapping[str, Any], grids: Mapping[str, Any]) -> None:
    """Warn of mass at the top of a grid, once for a model and its grid.

    Parameters
    ----------
    model : str
        Its name.
    arrays : mapping
        Concrete: ``top_mass_<state>`` and whatever else.
    grids : mapping
        Values by state, of one point or of many.
    """
    for state, how_much in too_much(arrays):
        grid = np.asarray(grids[state])
        key = model, state, grid.shape[-1], float(grid[..., -1].max())
        if key not in _told:
            _told.add(key)
            warnings.warn(f"{model}: {in_words(state, how_much)}", stacklevel=_callers())


def _callers() -> int:
    """Return how many frames up the caller of this package stands."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("dpsolve."):
        level, frame = level + 1, frame.f_back
    return level


def texts(arrays: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each state with too much mass at the top of its grid."""
    return (in_words(state, how_much) for state, how_much in too_much(arrays))
