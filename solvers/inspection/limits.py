"""Sizes that cannot work, refused before anything is compiled: by memory, and by time.

A model of 10^8 states does not fit a laptop, and the kernel ends the process without a word. One
whose last sweep, which certifies, looks at 10^14 pairs of a state and a choice would take days.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod

import jax

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.notices import in_words, tell
from dpsolve.solvers.numerics.memory import VECTORS, machine_memory, round_down, shown_bytes
from dpsolve.solvers.options import SolveOptions

PAIR = 1.25e-9
"""Seconds a pair, of a reward with a logarithm and an exponential: measured on two cores, at 10^10
pairs of savings (docs/performance.md, certificates)."""

LONG = 20.0
"""Seconds of one full sweep of one point that are told before they pass."""

MOST_SECONDS = 86_400.0
"""Of one full sweep of one point: longer ones are refused."""


def check_model(made: object, options: SolveOptions, name: str, beside: int = 0) -> None:
    """Refuse a model that one device of this process cannot solve, by counting alone.

    Parameters
    ----------
    made : Model, or anything else, which is passed over
    options : SolveOptions
    name : str
        The model's.
    beside : int
        Bytes of what is asked for beside the value.

    Raises
    ------
    UsageError
        With the bytes or the time, and the nearest size that would do.
    """
    if not isinstance(made, Model):
        return
    states = {state: spec.size for state, spec in made.states.items()}
    vectors = arrays_of_a_solve(made)
    needs, has = 8 * vectors * prod(states.values()) + beside, memory_of_a_device()
    if needs > has:
        asked = f", {shown_bytes(beside)} of it for what is asked for beside the value" * (
            beside > needs // 2
        )
        raise UsageError(
            f"{name} has {prod(states.values()):,} states, and a solve holds {vectors:,} arrays "
            f"over them and more: {shown_bytes(needs)}{asked}, where there are "
            f"{shown_bytes(has)}. {nearest(states, has / needs)}"
        )
    if made.continuous:  # no pairs are looked at
        return
    choices = prod(made.grid_of(choice).size for choice in made.choices)
    check_time(states, choices, options, name)


CONTINUOUS = 20
"""Arrays over states, and over states and what can follow them, of a solve with intervals."""

TESTED = 2 * 2**20
"""Bytes of the tests of what such a solve assumes, whatever the number of states."""


def arrays_of_a_solve(model: Model) -> int:
    """Return how many arrays over the states a solve holds, beside those over pairs.

    With a continuous choice there are no pairs; positions are held where the next state can lie, at
    the corners of a cell for each draw of the shocks that move it, once for each of the choices
    that are listed beside.
    """
    periods = model.horizon or 0
    if not model.continuous:
        return VECTORS + 6 * periods
    rules = [model.rule_of(n) for n in (*model.transition, *model.post)]
    moved = {w for rule in rules if callable(rule) for w in arguments(rule, model.shocks)}
    corners: int = 2 ** sum(isinstance(spec, Grid) for spec in model.states.values())
    positions = corners * prod(model.size_of(w) for w in moved)
    listed = prod(model.size_of(choice) for choice in model.gridded)
    kept = 6 + 3 * len(model.choices) + len(model.outputs)  # value and bounds, policies, outputs
    return CONTINUOUS * (1 + positions) * listed + kept * periods


def check_time(states: Mapping[str, int], choices: int, options: SolveOptions, name: str) -> None:
    """Refuse a model whose certificate takes more than a day to find on this machine's CPU.

    One that takes a while is told.

    Parameters
    ----------
    states : dict of str to int
        Sizes of the states.
    choices : int
        Joint choices.
    options : SolveOptions
    name : str
        The model's.

    Raises
    ------
    UsageError
        With the time, and the nearest size that would do.
    """
    pairs = prod(states.values()) * choices
    seconds = pairs * PAIR * 2 / max(os.cpu_count() or 2, 2)
    if options.certificate == "sampled" or _accelerated():
        return
    if seconds <= MOST_SECONDS:
        if seconds >= LONG:
            tell(f"certifying {name} looks at {pairs:,} pairs, about {in_words(seconds)} a point")
        return
    longest = max(states.values(), default=1)
    share = MOST_SECONDS / seconds
    raise UsageError(
        f"{name} has {prod(states.values()):,} states and {choices:,} choices: one full sweep, "
        f"which certifies, looks at {pairs:,} pairs and takes about {seconds / 86_400:,.0f} days "
        f"on this machine. {nearest(states, share**0.5 if choices >= longest else share)} "
        'certificate = "sampled" does without that sweep, and certifies nothing'
    )


def nearest(states: Mapping[str, int], share: float) -> str:
    """Say how long the longest axis may be, where a share of its points is possible."""
    longest = max(states, key=lambda name: states[name])
    most = round_down(states[longest] * share)
    return f"About {most:,} points of {longest} would do, in place of {states[longest]:,}."


def memory_of_a_device() -> int:
    """Return the bytes that one solve can take: an accelerator's, or the machine's."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return int(limit) if limit else machine_memory()


def _accelerated() -> bool:
    return bool(jax.local_devices()[0].platform != "cpu")
