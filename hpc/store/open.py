"""``dp.open``: a store as an xarray Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .buckets import StoredBucket
from .store import open_store

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
        ``pending`` and numbers are NaN.

    Returns
    -------
    xarray.Dataset
        Dimensions: the swept parameters, then the model's states.
    xarray.DataTree
        If the sweep has several sets of static sizes: one dataset for each, by such a name as
        ``n_k=100``.

    Raises
    ------
    StoreError
        If there is no store at `path`.
    """
    import xarray
    from zarr.storage import LocalStore

    store = open_store(path)
    folder: Any = LocalStore(store.path, read_only=True)  # a path with :: would be an address
    if len(store.buckets) == 1:
        dataset: xarray.Dataset = xarray.open_zarr(folder)
        return _with_parameters(dataset, store.buckets[0])
    tree = xarray.open_datatree(folder, engine="zarr", chunks={})
    for bucket in store.buckets:
        group = bucket.bucket.group
        tree[group].dataset = _with_parameters(tree[group].to_dataset(), bucket)
    return tree


def _with_parameters(dataset: xarray.Dataset, bucket: StoredBucket) -> xarray.Dataset:
    beside = {
        name: (dims, values, dataset[name].attrs)
        for name, (dims, values) in bucket.bucket.parameters.items()
        if name not in bucket.bucket.axes
    }
    ordered = dataset[list(bucket.results)]  # zarr sorts by name: results first, then records
    return ordered.assign_coords(beside)
