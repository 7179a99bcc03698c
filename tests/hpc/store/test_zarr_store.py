"""What zarr writes is what the plan forecast, and what is read without zarr."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsolve import StoreError
from dpsolve.hpc.plan.store_schema import inner_chunk
from dpsolve.hpc.store import atomic_files
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.store.zarr_store import create_group, open_arrays
from dpsolve.hpc.sweep_file.fields import Sweep
from dpsolve.hpc.verify.verification import verify
from dpsolve.hpc.zarr_format import ZarrArray

from ..conftest import assert_equal_stores, run
from ..conftest import files as contents

Values = np.ndarray[Any, Any]


@st.composite
def arrays_in_cells(draw: st.DrawFn) -> tuple[ZarrArray, Values]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    cell = tuple(draw(st.integers(1, n + 2)) for n in shape)
    dtype = draw(st.sampled_from(["float64", "float32", "int32", "int64", "bool", "complex128"]))
    chunk = None
    if draw(st.booleans()):
        divisors = [[d for d in range(1, n + 1) if n % d == 0] for n in cell]
        chunk = tuple(draw(st.sampled_from(ds)) for ds in divisors)
    names = tuple("abc"[: len(shape)])
    fill = {"f": np.nan, "c": complex(np.nan, np.nan), "b": False}.get(np.dtype(dtype).kind, -1)
    array = ZarrArray(names, shape, dtype, cell, chunk, fill, {"long_name": "x"})
    if draw(st.booleans()):
        return array, np.full(shape, fill, dtype)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return array, (rng.normal(size=shape) * 100).astype(dtype)


def cells(array: ZarrArray) -> dict[str, tuple[slice, ...]]:
    """The region of each file of an array."""
    counts = [-(-n // m) for n, m in zip(array.shape, array.cell, strict=True)]
    return {
        array.key(i): tuple(slice(j * m, j * m + m) for j, m in zip(i, array.cell, strict=True))
        for i in np.ndindex(*counts)
    }


def write(folder: Path, array: ZarrArray, values: Values) -> Path:
    """Write an array as tasks do: file by file. Return its folder."""
    create_group(folder, {}, {"x": array}, {})
    opened = open_arrays(folder, ["x"])["x"]
    for region in cells(array).values():
        opened[region] = values[region]
    return folder / "x"


def read_metadata(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    return document


@given(case=arrays_in_cells())
@settings(max_examples=40, deadline=None)
def test_an_array_is_what_the_plan_said(
    case: tuple[ZarrArray, Values], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As many files, fill values or not; the same dims, cut and codecs."""
    array, values = case
    folder = write(tmp_path_factory.mktemp("group"), array, values)
    assert {p.name for p in folder.iterdir()} == {"zarr.json", *cells(array)}
    assert len(cells(array)) == array.files
    read = zarr.open_array(folder, mode="r")
    np.testing.assert_array_equal(read[...], values)
    assert read.dtype == np.dtype(array.dtype)
    assert read.metadata.dimension_names == array.dims
    assert read.chunks == (array.chunk or array.cell)
    assert read.shards == (array.cell if array.chunk is not None else None)
    held = ZarrArray.from_document(read_metadata(folder))
    assert held == array or array.fill != array.fill  # NaN is not equal to itself
    assert (held.dims, held.cell, held.chunk) == (array.dims, array.cell, array.chunk)


@given(case=arrays_in_cells())
@settings(max_examples=25, deadline=None)
def test_plain_arrays_are_read_without_zarr(
    case: tuple[ZarrArray, Values], tmp_path_factory: pytest.TempPathFactory
) -> None:
    array, values = case
    array = ZarrArray(array.dims, array.shape, array.dtype, array.cell, None, array.fill)
    folder = write(tmp_path_factory.mktemp("group"), array, values)
    for name, region in cells(array).items():
        part = values[region]
        found = array.decode((folder / name).read_bytes())
        assert found.shape == array.cell
        np.testing.assert_array_equal(found[tuple(map(slice, part.shape))], part)


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=8), cell=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_texts_are_read_by_zarr_and_without_it(
    texts: list[str], cell: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = ZarrArray(("point",), (len(texts),), "string", (cell,), None, "pending")
    folder = write(tmp_path_factory.mktemp("group"), array, np.array(texts, dtype=object))
    assert zarr.open_array(folder, mode="r")[...].tolist() == texts
    first = array.decode((folder / "c.0").read_bytes())
    assert first.tolist() == (texts[:cell] + ["pending"] * cell)[:cell]


def test_numbers_are_compressed_and_every_chunk_has_a_checksum(tmp_path: Path) -> None:
    sharded = ZarrArray(("a", "s"), (4, 6), "float32", (2, 6), (1, 3), float("nan"))
    plain = ZarrArray(("a",), (4,), "string", (2,), None, "pending")
    create_group(tmp_path, {}, {"x": sharded, "y": plain}, {})
    (codec,) = read_metadata(tmp_path / "x")["codecs"]
    inner = {c["name"]: c.get("configuration") for c in codec["configuration"]["codecs"]}
    assert list(inner) == ["bytes", "blosc", "crc32c"]
    blosc = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": 4, "blocksize": 0}
    assert inner["blosc"] == blosc
    assert [c["name"] for c in codec["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    names = [c["name"] for c in read_metadata(tmp_path / "y")["codecs"]]
    assert names == ["vlen-utf8", "gzip", "crc32c"]


def test_a_plain_array_that_is_encoded_otherwise_is_not_guessed_at(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x", shape=(3,), dtype="float64", dimension_names=("a",))
    with pytest.raises(ValueError, match=r"unknown codecs .*zstd"):
        ZarrArray.from_document(read_metadata(tmp_path / "x"))


def test_stores_from_before_zarr_wrote_them_are_read(tmp_path: Path) -> None:
    """Their codecs have no empty configurations, and their gzip files no time."""
    array = ZarrArray(("a",), (2,), "string", (2,), None, "pending")
    create_group(tmp_path, {}, {"x": array}, {})
    document = read_metadata(tmp_path / "x")
    document["codecs"] = [
        {"name": "vlen-utf8"},
        {"name": "gzip", "configuration": {"level": 1}},
        {"name": "crc32c"},
    ]
    document["storage_transformers"] = []
    assert ZarrArray.from_document(document) == array


def test_cells_that_are_not_written_read_as_the_fill_value(tmp_path: Path) -> None:
    array = ZarrArray(("a", "s"), (4, 6), "float64", (2, 6), (1, 3), float("nan"))
    folder = write(tmp_path, array, np.ones((4, 6)))
    (folder / "c.1.0").unlink()
    read = np.asarray(zarr.open_array(folder, mode="r")[...])
    assert np.isnan(read[2:]).all()
    assert (read[:2] == 1).all()


@pytest.mark.parametrize(
    ("cell", "chunk"),
    [
        ((256, 100), (256, 100)),  # 200 KiB in all
        ((64, 25_000), (1, 25_000)),  # a point of 200 kB is a chunk
        ((2, 20_000, 25), (1, 1_250, 25)),  # one of 4 MB is cut: 250 kB
        ((512, 4, 400), (16, 4, 400)),
        ((1_000_000,), (31_250,)),
        ((1, 997, 100), (1, 997, 100)),  # a prime has no better divisor than itself
    ],
)
def test_inner_chunks_have_some_hundred_kilobytes(
    cell: tuple[int, ...], chunk: tuple[int, ...]
) -> None:
    assert inner_chunk(cell, 8) == chunk


@pytest.mark.parametrize("at", [0, 40, -30, -3])
def test_a_flipped_bit_is_noticed(at: int, tmp_path: Path) -> None:
    for chunk in ((5, 8), None):
        array = ZarrArray(("a", "s"), (10, 8), "float64", (10, 8), chunk, float("nan"))
        values = np.random.default_rng(1).normal(size=(10, 8))
        folder = write(tmp_path / str(chunk), array, values)
        content = bytearray((folder / "c.0.0").read_bytes())
        content[at] ^= 4
        (folder / "c.0.0").write_bytes(content)
        with pytest.raises((ValueError, RuntimeError), match=r"(?i)checksum|corrupt|decompress"):
            zarr.open_array(folder, mode="r")[...]


@pytest.mark.parametrize("shape", [(10, 8), (7, 8), (7, 5)])  # the last shard whole, and not
@pytest.mark.parametrize("chunk", [(5, 4), None])
def test_what_a_killed_writer_left_in_a_shard_is_replaced_unread(
    shape: tuple[int, ...], chunk: tuple[int, ...] | None, tmp_path: Path
) -> None:
    array = ZarrArray(("a", "s"), shape, "float64", (5, 8), chunk, float("nan"))
    values = np.random.default_rng(2).normal(size=shape)
    folder = write(tmp_path, array, values)
    for name in cells(array):
        (folder / name).write_bytes(b"not a shard")
    opened = open_arrays(tmp_path, ["x"])["x"]
    for region in cells(array).values():
        opened[region] = values[region]
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], values)


def test_groups_are_consolidated(tmp_path: Path) -> None:
    array = ZarrArray(("a",), (3,), "float64", (3,), None, float("nan"), {"units": "s"})
    create_group(tmp_path, {"title": "t"}, {"x": array, "y": array}, {"x": np.arange(3.0)})
    group = zarr.open_consolidated(str(tmp_path))
    assert group.attrs.asdict() == {"title": "t"}
    x = group["x"]
    assert isinstance(x, zarr.Array)
    assert np.asarray(x[...]).tolist() == [0.0, 1.0, 2.0]
    assert x.attrs.asdict() == {"units": "s"}
    assert group.metadata.consolidated_metadata is not None
    assert [p.name for p in (tmp_path / "y").iterdir()] == ["zarr.json"]


# --- on the disk, or not there -------------------------------------------------------------------


def test_a_store_holds_the_files_that_the_plan_forecast(cake: Callable[..., Sweep]) -> None:
    from dpsolve.hpc.plan.plan import make_plan
    from dpsolve.hpc.sweep_file.model_source import resolve

    sweep = cake(store={"points_per_task": 4})  # two tasks, the second not full
    plan = make_plan(sweep, resolve(sweep.model))
    run(sweep)
    path = Path(sweep.store.path)
    own = ("status/driver", "status/ledger")  # of the driver, beside the arrays
    held = [name for name in contents(path) if not name.startswith(own)]
    assert len(held) == plan.files
    assert verify(path, sample=0).ok


def test_every_file_is_on_the_disk_before_it_is_in_its_place(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the data of a task before its manifest, and the manifest before the status."""
    synced: set[str] = set()
    placed: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def watched_fsync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_replace(draft: Path, path: Path) -> None:
        assert str(draft) in synced
        replace(draft, path)
        placed.append(f"{path.parent.name}/{path.name}")

    def watched_link(draft: Path, path: Path) -> None:
        assert str(draft) in synced or path.name == "driver.json"
        link(draft, path)
        placed.append(f"{path.parent.name}/{path.name}")

    monkeypatch.setattr(atomic_files.os, "fsync", watched_fsync)
    monkeypatch.setattr(atomic_files.os, "replace", watched_replace)
    monkeypatch.setattr(atomic_files.os, "link", watched_link)
    sweep = cake()
    run(sweep)
    results = open_store(sweep.store.path).buckets[0].results
    path = Path(sweep.store.path)
    chunks = {f"{p.parent.name}/{p.name}" for p in path.rglob("*") if p.name[:2] in ("c.", "m.")}
    metadata = [p for p in path.rglob("zarr.json")]
    assert chunks <= {*placed}
    assert len([p for p in placed if p.endswith("zarr.json")]) >= len(metadata)
    for task in range(3):
        at = {name: place for place, name in enumerate(placed)}
        status, manifest = at[f"status/c.{task}"], at[f"status/m.{task}"]
        own = (f"c.{task}", f"c.{task}.0")
        data = [at[f"{name}/{n}"] for name in results for n in own if f"{name}/{n}" in at]
        assert len(data) == 10
        assert sorted(data)[-1] == status
        assert max(set(data) - {status}) < manifest < status


KILLED_WRITER = """
import os, signal, sys
import numpy as np
from dpsolve.hpc.store import atomic_files
from dpsolve.hpc.store.zarr_store import open_arrays

atomic_files.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
open_arrays(sys.argv[1], ["x"])["x"][...] = np.zeros((4, 6))
"""


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    array = ZarrArray(("a", "s"), (4, 6), "float64", (4, 6), (1, 3), float("nan"))
    folder = write(tmp_path, array, np.ones((4, 6)))
    before = (folder / "c.0.0").read_bytes()
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / "c.0.0").read_bytes() == before
    assert len([*folder.glob("*.partial")]) == 1
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], np.ones((4, 6)))


def test_a_disk_that_is_full_while_zarr_writes_is_one_error_in_our_words(
    toy_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, undisturbed = toy_sweep(), toy_sweep("undisturbed.zarr")
    run(undisturbed)
    original = atomic_files.os.replace

    def replace(draft: Path, path: Path) -> None:
        if path.name == "c.1":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(draft, path)

    monkeypatch.setattr(atomic_files.os, "replace", replace)
    with pytest.raises(StoreError, match=r"the disk of .*toy\.zarr is full"):
        run(sweep)
    monkeypatch.undo()
    assert not [*Path(sweep.store.path).rglob("*.partial")]
    assert 1 not in open_store(sweep.store.path).receipts()
    assert run(sweep).solved == 3
    assert_equal_stores(sweep.store.path, undisturbed.store.path)


def test_a_store_that_is_removed_meanwhile_does_not_come_back_in_part(tmp_path: Path) -> None:
    array = ZarrArray(("a", "s"), (4, 6), "float64", (4, 6), (1, 3), float("nan"))
    folder = write(tmp_path / "s.zarr", array, np.ones((4, 6)))
    opened = open_arrays(folder.parent, ["x"])["x"]
    shutil.rmtree(folder.parent)
    with pytest.raises(FileNotFoundError):
        opened[...] = np.ones((4, 6))
    assert not folder.parent.exists()
