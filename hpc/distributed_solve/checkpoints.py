"""Checkpoints of a long solve: how often, how many are kept.

A checkpoint is a *generation*: a folder with one file for each device's part of the states, each
written by the process that has it, whole or not at all, with a CRC-32 of its content. A generation
counts if every part of it is there and whole; two are kept, so that a kill while one is written
leaves the one before. It may be taken up on another mesh: then each process reads the parts that
overlap with its own.

They lie in ``status/checkpoint`` in the store, where no reader of Zarr looks. Of which model and
options they are is the store's to say: a call that asks for others is refused before.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.store.atomic_files import disk_errors, write_file

if TYPE_CHECKING:
    from dpsolve.hpc.store.store import Store
    from dpsolve.sharding.processes.stepwise import DeviceState, StateBlock


FORMAT = 1
_GENERATION = re.compile(r"[0-9]{10,18}")
KEPT = 2
"""Generations that are kept: the newest, and the one before."""


class Checkpoints:
    """The checkpoints of a store of one point.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self.folder = store.buckets[0].folder / "status" / "checkpoint"

    def generations(self) -> list[str]:
        """Return the names of all generations, the newest first, whole or not."""
        with disk_errors(self.folder):
            if not self.folder.is_dir():
                return []
            names = (f.name for f in self.folder.iterdir() if f.is_dir())
            return sorted((name for name in names if _GENERATION.fullmatch(name)), reverse=True)

    def write(self, sweeps: int, seconds: float, parts: Iterable[DeviceState]) -> str:
        """Write the parts of this process's devices; return the generation's name.

        Parameters
        ----------
        sweeps : int
            Made so far: the name of the generation.
        seconds : float
            Spent so far.
        parts : iterable of DeviceState

        Raises
        ------
        StoreError
            If the disk refuses.
        """
        name = f"{sweeps:010d}"
        with disk_errors(self.folder):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            for part in parts:
                file = self.folder / name / f"{part.box.number}.part"
                write_file(file, _encode(part, seconds))
        return name

    def read(self, name: str, boxes: Sequence[StateBlock]) -> tuple[list[DeviceState], float]:
        """Return a part for each box, and the seconds spent until then.

        Raises
        ------
        ValueError
            If a part of what is needed is missing or damaged; which, in words.
        """
        folder = self.folder / name
        files = {int(f.stem): f for f in folder.glob("*.part") if f.stem.isdecimal()}
        if not files:
            raise ValueError("it has no parts")
        first = _head(files[min(files)])
        box = first["box"]
        if missing := [str(i) for i in range(box["parts"]) if i not in files]:
            raise ValueError(f"part {', '.join(missing)} of {box['parts']} is not there")
        read: dict[int, DeviceState] = {}

        def part(number: int) -> DeviceState:
            if number not in read:
                read[number] = _decode(files[number])
            return read[number]

        seconds = float(first["seconds"])
        return [_cut_out(mine, box, part) for mine in boxes], seconds

    def drop(self, keep: int) -> None:
        """Remove all generations but the newest `keep`; what cannot be removed stays."""
        for name in self.generations()[keep:]:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        if not keep:
            with suppress(OSError):
                self.folder.rmdir()


def _encode(part: DeviceState, seconds: float) -> list[Any]:
    arrays = {name: np.ascontiguousarray(x) for name, x in part.arrays.items()}
    head = {
        "format": FORMAT,
        "seconds": seconds,
        "box": asdict(part.box),
        "numbers": part.numbers,
        "arrays": {name: [x.dtype.str, list(x.shape)] for name, x in arrays.items()},
    }
    pieces: list[Any] = [json.dumps(head).encode() + b"\n"]
    pieces += [x.data.cast("B") for x in arrays.values()]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return [*pieces, struct.pack("<I", checksum)]


def _head(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            head: dict[str, Any] = json.loads(opened.readline(2**20))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"{file.name} does not have the format {FORMAT}")
    return head


def _decode(file: Path) -> DeviceState:
    from dpsolve.sharding.processes.stepwise import DeviceState, StateBlock

    head = _head(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from None
    body = memoryview(content)[:-4]
    if len(content) < 4 or struct.unpack("<I", content[-4:])[0] != zlib.crc32(body):
        raise ValueError(f"{file.name} is damaged: its checksum does not fit its content")
    at = content.index(b"\n") + 1
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in head["arrays"].items():
        count = math.prod(shape)
        arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes
    return DeviceState(StateBlock(**head["box"]), arrays, head["numbers"])


def _cut_out(mine: StateBlock, stored: dict[str, Any], part: Any) -> DeviceState:
    """Return what a box needs out of the stored parts, which may be cut in another way."""
    from dpsolve.sharding.processes.stepwise import DeviceState

    axis, width, size = stored["axis"], stored["width"], stored["size"]
    if (mine.axis, mine.width, mine.parts) == (axis, width, stored["parts"]):
        return part(mine.number)  # type: ignore[no-any-return]  # the same cut: to the last bit
    if mine.axis != axis:
        raise ValueError(f"it is cut along axis {axis} of the states, this mesh cuts {mine.axis}")
    # Positions on the grid; those beyond its end are copies of the last member.
    wanted = np.minimum(np.arange(mine.first, mine.first + mine.width), size - 1)
    arrays: dict[str, NDArray[Any]] = {}
    numbers: dict[str, Any] = {}
    for number in sorted(set((wanted // width).tolist())):
        found = part(number)
        here = wanted // width == number
        for name, x in found.arrays.items():
            rows = np.take(x, wanted[here] - number * width, axis=axis)
            shape = (*x.shape[:axis], mine.width, *x.shape[axis + 1 :])
            into = arrays.setdefault(name, np.empty(shape, x.dtype))
            into[(slice(None),) * axis + (here,)] = rows
        numbers = found.numbers
    return DeviceState(mine, arrays, numbers)
