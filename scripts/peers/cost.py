"""How the cost of savings grows with the grid: an exponent, and the picture in the documents."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from .savings import ERROR, brute_force, solve
from .timing import Row, clock, seconds

__all__ = ["PICTURE", "exponent", "picture", "rows"]

SIZES = (1_000, 3_162, 10_000, 31_623, 100_000)  # points of wealth
N_Z = 2  # points of income: few, so that what grows is the grid
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "cost.png"

OURS = {"ours, certified": "full", "ours, sampled (nothing certified)": "sampled"}
Curves = dict[str, list[float]]  # seconds at each size, by name


def rows(sizes: tuple[int, ...] = SIZES, path: Path = PICTURE) -> list[Row]:
    """Measure, draw, and return a row for each: ours certified, and with a look at a sample."""
    curves: Curves = {name: [_ours(n, kind) for n in sizes] for name, kind in OURS.items()}
    for n in sizes:
        for peer in brute_force(n, N_Z, limit=0.0)[0]:
            curves.setdefault(peer.name, []).append(clock(peer.run) * peer.times)
    picture(sizes, curves, path)
    what = f"savings, {sizes[0]:,} to {sizes[-1]:,} points of wealth x {N_Z}"
    return [
        (
            what,
            f"{name}: {'' if name in OURS else '~'}{seconds(taken[0])} to {seconds(taken[-1])}",
            f"exponent {exponent(sizes, taken):.2f}",
            "<= 1.2" if name in OURS else "",
        )
        for name, taken in curves.items()
    ]


def _ours(n: int, certificate: str) -> float:
    clock(lambda: solve(n, N_Z, certificate=certificate).value)  # compile
    return median(clock(lambda: solve(n, N_Z, certificate=certificate).value) for _ in range(3))


def exponent(sizes: tuple[int, ...], taken: list[float]) -> float:
    """Return the slope of log seconds against log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])


def picture(sizes: tuple[int, ...], curves: Curves, path: Path) -> None:
    """Draw seconds against size, both on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, taken in curves.items():
        ours = name in OURS
        label = f"{name}, exponent {exponent(sizes, taken):.2f}" if ours else f"{name} (by count)"
        axes.loglog(sizes, taken, "o-" if ours else ".--", label=label, lw=2.5 if ours else 1.2)
    axes.set_xlabel(f"points of wealth (times {N_Z} of income)")
    axes.set_ylabel("seconds")
    axes.set_title(f"Savings to a true error of {ERROR:g}")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
