"""What of a store may run, and whether what decides its numbers is what was written.

A store keeps the source of its model, so it can be resumed, verified and loaded without anything
else; and whoever made the store can make that source do anything. So a store opens with a source
that cannot be loaded (`StoredSource`), unless it is a built-in. :func:`trusted` is the only way to
one that can. It takes, in this order:

- the model that the caller names, if the store holds the same program: then only that runs;
- the checksum that a driver gave its workers: they trust what it trusts, and no more;
- a store that this user made, which a signature proves;
- the user's word: ``--trust``, ``trust=True``, or yes to a question.

*Checksum.* The SHA-256 of everything that decides a result: all root attributes (source, options,
sweep), sizes, parameters with their values, how points are cut into tasks, and what the arrays are
and say of themselves. It is compared before anything runs, by the driver and by each worker.

*Signature.* HMAC-SHA256 of the checksum with a key of the user's own, in ``store.key`` of
``$XDG_CONFIG_HOME/dpsolve`` or ``~/.config/dpsolve``. That a file belongs to the user proves
nothing: so does an unpacked archive.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.sweep_file.model_source import ModelSource
from dpsolve.hpc.terminal_text import printable
from dpsolve.hpc.zarr_format import METADATA
from dpsolve.solvers.errors import RefusedError

from .atomic_files import write_file

if TYPE_CHECKING:
    from .store import Store


CHECKSUM, SIGNATURE = "checksum", "signature"
"""Root attributes that vouch for the others."""

KEY_BYTES = 32

Trust = bool | str | ModelSource | Callable[[str], bool]
"""Why a store's model may run.

True or False: the user's word. A text: the checksum that a driver trusts. A source: the model that
the caller names, which runs in place of the stored one. A function: a question, answered by yes or
no, that is asked if nothing else proves the store.
"""


def trusted(store: Store, trust: Trust = False, *, writing: bool = False) -> Store:
    """Return a store whose model may run.

    Parameters
    ----------
    store : Store
    trust : Trust
    writing : bool
        New points are going to be added.

    Raises
    ------
    RefusedError
        If it is not trusted, naming what would run; or if it was altered.
    """
    check_unaltered(store)
    if isinstance(trust, ModelSource):
        return replace(store, source=trust)
    if isinstance(trust, str):
        if not hmac.compare_digest(trust, digest(store)):
            raise RefusedError(
                f"{store.path} is another store than the one that was to be worked on: it was "
                "replaced or altered meanwhile. Nothing of it was run."
            )
        return _unlocked(store)
    reasons = list(_doubts(store, writing))
    if reasons and trust is not True:
        text = f"{store.path} {' and '.join(reasons)}"
        asked = f"{text}.\nThis would run {would_run(store.source)}"
        if not (callable(trust) and trust(asked)):
            raise RefusedError(
                f"{asked}.\nNothing was run. If you trust whoever made it: --trust (trust=True in "
                f"Python). To read it first: dp.open({str(store.path)!r}).attrs['model_source']"
            )
    return _unlocked(store)


def check_unaltered(store: Store) -> None:
    """Compare everything that decides a result with its checksum.

    Raises
    ------
    RefusedError
        If something was altered.
    """
    if text := alteration(store):
        raise RefusedError(
            f"{store.path}: {text}. Nothing was run, and nothing was changed. Restore the "
            f"{METADATA} of the store from a copy, or sweep into a new store."
        )


def alteration(store: Store) -> str:
    """Return what was altered of that which decides results, as a sentence, or nothing."""
    held = store.attributes.get(CHECKSUM)
    if held is not None and held != digest(store):
        return (
            "its attributes, parameters or arrays were altered: they do not have the checksum "
            "with which the store was made"
        )
    if _own_signature(store) is False:
        return (
            "it was altered after you made it: your signature does not fit its attributes, "
            "parameters and arrays"
        )
    source, said = store.source, store.attributes
    if held is None and hashlib.sha256(source.source.encode()).hexdigest() != source.sha256:
        return "the attribute model_source does not have the checksum in model_sha256"
    files = said.get("model_files", "")
    if held is None and files and _sha256(files) != said.get("model_files_sha256"):
        return "the attribute model_files does not have the checksum in model_files_sha256"
    return ""


def would_run(source: ModelSource) -> str:
    """Say what would run if a source were loaded."""
    if source.is_builtin:
        return f"{_named(source)}, which is built in"
    if source.kind == "file":
        lines = source.source.count("\n") + 1
        beside = f" and {', '.join(name for name, _ in source.files)}" if source.files else ""
        kept = f"as kept in the store ({lines} lines, sha256 {source.sha256[:12]})"
        return printable(f"{_named(source)}{beside} {kept}")
    module = source.reference.rpartition(":")[0]
    return printable(
        f"{_named(source)}: the module {module} as it is installed here or stands in "
        f"{source.folder or '.'}"
    )


def _named(source: ModelSource) -> str:
    return printable(f"the model {source.reference}")


def _doubts(store: Store, writing: bool) -> Iterator[str]:
    """Yield why a store may not run without the user's word."""
    if store.source.is_builtin:
        if writing and CHECKSUM not in store.attributes:
            yield (
                "has no checksum of what decides its numbers: it is of an earlier dpsolve, or "
                "somebody removed it"
            )
    elif not _own_signature(store):
        yield (
            "was made by somebody else"
            if SIGNATURE in store.attributes
            else "does not say who made it"
        ) + _why_no_key()


def _unlocked(store: Store) -> Store:
    given = {f.name: getattr(store.source, f.name) for f in fields(ModelSource)}
    return replace(store, source=ModelSource(**given | {"at_hand": False}))


def handed_on(store: Store) -> str:
    """Return the checksum that another process of this user is to trust, which opens the store.

    Raises
    ------
    RefusedError
        If that process would import the model from another folder than this one does.
    """
    held, here = store.attributes["model_folder"], store.source.folder
    if store.source.kind == "module" and held != here:
        raise RefusedError(
            f"{store.path} was begun with {_named(store.source)} in {held}, and this call has it "
            f"in {here}: a process in the background would import it from there. Run this in the "
            "foreground, or sweep into a new store."
        )
    return digest(store)


# -- the checksum ---------------------------------------------------------------------------------


def digest(store: Store) -> str:
    """Return the SHA-256 of everything that decides a result."""
    attributes = {k: x for k, x in store.attributes.items() if k not in (CHECKSUM, SIGNATURE)}
    content = [attributes]
    for stored in store.buckets:
        bucket = stored.bucket
        first = len(bucket.axes)
        content.append(
            {
                "group": bucket.group,
                "sizes": bucket.sizes,
                "fixed": {
                    name: _of_values(x) if isinstance(x, np.ndarray) else x
                    for name, x in bucket.fixed.items()
                },
                "axes": {name: _of_values(values) for name, values in bucket.axes.items()},
                "parameters": {
                    name: [dims, _of_values(values)]
                    for name, (dims, values) in bucket.parameters.items()
                },
                # Where devices share a point's states, another mesh cuts them anew: that part of a
                # file's shape decides nothing.
                "results": [
                    [
                        name,
                        array.dims,
                        array.shape,
                        array.dtype,
                        array.cell[:first],
                        str(array.fill),
                    ]
                    for name, array in stored.results.items()
                ],
                "labels": stored.labels,
            }
        )
    return _sha256(json.dumps(content, sort_keys=True))


def seal(store: Store) -> None:
    """Add checksum and signature to the root attributes of a store that was made just now.

    Without a key of the user's own there is no signature.
    """
    vouched = {CHECKSUM: digest(store)}
    if (key := _key(make=True)) is not None:
        vouched[SIGNATURE] = _signature(key, vouched[CHECKSUM])
    file = store.path / METADATA
    document = json.loads(file.read_bytes())
    document["attributes"] |= vouched
    write_file(file, [json.dumps(document, indent=2).encode()])


def _of_values(values: Any) -> str:
    values = np.asarray(values)
    if values.dtype.kind in "OUT":
        return _sha256(json.dumps([str(x) for x in values.ravel().tolist()]))
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return f"{values.dtype.name}{values.shape}{hashlib.sha256(plain.tobytes()).hexdigest()}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- the signature --------------------------------------------------------------------------------


def _own_signature(store: Store) -> bool | None:
    """Tell whether this user signed a store as it is; None: there is no signature of theirs."""
    signature, key = store.attributes.get(SIGNATURE), _key(make=False)
    if key is None or not isinstance(signature, str):
        return None
    meant = _signature(key, digest(store))
    if signature.partition(":")[0] != meant.partition(":")[0]:
        return None
    return hmac.compare_digest(signature.encode(), meant.encode())


def _signature(key: bytes, checksum: str) -> str:
    """Return by which key a store is signed, and the signature."""
    name = hmac.new(key, b"dpsolve key", "sha256").hexdigest()[:16]
    return f"{name}:{hmac.new(key, f'dpsolve store {checksum}'.encode(), 'sha256').hexdigest()}"


def key_file() -> Path | None:
    """Return where the user's key lies, or will; None if there is no place for it."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "dpsolve" / "store.key"
    try:
        return Path.home() / ".config" / "dpsolve" / "store.key"
    except RuntimeError:
        return None


def _key(*, make: bool) -> bytes | None:
    """Return the user's key; None if there is none, or others could have read or replaced it."""
    file = key_file()
    if file is None:
        return None
    try:
        if make and not file.exists():
            _make_key(file)
        return _read_key(file)
    except (OSError, ValueError):
        return None


def _read_key(file: Path) -> bytes | None:
    folder = file.parent.stat()
    with file.open("rb") as opened:
        held = os.fstat(opened.fileno())
        alone = held.st_uid == folder.st_uid == os.geteuid()
        if not alone or held.st_mode & 0o077 or folder.st_mode & 0o022:
            return None
        key = bytes.fromhex(opened.read(2 * KEY_BYTES).decode("ascii"))
    return key if len(key) == KEY_BYTES else None


def _why_no_key() -> str:
    """Say that there is a key and why it proves nothing, if that is so."""
    file = key_file()
    if file is None or not file.exists() or _key(make=False) is not None:
        return ""
    return f" (your key, {file}, proves nothing: it is damaged, or others can read or replace it)"


def _make_key(file: Path) -> None:
    file.parent.parent.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.parent.chmod(0o700)
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as opened:
            opened.write(secrets.token_hex(KEY_BYTES).encode())
        # Not moved but linked: of two first sweeps, both sign with the key of the faster one.
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)
