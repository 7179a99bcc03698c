"""A store holds the points of one model, whatever is edited while its sweep runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import dpsolve as dp
from dpsolve import RefusedError
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import resume
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import check_format, open_store
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.hpc.zarr_format import METADATA

from ..conftest import run

MODEL = "from helper import scale\n\ndef toy(a=1.0, b=2.0):\n    return {'price': scale * a * b}\n"


@pytest.fixture
def begun(tmp_path: Path, toy_sweep: Callable[..., Sweep]) -> Sweep:
    """A sweep of three tasks whose last was never committed."""
    (tmp_path / "toy.py").write_text(MODEL)
    (tmp_path / "helper.py").write_text("scale = 10.0\n")
    sweep = toy_sweep()
    assert run(sweep).solved == 3
    store = open_store(sweep.store.path)
    store.buckets[0].file("status", store.tasks[-1]).unlink()
    return sweep


def prices(sweep: Sweep) -> list[float]:
    return np.asarray(dp.open(sweep.store.path)["price"]).tolist()


def test_an_edited_helper_is_refused_with_the_difference(begun: Sweep, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("scale = 20.0\n")
    with pytest.raises(RefusedError, match=r"imported helper.py: the store has another text") as no:
        run(begun)
    assert "-scale = 10.0" in str(no.value)
    assert "+scale = 20.0" in str(no.value)
    (tmp_path / "toy.py").write_text(MODEL.replace("from helper import scale", "scale = 10.0"))
    with pytest.raises(RefusedError, match=r"helper.py: the store has the file, .* nothing"):
        run(begun)


def test_resume_computes_with_the_helper_that_the_store_holds(begun: Sweep, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("scale = 20.0\n")
    assert resume(begun.store.path, progress=Silent()).computed == 1
    assert prices(begun) == [20.0, 40.0, 60.0]


def test_a_comment_edited_in_either_is_no_change(begun: Sweep, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text('"""Our scale."""\n# in euros\nscale = 10.0\n')
    (tmp_path / "toy.py").write_text(MODEL.replace("\n\n", "\n\n# the toy\n", 1))
    assert run(begun).computed == 1
    assert prices(begun) == [20.0, 40.0, 60.0]
    assert dp.verify(begun.store.path).ok


def test_a_damaged_text_in_the_store_is_found(begun: Sweep) -> None:
    run(begun)
    path = Path(begun.store.path) / METADATA
    path.write_text(path.read_text().replace("scale = 10.0", "scale = 10.5"))
    (claim,) = dp.verify(begun.store.path).claims
    assert "do not have the checksum with which the store was made" in claim


@pytest.fixture
def of_format_1(begun: Sweep) -> Path:
    path = Path(begun.store.path)
    root = json.loads((path / METADATA).read_text())
    root["attributes"]["dpsolve_store"] = 1
    for name in ("model_files", "model_files_sha256"):
        del root["attributes"][name]
    (path / METADATA).write_text(json.dumps(root))
    return path


def test_a_store_of_format_1_is_read_and_not_resumed(
    begun: Sweep, of_format_1: Path, tmp_path: Path
) -> None:
    assert read_status(of_format_1).pending == 1
    assert prices(begun)[:2] == [20.0, 40.0]
    with pytest.raises(RefusedError, match="store format 1, which does not hold what a model file"):
        resume(of_format_1, progress=Silent())
    with pytest.raises(RefusedError, match="sweep into a new store"):
        run(begun)
    for arguments in (["resume", str(of_format_1)], ["resume", str(of_format_1), "--detach"]):
        done = CliRunner().invoke(cli, arguments)
        assert (done.exit_code, "store format 1" in done.output) == (3, True)
    plan = ["plan", str(begun.model), "--grid", "a=1,2,3", "--store", str(of_format_1)]
    assert "refused" in CliRunner().invoke(cli, [*plan, "--no-probe"]).output
    done = CliRunner().invoke(cli, ["status", str(of_format_1)])
    assert (done.exit_code, "1 pending" in done.output) == (0, True)


def test_a_new_store_is_of_format_2(begun: Sweep) -> None:
    store = open_store(begun.store.path)
    assert store.attributes["dpsolve_store"] == 2
    check_format(store)
    assert dict(store.source.files) == {"helper.py": "scale = 10.0\n"}
