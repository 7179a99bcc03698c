"""Sweep file and command line together, every mistake at once.

The names of the variables to keep are another matter (:mod:`.check_names`): only tracing the model
tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsolve.solvers.errors import DpsolveError, RefusedError, UsageError
from dpsolve.solvers.model.factory_signature import Signature, signature
from dpsolve.solvers.options import SolveOptions

from .array_values import read_array
from .consistency import disagreements
from .csv_table import read_table
from .fields import VERIFY, Sweep, field_mistakes, number_in_quotes, verified
from .mistakes import Key, Mistake, path_fault, report
from .model_source import ModelSource, resolve
from .overrides import Overrides
from .toml_lines import TomlSource


@dataclass(frozen=True)
class Reading:
    """A valid sweep, and the model it names.

    Attributes
    ----------
    sweep : Sweep
    source : ModelSource
        Its model.
    signature : Signature
        The model's.
    error_of : callable
        Makes one error of further mistakes, with the lines where they stand.
    """

    sweep: Sweep
    source: ModelSource
    signature: Signature
    error_of: Callable[[list[Mistake]], UsageError] = field(repr=False)


def read_sweep(path: Path | None, overrides: Overrides | None = None) -> Reading:
    """Read a sweep file, with the command line's options in place.

    Parameters
    ----------
    path : Path or None
        The TOML file. Its model and table are looked for in its folder. None: the options say
        all, and paths start from the current folder.
    overrides : Overrides, optional
        Options that replace what the file says.

    Raises
    ------
    UsageError
        With every mistake of the file and of the options: where it stands, the value, the remedy.
    """
    if path is not None and (fault := path_fault(str(path))):
        raise UsageError(f"sweep file: {fault}")
    document = TomlSource.read(path) if path is not None else TomlSource("the command line", {})
    folder = path.resolve().parent if path is not None else Path.cwd()
    raw, origins, mistakes = (overrides or Overrides()).apply(document.data)
    model = _model(raw.get("model"), folder if ("model",) not in origins else Path.cwd())
    title = path.name if path is not None else "the sweep"
    stem = path.stem if path is not None else ""
    return _read(raw, mistakes, model, folder, stem, title, _places(document, origins))


def read_tables(raw: Mapping[str, Any], source: ModelSource) -> Reading:
    """Read a sweep from tables that were written in Python.

    Parameters
    ----------
    raw : mapping
        The tables of a sweep file. Paths start from the current folder.
    source : ModelSource
        The sweep's model.

    Raises
    ------
    UsageError
        With every mistake.
    """
    raw = {**raw, "model": source.reference}
    model = source, signature(source.load())
    return _read(raw, [], model, Path.cwd(), "", "the sweep", lambda key: (0, ""))


def _read(
    raw: dict[str, Any],
    mistakes: list[Mistake],
    model: tuple[ModelSource | None, Signature | Mistake | None],
    folder: Path,
    stem: str,
    title: str,
    place: Callable[[Key], tuple[int, str]],
) -> Reading:
    """Check tables, with the mistakes that were found before."""

    def in_one(mistakes: list[Mistake]) -> UsageError:
        return report(title, mistakes, raw, place)

    source, found = model
    sig = found if isinstance(found, Signature) else None
    raw = raw | _arrays_from_files(raw, sig, folder, mistakes)
    fields = raw
    if "table" in raw:
        table, faults = read_table(raw["table"], folder)
        mistakes += faults
        if table is not None:
            raw = fields = raw | {"table": table}
        else:  # its fields are checked already; that it stands there still counts
            fields = {name: part for name, part in raw.items() if name != "table"}
    if isinstance(found, Mistake):
        mistakes.append(found)
    store = _store_table(raw, stem, sig)
    mistakes += field_mistakes(fields | store)
    mistakes += disagreements(raw, sig)
    mistakes += _options(raw.get("solve"))
    mistakes += _store(store["store"])
    if mistakes or source is None or sig is None:
        raise in_one(mistakes)
    sweep = Sweep.model_validate(fields | store | {"model": source.reference})
    return Reading(sweep, source, sig, in_one)


def _arrays_from_files(
    raw: Mapping[str, Any], sig: Signature | None, folder: Path, mistakes: list[Mistake]
) -> dict[str, Any]:
    """Read the files that [fixed] names for parameters that are arrays."""
    fixed = raw.get("fixed")
    if sig is None or not isinstance(fixed, Mapping):
        return {}
    read = {}
    for name in sig.arrays:
        if isinstance(text := fixed.get(name), str):
            found = read_array(text, name, folder)
            if isinstance(found, str):
                mistakes.append(Mistake(("fixed", name), found))
            else:
                read[name] = found
    return {"fixed": {**fixed, **read}} if read else {}


def _places(document: TomlSource, origins: Mapping[Key, str]) -> Callable[[Key], tuple[int, str]]:
    def place(key: Key) -> tuple[int, str]:
        for length in range(len(key), 0, -1):
            if key[:length] in origins:
                return -1, origins[key[:length]]
        line = document.line(key)
        return (line, f"line {line}") if line is not None else (0, "")

    return place


def _model(reference: Any, folder: Path) -> tuple[ModelSource | None, Signature | Mistake | None]:
    if not isinstance(reference, str) or not reference.strip():
        return None, None  # a mistake of the field, told there
    if fault := path_fault(reference):
        return None, Mistake(("model",), fault)
    try:
        source = resolve(reference, folder)
        return source, signature(source.load())
    except RefusedError:
        raise
    except DpsolveError as error:
        return None, Mistake(("model",), str(error))


def _store_table(raw: Mapping[str, Any], stem: str, sig: Signature | None) -> dict[str, Any]:
    """Return the [store] table: named after the file, or after the model, if it names no path."""
    store = raw.get("store", {})
    name = stem or (sig.name if sig is not None else "sweep")
    return {"store": {"path": f"{name}.zarr"} | store if isinstance(store, dict) else store}


def _options(solve: Any) -> Iterator[Mistake]:
    """Check each option of [solve] by itself, so that each mistake is told with its line."""
    if not isinstance(solve, Mapping):
        return
    for name, value in solve.items():
        if quoted := number_in_quotes(value):
            yield Mistake(("solve", name), quoted)
            continue
        try:
            if name == VERIFY:
                verified(value)
            else:
                # Whether that tolerance is one is told at its own line.
                beside = {"tol": 1.0} if name == "refine" and "tol" in solve else {}
                SolveOptions.from_mapping({name: value, **beside})
        except UsageError as error:
            yield Mistake(("solve", name), str(error))


def _store(store: Any) -> Iterator[Mistake]:
    path = store.get("path") if isinstance(store, Mapping) else None
    if not isinstance(path, str):
        return
    if fault := path_fault(path):
        yield Mistake(("store", "path"), fault)
    elif Path(path).is_file():
        text = "there is a file of that name; a store is a folder. Choose another path."
        yield Mistake(("store", "path"), text)
