"""Whether bounds of a model rest on concavity, declared or proved, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dpsolve.solvers.certified import promise
from dpsolve.solvers.continuum.problem import not_concave
from dpsolve.solvers.curvature.proved import proved, reason
from dpsolve.solvers.model.factory_signature import Factory
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy

CONTINUUM = "the continuum"
TABLE = "as far as goes without concavity"


def provable(model: Any) -> bool:
    """Tell whether a model with continuous choices says nothing, and is of a kind to be proved."""
    return (
        isinstance(model, Model)
        and bool(model.continuous)
        and model.concave is None
        and not (model.gridded or not_concave(model))
    )


def asks(model: Any) -> Literal["declared", "proof", ""]:
    """Return what the concavity is that bounds of a model rest on, if on any."""
    if not (isinstance(model, Model) and model.continuous):
        return ""
    return "declared" if model.concave else "proof" if provable(model) else ""


def promised(concave: Numpy) -> str:
    """Say what bounds of points (n,) will be of, where a model is proved `concave` at some."""
    if concave.all():
        return f"{CONTINUUM}, proved concave"
    if not concave.any():
        return f"{CONTINUUM}, {TABLE}: it is not proved at any of the points"
    return (
        f"{CONTINUUM}, proved concave at {concave.sum():,} of {concave.size:,} points or more; at "
        f"the others {TABLE}"
    )


def promise_at(
    model: Any, factory: Factory | Model, sizes: Mapping[str, Any], values: Mapping[str, Any]
) -> str:
    """Say what bounds of a model at one point will be of, and why not more.

    Parameters
    ----------
    model : Model, TabularModel or mapping
        At that point.
    factory, sizes, values
        What it is built by; a ready model by itself.
    """
    if not provable(model):
        return promise(model)
    if proved(factory, sizes, values):
        return f"{CONTINUUM}, proved concave"
    return f"{CONTINUUM}, {TABLE}, which is not proved ({reason(factory, sizes, values)})"
