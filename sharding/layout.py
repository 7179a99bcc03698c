"""What a program returns, before it is run: dimensions, coordinates, variables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..solvers.errors import UsageError, did_you_mean
from ..solvers.factory import Factory, build
from ..solvers.options import SolveOptions
from ..solvers.point import PER_POINT, solve_point
from ..solvers.solve import arrays_dims

__all__ = ["Layout", "Variable", "make_layout"]

LONG_NAMES = {
    "value": "value function",
    "lower": "certified lower bound on the value function",
    "upper": "certified upper bound on the value function",
}
DEFAULT_KEEP = ("value", "lower", "upper", "policy")


@dataclass(frozen=True)
class Variable:
    """One array of a result, without the axis of points."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    long_name: str


@dataclass(frozen=True)
class Layout:
    """Dimensions, coordinates and variables of a result.

    Attributes
    ----------
    dims : dict of str to int
        The model's dimensions.
    coords : dict of str to array
        Coordinates by dimension. A grid that depends on a varying parameter is not among them; it
        is a variable ``grid_<state>``.
    variables : dict of str to Variable
        Everything the model can store.
    default_keep : tuple of str
        What is stored when nothing is asked for.
    """

    dims: dict[str, int]
    coords: dict[str, np.ndarray[Any, Any]]
    variables: dict[str, Variable]
    default_keep: tuple[str, ...]

    def select(self, keep: Sequence[str] | None) -> dict[str, Variable]:
        """Return the variables that `keep` asks for; grids that vary always come along.

        ``policy`` and ``policy_index`` stand for those of every choice; an output goes by its own
        name or by ``output_<name>``.

        Raises
        ------
        UsageError
            If a name is none of these.
        """
        wanted: list[str] = []
        for name in self.default_keep if keep is None else keep:
            wanted += self._expand(name)
        grids = [n for n in self.variables if n.startswith("grid_")]
        names = dict.fromkeys([*wanted, *grids])
        return {n: self.variables[n] for n in self.variables if n in names}

    def _expand(self, name: str) -> list[str]:
        if name in self.variables:
            return [name]
        if f"output_{name}" in self.variables:
            return [f"output_{name}"]
        if name == "policy":
            found = [
                n for n in self.variables
                if n.startswith("policy_") and not n.startswith("policy_index_")
            ]  # fmt: skip
        elif name == "policy_index":
            found = [n for n in self.variables if n.startswith("policy_index_")]
        else:
            found = []
        if found:
            return found
        outputs = [n.removeprefix("output_") for n in self.variables if n.startswith("output_")]
        known = [n for n in self.variables if not n.startswith(("output_", "grid_", "policy_"))]
        if any(n.startswith("policy_") for n in self.variables):
            known += ["policy", "policy_index"]
        known += outputs
        raise UsageError(
            f"keep names '{name}', which this model does not have.{did_you_mean(name, known)} "
            f"It has: {', '.join(known)}."
        )


def make_layout(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    fixed: Mapping[str, float],
    varying: Collection[str],
) -> Layout:
    """Find the layout by tracing, without solving."""
    every = {**fixed, **dict.fromkeys(varying, 1.0)}
    found: dict[str, tuple[str, ...]] = {}

    def run(values: dict[str, Any]) -> dict[str, Any]:
        arrays = solve_point(factory, sizes, options, values)
        found.update(arrays_dims(build(factory, values, sizes), arrays))
        return arrays

    shapes = jax.eval_shape(run, {k: jax.ShapeDtypeStruct((), np.float64) for k in every})
    coords, depends = _grids(factory, sizes, fixed, varying)
    dims: dict[str, int] = {}
    variables = {}
    for name, names in found.items():
        shape = tuple(shapes[name].shape)
        dims.update(zip(names, shape, strict=True))
        if name.startswith("grid_") and name.removeprefix("grid_") in coords:
            continue
        variables[name] = Variable(name, names, shape, str(shapes[name].dtype), _long_name(name))
    ordered = dict.fromkeys([*LONG_NAMES, *variables])
    variables = {n: variables[n] for n in ordered if n in variables}
    for name in dims:
        if name not in coords and name not in depends:
            coords[name] = np.arange(dims[name])
    for name in PER_POINT:
        variables.pop(name, None)
    keep = DEFAULT_KEEP if "value" in variables else tuple(variables)
    return Layout(dims, coords, variables, keep)


def _long_name(name: str) -> str:
    for prefix, words in (
        ("policy_index_", "optimal choice, as a position on its grid: "),
        ("policy_", "optimal choice: "),
        ("output_", "at the optimum: "),
        ("grid_", "grid of "),
    ):
        if name.startswith(prefix):
            return words + name.removeprefix(prefix)
    return LONG_NAMES.get(name, name)


def _grids(
    factory: Factory,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, float],
    varying: Collection[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], set[str]]:
    """Return the states' grids that no varying parameter touches, and the names of the others."""
    names = list(varying)

    def grids(values: list[Any]) -> dict[str, Any]:
        made = build(factory, {**fixed, **dict(zip(names, values, strict=True))}, sizes)
        states = getattr(made, "states", None)
        if states is None:
            return {}
        return {n: jax.numpy.asarray(s.values) for n, s in states.items()}

    jaxpr, out = jax.make_jaxpr(grids, return_shape=True)([1.0 for _ in names])
    touched = {*jaxpr.jaxpr.invars}
    for equation in jaxpr.jaxpr.eqns:
        if any(v in touched for v in equation.invars if not hasattr(v, "val")):
            touched.update(equation.outvars)
    # What no parameter touches comes out right whatever the parameters are: NaN, here.
    results = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *(np.nan for _ in names))
    coords, depends = {}, set()
    for name, var, value in zip(sorted(out), jaxpr.jaxpr.outvars, results, strict=True):
        if not hasattr(var, "val") and var in touched:
            depends.add(name)
        else:
            coords[name] = np.asarray(value)
    return coords, depends
