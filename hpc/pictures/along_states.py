"""Panels along a model's states: values, policies, distributions, at a few points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.plan.store_schema import CERTIFIES

from .axes import colours, edges, is_uneven, title
from .sweep_data import DISTRIBUTION, LINES, PATH, TIME, SweepData, at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_ATOM = 0.005  # of all mass, at an end of the grid
THIN = 0.01  # of a panel's range: bounds that are closer than that would be a thicker line


def draw_over_states(axis: Axes, sweep: SweepData, name: str) -> None:
    """Draw a variable over the states, as what it is: a map, regions of few values, or lines."""
    other = sweep.chosen_beside(name)
    if other is not None:
        draw_map(axis, sweep, name, other)
    elif sweep.is_discrete(name):
        draw_regions(axis, sweep, name)
    else:
        draw_lines(axis, sweep, name)


def draw_lines(axis: Axes, sweep: SweepData, name: str) -> None:
    """Draw a variable along a state, other states at the middle, or summed over.

    Bounds are drawn as bands about it, where they are far enough apart to be seen.
    """
    array = sweep.data[name]
    own = sweep.state_moved_by(name)
    state = own or sweep.states_of(name)[0]
    others = [d for d in sweep.states_of(name) if d != state]
    rest = {d: (array.sizes[d] - 1) // 2 for d in others if name != DISTRIBUTION}
    points = sweep.few()
    moved = [d for d in sweep.dims if len({p[d] for p in points}) > 1]
    # A choice among grid points jumps, as one among whole numbers does.
    between = own is not None and CERTIFIES in sweep.data
    steps = (own is not None and not between) or array.dtype.kind in "iub"
    bounds = [n for n in sweep.bounds_of(name) if n in sweep.data]
    drawn, atoms, banded = 0, False, False
    masses: list[tuple[Any, Any]] = []
    for point, colour in zip(points, colours(len(points)), strict=True):
        x = sweep.along(state, point)
        label = sweep.label(point, sweep.varying(moved)[:3]) if moved else None
        if name == DISTRIBUTION:
            y = sweep.marginal(name, point, state)
            if np.isfinite(y).any():
                atoms |= _draw_masses(axis, x, y, colour, label)
                masses.append((x, y))
                drawn += 1
            continue
        here = {**point, **rest}
        y, *ends = (np.asarray(sweep.data[n].isel(here).values, float) for n in (name, *bounds))
        if not np.isfinite(y).any():
            continue
        stay = 0.0 if own is None else x
        style = "steps-mid" if steps else "default"
        axis.plot(x, y - stay, color=colour, lw=1.5, label=label, drawstyle=style)
        if len(ends) == 2:
            banded |= _band_of_bounds(axis, x, y - stay, ends[0] - stay, ends[1] - stay, colour)
        drawn += 1
    if not drawn:
        axis.text(0.5, 0.5, "no solved point here", transform=axis.transAxes, ha="center")
    still = {d: points[0][d] for d in sweep.dims if d not in moved}
    held = [sweep.label(still, list(still))] if still else []
    held += [at(sweep, d, i) for d, i in rest.items()]
    held += ["shaded: certified bounds"] if banded else []
    held += ["dots: mass at an end"] if atoms else []
    axis.set_title(
        title(array, [*_told(name, state, others), *held], sweep.called(name)), fontsize=9
    )
    axis.set_xlabel(sweep.called(state))
    if name == DISTRIBUTION:
        _where_mass_is(axis, masses)
        dense = is_uneven(sweep.along(state, points[0]))
        axis.set_ylabel(f"share with {state} at or below" if dense else f"mass at each {state}")
    elif own is not None:
        axis.set_ylabel(sweep.step_called(name, own))
        axis.axhline(0.0, color="0.5", lw=0.8, ls=":")
    else:
        axis.set_ylabel(sweep.called(name))
    if drawn and moved:
        axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)


def _band_of_bounds(axis: Axes, x: Any, y: Any, low: Any, high: Any, colour: Any) -> bool:
    """Shade what lies between bounds; tell whether there was anything to see."""
    range_ = np.nanmax(y, initial=-np.inf) - np.nanmin(y, initial=np.inf)
    good = np.isfinite(low) & np.isfinite(high)
    if not good.any() or np.max((high - low)[good]) < THIN * max(range_, 1e-300):
        return False
    axis.fill_between(x, low, high, where=good, color=colour, alpha=0.2, lw=0)
    return True


def _draw_masses(axis: Axes, x: Any, mass: Any, colour: Any, label: str | None) -> bool:
    """Draw masses at points; on a grid of uneven steps the share at or below each, atoms as jumps.

    Tells whether there was an atom at an end. Masses of points that lie far apart are large for
    that alone, and densities of points that lie close together are noise; shares are neither.
    """
    if not is_uneven(x):
        axis.plot(x, mass, color=colour, lw=1.5, label=label, drawstyle="steps-mid")
        return False
    share = np.cumsum(mass)
    axis.plot(x, share, color=colour, lw=1.5, label=label)
    ends = [(i, low) for i, low in ((0, 0.0), (-1, share[-2])) if mass[i] > LEAST_ATOM * share[-1]]
    for i, low in ends:
        axis.plot([x[i], x[i]], [low, share[i]], color=colour, lw=1.5)
        axis.plot(x[i], share[i], "o", color=colour, ms=4)
    return bool(ends)


def draw_regions(axis: Axes, sweep: SweepData, name: str) -> None:
    """Draw a choice from few values over two states, at one point: a colour for each value."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    array = sweep.data[name]
    across, down = sorted(sweep.states_of(name), key=lambda d: -array.sizes[d])[:2]
    point, held = _middle_point(sweep)
    rest = {d: (array.sizes[d] - 1) // 2 for d in sweep.states_of(name) if d not in (across, down)}
    x, y = sweep.along(across, point), sweep.along(down, point)
    chosen = np.asarray(array.isel({**point, **rest}).transpose(down, across).values, float)
    values = np.unique(chosen[np.isfinite(chosen)])
    each = colours(max(len(values), 2))[: len(values)]
    limits = np.concatenate([[values[0] - 0.5], (values[1:] + values[:-1]) / 2, [values[-1] + 0.5]])
    mesh = axis.pcolormesh(
        edges(x), edges(y), np.ma.masked_invalid(chosen),
        cmap=ListedColormap(each), norm=BoundaryNorm(limits, len(values)),
    )  # fmt: skip
    bar = axis.figure.colorbar(mesh, ax=axis, label=sweep.called(name))
    bar.set_ticks([*values], labels=[f"{v:g}" for v in values])
    held += [at(sweep, d, i) for d, i in rest.items()]
    axis.set_title(title(array, held, sweep.called(name)), fontsize=9)
    axis.set_xlabel(sweep.called(across))
    axis.set_ylabel(sweep.called(down))


def _told(name: str, state: str, others: Sequence[str]) -> list[str]:
    """Return what was done to the states that no axis shows."""
    summed = name in (DISTRIBUTION, PATH) and others
    return [f"marginal over {state}, summed over {', '.join(others)}"] if summed else []


def _middle_point(sweep: SweepData) -> tuple[dict[str, int], list[str]]:
    """Return a point in the middle of the sweep, and words for it."""
    points = sweep.few()
    point = points[len(points) // 2]
    moved = [d for d in sweep.dims if sweep.data.sizes[d] > 1]
    return point, [sweep.label(point, sweep.varying(moved)[:3])] if moved else []


def draw_map(axis: Axes, sweep: SweepData, name: str, other: str) -> None:
    """Draw the step that a policy makes over the two states that are chosen, at one point."""
    array = sweep.data[name]
    own = sweep.state_moved_by(name) or other
    point, held = _middle_point(sweep)
    rest = {d: (array.sizes[d] - 1) // 2 for d in sweep.states_of(name) if d not in (own, other)}
    x, y = sweep.along(own, point), sweep.along(other, point)
    step = array.isel({**point, **rest}).transpose(other, own).values - x
    most = np.nanmax(np.abs(step), initial=0.0) or 1.0
    mesh = axis.pcolormesh(edges(x), edges(y), step, cmap="RdBu", vmin=-most, vmax=most)
    axis.figure.colorbar(mesh, ax=axis, label=sweep.step_called(name, own))
    held += [at(sweep, d, i) for d, i in rest.items()]
    axis.set_title(title(array, held, sweep.called(name)), fontsize=9)
    axis.set_xlabel(sweep.called(own))
    axis.set_ylabel(sweep.called(other))


def draw_times(axis: Axes, sweep: SweepData) -> None:
    """Draw the marginal of a distribution that moves, at a few times and one point."""
    array = sweep.data[PATH]
    state, *others = sweep.states_of(PATH)
    point, held = _middle_point(sweep)
    masses = array.isel(point).sum(others, skipna=False).transpose(TIME, state)
    n = array.sizes[TIME]
    times = np.unique(np.geomspace(1, n, LINES).astype(int) - 1) if n > LINES else np.arange(n)
    for t, colour in zip(times, colours(len(times)), strict=True):
        y = np.asarray(masses.isel({TIME: int(t)}).values)
        x = sweep.along(state, point)
        axis.plot(x, y, color=colour, lw=1.5, label=f"time {t}", drawstyle="steps-mid")
    axis.set_title(title(array, [*_told(PATH, state, others), *held]), fontsize=9)
    axis.set_xlabel(sweep.called(state))
    _where_mass_is(axis, [(x, line.get_ydata()) for line in axis.lines])
    axis.set_ylabel(f"mass at each {state}")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)


def _where_mass_is(axis: Axes, masses: Sequence[tuple[Any, Any]]) -> None:
    """Leave out the part of the axis where nothing drawn has more than a thousandth of its mass."""
    ends: list[tuple[float, float]] = []
    for x, mass in masses:
        below = np.cumsum(np.asarray(mass))
        if np.isfinite(below[-1]) and below[-1] > 0:
            first, last = np.searchsorted(below, np.array([0.001, 0.999]) * below[-1])
            ends.append((float(x[max(first - 1, 0)]), float(x[min(last + 1, len(x) - 1)])))
    left, right = min((e for e, _ in ends), default=0.0), max((e for _, e in ends), default=0.0)
    if left == right or all(x[0] >= left and x[-1] <= right for x, _ in masses):
        return
    axis.set_xlim(left - 0.02 * (right - left), right)
    axis.set_xlabel(f"{axis.get_xlabel()} (99.8 % of the mass)")


def draw_means(axis: Axes, sweep: SweepData) -> None:
    """Draw the mean of the first state over time, for a few points."""
    array = sweep.data[PATH]
    state, *others = sweep.states_of(PATH)
    points = sweep.few()
    moved = [d for d in sweep.dims if len({p[d] for p in points}) > 1]
    for point, colour in zip(points, colours(len(points)), strict=True):
        masses = array.isel(point).sum(others, skipna=False).transpose(TIME, state).values
        label = sweep.label(point, sweep.varying(moved)[:3]) if moved else None
        y = masses @ sweep.along(state, point)
        axis.plot(np.arange(len(y)), y, color=colour, lw=1.5, label=label)
    axis.set_title(f"mean of {state} over time", fontsize=9)
    axis.set_xlabel(TIME)
    axis.set_ylabel(f"mean of {state}")
    if moved:
        axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)
