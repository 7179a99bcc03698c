"""Compiled programs on disk: what one process of a user compiled, the next one finds.

JAX keeps compiled programs in a folder if told to, with four traps: programs that compile in
under a second are not kept; a file that a killed process left half written is neither used nor ever
replaced; the folder grows without end; and what lies there is code, which JAX runs unseen. So
everything is kept, in a folder that only its user enters, one to each kind of processor (JAX's own
keys hold its version and that of the compiler), and a process that added to it then takes away what
cannot be unpacked, and what was used longest ago where all together is too much.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

from dpsolve.hpc.run.private_folders import private_folder
from dpsolve.solvers.errors import RefusedError, StoreError

VARIABLE = "DPSOLVE_CACHE"
OFF = "off"
MOST = 1 << 30
"""Bytes of all entries, above which those that were used longest ago go."""

OURS = "dpsolve-programs-"
ENTRY = "-cache"
TIDIED = ".tidied"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
JAX_FOLDER = "jax_compilation_cache_dir"
KEEP_ALL: dict[str, float] = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def keep_compiled_programs() -> Path | None:
    """Let JAX keep what this process compiles, and look there first; return the folder.

    ``DPSOLVE_CACHE`` names the folder in which it lies, or says ``off``; without it, it is the
    platform's for such files. A folder that JAX was told of by somebody else is left as it is, and
    one that cannot be had, or that others could write to, is done without: a process that compiles
    anew is slow, and nothing else.
    """
    now = _jax_setting(JAX_FOLDER)
    if now and not Path(now).name.startswith(OURS):
        return None
    told = os.environ.get(VARIABLE, "")
    root = Path(told).expanduser() if told else _usual_folder()
    if told.lower() == OFF or root is None:
        if now:  # set by a parent process of ours
            _set_jax(JAX_FOLDER, None)
        return None
    folder = root / f"{OURS}{_processor()}"
    try:
        private_folder(root)
        private_folder(folder)
    except (RefusedError, StoreError) as error:
        if told:
            warnings.warn(f"{VARIABLE}: {error} Programs are compiled anew.", stacklevel=3)
        return None
    _set_jax(JAX_FOLDER, str(folder))
    for name, value in KEEP_ALL.items():
        _set_jax(name, value)
    # A full disk, or an entry that a killed process left behind, costs compiling and no warning.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    _tidy_at_exit()
    return folder


def tidy(folder: Path, most: int = MOST) -> set[Path]:
    """Look at what is new: remove what cannot be unpacked, is another user's, or is too much.

    An entry that another process is writing at this moment looks like one that cannot be unpacked.
    That process keeps what it compiled, and the next one compiles again.

    Parameters
    ----------
    folder : Path
        Of entries. Its neighbours, of other processors, count, too.
    most : int
        Bytes that all together may take.

    Returns
    -------
    set of Path
        What was removed.
    """
    stamp = folder / TIDIED
    with suppress(OSError):
        before = stamp.stat().st_mtime if stamp.exists() else 0.0
        new = [path for path in folder.glob(f"*{ENTRY}") if path.lstat().st_ctime >= before]
        if not new:
            return set()
        stamp.touch()
        entries = [(path, path.lstat()) for path in folder.parent.glob(f"{OURS}*/*{ENTRY}")]
        gone = {path for path in new if not _is_whole(path)}
        kept = [(path, found) for path, found in entries if path not in gone]
        taken = sum(found.st_size for _, found in kept)
        for path, found in sorted(kept, key=lambda one: max(one[1].st_atime, one[1].st_mtime)):
            if taken <= most:
                break
            gone.add(path)
            taken -= found.st_size
        for path in gone:
            path.unlink(missing_ok=True)
        return gone
    return set()


class CacheUse:
    """How often the kept programs were asked for inside a block.

    Attributes
    ----------
    hits, misses : int
        Programs that were found there, and that were not.
    """

    def __init__(self) -> None:
        self.hits = self.misses = 0


_open: list[CacheUse] = []


@contextmanager
def counting() -> Iterator[CacheUse]:
    """Count the hits and misses of this process inside the block."""
    use = CacheUse()
    _listen()
    _open.append(use)
    try:
        yield use
    finally:
        _open.remove(use)


@cache
def _listen() -> None:
    from jax import monitoring

    monitoring.register_event_listener(_heard)


def _heard(event: str, **_: object) -> None:
    for use in list(_open):
        if event == "/jax/compilation_cache/cache_hits":
            use.hits += 1
        elif event == "/jax/compilation_cache/cache_misses":
            use.misses += 1


def _usual_folder() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:  # a user without one
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dpsolve"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else home / ".cache") / "dpsolve"


@cache
def _processor() -> str:
    """Return what programs are compiled for: a processor without an instruction would die of it."""
    from hashlib import sha256

    facts = [os.uname().machine]
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:  # of the first core
            if not line.strip():
                break
            if line.split(":")[0].strip() in {"model name", "flags", "Features", "CPU part"}:
                facts.append(line)
    return sha256("".join(facts).encode()).hexdigest()[:12]


def _jax_setting(name: str) -> str:
    if "jax" in sys.modules:
        return str(getattr(sys.modules["jax"].config, name) or "")
    return os.environ.get(name.upper(), "")


def _set_jax(name: str, value: str | float | None) -> None:
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(name, value)
    elif value is None:
        os.environ.pop(name.upper(), None)
    else:
        os.environ[name.upper()] = str(value)  # read by JAX when it is first imported


@cache
def _tidy_at_exit() -> None:
    atexit.register(_tidy_own)


def _tidy_own() -> None:
    if "jax" in sys.modules and (folder := _jax_setting(JAX_FOLDER)):
        tidy(Path(folder))


def _is_whole(path: Path) -> bool:
    try:
        if path.lstat().st_uid != os.geteuid():
            return False
        content = path.read_bytes()
    except OSError:
        return True  # gone meanwhile, or not ours to judge
    try:
        _unpack(content)
    except ImportError:
        return True  # written where zstandard is installed; JAX here will not read it either
    except Exception:  # each codec has an error class of its own
        return False
    return True


def _unpack(content: bytes) -> None:
    if not content.startswith(ZSTD_MAGIC):
        zlib.decompress(content)
        return
    import_module("zstandard").ZstdDecompressor().decompress(content)
