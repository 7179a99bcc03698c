"""HTML from Python: what is no markup already is escaped, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from dpsolve.hpc.terminal_text import printable

VOID = ("img", "meta")  # elements without content and without an end


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """Return a value as HTML that shows it: no tag and no control character of it counts."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(printable(str(value), lines=True), quote=True))


def tag(element: str, /, *content: Any, **attributes: str) -> Markup:
    """Return an element; ``class_`` stands for ``class``, and ``aria_label`` for ``aria-label``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()
    )
    end = "" if element in VOID else f"</{element}>"
    return Markup(f"<{element}{given}>{join(content)}{end}")


def join(content: Iterable[Any], between: str = "") -> Markup:
    """Return several values as HTML, one after the other."""
    return Markup(between.join(text(part) for part in content))


def table(caption: str, head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markup:
    """Return a table that can be scrolled by itself where the page is narrow.

    The first cell of a row is its heading; numbers are set to the right.
    """
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = (
        tag("tr", tag("th", first, scope="row"), *(_cell(cell) for cell in rest))
        for first, *rest in rows
    )
    inner = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", inner, class_="wide", role="region", tabindex="0", aria_label=caption)


def _cell(value: Any) -> Markup:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return tag("td", number(value), class_="number")
    return tag("td", value)


def number(value: float) -> str:
    """Return a number as one reads it."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def facts(pairs: Iterable[tuple[Any, Any]]) -> Markup:
    """Return a list of names and what they are; empty ones are left out."""
    return tag("dl", *(join((tag("dt", k), tag("dd", v))) for k, v in pairs if str(v)))
