"""``dp.describe``: states, choices, sizes and structure of a model, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dpsolve.solvers.certified import promise
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.array_factory import no_model, shapes_of
from dpsolve.solvers.model.factory_signature import Signature, build, look_over, signature, split
from dpsolve.solvers.model.grids import Grid, Iid
from dpsolve.solvers.model.markov import Markov
from dpsolve.solvers.model.mdp import SparseRows, TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.options import SolveOptions

from .forecast import Outlook, footprint_of, outlook_of


@dataclass(frozen=True)
class Description:
    """What a model is; ``str()`` of it is a page to read.

    Attributes
    ----------
    name, doc : str
        The factory's name and docstring.
    parameters : dict of str to float or None
        Economic parameters, with the values described.
    sizes : dict of str to object
        Static parameters, likewise.
    dimensions : dict of str to str
        Each state, choice, shock and post variable in words.
    states, choices : int
        Numbers of states and of choices; of choices from an interval there is no number, 0.
    structure : tuple of str
        How the expectation is taken, step by step.
    bytes : int
        Memory that solving one point takes.
    streams : bool
        Whether rewards are recomputed block by block.
    outputs : tuple of str
        Names that ``keep`` may list beside value, lower, upper and policy.
    sweeps : tuple of str
        What becomes of rewards, and how maxima are sought; see :mod:`.forecast`.
    certifies : str
        What a solution's bounds will be of.
    """

    name: str
    doc: str
    parameters: dict[str, Any]
    sizes: dict[str, Any]
    dimensions: dict[str, str]
    states: int
    choices: int
    structure: tuple[str, ...]
    bytes: int
    streams: bool
    outputs: tuple[str, ...]
    sweeps: tuple[str, ...] = ()
    certifies: str = ""

    def __str__(self) -> str:
        lines = [self.name]
        if self.doc:
            lines += ["  " + line if line else "" for line in self.doc.splitlines()]
        for title, table in (
            ("parameters (can be swept, batched, differentiated)", self.parameters),
            ("sizes (static: a new value compiles anew)", self.sizes),
            ("dimensions" if self.states else "arrays", self.dimensions),
        ):
            if table:
                lines += ["", title]
                width = max(len(k) for k in table)
                lines += [f"  {k:<{width}}  {v}" for k, v in table.items()]
        if self.structure:
            lines += ["", "expectation"]
            lines += [f"  {step}" for step in self.structure]
        lines += ["", "size"]
        if not self.choices and self.states:  # no list of pairs
            lines += [f"  {self.states:,} states, a choice from an interval at each",
                      f"  {_bytes(self.bytes)} to solve one point"]  # fmt: skip
        elif self.choices:
            how = "recomputed block by block" if self.streams else "kept"
            lines += [
                f"  {self.states:,} states x {self.choices:,} choices = "
                f"{self.states * self.choices:,} pairs",
                f"  {_bytes(self.bytes)} to solve one point (rewards {how})",
                *(f"  {line}" for line in self.sweeps),
            ]
        else:
            lines.append(f"  {_bytes(self.bytes)} to compute one point")
        lines.append(f"  keep: {', '.join(self.outputs)}")
        if self.certifies:
            lines.append(f"  certifies: {self.certifies}")
        return "\n".join(lines)


def describe(model: Any, params: Mapping[str, Any] | None = None) -> Description:
    """Describe a model without solving it.

    Parameters
    ----------
    model : factory, Model, TabularModel or str
        What to describe.
    params : dict, optional
        Parameters and sizes of a factory.

    Raises
    ------
    ModelError
        If the model cannot be built.
    """
    options = SolveOptions()
    if isinstance(model, Model | TabularModel):
        ready = model
        sig = Signature("model", {}, {}, "")

        def factory() -> Any:
            return ready

        values: dict[str, Any] = {}
        sizes: dict[str, Any] = {}
    else:
        factory = as_factory(model)
        sig = signature(factory)
        values, sizes = split(factory, params)
    size, arrays, ahead = look_over(
        factory,
        sizes,
        lambda made: (
            footprint_of(made, factory, sizes, options),
            shapes_of(made),
            outlook_of(made, options),
        ),
    )
    common: dict[str, Any] = {
        "name": sig.name,
        "doc": sig.doc,
        "parameters": values,
        "sizes": sizes,
    }
    if arrays is not None:  # nothing is computed: it could take long
        return Description(
            **common,
            dimensions={name: _array(name, dims, x.shape) for name, (dims, x) in arrays.items()},
            states=0,
            choices=0,
            structure=(),
            bytes=size.bytes,
            streams=False,
            outputs=tuple(arrays),
        )
    made = build(factory, values, sizes)
    common["certifies"] = promise(made)
    if isinstance(made, Model) and made.continuous:
        operator = GridOperator(made.on_grids(), t=None if made.horizon is None else 0, memory=1)
        positions = ("policy_index",) if made.gridded else ()
        ends = ("policy_lower", "policy_upper") if len(made.continuous) == 1 else ()
        return Description(
            **common,
            dimensions=_dimensions(made),
            states=prod(made.shape),
            choices=0,
            structure=tuple(_structure(operator)),
            bytes=size.bytes,
            streams=False,
            outputs=("value", "lower", "upper", "policy", *positions, *ends, *made.outputs),
        )
    if isinstance(made, Model):
        t = None if made.horizon is None else np.int32(0)
        operator = GridOperator(made, t=t, memory=1)
        return Description(
            **common,
            dimensions=_dimensions(made),
            states=prod(made.shape),
            choices=operator.n_choices,
            structure=tuple(_structure(operator)),
            bytes=size.bytes,
            streams=size.streams,
            outputs=("value", "lower", "upper", "policy", "policy_index", *made.outputs),
            sweeps=_sweeps(ahead),
        )
    if isinstance(made, TabularModel):
        form = "product form" if made.state_index is None else f"{len(made.state_index):,} pairs"
        sparse = ", sparse" if isinstance(made.transition, SparseRows) else ""
        return Description(
            **common,
            dimensions={"state": f"state, {made.n_states} values",
                        "action": f"choice, {made.n_actions} values ({form}{sparse})"},
            states=made.n_states,
            choices=made.n_actions,
            structure=(),
            bytes=size.bytes,
            streams=False,
            outputs=("value", "lower", "upper", "policy", "policy_index"),
        )  # fmt: skip
    raise no_model(factory, made)


def _sweeps(ahead: Outlook | None) -> tuple[str, ...]:
    if ahead is None:
        return ()
    lines = [f"rewards {ahead.rewards}", f"maxima {ahead.maxima}"]
    if ahead.warning:
        lines.append("; ".join(filter(None, (f"certified {ahead.warning}", ahead.remedy))))
    return tuple(lines)


def _array(name: str, dims: tuple[str, ...], shape: tuple[int, ...]) -> str:
    if not dims:
        return "a number"
    over = "over " + " x ".join(f"{d} ({n:,})" for d, n in zip(dims, shape, strict=True))
    if dims != tuple(f"{name}_{i}" for i in range(len(dims))):
        return over
    own = "".join(f"'{d}', " for d in "xyz"[: len(dims)]).rstrip()
    return f"{over}; to name what arrays share, return {{'{name}': (({own}), x)}}"


def _dimensions(model: Model) -> dict[str, str]:
    words = {}
    for kind, names in (
        ("state", model.states),
        ("choice", model.choices),
        ("shock", model.shocks),
        ("post variable", model.post),
    ):
        for name in names:
            if name in model.continuous:
                words[name] = f"choice, {_interval(model, name)}"
                continue
            spec = model.grid_of(name)
            values = np.asarray(spec.values)
            what = {Grid: "grid", Markov: "Markov chain", Iid: "iid"}.get(type(spec), "integers")
            shared = model.choices[name] if kind == "choice" else None
            tail = f", the grid of {shared}" if isinstance(shared, str) else ""
            words[name] = (
                f"{kind}, {what}, {spec.size} values from {values[0]:.6g} to {values[-1]:.6g}{tail}"
            )
    return words


def _interval(model: Model, name: str) -> str:
    """Describe the interval that a choice is made from."""
    interval = model.continuous[name]
    low: Any = interval.lo
    high: Any = interval.hi
    if interval.state is not None:
        grid = np.asarray(model.states[interval.state].values)
        low, high = (grid[0] if low is None else low), (grid[-1] if high is None else high)
    ends = ["a function" if callable(end) else f"{float(end):.6g}" for end in (low, high)]
    of = f", the range of {interval.state}" if interval.state is not None else ""
    return f"any number from {ends[0]} to {ends[1]}{of}"


def _structure(operator: GridOperator) -> list[str]:
    lines = [f"over {name} by its chain" for name in operator.expectation.chains]
    for step in operator.expectation.steps:
        post = operator.model.post
        names = ", ".join(n if n in post else f"{n}'" for n in step.states)
        shocks = f", summed over {', '.join(step.shocks)}" if step.shocks else ""
        when = "at each choice" if step.needs_choice else "before the choice is looked at"
        rules = [operator.model.rule_of(n) for n in step.states]
        how = " = ".join([names, *(r for r in rules if isinstance(r, str))][:2])
        over = [p for p in post if any(p in operator.functions.axes_of(r) for r in rules)]
        where = f" at each {', '.join(over)}" if over else ""
        first = "" if all(n in post for n in step.states) else "next "
        lines.append(f"{first}{how}{where}{shocks}, {when}")
    return lines


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
