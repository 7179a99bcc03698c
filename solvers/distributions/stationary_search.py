r"""Search for a stationary distribution: rounds of a method and of its certificate.

A round improves the distribution by a method (:mod:`.stationary_methods`, or
:mod:`.stationary_methods` for small chains), clips and normalises it, makes one plain step, and
bounds its L1 distance from the stationary one by the hitting times of its heaviest state
(:mod:`.certificate`), which also prove that there is no other recurrent class. The search ends when
the bound is within ``tol``; otherwise the next round weighs each state's residual as the bound
does. Where no hitting times are found, the links of the chain decide whether there are several
classes (:mod:`.recurrent_classes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.partition import ALONE, Reductions
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.outcomes import Outcome

from .certificate import distance, hitting_times, slack, weights
from .recurrent_classes import LINK, NAMED, period, recurrent_classes
from .stationary_methods import (
    DENSE_MOST,
    Map,
    arnoldi,
    averaged,
    gth,
    gth_error,
    hitting,
    krylov,
    linear,
    matrix_of,
    null,
    plain,
    smoothed,
)

DENSE = ("linear", "null", "gth")
GTH_MOST = 128  # states up to which elimination costs no more than anything else
FIRST = 1e-3  # of tol: the residual to reach before anything is known of the chain
WARM_UP = 30  # plain steps before elimination chooses the state that it ends with
FLOOR = 100 * EPS  # of a residual that can still be reduced
PROGRESS = 0.999  # a round that does not reduce it to this is a vain one
VAIN = 3  # such rounds in a row before giving up
UNPROVEN = 12  # the same while there is no certificate yet


class SearchState(NamedTuple):
    """Where the search stands.

    Attributes
    ----------
    x : array (n,)
        What the method works on; it may have small negative entries.
    mass : array (n,)
        The best distribution so far.
    residual, error : float
        Its L1 residual and certified L1 distance.
    s : int
        The state whose hitting times certify.
    h, delta : array (n,), float
        The hitting times, and their slack.
    decided : bool
        Whether the links have been searched for classes.
    classes : int array (NAMED,)
        A state of each class that was found, else -1.
    cycle : int
        The period; 0 while it is unknown.
    vain : int
        Rounds in a row without progress.
    rounds, made, proving : int
        Rounds, and products for the distribution and for all that is proven of it.
    code : int
        An :class:`~.outcomes.Outcome`.
    """

    x: Array
    mass: Array
    residual: Array
    error: Array
    s: Array
    h: Array
    delta: Array
    decided: Array
    classes: Array
    cycle: Array
    vain: Array
    rounds: Array
    made: Array
    proving: Array
    code: Array


@dataclass(frozen=True)
class _Chain:
    """The chain, and how to go about it."""

    forward: Map
    push: Map
    matrix: Array | None
    method: str
    tol: float
    max_iter: int
    from_start: bool
    over: Reductions


def invariant(
    forward: Map,
    push: Map,
    start: Array,
    code: Array,
    *,
    method: str,
    tol: float,
    max_iter: int,
    from_start: bool,
    over: Reductions = ALONE,
) -> SearchState:
    r"""Search for the invariant distribution, inside a trace.

    Parameters
    ----------
    forward, push : function
        :math:`P f` and :math:`P^\top \mu` on arrays (n,); every row of P has sum one.
    start : array (n,)
        A distribution.
    code : int
        RUNNING, or else nothing is done.
    method, tol, max_iter
        As for :func:`~.stationary_derivatives.stationary_of`.
    from_start : bool
        Whether the long run from the start is wanted where there are several classes.
    over : Reductions
        Reductions over all states, of which arrays may hold a part.
    """
    n = start.shape[0]
    if method == "auto" and n <= DENSE_MOST and not from_start and over == ALONE:
        method = "gth" if n <= GTH_MOST else "direct"
    zero, infinite = jnp.int32(0), jnp.asarray(jnp.inf)
    x, made, matrix = start, zero, None
    if method in (*DENSE, "direct"):
        matrix = matrix_of(forward, n)
        forward, push = partial(jnp.matmul, matrix), partial(jnp.matmul, matrix.T)
        x, made = smoothed(push, start, WARM_UP)
        made = made + n
    begin = SearchState(
        x=x,
        mass=start,
        residual=infinite,
        error=infinite,
        s=over.argmax(x),
        h=jnp.zeros(n),
        delta=-infinite,
        decided=jnp.asarray(False),
        classes=jnp.full(NAMED, -1, jnp.int32),
        cycle=zero,
        vain=zero,
        rounds=zero,
        made=made,
        proving=zero,
        code=code,
    )
    chain = _Chain(forward, push, matrix, method, tol, max_iter, from_start, over)
    end: SearchState = lax.while_loop(
        lambda c: c.code == Outcome.RUNNING, partial(_round, chain), begin
    )
    none = end.code == Outcome.NOT_PROBABILITIES
    if not from_start or matrix is not None:
        none |= end.code == Outcome.SEVERAL_CLASSES
    nan = jnp.asarray(jnp.nan)
    return end._replace(
        mass=jnp.where(none, nan, end.mass),
        residual=jnp.where(none, nan, end.residual),
        error=jnp.where(none, nan, end.error),
    )


def _round(chain: _Chain, c: SearchState) -> SearchState:
    over = chain.over
    certain = c.delta > 0.0
    weight = jnp.where(certain, weights(c.s, c.h, c.delta, over), 1.0)
    goal = jnp.where(certain, 0.5, FIRST) * chain.tol
    goal = jnp.maximum(goal, EPS * over.sum(weight * jnp.abs(c.x)))  # less is only rounding
    x, made = _better(chain, c, weight, goal)
    mass = jnp.maximum(x, 0.0)
    mass = chain.push(mass / over.sum(mass))
    moved = chain.push(mass)
    residual = over.sum(jnp.abs(moved - mass))
    c = _certified(chain, c, mass, residual)
    error = distance(mass, moved, c.s, c.h, c.delta, over)
    if chain.method in ("gth", "direct"):
        # Elimination has a bound of its own, once it is known that there is one class.
        sound = jnp.isfinite(residual) & over.all(jnp.isfinite(mass))
        proven = (c.cycle > 0) & sound & _eliminates(chain, c)
        error = jnp.where(proven, jnp.minimum(error, gth_error(mass.shape[0])), error)
    return _judge(chain, c._replace(x=x, made=c.made + made + 2), mass, residual, error, goal)


def _eliminates(chain: _Chain, c: SearchState) -> Array:
    return jnp.asarray(chain.method == "gth") | (c.rounds > 0)


def _better(chain: _Chain, c: SearchState, weight: Array, goal: Array) -> tuple[Array, Array]:
    """Improve the distribution by the method; return it and the products made."""
    push, n, over = chain.push, c.x.shape[0], chain.over
    zero = jnp.int32(0)
    if chain.matrix is not None:
        if chain.method == "null":
            return null(chain.matrix), zero
        if chain.method == "linear":
            return linear(chain.matrix), zero
        wanted = _eliminates(chain, c)
        x = gth(chain.matrix, c.s, wanted)
        return (x if chain.method == "gth" else jnp.where(wanted, x, linear(chain.matrix))), zero
    budget = jnp.maximum(chain.max_iter - c.made, 0)
    if chain.method == "plain":
        return plain(push, n, over)(c.x, weight, goal, budget)
    x = averaged(push, c.x, c.cycle)
    turns = jnp.maximum(c.cycle - 1, 0)
    if chain.method == "arnoldi":
        x, made = arnoldi(push, n, over)(x, weight, goal, budget)
        return x, made + turns
    other = c.vain > 0
    x, made = krylov(push, n, over)(x, weight, goal, jnp.where(other, 0, budget))
    if chain.method == "auto":
        x, more = arnoldi(push, n, over)(x, weight, goal, jnp.where(other, budget, 0))
        made = made + more
    return x, made + turns


def _certified(chain: _Chain, c: SearchState, mass: Array, residual: Array) -> SearchState:
    """Look for hitting times; failing that, let the links decide; and find the period."""
    forward, push, n, over = chain.forward, chain.push, mass.shape[0], chain.over
    certain = c.delta > 0.0  # once found it stays, for it is about the chain
    keep = certain | c.decided | ~jnp.isfinite(residual)
    s = jnp.where(keep, c.s, over.argmax(mass))
    if chain.matrix is not None:
        h, proving = jnp.maximum(hitting(chain.matrix, s), 0.0), jnp.int32(1)
        delta = slack(forward, s, h)
    else:
        start = jnp.where((s == c.s) & jnp.isfinite(c.h), c.h, 0.0)
        several = c.classes[1] >= 0
        h, delta, proving = hitting_times(forward, s, start, ~certain & ~several, over)
    h, delta = jnp.where(certain, c.h, h), jnp.where(certain, c.delta, delta)

    undecided = ~(delta > 0.0) & ~c.decided
    found = recurrent_classes(forward, push, n, s, undecided, over)
    classes = jnp.where(undecided, found.states, c.classes)
    decided = c.decided | undecided
    s = jnp.where(undecided, found.states[0], s)

    unknown = (c.cycle == 0) & ((delta > 0.0) | (decided & (classes[1] < 0)))
    stays = over.entry(forward((over.numbers(n) == s).astype(jnp.float64)), s) > LINK
    cycle, more = period(push, n, s, unknown & ~stays, over)
    return c._replace(
        s=s,
        h=h,
        delta=delta,
        decided=decided,
        classes=classes,
        cycle=jnp.where(unknown, cycle, c.cycle).astype(jnp.int32),
        proving=c.proving + proving + found.applications + more + 1,
    )


def _judge(
    chain: _Chain, c: SearchState, mass: Array, residual: Array, error: Array, goal: Array
) -> SearchState:
    """Keep the better distribution, and decide whether the search ends."""
    better = (error < c.error) | ((error == c.error) & (residual <= c.residual))
    # A residual of a few units in the last place goes up and down, and means nothing.
    progress = (residual < PROGRESS * c.residual) & (residual > FLOOR)
    progress |= error < 0.9 * c.error
    vain = jnp.where(progress, 0, c.vain + 1).astype(jnp.int32)
    several = c.classes[1] >= 0
    limit = jnp.where((c.delta > 0.0) | several, VAIN, UNPROVEN)
    loose = (vain >= limit) | (c.made >= chain.max_iter)
    settled = jnp.asarray(True)
    if chain.matrix is not None:
        loose |= (vain > 0) & (c.rounds > 0)  # direct methods only repeat themselves
    elif chain.from_start:
        settled = (residual <= goal) | loose
    code = jnp.where(loose, jnp.int32(Outcome.DISTRIBUTION_LOOSE), c.code)
    code = jnp.where(error <= chain.tol, jnp.int32(Outcome.SOLVED), code)
    code = jnp.where(several & settled, jnp.int32(Outcome.SEVERAL_CLASSES), code)
    return c._replace(
        mass=jnp.where(better, mass, c.mass),
        residual=jnp.where(better, residual, c.residual),
        error=jnp.where(better, error, c.error),
        vain=vain,
        rounds=c.rounds + 1,
        code=code,
    )
