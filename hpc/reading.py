"""Reading a sweep: file and command line together, every mistake at once.

First the fields, the table, the model and their agreement; then, if the sweep stands, what needs
the model itself: the names of the variables to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..solvers.errors import DpsolveError, RefusedError, UsageError
from ..solvers.factory import Signature, signature
from ..solvers.options import SolveOptions
from .agreement import disagreements
from .mistakes import Key, Mistake, report
from .overrides import Overrides
from .resolve import ModelSource, resolve
from .spec import Sweep, field_mistakes, number_in_quotes
from .table import read_table
from .toml_source import TomlSource

__all__ = ["Reading", "load_sweep", "read_sweep"]


@dataclass(frozen=True)
class Reading:
    """A valid sweep, and the model it names."""

    sweep: Sweep
    source: ModelSource
    signature: Signature


def load_sweep(path: Path | None, overrides: Overrides | None = None) -> Sweep:
    """Read a sweep file; see `read_sweep`."""
    return read_sweep(path, overrides).sweep


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
    document = TomlSource.read(path) if path is not None else TomlSource("the command line", {})
    folder = path.resolve().parent if path is not None else Path.cwd()
    raw, origins, mistakes = (overrides or Overrides()).apply(document.data)
    place = _places(document, origins)

    def stop_if_wrong() -> None:
        if mistakes:
            title = path.name if path is not None else "the sweep"
            raise report(title, mistakes, raw, place)

    if "table" in raw:
        raw["table"], faults = read_table(raw["table"], folder)
        mistakes += faults
        if faults:
            raw.pop("table")
    source, found = _model(raw.get("model"), folder if ("model",) not in origins else Path.cwd())
    if isinstance(found, Mistake):
        mistakes.append(found)
    sig = found if isinstance(found, Signature) else None
    _fill_in(raw, path, sig)
    mistakes += field_mistakes(raw)
    mistakes += disagreements(raw, sig)
    mistakes += _options(raw.get("solve"))
    mistakes += _store(raw["store"])
    stop_if_wrong()
    assert source is not None and sig is not None  # else there were mistakes
    sweep = Sweep.model_validate(raw | {"model": source.reference})
    mistakes += _unknown_names(sweep, source, sig)
    stop_if_wrong()
    return Reading(sweep, source, sig)


def _places(
    document: TomlSource, origins: Mapping[Key, str]
) -> Callable[[Key], tuple[int, str]]:
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
    try:
        source = resolve(reference, folder)
        return source, signature(source.load())
    except RefusedError:
        raise
    except DpsolveError as error:
        return None, Mistake(("model",), str(error))


def _fill_in(raw: dict[str, Any], path: Path | None, sig: Signature | None) -> None:
    """Name the store after the file, or after the model, if the sweep does not."""
    store = raw.setdefault("store", {})
    if isinstance(store, dict):
        name = path.stem if path is not None else sig.name if sig is not None else "sweep"
        store.setdefault("path", f"{name}.zarr")


def _options(solve: Any) -> Iterator[Mistake]:
    """Check each option of [solve] by itself, so that each mistake is told with its line."""
    if not isinstance(solve, Mapping):
        return
    for name, value in solve.items():
        if quoted := number_in_quotes(value):
            yield Mistake(("solve", name), quoted)
            continue
        try:
            SolveOptions.from_mapping({name: value})
        except UsageError as error:
            yield Mistake(("solve", name), str(error))


def _store(store: Any) -> Iterator[Mistake]:
    path = store.get("path") if isinstance(store, Mapping) else None
    if isinstance(path, str) and Path(path).is_file():
        text = "there is a file of that name; a store is a folder. Choose another path."
        yield Mistake(("store", "path"), text)


def _unknown_names(sweep: Sweep, source: ModelSource, sig: Signature) -> Iterator[Mistake]:
    """Check the names in `keep`, which only the model itself can tell."""
    if sweep.store.keep is None:
        return
    from ..sharding.program import program
    from .design import make_design

    bucket = make_design(sweep, sig).buckets[0]
    options = SolveOptions.from_mapping(sweep.solve)
    layout = program(source.load(), bucket.sizes, options).layout(
        bucket.fixed, tuple(bucket.parameters)
    )
    for i, name in enumerate(sweep.store.keep):
        try:
            layout.select([name])
        except UsageError as error:
            yield Mistake(("store", "keep", i), str(error))
