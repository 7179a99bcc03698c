"""From a model's name or file to its factory, by its source text.

A reference is a built-in (``growth``), an importable function (``package.module:function``) or a
function in a file (``file.py:function``). A file's factory is executed from the text that was read
once, so an edit during a sweep, or before a resume, cannot change what the sweep computes; the
text is registered with :mod:`linecache`, so tracebacks still show its lines.

Only the file itself travels with a sweep. While it is loaded, its folder can be imported from, as
when Python runs a script; on a machine without that folder, such an import fails.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

from dpsolve.solvers.errors import ModelError, RefusedError, UsageError, did_you_mean

Kind = Literal["builtin", "module", "file"]

# Files that hold users' models, by the name that tracebacks show.
_users_files: set[str] = set()


@dataclass(frozen=True)
class ModelSource:
    """A model as text, and how to turn it into a factory.

    Attributes
    ----------
    reference : str
        ``growth``, ``package.module:function`` or ``file.py:function``.
    name : str
        The factory's name.
    kind : str
        ``builtin``, ``module`` or ``file``.
    source : str
        The text of the module that defines the factory.
    sha256 : str
        Of that text.
    folder : str
        Where a file's own imports are looked for; no part of the model's identity.
    """

    reference: str
    name: str
    kind: Kind
    source: str = field(repr=False)
    sha256: str
    folder: str = field(default="", repr=False, compare=False)

    def load(self) -> Callable[..., Any]:
        """Return the factory; the same object each time.

        Raises
        ------
        ModelError
            If the user's file cannot be executed: with its own line, not our traceback.
        RefusedError
            If an installed model is no longer the text that this source names.
        """
        if self.kind == "file":
            module = _execute(self.source, self.file, self.folder)
            return _function(module, self.name, self.file)
        factory, text = _installed(self.reference, self.folder)
        if _sha256(text) != self.sha256:
            raise RefusedError(
                f"model '{self.reference}' as installed here differs from the source that the "
                f"store was computed with (sha256 {self.sha256[:12]}). Install the version it was "
                "computed with, or sweep into a new store."
            )
        return factory

    @property
    def file(self) -> str:
        """The file's name as in the reference, without the function."""
        return self.reference.rpartition(":")[0]

    def as_dict(self) -> dict[str, str]:
        """Return the source as plain text fields, for a store's attributes."""
        names = ("reference", "name", "kind", "source", "sha256")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], folder: Path | None = None) -> ModelSource:
        """Read back what `as_dict` returned."""
        return cls(**given, folder=str(folder or Path.cwd()))


def resolve(reference: str, relative_to: Path | None = None) -> ModelSource:
    """Find a model and read its source.

    Parameters
    ----------
    reference : str
        A built-in's name, ``package.module:function`` or ``file.py:function``; the function may
        be left out when the file defines only one.
    relative_to : Path, optional
        The folder that a file's path starts from; by default the current one.

    Raises
    ------
    UsageError
        If there is no such model; with what there is.
    ModelError
        If the model's file fails when it is executed.
    """
    folder = (relative_to or Path.cwd()).resolve()
    where, _, function = reference.rpartition(":")
    if reference.endswith(".py") or where.endswith(".py"):
        return _from_file(*((where, function) if where else (reference, "")), folder=folder)
    _, text = _installed(reference, str(folder))
    kind: Kind = "module" if where else "builtin"
    return _source(reference, function, kind, text, folder)


def explain(error: BaseException) -> str | None:
    """Return what went wrong in the user's model file, or None if the error is not from there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in _users_files]
    if not frames:
        return None
    at = frames[-1]
    where = f"{at.filename}, line {at.lineno}" + f", in {at.name}" * (at.name != "<module>")
    return f"{where}:\n    {(at.line or '').strip()}\n{type(error).__name__}: {error}"


def _source(reference: str, name: str, kind: Kind, text: str, folder: Path) -> ModelSource:
    return ModelSource(reference, name, kind, text, _sha256(text), str(folder))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _from_file(file: str, function: str, folder: Path) -> ModelSource:
    path = folder / file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        guess = did_you_mean(path.name, others)
        raise UsageError(f"there is no model file {path}.{guess}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the model file {path}: {error}") from None
    module = _execute(text, file, str(path.parent))
    if not function:
        function = _only_function(module, file)
    _function(module, function, file)
    return _source(f"{file}:{function}", function, "file", text, path.parent)


@lru_cache(maxsize=64)
def _execute(text: str, file: str, folder: str) -> ModuleType:
    """Run a file's stored text as a module of its own."""
    module = ModuleType(f"_dpsolve_model_{_sha256(text)[:16]}")
    module.__file__ = file
    _users_files.add(file)
    # Without a modification time, linecache never replaces these lines by those on disk.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up there
    try:
        with _importable(folder):
            exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        del sys.modules[module.__name__]
        line = (error.text or "").rstrip("\n")
        caret = " " * max((error.offset or 1) - 1, 0) + "^"
        raise ModelError(
            f"{error.filename}, line {error.lineno}: {error.msg}\n    {line}\n    {caret}"
        ) from None
    except Exception as error:
        del sys.modules[module.__name__]
        raise ModelError(explain(error) or f"{file}: {type(error).__name__}: {error}") from None
    return module


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _installed(reference: str, folder: str) -> tuple[Callable[..., Any], str]:
    """Return a built-in's or an importable factory, and the text of its module."""
    where, _, name = reference.rpartition(":")
    if where:
        module = _imported(where, reference, folder)
        return _function(module, name, where), _text_of(module)
    from dpsolve.solvers.library import BUILTIN

    if name not in BUILTIN:
        raise UsageError(
            f"there is no built-in model '{name}'.{did_you_mean(name, BUILTIN)} Built-in are: "
            f"{', '.join(BUILTIN)}. Your own: file.py:function or package.module:function."
        )
    return BUILTIN[name], _text_of(sys.modules[BUILTIN[name].__module__])


def _imported(name: str, reference: str, folder: str) -> ModuleType:
    try:
        with _importable(folder):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module '{error.name}' (for model '{reference}'). Install it into "
                "this environment, or name a file: file.py:function."
            ) from None
        raise
    _users_files.add(_file_of(module))
    return module


def _file_of(module: ModuleType) -> str:
    # A module that is compiled into the interpreter has no such attribute.
    return getattr(module, "__file__", None) or ""


def _text_of(module: ModuleType) -> str:
    try:
        return Path(_file_of(module)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the source of module '{module.__name__}' cannot be read ({error}); a sweep keeps "
            "its model's source. Put the model into a file of its own."
        ) from None


def _function(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]  # a factory may return anything
    own = _functions(module)
    raise UsageError(
        f"{where} defines no function '{name}'.{did_you_mean(name, own)} "
        f"It defines: {', '.join(own) or 'none'}."
    )


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def _only_function(module: ModuleType, file: str) -> str:
    own = _functions(module)
    if len(own) == 1:
        return own[0]
    if not own:
        raise UsageError(f"{file} defines no function; a model is one that returns dp.Model.")
    raise UsageError(
        f"{file} defines several functions; say which is the model: "
        + " or ".join(f"{file}:{name}" for name in own)
    )
