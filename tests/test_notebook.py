"""The notebook in examples/ runs as it stands, and shows what it claims to."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.slow
def test_the_notebook_runs_and_draws(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "examples" / "savings.toml", tmp_path)
    notebook = nbformat.read(root / "examples" / "explore.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    printed = "".join(o.get("text", "") for o in outputs)
    assert "of continuum, concavity" in printed
    assert "36 of 36 points solved" in printed
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
