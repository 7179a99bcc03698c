"""``dp.plot.convergence``: what a finer grid changes, over the number of points.

Left what falls, over logarithmic axes: differences of value and policy to the finest grid, and the
certified bounds, which are drawn solid; a thin line has slope -2. Right the moments, each as its
distance in percent from the finest grid's: where they are level, they are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.solvers.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOUNDS = ("error_bound", "policy_loss")
NAMES = {"value_difference": "value, to the finest", "error_bound": "error_bound (certified)",
         "policy_loss": "policy_loss (certified)"}  # fmt: skip


def convergence(data: xr.Dataset) -> Figure:
    """Draw what ``dp.convergence`` returns.

    Raises
    ------
    UsageError
        If it is something else.
    """
    from matplotlib.figure import Figure

    if "value_difference" not in getattr(data, "data_vars", ()):
        raise UsageError("dp.plot.convergence draws what dp.convergence returns")
    moments = [str(n) for n in data.data_vars if str(n).startswith("moment_")]
    figure = Figure(figsize=(5.2 * (1 + bool(moments)) + 0.4, 4.3), layout="constrained")
    axes = figure.subplots(1, 1 + bool(moments), squeeze=False)[0]
    _draw_errors(axes[0], data)
    if moments:
        _draw_moments(axes[1], data, moments)
    figure.suptitle(str(data.attrs.get("model", "")), fontsize=11)
    return figure


def _sizes(data: xr.Dataset) -> tuple[str, Any]:
    dim = str(data["value_difference"].dims[0])
    return dim, np.asarray(data[dim].values)


def _draw_errors(axis: Axes, data: xr.Dataset) -> None:
    dim, n = _sizes(data)
    differences = [str(x) for x in data.data_vars if "_difference" in str(x)
                   and not str(x).startswith("order_")]  # fmt: skip
    shown = [*differences, *(BOUNDS if BOUNDS[1] in data else ())]  # else each is of its own grid
    colours = _colours(len(shown))
    tops = []
    for name, colour in zip(shown, colours, strict=True):
        y = np.asarray(data[name].values, float)
        good = np.isfinite(y) & (y > 0.0)
        if not good.any():
            continue
        label = NAMES.get(name, name.replace("policy_difference_", "") + ", to the finest")
        axis.plot(n[good], y[good], "-o" if name in BOUNDS else "--o", color=colour, ms=4, lw=1.5,
                  label=label)  # fmt: skip
        tops.append(y[good][0])
    axis.set(xscale="log", yscale="log", xlabel=dim)
    if tops:
        steps = (n - 1.0) / (n[0] - 1.0)
        axis.plot(n, max(tops) * 1.6 * steps**-2.0, ":", color="0.5", lw=1.0, label="order 2")
        axis.legend(fontsize=8, frameon=False)
    axis.set_title("errors", fontsize=10)
    _ticks(axis, n)


def _draw_moments(axis: Axes, data: xr.Dataset, names: Sequence[str]) -> None:
    dim, n = _sizes(data)
    for name, colour in zip(names, _colours(len(names)), strict=True):
        y = np.asarray(data[name].values, float)
        scale = abs(y[-1]) if y[-1] else 1.0
        label = f"{name.removeprefix('moment_')} ({y[-1]:.6g})"
        axis.plot(n, 100.0 * (y - y[-1]) / scale, "-o", color=colour, ms=4, lw=1.5, label=label)
    axis.axhline(0.0, color="0.5", lw=0.8, ls=":")
    axis.set(xscale="log", xlabel=dim, ylabel="percent from the finest")
    axis.set_title("moments", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
    _ticks(axis, n)


def _ticks(axis: Axes, n: Any) -> None:
    """Label the sizes themselves, and no powers of ten between them."""
    axis.set_xticks(n, [f"{x:,}" for x in n])
    axis.set_xticks([], minor=True)


def _colours(n: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.0, 0.85, n))
