"""A data set whose dimensions are told apart: parameters and states; what is held fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsolve.hpc.plan.store_schema import CERTIFIES, RECORDS
from dpsolve.solvers.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import xarray as xr


DISTRIBUTION = "distribution"
PATH = "distribution_path"
TIME = "time"
LINES = 5
LEAST_FOR_REGIONS, MOST_REGIONS = 8, 12
# What the axes call by name, since the title has the words.
PLAIN = frozenset({*RECORDS, "lower", "upper", "distribution", "policy_loss", "certifies"})
# A summary needs one number per point; past this size of its variable, points are skipped.
MOST_BYTES = 2**31


def _lies_on(values: Any, grid: Any, between: bool) -> bool:
    inside = values.min() >= grid.min() and values.max() <= grid.max()
    return bool(inside if between else np.isin(values, grid).all())


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
class SweepData:
    """A data set whose dimensions are told apart."""

    data: xr.Dataset

    @property
    def dims(self) -> list[str]:
        """The parameter dimensions."""
        return [str(d) for d in self.data["status"].dims] if "status" in self.data else []

    def states_of(self, name: str) -> list[str]:
        """Return the dimensions of a variable that are states."""
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

    def mean_of(self, name: str) -> tuple[SweepData, str]:
        """Return these data with the mean of the first state under a distribution, and its name."""
        state = self.states_of(name)[0]
        dims = [d for d in self.dims if self.data.sizes[d] > 1]
        longest = max(dims, key=lambda d: self.data.sizes[d])
        step = max(1, math.ceil(self.data[name].nbytes / MOST_BYTES))
        part = self.data.isel({longest: slice(None, None, step)})
        grid = part.get(f"grid_{state}", part[state])
        mean = (part[name] * grid).sum(self.states_of(name), skipna=False)
        mean.attrs["long_name"] = f"mean of {state} under the distribution"
        return SweepData(part.assign({f"mean_{state}": mean})), f"mean_{state}"

    def few(self) -> list[dict[str, int]]:
        """Choose a few points: spread along the longest parameter axis, others at the middle."""
        if not self.dims:
            return [{}]
        sizes = {d: self.data.sizes[d] for d in self.dims}
        along = max(sizes, key=lambda d: sizes[d])
        middle = {d: (sizes[d] - 1) // 2 for d in self.dims}
        spread = np.unique(np.linspace(0, sizes[along] - 1, min(LINES, sizes[along])).astype(int))
        first = self.varying([along])[0]  # points in a row are spread by their first parameter
        order = np.argsort(self.data[first].values, kind="stable")
        return [middle | {along: int(order[i])} for i in spread]

    def along(self, state: str, point: Mapping[str, int]) -> np.ndarray[Any, Any]:
        """Return the values of a state at one point; its grid may depend on the parameters."""
        grid = self.data.get(f"grid_{state}", self.data[state])
        return np.asarray(grid.isel({d: i for d, i in point.items() if d in grid.dims}).values)

    def called(self, name: str) -> str:
        """Return a name as an axis shows it: the model's own words and units, where it has some."""
        stored = name if name in self.data else f"grid_{name}"
        told = self.data[stored].attrs if stored in self.data else {}
        words, units = str(told.get("long_name", "")), str(told.get("units", ""))
        short = name.partition("_")[2] or name
        ours = (name, f"parameter {name}", f"grid of {name}")
        plain = (
            words in ours
            or words.endswith((f": {short}", f": {name}"))
            or name in PLAIN
            or words == "value function"
        )
        if not words or (plain and not units):
            return name
        return f"{words} ({units})" if units else words

    def step_called(self, policy: str, state: str) -> str:
        """Return what to call a choice less the state that it is the next value of."""
        choice, own = self.called(policy), self.called(state)
        units = str(self.data[policy].attrs.get("units", ""))
        words = choice.removesuffix(f" ({units})") if units else choice
        if words == choice and choice == policy:
            return f"{policy} - {state}"
        return f"{words} − {own}"

    def bounds_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the bounds on a variable, whether they are there or not."""
        if name == "value":
            return "lower", "upper"
        choice = name.removeprefix("policy_")
        return (f"policy_lower_{choice}", f"policy_upper_{choice}") if choice != name else ()

    def is_discrete(self, name: str) -> bool:
        """Tell whether a policy has few values, and two states over which they can be regions."""
        sizes = sorted((self.data.sizes[d] for d in self.states_of(name)), reverse=True)
        if not name.startswith("policy_") or len(sizes) < 2 or sizes[1] < LEAST_FOR_REGIONS:
            return False
        here = np.asarray(self.data[name].isel(self.few()[len(self.few()) // 2]).values, float)
        values = np.unique(here[np.isfinite(here)])
        return 0 < values.size <= MOST_REGIONS and bool((values == np.round(values)).all())

    def label(self, point: Mapping[str, int], varying: Sequence[str]) -> str:
        """Return the values of parameters at a point."""
        here = self.data.isel(dict(point))
        return ", ".join(f"{name}={here[name].item():.4g}" for name in varying)

    def varying(self, dims: Sequence[str]) -> list[str]:
        """Return the parameters that vary along some of the parameter dimensions."""
        names = [d for d in dims if d != "point"]
        if "point" in dims:
            coords = self.data.coords.items()
            names += [str(n) for n, c in coords if c.dims == ("point",) and n != "point"]
        return names or list(dims)


def at(sweep: SweepData, state: str, index: int) -> str:
    """Say at which value of a state something is shown."""
    if f"grid_{state}" in sweep.data or state not in sweep.data.coords:
        return f"{state} at the middle of its grid"
    return f"{state}={sweep.data[state].values[index]:.4g}"
