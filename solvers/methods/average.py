r"""Average reward per period: relative value iteration, and bounds on the gain.

Without discounting, what counts is the *gain* :math:`g^*(s)`, the largest long-run average reward
from a state. Let :math:`T` be the Bellman operator at discount 1 and :math:`d = Tv - v` for any
:math:`v` whatever. Then, for every state and whatever classes the chains have
(Puterman 1994, *Markov Decision Processes*, ch. 8 and 9; Odoni 1969),

.. math:: \min_s d(s) \;\le\; g^*(s) \;\le\; \max_s d(s).

Proof. With :math:`\pi` greedy for :math:`v`, :math:`r_\pi + P_\pi v = v + d \ge v + \min d`.
Applied :math:`n` times, :math:`\sum_{k<n} P_\pi^k r_\pi + P_\pi^n v \ge v + n \min d`; divided by
:math:`n`, :math:`v` being bounded, the average reward of :math:`\pi` is at least :math:`\min d`.
And :math:`r_c + P_c v \le v + \max d` for every choice :math:`c`, so that over :math:`n` periods no
plan, however it depends on the past, earns more than :math:`n \max d` and the range of :math:`v`.

So a sweep certifies the gain wherever :math:`v` came from: the error is half the span of
:math:`d`, widened by the rounding of :math:`Tv` (``depth * eps * scale``); the model meant is that
with rows divided by their sums. :math:`v` is a *relative* value, 0 at the first state. It has no
bounds: only its differences mean something, and those of several recurrent classes not even that.

Steps, from the greedy policy :math:`\pi` of a sweep:

* ``vi``, relative value iteration: :math:`v + \tau d`, less its value at the first state. Damping
  (:math:`\tau = 1/2` wherever undamped sweeps do not pay) makes periodic chains aperiodic without
  moving the gain (Schweitzer 1971).
* ``opi``: some such steps of the policy alone.
* ``pi``, policy iteration: :math:`x - P_\pi x + \bar x 1 = r_\pi` by BiCGSTAB, :math:`\bar x` the
  mean over the states. With one recurrent class its solution is unique; multiply by the stationary
  distribution: :math:`\bar x` is the policy's gain, and :math:`(I - P_\pi) x = r_\pi - \bar x`.
* ``auto`` goes on with ``vi`` while few sweeps are left at the measured rate, else takes ``pi``.

A policy with several recurrent classes has no such solution. Where a step of ``pi`` or ``opi``
raises neither end of the bounds, the loop goes back to the best value so far and on with ``vi``,
each time for twice as long. Where the span has stopped falling and :math:`P_\pi d = d`, but for a
millionth of the span, :math:`d` is the policy's gain by state: it differs, and the loop says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.krylov import bicgstab, richardson
from dpsolve.solvers.numerics.partition import Reductions
from dpsolve.solvers.numerics.tracing import EPS, TINY
from dpsolve.solvers.operators.base import BellmanOperator, PolicyOperator, Survey
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

from .stopping import LoopState, first_fault, nearly_done, share_left, stuck, unsound, verdict

GAINS = ("gain", "gain_lower", "gain_upper")
PATIENCE = 4  # sweeps of value iteration after the first step that did not pay
PAYS = 0.9  # an undamped sweep that leaves more of the span than that is followed by a damped one
DAMPED = 0.5
STALE = 200  # sweeps without a fall of the span by FALL, after which the gain may well differ
FALL = 1e-3
HARMONIC = 1e-6  # of the span: what a period may still change of a gain that differs by state


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RelativeValue:
    """What the loop found.

    Attributes
    ----------
    value : array (states...)
        Relative value, 0 at the first state.
    policy : int32 array (states...)
        Greedy policy of `value`; its own gain lies within the bounds, too.
    gain, gain_lower, gain_upper : float
        The gain and its certified bounds, which hold from every state.
    residual, error_bound : float
        Half the span of ``Tv - v``; the certified error of the gain.
    iterations, code : int
        As in :class:`.Fixpoint`.
    """

    value: Array
    policy: Array
    gain: Array
    gain_lower: Array
    gain_upper: Array
    residual: Array
    error_bound: Array
    iterations: Array
    code: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    v: Array
    swept: Array  # the value that the last sweep looked at
    safe: Array  # a step of value iteration from the best value so far
    policy: Array
    low: Array
    high: Array
    error: Array
    best: Array  # smallest error so far
    best_low: Array  # largest lower bound so far
    mark: Array  # the error that `stale` counts from
    stale: Array
    plain: Array  # whether the last step was one of value iteration
    penalty: Array  # sweeps of value iteration left
    patience: Array  # how many the next step that does not pay will cost
    k: Array
    code: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AverageState(LoopState):
    """A solve under way, as :class:`.Run` is for a discounted one.

    Attributes
    ----------
    state : pytree
        The last sweep and what the loop remembers.
    magnitude : float
        Of the survey; infinite if the weights of next states are no probabilities.
    """

    state: _State
    magnitude: Array


def begin(operator: BellmanOperator, live: Array | bool = True) -> AverageState:
    """Look the model over and make ready for the first sweep; a point that is not `live` fails."""
    survey = operator.survey()
    infinite, start = jnp.asarray(jnp.inf), operator.start()
    state = _State(
        v=start,
        swept=start,
        safe=start,
        policy=jnp.zeros(operator.shape, jnp.int32),
        low=-infinite,
        high=infinite,
        error=infinite,
        best=infinite,
        best_low=-infinite,
        mark=infinite,
        stale=jnp.int32(0),
        plain=jnp.asarray(True),
        penalty=jnp.int32(0),
        patience=jnp.int32(PATIENCE),
        k=jnp.int32(0),
        code=jnp.where(live, _fault(survey), jnp.int32(Outcome.NOT_FINITE)),
    )
    return AverageState(state, jnp.where(survey.monotone, survey.magnitude, jnp.inf))


def _fault(survey: Survey) -> Array:
    """Return the first thing that makes a solution meaningless, else RUNNING."""
    code = first_fault(survey, None)
    undiscounted = (survey.discount_low == 1.0) & (survey.discount_high == 1.0)
    wrong = (code == Outcome.RUNNING) & ~undiscounted
    return jnp.where(wrong, jnp.int32(Outcome.DISCOUNTED), code)


def iterate(operator: BellmanOperator, options: SolveOptions, run: AverageState) -> AverageState:
    """Make one sweep, bound the gain by it, and take a step."""
    return replace(run, state=_iterate(operator, run.magnitude, options, run.state))


def _iterate(
    operator: BellmanOperator, magnitude: Array, options: SolveOptions, s: _State
) -> _State:
    over = operator.reductions
    tv, policy = operator.greedy(s.v)
    low, high, rounding = _bounds(s.v, tv, operator.depth, magnitude, over)
    error = (high - low) / 2
    fell = error < (1.0 - FALL) * s.mark
    stale = jnp.where(fell, 0, s.stale + 1).astype(jnp.int32)
    k = s.k + 1
    settled = lax.cond(
        stale >= STALE, lambda: _settled(operator, policy, tv - s.v), lambda: jnp.asarray(False)
    )
    running = jnp.int32(Outcome.RUNNING)
    given_up = jnp.where(settled, stuck(error, rounding, Outcome.GAIN_DIFFERS), running)
    given_up = jnp.where(jnp.isfinite(magnitude), given_up, jnp.int32(Outcome.NO_CERTIFICATE))
    code = verdict(error, k, given_up, unsound(s.v, tv, over), options)

    # A plain step, from here or from the best value so far.
    ratio = error / s.error
    damping = jnp.where(s.plain & (ratio > PAYS), DAMPED, 1.0)
    plain = _relative(s.v + damping * (tv - s.v), over)
    safe = jnp.where(error < s.best, plain, s.safe)
    pays = (error < s.best) | (low > s.best_low + FALL * s.best)
    lost = ~s.plain & ~pays
    start = jnp.where(lost, safe, plain)

    daring = (code == Outcome.RUNNING) & ~lost & (s.penalty == 0)
    daring &= _wants(options, s, error, ratio)
    changed = over.mean((policy != s.policy).astype(jnp.float64))
    v, paid = _step(operator, policy, start, (low + high) / 2, error, changed, daring, options)
    lost |= daring & ~paid
    penalty = jnp.where(lost, s.patience, jnp.maximum(s.penalty - 1, 0))
    return _State(
        v=v,
        swept=s.v,
        safe=safe,
        policy=policy,
        low=low,
        high=high,
        error=error,
        best=jnp.minimum(s.best, error),
        best_low=jnp.maximum(s.best_low, low),
        mark=jnp.where(fell, error, s.mark),
        stale=stale,
        plain=~daring | ~paid,
        penalty=penalty.astype(jnp.int32),
        patience=jnp.where(lost, jnp.minimum(2 * s.patience, 1_000_000), s.patience),
        k=k,
        code=code,
    )


def _bounds(
    v: Array, tv: Array, depth: int, magnitude: Array, over: Reductions
) -> tuple[Array, Array, Array]:
    """Bound the gain by what one sweep did to `v`; also return the allowance for rounding."""
    change = tv - v
    scale = over.max(jnp.maximum(jnp.abs(v), jnp.abs(tv))) + magnitude
    # The difference is rounded once more than Tv.
    rounding = (depth + 2) * (EPS * scale + 2 * TINY)
    return over.min(change) - rounding, over.max(change) + rounding, rounding


def _relative(v: Array, over: Reductions) -> Array:
    """Move a value to 0 at the first state."""
    return v - over.entry(v.ravel(), jnp.int32(0))


def _settled(operator: BellmanOperator, policy: Array, change: Array) -> Array:
    """Tell whether what a sweep changes is the same a period later."""
    over = operator.reductions
    later = over.max(jnp.abs(operator.at(policy).expect(change) - change))
    scale = jnp.maximum(over.max(jnp.abs(change)), 1.0)
    close = later <= HARMONIC * (over.max(change) - over.min(change)) + 1e-12 * scale
    return close & jnp.isfinite(later)


def _wants(options: SolveOptions, s: _State, error: Array, ratio: Array) -> Array:
    """Tell whether the method takes another step than value iteration's, if it may."""
    if options.method == "vi":
        return jnp.asarray(False)
    if options.method != "auto":
        return jnp.asarray(True)
    return ~nearly_done(error, ratio, s.plain, s.k, options.tol_on_grid)


def _step(
    operator: BellmanOperator,
    policy: Array,
    start: Array,
    gain: Array,
    error: Array,
    changed: Array,
    daring: Array,
    options: SolveOptions,
) -> tuple[Array, Array]:
    """Evaluate the greedy policy if it is to be; also tell whether that came to anything."""
    if options.method == "vi":
        return start, jnp.asarray(True)
    over, fixed = operator.reductions, operator.at(policy)
    if options.method == "opi":
        steps = jnp.where(daring, jnp.int32(options.steps), 0)
        found = richardson(
            lambda x: DAMPED * (x + fixed.expect(x)), DAMPED * (fixed.reward - gain), start, steps
        )
        return _relative(found, over), jnp.asarray(True)
    aim = jnp.maximum(0.3 * options.tol_on_grid, share_left(changed) * error)
    most = jnp.where(daring, jnp.int32(options.inner_iter), 0)
    found, paid = _evaluate(fixed, start - over.mean(start) + gain, aim, most, over)
    found = _relative(found, over)
    paid &= over.all(jnp.isfinite(found))
    return jnp.where(daring & paid, found, start), paid


def _evaluate(
    fixed: PolicyOperator, start: Array, aim: Array, most: Array, over: Reductions
) -> tuple[Array, Array]:
    """Solve ``x - P x + mean(x) = r``; also tell whether the residual was at least halved."""

    def apply(x: Array) -> Array:
        return fixed.expect(x) - over.mean(x)

    def residual(x: Array) -> Array:
        return over.max(jnp.abs(fixed.reward - x + apply(x)))

    x, _ = bicgstab(apply, fixed.reward, start, aim, most, over)
    before, after = residual(start), residual(x)
    return x, jnp.isfinite(after) & ((after <= aim) | (after <= 0.5 * before))


def finish(run: AverageState) -> RelativeValue:
    """Read relative value and gain off the last sweep; a failed point holds NaN."""
    s = run.state
    failed = s.code >= 10

    def told(x: Array) -> Array:
        return jnp.where(failed, jnp.nan, x)

    return RelativeValue(
        value=told(s.swept),
        policy=s.policy,
        gain=told(jnp.where(jnp.isfinite(s.error), (s.low + s.high) / 2, 0.0)),
        gain_lower=told(s.low),
        gain_upper=told(s.high),
        residual=told(s.error),
        error_bound=told(s.error),
        iterations=s.k,
        code=s.code,
    )
