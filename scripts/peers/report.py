"""Rows as a Markdown table, and a table in its place between two comments of a document."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .timing import Row

__all__ = ["replace_section", "table", "write_section"]

HEAD = "| what | measured | ratio (range) | target |\n|---|---|---|---|"


def table(rows: Iterable[Row]) -> str:
    """Return rows as a Markdown table."""
    return "\n".join([HEAD, *("| " + " | ".join(row) + " |" for row in rows)])


def replace_section(text: str, name: str, content: str) -> str:
    """Return a document with what stands between a section's two comments replaced.

    The comments are ``<!-- bench: NAME -->`` and ``<!-- end: NAME -->``, each on a line.

    Raises
    ------
    ValueError
        If the document does not have each of them once, in this order.
    """
    begin, end = f"<!-- bench: {name} -->", f"<!-- end: {name} -->"
    whole = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if text.count(begin) != 1 or text.count(end) != 1 or not whole.search(text):
        raise ValueError(f"the document needs a line {begin!r} and after it a line {end!r}, once")
    return whole.sub(lambda found: f"{found[1]}{content.strip()}\n{found[2]}", text)


def write_section(path: Path, name: str, content: str) -> None:
    """Replace a section of a document, whole or not at all."""
    text = replace_section(path.read_text(encoding="utf-8"), name, content)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
