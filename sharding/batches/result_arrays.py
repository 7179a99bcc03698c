"""Result arrays before any are computed: which are kept, dimensions, coordinates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dpsolve.solvers.distributions.top_mass import PREFIX
from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.inspection.requests import FIXED
from dpsolve.solvers.labelled import choices_of
from dpsolve.solvers.logit.taste_shocks import ERROR
from dpsolve.solvers.logit.taste_shocks import PREFIX as PROBABILITY
from dpsolve.solvers.methods.average import GAINS
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.outcomes import OF_CONTINUUM, PER_POINT
from dpsolve.solvers.solution import CERTIFICATE
from dpsolve.solvers.solve.result_dims import ModelShape, differentiated
from dpsolve.solvers.solve.statistics import OF_DISTRIBUTION

from .outline import ResultShapes
from .solving_order import START
from .variable_labels import LONG_NAMES, named

REFINED = "refined_size"  # how the names of refined sizes begin
DEFAULT_KEEP = (
    "value", "lower", "upper", "policy", "policy_lower", "policy_upper", "probability",
)  # fmt: skip


@dataclass(frozen=True)
class Variable:
    """One array of a result, without the axis of points."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, str]


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
    labels : dict of str to dict
        Words and units of states and parameters, where the model labels them.
    """

    dims: dict[str, int]
    coords: dict[str, Numpy]
    variables: dict[str, Variable]
    default_keep: tuple[str, ...]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def select(self, keep: Sequence[str] | None, also: Sequence[str] = ()) -> dict[str, Variable]:
        """Return the variables that `keep` asks for, and what always comes along with them.

        ``policy``, ``policy_index``, ``moments`` and ``gradients`` stand for all of their kind; an
        output goes by its own name or by ``output_<name>``. Grids that vary come along, the
        gradients of what is kept, and with a distribution or a moment what certifies them.

        Parameters
        ----------
        keep : list of str or None
            None: the usual ones.
        also : list of str
            To keep beside those.

        Raises
        ------
        UsageError
            If a name is none of these.
        """
        wanted: list[str] = []
        for name in (*(self.default_keep if keep is None else keep), *also):
            wanted += self._expand(name)
        always = (START, CERTIFICATE, *OF_CONTINUUM)
        wanted += [n for n in self.variables if n.startswith(("grid_", REFINED)) or n in always]
        if "lower" not in self.variables:  # the average reward: numbers that say what was found
            wanted += [n for n in GAINS if n in self.variables]
        if any(n.startswith(PROBABILITY) for n in wanted):
            wanted += [ERROR]
        wanted += [n for n in self._gradients() if self._gradients()[n] in wanted]
        if "value" in self.variables and any(_of_distribution(n) for n in wanted):
            wanted += [n for n in OF_DISTRIBUTION if n in self.variables]
            wanted += [n for n in self.variables if n.startswith(PREFIX)]
        names = dict.fromkeys(wanted)
        return {n: self.variables[n] for n in self.variables if n in names}

    def _gradients(self) -> dict[str, str]:
        """Return the variable that each gradient is of."""
        return {n: of for n in self.variables if (of := differentiated(n, self.variables)) != n}

    def _continuous(self) -> list[str]:
        """Return the choices that are no positions on a grid."""
        chosen = choices_of(self.variables)
        return [c for c in chosen if f"policy_index_{c}" not in self.variables]

    def _expand(self, name: str) -> list[str]:
        if name in self.variables:
            return [name]
        if f"output_{name}" in self.variables:
            return [f"output_{name}"]
        choices = choices_of(self.variables)
        kinds = {
            "policy": [f"policy_{c}" for c in choices],
            **{kind: [n for c in choices if (n := f"{kind}_{c}") in self.variables]
               for kind in ("policy_index", "policy_lower", "policy_upper")},
            "probability": [n for n in self.variables if n.startswith(PROBABILITY) and n != ERROR],
            "moments": [n for n in self.variables if n.startswith("moment_")],
            "gradients": [*self._gradients()],
        }  # fmt: skip
        if kinds.get(name):
            return kinds[name]
        raise UsageError(self._unknown(name, kinds))

    def _unknown(self, name: str, kinds: Mapping[str, Sequence[str]]) -> str:
        if name == "distribution_path" and "value" in self.variables:
            return (
                "keep names 'distribution_path', and a path needs to know how long it is and where "
                "it starts: [solve] periods = 40, initial = { STATE = VALUE }"
            )
        if name == "gradients":
            return "keep names 'gradients'; say by which parameters: [solve] gradients = [\"beta\"]"
        continuous = [
            c for c in self._continuous() if name in ("policy_index", f"policy_index_{c}")
        ]
        if continuous:
            return (
                f"keep names '{name}', and the choice '{continuous[0]}' is continuous "
                "(dp.interval): it is made from no list in which it had a position. Keep "
                f"'policy_{continuous[0]}', the choice itself"
            )
        variable = differentiated(name, self.variables)
        if variable.startswith(("output_", "moment_", "distribution")) and variable != name:
            return (
                f"keep names '{name}', but choices are made on a grid, and what could be "
                f"differentiated of {variable} holds the policy fixed: it is not the derivative. "
                f"Keep '{name}{FIXED}' for that, by its name, or take differences between points"
            )
        outputs = [n.removeprefix("output_") for n in self.variables if n.startswith("output_")]
        hidden = {"grid_" + n for n in self.dims} | {n for some in kinds.values() for n in some}
        known = [n for n in self.variables if n not in hidden and not n.startswith("output_")]
        known += [kind for kind, names in kinds.items() if names]
        if "value" in self.variables:
            known += [n for n in ("distribution", "moments") if n not in known]
        known += outputs
        return (
            f"keep names '{name}', which this model does not have.{did_you_mean(name, known)} "
            f"It has: {', '.join(known)}."
        )


def _of_distribution(name: str) -> bool:
    return name == "distribution" or name.startswith("moment_")


def make_layout(
    shape: ModelShape, results: ResultShapes, coords: dict[str, Numpy], depends: Collection[str]
) -> Layout:
    """Lay out what points give.

    Parameters
    ----------
    shape : ModelShape
        Of the model, with its labels.
    results : ResultShapes
        Their arrays, in outline.
    coords, depends
        The grids that all points share, and the names of the others; see
        :func:`.coordinates.coordinates`.
    """
    found, shapes, coords = results.dims, results.shapes, dict(coords)
    dims: dict[str, int] = {}
    variables = {}
    for name, names in found.items():
        extents = tuple(shapes[name].shape)
        dims.update(zip(names, extents, strict=True))
        if name.startswith("grid_") and name.removeprefix("grid_") in coords:
            continue
        variables[name] = Variable(
            name, names, extents, str(shapes[name].dtype), named(name, found, shape).attributes
        )
    ordered = dict.fromkeys([*LONG_NAMES, *variables])
    variables = {n: variables[n] for n in ordered if n in variables}
    for name in dims:
        if name not in coords and name not in depends:
            coords[name] = np.arange(dims[name])
    for name in PER_POINT:
        variables.pop(name, None)
    ends = [n for n in DEFAULT_KEEP if any(v.startswith(f"{n}_") for v in variables)]
    usual = [n for n in DEFAULT_KEEP if n in variables or n == "policy" or n in ends]
    keep = tuple(usual if "value" in variables else variables)
    labels = {name: label.attributes for name, label in shape.labels.items()}
    return Layout(dims, coords, variables, keep, labels)


def with_starts(layout: Layout) -> Layout:
    """Return the layout of points of which some start from others."""
    what = "number of the point that this one started from, -1 if from none"
    start = Variable(START, (), (), "int32", {"long_name": what})
    return replace(layout, variables={**layout.variables, START: start})


def with_refined(layout: Layout, names: Sequence[str]) -> Layout:
    """Return the layout of points that are solved on finer grids than the one that is kept."""
    what = "size that the point was solved at, of which every so many-th node is kept; between the "
    what += (
        "nodes of that size the interpolation of the value is within error_bound, at those kept "
    )
    what += "the value is"
    more = {name: Variable(name, (), (), "int32", {"long_name": what}) for name in names}
    return replace(layout, variables={**layout.variables, **more})
