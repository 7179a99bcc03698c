r"""Warm starts: a first guess from neighbouring points' values, and when it is dropped.

Points of a sweep that lie next to each other have values that lie next to each other. So a solve
may begin from the value that was found at the point before, :math:`v_1`, or, where the parameters
went on in the same direction by :math:`h` times the step before, from
:math:`v_1 + h\,(v_1 - v_2)`: the secant through the last two, whose distance from the truth is of
second order in the step.

Nothing hangs on it but time. The bounds of a point come from its own last sweep, wherever that
began (:mod:`.bounds`). A start that is not finite, because a neighbour failed, is none. A start
that is bad, because parameters jumped, is found out by its first sweep: unless that certifies a
good deal less error than the first sweep of a cold start did in the same lane, the point begins
again, cold, and has lost that one sweep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.operators.base import BellmanOperator

from .discounted import SolveState, finish, resume

WORTH = 0.5  # of a cold start's first certified error, above which a start is dropped


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LaneMemory:
    """What a lane remembers beside its last run.

    Attributes
    ----------
    before : array (states...)
        The value of the point before the last one.
    cold : float
        Certified error after the first sweep of the latest cold start; infinite while one is due.
    warm : bool
        Whether the run under way began from a neighbour.
    """

    before: Array
    cold: Array
    warm: Array


def reached(run: SolveState, lane_memory: LaneMemory, reach: Array) -> Array:
    """Return the value (states...) to start from, NaN where there is none.

    Parameters
    ----------
    run : SolveState
        Of the point before, which is done.
    lane_memory : LaneMemory
    reach : float
        The step to the new point, as a multiple of the step before: 0 takes the last value as it
        is, and NaN asks for a cold start.
    """
    last = finish(run).value
    ahead = jnp.where(reach > 0.0, reach, 0.0) * (last - lane_memory.before)
    return jnp.where(jnp.isnan(reach), jnp.nan, last + jnp.where(jnp.isfinite(ahead), ahead, 0.0))


def remembered(run: SolveState, lane_memory: LaneMemory | None, warm: Array) -> LaneMemory:
    """Return what a lane remembers when its next point begins; of no past, that it has none."""
    value = finish(run).value
    cold = jnp.asarray(jnp.inf) if lane_memory is None else lane_memory.cold
    return LaneMemory(value, jnp.where(warm, cold, jnp.inf), warm)


def judge(
    operator: BellmanOperator, run: SolveState, lane_memory: LaneMemory
) -> tuple[SolveState, LaneMemory]:
    """Look at a sweep that was just made, and drop the start if it was the first and did not pay.

    After a shortcut the first full sweep is not a run's first, and nothing is dropped.
    """
    error = run.state.bounds.error
    first = run.sweeps == 1
    dropped = lane_memory.warm & first & run.running & ~(error <= WORTH * lane_memory.cold)

    def again() -> SolveState:
        anew = resume(operator, run.rates, operator.start())
        return replace(anew, state=replace(anew.state, k=run.state.k))

    due = ~lane_memory.warm & ~jnp.isfinite(lane_memory.cold)
    cold = jnp.where(dropped, jnp.inf, jnp.where(due, error, lane_memory.cold))
    return (
        lax.cond(dropped, again, lambda: run),
        replace(lane_memory, cold=cold, warm=lane_memory.warm & ~dropped),
    )
