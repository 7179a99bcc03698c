"""What panels share: colours, where cells end, titles, and scales for numbers far apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


# Okabe and Ito's, which differ for the colour-blind too.
STATUS_COLOURS = {"pending": "0.75", "failed": "#d55e00", "inexact": "#e69f00", "solved": "#0072b2"}


def colours(n: int) -> Any:
    """Return colours from dark to light, which differ in grey and for the colour-blind."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.0, 0.85, n))


def edges(x: Any) -> Any:
    """Return where cells around points end: halfway to the next, and at the ends with the points.

    So a map shows no parameter and no state that there is none of.
    """
    return np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])


def norm(values: Any) -> Any:
    """Return a logarithmic scale of colours where numbers lie far apart."""
    from matplotlib.colors import LogNorm

    return LogNorm() if spread_wide(values) else None


def spread_wide(values: Any) -> bool:
    """Tell whether positive numbers lie three powers of ten apart."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > 1e3 * finite.min())


def is_uneven(x: Any) -> bool:
    """Tell whether the steps of a grid differ."""
    steps = np.diff(np.asarray(x, float))
    return bool(steps.size > 1 and steps.max() > 1.01 * steps.min())


def title(array: xr.DataArray, held: Sequence[str], shown: str = "") -> str:
    """Say what is shown, and at which values of what no axis shows."""
    long = str(array.attrs.get("long_name", ""))
    long = "" if long == array.name or shown.startswith(long) else long  # it stands at the axis
    return "\n".join(filter(None, [long, ", ".join(held)]))
