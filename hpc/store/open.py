"""``dp.open``: a store as an xarray Dataset."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsolve.solvers.labels import MEANINGS

from .atomic_files import disk_errors
from .buckets import StoredBucket
from .damage import as_zarr_reads
from .store import Store, open_store

if TYPE_CHECKING:
    import xarray


def open(path: Path | str) -> xarray.Dataset | xarray.DataTree:
    """Open a store, lazily: results are read when they are used.

    The same as ``xarray.open_zarr(path)``, or ``xarray.open_datatree(path)`` for a sweep over
    static sizes, but that the parameters of points in a row are read at once, so that points can
    be selected by them: ``ds.where(ds.beta > 0.95, drop=True)``.

    Parameters
    ----------
    path : path
        The store of a sweep, finished or not. Where nothing is computed yet, ``status`` is
        ``pending`` and numbers are NaN. Files that committed tasks wrote and that are not there
        any more read as NaN too, which a warning tells.

    Returns
    -------
    xarray.Dataset
        Dimensions: the swept parameters, then the model's states. Where a state's values have
        names, ``<state>_label`` selects by them, as ``ds.sel(regime_label="boom")``. ``ds.dpsolve``
        has ``.at(beta=0.95)``, ``.policy``, ``.expect("consumption")`` and ``.worst()``.
    xarray.DataTree
        If the sweep has several sets of static sizes: one dataset for each, by such a name as
        ``n_k=100``.

    Raises
    ------
    StoreError
        If there is no store at `path`, or it is damaged.
    """
    import xarray
    from zarr.storage import LocalStore

    from dpsolve.hpc import dataset_accessor as dataset_accessor  # registers ds.dpsolve

    store = open_store(path)
    if missing := ", ".join(_missing(store)):
        warnings.warn(
            f"{store.path} lacks files of committed tasks, where it reads NaN: {missing}. To "
            f"compute them again: dpsolve resume {shlex.quote(str(store.path))} --repair",
            stacklevel=2,
        )
    folder: Any = LocalStore(store.path, read_only=True)  # a path with :: would be an address
    with as_zarr_reads(store.path):
        if len(store.buckets) == 1:
            dataset: xarray.Dataset = xarray.open_zarr(folder)
            return _with_parameters(dataset, store.buckets[0])
        tree = xarray.open_datatree(folder, engine="zarr", chunks={})
        for bucket in store.buckets:
            group = bucket.bucket.group
            tree[group].dataset = _with_parameters(tree[group].to_dataset(), bucket)
        return tree


def _missing(store: Store) -> Iterator[str]:
    """Yield how many files of committed tasks each array lacks, with one look into its folder."""
    with disk_errors(store.path):
        for bucket in store.buckets:
            group = bucket.bucket.group
            committed = [_key(task.cell) for task in bucket.committed()]
            for name, array in bucket.results.items():
                there = _names(bucket.folder / name)
                first = len(bucket.bucket.axes)
                pairs = zip(array.shape[first:], array.cell[first:], strict=True)
                parts = [_key(at) for at in product(*(range(-(-n // m)) for n, m in pairs))]
                wanted = (f"c{task}{part}" for task in committed for part in parts)
                if lost := sum(key not in there for key in wanted):
                    yield f"{lost} of {f'{group}/' if group else ''}{name}"


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _key(cell: tuple[int, ...]) -> str:
    return "".join(f".{i}" for i in cell)


def _with_parameters(dataset: xarray.Dataset, bucket: StoredBucket) -> xarray.Dataset:
    beside = {
        name: (dataset[name].dims, values, dataset[name].attrs)
        for name, (_, values) in bucket.bucket.parameters.items()
        if name not in bucket.bucket.axes
    }
    arrays = [name for name in bucket.bucket.own if name in bucket.bucket.fixed]
    beside |= {n: (dataset[n].dims, bucket.bucket.fixed[n], dataset[n].attrs) for n in arrays}
    ordered = dataset[list(bucket.results)]  # zarr sorts by name: results first, then records
    return _with_names(ordered.assign_coords(beside))


def _with_names(dataset: xarray.Dataset) -> xarray.Dataset:
    """Add a coordinate for what the values of a state, or periods, are called, to select by."""
    for name in map(str, dataset.dims):
        words = dataset[name].attrs.get(MEANINGS, "").split() if name in dataset.coords else ()
        if words and f"{name}_label" not in dataset.variables:
            told = {"long_name": f"{dataset[name].attrs.get('long_name', name)}, by name"}
            named = dataset.assign_coords({f"{name}_label": (name, words, told)})
            dataset = named.set_xindex(f"{name}_label")
    return dataset
