"""Function arguments bound by name to states, choices and shocks; unknown ones refused.

What a function takes tells what depends on what; everything the engine saves rests on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.program_keys.fingerprint import refuse_randomness


def bind(f: Any, known: Iterable[str], what: str) -> tuple[str, ...]:
    """Return the names that `f` takes, checked against the names it could take.

    Parameters with a default that are not `known` keep their default, so that
    ``lambda a, scale=scale: ...`` works.

    Raises
    ------
    ModelError
        If `f` is not a function, takes an argument that is none of `known`, or draws random
        numbers.
    """
    known = tuple(known)
    if not callable(f):
        raise ModelError(f"{what} must be a function of {', '.join(known)}, not {f!r}")
    taken = []
    for p in inspect.signature(f).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            raise ModelError(
                f"{what} takes '{p}'; arguments are bound by name: name those it needs, among "
                f"{', '.join(known)}"
            )
        if p.name in known:
            taken.append(p.name)
        elif p.default is p.empty:
            raise ModelError(
                f"{what} takes an argument '{p.name}', which is no state, choice or shock it can "
                f"see.{did_you_mean(p.name, known)} It may take: {', '.join(known) or '(nothing)'}."
            )
    refuse_randomness(f, what)
    return tuple(taken)


def arguments(f: Callable[..., Any], known: Iterable[str]) -> tuple[str, ...]:
    """Return those of the `known` names that `f` takes, in the order of its signature."""
    known = set(known)
    return tuple(name for name in inspect.signature(f).parameters if name in known)
