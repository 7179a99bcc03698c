"""What becomes of a store after its commits: damage is told, taken back, and computed again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import resume
from dpsolve.hpc.store import atomic_files, checksums
from dpsolve.hpc.store.atomic_files import disk_errors
from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.status import read_status
from dpsolve.hpc.store.store import MANY_TASKS, Store, open_store
from dpsolve.hpc.zarr_format import METADATA
from dpsolve.solvers.errors import DamagedError, StoreError

from ..conftest import Listener, assert_equal_stores, run


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dpsolve.hpc.sweep_file.fields import sweep_from

    path = tmp_path_factory.mktemp("made") / "cake.zarr"
    run(sweep_from({
        "model": "cake",
        "fixed": {"n_x": 12},
        "grid": {"beta": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]},
        "store": {"points_per_task": 2, "path": str(path)},
    }))  # fmt: skip
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cake.zarr"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_repair_computes_what_is_damaged_and_nothing_else(store: Path, made: Path) -> None:
    (store / "value" / "c.0.0").unlink()
    flip(store / "message" / "c.1")
    assert resume(store, progress=Silent()).computed == 0  # a commit is a commit
    listener = Listener()
    report = resume(store, progress=listener, repair=True)
    assert (report.computed, report.exit_code) == (4, 0)
    assert listener.notes[0] == "2 of 3 tasks have damaged data and are computed once more"
    assert_equal_stores(store, made)
    assert dp.verify(store, sample=2).ok
    retried = [event.task for event in read_events(open_store(store)) if event.what == "retried"]
    assert retried == [0, 1]


@pytest.mark.parametrize("file", ["status/m.1", "status/c.1", "value/c.1.0", "seconds/c.1"])
@pytest.mark.parametrize("harm", ["empty", "gone", "flipped"])
def test_every_file_of_a_task_is_looked_at(store: Path, file: str, harm: str) -> None:
    match harm:
        case "empty":
            (store / file).write_bytes(b"")
        case "gone":
            (store / file).unlink()
        case "flipped":
            flip(store / file)
    done = command("resume", store, "--repair", "--no-verify")
    assert done.exit_code == 0, done.output
    assert "write 2 points" in done.output
    assert dp.verify(store, sample=0).ok


def test_a_sound_store_is_said_to_be_sound(store: Path) -> None:
    listener = Listener()
    assert resume(store, progress=listener, repair=True).computed == 0
    assert listener.notes == ["every committed number agrees with its checksum"]


def test_the_doctor_tells_the_command_and_takes_commits_back(store: Path) -> None:
    flip(store / "value" / "c.0.0")
    done = command("doctor", store)
    assert done.exit_code == 1
    assert f"dpsolve resume {store} --repair" in done.output
    assert "1 of 3 tasks have damaged data" in done.output
    fixed = command("doctor", store, "--fix")
    assert "took back the commits of 1 of 3 tasks" in fixed.output
    assert [*open_store(store).receipts()] == [1, 2]
    assert resume(store, progress=Silent()).computed == 2
    assert command("doctor", store).exit_code == 0


def test_open_warns_of_files_that_are_missing(store: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dp.open(store)
    (store / "value" / "c.0.0").unlink()
    (store / "value" / "c.2.0").unlink()
    shutil.rmtree(store / "residual")
    with pytest.warns(UserWarning, match=r"2 of value, 3 of residual.*--repair"):
        assert np.isnan(dp.open(store).value[0]).all()
    (store / "status" / "c.0").unlink()
    with pytest.warns(UserWarning, match=r"1 of value, 2 of residual"):
        dp.open(store)


# -- files that are empty or end too soon ----------------------------------------------------------

COMMANDS = [["status"], ["status", "--events"], ["resume"], ["doctor"], ["verify"], ["logs"]]
PARTS = [b"", b'{"zarr_format": 3, "attrib', b"[1, 2]", b"[" * 100_000, b"\xff\xfe", b"null"]


@pytest.mark.parametrize("content", PARTS, ids=["empty", "half", "list", "deep", "no text", "null"])
def test_a_store_without_its_document_is_told_in_words(store: Path, content: bytes) -> None:
    (store / METADATA).write_bytes(content)
    for words in COMMANDS:
        done = command(words[0], store, *words[1:])
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit), (words, done.exception)
        assert METADATA in done.output
    assert command("sweep", "cake", "--grid", "beta=0.5,0.6", "--store", store).exit_code == 3


def spoil(document: Any, at: tuple[str, ...], value: Any) -> None:
    for key in at[:-1]:
        document = document[key]
    document[at[-1]] = value


STATUS = ("consolidated_metadata", "metadata", "status")
SPOILED: list[tuple[tuple[str, ...], Any]] = [
    (("attributes",), None),
    (("attributes", "solve"), "{"),
    (("attributes", "solve"), '{"tol": -1}'),
    (("attributes", "fixed"), "[" * 50_000),
    (("attributes", "sizes"), "3"),
    (("attributes", "groups"), '["x"]'),
    (("attributes", "model_files"), "[]"),
    (("attributes", "model_source"), 3),
    (("attributes", "model_folder"), None),
    (("attributes", "dpsolve_store"), [2]),
    (("consolidated_metadata",), None),
    (("consolidated_metadata", "metadata"), {}),
    (STATUS, 3),
    ((*STATUS, "shape"), [6, 7]),
    ((*STATUS, "shape"), [-6]),
    ((*STATUS, "shape"), "six"),
    ((*STATUS, "chunk_grid", "configuration", "chunk_shape"), [0]),
    ((*STATUS, "codecs"), []),
    ((*STATUS, "data_type"), "object"),
    ((*STATUS, "data_type"), "nonsense"),
    ((*STATUS, "dimension_names"), ["alpha"]),
    ((*STATUS, "dimension_names"), None),
]


@pytest.mark.parametrize(("at", "value"), SPOILED, ids=lambda x: str(x)[:40])
def test_whatever_a_document_says_no_command_stumbles(
    store: Path, at: tuple[str, ...], value: Any
) -> None:
    import json

    document = json.loads((store / METADATA).read_text())
    spoil(document, at, value)
    (store / METADATA).write_text(json.dumps(document))
    for words in COMMANDS:
        done = command(words[0], store, *words[1:])
        assert isinstance(done.exception, SystemExit), (words, done.exception)
        assert done.exit_code in (1, 3), (words, done.output)
    with pytest.raises(StoreError):
        dp.open(store)


@pytest.mark.parametrize("name", ["status", "value", "beta"])
@pytest.mark.parametrize("content", [b"", b'{"zarr_format": 3, "attrib', b"[]"])
def test_an_array_without_its_document_is_told_in_words(
    store: Path, name: str, content: bytes
) -> None:
    (store / name / METADATA).write_bytes(content)
    (store / "status" / "c.1").unlink()
    assert command("status", store).exit_code == 0
    for word in ("resume", "doctor", "verify"):
        done = command(word, store)
        assert isinstance(done.exception, SystemExit), (word, done.exception)
        assert (done.exit_code, f"metadata of {name}" in done.output) == (1, True), done.output


@pytest.mark.parametrize("file", ["status/c.1", "error_bound/c.1", "message/c.1", "status/m.1"])
@pytest.mark.parametrize("size", [0, 1, 5, 20])
def test_a_truncated_file_is_told_and_its_task_computed_again(
    store: Path, file: str, size: int
) -> None:
    os.truncate(store / file, size)
    assert command("status", store).exit_code == 0
    done = command("verify", store, "--sample", 1)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    assert command("doctor", store).exit_code == 1
    assert command("resume", store, "--repair", "--no-verify").exit_code == 0
    assert dp.verify(store, sample=0).ok


def test_a_truncated_coordinate_is_named(store: Path) -> None:
    os.truncate(store / "beta" / "c.0", 9)
    for words in COMMANDS:
        done = command(words[0], store, *words[1:])
        assert (done.exit_code, "the coordinate beta" in done.output) == (1, True), done.output
    with pytest.raises(DamagedError, match="the coordinate beta cannot be read"):
        dp.open(store)


# -- two writers -----------------------------------------------------------------------------------


def test_two_writers_of_one_task_leave_a_sound_store(store: Path) -> None:
    opened = open_store(store)
    seconds = opened.buckets[0].results["seconds"]
    file = store / "seconds" / "c.1"
    held = seconds.decode(file.read_bytes())
    opened.buckets[0].write(
        opened.buckets[0].parts("seconds", opened.tasks[1])[0], opened.tasks[1], held * 2
    )
    assert not (seconds.decode(file.read_bytes()) == held).all()
    assert dp.verify(store, sample=1).ok
    manifest = checksums.decode((store / "status" / "m.1").read_bytes())
    assert "seconds" not in manifest
    assert {"value", "status", "message", "iterations"} <= manifest.keys()


def test_a_manifest_of_before_that_has_what_was_measured_is_fine(store: Path) -> None:
    file = store / "status" / "m.1"
    sums = checksums.decode(file.read_bytes())
    sums["seconds"] = np.zeros(2, np.uint32)
    file.write_bytes(b"".join(checksums.seal(sums)))
    assert dp.verify(store, sample=1).ok


# -- what drivers note of large stores -------------------------------------------------------------


@pytest.fixture
def large(store: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of which this driver has noted every task."""
    from dpsolve.hpc.run import sweep

    monkeypatch.setattr(sweep, "MANY_TASKS", 1)
    assert MANY_TASKS > 1
    (store / "status" / "c.1").unlink()
    resume(store, progress=Silent())
    return open_store(store)


def test_status_reads_no_file_that_was_noted(
    large: Store, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_status(made)
    monkeypatch.setattr("dpsolve.hpc.store.buckets.StoredBucket._read", None)
    found = read_status(large.path)
    assert (found.solved, found.committed) == (6, 3)
    assert found.error_bound == pytest.approx(expected.error_bound, rel=1e-12)


def test_a_note_of_a_task_that_is_another_now_counts_nothing(large: Store) -> None:
    task = large.tasks[1]
    status = large.buckets[0].file("status", task)
    os.utime(status, ns=(1, 1))
    os.truncate(large.path / "status" / "c.2", 7)
    (large.path / "status" / "c.0").unlink()
    [tallies] = [next((large.path / "status" / "tallies").iterdir())]
    tallies.write_bytes(tallies.read_bytes() + b"torn")
    found = read_status(large.path)
    assert (found.solved, found.committed) == (2, 1)
    assert resume(large.path, progress=Silent()).computed == 4


def test_notes_of_a_copy_are_made_anew(large: Store, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(large.path, tmp_path / "copy.zarr", copy_function=shutil.copyfile))
    (copy / "status" / "c.1").unlink()
    resume(copy, progress=Silent())
    opened = open_store(copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpsolve.hpc.store.buckets.StoredBucket._read", None)
        assert read_status(copy).committed == 3
    assert len(list(opened._noted())) > 3


def test_without_permission_to_note_a_sweep_goes_on(large: Store) -> None:
    shutil.rmtree(large.path / "status" / "tallies")
    (large.path / "status" / "tallies").write_text("a file")
    (large.path / "status" / "c.1").unlink()
    assert resume(large.path, progress=Silent()).computed == 2


# -- the disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inodes", "blocks", "said"), [(0, 10, "inodes are used up"), (10, 0, "disk of .* is full")]
)
def test_inodes_that_are_used_up_are_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inodes: int, blocks: int, said: str
) -> None:
    class Disk:
        f_files, f_favail, f_bavail = 100, inodes, blocks

    monkeypatch.setattr(atomic_files.os, "statvfs", lambda _: Disk())
    with pytest.raises(StoreError, match=said), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_metadata_that_zarr_refuses_are_damage(store: Path) -> None:
    file = store / METADATA
    whole = json.loads(file.read_text())
    keys = whole["consolidated_metadata"]["metadata"]["value"]["chunk_key_encoding"]
    keys["configuration"]["separator"] = 7
    file.write_text(json.dumps(whole))
    (store / "value" / METADATA).write_text(
        json.dumps(whole["consolidated_metadata"]["metadata"]["value"])
    )
    with pytest.raises(DamagedError, match="zarr cannot read it"):
        dp.open(store)
    done = command("plot", store)
    assert (done.exit_code, "zarr cannot read it" in done.output) == (1, True)
    assert command("verify", store).exit_code in (1, 3)


@pytest.mark.parametrize("length", [2**70, 2**40])
def test_an_array_of_more_files_than_devices_write_is_refused(store: Path, length: int) -> None:
    file = store / METADATA
    whole = json.loads(file.read_text())
    whole["consolidated_metadata"]["metadata"]["value"]["shape"][1] = length
    file.write_text(json.dumps(whole))
    with pytest.raises(DamagedError, match=r"more than 65,536 files|are none of an array"):
        open_store(store)


def test_a_picture_of_damaged_numbers_is_refused_with_the_remedy(
    store: Path, tmp_path: Path
) -> None:
    flip(store / "value" / "c.0.0")
    done = command("plot", store, "--output", tmp_path / "a.png")
    assert done.exit_code == 1
    assert done.output.startswith(f"error: the store {store} is damaged: ")
    assert done.output.rstrip().endswith(f"dpsolve doctor {store}")
