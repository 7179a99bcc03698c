"""``taste_shocks`` of a model, and ``dp.nested``: what is said of them, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.numerics.tracing import is_concrete

PREFIX = "probability_"  # of the names of results
ERROR = "probability_error"


@dataclass(frozen=True, eq=False)
class Nested:
    """Nested taste shocks; see :func:`nested`."""

    scale: Any
    nests: Mapping[str, tuple[Any, Any]]


def nested(scale: Any, nests: Mapping[str, tuple[Any, Any]]) -> Nested:
    r"""Taste shocks that are correlated within nests of alternatives (McFadden 1978).

    Parameters
    ----------
    scale : float
        Between nests, in units of the reward: the standard deviation of a shock is
        :math:`\pi / \sqrt 6` times that.
    nests : dict of str to (list, float)
        By name: the members, values of the choice (of several choices, tuples of values), and the
        scale within the nest, above 0 and at most the outer one. With equal scales nests change
        nothing. Alternatives in no nest are alone.

    Returns
    -------
    Nested
        For ``taste_shocks={"choice": dp.nested(...)}``.

    Raises
    ------
    ModelError
        If it is no dict of members and a scale.
    """
    if not isinstance(nests, Mapping) or not nests:
        raise ModelError(
            f"nested: nests is {nests!r}; it is a dict by name of members and a scale, "
            '{"buy": ([1, 2], 0.5)}'
        )
    _check_scale(scale, "nested: the outer scale")
    for name, nest in nests.items():
        if not (isinstance(nest, tuple | list) and len(nest) == 2 and _is_list(nest[0])):
            raise ModelError(
                f"nested: nest '{name}' is {nest!r}; it is its members and its scale: "
                f"{{'{name}': ([1, 2], 0.5)}}"
            )
        _check_scale(nest[1], f"nested: the scale of nest '{name}'")
        if is_concrete(scale, nest[1]) and float(nest[1]) > float(scale):
            raise ModelError(
                f"nested: the scale of nest '{name}' is {float(nest[1]):g}, above the outer one, "
                f"{float(scale):g}: no tastes make such choices (McFadden 1978); it is at most "
                "that"
            )
    return Nested(scale, dict(nests))


def _is_list(members: Any) -> bool:
    return isinstance(members, list | tuple | np.ndarray | range) and len(members) > 0


@dataclass(frozen=True, eq=False)
class TasteShocks:
    """Shocks to the value of each combination of some choices, extreme value of mean zero.

    Attributes
    ----------
    choices : tuple of str
        The choices; alternatives are their combinations, flattened in C order.
    shape : tuple of int
        Values of each choice.
    scale : float
    nests : tuple of tuples of int
        Alternatives of each nest.
    nest_scales : tuple of float
    """

    choices: tuple[str, ...]
    shape: tuple[int, ...]
    scale: Any
    nests: tuple[tuple[int, ...], ...] = ()
    nest_scales: tuple[Any, ...] = ()

    @property
    def alternatives(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def name(self) -> str:
        """What the probabilities are called in results."""
        return PREFIX + "_".join(self.choices)


def read_taste_shocks(
    given: Mapping[Any, Any], choices: Mapping[str, Any], values_of: Callable[[str], Any]
) -> TasteShocks | None:
    """Read what a model says of taste shocks.

    Parameters
    ----------
    given : dict
        ``{"choice": scale}``, with at most one entry.
    choices : dict of str to bool
        The model's choices, and whether each is continuous.
    values_of : function
        The values (n,) of a choice.

    Raises
    ------
    ModelError
        If a name is no choice, a choice is continuous, or a scale or a nest cannot be.
    """
    if not given:
        return None
    if len(given) > 1:
        keys = ", ".join(repr(key) for key in given)
        raise ModelError(
            f"taste_shocks has {len(given)} entries ({keys}); it has one, keyed by a choice, or "
            "by a tuple of choices for one shock to each combination: "
            '{("work", "move"): 0.2}'
        )
    (key, said), *_ = given.items()
    names = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, tuple) else ()
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise ModelError(
            f"taste_shocks: {key!r} is no choice; the key is a choice's name, or a tuple of "
            "different ones"
        )
    for name in names:
        if name not in choices:
            raise ModelError(
                f"taste_shocks names '{name}', which is no choice.{did_you_mean(name, choices)} "
                f"The choices are: {', '.join(choices)}."
            )
    continuous = [name for name, is_continuous in choices.items() if is_continuous]
    for name in names:
        if name in continuous:
            raise ModelError(
                f"taste_shocks on '{name}', which is continuous (dp.interval): tastes are for "
                f"each of a list of values; give it one, choices={{'{name}': [0, 1]}}, or name "
                "another choice"
            )
    what = "taste_shocks on " + " and ".join(f"'{name}'" for name in names)
    if continuous:
        raise ModelError(
            f"{what} beside the continuous choice '{continuous[0]}' (dp.interval): a log-sum of "
            "values is concave only by accident, and bounds over a continuum rest on that; list "
            f"its values, choices={{'{continuous[0]}': dp.grid(lo, hi, n)}}"
        )
    if "_".join(names) == "error":
        raise ModelError(
            f"{what}: '{ERROR}' is what results call the bound on probabilities; rename the choice"
        )
    shape = tuple(int(np.shape(values_of(name))[0]) for name in names)
    if not isinstance(said, Nested):
        _check_scale(said, f"the scale of {what}")
        return TasteShocks(names, shape, said)
    _check_scale(said.scale, f"the outer scale of {what}")
    nests = _positions(said, names, [values_of(name) for name in names])
    scales = tuple(scale for _, scale in said.nests.values())
    return TasteShocks(names, shape, said.scale, nests, scales)


def _check_scale(scale: Any, what: str) -> None:
    """Refuse what is no number above zero; of a traced one the operator finds out."""
    if not is_concrete(scale):
        if np.ndim(scale):
            raise ModelError(f"{what} has the shape {np.shape(scale)}; it is one number above 0")
        return
    try:
        number = np.asarray(scale, np.float64)
    except (TypeError, ValueError):
        number = np.full(2, np.nan)
    if number.ndim or not (np.isfinite(number) and number > 0):
        shown = f"{float(number):g}" if number.ndim == 0 else repr(scale)
        raise ModelError(
            f"{what} is {shown}; it is one number above 0, in units of the reward: without tastes "
            "leave taste_shocks out"
        )


def _positions(
    said: Nested, names: tuple[str, ...], values: list[Any]
) -> tuple[tuple[int, ...], ...]:
    """Find the members of nests among the alternatives."""
    for name, own in zip(names, values, strict=True):
        if not is_concrete(own):
            raise ModelError(
                f"nested: the values of '{name}' move with a parameter, so that members cannot be "
                "told by their values; number them (dp.integers), and look values up in the "
                "functions"
            )
    listed = [tuple(float(x) for x in row) for row in product(*values)]
    number = {row: j for j, row in enumerate(listed)}
    taken: dict[int, str] = {}
    nests = []
    for nest, (members, _) in said.nests.items():
        found = []
        for member in members:
            row = tuple(float(x) for x in np.atleast_1d(np.asarray(member, np.float64)))
            if row not in number:
                known = ", ".join(_shown(r) for r in listed[:8]) + ", ..." * (len(listed) > 8)
                raise ModelError(
                    f"nested: nest '{nest}' has the member {_shown(row)}, which is no value of "
                    f"{' and '.join(repr(n) for n in names)}; there are: {known}"
                )
            j = number[row]
            if j in taken:
                raise ModelError(
                    f"nested: {_shown(row)} is in nest '{taken[j]}' and in nest '{nest}'; each "
                    "alternative is in one at most"
                )
            taken[j] = nest
            found.append(j)
        nests.append(tuple(found))
    return tuple(nests)


def _shown(row: tuple[float, ...]) -> str:
    parts = ", ".join(f"{x:g}" for x in row)
    return parts if len(row) == 1 else f"({parts})"
