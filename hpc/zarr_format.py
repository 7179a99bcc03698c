"""One array of the store: its labels, chunks and codecs in Zarr v3, known without zarr.

zarr creates and writes the arrays (``zarr_store.py``), and xarray reads them. What stands here is
what must be known without importing either: a plan forecasts files and bytes from it, and
``dpsolve status`` reads the status of all points with the standard library alone.

Two kinds of array suffice:

- *sharded*, for what depends on the states: each file is a shard, its inner chunks compressed by
  Blosc (zstd, shuffle), so that a reader fetches a few hundred KiB for one point;
- *plain*, for coordinates and for what is known of each point (its status above all): gzip, which
  the standard library reads.

Both carry CRC-32C checksums. An array of nothing but fill values is written like any other: the
number of files is known beforehand, and a missing one is a fault, never a shorthand.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

METADATA = "zarr.json"
"""The file that holds the metadata of an array or a group."""

STRING = "string"
"""The data type of text; every other is named as in NumPy."""

TEXT_BYTES = 16
"""What one text is taken for in forecasts: a word and its length."""

MOST_TEXT, TEXT_LENGTH = 2**24, 512
"""How long the texts of one file may be: so many bytes, and as many more for each."""

BLOSC_HEADER = 16
_EMPTY = 2**64 - 1

MOST_UNPACKED = 2**30
"""Bytes of one plain file once it is unpacked; what is larger is no file of a sweep."""

Document = dict[str, Any]

# Mantissas hardly compress: level 3 makes files a tenth smaller, in up to seven times the time.
_SHUFFLED = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 0}


@dataclass(frozen=True)
class ZarrArray:
    """How an array is labelled, cut into files and encoded.

    Attributes
    ----------
    dims : tuple of str
        Names of the dimensions.
    shape : tuple of int
    dtype : str
        NumPy's name, or ``"string"``.
    cell : tuple of int
        The shape of what one file holds. Cells at the upper edges may reach beyond the array.
    chunk : tuple of int or None
        The shape of a shard's inner chunks, which divides the cell; None for a plain array.
    fill : number or str
        What a reader sees where nothing is written.
    attributes : dict
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    cell: tuple[int, ...]
    chunk: tuple[int, ...] | None
    fill: Any
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array before compression."""
        return math.prod(self.shape) * item_bytes(self.dtype)

    @property
    def files(self) -> int:
        """The number of files of the array once it is complete, metadata aside."""
        pairs = zip(self.shape, self.cell, strict=True)
        return math.prod(-(-length // part) for length, part in pairs)

    @cached_property
    def _numpy(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")

    def key(self, index: tuple[int, ...]) -> str:
        """Return the name of the file that holds the cell at `index`."""
        return ".".join(("c", *map(str, index)))

    @property
    def codecs(self) -> list[Document]:
        """What zarr encodes a chunk with, in the words of its metadata.

        Of a sharded array these are the codecs of its inner chunks.
        """
        checksum: Document = {"name": "crc32c"}
        to_bytes: Document = {"name": "bytes", "configuration": {"endian": "little"}}
        if self.chunk is None:
            serializer = {"name": "vlen-utf8"} if self.dtype == STRING else to_bytes
            return [serializer, {"name": "gzip", "configuration": {"level": 1}}, checksum]
        blosc = {"name": "blosc", "configuration": {"typesize": self._numpy.itemsize, **_SHUFFLED}}
        return [to_bytes, blosc, checksum]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ZarrArray:
        """Read an array's ``zarr.json``.

        Raises
        ------
        ValueError
            If it is a plain array encoded in a way that `decode` does not read, or no array that
            a sweep makes.
        """
        codecs = document["codecs"]
        sharded = codecs[0]["name"] == "sharding_indexed"
        array = cls(
            dims=tuple(document["dimension_names"]),
            shape=tuple(document["shape"]),
            dtype=document["data_type"],
            cell=tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
            chunk=tuple(codecs[0]["configuration"]["chunk_shape"]) if sharded else None,
            fill=_fill_from_json(document["fill_value"]),
            attributes=dict(document["attributes"]),
        )
        _check_shape(array)
        if not sharded and _as_read(codecs) != _as_read(array.codecs):
            raise ValueError(f"unknown codecs {codecs}")
        return array

    def block(self, values: Any, leading: tuple[int, ...]) -> NDArray[Any]:
        """Return values as the array stores them: its data type, and `leading` axes first."""
        dtype: Any = object if self.dtype == STRING else self._numpy
        return np.asarray(values, dtype).reshape(leading + self.shape[len(leading) :])

    def decode(self, content: bytes) -> NDArray[Any]:
        """Return the whole cell from the content of a plain array's file.

        Raises
        ------
        ValueError
            If the content is damaged.
        """
        if self.chunk is not None:
            raise TypeError("only plain arrays are read here")
        count = math.prod(self.cell)
        text = self.dtype == STRING
        needed = MOST_TEXT + TEXT_LENGTH * count if text else count * self._numpy.itemsize
        raw = _unpacked(content[:-4], min(needed, MOST_UNPACKED))
        if text:
            texts: NDArray[Any] = np.array(_split(raw, count), dtype=object)
            return texts.reshape(self.cell)
        if len(raw) != needed:
            raise ValueError(f"damaged chunk: {len(raw)} bytes in place of {needed}")
        return np.frombuffer(raw, self._numpy).reshape(self.cell)

    def check_chunks(self, file: Path) -> None:
        """Look at what the chunks of a shard say that they unpack to, without unpacking them.

        Raises
        ------
        ValueError
            If one says something else than what the array has there.
        OSError
            If the file cannot be read.
        """
        if self.chunk is None:
            raise TypeError("only sharded arrays have chunks in their files")
        meant = math.prod(self.chunk) * self._numpy.itemsize
        count = math.prod(self.cell) // math.prod(self.chunk)
        with file.open("rb") as shard:
            end = shard.seek(0, os.SEEK_END)
            start = end - (16 * count + 4)  # offset and length of each chunk, and a checksum
            if start < 0:
                raise ValueError("damaged shard: it ends before its index")
            shard.seek(start)
            for offset, length in np.frombuffer(shard.read(16 * count), "<u8").reshape(-1, 2):
                if offset == length == _EMPTY:
                    continue
                if length < BLOSC_HEADER or int(offset) + int(length) > start:
                    raise ValueError("damaged shard: its index leads out of it")
                shard.seek(int(offset))
                said = struct.unpack_from("<I", shard.read(BLOSC_HEADER), 4)[0]
                if said != meant:
                    raise ValueError(f"damaged chunk: {said:,} bytes in place of {meant:,}")


def _unpacked(content: bytes, most: int) -> bytes:
    """Decompress, but no more than so many bytes: a small file can hold gigabytes of nothing."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # gzip's header
    try:
        raw = stream.decompress(content, most + 1)
    except zlib.error as error:
        raise ValueError(f"damaged chunk: {error}") from None
    if len(raw) > most:
        raise ValueError(
            f"damaged chunk: {len(content):,} bytes unpack to more than {most:,}, which is all "
            "that it may hold"
        )
    if not stream.eof:
        raise ValueError("damaged chunk: it ends before its end")
    return raw


def _check_shape(array: ZarrArray) -> None:
    lengths = (*array.shape, *array.cell, *(array.chunk or ()))
    if not all(type(length) is int and 0 < length < 2**63 for length in lengths):
        raise ValueError(f"lengths of {lengths} are none of an array")
    if not len(array.dims) == len(array.shape) == len(array.cell):
        raise ValueError(f"the dimensions {array.dims} do not fit the shape {array.shape}")
    if array.dtype != STRING and np.dtype(array.dtype).kind not in "biufc":
        raise ValueError(f"there is no array of {array.dtype}")


def item_bytes(dtype: str) -> int:
    """Return the bytes of one value."""
    return TEXT_BYTES if dtype == STRING else np.dtype(dtype).itemsize


def _as_read(codecs: Iterable[Document]) -> list[tuple[str, bool]]:
    """Return what a reader must know of the codecs: their names, and the order of bytes."""
    return [(c["name"], c.get("configuration", {}).get("endian") == "big") for c in codecs]


def _fill_from_json(fill: Any) -> Any:
    if isinstance(fill, list):
        return complex(*map(_fill_from_json, fill))
    return math.nan if fill == "NaN" else fill


def _split(raw: bytes, count: int) -> list[str]:
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != count:
        raise ValueError("damaged chunk: it holds another number of texts")
    if count and len(raw) >= 8:  # nearly always all are one and the same
        (length,) = struct.unpack_from("<I", raw, 4)
        if len(raw) == 4 + count * (4 + length) and raw[4:] == raw[4 : 8 + length] * count:
            return [raw[8 : 8 + length].decode()] * count
    texts, at = [], 4
    try:
        for _ in range(count):
            (length,) = struct.unpack_from("<I", raw, at)
            texts.append(raw[at + 4 : at + 4 + length].decode())
            at += 4 + length
    except struct.error:
        raise ValueError("damaged chunk: it ends within a text") from None
    return texts
