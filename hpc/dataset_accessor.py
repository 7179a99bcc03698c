"""``ds.dpsolve``: what one asks of an opened store, as an accessor of xarray.

``dp.open`` and ``dp.sweep`` bring it along. It needs labels and nothing else, so that it works on a
selection, and on a file of what ``dpsolve export`` wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.labelled import SUFFIX, choices_of

CLOSE = 1e-12  # as for `dp.load`: the value that is stored, up to rounding in the twelfth digit
MOST_LISTED = 8


@xr.register_dataset_accessor("dpsolve")  # type: ignore[no-untyped-call]  # xarray's own
class StoreAccessor:
    """Points, policies and expectations of a sweep's results."""

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data

    @property
    def parameters(self) -> dict[str, xr.DataArray]:
        """The parameters that vary, by name: dimensions, or coordinates along ``point``."""
        over = dict.fromkeys(self._dims)
        beside = dict.fromkeys(map(str, self._data.coords))
        names = [n for n in over | beside if n in self._data.coords and n != "point"]
        coords = {n: self._data.coords[n] for n in names}
        return {n: c for n, c in coords.items() if c.dims and {*map(str, c.dims)} <= {*over}
                and not n.startswith("grid_")}  # fmt: skip

    @property
    def _dims(self) -> tuple[str, ...]:
        if "status" not in self._data:
            raise UsageError("this dataset has no status: it is no result of dpsolve")
        return tuple(map(str, self._data["status"].dims))

    def at(self, **parameters: float) -> xr.Dataset:
        """Return the points with such parameters: ``ds.dpsolve.at(beta=0.95)``.

        Parameters
        ----------
        **parameters : float
            Values that are stored, up to rounding in the twelfth digit. Nothing is interpolated.

        Raises
        ------
        UsageError
            If a name is no parameter that varies, or no point has the value: with those around it.
        """
        data = self._data
        for name, wanted in parameters.items():
            known = data.dpsolve.parameters
            if name not in known:
                raise UsageError(
                    f"no parameter '{name}' varies here.{did_you_mean(name, known)} "
                    f"These do: {', '.join(known) or 'none'}."
                )
            values = np.asarray(known[name].values, float)
            close = np.abs(values - wanted) <= CLOSE * max(abs(wanted), np.finfo(float).tiny)
            if not close.any():
                raise UsageError(f"no point has {name}={wanted!r}; {_around(name, values, wanted)}")
            (dim,) = known[name].dims
            where = np.flatnonzero(close)
            data = data.isel({dim: where if dim == "point" and len(where) > 1 else int(where[0])})
        return data

    @property
    def policy(self) -> xr.Dataset:
        """The choices that were found, by their own names."""
        names = {f"policy_{c}": c for c in choices_of(map(str, self._data.data_vars))}
        held = [n for n in names if n in self._data]
        if not held:
            raise UsageError('no policy was kept: sweep with keep = [..., "policy"]')
        return self._data[held].rename({n: names[n] for n in held})

    def expect(self, what: str | Callable[..., Any]) -> xr.DataArray:
        """Return an expectation under the stationary distribution, at every point.

        Parameters
        ----------
        what : str or function
            The name of a state, a choice, an output or any array over the states; or a function of
            such, by name: ``ds.dpsolve.expect(lambda a, consumption: a > consumption)``. Where the
            distribution has a grid of its own, arrays are read on it linearly.

        Returns
        -------
        DataArray
            Over the parameters. Unlike the moments of a store it is not compared with the
            distribution's tolerance: look at ``distribution_error``.
        """
        if "distribution" not in self._data:
            raise UsageError('no distribution was kept: sweep with keep = [..., "distribution"]')
        mass = self._data["distribution"]
        if callable(what):
            given = [self._over_states(name, mass) for name in inspect.signature(what).parameters]
            values, words = xr.apply_ufunc(what, *given, dask="allowed"), "expectation"
        else:
            values = self._over_states(what, mass)
            words = f"mean of {values.attrs.get('long_name', what)}"
        over = [d for d in mass.dims if str(d) not in self._dims]
        found: xr.DataArray = (mass * values).sum(over, skipna=False)
        units = "" if callable(what) else values.attrs.get("units", "")
        found.attrs = {"long_name": words} | ({"units": units} if units else {})
        return found

    def _over_states(self, name: str, mass: xr.DataArray) -> xr.DataArray:
        """Return an array over the dimensions of a distribution."""
        finer = {str(d).removesuffix(SUFFIX): str(d) for d in mass.dims if str(d).endswith(SUFFIX)}
        states = [str(d).removesuffix(SUFFIX) for d in mass.dims if str(d) not in self._dims]
        if name in states:
            own = finer.get(name, name)
            return self._data.get(f"grid_{own}", self._data[own]).rename(None)
        kept = map(str, self._data.data_vars)
        beside = (f"{kind}{name}" for kind in ("", "output_", "policy_"))
        key = next((n for n in beside if n in self._data.data_vars), None)
        if key is None:
            known = [*states, *kept]
            raise UsageError(
                f"nothing of the name '{name}' was kept.{did_you_mean(name, known)} There is: "
                f"{', '.join(known)}."
            )
        values = self._data[key]
        for state, dim in finer.items():
            if state in values.dims:
                if f"grid_{dim}" in self._data:
                    raise UsageError(
                        f"'{name}' cannot be read on the distribution's own grid of {state}, which "
                        f"varies between points: keep the moment mean_{name}"
                    )
                values = values.interp({state: self._data[dim]}).drop_vars(state, errors="ignore")
        return values

    def worst(self, n: int = 5) -> xr.Dataset:
        """Return what is recorded of the worst points: failed ones first, then by error bound.

        Returns
        -------
        Dataset
            Along ``worst``, at most `n` long: parameters and one number per point each.
        """
        dims = self._dims
        each = {str(k): v for k, v in self._data.data_vars.items() if v.dims == dims}
        flat = xr.Dataset(each).drop_vars(
            [c for c in self._data.coords if not {*map(str, self._data[c].dims)} <= set(dims)],
            errors="ignore",
        )
        rows = flat.stack(worst=dims).reset_index("worst") if dims else flat.expand_dims("worst")
        status = np.asarray(rows["status"].values).astype(object).astype(str)
        bound = np.asarray(rows["error_bound"].values, float)
        rank = np.select([status == w for w in ("failed", "inexact", "solved")], [0, 1, 2], 3)
        with np.errstate(invalid="ignore"):
            order = np.lexsort((-np.where(np.isnan(bound), -np.inf, bound), rank))
        return rows.isel(worst=order[:n]).load()


def _around(name: str, values: np.ndarray[Any, Any], wanted: float) -> str:
    known = np.unique(values[np.isfinite(values)])
    if len(known) <= MOST_LISTED:
        return f"there is {name} = {', '.join(f'{v:.12g}' for v in known)}"
    at = int(np.searchsorted(known, wanted))
    near = known[max(at - 1, 0) : at + 1]
    ends = f"it runs from {known[0]:.12g} to {known[-1]:.12g}"
    words = " and ".join(f"{v:.12g}" for v in near)
    return f"nearest {'are' if len(near) > 1 else 'is'} {words}; {ends}"
