"""Panels over a sweep's parameters: one number, or one word, for each point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import STATUS_COLOURS, colours, edges, norm, spread_wide, title
from .sweep_data import LINES, MOST_BYTES, SweepData, at

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


def draw_summary(axis: Axes, sweep: SweepData, name: str) -> None:
    """Draw one number per point: the variable at the middle of the states."""
    array = sweep.data[name]
    middle = {d: (array.sizes[d] - 1) // 2 for d in sweep.states_of(name)}
    dims = sorted((d for d in sweep.dims if array.sizes[d] > 1), key=lambda d: -array.sizes[d])
    rest = {d: (array.sizes[d] - 1) // 2 for d in dims[2:]}
    held = [at(sweep, d, i) for d, i in middle.items()]
    held += [sweep.label(rest, list(rest))] if rest else []
    axis.set_title(title(array, held, sweep.called(name)), fontsize=9)
    step = max(1, math.ceil(array.nbytes / MOST_BYTES))
    ones = {d: 0 for d in sweep.dims if array.sizes[d] == 1}
    part = sweep.data.isel({**ones, **rest, dims[0]: slice(None, None, step)})
    z = part[name].isel(middle)
    if "point" in dims:
        z = z.isel({d: (z.sizes[d] - 1) // 2 for d in z.dims if d != "point"})
        names = sweep.varying(["point"])[:2]
    else:
        names = dims[:2]
    if len(names) > 1 and "point" not in dims and z.sizes[names[1]] == 2 and z.dtype.kind == "f":
        _two_lines(axis, part, z, names)
        axis.set(xlabel=sweep.called(names[0]), ylabel=sweep.called(name))
        return
    if z.dtype.kind not in "fiub":
        _categories(axis, part, z, names)
    elif len(names) == 1:
        _line(axis, part[names[0]].values, z.values, "." if "point" in dims else ".-")
        axis.set_ylabel(sweep.called(name))
        if f"{name}_se" in part:
            _band(axis, part[names[0]].values, z.values, part[f"{name}_se"].values)
    elif "point" in dims:
        x, y = (part[n].values for n in names)
        dots = axis.scatter(x, y, c=z.values, s=18, cmap="viridis", norm=norm(z.values))
        axis.figure.colorbar(dots, ax=axis, label=sweep.called(name))
    else:
        _heat(axis, part, z.transpose(names[1], names[0]), sweep.called(name))
    axis.set_xlabel(sweep.called(names[0]))
    if len(names) > 1:
        axis.set_ylabel(sweep.called(names[1]))


def _two_lines(axis: Axes, part: xr.Dataset, z: xr.DataArray, names: Sequence[str]) -> None:
    """Draw a line for each of two values: a map of two rows would show little."""
    for value, colour in zip(z[names[1]].values, colours(2), strict=True):
        y = z.sel({names[1]: value}).values
        order = np.argsort(part[names[0]].values)
        axis.plot(part[names[0]].values[order], y[order], ".-", color=colour, ms=4, lw=1.2,
                  label=f"{names[1]}={value:.4g}")  # fmt: skip
    if spread_wide(z.values):
        axis.set_yscale("log")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)


def _line(axis: Axes, x: Any, y: Any, style: str) -> None:
    order = np.argsort(x)
    axis.plot(x[order], y[order], style, color="#2c5f8a", ms=4, lw=1.2)
    if spread_wide(y):
        axis.set_yscale("log")
    axis.grid(alpha=0.25)


def _band(axis: Axes, x: Any, y: Any, se: Any) -> None:
    order = np.argsort(x)
    low, high = (y - 2 * se)[order], (y + 2 * se)[order]
    label = "2 standard errors"
    axis.fill_between(x[order], low, high, color="#2c5f8a", alpha=0.2, lw=0, label=label)
    axis.legend(fontsize=8, frameon=False)


def _heat(axis: Axes, part: xr.Dataset, z: xr.DataArray, label: str) -> None:
    down, across = (part[d].values for d in z.dims)
    i, j = np.argsort(across), np.argsort(down)
    mesh = axis.pcolormesh(
        edges(across[i]), edges(down[j]), np.ma.masked_invalid(z.values[np.ix_(j, i)]),
        cmap="viridis", norm=norm(z.values),
    )  # fmt: skip
    axis.figure.colorbar(mesh, ax=axis, label=label)


def _categories(axis: Axes, part: xr.Dataset, z: xr.DataArray, names: Sequence[str]) -> None:
    """Draw a word per point (a status) as colours, with counts."""
    coords = [part[n].broadcast_like(z).transpose(*z.dims).values.ravel() for n in names]
    x, y = coords if len(coords) > 1 else (coords[0], np.zeros(z.size))
    words = z.values.ravel().astype(object)
    for word in dict.fromkeys([*STATUS_COLOURS, *sorted(set(words))[:LINES]]):
        if (here := words == word).any():
            label = f"{word or '(none)'}: {here.sum():,}"
            axis.plot(x[here], y[here], "s", ms=4, color=STATUS_COLOURS.get(word), label=label)
    if len(names) == 1:
        axis.set_yticks([])
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, frameon=False)
