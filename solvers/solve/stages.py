"""One parameter point in stages, so that many can be solved in rounds: begin, iterate, read off.

:func:`begin_point` looks the model over, :func:`~.loop.iterate` makes a sweep and a step with the
loop's operator, and :func:`read_point` names what was found: together they are
:func:`~.point.solve_point`. Between stages nothing is remembered but the run and what the operator
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from dpsolve.solvers.methods.loop import begin, finish
from dpsolve.solvers.operators.bellman import Lattice
from dpsolve.solvers.operators.choose_operator import Operators
from dpsolve.solvers.operators.cyclic import Cyclic, Turn
from dpsolve.solvers.operators.model_functions import Pairs
from dpsolve.solvers.outcomes import Outcome

from .point import is_live, read_model

Array = Any


def begin_point(
    operators: Operators,
    values: Mapping[str, Any],
    start: Array | None = None,
    wanted: Array | bool = True,
) -> tuple[Pairs | Turn | None, Any, Array]:
    """Make ready for the first sweep; a NaN among the parameters ends the run at once.

    Parameters
    ----------
    operators : Operators
        Of the point's model, which has no horizon.
    values : mapping
        The point's parameters.
    start : array over the states, optional
        A value to start from; one that is not finite everywhere is none.
    wanted : bool
        A point that is not ends at once, before a shortcut is tried.

    Returns
    -------
    kept : Pairs, Turn or None
        What the operator keeps, so that another of the same model need not find it again.
    run : Run or AverageRun
    started : bool
        Whether `start` was used.
    """
    operator = operators.loop
    started = jnp.asarray(False)
    if start is not None:
        started = operator.everywhere.all(jnp.isfinite(start))
        operator.opening = jnp.where(started, start, operator.start())
    live = is_live(values)
    run = begin(operators, operators.options, live & wanted)
    kept = operator.kept if isinstance(operator, Lattice | Cyclic) else None
    return None if kept is None else kept.lean(), run, started & live


def read_point(operators: Operators, run: Any, wanted: Array | bool = True) -> dict[str, Array]:
    """Name what was found, and work out what follows from it, as ``solve_point`` does.

    A point that is not `wanted` costs next to nothing: it is treated as one that failed. Gradients
    are added by :func:`~.gradients.gradients_of`.
    """
    found = finish(operators.loop, operators.options, run)
    found = replace(found, code=jnp.where(wanted, found.code, jnp.int32(Outcome.NOT_FINITE)))
    return read_model(operators, found)
