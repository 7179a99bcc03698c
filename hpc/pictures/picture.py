"""One picture of a store: what ``dpsolve plot`` draws.

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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpsolve.hpc.plan.store_schema import OF_WHAT, RECORDS
from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.store import open_store
from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.labelled import choices_of
from dpsolve.solvers.outcomes import accuracy

from .along_states import draw_means, draw_over_states, draw_times
from .jobs import draw_timeline
from .over_parameters import draw_summary
from .sweep_data import DISTRIBUTION, PATH, SweepData, select

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


OVERVIEW = ("status", "error_bound", "seconds")


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

    names, number = _variables(SweepData(data), var)
    data, held = select(data, chosen or {})
    sweep = SweepData(data)
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
        if name == PATH:
            draw_times(axis, sweep)
        else:
            draw_over_states(axis, sweep, name)
    if summary and number == PATH:
        draw_means(axes[-1], sweep)
    elif summary and number == DISTRIBUTION:
        draw_summary(axes[-1], *sweep.mean_of(number))
    elif summary:
        draw_summary(axes[-1], sweep, number)
    title = str(data.attrs.get("model_name", data.attrs.get("model", "")))
    lines_of_title = filter(None, [f"{title}   {held}".strip(), _certified(data)])
    figure.suptitle("\n".join(lines_of_title), fontsize=11)
    return figure


def overview(data: xr.Dataset) -> Figure:
    """Draw the status, the certified error and the time of every point.

    Raises
    ------
    UsageError
        If there is only one.
    """
    from matplotlib.figure import Figure

    sweep = SweepData(data)
    if math.prod(data.sizes[d] for d in sweep.dims) < 2:
        raise UsageError("a map of a sweep needs several points, and there is one: see --var value")
    figure = Figure(figsize=(5.2 * len(OVERVIEW) + 0.4, 4.3), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(OVERVIEW)), OVERVIEW, strict=True):
        draw_summary(axis, sweep, name)
    title = str(data.attrs.get("model_name", data.attrs.get("model", "")))
    figure.suptitle("\n".join(filter(None, [title, _certified(data)])), fontsize=11)
    return figure


def timeline(path: Path | str) -> Figure:
    """Draw who solved what when, from the event log of a store.

    Raises
    ------
    UsageError
        If the log tells of no task.
    StoreError
        If there is no store.
    """
    from matplotlib.figure import Figure

    store = open_store(path)
    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    draw_timeline(figure.subplots(), read_events(store))
    figure.suptitle(store.source.name, fontsize=11)
    return figure


def _certified(data: xr.Dataset) -> str:
    """Say what is certified, and of what, where the store says so."""
    bound = data.get("error_bound")
    of_what = "" if bound is None else str(bound.attrs.get(OF_WHAT, ""))
    values = np.asarray(() if bound is None else bound.values)
    if not of_what or not np.isfinite(values).any():
        return ""
    worst = float(np.max(values[~np.isnan(values)]))
    return accuracy(worst, None, "worst certified error", of_what)


def _variables(sweep: SweepData, var: str | None) -> tuple[list[str], str]:
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


def _of_own_arrays(sweep: SweepData, known: Sequence[str]) -> tuple[list[str], str]:
    """Choose among the arrays of a factory: one with a dimension as lines, and a number."""
    own = [n for n in known if n not in RECORDS and not n.startswith(("grid_", "d_"))]
    lines = sorted((n for n in own if sweep.states_of(n)), key=lambda n: n != "distribution")
    numbers = [n for n in own if not sweep.states_of(n) and not n.endswith("_se")]
    return lines[:1], (numbers or lines or ["error_bound"])[0]
