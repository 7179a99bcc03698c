"""``dpsolve plot``: one picture of a store.

Left the value and a policy (or the variable asked for) along the first state, for a few points
spread over the sweep; right one number per point over the parameter axes, as a line, a heat map
or a scatter of sampled points. Parameter dimensions are those of ``status``; the others are
states.

A picture must not say what the numbers do not. A distribution is drawn as its marginal over the
first state, and summed up by the mean of it; one that moves over time, at a few times. A policy
that chooses the next value of a state is drawn as the step it makes, choice minus state, which is 0
where one stays: beside a line of 45 degrees nothing could be seen. Where two states are chosen, it
is a map over both, because a cut through one of them jumps with what is done to the other. Whole
numbers make steps and no slopes, and a map ends where its parameters do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.plan.store_schema import CERTIFIES, OF_WHAT, RECORDS
from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.labelled import choices_of
from dpsolve.solvers.outcomes import accuracy

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DISTRIBUTION = "distribution"
PATH = "distribution_path"
TIME = "time"
_LINES = 5
_STATUS = {"pending": "0.85", "failed": "#c0392b", "inexact": "#e6a23c", "solved": "#2e7d5b"}
# A summary needs one number per point; past this size of its variable, points are skipped.
_MOST_BYTES = 2**31


def picture(
    data: xr.Dataset, var: str | None = None, chosen: Mapping[str, str] | None = None
) -> Figure:
    """Draw a store.

    Parameters
    ----------
    data : Dataset
        A sweep's results (one group).
    var : str, optional
        The variable to draw; by default the value, and beside it the first policy.
    chosen : mapping, optional
        Coordinates to hold fixed, nearest value: ``{"beta": "0.95"}``.

    Raises
    ------
    UsageError
        If the variable or a coordinate is not in the store, or nothing is solved yet.
    """
    from matplotlib.figure import Figure

    names, number = _variables(_Sweep(data), var)
    data, held = select(data, chosen or {})
    sweep = _Sweep(data)
    lines = [name for name in names if sweep.states_of(name)]
    summary = bool(sweep.dims) and math.prod(data.sizes[d] for d in sweep.dims) > 1
    summary |= number == PATH
    panels = len(lines) + summary
    if not panels:
        raise UsageError(
            f"'{number}' is a single number here: {np.asarray(data[number].values).item()}."
        )
    figure = Figure(figsize=(5.2 * panels + 0.4, 4.3), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, name in zip(axes, lines, strict=False):
        other = sweep.chosen_beside(name)
        if name == PATH:
            _draw_times(axis, sweep)
        elif other is not None:
            _draw_map(axis, sweep, name, other)
        else:
            _draw_lines(axis, sweep, name)
    if summary and number == PATH:
        _draw_means(axes[-1], sweep)
    elif summary and number == DISTRIBUTION:
        _draw_summary(axes[-1], *sweep.mean_of(number))
    elif summary:
        _draw_summary(axes[-1], sweep, number)
    title = str(data.attrs.get("model_name", data.attrs.get("model", "")))
    lines_of_title = filter(None, [f"{title}   {held}".strip(), _certified(data)])
    figure.suptitle("\n".join(lines_of_title), fontsize=11)
    return figure


def _lies_on(values: Any, grid: Any, between: bool) -> bool:
    inside = values.min() >= grid.min() and values.max() <= grid.max()
    return bool(inside if between else np.isin(values, grid).all())


def _certified(data: xr.Dataset) -> str:
    """Say what is certified, and of what, where the store says so."""
    bound = data.get("error_bound")
    of_what = "" if bound is None else str(bound.attrs.get(OF_WHAT, ""))
    values = np.asarray(() if bound is None else bound.values)
    if not of_what or not np.isfinite(values).any():
        return ""
    worst = float(np.max(values[~np.isnan(values)]))
    return accuracy(worst, None, "worst certified error", of_what)


def select(data: xr.Dataset, chosen: Mapping[str, str]) -> tuple[xr.Dataset, str]:
    """Hold coordinates fixed at the nearest value, and say in words which.

    A parameter that varies along ``point`` keeps the points that have the nearest value.
    """
    held: list[str] = []
    for name, text in chosen.items():
        if name not in data.coords:
            known = [str(c) for c in data.coords]
            raise UsageError(
                f"the store has no coordinate '{name}'.{did_you_mean(name, known)} "
                f"Its coordinates: {', '.join(known)}."
            )
        values = np.asarray(data[name].values)
        try:
            wanted = float(text)
        except ValueError:
            raise UsageError(f"--select {name}={text}: a number is expected.") from None
        if values.ndim != 1:
            raise UsageError(f"--select {name}: it varies along several dimensions.")
        low, high = np.nanmin(values), np.nanmax(values)
        beyond = (high - low) / 2 or abs(high) / 10
        if not low - beyond <= wanted <= high + beyond:
            raise UsageError(
                f"--select {name}={text}: {name} runs from {low:.6g} to {high:.6g} in this store."
            )
        nearest = values[np.argmin(np.abs(values - wanted))]
        dim = data[name].dims[0]
        where = np.flatnonzero(values == nearest)
        data = data.isel({dim: where if len(where) > 1 else int(where[0])})
        held.append(f"{name}={nearest:.6g}")
    return data, ", ".join(held)


@dataclass(frozen=True)
class _Sweep:
    """A data set whose dimensions are told apart."""

    data: xr.Dataset

    @property
    def dims(self) -> list[str]:
        """The parameter dimensions."""
        return [str(d) for d in self.data["status"].dims] if "status" in self.data else []

    def states_of(self, name: str) -> list[str]:
        beside = [*self.dims, TIME] if name == PATH else self.dims
        return [str(d) for d in self.data[name].dims if d not in beside]

    def state_moved_by(self, name: str) -> str | None:
        """Return the state that a policy chooses the next value of, as names and values tell."""
        if not name.startswith("policy_") or name.startswith("policy_index_"):
            return None
        choice = name.removeprefix("policy_")
        named = [s for s in self.states_of(name) if choice.startswith(f"{s}_")]
        for point in self.few() if named else []:
            values = np.asarray(self.data[name].isel(dict(point)).values, float)
            values = values[np.isfinite(values)]
            if values.size:
                free = CERTIFIES in self.data  # choices may lie between nodes
                on = (s for s in named if _lies_on(values, self.along(s, point), free))
                return next(on, None)
        return None

    def chosen_beside(self, name: str) -> str | None:
        """Return another state of which a next value is chosen, beside this policy's own."""
        own = self.state_moved_by(name)
        if own is None:
            return None
        policies = (str(v) for v in self.data.data_vars if str(v) != name)
        moved = (self.state_moved_by(policy) for policy in policies)
        return next((s for s in moved if s not in (None, own) and s in self.states_of(name)), None)

    def marginal(self, name: str, point: Mapping[str, int], state: str) -> np.ndarray[Any, Any]:
        """Return the masses of one state at a point: all others summed over."""
        here = self.data[name].isel(dict(point))
        return np.asarray(here.sum([d for d in self.states_of(name) if d != state], skipna=False))

    def mean_of(self, name: str) -> tuple[_Sweep, str]:
        """Return these data with the mean of the first state under a distribution, and its name."""
        state = self.states_of(name)[0]
        dims = [d for d in self.dims if self.data.sizes[d] > 1]
        longest = max(dims, key=lambda d: self.data.sizes[d])
        step = max(1, math.ceil(self.data[name].nbytes / _MOST_BYTES))
        part = self.data.isel({longest: slice(None, None, step)})
        grid = part.get(f"grid_{state}", part[state])
        mean = (part[name] * grid).sum(self.states_of(name), skipna=False)
        mean.attrs["long_name"] = f"mean of {state} under the distribution"
        return _Sweep(part.assign({f"mean_{state}": mean})), f"mean_{state}"

    def few(self) -> list[dict[str, int]]:
        """Choose a few points: spread along the longest parameter axis, others at the middle."""
        if not self.dims:
            return [{}]
        sizes = {d: self.data.sizes[d] for d in self.dims}
        along = max(sizes, key=lambda d: sizes[d])
        middle = {d: (sizes[d] - 1) // 2 for d in self.dims}
        spread = np.unique(np.linspace(0, sizes[along] - 1, min(_LINES, sizes[along])).astype(int))
        first = self.varying([along])[0]  # points in a row are spread by their first parameter
        order = np.argsort(self.data[first].values, kind="stable")
        return [middle | {along: int(order[i])} for i in spread]

    def along(self, state: str, point: Mapping[str, int]) -> np.ndarray[Any, Any]:
        """Return the values of a state at one point; its grid may depend on the parameters."""
        grid = self.data.get(f"grid_{state}", self.data[state])
        return np.asarray(grid.isel({d: i for d, i in point.items() if d in grid.dims}).values)

    def label(self, point: Mapping[str, int], varying: Sequence[str]) -> str:
        here = self.data.isel(dict(point))
        return ", ".join(f"{name}={here[name].item():.4g}" for name in varying)

    def varying(self, dims: Sequence[str]) -> list[str]:
        """Return the parameters that vary along some of the parameter dimensions."""
        names = [d for d in dims if d != "point"]
        if "point" in dims:
            coords = self.data.coords.items()
            names += [str(n) for n, c in coords if c.dims == ("point",) and n != "point"]
        return names or list(dims)


def _variables(sweep: _Sweep, var: str | None) -> tuple[list[str], str]:
    """Return what to draw as lines, and what as one number per point."""
    known = [str(name) for name in sweep.data.data_vars]
    if var is None:
        policies = [n for c in choices_of(known) if (n := f"policy_{c}") in known]
        others = [n for n in known if n.startswith("output_")]
        names = [n for n in ["value", *policies[:1]] if n in known] or others[:1]
        return (names, names[0]) if names else _of_own_arrays(sweep, known)
    for name in (var, f"policy_{var}", f"output_{var}"):
        if name in known:
            return [name], name
    guess = did_you_mean(var, known)
    raise UsageError(f"the store has no variable '{var}'.{guess} It holds: {', '.join(known)}.")


def _of_own_arrays(sweep: _Sweep, known: Sequence[str]) -> tuple[list[str], str]:
    """Choose among the arrays of a factory: one with a dimension as lines, and a number."""
    own = [n for n in known if n not in RECORDS and not n.startswith(("grid_", "d_"))]
    lines = sorted((n for n in own if sweep.states_of(n)), key=lambda n: n != "distribution")
    numbers = [n for n in own if not sweep.states_of(n) and not n.endswith("_se")]
    return lines[:1], (numbers or lines or ["error_bound"])[0]


def _draw_lines(axis: Axes, sweep: _Sweep, name: str) -> None:
    """Draw a variable along a state, other states at the middle, or summed over."""
    array = sweep.data[name]
    own = sweep.state_moved_by(name)
    state = own or sweep.states_of(name)[0]
    others = [d for d in sweep.states_of(name) if d != state]
    rest = {d: (array.sizes[d] - 1) // 2 for d in others if name != DISTRIBUTION}
    points = sweep.few()
    moved = [d for d in sweep.dims if len({p[d] for p in points}) > 1]
    # A choice among grid points jumps, as one among whole numbers does.
    steps = name == DISTRIBUTION or own is not None or array.dtype.kind in "iub"
    drawn = 0
    for point, colour in zip(points, _colours(len(points)), strict=True):
        x = sweep.along(state, point)
        if name == DISTRIBUTION:
            y = sweep.marginal(name, point, state)
        else:
            y = np.asarray(array.isel({**point, **rest}).values, dtype=float)
        if not np.isfinite(y).any():
            continue
        label = sweep.label(point, sweep.varying(moved)[:3]) if moved else None
        style = "steps-mid" if steps else "default"
        y = y if own is None else y - x
        axis.plot(x, y, color=colour, lw=1.5, label=label, drawstyle=style)
        drawn += 1
    if not drawn:
        axis.text(0.5, 0.5, "no solved point here", transform=axis.transAxes, ha="center")
    still = {d: points[0][d] for d in sweep.dims if d not in moved}
    held = [sweep.label(still, list(still))] if still else []
    held += [_at(sweep, d, i) for d, i in rest.items()]
    axis.set_title(_title(array, [*_told(name, state, others), *held]), fontsize=9)
    axis.set_xlabel(state)
    if name == DISTRIBUTION:
        _where_mass_is(axis)
    if own is not None:
        axis.set_ylabel(f"{name} - {own}")
        axis.axhline(0.0, color="0.5", lw=0.8, ls=":")
    else:
        axis.set_ylabel(f"mass at each {state}" if name == DISTRIBUTION else name)
    if drawn and moved:
        axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)


def _colours(n: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.0, 0.85, n))


def _told(name: str, state: str, others: Sequence[str]) -> list[str]:
    """Return what was done to the states that no axis shows."""
    summed = name in (DISTRIBUTION, PATH) and others
    return [f"marginal over {state}, summed over {', '.join(others)}"] if summed else []


def _middle_point(sweep: _Sweep) -> tuple[dict[str, int], list[str]]:
    """Return a point in the middle of the sweep, and words for it."""
    points = sweep.few()
    point = points[len(points) // 2]
    moved = [d for d in sweep.dims if sweep.data.sizes[d] > 1]
    return point, [sweep.label(point, sweep.varying(moved)[:3])] if moved else []


def _draw_map(axis: Axes, sweep: _Sweep, name: str, other: str) -> None:
    """Draw the step that a policy makes over the two states that are chosen, at one point."""
    array = sweep.data[name]
    own = sweep.state_moved_by(name) or other
    point, held = _middle_point(sweep)
    rest = {d: (array.sizes[d] - 1) // 2 for d in sweep.states_of(name) if d not in (own, other)}
    x, y = sweep.along(own, point), sweep.along(other, point)
    step = array.isel({**point, **rest}).transpose(other, own).values - x
    most = np.nanmax(np.abs(step), initial=0.0) or 1.0
    mesh = axis.pcolormesh(_edges(x), _edges(y), step, cmap="RdBu", vmin=-most, vmax=most)
    axis.figure.colorbar(mesh, ax=axis, label=f"{name} - {own}")
    held += [_at(sweep, d, i) for d, i in rest.items()]
    axis.set_title(_title(array, held), fontsize=9)
    axis.set_xlabel(own)
    axis.set_ylabel(other)


def _draw_times(axis: Axes, sweep: _Sweep) -> None:
    """Draw the marginal of a distribution that moves, at a few times and one point."""
    array = sweep.data[PATH]
    state, *others = sweep.states_of(PATH)
    point, held = _middle_point(sweep)
    masses = array.isel(point).sum(others, skipna=False).transpose(TIME, state)
    n = array.sizes[TIME]
    times = np.unique(np.geomspace(1, n, _LINES).astype(int) - 1) if n > _LINES else np.arange(n)
    for t, colour in zip(times, _colours(len(times)), strict=True):
        y = np.asarray(masses.isel({TIME: int(t)}).values)
        x = sweep.along(state, point)
        axis.plot(x, y, color=colour, lw=1.5, label=f"time {t}", drawstyle="steps-mid")
    axis.set_title(_title(array, [*_told(PATH, state, others), *held]), fontsize=9)
    axis.set_xlabel(state)
    _where_mass_is(axis)
    axis.set_ylabel(f"mass at each {state}")
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)


def _where_mass_is(axis: Axes) -> None:
    """Leave out the part of the axis where no line has more than a thousandth of its mass."""
    ends: list[tuple[float, float]] = []
    for line in axis.lines:
        x, below = np.asarray(line.get_xdata()), np.cumsum(np.asarray(line.get_ydata()))
        if np.isfinite(below[-1]) and below[-1] > 0:
            first, last = np.searchsorted(below, np.array([0.001, 0.999]) * below[-1])
            ends.append((float(x[max(first - 1, 0)]), float(x[min(last + 1, len(x) - 1)])))
    whole = [np.asarray(line.get_xdata()) for line in axis.lines]
    if not ends or all(x[0] >= min(ends)[0] and x[-1] <= max(e for _, e in ends) for x in whole):
        return
    left, right = min(e for e, _ in ends), max(e for _, e in ends)
    axis.set_xlim(left - 0.02 * (right - left), right)
    axis.set_xlabel(f"{axis.get_xlabel()} (99.8 % of the mass)")


def _draw_means(axis: Axes, sweep: _Sweep) -> None:
    """Draw the mean of the first state over time, for a few points."""
    array = sweep.data[PATH]
    state, *others = sweep.states_of(PATH)
    points = sweep.few()
    moved = [d for d in sweep.dims if len({p[d] for p in points}) > 1]
    for point, colour in zip(points, _colours(len(points)), strict=True):
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


def _edges(x: Any) -> Any:
    """Return where cells around points end: halfway to the next, and at the ends with the points.

    So a map shows no parameter and no state that there is none of.
    """
    return np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])


def _draw_summary(axis: Axes, sweep: _Sweep, name: str) -> None:
    """Draw one number per point: the variable at the middle of the states."""
    array = sweep.data[name]
    middle = {d: (array.sizes[d] - 1) // 2 for d in sweep.states_of(name)}
    dims = sorted((d for d in sweep.dims if array.sizes[d] > 1), key=lambda d: -array.sizes[d])
    rest = {d: (array.sizes[d] - 1) // 2 for d in dims[2:]}
    held = [_at(sweep, d, i) for d, i in middle.items()]
    axis.set_title(_title(array, [*held, *([sweep.label(rest, list(rest))] if rest else [])]),
                   fontsize=9)  # fmt: skip
    step = max(1, math.ceil(array.nbytes / _MOST_BYTES))
    ones = {d: 0 for d in sweep.dims if array.sizes[d] == 1}
    part = sweep.data.isel({**ones, **rest, dims[0]: slice(None, None, step)})
    z = part[name].isel(middle)
    if "point" in dims:
        z = z.isel({d: (z.sizes[d] - 1) // 2 for d in z.dims if d != "point"})
        names = sweep.varying(["point"])[:2]
    else:
        names = dims[:2]
    if z.dtype.kind not in "fiub":
        _categories(axis, part, z, names)
    elif len(names) == 1:
        _line(axis, part[names[0]].values, z.values, "." if "point" in dims else ".-")
        axis.set_ylabel(name)
        if f"{name}_se" in part:
            _band(axis, part[names[0]].values, z.values, part[f"{name}_se"].values)
    elif "point" in dims:
        x, y = (part[n].values for n in names)
        dots = axis.scatter(x, y, c=z.values, s=18, cmap="viridis", norm=_norm(z.values))
        axis.figure.colorbar(dots, ax=axis, label=name)
    else:
        _heat(axis, part, z.transpose(names[1], names[0]), name)
    axis.set_xlabel(names[0])
    if len(names) > 1:
        axis.set_ylabel(names[1])


def _line(axis: Axes, x: Any, y: Any, style: str) -> None:
    order = np.argsort(x)
    axis.plot(x[order], y[order], style, color="#2c5f8a", ms=4, lw=1.2)
    if _spread_wide(y):
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
        _edges(across[i]), _edges(down[j]), np.ma.masked_invalid(z.values[np.ix_(j, i)]),
        cmap="viridis", norm=_norm(z.values),
    )  # fmt: skip
    axis.figure.colorbar(mesh, ax=axis, label=label)


def _categories(axis: Axes, part: xr.Dataset, z: xr.DataArray, names: Sequence[str]) -> None:
    """Draw a word per point (a status) as colours, with counts."""
    coords = [part[n].broadcast_like(z).transpose(*z.dims).values.ravel() for n in names]
    x, y = coords if len(coords) > 1 else (coords[0], np.zeros(z.size))
    words = z.values.ravel().astype(object)
    for word in dict.fromkeys([*_STATUS, *sorted(set(words))[:_LINES]]):
        if (here := words == word).any():
            label = f"{word or '(none)'}: {here.sum():,}"
            axis.plot(x[here], y[here], "s", ms=4, color=_STATUS.get(word), label=label)
    if len(names) == 1:
        axis.set_yticks([])
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, frameon=False)


def _norm(values: Any) -> Any:
    from matplotlib.colors import LogNorm

    return LogNorm() if _spread_wide(values) else None


def _spread_wide(values: Any) -> bool:
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > 1e3 * finite.min())


def _at(sweep: _Sweep, state: str, index: int) -> str:
    if f"grid_{state}" in sweep.data or state not in sweep.data.coords:
        return f"{state} at the middle of its grid"
    return f"{state}={sweep.data[state].values[index]:.4g}"


def _title(array: xr.DataArray, held: Sequence[str]) -> str:
    long = str(array.attrs.get("long_name", ""))
    long = "" if long == array.name else long  # it stands at the axis already
    return "\n".join(filter(None, [long, ", ".join(held)]))
