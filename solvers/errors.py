"""Every error class of the package, with the exit code it ends the command line with.

A message says what happened, with which value, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable


class DpsolveError(Exception):
    """Base of every error that dpsolve raises on purpose."""

    exit_code = 1


class ModelError(DpsolveError):
    """The model, or an argument of it, is wrong; nothing was solved."""

    exit_code = 2


class UsageError(DpsolveError):
    """A sweep file, an option or an argument is wrong; nothing was started."""

    exit_code = 2


class RefusedError(DpsolveError):
    """What was asked contradicts what the store already holds; the store is untouched."""

    exit_code = 3


class PeerError(DpsolveError):
    """Another process of the same solve did not come, or was lost; the same command resumes."""

    exit_code = 130


class StoreError(DpsolveError):
    """The store cannot be read or written; what was committed stays valid."""


class DamagedError(StoreError):
    """A store's files are not what dpsolve writes."""


class VerificationError(DpsolveError):
    """An independent check contradicts the store."""


class ClusterError(DpsolveError):
    """SLURM, dask or the jobs do not do their part; what was committed stays valid."""


class DeviceError(DpsolveError):
    """A worker does not see the devices that its job was given."""


class AgreedError(DpsolveError):
    """An error that all processes know of, so that they end in an orderly way.

    Attributes
    ----------
    exit_code : int
    ours : bool
        Whether this process is the one to tell it.
    """

    def __init__(self, text: str, exit_code: int, ours: bool) -> None:
        super().__init__(text)
        self.exit_code, self.ours = exit_code, ours


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest candidate, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
