"""What the names of a model are called in words, and their units: ``labels`` of ``dp.Model``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .errors import ModelError, did_you_mean

_WORDS_AND_UNITS = re.compile(r"(?P<words>.*?)\s*(?:\((?P<units>[^()]+)\))?", re.DOTALL)


class Label(NamedTuple):
    """Words for a name, and its units; '' where there are none."""

    words: str
    units: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """As the CF conventions call them."""
        return {"long_name": self.words} | ({"units": self.units} if self.units else {})

    def __str__(self) -> str:
        return f"{self.words} ({self.units})" if self.units else self.words


def read_labels(given: Mapping[Any, Any]) -> dict[str, Label]:
    """Read labels as a user writes them: words, and units in parentheses at their end.

    Raises
    ------
    ModelError
        If one is no text, or has no words.
    """
    found = {}
    for name, text in given.items():
        parts = _WORDS_AND_UNITS.fullmatch(text.strip()) if isinstance(text, str) else None
        if parts is None or not parts["words"]:
            raise ModelError(
                f"labels: '{name}' is {text!r}; write words, and units in parentheses after them: "
                f"labels={{{str(name)!r}: 'assets (annual income)'}}"
            )
        found[str(name)] = Label(parts["words"], (parts["units"] or "").strip())
    return found


def check_labels(labels: Collection[str], known: Collection[str]) -> None:
    """Refuse labels of what is no name of a model.

    Raises
    ------
    ModelError
        With the names that there are.
    """
    for name in labels:
        if name not in known:
            raise ModelError(
                f"labels names '{name}', which this model does not have."
                f"{did_you_mean(name, known)} It can be: {', '.join(known)}."
            )
