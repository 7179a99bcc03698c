"""A seeded check of a few points ends every sweep, at a stated cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dpsolve import UsageError
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.hpc.sweep_file.fields import Sweep, options_of
from dpsolve.hpc.sweep_file.reader import read_sweep
from dpsolve.hpc.verify import after_sweep, verification
from dpsolve.hpc.verify.after_sweep import check_sweep

from ..conftest import BETAS, run

SWEEP = f"""
model = "cake"
[fixed]
n_x = 12
[grid]
beta = {BETAS}
[solve]
{{verify}}
[store]
path = "cake.zarr"
points_per_task = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cake.toml").write_text(SWEEP.format(verify=""))
    return tmp_path


def dpsolve(line: str) -> Result:
    return CliRunner().invoke(cli, line.split())


VERIFIED = r"  verified    {} of 6 points against the model's definition, in \d+\.\d s\n"


def test_every_sweep_ends_with_it_and_says_what_it_took(folder: Path) -> None:
    done = dpsolve("sweep cake.toml")
    assert done.exit_code == 0, done.output
    assert re.search(VERIFIED.format(4), done.output)
    assert "next        dpsolve plot" in done.output
    again = dpsolve("resume cake.zarr")
    assert re.search(VERIFIED.format(4), again.output)


def test_it_is_as_large_as_was_asked_and_no_part_of_the_points(folder: Path) -> None:
    assert re.search(VERIFIED.format(2), dpsolve("sweep cake.toml --with solve.verify=2").output)
    assert "verified" not in dpsolve("sweep cake.toml --no-verify").output
    assert re.search(VERIFIED.format(2), dpsolve("resume cake.zarr").output)
    (folder / "cake.toml").write_text(SWEEP.format(verify="verify = 0"))
    done = dpsolve("sweep cake.toml")
    assert (done.exit_code, "verified" in done.output) == (0, False)
    assert "verify" not in options_of(read_sweep(folder / "cake.toml").sweep).as_dict()


@pytest.mark.parametrize("given", ["-1", "true", "2.5", '"2"'])
def test_what_is_no_number_of_points_is_told_with_its_line(folder: Path, given: str) -> None:
    (folder / "cake.toml").write_text(SWEEP.format(verify=f"verify = {given}"))
    with pytest.raises(UsageError, match=r"line 8(.|\n)*verify(.|\n)*number"):
        read_sweep(folder / "cake.toml")


def lying(original: Any) -> Any:
    """Return a `write_task` that stores other values than were found."""

    def write_task(store: Store, task: Any, batch: Any) -> Any:
        moved = {n: x + 1.0 if n in ("value", "lower", "upper") else x
                 for n, x in batch.variables.items()}  # fmt: skip
        return original(store, task, replace(batch, variables=moved))

    return write_task


@pytest.mark.parametrize("command", ["sweep cake.toml", "resume cake.zarr"])
def test_a_point_that_is_not_as_stored_ends_it_with_1_and_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(Store, "write_task", lying(Store.write_task))
    if command.startswith("resume"):
        dpsolve("sweep cake.toml --no-verify")
    done = dpsolve(command)
    assert done.exit_code == 1
    assert re.search(r"NOT VERIFIED: of 4 of 6 points, \d+ claims are not confirmed", done.output)
    assert len({*re.findall(r"beta=0\.\d+: ", done.output)}) == 4
    assert "next        dpsolve verify" in done.output
    assert "dpsolve plot" not in done.output


def test_it_reads_the_files_of_its_own_points_alone(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sweep := cake(store={"points_per_task": 1}))
    read, original = [], verification.read_task

    def reading(bucket: Any, task: Any, group: Any) -> Any:
        read.append(task.id)
        return original(bucket, task, group)

    monkeypatch.setattr(verification, "read_task", reading)
    found = check_sweep(Path(sweep.store.path), 2).found
    assert found is not None
    assert (found.points_checked, found.points_total, found.points_pending) == (2, 6, 0)
    assert len(read) == 2
    first = [*read]
    assert check_sweep(Path(sweep.store.path), 2).ok
    assert read == first * 2  # seeded


def test_of_large_points_some_states_are_looked_at(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(after_sweep, "PAIRS", 24)
    run(sweep := cake())
    check = check_sweep(Path(sweep.store.path), 1)
    assert "definition, some states of each, in" in "".join(check.lines())
    found = check.found
    assert found is not None
    assert found.ok
    assert "of large points, 0.17 of the states were looked at" in found.notes[0]


def test_what_would_take_long_is_left_out_and_said(
    cake: Callable[..., Sweep], toy_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sweep := cake())
    path = Path(sweep.store.path)
    monkeypatch.setattr(after_sweep, "MOST_BYTES", 100)
    check = check_sweep(path, 4)
    assert (check.found, check.ok) == (None, True)
    assert f"a task holds 0.0 GiB: dpsolve verify {path}" in "".join(check.lines())
    monkeypatch.undo()
    run(arrays := toy_sweep())
    assert check_sweep(Path(arrays.store.path), 4).found is not None
    monkeypatch.setattr(after_sweep, "MOST_SECONDS", -1.0)
    assert "would be computed again" in check_sweep(Path(arrays.store.path), 4).why_not
    assert open_store(path).points == 6
