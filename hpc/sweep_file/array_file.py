"""Decision processes from files of arrays: ``dp.read_mdp``, and a model named ``file.npz``.

A file is an ``.npz`` or a Zarr group with the arrays of :func:`dpsolve.mdp`, under its names or
those of QuantEcon's ``DiscreteDP``. Its content has a checksum, which is part of the model's text:
a store names the very arrays that it was computed from, and others at that path are refused.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.solvers.errors import RefusedError, UsageError, did_you_mean

if TYPE_CHECKING:
    from dpsolve.solvers.model.mdp import TabularModel

Arrays = Mapping[str, NDArray[Any]]

QUANTECON = {"Q": "P", "s_indices": "states", "a_indices": "actions"}
SPARSE = ("P_data", "P_indices", "P_indptr", "P_shape")
NAMES = ("R", "P", "beta", "states", "actions")


def is_array_file(path: Path) -> bool:
    """Tell whether a path is an ``.npz``, or a Zarr group that holds a decision process."""
    if path.suffix == ".npz":
        return True
    marked = (path / "zarr.json").is_file() or (path / ".zgroup").is_file()
    return marked and (path / "R").is_dir() and any(path.glob("[PQ]*"))


def read_mdp(path: str | Path, beta: Any = None, *, sha256: str | None = None) -> TabularModel:
    """Read a decision process from a file of arrays.

    Parameters
    ----------
    path : str or Path
        An ``.npz`` file, or a Zarr group, with the arrays

        - ``R`` (states, actions) and ``P`` (states, actions, states), or in pair form
          ``R`` (pairs,), ``P`` (pairs, states), ``states`` (pairs,) and ``actions`` (pairs,);
        - ``beta``, a number.

        ``Q``, ``s_indices`` and ``a_indices`` of QuantEcon's ``DiscreteDP`` are understood. A
        sparse P is ``P_data``, ``P_indices``, ``P_indptr`` and ``P_shape``, of
        ``scipy.sparse.csr_array``; in Zarr a group ``P`` of ``data``, ``indices``, ... does, too.
    beta : float, optional
        The discount factor, in place of the file's; it may be a parameter.
    sha256 : str, optional
        Of what the arrays must be.

    Raises
    ------
    UsageError
        If there is no such file, or an array is missing.
    RefusedError
        If the arrays are others.
    ModelError
        If they are no decision process.
    """
    from dpsolve.solvers.model.mdp import mdp

    arrays, found = _read(*_version(Path(path).expanduser()))
    if sha256 not in (None, found):
        raise RefusedError(
            f"the arrays in {path} are others than before (sha256 {found[:12]}, not "
            f"{str(sha256)[:12]}); put the former file back, or begin a new store"
        )
    if beta is None:
        if "beta" not in arrays:
            raise UsageError(f"{path} has no array 'beta'; give it: --set beta=0.95")
        beta = float(arrays["beta"])
    pairs = {k: arrays[k] for k in ("states", "actions") if k in arrays}
    return mdp(
        arrays["R"],
        _transitions(arrays),
        beta,
        states=pairs.get("states"),
        actions=pairs.get("actions"),
    )


def model_text(path: Path) -> tuple[str, str]:
    """Return the name and the text of a factory whose model is read from a file.

    Its one parameter is the discount factor.
    """
    arrays, sha256 = _read(*_version(path))
    name = "".join(c if c.isalnum() else "_" for c in path.stem)
    name = name if name.isidentifier() else f"mdp_{name}"
    beta = f"beta={float(arrays['beta'])!r}" if "beta" in arrays else "beta"
    return name, (
        f'"""The decision process of {path.name}, with the arrays of this checksum."""\n\n'
        "import dpsolve as dp\n\n\n"
        f"def {name}({beta}):\n"
        f'    """Decision process of {path.name}."""\n'
        f"    return dp.read_mdp({str(path)!r}, beta, sha256={sha256!r})\n"
    )


def _version(path: Path) -> tuple[Path, tuple[float, ...]]:
    """Return a path, and what changes when its content does: times of its files."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
        others = [p.name for p in path.parent.glob("*.npz")] if path.parent.is_dir() else []
        raise UsageError(f"there is no file {path}.{did_you_mean(path.name, others)}")
    return path, tuple(x for p in files for x in (p.stat().st_mtime_ns, p.stat().st_size))


@lru_cache(maxsize=4)
def _read(path: Path, _version: tuple[float, ...]) -> tuple[Arrays, str]:
    """Return a file's arrays by our names, and their checksum."""
    given = _npz(path) if path.is_file() else _zarr(path)
    arrays: dict[str, NDArray[Any]] = {}
    for name, x in given.items():
        ours = name.replace("/", "_")
        ours = "P" + ours[1:] if ours.startswith("Q_") else QUANTECON.get(ours, ours)
        if ours in arrays:
            raise UsageError(f"{path} has '{ours}' twice, as '{name}' too; keep one")
        if ours not in (*NAMES, *SPARSE):
            raise UsageError(
                f"{path} has an array '{name}', which is none that a decision process has."
                f"{did_you_mean(name, NAMES)} They are: {', '.join(NAMES)} (or Q, s_indices, "
                f"a_indices), and of a sparse P: {', '.join(SPARSE)}."
            )
        arrays[ours] = x
    for name in ("R", "P"):
        if name not in arrays and not (name == "P" and "P_data" in arrays):
            raise UsageError(f"{path} has no array '{name}'. It has: {', '.join(given) or 'none'}.")
    if "beta" in arrays and arrays["beta"].size != 1:
        raise UsageError(f"{path}: beta has shape {arrays['beta'].shape}; it is one number")
    if "beta" in arrays:
        arrays["beta"] = arrays["beta"].reshape(())
    digest = hashlib.sha256()
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {x.dtype.str} {x.shape} ".encode())
        digest.update(x.data)
    return arrays, digest.hexdigest()


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read the arrays in {path}: {error}") from None


def _zarr(path: Path) -> dict[str, NDArray[Any]]:
    import zarr

    group = zarr.open_group(str(path), mode="r")
    found = {name: np.asarray(x[...]) for name, x in group.arrays()}
    for name, inner in group.groups():
        found |= {f"{name}/{k}": np.asarray(x[...]) for k, x in inner.arrays()}
        if "shape" in inner.attrs:
            found[f"{name}/shape"] = np.asarray(inner.attrs["shape"])
    if "beta" in group.attrs:
        found["beta"] = np.asarray(group.attrs["beta"], np.float64)
    return found


def _transitions(arrays: Arrays) -> Any:
    """Return P, dense or sparse."""
    if "P" in arrays:
        return arrays["P"]
    from scipy.sparse import csr_array

    missing = [name for name in SPARSE if name not in arrays]
    if missing:
        raise UsageError(f"a sparse P is {', '.join(SPARSE)}; {', '.join(missing)} is missing")
    parts = tuple(arrays[name] for name in SPARSE[:3])
    try:
        rows, columns = (int(n) for n in arrays["P_shape"])
        return csr_array(parts, shape=(rows, columns))
    except ValueError as error:
        raise UsageError(f"the parts of the sparse P make no matrix: {error}") from None
