"""How continuous choices are found: on an endogenous grid, by the Euler equation, or on a table."""

from __future__ import annotations

from typing import Any

from dpsolve.solvers.continuum.problem import ContinuousProblem, not_concave
from dpsolve.solvers.continuum.resources import resources_of
from dpsolve.solvers.model.model import Model

EGM = "the endogenous grid method"
EULER = "Newton's method on the Euler equation"


def endogenous_grid_fails(model: Model) -> str:
    """Return which condition of the endogenous grid method a model fails, and where; or ''."""
    if why := not_concave(model):
        return why
    if model.concave is False:
        return "it is declared not to be concave (concave=False)"
    found = resources_of(ContinuousProblem.of(model, None if model.horizon is None else 0))
    return found if isinstance(found, str) else ""


def choices_found_by(model: Any, method: str = "auto") -> str:
    """Say how a model's continuous choices are found, and why not on an endogenous grid."""
    if not (isinstance(model, Model) and model.continuous):
        return ""
    why = endogenous_grid_fails(model)
    if not why and method in ("auto", "egm"):
        return EGM
    if not_concave(model) or model.concave is False:
        return f"bounds among nodes and tables ({EGM} does not apply: {why})"
    return f"{EULER} ({EGM} does not apply: {why})" if why else EULER
