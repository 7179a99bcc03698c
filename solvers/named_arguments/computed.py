"""Functions some of whose arguments are computed from others: a position, a family, a rule.

The engine knows functions of states, choices, shocks and post variables. What else an argument can
stand for is computed from these when the function is called, so that to everything else the
function is one of plain names: of those that it takes, and of those that its arguments are
computed from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp


def parameters_of(f: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return a function's parameters by name."""
    return inspect.signature(f).parameters


@dataclass(frozen=True, eq=False)
class Computed:
    """A function some of whose arguments are computed.

    Attributes
    ----------
    written : function
        As the user wrote it.
    parts : dict of str to function
        What computes each of these arguments, from arguments of its own, by name.
    """

    written: Callable[..., Any]
    parts: Mapping[str, Callable[..., Any]]

    @cached_property
    def __signature__(self) -> inspect.Signature:
        every: dict[str, inspect.Parameter] = {}
        for name, p in parameters_of(self.written).items():
            inner = parameters_of(self.parts[name]).items() if name in self.parts else ((name, p),)
            for own, q in inner:
                every.setdefault(own, q.replace(kind=q.KEYWORD_ONLY))
        return inspect.Signature(list(every.values()))

    def __call__(self, **given: Any) -> Any:
        """Compute what is computed, and call the function."""
        own = parameters_of(self.written)
        known = {n: x for n, x in given.items() if n in own and n not in self.parts}
        for name, part in self.parts.items():
            known[name] = part(**{n: given[n] for n in parameters_of(part) if n in given})
        found = self.written(**known)
        for part in self.parts.values():
            if (doubt := getattr(part, "doubt", None)) is not None:
                found = _unless(doubt, found)
        return found


def _unless(doubt: Any, found: Any) -> Any:
    """Return what was found; NaN or false where that is in doubt."""
    x = jnp.asarray(found)
    if x.dtype == bool:
        return x & ~doubt
    return jnp.where(doubt, jnp.nan, x)


@dataclass(frozen=True, eq=False)
class Stack:
    """A function of several names: their values as one array, in order."""

    names: tuple[str, ...]

    @cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in self.names]
        )

    def __call__(self, **given: Any) -> Any:
        """Return the array (names,)."""
        return jnp.stack([jnp.asarray(given[n]) for n in self.names])


@dataclass(frozen=True, eq=False)
class ValueOf:
    """A function of one name: what it stands for."""

    name: str

    @cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.Signature([inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY)])

    def __call__(self, **given: Any) -> Any:
        """Return the value."""
        return given[self.name]
