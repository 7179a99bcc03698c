"""The store's arrays, created and written by the zarr library, on the disk before they count.

zarr encodes and names the files; what is ours is when they count. A file is written beside its
place, brought to the disk and moved (:func:`dpsolve.hpc.store.atomic_files.write_file`), so that a
commit which comes later never vouches for numbers that a loss of power took. And what a shard held
before is never read: a task owns whole shards, so there is nothing to merge, and what a killed
process left there may be damaged. (zarr 3.1 reads the old shard whatever is written, zarr 3.4 where
the array ends within it.)

Arrays are written one after another. Several at a time wait less for a slow disk, but cost half as
much processor time again, and it is the processor that the next task's solve needs meanwhile.

Importing zarr takes some 0.3 s. So this module is imported where something is written and nowhere
else; what is only read of an array stands in ``zarr_format.py``.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from dpsolve.hpc.zarr_format import METADATA, ZarrArray

from .atomic_files import write_file, write_once

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


COMMITS = "status/"
"""Where the files lie of which each is a commit, and written once (see :mod:`.store`)."""


class DurableStore(LocalStore):
    """A folder in which zarr's files are whole and on the disk, or absent.

    The folder of an array is made with its metadata, and by no chunk: a store that somebody
    removed while it was written is an error, and does not come into being again in part.
    """

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read metadata; of chunks, say that there are none."""
        return await super().get(key, prototype, byte_range) if _is_metadata(key) else None

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Do as `get`."""
        if not _is_metadata(key):
            return None
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file, and bring it to the disk."""
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Do as `set`."""
        file = self.root / key
        if _is_metadata(key):
            file.parent.mkdir(parents=True, exist_ok=True)
        once = key.startswith(COMMITS) and not _is_metadata(key)
        (write_once if once else write_file)(file, [value.as_buffer_like()])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file unless there is one. Only one process creates a store at a time."""
        if not await self.exists(key):
            await self.set(key, value)


def create_group(
    folder: Path,
    attributes: Mapping[str, Any],
    arrays: Mapping[str, ZarrArray],
    values: Mapping[str, NDArray[Any]],
) -> None:
    """Create a group whose arrays are empty but for those given, and consolidate its metadata.

    Parameters
    ----------
    folder : Path
    attributes : mapping
        Of the group.
    arrays : mapping of str to ZarrArray
    values : mapping of str to array
        What is known already: the coordinates.
    """
    zarr.create_group(DurableStore(folder), attributes=dict(attributes))

    for name, meant in arrays.items():
        array = create_array(folder, name, meant)
        if name in values:
            array[...] = values[name]
    consolidate(folder)


def create_array(folder: Path, name: str, meant: ZarrArray) -> zarr.Array[Any]:
    """Create one array of a group, with nothing in it."""
    serializer, *compressors = meant.codecs
    return zarr.create_array(
        DurableStore(folder),
        name=name,
        shape=meant.shape,
        dtype=meant.dtype,
        chunks=meant.chunk or meant.cell,
        shards=meant.cell if meant.chunk is not None else None,
        filters=None,
        serializer=serializer,
        compressors=compressors,
        fill_value=meant.fill,
        attributes=meant.attributes,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=meant.dims,
        config={"write_empty_chunks": True},  # a missing file is a fault, no shorthand
    )


def consolidate(folder: Path) -> None:
    """Repeat the metadata of all that is below a group in the group's own."""
    with warnings.catch_warnings():
        # xarray reads it, and so do we, from one file in place of twenty.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(DurableStore(folder))


def open_arrays(folder: Path, names: Iterable[str]) -> dict[str, zarr.Array[Any]]:
    """Open arrays of a group for writing; each write must cover all of a file's cell."""
    group = zarr.open_group(DurableStore(folder), mode="r+")
    found = {}
    for name in names:
        array = group[name]
        assert isinstance(array, zarr.Array)
        # Not by opening it so: zarr 3.1.6 takes no notice of that.
        found[name] = array.with_config({"write_empty_chunks": True})
    return found


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] == METADATA
