"""One array of the store: its chunks, codecs and compression in Zarr v3.

The store is written here and read by zarr: two implementations of one specification, which the
tests hold against each other. The reason is speed. A chunk costs zarr 1.3 ms of Python (measured,
zarr 3.1.6), a task of ten variables some 20 ms and a new store 40 ms, where 1,000 small models are
solved in 300 ms; and only a writer of one's own can bring a chunk to the disk before its commit.

Two kinds of array suffice:

- *sharded*, for what depends on the states: each file is a shard, its inner chunks compressed by
  Blosc (zstd, shuffle), so that a reader fetches a few hundred KiB for one point;
- *plain*, for coordinates and for what is known of each point (its status above all): gzip, which
  the standard library reads, so that ``dpsolve status`` answers without importing anything.

Both carry CRC-32C checksums. An array of nothing but fill values is written like any other: the
number of files is known beforehand, and a missing one is a fault, never a shorthand.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRING = "string"
"""The data type of text; every other is named as in NumPy."""

TEXT_BYTES = 16
"""What one text is taken for in forecasts: a word and its length."""

Document = dict[str, Any]

_ABSENT = 2**64 - 1
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

    def document(self) -> Document:
        """Return the array's ``zarr.json``."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.cell)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": _fill_to_json(self.fill),
            "codecs": self._codecs(),
            "attributes": self.attributes,
            "dimension_names": list(self.dims),
            "storage_transformers": [],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ZarrArray:
        """Read back what `document` returned.

        Raises
        ------
        ValueError
            If the array is encoded in a way that this module does not write.
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
        if array._codecs() != codecs:
            raise ValueError(f"unknown codecs {codecs}")
        return array

    def block(self, values: Any, leading: tuple[int, ...]) -> NDArray[Any]:
        """Return values as the array stores them: its data type, and `leading` axes first."""
        dtype: Any = object if self.dtype == STRING else self._numpy
        return np.asarray(values, dtype).reshape(leading + self.shape[len(leading) :])

    def encode(self, block: NDArray[Any]) -> list[bytes]:
        """Return the content of one file.

        Parameters
        ----------
        block : array
            The values of the cell, which at the edges may be fewer than the cell has room for.
        """
        return self._plain(block) if self.chunk is None else self._shard(block, self.chunk)

    def decode(self, content: bytes) -> NDArray[Any]:
        """Return the whole cell from the content of a plain array's file.

        Raises
        ------
        ValueError
            If the content is damaged.
        """
        if self.chunk is not None:
            raise TypeError("only plain arrays are read here")
        try:
            raw = gzip.decompress(content[:-4])
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"damaged chunk: {error}") from None
        if self.dtype == STRING:
            texts: NDArray[Any] = np.array(_split(raw), dtype=object)
            return texts.reshape(self.cell)
        return np.frombuffer(raw, self._numpy).reshape(self.cell)

    def _codecs(self) -> list[Document]:
        checksum: Document = {"name": "crc32c"}
        to_bytes: Document = {"name": "bytes", "configuration": {"endian": "little"}}
        if self.chunk is None:
            serialiser = {"name": "vlen-utf8"} if self.dtype == STRING else to_bytes
            return [serialiser, {"name": "gzip", "configuration": {"level": 1}}, checksum]
        blosc = {"name": "blosc", "configuration": {"typesize": self._numpy.itemsize, **_SHUFFLED}}
        configuration = {
            "chunk_shape": list(self.chunk),
            "codecs": [to_bytes, blosc, checksum],
            "index_codecs": [to_bytes, checksum],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

    def _plain(self, block: NDArray[Any]) -> list[bytes]:
        whole = self._padded(block, self.cell)
        raw = _joined(whole) if self.dtype == STRING else whole.tobytes()
        packed = gzip.compress(raw, 1, mtime=0)  # without the time: equal content, equal file
        return [packed, _checksum(packed)]

    def _shard(self, block: NDArray[Any], chunk: tuple[int, ...]) -> list[bytes]:
        from numcodecs.blosc import (  # type: ignore[import-untyped]  # it ships no types
            SHUFFLE,
            Blosc,
        )

        compressor = Blosc(_SHUFFLED["cname"], _SHUFFLED["clevel"], SHUFFLE)
        counts = [whole // part for whole, part in zip(self.cell, chunk, strict=True)]
        index = np.full((math.prod(counts), 2), _ABSENT, dtype="<u8")
        pieces: list[bytes] = []
        offset = 0
        for number, at in enumerate(np.ndindex(*counts)):
            corner = [i * part for i, part in zip(at, chunk, strict=True)]
            if any(i >= n for i, n in zip(corner, block.shape, strict=True)):
                continue  # beyond the edge of the array
            inside = tuple(slice(i, i + part) for i, part in zip(corner, chunk, strict=True))
            packed = bytes(compressor.encode(self._padded(block[inside], chunk)))
            pieces += [packed, _checksum(packed)]
            index[number] = offset, len(packed) + 4
            offset += len(packed) + 4
        table = index.tobytes()
        return [*pieces, table, _checksum(table)]

    def _padded(self, block: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        dtype: Any = object if self.dtype == STRING else self._numpy
        if block.shape == shape:
            return np.ascontiguousarray(block, dtype=dtype)
        whole = np.full(shape, self.fill, dtype=dtype)
        whole[tuple(map(slice, block.shape))] = block
        return whole


def group_document(attributes: Mapping[str, Any], nodes: Mapping[str, Document]) -> Document:
    """Return a group's ``zarr.json``.

    Parameters
    ----------
    attributes : dict
    nodes : dict of str to dict
        The metadata of everything below the group, by path. It is repeated here (consolidated),
        so that a reader opens one file and not one for each array.
    """
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(nodes),
        },
    }


def item_bytes(dtype: str) -> int:
    """Return the bytes of one value."""
    return TEXT_BYTES if dtype == STRING else np.dtype(dtype).itemsize


def _fill_to_json(fill: Any) -> Any:
    if isinstance(fill, complex):
        return [_fill_to_json(fill.real), _fill_to_json(fill.imag)]
    return "NaN" if isinstance(fill, float) and math.isnan(fill) else fill


def _fill_from_json(fill: Any) -> Any:
    if isinstance(fill, list):
        return complex(*map(_fill_from_json, fill))
    return math.nan if fill == "NaN" else fill


def _checksum(content: bytes) -> bytes:
    import google_crc32c

    return struct.pack("<I", google_crc32c.value(content))


def _joined(texts: NDArray[Any]) -> bytes:
    """Encode texts as the codec vlen-utf8 does: their number, then each with its length."""
    plain = [str(text) for text in texts.ravel().tolist()]
    known = {text: _with_length(text.encode()) for text in set(plain)}  # few differ
    return struct.pack("<I", texts.size) + b"".join([known[text] for text in plain])


def _with_length(encoded: bytes) -> bytes:
    return struct.pack("<I", len(encoded)) + encoded


def _split(raw: bytes) -> list[str]:
    (count,) = struct.unpack_from("<I", raw)
    texts, at = [], 4
    for _ in range(count):
        (length,) = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts
