"""Command-line values in place of the file's: ``--grid beta=0.90:0.98:40``.

``--grid beta=0.90:0.99:50``, ``--grid alpha=0.3,0.35,0.4``, ``--grid sigma=0.01:1:5:log``,
``--set n_k=500``, ``--tol 1e-8``, ``--with sample.points=512``.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .mistakes import Key, Mistake

_SECTIONS = ("fixed", "grid", "zip", "sample")


@dataclass(frozen=True)
class Overrides:
    """Options of the command line, as typed.

    Attributes
    ----------
    model : str or None
        A model's reference, when the sweep has no file.
    grid, fixed, other : tuple of str
        ``name=value`` texts of ``--grid``, ``--set`` and ``--with``.
    tol, method, criterion, warm, store : optional
        Replace ``solve.tol``, ``solve.method``, ``solve.criterion``, ``solve.warm`` and
        ``store.path``.
    keep : tuple of str
        Replaces ``store.keep``; names may be separated by commas.
    """

    model: str | None = None
    grid: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    tol: float | None = None
    method: str | None = None
    criterion: str | None = None
    warm: bool | None = None
    store: str | None = None
    keep: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    def apply(self, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Key, str], list[Mistake]]:
        """Return the tables with these options in place.

        Returns
        -------
        tables : dict
            A copy of `raw`, changed. A parameter set here is taken out of wherever the file
            had it.
        origins : dict
            For each key set here, the option that set it.
        mistakes : list of Mistake
            Options that could not be read.
        """
        tables = copy.deepcopy(dict(raw))
        origins: dict[Key, str] = {}
        mistakes: list[Mistake] = []
        given: dict[Key, str] = {}  # by which option, first
        for change in self._changes():
            if isinstance(change, Mistake):
                mistakes.append(change)
                continue
            key, value, option = change
            if (first := given.setdefault(_subject(key), option)) is not option:
                text = f"it is given by {first} as well; say it once."
                mistakes.append(Mistake((option,), text, False))
            if key[0] in {"fixed", "grid"}:
                _take_out(tables, str(key[1]), but=str(key[0]))
            _put(tables, key, value)
            origins[key] = option
        return tables, origins, mistakes

    def _changes(self) -> Iterator[tuple[Key, Any, str] | Mistake]:
        if self.model is not None:
            yield ("model",), self.model, "command line"
        for option, section, texts, parse in (
            ("--set", "fixed", self.fixed, parse_scalar),
            ("--grid", "grid", self.grid, _axis),
        ):
            for text in texts:
                name, value = parse_assignment(text)
                read = parse(value) if name else None
                if read is None:
                    yield Mistake((f"{option} {text}",), _FORM[option])
                else:
                    yield (section, name), read, f"{option} {text}"
        keep = [name for text in self.keep for name in text.split(",") if name]
        options: tuple[tuple[Key, Any], ...] = (
            (("solve", "tol"), self.tol),
            (("solve", "method"), self.method),
            (("solve", "criterion"), self.criterion),
            (("solve", "warm"), self.warm),
            (("store", "path"), self.store),
            (("store", "keep"), keep or None),
        )
        for key, given in options:
            if given is not None:
                yield key, given, f"--{'store' if key[1] == 'path' else key[1]}"
        for text in self.other:
            name, value = parse_assignment(text)
            if name:
                yield tuple(name.split(".")), _other_value(value), f"--with {text}"
            else:
                yield Mistake((f"--with {text}",), _FORM["--with"])


_FORM = {
    "--set": "write --set NAME=VALUE, for example --set n_k=500.",
    "--grid": "write --grid NAME=FROM:TO:POINTS, --grid NAME=FROM:TO:POINTS:log, or "
    "--grid NAME=VALUE,VALUE,...; for example --grid beta=0.90:0.99:50.",
    "--with": "write --with KEY=VALUE, for example --with sample.points=512.",
}


def parse_assignment(text: str) -> tuple[str, str]:
    """Split ``name=value``; the name is empty if the text is not of that form."""
    name, equals, value = text.partition("=")
    return (name.strip(), value.strip()) if equals and value.strip() else ("", "")


def parse_scalar(text: str) -> int | float | bool | str:
    """Read one value of the command line: a number, true or false, or else a text.

    Underscores stand where TOML allows them, 1_000; Python would read 0_93 as 93.
    """
    written = text.isascii() and ("_" not in text or isinstance(_toml_value(text), int | float))
    for read in (int, float) if written else ():
        try:
            return read(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text.strip("\"'"))


def _axis(text: str) -> list[Any] | dict[str, Any] | None:
    """Read an axis; None if it has neither form."""
    if ":" not in text:
        items = [item.strip() for item in text.strip("[]").split(",")]
        return [parse_scalar(item) for item in items] if all(items) else None
    parts = text.split(":")
    if len(parts) not in {3, 4} or not all(parts):
        return None
    start, stop, points = (parse_scalar(part) for part in parts[:3])
    axis = {"from": start, "to": stop, "points": points}
    return axis | ({"spacing": parts[3]} if len(parts) == 4 else {})


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def _other_value(text: str) -> Any:
    read = _toml_value(text)
    return parse_scalar(text) if read is None else read


def _subject(key: Key) -> Key:
    """Return what a key is about: a parameter is one thing, in [fixed] or in [grid]."""
    return ("parameter", key[1]) if key[0] in _SECTIONS and len(key) == 2 else key


def _take_out(tables: dict[str, Any], name: str, but: str) -> None:
    """Remove a parameter from the sections that give it, but for the one that will."""
    sections = [tables.get(section) for section in _SECTIONS if section != but]
    if isinstance(tables.get("sample"), dict):
        sections.append(tables["sample"].get("ranges"))
    for section in sections:
        if isinstance(section, dict):
            section.pop(name, None)


def _put(tables: dict[str, Any], key: Key, value: Any) -> None:
    for part in key[:-1]:
        inner = tables.get(str(part))
        if not isinstance(inner, dict):
            inner = {}
            tables[str(part)] = inner
        tables = inner
    tables[str(key[-1])] = value
