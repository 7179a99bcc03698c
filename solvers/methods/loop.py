"""Begin, iterate, finish: the loop of the criterion; from one phase of a cycle to all.

:mod:`.discounted`, :mod:`.shortest_path` (a discount of 1) and :mod:`.average` have the same stages
(begin, iterate, finish); the criterion picks one, and :mod:`.choose_operator` the operator. A model
with a cycle is solved at one phase and spread over all at the end, with the bounds (:mod:`.cyclic`
says why that holds). Whoever solves in rounds needs to know no more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.operators.base import BellmanOperator
from dpsolve.solvers.operators.cyclic import CyclicOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

from . import average, discounted, shortest_path
from .average import AverageState, RelativeValue
from .choose_operator import Operators
from .discounted import Fixpoint, SolveState
from .shortest_path import ShortestPathState, undiscounted

Found = Fixpoint | RelativeValue
Run = SolveState | AverageState | ShortestPathState


def solve(operators: Operators, options: SolveOptions, live: Array | bool = True) -> Found:
    """Solve one model at one parameter point, inside a trace."""
    operator = operators.loop
    end: Run = lax.while_loop(
        lambda run: run.running,
        lambda run: iterate(operator, options, run),
        begin(operators, options, live),
    )
    return finish(operator, options, end)


def begin(operators: Operators, options: SolveOptions, live: Array | bool = True) -> Run:
    """Make ready for the first sweep; a point that is not `live` fails at once."""
    if options.criterion == "average":
        return average.begin(operators.loop, live)
    if undiscounted(operators.model, options):
        return shortest_path.begin(operators.loop, live)
    return discounted.begin(operators.loop, options, live, operators.shortcut)


def iterate(operator: BellmanOperator, options: SolveOptions, run: Any) -> Any:
    """Make one sweep, bound what is sought by it, and take a step."""
    if isinstance(run, AverageState):
        return average.iterate(operator, options, run)
    if isinstance(run, ShortestPathState):
        return shortest_path.iterate(operator, options, run)
    return discounted.iterate(operator, options, run)


def finish(operator: BellmanOperator, options: SolveOptions, run: Run) -> Found:
    """Read off what was found, over all states."""
    if isinstance(run, AverageState):
        return average.finish(run)
    if isinstance(run, ShortestPathState):
        return shortest_path.finish(operator, run)
    found = discounted.finish(run)
    if isinstance(operator, CyclicOperator):
        return _expanded(operator, found, options.tol_on_grid)
    return replace(found, policy=operator.settled(found.value, found.policy))


# -- from one phase to all ------------------------------------------------------------------------


def _expanded(operator: CyclicOperator, found: Fixpoint, tol: float) -> Fixpoint:
    """Work out all phases' values, bounds and policies from those of the first."""
    every = _led_into(operator, _turned(operator, (found.value, found.lower, found.upper)))
    value, lower, upper, _ = every
    error = jnp.maximum(largest(upper - value), largest(value - lower))
    error = jnp.where(jnp.isfinite(found.error_bound), error, found.error_bound)
    loose = (found.code == Outcome.SOLVED) & ~(error <= tol)
    axis = list(operator.model.states).index(operator.cycle.state)
    value, lower, upper, policy = (jnp.moveaxis(x, 0, axis) for x in every)
    return replace(
        found,
        value=value,
        lower=lower,
        upper=upper,
        policy=policy,
        error_bound=error,
        code=jnp.where(loose, jnp.int32(Outcome.ROUNDING), found.code),
    )


Phases = tuple[Array, Array, Array, Array]  # value, bounds and policy, phases first


def _turned(operator: CyclicOperator, first: tuple[Array, Array, Array]) -> Phases:
    """Go once through the turn, backwards from value and bounds of its first phase."""
    start, *rest = operator.cycle.turn
    at = jnp.asarray((*reversed(rest), start), jnp.int32)

    def back(ahead: tuple[Array, ...], position: Array) -> tuple[Any, Any]:
        now, policy = _before(operator, ahead, position)
        return now, (*now, policy)

    _, found = lax.scan(back, first, at)
    size = operator.model.size_of(operator.cycle.state)
    value, lower, upper, policy = (
        jnp.zeros((size, *x.shape[1:]), x.dtype).at[at].set(x) for x in found
    )
    # The first phase keeps the loop's own: the policy of the last one is greedy for that.
    value, lower, upper = (
        x.at[start].set(own) for x, own in zip((value, lower, upper), first, strict=True)
    )
    return value, lower, upper, policy


def _led_into(operator: CyclicOperator, every: Phases) -> Phases:
    """Add the phases that lead into the turn, each after the one that it leads to."""
    if not operator.cycle.before:
        return every

    def lead(every: Phases, way: Array) -> tuple[Any, None]:
        position, to = way
        now, policy = _before(operator, tuple(x[to] for x in every[:3]), position)
        new = (*now, policy)
        return tuple(x.at[position].set(y) for x, y in zip(every, new, strict=True)), None

    found: Phases = lax.scan(lead, every, jnp.asarray(operator.cycle.before, jnp.int32))[0]
    return found


def _before(
    operator: CyclicOperator, ahead: tuple[Array, ...], position: Array
) -> tuple[tuple[Array, Array, Array], Array]:
    """Return value, bounds and policy of a phase, given those of the one that follows it."""
    grid_operator = operator.at_phase(position)
    value, lower, upper = ahead
    tv, policy = grid_operator.greedy(value)
    scale = jnp.maximum(largest(jnp.abs(value)), largest(jnp.abs(tv)))
    allowance = grid_operator.depth * EPS * scale
    survey = grid_operator.survey()
    rate = survey.rate
    below, above = rate * largest(value - lower), rate * largest(upper - value)
    low, high = tv - below, tv + above
    if not operator.constant_discount:  # then a step tells more than the largest rate does
        finite = jnp.isfinite(below + above)
        low = jnp.where(finite, grid_operator.greedy(lower)[0], low)
        high = jnp.where(finite, grid_operator.greedy(upper)[0], high)
    return (tv, low - allowance, high + allowance), policy
