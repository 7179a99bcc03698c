"""Arguments bound by name, of a model's functions and of ``dp.Model`` itself; unknown ones refused.

What a function takes tells what depends on what; everything the engine saves rests on it. Python's
own words for a wrong name are a TypeError about ``__init__``, which does not know what was meant.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import reduce, wraps
from typing import Any, TypeVar

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.program_keys.fingerprint import refuse_randomness

T = TypeVar("T")


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
    taken = _bound(inspect.signature(f).parameters.values(), known, what)
    while hasattr(f, "written"):  # what a user wrote, of what it was read as
        f = f.written
    refuse_randomness(f, what)
    return taken


def _bound(
    parameters: Iterable[inspect.Parameter], known: tuple[str, ...], what: str
) -> tuple[str, ...]:
    taken = []
    for p in parameters:
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
    return tuple(taken)


def arguments(f: Callable[..., Any], known: Iterable[str]) -> tuple[str, ...]:
    """Return those of the `known` names that `f` takes, in the order of its signature."""
    known = set(known)
    return tuple(name for name in inspect.signature(f).parameters if name in known)


def named_by(rule: Any) -> frozenset[str]:
    """Return the names that a rule, a function or the name of something, may depend on."""
    if isinstance(rule, str):
        return frozenset({rule})
    return frozenset(inspect.signature(rule).parameters) if callable(rule) else frozenset()


def bind_after_number(f: Any, known: Iterable[str], what: str) -> tuple[str, ...]:
    """Return the names that a function of one number takes beside it, checked as by :func:`bind`.

    The number is its first argument, whatever that is called, and is given by place.

    Raises
    ------
    ModelError
        If `f` is not a function, takes no argument, or takes one that is none of `known`.
    """
    if not callable(f):
        raise ModelError(f"{what} must be a function of one number, not {f!r}")
    first, *rest = inspect.signature(f).parameters.values() or (None,)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise ModelError(f"{what} takes no number; it is a function of one: lambda c: 1 / c")
    taken = _bound(rest, tuple(known), what)
    refuse_randomness(f, what)
    return taken


@dataclass(frozen=True, eq=False)
class Conjunction:
    """A function that is true where all of several are; it takes what any of them takes.

    Attributes
    ----------
    parts : tuple of functions
        Of named arguments; each returns true or false.
    """

    parts: tuple[Callable[..., Any], ...]

    @property
    def __signature__(self) -> inspect.Signature:
        every: dict[str, inspect.Parameter] = {}
        for part in self.parts:
            for name, p in inspect.signature(part).parameters.items():
                every.setdefault(name, p.replace(kind=p.KEYWORD_ONLY))
        return inspect.Signature(list(every.values()))

    def __call__(self, **given: Any) -> Any:
        """Return whether all parts are true."""
        said = (f(**{n: given[n] for n in arguments(f, given)}) for f in self.parts)
        return reduce(operator.and_, said)


def named_fields(cls: type[T]) -> type[T]:
    """Decorate a dataclass of keywords, so that it says in words which are unknown or missing."""
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # it decorates dataclasses
    needed = [
        f.name
        for f in fields(cls)  # type: ignore[arg-type]
        if f.default is MISSING and f.default_factory is MISSING
    ]
    inner = cls.__init__
    name = f"dp.{cls.__name__}"

    @wraps(inner)
    def __init__(self: Any, *args: Any, **given: Any) -> None:
        if args:
            raise ModelError(
                f"{name} takes names: {name}({', '.join(f'{f}=...' for f in needed)}); the first "
                f"of {len(args)} without one is {args[0]!r}"
            )
        for field in given:
            if field not in known:
                raise ModelError(
                    f"{name} takes no '{field}'.{did_you_mean(field, known)} It takes: "
                    f"{', '.join(known)}."
                )
        missing = [field for field in needed if field not in given]
        if missing:
            raise ModelError(
                f"{name} needs {' and '.join(missing)}: "
                f"{name}({', '.join(f'{f}=...' for f in needed)})"
            )
        inner(self, **given)

    cls.__init__ = __init__  # type: ignore[method-assign]  # what a dataclass decorator does, too
    return cls


def read_dict(name: str, given: Any) -> dict[Any, Any]:
    """Return what stands under a name of the constructor as a dict; None is an empty one.

    Raises
    ------
    ModelError
        If it is no dict.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ModelError(f"{name} is {given!r}; it is a dict by name: {name}={{'x': ...}}")
    return dict(given)
