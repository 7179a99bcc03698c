"""``dpsolve doctor``: self-test of the installation, and the health of a store."""

from __future__ import annotations

import glob
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpsolve._version import __version__
from dpsolve.hpc.run.single_driver import driver_record
from dpsolve.hpc.store.atomic_files import PARTIAL
from dpsolve.hpc.store.create import DRAFT
from dpsolve.hpc.store.damage import check_metadata, damaged_tasks, take_back
from dpsolve.hpc.store.provenance import version_notes
from dpsolve.hpc.store.store import Store, open_store
from dpsolve.hpc.store.trust import Trust, check_unaltered, trusted
from dpsolve.solvers.errors import DpsolveError, StoreError

from .process_alive import is_alive

_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    level : str
        ``ok``; ``note`` (worth knowing, or to be done); ``fault`` (wrong).
    subject, text : str
        What was looked at, and what was found, with the remedy.
    """

    level: Literal["ok", "note", "fault"]
    subject: str
    text: str


def examine(
    path: Path | None = None, *, fix: bool = False, trust: Trust = False
) -> Iterator[Finding]:
    """Look at the installation, and at a store.

    Parameters
    ----------
    path : Path, optional
        A store.
    fix : bool
        Remove what killed processes left behind, and take back commits whose data are damaged.
        No sweep should be writing there meanwhile: a file in the making looks like a leftover.
    trust : Trust
        Why the model that the store keeps may run, with which its parameters are compared at the
        end: all other checks run nothing of it.

    Raises
    ------
    RefusedError
        At the end, if it may not run.
    """
    yield from _installation()
    if path is None:
        yield _writable(Path.cwd())
        return
    yield from _drafts(path, fix)
    try:
        store = open_store(path)
    except StoreError as error:
        yield Finding("fault", "store", str(error))
        return
    yield _writable(path)
    yield from _partials(path, fix)
    try:
        check_unaltered(store)
        check_metadata(store)
    except DpsolveError as error:
        yield Finding("fault", "metadata", str(error))
        return
    yield from _tasks(store)
    for text in version_notes(store.attributes):
        yield Finding("note", "versions", text)
    yield from _contents(store, fix)
    yield from _parameters(trusted(store, trust))


def _installation() -> Iterator[Finding]:
    yield Finding("ok", "dpsolve", f"{__version__} in {sys.prefix}")
    yield Finding("ok", "python", platform.python_version())
    try:
        import jax
        import jax.numpy as jnp

        yield Finding("ok", "jax", jax.__version__)
        yield Finding("ok", "devices", _devices(jax.devices()))
        works = float(jax.jit(lambda x: x + 1.0)(jnp.asarray(1.0))) == 2.0
        yield Finding("ok" if works else "fault", "compiling", "works" if works else "1 + 1 != 2")
        double = jnp.zeros(()).dtype == jnp.float64
    except Exception as error:  # whatever a broken installation raises is the finding
        text = f"{type(error).__name__}: {error}. Install again: pip install --upgrade jax jaxlib"
        yield Finding("fault", "jax", text)
        return
    if double:
        yield Finding("ok", "numbers", "float64")
    else:
        text = "float32: something set jax_enable_x64 to False; unset JAX_ENABLE_X64"
        yield Finding("fault", "numbers", text)


def _devices(devices: list[object]) -> str:
    kinds = [f"{getattr(d, 'device_kind', d)} ({getattr(d, 'platform', '?')})" for d in devices]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror}); choose another place with --store"
        return Finding("fault", "disk", text)
    free = shutil.disk_usage(folder).free / 2**30
    return Finding("ok", "disk", f"{folder} can be written, {free:,.1f} GiB free")


def _drafts(path: Path, fix: bool) -> Iterator[Finding]:
    """Look for stores whose making was broken off, beside the store's place."""
    start = f".{path.name}."
    entries = path.parent.glob(f"{glob.escape(start)}*{DRAFT}") if path.parent.is_dir() else ()
    for draft in sorted(entries):
        host, _, process = draft.name.removeprefix(start).removesuffix(DRAFT).rpartition("-")
        number = int(process) if process.isdecimal() else None
        if host == platform.node() and number is not None and is_alive(number):
            yield Finding("note", "draft", f"{draft}: process {process} is making this store now")
        elif fix:
            shutil.rmtree(draft, ignore_errors=True)
            yield Finding("ok", "draft", f"removed {draft}")
        else:
            text = f"{draft}: a store half made by a killed process ({host}); --fix removes it"
            yield Finding("note", "draft", text)


def _partials(path: Path, fix: bool) -> Iterator[Finding]:
    """Look for files that were being written when their process was killed."""
    partials = sorted(path.rglob(f"*{PARTIAL}"))
    if not partials:
        yield Finding("ok", "leftovers", "none")
        return
    shown = ", ".join(str(p.relative_to(path)) for p in partials[:_SHOWN])
    more = f" and {len(partials) - _SHOWN} more" if len(partials) > _SHOWN else ""
    if not fix:
        text = f"{len(partials)} files of killed processes ({shown}{more}); --fix removes them"
        yield Finding("note", "leftovers", text)
        return
    for partial in partials:
        partial.unlink(missing_ok=True)
    yield Finding("ok", "leftovers", f"removed {len(partials)} files ({shown}{more})")


def _tasks(store: Store) -> Iterator[Finding]:
    receipts, path = store.receipts(), shlex.quote(str(store.path))
    total, done = len(store.tasks), len(receipts)
    damaged = sum(len(bucket.committed()) for bucket in store.buckets) - done
    if damaged:
        remedy = f"compute them again: dpsolve resume {path}"
        yield Finding("fault", "tasks", f"{damaged} have a damaged status; {remedy}")
    elif done < total:
        text = f"{total - done} of {total} are not committed; go on: dpsolve resume {path}"
        yield Finding("note", "tasks", text)
    else:
        yield Finding("ok", "tasks", f"all {total} are committed")


def _contents(store: Store, fix: bool) -> Iterator[Finding]:
    """Read every committed number and compare it with its checksums."""
    try:
        damaged = list(damaged_tasks(store))
    except DpsolveError as error:
        yield Finding("fault", "contents", str(error))
        return
    if not damaged:
        yield Finding("ok", "contents", "every committed number agrees with its checksum")
        return
    claims = [text for _, faults in damaged for text in faults]
    path = shlex.quote(str(store.path))
    for claim in claims[:_SHOWN]:
        yield Finding("fault", "contents", claim)
    if (rest := len(claims) - _SHOWN) > 0:
        yield Finding("fault", "contents", f"and {rest} more; see: dpsolve verify {path}")
    count = f"{len(damaged)} of {len(store.tasks)} tasks"
    if not fix:
        text = (
            f"{count} have damaged data. To compute them again: dpsolve resume {path} --repair; "
            f"to take their commits back alone: dpsolve doctor {path} --fix"
        )
        yield Finding("fault", "damage", text)
    elif (driver := driver_record(store)) is not None and driver.alive:
        yield Finding("fault", "damage", f"{count} have damaged data; {driver} is at work here")
    else:
        take_back(store, [task for task, _ in damaged])
        text = f"took back the commits of {count}; go on: dpsolve resume {path}"
        yield Finding("ok", "damage", text)


def _parameters(store: Store) -> Iterator[Finding]:
    """Compare the parameters of the points with the sweep that the store holds."""
    from dpsolve.hpc.verify.audit import metadata_faults

    try:
        faults = list(metadata_faults(store))
    except DpsolveError as error:
        faults = [str(error)]
    for text in faults:
        yield Finding("fault", "parameters", text)
    if not faults:
        yield Finding("ok", "parameters", "they are those of the sweep")
