"""A store is created whole or not at all, and a disk that refuses is one clear error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zarr

from dpsolve import RefusedError, StoreError
from dpsolve.hpc.plan.plan import make_plan
from dpsolve.hpc.store import atomic_files, create
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.hpc.sweep_file.model_source import resolve

from ..conftest import assert_equal_stores, run
from ..conftest import files as contents

KILLED_CREATION = """
import json, os, signal, sys
from dpsolve.hpc.store import create as creation, zarr_store
from dpsolve.hpc.plan.plan import make_plan
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.sweep_file.fields import sweep_from

raw, last = json.loads(sys.argv[1]), int(sys.argv[2])
left = [last]
original = zarr_store.write_file

def write_file(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    original(*arguments)

zarr_store.write_file = write_file
sweep = sweep_from(raw)
creation.create(make_plan(sweep, resolve(sweep.model)), "test")
"""


def test_a_driver_killed_while_it_creates_leaves_no_store(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = toy_sweep("s.zarr")
    path = tmp_path / "s.zarr"
    command = [sys.executable, "-c", KILLED_CREATION, json.dumps(sweep.as_dict()), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    assert len([*tmp_path.glob(".*.draft")]) == 1
    assert run(sweep).solved == 3
    assert not [*tmp_path.glob(".*.draft")]  # the dead driver's draft is swept away


def test_the_draft_of_a_living_driver_is_left_alone(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    living = tmp_path / f".s.zarr.{os.uname().nodename}-{os.getppid()}.draft"
    other_machine = tmp_path / ".s.zarr.elsewhere-1.draft"
    living.mkdir()
    other_machine.mkdir()
    run(toy_sweep("s.zarr"))
    assert living.exists()
    assert other_machine.exists()


def test_a_folder_that_is_no_store_is_never_touched(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter.tex").write_text("years of work")
    with pytest.raises(RefusedError, match="not a store of dpsolve; nothing in it was touched"):
        run(toy_sweep("thesis"))
    assert contents(path) == {"chapter.tex": b"years of work"}


def test_a_zarr_group_of_somebody_else_is_never_touched(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    zarr.create_group(tmp_path / "s.zarr")
    with pytest.raises(RefusedError, match="not a store of dpsolve"):
        run(toy_sweep("s.zarr"))


def test_an_empty_folder_may_become_a_store(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(toy_sweep("empty")).solved == 3


def test_of_two_drivers_the_second_joins_the_store_of_the_first(
    toy_sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_plan(sweep := toy_sweep("first.zarr"), resolve(sweep.model))
    create.create(first, "the first")
    plan = make_plan(sweep := toy_sweep(), resolve(sweep.model))
    original = create._publish

    def publish(draft: Path, path: Path) -> None:
        shutil.copytree(first.path, path)  # somebody else's, an instant before
        original(draft, path)

    monkeypatch.setattr(create, "_publish", publish)
    store = create.open_or_create(plan, "the second")
    assert store.attributes["command"] == "the first"
    assert not [*tmp_path.glob(".*.draft")]


# --- disks that refuse ---------------------------------------------------------------------------


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Let the disk refuse after some files, as a full one does: at the flush."""

    def refuse(after: int, number: int) -> None:
        left = [after]

        def fsync(descriptor: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(atomic_files.os, "fsync", fsync)

    yield refuse
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("files_of_the_task", [0, 5, 10])
def test_a_full_disk_is_one_error_and_what_was_committed_stays(
    cake: Callable[..., Sweep],
    failing_disk: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    files_of_the_task: int,
) -> None:
    sweep, undisturbed = cake(), cake("undisturbed.zarr")
    run(undisturbed)
    create.create(make_plan(sweep, resolve("cake")), "test")
    failing_disk(1 + 11 + files_of_the_task, errno.ENOSPC)  # the driver's record, a task
    with pytest.raises(StoreError, match=r"(?s)disk of .*cake\.zarr is full.*resumes") as caught:
        run(sweep)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [*open_store(sweep.store.path).receipts()] == [0]
    assert not [*Path(sweep.store.path).rglob("*.partial")]
    assert run(sweep).computed == 4
    assert_equal_stores(sweep.store.path, undisturbed.store.path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, "disk quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "no permission to write"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_every_refusal_names_the_store_and_a_way_out(
    toy_sweep: Callable[..., Sweep],
    failing_disk: Callable[[int, int], None],
    number: int,
    words: str,
) -> None:
    sweep = toy_sweep()
    failing_disk(0, number)
    with pytest.raises(StoreError, match=words) as caught:
        run(sweep)
    assert sweep.store.path in str(caught.value)
    assert not Path(sweep.store.path).exists()


def test_a_path_below_a_file_or_without_permission_is_one_error(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for path in ("file/s.zarr", "file"):
        with pytest.raises(StoreError, match="a file stands where a folder is needed"):
            run(toy_sweep(path))
    plan = make_plan(sweep := toy_sweep("closed/s.zarr"), resolve(sweep.model))
    (tmp_path / "closed").mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nothing is forbidden to root
    try:
        with pytest.raises(StoreError, match=r"no permission to write .*closed"):
            create.create(plan, "test")
    finally:
        os.seteuid(user)
