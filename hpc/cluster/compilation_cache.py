"""JAX's compiled programs, shared by the workers of a sweep; unusable ones removed.

JAX keeps compiled programs in a folder if told to, with four traps: programs that compile in
under a second are not kept; a file that a killed process left half written is neither used nor ever
replaced; a folder shared by everything a user runs grows without end; and what lies there is code,
which JAX runs unseen. So each sweep has a folder of its own that only its owner enters, keeps
everything, and removes what cannot be unpacked, or what another user put there, before it looks.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from dpsolve.hpc.run.private_folders import private_folder

ENTRY = "-cache"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass
class CacheUse:
    """How often the cache was asked inside a block.

    Attributes
    ----------
    hits, misses : int
        Programs that were found there, and that were not.
    """

    hits: int = 0
    misses: int = 0


_open: list[CacheUse] = []
_listening = threading.Lock()
_registered = False


def use_cache(folder: Path) -> None:
    """Let JAX keep every compiled program of this process in a folder, and look there first.

    Raises
    ------
    RefusedError
        If the folder, or the one it lies in, is not this user's own.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    private_folder(folder.parent)
    private_folder(folder)
    remove_unusable(folder)
    compilation_cache.reset_cache()  # it would go on with the folder of an earlier sweep
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def remove_unusable(folder: Path) -> list[Path]:
    """Remove entries that cannot be unpacked, or are another user's; return them.

    An entry that another process is writing at this moment looks the same. That process keeps what
    it compiled, and the next one compiles again: time is lost, and nothing else.
    """
    broken = [path for path in folder.glob(f"*{ENTRY}") if not _is_whole(path)]
    for path in broken:
        with suppress(OSError):
            path.unlink()
    return broken


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


def _listen() -> None:
    global _registered
    with _listening:
        if _registered:
            return
        from jax import monitoring

        monitoring.register_event_listener(_heard)
        _registered = True


def _heard(event: str, **_: object) -> None:
    for use in list(_open):
        if event == "/jax/compilation_cache/cache_hits":
            use.hits += 1
        elif event == "/jax/compilation_cache/cache_misses":
            use.misses += 1


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
