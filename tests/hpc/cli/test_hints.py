"""A command that is told to be typed can be typed as it stands, whatever its store is called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpsolve.hpc

ROOM = Path(str(dpsolve.hpc.__file__)).parent
HINT = re.compile(r"dpsolve (?:resume|status|verify|plot|logs|cancel|doctor) \0(\d+)\0")


def hints(module: Path) -> Iterator[str]:
    """Every expression that stands right behind a command's name in a text."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else f"\0{i}\0"
                for i, part in enumerate(node.values)
            )
            for place in HINT.findall(text):
                shown = node.values[int(place)]
                assert isinstance(shown, ast.FormattedValue)
                yield ast.unparse(shown.value)


MODULES = [module for module in sorted(ROOM.rglob("*.py")) if list(hints(module))]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_paths_in_hints_are_quoted(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    for shown in hints(module):
        assert "shlex.quote" in shown or shown == "_arguments()" or (
            shown == "path" and re.search(r"\bpath = .*shlex\.quote\(str\(", text)
        ), shown  # fmt: skip


def test_there_are_hints() -> None:
    assert len(MODULES) > 8
