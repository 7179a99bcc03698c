"""One parameter point in stages, so that many can be solved in rounds: begin, iterate, read off.

:func:`begin_point` looks the model over, :func:`~.loops.iterate` makes a sweep and a step with
the operator of :func:`operator_of`, and :func:`read_point` names what was found: together they are
:func:`~.point.solve_point`. Between stages nothing is remembered but the run and what the operator
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from .cut import Cut
from .cyclic import Cyclic, Turn
from .factory import Factory, build
from .functions import Pairs
from .implicit import gradients_of
from .lattice import Lattice
from .loops import begin, finish
from .operator import BellmanOperator
from .options import SolveOptions
from .outcomes import Outcome
from .point import loop_operator, make_operator, read_model

__all__ = ["begin_point", "operator_of", "read_point"]

Array = Any


def operator_of(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    cut: Cut | None = None,
    kept: Pairs | Turn | None = None,
) -> BellmanOperator:
    """Return the Bellman operator of an infinite-horizon model at one parameter point."""
    return loop_operator(build(factory, values, sizes), options, cut, kept)


def begin_point(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    cut: Cut | None = None,
    start: Array | None = None,
    wanted: Array | bool = True,
) -> tuple[Pairs | Turn | None, Any, Array]:
    """Make ready for the first sweep; a NaN among the parameters ends the run at once.

    Parameters
    ----------
    factory, sizes, options, values, cut
        The point.
    start : array over the states, optional
        A value to start from; one that is not finite everywhere is none.
    wanted : bool
        A point that is not ends at once, before a shortcut is tried.

    Returns
    -------
    kept : Pairs, Turn or None
        What the operator keeps, for :func:`operator_of`.
    run : Run or AverageRun
    started : bool
        Whether `start` was used.
    """
    operator = operator_of(factory, sizes, options, values, cut)
    started = jnp.asarray(False)
    if start is not None:
        started = operator.everywhere.all(jnp.isfinite(start))
        operator.opening = jnp.where(started, start, operator.start())
    live = ~jnp.isnan(jnp.stack([jnp.asarray(v) for v in values.values()] or [0.0])).any()
    run = begin(operator, options, live & wanted)
    kept = operator.kept if isinstance(operator, Lattice | Cyclic) else None
    return None if kept is None else kept.lean(), run, started & live


def read_point(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Mapping[str, Any],
    run: Any,
    cut: Cut | None = None,
    wanted: Array | bool = True,
) -> dict[str, Array]:
    """Name what was found, and work out what follows from it, as ``solve_point`` does.

    A point that is not `wanted` costs next to nothing: it is treated as one that failed.
    """
    made = build(factory, values, sizes)
    operator = make_operator(made, options, cut)
    found = finish(loop_operator(made, options, cut), options, run)
    found = replace(found, code=jnp.where(wanted, found.code, jnp.int32(Outcome.NOT_FINITE)))
    arrays = read_model(made, operator, found, options)
    return gradients_of(factory, sizes, options, values, arrays, cut)
