"""Files that are whole or absent; a full disk or quota in words.

A file is written beside its place, brought to the disk, and moved. Bringing it to the disk costs
0.2 to 0.6 ms on a local one (measured); without it, a node that loses its power could keep the
commit of a task and lose the numbers that it vouches for, because a file system writes names and
contents back in an order of its own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dpsolve.solvers.errors import StoreError

PARTIAL = ".partial"
"""The ending of a file not yet moved to its place; zarr ends its own alike."""


MOST_READ = 2**30
"""Bytes of a file that is read as a whole: metadata, records, logs."""


def write_file(path: Path, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Write a file so that it is there as a whole or not at all."""
    _place(path, pieces, os.replace)


def write_once(path: Path, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Write a file as `write_file` does, unless there is one.

    Raises
    ------
    FileExistsError
        If another process was first.
    """
    _place(path, pieces, _link)


def _place(
    path: Path,
    pieces: Iterable[bytes | bytearray | memoryview],
    move: Callable[[Path, Path], None],
) -> None:
    draft = path.with_name(f"{path.name}.{os.urandom(16).hex()}{PARTIAL}")
    try:
        with open(draft, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        move(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def read_plain(path: Path) -> bytes:
    """Return the content of a file; of what may have no end nothing is read.

    Raises
    ------
    ValueError
        If it is a pipe, a device, or a file of holes that is larger than any of ours.
    OSError
        If it cannot be read.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        held = os.fstat(number)
        if not stat.S_ISREG(held.st_mode):
            raise ValueError(f"{path.name} is no file")
        if held.st_size > MOST_READ:
            raise ValueError(f"{path.name} has {held.st_size:,} bytes, and may have {MOST_READ:,}")
        content = os.read(number, held.st_size)
        while len(content) < held.st_size and (more := os.read(number, held.st_size)):
            content += more
        return content
    finally:
        os.close(number)


def _link(draft: Path, path: Path) -> None:
    """Give a draft its name if that is free: of two processes, one fails."""
    try:
        os.link(draft, path)
    except FileExistsError:
        if os.stat(draft).st_nlink < 2:  # NFS may have done it, and asked once more
            raise
    except OSError:  # no file has two names here: the next best, since names are hardly ever taken
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(draft, path)
        return
    os.unlink(draft)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says into one error that names the store and a remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(_in_words(error, path)) from error


def _in_words(error: OSError, path: Path) -> str:
    keeps = f"What was committed in {path} stays valid; then the same command resumes."
    match error.errno:
        case errno.ENOSPC if _no_inodes(path):
            return (
                f"the disk of {path} can take no more files, though it has space: its inodes are "
                "used up. Remove files there that nobody needs; a sweep into a new store with "
                f"more points_per_task in [store] makes fewer. {keeps}"
            )
        case errno.ENOSPC:
            return f"the disk of {path} is full. Free some space on it. {keeps}"
        case errno.EDQUOT:
            return (
                f"your disk quota for {path} is used up: of space, or of files. Free some. {keeps}"
            )
        case errno.EFBIG:
            return (
                f"a file of {path} is larger than allowed here (see ulimit -f). Raise the limit, "
                f"or lower points_per_task in [store]. {keeps}"
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return (
                f"no permission to write {error.filename or path} ({error.strerror}). Choose "
                f"another place with --store, or change the permissions. {keeps}"
            )
        case errno.ENOTDIR | errno.EEXIST:
            return (
                f"{path} cannot be a store, because a file stands where a folder is needed. "
                "Choose another place with --store."
            )
        case _:
            where = f" ({error.filename})" if error.filename else ""
            reason = error.strerror or str(error)
            return f"{path} cannot be read or written: {reason}{where}. {keeps}"


def _no_inodes(path: Path) -> bool:
    """Tell whether the file system of a path has space but takes no more files."""
    for place in (path, *path.parents):
        with suppress(OSError):
            held = os.statvfs(place)
            return held.f_files > 0 and held.f_favail == 0 and held.f_bavail > 0
    return False
