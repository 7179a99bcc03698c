"""The pages of docs/: their Python blocks run, and print what stands below them."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import dpsolve as dp

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
DOCS = Path(__file__).resolve().parent.parent / "docs"
# sweeps.md speaks of a store that its reader has; tests/hpc/test_results_that_travel.py has one.
PAGES = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if path.name != "sweeps.md" and BLOCK.search(path.read_text(encoding="utf-8"))
]


@pytest.fixture
def models(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What readers are told to save: the model that pages import."""
    page = (root / "docs" / "how-to" / "models.md").read_text(encoding="utf-8")
    first = BLOCK.search(page)
    assert first is not None
    (tmp_path / "models.py").write_text(first[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_and_print_what_stands_there(page: Path, models: None) -> None:
    names: dict[str, object] = {"__name__": page.stem, "dp": dp, "jnp": jnp}
    text = page.read_text(encoding="utf-8")
    for number, (body, expected) in enumerate(BLOCK.findall(text)):
        cell = f"<{page.name} {number}>"  # its source can be looked up, as that of a notebook
        linecache.cache[cell] = (len(body), None, body.splitlines(keepends=True), cell)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(body, cell, "exec"), names)
        assert printed.getvalue() == expected


def test_the_reference_has_every_public_name(root: Path) -> None:
    page = (root / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"auto\w+:: ([\w.]+)", page)
    public = set(dir(dp)) - {"__version__", "plot"}
    assert {name for name in listed if "." not in name} == public
