"""Text from files as a terminal may show it.

What a store or a log says was written by whoever made it. A terminal obeys some characters: it can
be told to clear the screen, to rename its window, or to show other text than what is there.
"""

from __future__ import annotations

import re

# Sequences that begin with ESC, or with its one-byte forms: CSI; OSC and other strings up to their
# end; the rest, of two characters or a few.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text without what a terminal would obey.

    Parameters
    ----------
    text : str
    lines : bool
        Keep the ends of lines; otherwise each becomes a space, because a line of a report must not
        look like several.
    """
    plain = _SEQUENCE.sub("", text).replace("\t", "    ")
    if lines:
        return "\n".join(map(_shown, plain.split("\n")))
    return _shown(plain.replace("\n", " "))


def _shown(line: str) -> str:
    if line.isprintable():
        return line
    # Not those alone that control a terminal: others turn the direction of writing.
    return "".join(c for c in line if c.isprintable())
