"""``dp.Model(...)`` called with names that it does not have, or without those that it needs.

Python's own words for that are a TypeError about ``__init__``, which does not know what was meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, TypeVar

from dpsolve.solvers.errors import ModelError, did_you_mean

T = TypeVar("T")


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
