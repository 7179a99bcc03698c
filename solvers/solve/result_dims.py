"""Dimensions of every result array, from a model's names and sizes.

It is a plain fact, which outlives the trace in which a model was built; the model itself does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpsolve.solvers.certified import at_best, of_what, promise
from dpsolve.solvers.distributions.finer_grid import lived_dims
from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.inspection.requests import FIXED
from dpsolve.solvers.labelled import SUFFIX
from dpsolve.solvers.labels import Label, read_labels
from dpsolve.solvers.methods.average import GAINS
from dpsolve.solvers.model.array_factory import Dims, Shapes, shapes_of
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.outcomes import PER_POINT
from dpsolve.solvers.probability.markov import Markov

from .statistics import CLASSES


@dataclass(frozen=True)
class ModelShape:
    """Names and sizes of what a factory made.

    Attributes
    ----------
    states : dict of str to int
        Sizes of the states; of a model of arrays ``state`` is the only one.
    chains : frozenset of str
        The states that are Markov chains.
    horizon : int or None
        Periods, None without an end.
    continuous : tuple of str
        The choices that are made from an interval.
    own : dict or None
        Dimensions and shapes of a factory's own arrays, where it returned no model.
    taste : tuple of str
        The choices that taste shocks are on: what differs between their values has them as
        dimensions.
    certifies, of_what, promise : str
        What bounds are of, where there are some: the word; in words; and before anything is solved
        (:mod:`.certified`).
    labels : dict of str to Label
        Words and units for the model's names and for the factory's parameters.
    next_of : dict of str to str
        The state that a choice is the next value of, by choice.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    chains: frozenset[str] = frozenset()
    horizon: int | None = None
    own: Shapes | None = None
    continuous: tuple[str, ...] = ()
    certifies: str = "none"
    of_what: str = ""
    promise: str = ""
    labels: Mapping[str, Label] = field(default_factory=dict)
    next_of: Mapping[str, str] = field(default_factory=dict)
    taste: tuple[str, ...] = ()

    @property
    def iterates(self) -> bool:
        """Whether it is a model that is solved by iterating."""
        return self.own is None and self.horizon is None and not self.continuous


def shape_of(made: Any) -> ModelShape:
    """Return names and sizes of a model, or of a factory's own arrays; inside a trace or outside.

    Raises
    ------
    ModelError
        If it is neither.
    """
    if isinstance(made, TabularModel):
        return ModelShape(
            {"state": made.n_states}, horizon=made.horizon,
            certifies=at_best(made), promise=promise(made),
        )  # fmt: skip
    if isinstance(made, Model):
        chains = frozenset(n for n, s in made.states.items() if isinstance(s, Markov))
        sizes = {n: s.size for n, s in made.states.items()}
        return ModelShape(
            sizes, chains, made.horizon, None,
            tuple(made.continuous), at_best(made), of_what(made), promise(made),
            read_labels(made.labels),
            {str(rule): n for n, rule in made.transition.items() if rule in made.choices},
            made.taste.choices if made.taste is not None else (),
        )  # fmt: skip
    own = shapes_of(made)
    if own is None:
        raise ModelError(
            f"a factory returns dp.Model, dp.mdp or a dict of named arrays, not {made!r}"
        )
    return ModelShape(own=own)


def arrays_dims(
    shape: ModelShape, arrays: Mapping[str, Any], by: Mapping[str, Dims] | None = None
) -> dict[str, Dims]:
    """Return the dimensions of every array that a solve returns, but for the numbers.

    Parameters
    ----------
    shape : ModelShape
    arrays : mapping
        What it returns.
    by : mapping of str to tuple of str, optional
        The factory's parameters that are arrays, with their dimensions.
    """
    by = by or {}
    if shape.own is not None:
        own = {name: dims for name, (dims, _) in shape.own.items()}
        gradients = {
            n: of for n in arrays if n not in own and (of := differentiated(n, own)) in own
        }
        return own | {n: own[of] + entries_of(n, of, by) for n, of in gradients.items()}
    states = tuple(shape.states)
    finer = tuple((n, 0) for n in states if f"grid_{n}{SUFFIX}" in arrays)
    lived = lived_dims(states, finer)
    full = states if shape.horizon is None else ("t", *states)
    dims: dict[str, Dims] = {}
    first = [n for n in ("value", "lower", "upper", *GAINS) if n in arrays]
    for name in (*first, *(n for n in arrays if n not in (*first, *PER_POINT, CLASSES))):
        variable = differentiated(name, arrays)
        if name.startswith("grid_"):
            dims[name] = (name.removeprefix("grid_"),)
        elif variable == "distribution_path":
            dims[name] = ("time", *lived, *entries_of(name, variable, by))
        elif variable == "distribution":
            dims[name] = (*lived, *entries_of(name, variable, by))
        else:
            more = () if variable == name else entries_of(name, variable, by)
            rank = np.ndim(arrays[name]) - len(more)
            taste = shape.taste if rank > len(full) else ()
            dims[name] = ((*full, *taste) if rank else ()) + more
    return dims


def entries_of(name: str, variable: str, by: Mapping[str, Dims]) -> Dims:
    """Return the dimensions of a derivative after its variable's: those of an array's entries.

    They are called ``<parameter>_<dimension>``: the variable may have the dimension itself.
    """
    parameter = name.removeprefix(f"d_{variable}_d_").removesuffix(FIXED)
    return tuple(d if d.startswith(f"{parameter}_index") else f"{parameter}_{d}"
                 for d in by.get(parameter, ()))  # fmt: skip


def differentiated(name: str, arrays: Collection[str]) -> str:
    """Return the variable that ``d_<variable>_d_<parameter>`` is a derivative of, or the name."""
    of = [n for n in arrays if name.startswith(f"d_{n}_d_")]
    return max(of, key=len, default=name)
