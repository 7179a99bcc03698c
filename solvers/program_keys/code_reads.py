"""What a function's code reads beside its arguments, found in its byte code.

A *read* is a global, a variable of an enclosing function, or a module that the code imports, with
the attributes that are looked up in it: ``np`` with ``("random", "normal")``. Code that a function
defines within itself (lambdas, inner functions) is part of it.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import NamedTuple


class Read(NamedTuple):
    """One thing that code reads.

    Attributes
    ----------
    kind : str
        ``global``, ``cell`` (a variable of an enclosing function) or ``import``.
    name : str
        The variable's, or the imported module's.
    attributes : tuple of str
        Looked up in it, one after another.
    bare_call : bool
        Whether what is found is called without arguments.
    """

    kind: str
    name: str
    attributes: tuple[str, ...] = ()
    bare_call: bool = False


MOST = 4096  # codes that are remembered
_found: dict[int, tuple[CodeType, tuple[Read, ...]]] = {}


def reads_at_once(code: CodeType) -> tuple[Read, ...]:
    """Return what code reads when it is executed itself, without the functions that it defines."""
    return tuple(dict.fromkeys(_reads(code, frozenset(), {}, inner=False)))


def reads_of(code: CodeType) -> tuple[Read, ...]:
    """Return what code reads, each thing once; the same code is looked through once."""
    known = _found.get(id(code))
    if known is not None and known[0] is code:  # kept, so that the number stays its own
        return known[1]
    found = tuple(dict.fromkeys(_reads(code, frozenset(code.co_freevars), {})))
    if len(_found) >= MOST:
        _found.clear()
    _found[id(code)] = (code, found)
    return found


ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
# What may stand between a function and its call.
FILLING = ("PRECALL", "PUSH_NULL", "CACHE", "NOP", "EXTENDED_ARG", "SWAP", "POP_TOP", "COPY")


def _reads(
    code: CodeType, cells: frozenset[str], imported: Mapping[str, Read], inner: bool = True
) -> Iterator[Read]:
    instructions = [i for i in dis.get_instructions(code) if i.opname not in FILLING]
    here = {k: v for k, v in imported.items() if k in code.co_freevars}
    came: Read | None = None  # what an import has just left
    for i, (op, name) in enumerate((x.opname, x.argval) for x in instructions):
        rest = instructions[i + 1 :]
        if op == "IMPORT_NAME":
            came = Read("import", str(name))
        elif op == "IMPORT_FROM" and came is not None:
            came = Read("import", came.name, (str(name),))
            yield came
        elif op.startswith("STORE_") and came is not None and instructions[i - 1].opname in IMPORTS:
            plain = instructions[i - 1].opname == "IMPORT_NAME"  # binds the first of dotted names
            first = name[0] if isinstance(name, tuple) else str(name)
            here[first] = Read("import", came.name.partition(".")[0]) if plain else came
        if op in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield _whole(Read("global", str(name)), rest)
        elif op.startswith(("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD_FAST")):
            last = name[-1] if isinstance(name, tuple) else str(name)
            if last in here:
                yield _whole(here[last], rest)
            elif op == "LOAD_DEREF" and last in cells:
                yield _whole(Read("cell", last), rest)
    for part in code.co_consts if inner else ():
        if isinstance(part, CodeType):
            yield from _reads(part, cells & frozenset(part.co_freevars), here)


IMPORTS = ("IMPORT_NAME", "IMPORT_FROM")


def _whole(read: Read, rest: list[dis.Instruction]) -> Read:
    """Return a read with the attributes that follow it, and whether a bare call does."""
    attributes = list(read.attributes)
    for here in rest:
        if here.opname not in ATTRIBUTE:
            bare = here.opname.startswith("CALL") and here.arg == 0
            return Read(read.kind, read.name, tuple(attributes), bare)
        attributes.append(str(here.argval))
    return Read(read.kind, read.name, tuple(attributes))
