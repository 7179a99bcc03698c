"""The notebooks in examples/ run as they stand, print what they are stored with, and draw as much."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

# In the order in which they are read: a sweep that one of them has made costs the others nothing.
NOTEBOOKS = ("first_model", "sweep", "bounds", "inequality", "cluster_store")
SMALL = 150_000  # bytes of a stored notebook


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def printed(notebook: Any) -> str:
    """What cells print and show, without what depends on who had the sweep before, and on time."""
    texts = [
        output.get("text", "") if output.output_type == "stream" else output.data["text/plain"]
        for output in outputs(notebook)
        if output.get("name") != "stderr"
    ]
    return re.sub(r"^  (time|next) .*\n", "", "".join(texts), flags=re.MULTILINE)


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_every_notebook_is_small_and_stored_with_its_outputs(root: Path) -> None:
    found = {path.stem for path in (root / "examples").glob("*.ipynb")}
    assert found == set(NOTEBOOKS)
    for name in NOTEBOOKS:
        path = root / "examples" / f"{name}.ipynb"
        assert path.stat().st_size < SMALL
        assert pictures(nbformat.read(path, as_version=4)) >= 1


@pytest.mark.slow
def test_the_notebooks_run_and_print_what_they_are_stored_with(root: Path, tmp_path: Path) -> None:
    for name in ("household.py", "household.toml"):
        shutil.copy(root / "examples" / name, tmp_path)
    for name in NOTEBOOKS:
        stored = nbformat.read(root / "examples" / f"{name}.ipynb", as_version=4)
        fresh = nbformat.read(root / "examples" / f"{name}.ipynb", as_version=4)
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(fresh, timeout=300, resources=resources).execute()
        assert printed(fresh) == printed(stored)
        assert pictures(fresh) == pictures(stored)
