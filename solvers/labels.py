"""What the names of a model are called in words, and their units: ``labels`` of ``dp.Model``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import ModelError, did_you_mean

_WORDS_AND_UNITS = re.compile(r"(?P<words>.*?)\s*(?:\((?P<units>[^()]+)\))?", re.DOTALL)


MEANINGS = "flag_meanings"
"""An attribute: what each value along a dimension is called, in order, blanks between."""


class Label(NamedTuple):
    """Words for a name, and its units; '' where there are none.

    And for each of its values, where they have names: regimes, periods.
    """

    words: str
    units: str = ""
    values: tuple[str, ...] = ()

    @property
    def attributes(self) -> dict[str, str]:
        """As the CF conventions call them."""
        named = {MEANINGS: " ".join(self.values)} if self.values else {}
        return {"long_name": self.words} | ({"units": self.units} if self.units else {}) | named

    def __str__(self) -> str:
        return f"{self.words} ({self.units})" if self.units else self.words


def read_labels(given: Mapping[Any, Any]) -> dict[str, Label]:
    """Read labels as a user writes them.

    Words, with units in parentheses at their end; or what each value is called; or both, in a pair.

    Raises
    ------
    ModelError
        If one is none of these, or has no words.
    """
    found = {}
    for name, label in given.items():
        text: Any = label
        values: tuple[str, ...] = ()
        if isinstance(label, Sequence) and not isinstance(label, str):
            text, values = _pair(str(name), label)
        parts = _WORDS_AND_UNITS.fullmatch(text.strip()) if isinstance(text, str) else None
        if parts is None or not parts["words"]:
            raise ModelError(
                f"labels: '{name}' is {label!r}; write words, and units in parentheses after them: "
                f"labels={{{str(name)!r}: 'assets (annual income)'}}; or a list of what each value "
                "is called"
            )
        found[str(name)] = Label(parts["words"], (parts["units"] or "").strip(), values)
    return found


def _pair(name: str, given: Sequence[Any]) -> tuple[Any, tuple[str, ...]]:
    """Return words for a name, its own if there are none, and words for each of its values."""
    text, values = name, given
    if len(given) == 2 and isinstance(given[1], Sequence) and not isinstance(given[1], str):
        text, values = given
    words = tuple(str(value) for value in values)
    for word in words:
        if not word or word.split() != [word]:
            raise ModelError(f"labels: a value of '{name}' is called {word!r}; give it one word")
    if len(set(words)) < len(words):
        twice = next(w for w in words if words.count(w) > 1)
        raise ModelError(f"labels: two values of '{name}' are called {twice!r}")
    return text, words


def check_values(labels: Mapping[str, Label], sizes: Mapping[str, int]) -> None:
    """Refuse names for values of what has others, or more, or fewer.

    Parameters
    ----------
    sizes : dict of str to int
        How many values each state has, and with a horizon how many periods ``t`` has.

    Raises
    ------
    ModelError
    """
    for name, label in labels.items():
        if not label.values:
            continue
        if name not in sizes:
            raise ModelError(
                f"labels: '{name}' has a list of names, one for each value, and it is no state or "
                f"period.{did_you_mean(name, sizes)} It can be: {', '.join(sizes)}."
            )
        if len(label.values) != sizes[name]:
            raise ModelError(
                f"labels: {len(label.values)} names are given for the {sizes[name]} values of "
                f"'{name}'"
            )


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
