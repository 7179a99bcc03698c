"""TOML with the line number of each key.

The standard parser reads values but forgets where they stood. After it has accepted a file, a
small scanner walks the same text once more and notes the line of every key, so that a mistake can
be reported where the user will look for it. The scanner may assume valid TOML.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsolve.solvers.errors import UsageError, did_you_mean

from .mistakes import Key

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_KEY_PART = re.compile(r"""[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*""")
_STRING = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""", re.DOTALL
)
_BARE = re.compile(r"[^,\]}\n#]*")


@dataclass(frozen=True)
class TomlSource:
    """The tables of a TOML file and the lines of their keys.

    Attributes
    ----------
    name : str
        The file's name, for messages.
    data : dict
        What the standard parser returns.
    lines : dict
        Line number (from 1) by key path.
    """

    name: str
    data: dict[str, Any]
    lines: dict[Key, int] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: Path) -> TomlSource:
        """Read a file.

        Raises
        ------
        UsageError
            If it cannot be read, is not UTF-8, or is not TOML; then with the line, the column and
            the text of that line.
        """
        try:
            text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        except FileNotFoundError:
            others = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
            guess = did_you_mean(path.name, others)
            raise UsageError(f"there is no sweep file {path}.{guess}") from None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8."
            ) from None
        return cls.parse(text, path.name)

    @classmethod
    def parse(cls, text: str, name: str) -> TomlSource:
        """Read TOML text; `name` stands for the file in messages."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _syntax_error(text, name, str(error)) from None
        return cls(name, data, _Scanner(text).scan())

    def line(self, key: Key) -> int | None:
        """Return the line of `key`, or of the nearest table around it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        return None


def _syntax_error(text: str, name: str, message: str) -> UsageError:
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    what = message.split(" (at ")[0]
    if found is None:
        return UsageError(f"{name} is not valid TOML: {what} at the end of the file.")
    row, column = int(found[1]), int(found[2])
    line = text.split("\n")[row - 1]
    return UsageError(
        f"{name}, line {row}, column {column}: not valid TOML: {what}.\n"
        f"    {line}\n    {' ' * (column - 1)}^\n"
        'TOML wants text in "quotes", lists in [brackets] and numbers bare (1e-8).'
    )


class _Scanner:
    """One pass over valid TOML, noting the line of each key."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}
        self._breaks = [i for i, letter in enumerate(text) if letter == "\n"]

    def line(self, at: int) -> int:
        return bisect_left(self._breaks, at) + 1

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while True:
            self.skip(_BLANK)
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                start = self.at
                while self.text[self.at] == "[":
                    self.at += 1
                table = self.key((), start)
                self.at = self.text.index("]", self.at)
                while self.at < len(self.text) and self.text[self.at] == "]":
                    self.at += 1
            else:
                self.pair(table)

    def skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:  # never on valid TOML; moving on beats looping
            self.at += 1
            return ""
        self.at = found.end()
        return found[0]

    def key(self, table: Key, start: int) -> Key:
        """Read a dotted key and note the line of each of its prefixes."""
        line = self.line(start)
        path = table
        while True:
            part = self.skip(_KEY_PART).strip()
            path = (*path, part[1:-1] if part[:1] in {'"', "'"} else part)
            self.lines.setdefault(path, line)
            if self.text[self.at : self.at + 1] != ".":
                return path
            self.at += 1

    def pair(self, table: Key) -> None:
        path = self.key(table, self.at)
        self.at += 1  # the '='
        self.value(path)

    def value(self, path: Key) -> None:
        self.skip(_BLANK)
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self.items(path, "]")
        elif first == "{":
            self.items(path, "}")
        elif first in {'"', "'"}:
            self.skip(_STRING)
        else:
            self.skip(_BARE)

    def items(self, path: Key, close: str) -> None:
        """Walk the items of an array or the pairs of an inline table."""
        self.at += 1
        index = 0
        while True:
            self.skip(_BLANK)
            if self.text[self.at : self.at + 1] in {close, ""}:
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
            elif close == "}":
                self.pair(path)
            else:
                self.lines[(*path, index)] = self.line(self.at)
                self.value((*path, index))
                index += 1
