"""``dp.plot``: single panels, drawn on axes that are given, or on new ones.

Each takes what ``dp.open``, ``to_xarray()`` or a selection of these gives, and returns the axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.store.event_log import read_events
from dpsolve.hpc.store.store import open_store
from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.labelled import choices_of

from .along_states import draw_over_states
from .jobs import draw_timeline
from .over_parameters import draw_summary
from .sweep_data import DISTRIBUTION, SweepData

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


def value(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the value along the first state, at a few points, with its certified bounds."""
    return variable(data, "value", ax=ax)


def policy(data: xr.Dataset, choice: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw a choice: the next value of a state as the step from it, few values as regions.

    Parameters
    ----------
    data : Dataset
    choice : str, optional
        Its name; by default the first.
    ax : matplotlib Axes, optional

    Raises
    ------
    UsageError
        If no policy of that name was kept.
    """
    known = [c for c in choices_of(map(str, data.data_vars)) if f"policy_{c}" in data]
    if not known:
        raise UsageError('no policy was kept: sweep with keep = [..., "policy"]')
    if choice is not None and choice not in known:
        raise UsageError(
            f"there is no choice '{choice}'.{did_you_mean(choice, known)} There is: "
            f"{', '.join(known)}."
        )
    return variable(data, f"policy_{choice or known[0]}", ax=ax)


def distribution(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution over the first state: shares and atoms where its grid is uneven."""
    return variable(data, DISTRIBUTION, ax=ax)


def variable(data: xr.Dataset, name: str, *, ax: Axes | None = None) -> Axes:
    """Draw any variable over the states, at a few points; an output goes by its own name.

    Raises
    ------
    UsageError
        If it is not there, or does not depend on the states.
    """
    sweep = SweepData(data)
    key = _key(data, name)
    if not sweep.states_of(key):
        raise UsageError(f"'{key}' is one number per point: dp.plot.parameters draws it")
    ax = _axes(ax)
    draw_over_states(ax, sweep, key)
    return ax


def parameters(data: xr.Dataset, name: str, *, ax: Axes | None = None) -> Axes:
    """Draw one number, or the status, of every point over the parameters: a line or a map.

    Raises
    ------
    UsageError
        If it is not there, or no parameter varies.
    """
    sweep = SweepData(data)
    if not any(data.sizes[d] > 1 for d in sweep.dims):
        raise UsageError("no parameter varies here, so that there is nothing to draw it over")
    ax = _axes(ax)
    draw_summary(ax, sweep, _key(data, name))
    return ax


def timeline(store: Path | str, *, ax: Axes | None = None) -> Axes:
    """Draw who solved what when: attempts at the tasks of a sweep, by worker, retries hatched.

    Raises
    ------
    StoreError
        If there is no store.
    UsageError
        If its log tells of no task.
    """
    events = read_events(open_store(store))
    ax = _axes(ax)
    draw_timeline(ax, events)
    return ax


def _key(data: xr.Dataset, name: str) -> str:
    for key in (name, f"policy_{name}", f"output_{name}", f"moment_{name}"):
        if key in data.data_vars:
            return key
    known = [str(n) for n in data.data_vars]
    raise UsageError(
        f"there is no variable '{name}'.{did_you_mean(name, known)} There is: {', '.join(known)}."
    )


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    made: Axes = Figure(figsize=(5.6, 4.3), layout="constrained").subplots()
    return made
