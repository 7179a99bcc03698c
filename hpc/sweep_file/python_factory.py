"""From a factory in memory to its source: what ``dp.sweep`` is given.

A sweep keeps its model's source and computes from that alone. So a function of a module is found in
its file, and one that was defined in a notebook or in a script is written out with everything that
it reads there: imports, numbers, arrays, functions and what these read in turn. What was found is
executed and compared with the function in memory, code and content (see :mod:`.same_factory`), so
that a sweep computes that one or is refused.
"""

from __future__ import annotations
import __future__

import ast
import hashlib
import inspect
import math
import symtable
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn

import numpy as np

from dpsolve.solvers.errors import ModelError, UsageError

from .local_imports import files_beside
from .model_source import PRIVATE, ModelSource, resolve

MOST = 10_000  # entries of an array, or of a list, that are written out
REMEDY = "Put the model into a file of its own and pass 'file.py:function', or import it from there"


def source_of(model: Any) -> ModelSource:
    """Return the source of a model: of a reference, or of a function in memory.

    Parameters
    ----------
    model : function or str
        A factory; or a reference, see :func:`.model_source.resolve`.

    Raises
    ------
    UsageError
        If a function's source cannot be found, or does not make the function in memory.
    """
    from dpsolve.solvers.library import BUILTIN

    if isinstance(model, str):
        return resolve(model)
    for name, factory in BUILTIN.items():
        if model is factory:
            return resolve(name)
    if not isinstance(model, FunctionType):
        what = f"{type(model).__module__.partition('.')[0]}'s {type(model).__name__}"
        raise UsageError(
            f"a sweep takes a plain function that returns dp.Model(...), a built-in's name or "
            f"'file.py:function', and this is {what}: {model!r:.80}"
        )
    module = sys.modules.get(model.__module__)
    file = getattr(module, "__file__", None)
    if model.__module__ == "__main__" or model.__qualname__ != model.__name__ or file is None:
        found, where = _written_out(model), "its source"
    elif "." in model.__module__ or _installed(model.__module__):
        return _same_text(model, resolve(f"{model.__module__}:{model.__name__}"), file)
    else:
        path = Path(file).resolve()
        found, where = resolve(f"{path.name}:{model.__name__}", path.parent), str(path)
    _compare(model, found, where)
    return found


def _compare(model: FunctionType, found: ModelSource, where: str) -> None:
    """Refuse a source that is another model than the function in memory."""
    from dpsolve.solvers.program_keys.same_factory import differing

    try:
        names = differing(model, found.load(), PRIVATE)
    except ModelError as error:
        raise UsageError(f"{error}\n{REMEDY}.") from None
    if names:
        shown = ", ".join(f"'{name}'" for name in names[:3])
        raise UsageError(
            f"{where} makes another model than the function '{model.__name__}' in memory: {shown} "
            "differ. A sweep keeps the source and computes from it: define the function (or import "
            "its module) anew, and sweep again"
        )


def _same_text(model: FunctionType, found: ModelSource, file: str) -> ModelSource:
    """Refuse an imported module whose file has changed since: workers would import another one."""
    from dpsolve.solvers.program_keys.same_factory import same_steps

    codes = [compile(found.source, file, "exec", dont_inherit=True)]
    for code in codes:  # grows
        codes += [part for part in code.co_consts if inspect.iscode(part)]
    if not any(same_steps(inspect.unwrap(model).__code__, code) for code in codes):
        raise UsageError(
            f"{file} has changed since '{model.__name__}' was imported from it, and a sweep keeps "
            "the file's text: import the module anew (importlib.reload), and sweep again"
        )
    return found


def _installed(module: str) -> bool:
    from dpsolve.solvers.program_keys.installed import is_installed

    return is_installed(module)


def _written_out(model: FunctionType) -> ModelSource:
    """Write a function out, with all that it reads where it was defined."""
    if model.__name__ == "<lambda>":
        raise UsageError("a sweep names its model: write it as a function with def, not as lambda")
    writing = _Writing(model)
    writing.place(model.__name__, model)
    text = writing.text()
    folder = Path.cwd()
    files = tuple(files_beside(text, folder).items())
    writing.refuse_what_stays(folder, [file for file, _ in files])
    file = f"{_place(model)}.py"
    checksum = hashlib.sha256(text.encode()).hexdigest()
    name = model.__name__
    return ModelSource(f"{file}:{name}", name, "file", text, checksum, files, str(folder))


def _place(model: FunctionType) -> str:
    """Return a name for where a function was defined, which tracebacks show."""
    module = model.__module__ or "__main__"  # none, where it was executed from a text
    if module != "__main__":
        return module.rpartition(".")[2]
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Path(script).stem if script else "notebook"


class _Writing:
    """A module that is being written: whatever a name stands for, with all that it needs first.

    Parameters
    ----------
    model : function
        Whose globals are looked into.
    """

    def __init__(self, model: FunctionType) -> None:
        self.model = model
        self.home = model.__module__
        self._names = model.__globals__
        self._imports: list[str] = []
        self._parts: list[str] = []
        self._placed: dict[str, Any] = {}
        self._modules: dict[str, str] = {}  # imported, and the name that stands for it
        self._future = False

    def text(self) -> str:
        """Return the module."""
        head = ["from __future__ import annotations"] if self._future else []
        return "\n\n".join(["\n".join([*head, *sorted(self._imports)]), *self._parts]) + "\n"

    def place(self, name: str, value: Any) -> None:
        """Write what a name stands for, unless it is there."""
        if name in self._placed:
            return
        self._placed[name] = value
        if isinstance(value, ModuleType):
            self._import(f"import {value.__name__} as {name}", value.__name__, name)
        elif (function := self._own_function(value)) is not None:
            self._function(name, function)
        elif (literal := _literal(value)) is not None:
            self._imports += ["import numpy as _numpy"] * ("_numpy." in literal)
            self._imports += ["import jax.numpy as _jnp"] * ("_jnp." in literal)
            self._imports = list(dict.fromkeys(self._imports))
            self._parts.append(f"{name} = {literal}")
        elif (found := _importable(value)) is not None:
            self._import(f"from {found[0]} import {found[1]} as {name}", found[0], name)
        else:
            self._refuse(name, f"what a {type(value).__name__} holds cannot be written out")

    def refuse_what_stays(self, folder: Path, files: list[str]) -> None:
        """Refuse a module that is neither installed nor travels with the source."""
        for module, name in self._modules.items():
            first = module.partition(".")[0]
            travels = any(f == f"{first}.py" or f.startswith(f"{first}/") for f in files)
            known = first == "dpsolve" or _installed(first) or first in packages_distributions()
            if not (travels or known):
                at = getattr(sys.modules.get(first), "__file__", None) or "no file"
                self._refuse(
                    name,
                    f"module '{first}' ({at}) is neither installed nor in this folder ({folder}), "
                    "from which it would travel",
                )

    def _import(self, line: str, module: str, name: str) -> None:
        self._imports.append(line)
        self._modules.setdefault(module, name)

    def _own_function(self, value: Any) -> Callable[..., Any] | None:
        """Return a function (or class) that was defined where the model was, without wrappings."""
        if isinstance(value, type):
            return value if value.__module__ == self.home else None
        if isinstance(value, Mapping) or not callable(value):
            return None
        inner = inspect.unwrap(value)
        own = isinstance(inner, FunctionType) and inner.__globals__ is self._names
        return inner if own else None

    def _function(self, name: str, function: Callable[..., Any]) -> None:
        own = getattr(function, "__name__", name)
        code = getattr(function, "__code__", None)
        if code is not None and code.co_freevars:
            self._refuse(
                name,
                f"'{code.co_freevars[0]}' comes from the function that {own} was defined in, and "
                "does not travel with a sweep; make it a parameter, a size or a global",
            )
        if code is not None and code.co_flags & __future__.annotations.compiler_flag:
            self._future = True
        try:
            text = textwrap.dedent(inspect.getsource(function)).rstrip()
            [statement] = ast.parse(text).body
        except (OSError, TypeError, SyntaxError, ValueError):
            self._refuse(name, "its source cannot be found: it was typed at a prompt, or made")
        named = getattr(statement, "name", None)
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
            [target] = statement.targets
            named = getattr(target, "id", None)
            own = named if own == "<lambda>" and named is not None else own
        if named != own:
            self._refuse(name, "its source cannot be found: it stands in the middle of a line")
        for other in _reads(text):
            if other in self._names and not other.startswith("__"):
                self.place(other, self._names[other])
        self._parts.append(text)
        if name != own:
            self._parts.append(f"{name} = {own}")

    def _refuse(self, name: str, why: str) -> NoReturn:
        who = self.model.__name__
        what = f"'{who}'" if name == who else f"'{who}' reads '{name}', and it"
        raise UsageError(f"{what} cannot be taken along by a sweep: {why}. {REMEDY}.")


def _reads(text: str) -> Iterator[str]:
    """Yield the globals that a text reads, when it is executed or later."""
    tables = [symtable.symtable(text, "model", "exec")]
    for table in tables:  # grows
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and symbol.is_global():
                yield symbol.get_name()


def _importable(value: Any) -> tuple[str, str] | None:
    """Return the module and the name by which an object can be imported, if it can."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    parts = module.split(".")
    for i in range(1, len(parts) + 1):  # where it is public, before where it is made
        place = ".".join(parts[:i])
        if getattr(sys.modules.get(place), name, None) is value:
            return place, name
    return None


PLAIN = (int, str, bool, bytes, complex, type(None), range)


def _literal(value: Any) -> str | None:
    """Write a value as Python does, None if that is not possible."""
    kind = type(value)
    if kind in PLAIN:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if kind in (list, tuple, set, frozenset):
        parts = [_literal(x) for x in value] if len(value) <= MOST else [None]
        if kind in (set, frozenset):  # in an order that the next process has, too
            parts.sort(key=str)
        if any(part is None for part in parts):
            return None
        inside = ", ".join(part for part in parts if part is not None)
        brackets = f"[{inside}]" if kind is not tuple else f"({inside}{',' * (len(parts) == 1)})"
        return brackets if kind in (list, tuple) else f"{kind.__name__}({brackets})"
    if kind is dict:
        pairs = [(_literal(k), _literal(x)) for k, x in value.items()]
        if len(pairs) > MOST or any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{k}: {x}" for k, x in pairs) + "}"
    return _array(value)


def _array(value: Any) -> str | None:
    """Write an array out; the shape stands beside the entries, because some may be none."""
    is_numpy = isinstance(value, np.ndarray | np.generic)
    if not is_numpy and type(value).__module__.partition(".")[0] not in ("jax", "jaxlib"):
        return None
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return None
    try:
        found = np.asarray(value)
    except TypeError:  # a key of JAX
        return None
    if found.dtype.kind not in "biuf" or found.size > MOST:
        return None
    entries, name = _literal(found.ravel().tolist()), found.dtype.name
    written = f"_numpy.array({entries}, dtype={name!r}).reshape({found.shape})"
    if isinstance(value, np.generic):
        return f"_numpy.{name}({_literal(value.item())})"
    return written if is_numpy else f"_jnp.asarray({written})"
