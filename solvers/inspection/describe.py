"""``dp.describe``: states, choices, sizes and structure of a model, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.array_factory import no_model, shapes_of
from dpsolve.solvers.model.factory_signature import Signature, build, look_over, signature, split
from dpsolve.solvers.model.grids import Grid, Interval
from dpsolve.solvers.model.mdp import SparseRows, TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import shown
from dpsolve.solvers.probability.iid import Iid
from dpsolve.solvers.probability.markov import Markov

from .choice_search import choices_found_by
from .concavity import promise_at
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
        Numbers of states and of choices that are listed; a continuous one does not count.
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
    continuous : tuple of str
        Choices that are made from an interval.
    certifies : str
        What a solution's bounds will be of.
    choices_by : str
        How continuous choices are found.
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
    continuous: tuple[str, ...] = ()
    certifies: str = ""
    choices_by: str = ""

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose."""
        return "policy" in self.outputs

    def __str__(self) -> str:
        lines = [self.name]
        if self.doc:
            lines += ["  " + line if line else "" for line in self.doc.splitlines()]
        for title, table in (
            ("parameters (can be swept, batched, differentiated)", self.parameters),
            ("sizes (static: a new value compiles anew)", self.sizes),
            ("dimensions" if self.choices else "arrays", self.dimensions),
        ):
            if table:
                lines += ["", title]
                width = max(len(k) for k in table)
                lines += [f"  {k:<{width}}  {shown(v)}" for k, v in table.items()]
        if self.structure:
            lines += ["", "expectation"]
            lines += [f"  {step}" for step in self.structure]
        lines += ["", "size"]
        if self.continuous:
            times = f" x {self.choices:,} choices" if self.choices > 1 else ""
            found = " and ".join(self.continuous)
            lines += [
                f"  {self.states:,} states{times}, {found} found at each (continuous: no pairs)",
                f"  choices are found by {self.choices_by}",
                f"  {_bytes(self.bytes)} to solve one point",
            ]
        elif self.choices:
            how = "recomputed block by block" if self.streams else "kept"
            pairs = f" x {self.choices:,} choices = {self.states * self.choices:,} pairs"
            lines += [
                f"  {self.states:,} states{pairs if self.chooses else ', and nothing to choose'}",
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
    common["certifies"] = promise_at(made, factory, sizes, values)
    if isinstance(made, Model):
        t = None if made.horizon is None else np.int32(0)
        operator = GridOperator(made.on_grids(), t=t, memory=1)
        index = ("policy_index",) if made.gridded else ()
        policy = ("policy",) if made.choices else ()
        return Description(
            **common,
            dimensions=_dimensions(made),
            states=prod(made.shape),
            choices=size.choices,
            structure=tuple(_structure(operator)),
            bytes=size.bytes,
            streams=size.streams,
            outputs=("value", "lower", "upper", *policy, *index, *_ends(made), *made.outputs),
            sweeps=_sweeps(ahead),
            continuous=tuple(made.continuous),
            choices_by=choices_found_by(made),
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
                words[name] = f"choice, {_range(model, model.continuous[name])} (continuous)"
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


def _ends(made: Model) -> tuple[str, ...]:
    """Return the names of the ends between which the one continuous choice lies."""
    return ("policy_lower", "policy_upper") if len(made.continuous) == 1 else ()


def _range(model: Model, interval: Interval) -> str:
    """Say what a continuous choice is made from."""
    time = () if model.horizon is None else ("t",)
    known = (*model.states, *model.choices, *time)

    def shown(end: Any) -> str:
        if not callable(end):
            return f"{float(end):.6g}"
        named = arguments(end, known)
        return f"a function of {', '.join(named)}" if named else "a number"

    if interval.state is None:
        return f"anything from {shown(interval.lo)} to {shown(interval.hi)}"
    ends = (("from", interval.lo), ("to", interval.hi))
    cut = [f" {which} {shown(end)}" for which, end in ends if end is not None]
    return f"any of the range of {interval.state}" + "".join(cut)


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
