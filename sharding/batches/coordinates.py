"""Coordinates that all points of a result share: grids that no parameter moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from dpsolve.solvers.distributions.finer_grid import Sizes as Finer
from dpsolve.solvers.distributions.finer_grid import lived_grids, wrong_grid
from dpsolve.solvers.methods.finite_horizon import grids_of as result_grids
from dpsolve.solvers.model.array_factory import named
from dpsolve.solvers.model.factory_signature import Factory, abstract, build
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy


def grids_of(made: Any, finer: Finer = ()) -> dict[str, Any]:
    """Return the grids of what a factory made: of its states, or among its own arrays.

    Those that a distribution has for itself come beside them (`finer`: their sizes, by state).
    """
    if isinstance(made, Mapping):
        arrays = named(made)
        return {n[5:]: x for n, d, x in arrays if n.startswith("grid_") and d == (n[5:],)}
    states = getattr(made, "states", None) or {}
    found = {n: jax.numpy.asarray(s.values) for n, s in states.items()}
    if isinstance(made, Model):
        found = {n.removeprefix("grid_"): x for n, x in result_grids(made).items()}
    if not (finer and isinstance(made, Model)) or wrong_grid(made, finer, ""):
        return found
    return found | {n.removeprefix("grid_"): x for n, x in lived_grids(made, finer).items()}


@dataclass(frozen=True, eq=False)
class TracedGrids:
    """A factory's grids as a program of its parameters.

    Attributes
    ----------
    program : ClosedJaxpr
        From the parameters, in the order of their names, to the grids, likewise.
    parameters : dict of str to tuple of int
        Their shapes, by name, sorted by it.
    names : tuple of str
        Of the grids.
    """

    program: Any
    parameters: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...]

    def moved_by(self, parameters: Collection[str]) -> set[str]:
        """Return the grids that any of these parameters has a part in."""
        jaxpr = self.program.jaxpr
        by = zip(self.parameters, jaxpr.invars, strict=True)
        touched = {variable for name, variable in by if name in parameters}
        for equation in jaxpr.eqns:
            if any(v in touched for v in equation.invars if not hasattr(v, "val")):
                touched.update(equation.outvars)
        found = zip(self.names, jaxpr.outvars, strict=True)
        return {n for n, v in found if not hasattr(v, "val") and v in touched}

    def values(self) -> dict[str, Numpy]:
        """Return the grids (n,) at parameters that are NaN: what none of these moves is right."""
        nowhere = [np.full(shape, np.nan) for shape in self.parameters.values()]
        closed = self.program
        if closed.jaxpr.eqns:  # as one program: each operation would be compiled by itself
            results = jax.jit(jaxpr_as_fun(closed))(*nowhere)
        else:
            results = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *nowhere)
        return {n: np.asarray(x) for n, x in zip(self.names, results, strict=True)}


def coordinates(
    grids: TracedGrids,
    factory: Factory,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, Any],
    varying: Collection[str],
    finer: Finer = (),
) -> tuple[dict[str, Numpy], set[str]]:
    """Return the grids (n,) that no varying parameter moves, and the names of the others.

    Parameters
    ----------
    grids : TracedGrids
        The factory's, all parameters traced.
    factory, sizes
        What is built once more where a grid moves with a parameter that is fixed.
    fixed : mapping of str to float or array
        Parameters that are the same at all points.
    varying : collection of str
        The others.
    finer : tuple of (state, size)
        The grids that distributions have for themselves.
    """
    depends = grids.moved_by(varying)
    if grids.moved_by(fixed) - depends:

        def look(values: Mapping[str, Any]) -> dict[str, Any]:
            return grids_of(build(factory, {**fixed, **values}, sizes), finer)

        moving = {name: x for name, x in abstract(factory, sizes).items() if name in varying}
        program, out = jax.make_jaxpr(look, return_shape=True)(moving)
        shapes = {name: moving[name].shape for name in sorted(moving)}
        grids = TracedGrids(program, shapes, tuple(sorted(out)))
        depends = grids.moved_by(varying)
    if depends.issuperset(grids.names):
        return {}, depends
    return {n: x for n, x in grids.values().items() if n not in depends}, depends
