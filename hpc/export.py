"""``dpsolve export``: a store as one file that other programs read.

The suffix says which. ``.nc`` is the whole dataset with its labels (NetCDF 3, by scipy), ``.npz``
all its arrays by name (NumPy), ``.csv`` and ``.parquet`` a table of one row per point: sizes,
parameters, and all that is one number per point, moments and status among them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.solvers.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr

PARQUET = "pyarrow"
MOST_NETCDF = 2**32 - 4
"""Bytes of one array in a NetCDF 3 file."""

Groups = Mapping[str, "xr.Dataset"]


def export(groups: Groups, target: Path, suffix: str) -> None:
    """Write results into one file.

    Parameters
    ----------
    groups : dict of str to Dataset
        By group, ``""`` where there is only one.
    target : path
        Where the file goes, whatever its name.
    suffix : str
        The format; see :func:`check_suffix`.

    Raises
    ------
    UsageError
        If the format does not hold several groups, or such an array.
    """
    WRITERS[suffix](groups, target)


def check_suffix(suffix: str) -> None:
    """Refuse a format before anything is read.

    Raises
    ------
    UsageError
        If nobody knows the suffix, or what writes it is not installed.
    """
    if suffix not in WRITERS:
        words = ", ".join(WRITERS)
        guess = did_you_mean(suffix, WRITERS)
        what = f"the suffix '{suffix}' is no format" if suffix else "the file has no suffix"
        raise UsageError(f"{what}.{guess} It can be: {words}.")
    if suffix == ".parquet" and find_spec(PARQUET) is None:
        raise UsageError(
            "Parquet needs pyarrow: pip install pyarrow; or export the same table as .csv"
        )


def only(groups: Groups, suffix: str) -> xr.Dataset:
    """Return the one group that there is.

    Raises
    ------
    UsageError
        If there are several, and the format holds one.
    """
    if len(groups) > 1:
        raise UsageError(
            f"{suffix} holds one set of sizes, and the store has several: --group "
            f"{' | '.join(groups)}. A table (.csv, .parquet) holds them all."
        )
    (data,) = groups.values()
    return data


def _netcdf(groups: Groups, target: Path) -> None:
    data = only(groups, ".nc")
    for name, array in data.variables.items():
        if array.nbytes > MOST_NETCDF:
            raise UsageError(
                f"'{name}' has {array.nbytes:,} bytes, and an array of a NetCDF 3 file holds "
                f"{MOST_NETCDF:,}. Leave it out (--var), or copy the store as it is."
            )
    _plain(data).to_netcdf(target, engine="scipy", format="NETCDF3_64BIT")


def _plain(data: xr.Dataset) -> xr.Dataset:
    """Return a dataset in the types that NetCDF 3 has: texts of bytes, and no 64-bit integers."""
    changed: dict[Any, Any] = {}
    for name, array in data.variables.items():
        if array.dtype.kind in "TUO":
            changed[name] = (array.dims, _array(array), array.attrs)
        elif array.dtype.kind == "i" and array.dtype.itemsize == 8:
            changed[name] = (array.dims, np.asarray(array.values).astype(np.int32), array.attrs)
        elif array.dtype.kind == "c":
            raise UsageError(f"'{name}' is complex, which NetCDF has no type for; leave it out")
    return data.assign_coords({k: v for k, v in changed.items() if k in data.coords}).assign(
        {k: v for k, v in changed.items() if k not in data.coords}
    )


def _npz(groups: Groups, target: Path) -> None:
    data = only(groups, ".npz")
    arrays: dict[str, Any] = {str(name): _array(array) for name, array in data.variables.items()}
    dims = {str(name): list(map(str, array.dims)) for name, array in data.variables.items()}
    with target.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, __dims__=np.array(json.dumps(dims)))


def _array(array: xr.Variable) -> Any:
    values = np.asarray(array.values)
    return values.astype(object).astype(str) if values.dtype.kind in "TOU" else values


def _csv(groups: Groups, target: Path) -> None:
    columns = table(groups)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))


def _parquet(groups: Groups, target: Path) -> None:
    columns = {n: x.tolist() if x.dtype == object else x for n, x in table(groups).items()}
    arrow, parquet = import_module(PARQUET), import_module(f"{PARQUET}.parquet")
    parquet.write_table(arrow.table(columns), target)


def table(groups: Groups) -> dict[str, NDArray[Any]]:
    """Return columns of a row per point: sizes, fixed values, parameters, one number each.

    What a group does not have is empty in its rows.
    """
    each = [_columns(data) for data in groups.values()]
    names = dict.fromkeys(name for columns, _ in each for name in columns)
    found = {}
    for name in names:
        parts = [columns.get(name, np.full(rows, np.nan)) for columns, rows in each]
        mixed = len({part.dtype.kind for part in parts} & {*"OUf"}) > 1
        found[name] = np.concatenate([p.astype(object) for p in parts] if mixed else parts)
    return found


def _columns(data: xr.Dataset) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the columns of one group, and how many rows they have."""
    status = data["status"]
    over = set(status.dims)
    fixed = {**_said(data, "sizes"), **_said(data, "fixed")}
    found = {name: np.full(status.size, value) for name, value in fixed.items()
             if isinstance(value, int | float | str)}  # fmt: skip
    along = [n for n in status.dims if n in data.coords]
    coords = dict.fromkeys([*along, *(n for n, a in data.coords.items() if set(a.dims) <= over)])
    for name in (*coords, *(n for n, a in data.data_vars.items() if a.dims == status.dims)):
        array = data[name].broadcast_like(status).transpose(*status.dims)
        found[str(name)] = _array(array.variable).ravel()
    texts = {n: x.astype(object) for n, x in found.items() if x.dtype.kind == "U"}
    return found | texts, status.size


def _said(data: xr.Dataset, kind: str) -> dict[str, Any]:
    try:
        said = json.loads(str(data.attrs.get(kind, "{}")))
    except ValueError:
        return {}
    return dict(said) if isinstance(said, dict) else {}


WRITERS: dict[str, Callable[[Groups, Path], None]] = {
    ".nc": _netcdf, ".npz": _npz, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
