"""``dp.family``: several states (choices, shocks, post variables) of one kind, under one name.

A family ``stock`` of m members is ``stock_0``, ..., ``stock_{m-1}``: each of them is a dimension of
the results, and can be named by itself. A function that takes ``stock`` is given all of them, as
one array (m,); one that gives the next ``stock`` returns such an array.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.errors import ModelError

from .computed import parameters_of


@dataclass(frozen=True, eq=False)
class Family:
    """Several variables of one kind.

    Attributes
    ----------
    member : object
        What each of them can be: a grid, integers, a chain, a shock.
    size : int
        How many they are.
    """

    member: Any
    size: int

    def names(self, name: str) -> tuple[str, ...]:
        """Return the members' names."""
        return tuple(f"{name}_{i}" for i in range(self.size))


def family(member: Any, size: int) -> Family:
    """Make a family of states, choices, shocks or post variables that have the same values.

    Under ``states={"stock": dp.family(dp.integers(0, 5), 3)}`` the model has the states
    ``stock_0``, ``stock_1`` and ``stock_2``, and functions may take ``stock``, an array (3,) of all
    three. ``transition={"stock": f}`` returns such an array, or is a list of a rule for each.

    Parameters
    ----------
    member : grid, integers, Markov chain, shock
        What each member can be; anything that could stand there without the family.
    size : int
        Number of members (static).

    Raises
    ------
    ModelError
        If `size` is no positive integer.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ModelError(
            f"family: size={size!r}; the number of members is a positive integer, and static: in a "
            "factory, put it after the '*'"
        )
    return Family(member, int(size))


@dataclass(frozen=True, eq=False)
class Member:
    """One entry of what a function of a family returns.

    Attributes
    ----------
    written : function
        It returns an array (size,).
    number, size : int
    what : str
        What to call it in an error.
    """

    written: Callable[..., Any]
    number: int
    size: int
    what: str

    @cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature(
            [p.replace(kind=p.KEYWORD_ONLY) for p in parameters_of(self.written).values()]
        )

    def __call__(self, **given: Any) -> Any:
        """Return the entry."""
        found = jnp.asarray(self.written(**given))
        if found.shape != (self.size,):
            raise ModelError(
                f"{self.what} returns an array of shape {found.shape}, and the family has "
                f"{self.size} members: shape ({self.size},)"
            )
        return found[self.number]


def members(
    kind: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Return a dict by name with families' members in their places, and the members' names.

    Raises
    ------
    ModelError
        If a member's name stands there already.
    """
    found: dict[str, Any] = {}
    families: dict[str, tuple[str, ...]] = {}
    for name, spec in given.items():
        each = {name: spec}
        if isinstance(spec, Family):
            families[name] = spec.names(name)
            each = dict.fromkeys(families[name], spec.member)
        for own, x in each.items():
            if own in found:
                raise ModelError(
                    f"{kind}: '{own}' stands there twice, once as a member of a family"
                )
            found[own] = x
    return found, families


def rules_of_members(
    given: Mapping[str, Any], families: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Return rules by name, with a rule for each member in place of that of its family.

    Parameters
    ----------
    given : mapping of str to rule
        Functions or names; of a family a function that returns an array, the name of a family of
        the same size, or a list of a rule for each member.
    families : mapping of str to tuple of str
        The members of each.

    Raises
    ------
    ModelError
        If there are fewer or more rules than members.
    """
    found: dict[str, Any] = {}
    for name, rule in given.items():
        if name not in families:
            found[name] = rule
            continue
        own = families[name]
        if callable(rule):
            what = f"the transition of '{name}'"
            each: tuple[Any, ...] = tuple(Member(rule, i, len(own), what) for i in range(len(own)))
        else:
            each = families.get(rule, (rule,)) if isinstance(rule, str) else tuple(rule)
        if len(each) != len(own):
            raise ModelError(
                f"the transition of '{name}' has {len(each)} rules, and the family {len(own)} "
                "members; give a rule for each, or a function that returns an array of all"
            )
        found |= dict(zip(own, each, strict=True))
    return found
