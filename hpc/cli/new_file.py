"""A file that a command writes: whole or not at all, and over no other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from dpsolve.solvers.errors import RefusedError, UsageError

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the file, if it exists.")


def check_place(target: Path, overwrite: bool) -> None:
    """Refuse a place that cannot be written to, before anything is read.

    Raises
    ------
    RefusedError
        If something lies there.
    UsageError
        If its folder is missing, or it is a folder itself.
    """
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file in it.")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent} to write {target.name} into.")
    if target.exists() and not overwrite:
        raise RefusedError(
            f"{target} exists already, and was left as it is. Choose another name, or replace it: "
            "--overwrite"
        )


@contextmanager
def new_file(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a path beside the target to write to, and move what was written there to its place.

    Raises
    ------
    RefusedError, UsageError
        As :func:`check_place`; and UsageError if the disk refuses.
    """
    check_place(target, overwrite)
    draft = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield draft
        os.replace(draft, target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
