"""A checksum of every array at every point.

The checksums of Zarr's codecs vouch for the bytes of a file. They say nothing of a number that
was altered by a program which wrote the file anew, with a valid checksum. The manifest does: for
each point of a task and each array, the CRC-32 of the point's values, as they were when they were
computed. It costs about 0.3 microseconds per point and array, and 4 bytes.

It lies beside the status file of the task (``status/m.0.0`` beside ``status/c.0.0``), where no
reader of Zarr looks, and is written just before it. First a line of JSON that names the arrays,
then a little-endian uint32 for each point and array, then the CRC-32 of all that. An array whose
states are spread over several files has a checksum for each of them, under the array's and the
file's name (``value:c.0.3.0``): no process has to have seen the whole.

What is measured (`MEASURED`) has none: two workers that solve the same task, one of them held for
dead, write the same bits but for the time that they took, in whatever order.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint32]

MEASURED = frozenset({"seconds"})
"""Records that no second computation would repeat."""


def manifest_file(status_file: Path) -> Path:
    """Return where the manifest of a task lies, given its status file."""
    return status_file.with_name("m" + status_file.name.removeprefix("c"))


def encode(arrays: Mapping[str, NDArray[Any]], points: int) -> list[bytes]:
    """Return the content of a task's manifest.

    Parameters
    ----------
    arrays : mapping of str to array (points, ...)
        Everything that is stored of the task's points, text included.
    points : int
    """
    return seal({name: digests(array, points) for name, array in arrays.items()})


def seal(found: Mapping[str, Digests]) -> list[bytes]:
    """Return the content of a manifest, given the digests (points,) by array."""
    table = np.stack(list(found.values()), axis=1)
    content = json.dumps(list(found)).encode() + b"\n" + table.astype("<u4").tobytes()
    return [content, struct.pack("<I", zlib.crc32(content))]


def decode(content: bytes) -> dict[str, Digests]:
    """Return the digests (points,) by array.

    Raises
    ------
    ValueError
        If the content is damaged.
    """
    body, checksum = content[:-4], content[-4:]
    if len(checksum) < 4 or struct.unpack("<I", checksum)[0] != zlib.crc32(body):
        raise ValueError("its checksum does not fit its content")
    head, _, rest = body.partition(b"\n")
    names = json.loads(head)
    table = np.frombuffer(rest, "<u4").reshape(-1, len(names)).astype(np.uint32)
    return dict(zip(names, table.T, strict=True))


def digests(array: NDArray[Any], points: int) -> Digests:
    """Return the CRC-32 of each point's values: little-endian bytes, or UTF-8 for text."""
    if array.dtype.kind in "OUT":
        texts = [str(x) for x in array.reshape(points).tolist()]
        known = {text: zlib.crc32(text.encode()) for text in set(texts)}  # few differ
        return np.fromiter((known[text] for text in texts), np.uint32, points)
    rows = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(points, -1)
    if rows.size == 0:
        return np.zeros(points, np.uint32)
    pieces = rows.view(f"V{rows.nbytes // points}").ravel().tolist()
    return np.fromiter(map(zlib.crc32, pieces), np.uint32, points)
