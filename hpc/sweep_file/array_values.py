"""Arrays that a sweep gives to parameters: read from files or lists, written down as checksums.

A sweep is plain data that a store keeps as text. The numbers of its arrays lie in the store's own
arrays; the text has their shape and a checksum of each, by which ``dpsolve verify`` knows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.solvers.errors import did_you_mean

from .mistakes import Mistake, path_fault

FILES = (".npz", ".npy")


@dataclass(frozen=True, eq=False)
class Arrays:
    """One array (shape...), or one for each of many points (points, shape...).

    Attributes
    ----------
    shape : tuple of int
        Of all of them together.
    sums : tuple of str
        A checksum of each; of one array there is one.
    values : float array, or None
        The numbers; None where only the checksums were written down.
    """

    shape: tuple[int, ...]
    sums: tuple[str, ...]
    values: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, values: NDArray[np.float64], many: bool) -> Arrays:
        """Hold numbers, and their checksums."""
        each = values if many else values[None]
        return cls(values.shape, tuple(map(checksum, each)), values)

    @classmethod
    def written(cls, text: Mapping[str, Any]) -> Arrays:
        """Read what :meth:`text` wrote."""
        return cls(tuple(text["shape"]), tuple(text["sha256"]))

    @property
    def text(self) -> dict[str, Any]:
        """What is written down of it."""
        return {"shape": list(self.shape), "sha256": list(self.sums)}

    @property
    def rows(self) -> NDArray[Any]:
        """The arrays of points (points, shape...); or their checksums (points,)."""
        return np.asarray(self.sums) if self.values is None else self.values

    @property
    def one(self) -> Any:
        """The one array (shape...); or its checksum."""
        return self.sums[0] if self.values is None else self.values

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"array {self.shape}"


def checksum(x: Any) -> str:
    """Return a short checksum of an array's numbers."""
    plain = np.ascontiguousarray(x, "<f8")
    return hashlib.sha256(plain.tobytes()).hexdigest()[:16]


def is_written(value: Any) -> bool:
    """Tell whether a value is what :attr:`Arrays.text` wrote."""
    return isinstance(value, Mapping) and value.keys() == {"shape", "sha256"}


def is_nested(value: Any) -> bool:
    """Tell whether a value is an array, or a list of lists."""
    if hasattr(value, "ndim"):
        return bool(value.ndim > 1)
    return isinstance(value, list | tuple) and any(isinstance(x, list | tuple) for x in value)


def fault(value: Any) -> str:
    """Say why nested lists are no array of numbers; '' if they are one."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        return "its lists have different lengths; an array has rows of one length."
    if found.dtype.kind not in "iuf":
        return "an array of numbers is expected."
    if (bad := np.isnan(found)).any():
        at = [int(i) for i in np.argwhere(bad)[0]]
        return f"its entry {at} is NaN (counted from 0); give each a number."
    return "" if found.size else "the array is empty."


def read_array(text: str, name: str, folder: Path) -> NDArray[np.float64] | str:
    """Read the array of a parameter from a file that [fixed] names; return it, or what is wrong."""
    found = open_file(folder / text, text)
    if isinstance(found, str):
        return found
    if name not in found and len(found) == 1:
        found = {name: next(iter(found.values()))}
    if name not in found:
        return f"the file has no array '{name}'.{did_you_mean(name, found)} {_listed(found)}"
    return (fault(found[name]) and f"array '{name}': {fault(found[name])}") or np.asarray(
        found[name], np.float64
    )


def open_file(path: Path, name: str) -> dict[str, NDArray[Any]] | str:
    """Read every array of a NumPy file; return them by name, or what is wrong."""
    if text := path_fault(name):
        return text
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return {"": held}
        with held:
            return {key: held[key] for key in held.files}
    except FileNotFoundError:
        there = path.parent.is_dir()
        others = [p.name for p in path.parent.iterdir() if p.suffix in FILES] if there else []
        guess = did_you_mean(path.name, others)
        return f"there is no such file (looked for {path}).{guess}"
    except OSError as error:
        return f"the file cannot be read: {error.strerror or error}."
    except Exception as error:  # objects, or bytes that are no NumPy file
        return f"it is no NumPy file of plain arrays (np.savez): {error}."


def read_rows(
    path: Path, name: str, columns: Any
) -> tuple[dict[str, str], dict[str, Any], list[Mistake]]:
    """Read the points of a ``[table]`` from a NumPy file.

    Parameters
    ----------
    path, name
        The file, and how it was written.
    columns : list or dict, optional
        As for a CSV file: arrays to use, or names for them by parameter.

    Returns
    -------
    columns : dict of str to str
        The array of each parameter.
    values : dict
        Numbers by parameter, as a list; or nested arrays, as they are.
    mistakes : list of Mistake
    """
    where = ("table", "file")
    held = open_file(path, name)
    if isinstance(held, str):
        return {}, {}, [Mistake(where, held)]
    if "" in held:
        return {}, {}, [Mistake(where, "an .npy file names no parameter; save it by np.savez.")]
    named = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns or held}
    if unknown := [c for c in named.values() if c not in held]:
        guess = did_you_mean(unknown[0], held)
        text = f"the file has no array '{unknown[0]}'.{guess} {_listed(held)}"
        return named, {}, [Mistake(("table", "columns"), text)]
    found = {parameter: held[column] for parameter, column in named.items()}
    for parameter, x in found.items():
        if not x.ndim or (text := fault(x)):
            text = "it is one number, and has no axis of points." if not x.ndim else text
            return named, {}, [Mistake(where, f"array '{named[parameter]}': {text}")]
        if x.ndim == 1 and not np.isfinite(x).all():
            text = f"array '{named[parameter]}': its entry {int(np.argmin(np.isfinite(x)))} is inf."
            return named, {}, [Mistake(where, text)]
    lengths = {named[p]: len(x) for p, x in found.items()}
    if len({*lengths.values()}) > 1:
        each = ", ".join(f"{column} has {n}" for column, n in lengths.items())
        text = f"its arrays have different numbers of points along their first axis: {each}."
        return named, {}, [Mistake(where, text)]
    return named, {p: x if x.ndim > 1 else x.tolist() for p, x in found.items()}, []


def _listed(held: Mapping[str, Any]) -> str:
    return f"Its arrays: {', '.join(held)}."
