"""What a model file imports from its own folder: found, kept as text, and imported from that text.

The files are those that ``import`` statements name, wherever they stand, and what these import in
turn. They are executed as modules of the model's own, under names that no other model shares, so
that two models with a ``helper.py`` each have their own, and no edit reaches a running sweep.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from dpsolve.solvers.errors import UsageError

INIT = "__init__.py"


def files_beside(
    text: str, folder: Path, *, package: str = "", only: str | None = None
) -> dict[str, str]:
    """Return the texts of the files that a text imports from a folder, by path within it.

    Parameters
    ----------
    text : str
        Of a module.
    folder : Path
    package : str
        Of that module, from which its relative imports start.
    only : str, optional
        The one package to look at.
    """
    found: dict[str, str] = {}
    open_texts = [(text, package)]
    while open_texts:
        source, within = open_texts.pop()
        for name in _imported(source, within):
            first = name.partition(".")[0]
            if first == "dpsolve" or (only is not None and first != only):
                continue
            for path, itself in _files_of(name, folder):
                if path not in found:
                    found[path] = _read(folder / path)
                    open_texts.append((found[path], itself))
    return dict(sorted(found.items()))


def _imported(text: str, package: str) -> Iterator[str]:
    """Yield the dotted names that a text may import; a text with a mistake imports nothing."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = _absolute(base, package, node.level)
            if base:
                yield base
                yield from (f"{base}.{a.name}" for a in node.names if a.name != "*")


def _absolute(name: str, package: str, level: int) -> str:
    parts = package.split(".") if package else []
    if level > len(parts):
        return ""  # Python refuses it
    start = parts[: len(parts) - level + 1]
    return ".".join([*start, name] if name else start)


def _files_of(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that importing a dotted name executes, each with its package."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        path, dotted = "/".join(parts[:i]), ".".join(parts[:i])
        if (folder / path / INIT).is_file():
            yield f"{path}/{INIT}", dotted
        elif (folder / f"{path}.py").is_file():
            yield f"{path}.py", ".".join(parts[: i - 1])
            return
        elif not (folder / path).is_dir():
            return


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}, which the model imports: {error}") from None


def execute(text: str, file: str, module: ModuleType) -> None:
    """Execute a text as a module.

    Raises
    ------
    ModelError
        If it draws random numbers: each process would have others.
    """
    code = compile(text, file, "exec", dont_inherit=True)
    exec(code, module.__dict__)
    # Here, because it imports jax, and whoever only looks at a store should not have to.
    from dpsolve.solvers.program_keys.fingerprint import refuse_draws_at_import

    refuse_draws_at_import(code, module, file)


class Importer:
    """Imports for a model's modules: from the texts that travel with it, else as usual.

    Parameters
    ----------
    files : dict of str to str
        Texts by path, as :func:`files_beside` returns them.
    folder : str
        Where these paths began, for what lies beside a file: ``__file__`` says so.
    place : str
        The folder that tracebacks show before them.
    prefix : str
        What the names of the modules begin with.
    """

    def __init__(self, files: Mapping[str, str], folder: str, place: str, prefix: str) -> None:
        self.files = files
        self.folder = folder
        self.place = place
        self.prefix = prefix
        self.shown: list[str] = []  # the names of files in tracebacks
        self.loaded: list[str] = []

    def builtins(self) -> dict[str, Any]:
        """Return the built-in functions of the model's modules, with this ``import``."""
        return {**vars(builtins), "__import__": self._import}

    def forget(self) -> None:
        """Take the modules out again, because one of them could not be executed."""
        for name in self.loaded:
            sys.modules.pop(name, None)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        whole = name
        if level:
            own = str((globals or {}).get("__package__") or "")
            inside = own.removeprefix(self.prefix).removeprefix(".")
            if own and (own == self.prefix or own.startswith(f"{self.prefix}.")):
                whole = _absolute(name, inside, level)
        if not self._holds(whole.partition(".")[0]):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        parts = whole.split(".")
        modules = [self._module(".".join(parts[:i])) for i in range(1, len(parts) + 1)]
        if not fromlist:
            return modules[0]
        for each in fromlist:
            if not hasattr(modules[-1], each) and self._holds(f"{whole}.{each}"):
                self._module(f"{whole}.{each}")
        return modules[-1]

    def _holds(self, name: str) -> bool:
        path = name.replace(".", "/")
        return f"{path}.py" in self.files or any(file.startswith(f"{path}/") for file in self.files)

    def _module(self, name: str) -> ModuleType:
        private = f"{self.prefix}.{name}"
        if (known := sys.modules.get(private)) is not None:
            return known
        path = name.replace(".", "/")
        is_package = f"{path}.py" not in self.files
        file = f"{path}/{INIT}" if is_package else f"{path}.py"
        if not self._holds(name):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        module = ModuleType(private)
        module.__package__ = private if is_package else private.rpartition(".")[0]
        if is_package:
            module.__path__ = []
        text = self.files.get(file, "")  # a folder without a file of its own is empty
        shown = f"{self.place}{file}"
        module.__file__ = str(Path(self.folder) / file)
        module.__dict__["__builtins__"] = self.builtins()
        linecache.cache[shown] = (len(text), None, text.splitlines(keepends=True), shown)
        self.shown.append(shown)
        self.loaded.append(private)
        sys.modules[private] = module
        try:
            execute(text, shown, module)
        except BaseException:
            sys.modules.pop(private, None)
            raise
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[f"{self.prefix}.{above}"], last, module)
        return module


def same_code(a: str, b: str) -> bool:
    """Tell whether two texts are the same program: comments and docstrings make no difference."""
    return a == b or _program(a) == _program(b)


def _program(text: str) -> str:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            text_alone = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if text_alone and isinstance(first.value.value, str):  # type: ignore[union-attr]
                node.body = node.body[1:]
    return ast.dump(tree)
