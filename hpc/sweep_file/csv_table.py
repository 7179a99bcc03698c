"""Parameter points from a CSV file, or from the arrays of a NumPy file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsolve.solvers.errors import did_you_mean

from .array_values import FILES, read_rows
from .mistakes import Mistake, path_fault

# A broken file usually has the same mistake in every row; the first ones tell it.
_SHOWN = 5

_OF_NUMBERS = frozenset("0123456789+-.eE")

# What separates columns where the comma is in the numbers, or where a table was pasted.
_OTHER_MARKS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_FILE = ("table", "file")


@dataclass(frozen=True)
class _Rows:
    header: list[str]
    rows: list[tuple[int, list[str]]]  # with the line each one stands on


def read_table(table: Any, folder: Path) -> tuple[dict[str, Any] | None, list[Mistake]]:
    """Read the file that a sweep's ``[table]`` names.

    Parameters
    ----------
    table : mapping
        ``file``, relative to `folder`; and optionally ``columns``: a list of the columns to use,
        or a table ``{parameter = "column"}`` to use them under other names.
    folder : Path
        Where the sweep file stands.

    Returns
    -------
    table : dict or None
        ``file``, ``columns`` (column by parameter) and ``values`` (numbers by parameter); None if
        there were mistakes.
    mistakes : list of Mistake
    """
    mistakes = list(_shape(table))
    if mistakes:
        return None, mistakes
    if Path(table["file"]).suffix in FILES:
        columns, values, mistakes = read_rows(
            folder / table["file"], table["file"], table.get("columns")
        )
        read_as = {"file": table["file"], "columns": columns, "values": values}
        return (None, mistakes) if mistakes else (read_as, [])
    read = _read(folder / table["file"], table["file"])
    if isinstance(read, Mistake):
        return None, [read]
    columns = _columns(table.get("columns"), read.header)
    mistakes += _unknown(columns, read.header, table.get("columns"))
    if mistakes:
        return None, mistakes
    values, mistakes = _values(read, columns, table["file"])
    if mistakes:
        return None, mistakes
    return {"file": table["file"], "columns": columns, "values": values}, []


def _shape(table: Any) -> Iterator[Mistake]:
    if not isinstance(table, Mapping):
        yield Mistake(("table",), 'a table is expected: [table] with file = "points.csv".')
        return
    for key in table:
        if key not in {"file", "columns"}:
            guess = did_you_mean(key, ["file", "columns"])
            yield Mistake(("table", key), f"unknown key.{guess} Known here: file, columns.")
    file, columns = table.get("file"), table.get("columns", [])
    if not isinstance(file, str) or not file:
        yield Mistake(_FILE, 'the name of a CSV file is expected: file = "points.csv".')
    elif fault := path_fault(file):
        yield Mistake(_FILE, fault)
    names = columns.values() if isinstance(columns, Mapping) else columns
    if not isinstance(columns, Mapping | list) or not all(isinstance(c, str) for c in names):
        yield Mistake(
            ("table", "columns"),
            'a list of columns is expected, ["beta", "gamma"], or new names for them, '
            '{ beta = "discount factor" }.',
        )


def _read(path: Path, name: str) -> _Rows | Mistake:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        others = [p.name for p in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        guess = did_you_mean(path.name, others)
        return Mistake(_FILE, f"there is no such file (looked for {path}).{guess}")
    except OSError as error:
        return Mistake(_FILE, f"the file cannot be read: {error.strerror}.")
    except UnicodeDecodeError:
        return Mistake(_FILE, "the file is not UTF-8 text; export it as CSV (UTF-8).")
    reader = csv.reader(text.splitlines())
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        return Mistake(_FILE, f"{name}, row {reader.line_num}: {error}.")
    if len(lines) < 2:
        return Mistake(_FILE, "the file needs a first row with column names, and rows below it.")
    header = lines[0][1]
    if header == [""] or len(set(header)) < len(header):
        twice = sorted({c for c in header if header.count(c) > 1})
        return Mistake(_FILE, f"two columns have the same name: {', '.join(twice) or '(empty)'}.")
    if len(header) == 1 and (mark := next((m for m in _OTHER_MARKS if m in header[0]), "")):
        return Mistake(
            _FILE,
            f"its columns are separated by {_OTHER_MARKS[mark]}; write commas between columns, and "
            "a point in numbers: 0.95 (a spreadsheet exports that as CSV for English)",
        )
    if all(_finite(cell) is not None for cell in header):
        return Mistake(_FILE, "its first row holds numbers; it must hold the columns' names.")
    return _Rows(header, lines[1:])


def _columns(given: Any, header: list[str]) -> dict[str, str]:
    if isinstance(given, Mapping):
        return dict(given)
    return {column: column for column in given or header}


def _unknown(columns: dict[str, str], header: list[str], given: Any) -> Iterator[Mistake]:
    for parameter, column in columns.items():
        if column not in header:
            part = parameter if isinstance(given, Mapping) else list(given).index(column)
            yield Mistake(
                ("table", "columns", part),
                f"the file has no column '{column}'.{did_you_mean(column, header)} "
                f"Its columns: {', '.join(header)}.",
            )


def _values(
    read: _Rows, columns: dict[str, str], name: str
) -> tuple[dict[str, list[float]], list[Mistake]]:
    where = {parameter: read.header.index(column) for parameter, column in columns.items()}
    values: dict[str, list[float]] = {parameter: [] for parameter in columns}
    faults: list[str] = []
    for number, row in read.rows:
        if len(row) != len(read.header):
            faults.append(f"row {number}: {len(row)} of {len(read.header)} values")
            continue
        for parameter, column in where.items():
            value = _finite(row[column])
            if value is None:
                shown = row[column] or "empty"
                faults.append(
                    f"row {number}, column '{columns[parameter]}': {shown} is not a finite number"
                )
            else:
                values[parameter].append(value)
    if not faults:
        return values, []
    text = "; ".join(faults[:_SHOWN])
    if len(faults) > _SHOWN:
        text += f"; and {len(faults) - _SHOWN} more"
    return values, [Mistake(_FILE, f"{text}.")]


def _finite(cell: str) -> float | None:
    """Read a finite number; a whole one stays whole, so that a size remains a size."""
    if not set(cell) <= _OF_NUMBERS:  # Python reads 0_93 as 93, and digits of every script
        return None
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
