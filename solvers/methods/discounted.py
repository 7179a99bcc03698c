r"""Value, optimistic and Howard policy iteration, in one certified loop.

Every iteration makes one sweep :math:`Tv` and bounds the true value by it (:mod:`.bounds`). If the
certified error is within ``tol`` the loop ends, with the bounds of that very sweep. Otherwise the
next :math:`v` comes from a step, and all methods are the same loop with another step from the
greedy policy :math:`\pi`:

* ``vi``, value iteration: :math:`Tv`, moved to the middle of its bounds.
* ``opi``, optimistic (modified) policy iteration (Puterman and Shin 1978): :math:`T_\pi^m` of that.
* ``pi``, Howard's policy iteration: the policy's own value, by BiCGSTAB started there (by path
  doubling where transitions are deterministic), to a tolerance that follows the residual down
  (inexact policy iteration; Gargiani et al. 2024).
* ``auto`` begins with ``vi`` and measures how fast the certified error falls. While the sweeps left
  at that rate are few it goes on; else it takes steps of ``pi``.

Where a constant is damped by one discount factor, values are kept as a constant and what is above
it (:mod:`.bounds` says why): sweeps and steps are made of the latter alone.

A Krylov step that does not reduce the certified error is a strike. After three of them, or one that
used up its iterations and gained little, the loop falls back to ``opi`` for a while, which
converges from anywhere. It ends without reaching ``tol`` when the largest number of sweeps is
reached, or when the certified error has stopped falling; it says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.krylov import richardson
from dpsolve.solvers.operators.base import BellmanOperator, Shortcut
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

from .bounds import Bounds, Modulus, bounds, modulus
from .stopping import LoopState, first_fault, nearly_done, share_left, stuck, unsound, verdict

STALE = 60  # sweeps without a new smallest certified error, after which the loop gives up
AHEAD = 0.3  # of the tolerance, to which a shortcut solves
PENALTY = 10  # sweeps by `opi` after three strikes of the Krylov solver, or one that it gave up
SPENT_WELL = 0.1  # of the certified error left: a Krylov step may then have used all its iterations


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fixpoint:
    """What the loop found.

    Attributes
    ----------
    value, lower, upper : array (states...)
        Value and certified bounds.
    policy : int32 array (states...)
        Greedy policy of the last sweep; the operator translates it.
    residual, error_bound : float
        Bellman residual of the last sweep and certified sup-norm error of `value`.
    iterations : int
        Sweeps made.
    code : int
        An :class:`~.outcomes.Outcome`.
    sampled : bool
        Whether a sample of states took the place of a certificate (see
        :mod:`.sampled_certificate`); the error bound is infinite then.
    """

    value: Array
    lower: Array
    upper: Array
    policy: Array
    residual: Array
    error_bound: Array
    iterations: Array
    code: Array
    sampled: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    v: Array
    offset: Array  # a constant that `v` is above
    tv: Array
    base: Array  # a constant that `tv` is above
    policy: Array
    bounds: Bounds
    best: Array  # smallest certified error so far
    stale: Array  # sweeps since then
    plain: Array  # whether the last step was one of value iteration
    strikes: Array
    penalty: Array  # sweeps of `opi` left
    spent: Array  # whether the last Krylov step used up its iterations before it was done
    k: Array
    code: Array
    sampled: Array  # whether the last sweep was vouched for by a sample


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SolveState(LoopState):
    """A solve under way: what :func:`begin` makes, :func:`iterate` moves on, :func:`finish` reads.

    Attributes
    ----------
    state : pytree
        The last sweep and what the loop remembers.
    rates : Modulus
        How the operator damps constants.
    """

    state: _State
    rates: Modulus


def begin(
    operator: BellmanOperator,
    options: SolveOptions,
    live: Array | bool = True,
    shortcut: Shortcut | None = None,
) -> SolveState:
    """Look the model over and make ready for the first sweep.

    Parameters
    ----------
    operator : BellmanOperator
        Its sweeps certify.
    options : SolveOptions
    live : bool
        A point that is not (a NaN parameter, or padding of a batch) fails before its first sweep.
    shortcut : Shortcut, optional
        It finds the value that `operator` starts from, or vouches for it itself.
    """
    survey = operator.survey()  # of all pairs, whatever vouches for the rest
    rates = modulus(operator, survey)
    run = resume(operator, rates, operator.start(), first_fault(survey, rates), live)
    if shortcut is None:
        return run
    run = _ahead(shortcut, options, run)
    return _vouched_for(shortcut, options, run) if shortcut.vouches else run


def _vouched_for(shortcut: Shortcut, options: SolveOptions, run: SolveState) -> SolveState:
    """End the run with a sweep of the shortcut's, if that is within `tol` and a sample confirms it.

    Its bounds would hold if no choice left out were better, which nobody knows: so it has none, and
    is not solved. A run that had ended stays as it is.
    """
    s = run.state
    tv, policy = shortcut.greedy(s.v)
    now = bounds(s.v, tv, run.rates, shortcut.depth, shortcut.reductions, s.offset)
    within = jnp.isfinite(tv).all() & (now.error <= options.tol_on_grid)
    sound = within & shortcut.confirms(s.v, tv, policy) & (s.code == Outcome.RUNNING)
    ended = replace(
        s,
        tv=tv,
        base=_damped(shortcut, s.offset),
        policy=policy,
        bounds=replace(
            now,
            below=jnp.asarray(-jnp.inf),
            above=jnp.asarray(jnp.inf),
            error=jnp.asarray(jnp.inf),
        ),
        k=s.k + 1,
        code=jnp.int32(Outcome.SAMPLED),
        sampled=jnp.asarray(True),
    )
    return replace(run, state=jax.tree.map(lambda a, b: jnp.where(sound, a, b), ended, s))


def _ahead(shortcut: Shortcut, options: SolveOptions, run: SolveState) -> SolveState:
    """Solve by the shortcut, and begin anew from what it found."""
    options = replace(options, tol=AHEAD * options.tol_on_grid)
    end: SolveState = lax.while_loop(
        lambda run: run.running & (run.state.stale < shortcut.patience),
        lambda run: iterate(shortcut, options, run),
        run,
    )
    s = end.state
    found = s.tv + s.bounds.middle * end.rates.weight
    sound = shortcut.reductions.all(jnp.isfinite(found))
    value = jnp.where(sound, found, run.state.v)
    base = jnp.where(sound, s.base, run.state.offset)
    value, base = _around(shortcut, value, base)
    state = replace(run.state, v=value, offset=base, tv=value, base=base, k=s.k, policy=s.policy)
    return replace(run, state=state)


def resume(
    operator: BellmanOperator,
    rates: Modulus,
    value: Array,
    code: Array | Outcome = Outcome.RUNNING,
    live: Array | bool = True,
) -> SolveState:
    """Make ready for a sweep from any value.

    Parameters
    ----------
    operator : BellmanOperator
    rates : Modulus
        How it damps constants.
    value : array (states...)
        What to start from.
    code : int
        An :class:`~.outcomes.Outcome`; anything but RUNNING ends the run before it begins.
    live : bool
        As for :func:`begin`.
    """
    infinite = jnp.asarray(jnp.inf)
    value, offset = _around(operator, value, jnp.zeros(()))
    state = _State(
        v=value,
        offset=offset,
        tv=value,
        base=offset,
        policy=operator.undecided(),
        bounds=Bounds(-infinite, infinite, jnp.zeros(()), infinite, infinite, infinite),
        best=infinite,
        stale=jnp.int32(0),
        plain=jnp.asarray(False),
        strikes=jnp.int32(0),
        penalty=jnp.int32(0),
        spent=jnp.asarray(False),
        k=jnp.int32(0),
        code=jnp.where(live, jnp.int32(code), jnp.int32(Outcome.NOT_FINITE)),
        sampled=jnp.asarray(False),
    )
    return SolveState(state, rates)


def _around(operator: BellmanOperator, value: Array, offset: Array) -> tuple[Array, Array]:
    """Move a value's constant, the middle of its range, to the offset, where the operator may."""
    if operator.shift is None:
        return value, offset
    over = operator.reductions
    middle = (over.max(value) + over.min(value)) / 2
    middle = jnp.where(jnp.isfinite(middle), middle, 0.0)
    return value - middle, offset + middle


def _damped(operator: BellmanOperator, offset: Array) -> Array:
    """Return what a sweep makes of a constant."""
    return offset if operator.shift is None else operator.shift * offset


def iterate(operator: BellmanOperator, options: SolveOptions, run: SolveState) -> SolveState:
    """Make one sweep, bound the value by it, and take a step."""
    return replace(run, state=_iterate(operator, run.rates, options, run.state))


def finish(run: SolveState) -> Fixpoint:
    """Read value and bounds off the last sweep; a failed point holds NaN."""
    return _finish(run.state, run.rates)


def _iterate(operator: BellmanOperator, rates: Modulus, options: SolveOptions, s: _State) -> _State:
    tv, policy = operator.improve(s.v, s.policy)
    now = bounds(s.v, tv, rates, operator.depth, operator.reductions, s.offset)
    base = _damped(operator, s.offset)
    improved = now.error < s.best
    stale = jnp.where(improved, 0, s.stale + 1)
    k = s.k + 1
    why = stuck(now.error, now.rounding, Outcome.STALLED)
    why = jnp.where(rates.high < 1.0, why, jnp.int32(Outcome.NO_CERTIFICATE))
    given_up = jnp.where(stale >= STALE, why, jnp.int32(Outcome.RUNNING))
    code = verdict(now.error, k, given_up, unsound(s.v, tv, operator.reductions), options)
    changed = operator.changed(policy, s.policy)

    # Which step to take: (Krylov iterations, plain evaluation steps).
    krylov, plain_steps, strikes, penalty = _schedule(s, now, code, options)
    # The middle of the bounds is the better start, but only a constant discount makes moving there
    # a contraction: with others, repeated moves can diverge.
    start, offset = tv, base
    if operator.shift is not None:
        offset = base + now.middle
    elif operator.constant_discount:
        start = tv + now.middle
    how = (now, changed, krylov, plain_steps)
    v, spent = _step(operator, policy, start, offset, how, rates, options)
    v, offset = _around(operator, v, offset)
    return _State(
        v=v,
        offset=offset,
        tv=tv,
        base=base,
        policy=policy,
        bounds=now,
        best=jnp.minimum(s.best, now.error),
        stale=stale,
        plain=(krylov == 0) & (plain_steps == 0),
        strikes=strikes,
        penalty=penalty,
        spent=spent,
        k=k,
        code=code,
        sampled=jnp.asarray(False),
    )


def _schedule(
    s: _State, now: Bounds, code: Array, options: SolveOptions
) -> tuple[Array, Array, Array, Array]:
    """Decide on the step: Krylov iterations, plain evaluation steps, strikes, penalty."""
    running = code == Outcome.RUNNING
    zero = jnp.int32(0)
    inner, steps = jnp.int32(options.inner_iter), jnp.int32(options.steps)
    if options.method == "vi":
        return zero, zero, zero, zero
    if options.method == "opi":
        return zero, jnp.where(running, steps, 0), zero, zero
    wants = jnp.asarray(True)
    if options.method == "auto":
        ratio = now.error / s.bounds.error
        wants = ~nearly_done(now.error, ratio, s.plain, s.k, options.tol_on_grid)
    strike = ~s.plain & (s.penalty == 0) & ~(now.error < s.best) & (s.k > 2)
    strikes = s.strikes + strike.astype(jnp.int32)
    struck = (strikes >= 3) | (s.spent & (now.error > SPENT_WELL * s.bounds.error))
    penalty = jnp.where(struck, PENALTY, jnp.maximum(s.penalty - 1, 0)).astype(jnp.int32)
    strikes = jnp.where(struck, 0, strikes).astype(jnp.int32)
    krylov = running & wants & (penalty == 0)
    plain = running & (penalty > 0)
    return jnp.where(krylov, inner, 0), jnp.where(plain, steps, 0), strikes, penalty


def _step(
    operator: BellmanOperator,
    policy: Array,
    start: Array,
    offset: Array,
    how: tuple[Bounds, Array, Array, Array],
    rates: Modulus,
    options: SolveOptions,
) -> tuple[Array, Array]:
    """Evaluate the greedy policy as far as was decided; tell whether that was not enough."""
    now, changed, krylov, plain_steps = how
    spent = jnp.asarray(False)
    if options.method == "vi":
        return start, spent
    fixed = operator.at(policy)
    if operator.shift is not None:
        fixed = fixed.around(offset)
    if options.method != "opi":
        # The certified error is the residual times rho / (1 - rho).
        per_error = (1.0 - rates.high) / jnp.maximum(rates.high, 1e-3)
        final = 0.3 * options.tol_on_grid * per_error
        aim = jnp.maximum(final, share_left(changed) * now.error * per_error)
        start, spent = fixed.evaluate(start, aim, krylov)
    return richardson(fixed.apply, fixed.reward, start, plain_steps), spent


def _finish(s: _State, rates: Modulus) -> Fixpoint:
    """Read value and bounds off the last sweep; a failed point holds NaN."""
    failed = s.code >= 10
    nan = jnp.asarray(jnp.nan)
    b = s.bounds
    tv = s.tv + s.base
    return Fixpoint(
        value=jnp.where(failed, nan, tv + b.middle * rates.weight),
        lower=jnp.where(failed, nan, tv + b.below * rates.weight),
        upper=jnp.where(failed, nan, tv + b.above * rates.weight),
        policy=s.policy,
        residual=jnp.where(failed, nan, b.residual),
        error_bound=jnp.where(failed, nan, b.error),
        iterations=s.k,
        code=s.code,
        sampled=s.sampled,
    )
