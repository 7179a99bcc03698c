"""Whether two factories are one: the same code, and the same content of all that it reads.

So a factory that was built anew from text is compared with the one in memory. Where they were
defined (file, line, module) makes no difference.
"""

from __future__ import annotations

import dis
import re
from collections import defaultdict
from collections.abc import Iterator
from types import CodeType
from typing import Any

from .code_reads import FILLING
from .fingerprint import Factory, fingerprint


def differing(one: Factory, other: Factory, anew: str) -> list[str]:
    """Return the names of what two factories differ in.

    Parameters
    ----------
    one, other : function
    anew : str
        What the names of the modules begin with that `other` and its imports live in.

    Raises
    ------
    ModelError
        If one reads what cannot be compared.
    """
    home = re.escape(str(getattr(one, "__module__", "")))
    elsewhere = re.compile(rf"^(?:{home}$|{re.escape(anew)}[^.]*\.?)")
    first, second = (_by_name(factory, elsewhere) for factory in (one, other))
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def same_steps(one: CodeType, other: CodeType) -> bool:
    """Tell whether two codes of one name do the same."""
    nowhere = re.compile(r"(?!)")
    return one.co_name == other.co_name and _plain(one, nowhere) == _plain(other, nowhere)


def _by_name(factory: Factory, elsewhere: re.Pattern[str]) -> dict[str, list[Any]]:
    found = defaultdict(list)
    for name, token in fingerprint(factory):
        found[name].append(_plain(token, elsewhere))
    return found


def _plain(token: Any, elsewhere: re.Pattern[str]) -> Any:
    """Return a token without the places where code was defined."""
    if isinstance(token, CodeType):
        return tuple(_steps(token, elsewhere))
    if isinstance(token, str):
        return elsewhere.sub("", token)
    if type(token) is tuple:
        return tuple(_plain(part, elsewhere) for part in token)
    return token


def _steps(code: CodeType, elsewhere: re.Pattern[str]) -> Iterator[Any]:
    """Yield what code does.

    How a method is called depends on the text around a function: one that is looked up in a module
    which the same text imports is loaded as an attribute.
    """
    yield code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for step in dis.get_instructions(code):
        if step.opname in FILLING:
            continue
        name = step.opname.replace("LOAD_METHOD", "LOAD_ATTR")
        jumps = step.opcode in dis.hasjrel or step.opcode in dis.hasjabs
        found = step.argval
        # A constant's type counts: 1 and 1.0 are equal.
        yield name, None if jumps else (type(found).__name__, _plain(found, elsewhere))
