"""What the bounds of a solution are of: the continuum, a grid, or what is not continuous at all.

``exact``: nothing is continuous, or what is lands on nodes. ``continuum``: the true value, of
choices and states that are continuous. ``interpolated``: a problem whose value between nodes is
the interpolation of that at the nodes. ``grid``: likewise, and choices are grid points, so that
nothing is said of a continuous choice. ``none``: nothing is certified. A model has the weakest
that applies; a point of it may have less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .model.grids import Grid
from .model.mdp import TabularModel
from .model.model import Model

OF_WHAT = {
    "exact": "",
    "continuum": "over the continuum",
    "interpolated": "of the interpolated problem",
    "grid": "on this grid",
    "none": "",
}
REFINED = "over the continuum, between the nodes of refined_size, of which these are some"
"""Likewise, where a finer grid than the one that is kept was solved on."""
TABLE = "for choices of a table; of a continuous choice it says nothing"
"""Likewise, where a model with continuous choices is not known to be concave."""
SHARED = "for choices on this grid; of a continuous choice it says nothing (dp.interval)"
"""Likewise, of a choice that has the grid of a continuous state."""


def at_best(made: Any) -> str:
    """Return what the bounds of a solution of a model are of, if it is certified.

    Parameters
    ----------
    made : Model, TabularModel, or what else a factory returns
        Of arrays of its own nothing is certified here.
    """
    if isinstance(made, TabularModel):
        return "exact"
    if not isinstance(made, Model):
        return "none"
    if made.continuous:
        return "continuum"
    if not any(True for _ in _interpolated(made)):
        return "exact"
    return (
        "grid" if any(isinstance(made.grid_of(c), Grid) for c in made.choices) else "interpolated"
    )


def _interpolated(model: Model) -> Iterator[str]:
    """Yield the continuous states that do not stay where they are."""
    for name, spec in model.states.items():
        if isinstance(spec, Grid) and model.transition[name] != name:
            yield name


def of_what(made: Any) -> str:
    """Say in words what a certified error of a model is of; '' where there is nothing to say."""
    word = at_best(made)
    if word != "grid":
        return OF_WHAT[word]
    shared = any(isinstance(c, str) and _is_grid(made, c) for c in made.choices.values())
    return SHARED if shared else OF_WHAT[word]


def promise(made: Any) -> str:
    """Say in words what a solution of a model will certify, before anything is solved."""
    word, what = at_best(made), of_what(made)
    if word == "continuum":
        if made.concave:
            return "the continuum"
        return "the continuum, " + (
            "if it is proved concave"
            if made.concave is None
            else "as far as goes without concavity"
        )
    plain = {
        "exact": "the exact solution, for nothing is continuous",
        "interpolated": "the problem whose value is interpolated between nodes",
        "grid": "choices on this grid",
        "none": "",
    }
    return what.removeprefix("for ") if what == SHARED else plain[word]


def _is_grid(model: Model, state: str) -> bool:
    return isinstance(model.states.get(state), Grid)
