"""Which loop solves a model: as its criterion has it.

:mod:`.iteration` and :mod:`.average` have the same stages (begin, iterate, finish); the criterion
picks one, and :mod:`.choose_operator` the operator. A model with a cycle is solved at one phase
(:mod:`.cyclic`) and spread over all at the end. Whoever solves in rounds needs to know no more.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from . import average, iteration
from .average import AverageRun, RelativeValue
from .choose_operator import Operators
from .cyclic import Cyclic, expanded
from .iteration import Fixpoint, Run
from .operator import BellmanOperator
from .options import SolveOptions

__all__ = ["Found", "begin", "finish", "iterate", "solve"]

Array = Any
Found = Fixpoint | RelativeValue


def solve(operators: Operators, options: SolveOptions, live: Array | bool = True) -> Found:
    """Solve one model at one parameter point, inside a trace."""
    operator = operators.loop
    end: Run | AverageRun = lax.while_loop(
        lambda run: run.running,
        lambda run: iterate(operator, options, run),
        begin(operators, options, live),
    )
    return finish(operator, options, end)


def begin(
    operators: Operators, options: SolveOptions, live: Array | bool = True
) -> Run | AverageRun:
    """Make ready for the first sweep; a point that is not `live` fails at once."""
    if options.criterion == "average":
        return average.begin(operators.loop, live)
    return iteration.begin(operators.loop, options, live, operators.shortcut)


def iterate(operator: BellmanOperator, options: SolveOptions, run: Any) -> Any:
    """Make one sweep, bound what is sought by it, and take a step."""
    if isinstance(run, AverageRun):
        return average.iterate(operator, options, run)
    return iteration.iterate(operator, options, run)


def finish(operator: BellmanOperator, options: SolveOptions, run: Run | AverageRun) -> Found:
    """Read off what was found, over all states."""
    if isinstance(run, AverageRun):
        return average.finish(run)
    found = iteration.finish(run)
    return expanded(operator, found, options.tol) if isinstance(operator, Cyclic) else found
