"""Mistakes in a sweep file, collected into one error.

A mistake knows the key it is about; where that key stands (a line of the file, an option of the
command line) and what value it has are looked up when the message is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dpsolve.solvers.errors import UsageError

Key = tuple[str | int, ...]
"""The path of a key in a sweep file: ``("grid", "beta", "from")``."""


@dataclass(frozen=True)
class Mistake:
    """One mistake: the key it is about, and what is wrong and what to do, in the user's words."""

    key: Key
    text: str
    show_value: bool = True


LONGEST = 255  # bytes of a name in a folder, on every file system in use


def path_fault(path: str) -> str:
    """Return why a text cannot be the path of a file or folder, or an empty string."""
    if "\0" in path:
        return "a path holds no NUL character."
    for part in path.split("/"):
        if len(part.encode()) > LONGEST:
            return f"'{part[:20]}...' has {len(part.encode())} bytes; a name has {LONGEST} at most."
    return ""


def look_up(raw: Any, key: Key) -> Any:
    """Return the value at `key` in nested tables and lists, or None."""
    for part in key:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def report(
    title: str,
    mistakes: Iterable[Mistake],
    raw: Mapping[str, Any],
    place: Callable[[Key], tuple[int, str]],
) -> UsageError:
    """Return one error that lists every mistake, in the order of the file.

    Parameters
    ----------
    title : str
        What was read: the file's name, or "the command line".
    mistakes : iterable of Mistake
        All that was found. Of several about one key only the first is told: the others follow
        from it.
    raw : mapping
        The tables as read, to show values.
    place : callable
        Where a key stands: a sort rank and the words for it (``"line 4"``).
    """
    first: dict[Key, Mistake] = {}
    for mistake in mistakes:
        first.setdefault(mistake.key, mistake)
    ranked = sorted(first.values(), key=lambda mistake: place(mistake.key)[0])
    lines = [_line(mistake, raw, place(mistake.key)[1]) for mistake in ranked]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return UsageError(f"{title}: {count}, nothing was started.\n" + "\n".join(lines))


def _line(mistake: Mistake, raw: Mapping[str, Any], where: str) -> str:
    subject = _dotted(mistake.key)
    value = look_up(raw, mistake.key)
    if mistake.show_value and value is not None and not isinstance(value, Mapping):
        subject += f" = {_short(value)}"
    head = ", ".join(part for part in (where, subject) if part)
    text = mistake.text.replace("\n", "\n      ")
    return f"  {head}: {text}" if head else f"  {text}"


def _dotted(key: Key) -> str:
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _short(value: Any, width: int = 60) -> str:
    """Write a value as TOML does, cut to a readable length."""
    text = _toml(value)
    return text if len(text) <= width else text[: width - 4] + " ..."


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)
