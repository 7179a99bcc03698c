"""From a model's name or file to its factory, by its source text.

A reference is a built-in (``growth``), an importable function (``package.module:function``), a
function in a file (``file.py:function``) or a file of arrays (``file.npz``, :mod:`.array_file`).
A file's factory is executed from the text that was read once, so an edit during a sweep, or before
a resume, cannot change what the sweep computes; the text is registered with :mod:`linecache`, so
tracebacks still show its lines.

What the file imports from its own folder, and what that imports, travels with it (see
:mod:`.local_imports`) and is compared as the file itself is: as programs, so that comments and
docstrings may change. An import that no ``import`` statement shows (:mod:`importlib`) is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

from dpsolve.solvers.errors import DpsolveError, ModelError, RefusedError, UsageError, did_you_mean

from .array_file import is_array_file, model_text
from .local_imports import INIT, Importer, execute, files_beside, same_code

Kind = Literal["builtin", "module", "file"]
Files = tuple[tuple[str, str], ...]  # paths and texts

PRIVATE = "_dpsolve_model_"
"""What the names of modules begin with that were executed from a model's text."""

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
    files : tuple of (str, str)
        Path, from its folder, and text of every file there that it imports, directly or not.
    folder : str
        Where these were found; no part of the model's identity.
    at_hand : bool
        Whether it was read from that folder just now, and not from a store. A stored file has all
        that it imports from there with it: what else lies in the folder by now is not looked at.
    """

    reference: str
    name: str
    kind: Kind
    source: str = field(repr=False)
    sha256: str
    files: Files = field(default=(), repr=False)
    folder: str = field(default="", repr=False, compare=False)
    at_hand: bool = field(default=True, repr=False, compare=False)

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
            module = _execute(self.source, self.file, self.folder, self.files, self.at_hand)
            return _function(module, self.name, self.file)
        factory, text, files = _installed(self.reference, self.folder)
        held, here = dict(self.files), dict(files)
        same = _sha256(text) == self.sha256 or same_code(text, self.source)
        other = [] if same else [self.reference]
        if self.files:  # format 1 kept none
            names = {**held, **here}
            other += [n for n in names if not same_code(held.get(n, ""), here.get(n, ""))]
        if other:
            what = f"model '{self.reference}'" + f" ({other[0]})" * (other[0] != self.reference)
            raise RefusedError(
                f"{what} as installed here differs from the source that the store was computed "
                f"with (sha256 {self.sha256[:12]}). Install the version it was computed with, or "
                "sweep into a new store."
            )
        return factory

    @property
    def is_builtin(self) -> bool:
        """Whether loading it runs dpsolve's own code alone."""
        return self.kind == "builtin" and ":" not in self.reference

    @property
    def file(self) -> str:
        """The file's name as in the reference, without the function."""
        return self.reference.rpartition(":")[0]

    def as_dict(self) -> dict[str, str]:
        """Return the source as plain text fields, for a store's attributes."""
        names = ("reference", "name", "kind", "source", "sha256")
        files = json.dumps(dict(self.files))
        beside = {"files": files, "files_sha256": _sha256(files)}
        return {name: getattr(self, name) for name in names} | beside

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], folder: Path | None = None) -> ModelSource:
        """Read back what `as_dict` returned, or what it did before files travelled."""
        own = {k: v for k, v in given.items() if k not in ("files", "files_sha256")}
        files = tuple(json.loads(given.get("files", "{}")).items())
        return cls(**own, files=files, folder=str(folder or Path.cwd()))


@dataclass(frozen=True)
class StoredSource(ModelSource):
    """A model's source as a store holds it: to be read and compared; run only if it is built in."""

    def load(self) -> Callable[..., Any]:
        """Return the factory of a built-in.

        Raises
        ------
        RefusedError
            If it is none: whoever made the store can make it do anything.
        """
        if not self.is_builtin:
            raise RefusedError(f"the model {self.reference} is not trusted, and was not run")
        return super().load()


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
    if is_array_file(folder / (where or reference)):
        name, text = model_text(folder / (where or reference))
        return _source(f"{where or reference}:{name}", name, "file", text, (), folder)
    _, text, files = _installed(reference, str(folder))
    kind: Kind = "module" if where else "builtin"
    return _source(reference, function, kind, text, files, folder)


def explain(error: BaseException) -> str | None:
    """Return what went wrong in the user's model file, or None if the error is not from there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in _users_files]
    if not frames:
        return None
    at = frames[-1]
    where = f"{at.filename}, line {at.lineno}" + f", in {at.name}" * (at.name != "<module>")
    return f"{where}:\n    {(at.line or '').strip()}\n{type(error).__name__}: {error}"


def _source(
    reference: str, name: str, kind: Kind, text: str, files: Files, folder: Path
) -> ModelSource:
    return ModelSource(reference, name, kind, text, _sha256(text), files, str(folder))


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
    files = tuple(files_beside(text, path.parent).items())
    module = _execute(text, file, str(path.parent), files, True)
    if not function:
        function = _only_function(module, file)
    _function(module, function, file)
    return _source(f"{file}:{function}", function, "file", text, files, path.parent)


@lru_cache(maxsize=64)
def _execute(text: str, file: str, folder: str, files: Files, at_hand: bool) -> ModuleType:
    """Run a file's stored text, and those of the files that it imports, as modules of its own."""
    module = ModuleType(f"{PRIVATE}{_sha256(json.dumps([text, files]))[:16]}")
    module.__file__ = file
    place = file[: len(file) - len(Path(file).name)]
    importer = Importer(dict(files), folder, place, module.__name__)
    module.__dict__["__builtins__"] = importer.builtins()
    _users_files.add(file)
    # Without a modification time, linecache never replaces these lines by those on disk.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up there
    before = set(sys.modules)
    try:
        with _importable(folder) if at_hand else nullcontext():
            execute(text, file, module)
    except SyntaxError as error:
        importer.forget()
        del sys.modules[module.__name__]
        line = (error.text or "").rstrip("\n")
        caret = " " * max((error.offset or 1) - 1, 0) + "^"
        raise ModelError(
            f"{error.filename}, line {error.lineno}: {error.msg}\n    {line}\n    {caret}"
        ) from None
    except DpsolveError:
        importer.forget()
        del sys.modules[module.__name__]
        raise
    except Exception as error:
        _users_files.update(importer.shown)
        importer.forget()
        del sys.modules[module.__name__]
        raise ModelError(explain(error) or f"{file}: {type(error).__name__}: {error}") from None
    _users_files.update(importer.shown)
    _refuse_hidden_imports(file, folder, set(sys.modules) - before - {*importer.loaded})
    return module


def _refuse_hidden_imports(file: str, folder: str, modules: set[str]) -> None:
    """Refuse modules of the model's folder that no ``import`` statement asked for."""
    for name in sorted(modules):
        path = Path(_file_of(sys.modules[name]) or "/")
        place = path.parent.parent if path.name == INIT else path.parent
        if path.is_absolute() and place == Path(folder):
            del sys.modules[name]
            raise UsageError(
                f"{file} imports {name} from its folder, and not by an import statement, so that "
                f"it would not travel with a sweep. Write: import {name}"
            )


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _installed(reference: str, folder: str) -> tuple[Callable[..., Any], str, Files]:
    """Return a built-in's or an importable factory, its module's text, and what that imports."""
    where, _, name = reference.rpartition(":")
    if where:
        module = _imported(where, reference, folder)
        factory, text = _function(module, name, where), _text_of(module)
        return factory, text, _files_of_module(module, text)
    from dpsolve.solvers.library import BUILTIN

    if name not in BUILTIN:
        raise UsageError(
            f"there is no built-in model '{name}'.{did_you_mean(name, BUILTIN)} Built-in are: "
            f"{', '.join(BUILTIN)}. Your own: file.py:function or package.module:function."
        )
    return BUILTIN[name], _text_of(sys.modules[BUILTIN[name].__module__]), ()


def _files_of_module(module: ModuleType, text: str) -> Files:
    """Return the files that a module imports from its package, or else from its folder."""
    path, name = Path(_file_of(module)), module.__name__
    is_package = path.name == INIT
    depth = name.count(".") + is_package
    place = path.parents[depth]
    alone = not depth and "site-packages" in place.parts  # beside it lies what is not its own
    if alone or name.partition(".")[0] == "dpsolve":
        return ()
    package = name if is_package else name.rpartition(".")[0]
    only = name.partition(".")[0] if depth else None
    found = files_beside(text, place, package=package, only=only)
    own = path.relative_to(place).as_posix()
    return tuple((file, text) for file, text in found.items() if file != own)


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
