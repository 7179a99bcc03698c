"""The bytes of the store are those of the specification: zarr reads what is written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsolve.hpc.plan.store_schema import inner_chunk
from dpsolve.hpc.zarr_format import ZarrArray, group_document


@st.composite
def arrays_in_cells(draw: st.DrawFn) -> tuple[ZarrArray, np.ndarray[Any, Any]]:
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
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return array, (rng.normal(size=shape) * 100).astype(dtype)


def write(folder: Path, array: ZarrArray, values: np.ndarray[Any, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_text(json.dumps(array.document()), encoding="utf-8")
    counts = [-(-n // m) for n, m in zip(array.shape, array.cell, strict=True)]
    for index in np.ndindex(*counts):
        inside = tuple(slice(i * m, i * m + m) for i, m in zip(index, array.cell, strict=True))
        (folder / array.key(index)).write_bytes(b"".join(array.encode(values[inside])))


@given(case=arrays_in_cells())
@settings(max_examples=40)
def test_zarr_reads_what_is_written(
    case: tuple[ZarrArray, np.ndarray[Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    array, values = case
    folder = tmp_path_factory.mktemp("array")
    write(folder, array, values)
    read = zarr.open_array(folder, mode="r")
    np.testing.assert_array_equal(read[...], values)
    assert read.metadata.dimension_names == array.dims
    assert len(list(folder.iterdir())) == 1 + array.files
    assert ZarrArray.from_document(json.loads((folder / "zarr.json").read_text())) == array or (
        array.fill != array.fill  # NaN is not equal to itself
    )


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=8), cell=st.integers(1, 9))
@settings(max_examples=30)
def test_zarr_reads_texts(
    texts: list[str], cell: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    array = ZarrArray(("point",), (len(texts),), "string", (cell,), None, "pending")
    write(folder, array, np.array(texts, dtype=object))
    assert zarr.open_array(folder, mode="r")[...].tolist() == texts
    first = array.decode((folder / "c.0").read_bytes())
    assert first.tolist() == (texts[:cell] + ["pending"] * cell)[:cell]


def test_cells_that_are_not_written_read_as_the_fill_value(tmp_path: Path) -> None:
    array = ZarrArray(("a", "s"), (4, 6), "float64", (2, 6), (1, 3), float("nan"))
    write(tmp_path, array, np.ones((4, 6)))
    (tmp_path / "c.1.0").unlink()
    read = zarr.open_array(tmp_path, mode="r")[...]
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
        write(tmp_path, array, values)
        content = bytearray((tmp_path / "c.0.0").read_bytes())
        content[at] ^= 4
        (tmp_path / "c.0.0").write_bytes(content)
        with pytest.raises((ValueError, RuntimeError), match=r"(?i)checksum|corrupt|decompress"):
            zarr.open_array(tmp_path, mode="r")[...]


def test_groups_are_consolidated_as_zarr_does_it(tmp_path: Path) -> None:
    array = ZarrArray(("a",), (3,), "float64", (3,), None, float("nan"), {"units": "s"})
    write(tmp_path / "g" / "x", array, np.arange(3.0))
    nodes = {"g": group_document({"k": 1}, {}), "g/x": array.document()}
    (tmp_path / "g" / "zarr.json").write_text(json.dumps(group_document({}, {})))
    (tmp_path / "zarr.json").write_text(json.dumps(group_document({"title": "t"}, nodes)))
    group = zarr.open_consolidated(str(tmp_path))
    assert group["g/x"][...].tolist() == [0.0, 1.0, 2.0]
    assert group["g/x"].attrs.asdict() == {"units": "s"}
    assert group.metadata.consolidated_metadata is not None
