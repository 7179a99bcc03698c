r"""Discount 1 without a horizon: stochastic shortest paths, certified by an upper solution.

The value is the greatest expected sum of rewards,
:math:`v^* = \sup_\pi \liminf_n E_\pi \sum_{t<n} r_t`. It is finite where some policy comes to an
end (is *proper*) and where going on for ever earns :math:`-\infty` (Bertsekas and Tsitsiklis 1991).
The *end* is the largest set G of states that no choice leaves, in which no choice decides what
comes next, and whose best reward is exactly 0: there :math:`v^* = 0`. (States among which one may
go round without a cost, and which one may leave, are none: they are refused, although the sum of
rewards is a number.) Let T be the Bellman operator: monotone and convex (a maximum of averages),
and 0 on G for values that are 0 on G, as all below are.

*Upper solution.* Let :math:`z` have a slack :math:`c = z - Tz > 0` off G. Summed along any policy,
:math:`E \sum_{t<n} r_t \le z(s) - E z(s_n) - \underline c\, E \min(n, \tau)` for the time
:math:`\tau` of the end. So a policy whose :math:`E\tau` is infinite has the value :math:`-\infty`,
and of all others the value is at most any :math:`u \ge Tu`. One such z proves the problem
well-posed: a cycle off G that costs nothing, or earns, leaves none.

*Bounds from one sweep.* Let :math:`\rho_- c \le Tv - v \le \rho_+ c` off G, with
:math:`-1 < \rho_- \le 0 \le \rho_+`. Then

.. math::
    v + \frac{\rho_-}{1 + \rho_-} (z - v) \;\le\; v^* \;\le\; v + \frac{\rho_+}{1 + \rho_+} (z - v).

Above, let :math:`\theta = \rho_+ / (1 + \rho_+)` and :math:`u = (1 - \theta) v + \theta z`. By
convexity :math:`Tu \le (1 - \theta)(v + \rho_+ c) + \theta (z - c) = u`, so that
:math:`u \ge v^*`. Below, let :math:`\theta = -\rho_- < 1` and :math:`\ell` be such that
:math:`v = (1 - \theta)\ell + \theta z`. For the greedy policy of v, whose operator is affine,
:math:`(1 - \theta) T_\pi \ell = T_\pi v - \theta T_\pi z \ge v + \rho_- c - \theta (z - c) =
(1 - \theta) \ell`. So :math:`\ell \le T_\pi^n \ell`, which no policy fulfils whose sums fall to
:math:`-\infty`: it is proper, and :math:`\ell \le v_\pi \le v^*`. The policy that is returned is
proven to come to an end, and to earn at least the lower bound.

*Rounding.* An entry of a computed :math:`Tv` is off by at most what :mod:`.bounds` allows; the
allowance is added to, or taken from, each difference, and is taken from c.

*The upper solution is looked for first*, by value iteration from 0 with every reward raised by some
:math:`\varepsilon`. Zero itself serves where all rewards are negative. If nothing that goes on for
ever earns :math:`-\varepsilon` or more a period, the values settle at a fixed point of
:math:`T + \varepsilon`, which has that slack; if something does, they grow at its rate, and the
slack tends to what the best of it costs a period. While there is none, :math:`\varepsilon` is
divided by 8, and after so many sweeps the point is refused.

*Steps.* Value iteration converges from anywhere. Once the greedy policy is proven proper, its own
value is taken (``pi``), from a linear system that is regular then, where its residual fell; else
value iteration goes on, each time for twice as long.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.krylov import richardson
from dpsolve.solvers.numerics.tracing import EPS, TINY, is_concrete
from dpsolve.solvers.operators.base import BellmanOperator, PolicyOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

from .discounted import Fixpoint
from .stopping import LoopState, first_fault, nearly_done, share_left, stuck, unsound, verdict

FIRST = 1 / 8  # of the largest best reward: what rewards are raised by to begin with
ENOUGH = 1 / 8  # of what rewards are raised by: a slack to be content with
ATTEMPTS = 8  # each with an eighth of that
PATIENCE = 40  # sweeps of the first attempt; each later one has twice as many
STALE = 200  # sweeps without a new smallest certified error, after which the loop gives up
GOLDEN = 0.6180339887498949  # whose multiples have fractional parts that are all different
PAID = 0.1  # of a residual: what a policy's evaluation has to bring it to


def undiscounted(model: Model | TabularModel, options: SolveOptions) -> bool:
    """Tell whether a model says, by a plain number, that the future is not discounted."""
    beta = model.discount
    if model.horizon is not None or options.criterion != "discounted" or callable(beta):
        return False
    if isinstance(model, Model) and model.continuous:
        return False
    return is_concrete(beta) and np.ndim(beta) == 0 and float(beta) == 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    v: Array
    swept: Array  # the value that the last sweep looked at
    policy: Array
    above: Array  # the upper solution
    slack: Array  # what one sweep takes from it
    raised: Array  # what rewards are raised by while it is looked for; 0 once it is found
    attempt: Array
    left: Array  # sweeps of this attempt
    high: Array  # shares of the way from `swept` to the upper solution
    low: Array
    residual: Array
    error: Array
    best: Array  # smallest error so far
    stale: Array
    plain: Array  # whether the last step was one of value iteration
    penalty: Array  # sweeps of value iteration left
    patience: Array  # how many the next step that does not pay will cost
    k: Array
    code: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ShortestPathState(LoopState):
    """A solve under way: what :func:`begin` makes, :func:`iterate` moves on, :func:`finish` reads.

    Attributes
    ----------
    state : pytree
        The last sweep and what the loop remembers.
    end : bool array (states...)
        Where everything is over.
    magnitude : float
        Of the survey.
    """

    state: _State
    end: Array
    magnitude: Array


def begin(operator: BellmanOperator, live: Array | bool = True) -> ShortestPathState:
    """Look the model over, find its end, and make ready; a point that is not `live` fails."""
    survey = operator.survey()
    end = ends(operator)
    code = first_fault(survey, None)
    proper = operator.reductions.all(reaching(operator, end))
    ill_posed = (code == Outcome.RUNNING) & ~(proper & survey.monotone)
    code = jnp.where(ill_posed, jnp.int32(Outcome.DISCOUNT), code)
    infinite, zero, none = jnp.asarray(jnp.inf), jnp.zeros(operator.shape), jnp.int32(0)
    state = _State(
        v=zero,
        swept=zero,
        policy=operator.undecided(),
        above=zero,
        slack=zero,
        raised=jnp.ones(()),
        attempt=none,
        left=jnp.int32(PATIENCE),
        high=infinite,
        low=-infinite,
        residual=infinite,
        error=infinite,
        best=infinite,
        stale=none,
        plain=jnp.asarray(True),
        penalty=none,
        patience=jnp.int32(1),
        k=none,
        code=jnp.where(live, code, jnp.int32(Outcome.NOT_FINITE)).astype(jnp.int32),
    )
    return ShortestPathState(state, end, jnp.asarray(survey.magnitude, jnp.float64))


def ends(operator: BellmanOperator) -> Array:
    """Return where everything is over (states...).

    That is the largest set that no choice leaves, in which no choice decides what comes next, and
    whose best reward is exactly 0: states fall out of it until none does.
    """

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        end, _ = carry
        kept = end & (operator.growth(jnp.where(end, 0.0, 1.0)) == 0.0)
        return kept, operator.reductions.any(kept != end)

    free = operator.greedy(jnp.zeros(operator.shape))[0] == 0.0
    # All choices lead to the same distribution if they do to the same mean of any function.
    any_function = jnp.arange(prod(operator.shape)).reshape(operator.shape) * GOLDEN % 1.0
    most, least = operator.growth(any_function), -operator.growth(-any_function)
    begin = free & (jnp.abs(most - least) <= 1e-12)
    found: Array = lax.while_loop(lambda c: c[1], step, (begin, jnp.asarray(True)))[0]
    return found


def reaching(operator: BellmanOperator, end: Array) -> Array:
    """Return where some choices lead to the end (states...) with a chance: all, or none is proper.

    Then a policy exists that does so from everywhere, and comes there with certainty.
    """

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        some, _ = carry
        more = some | (operator.growth(jnp.where(some, 1.0, 0.0)) > 0.0)
        return more, operator.reductions.any(more != some)

    found: Array = lax.while_loop(lambda c: c[1], step, (end, jnp.asarray(True)))[0]
    return found


def seeking(run: ShortestPathState) -> Array:
    """Tell whether the upper solution is not found yet."""
    return run.state.raised > 0.0


def iterate(
    operator: BellmanOperator, options: SolveOptions, run: ShortestPathState
) -> ShortestPathState:
    """Make one sweep; bound the value by it, or look for the upper solution; and take a step."""
    return replace(run, state=_iterate(operator, options, run))


def _iterate(operator: BellmanOperator, options: SolveOptions, run: ShortestPathState) -> _State:
    s, end, over = run.state, run.end, operator.reductions
    tv, policy = operator.greedy(s.v)
    change = jnp.where(end, 0.0, tv - s.v)
    scale = over.max(jnp.maximum(jnp.abs(s.v), jnp.abs(tv))) + run.magnitude
    rounding = (operator.depth + 2) * (EPS * scale + 2 * TINY)

    # The upper solution: found, looked for with less, or given up.
    largest = over.max(jnp.where(end, 0.0, jnp.abs(tv)))
    first = FIRST * jnp.where(largest > 0.0, largest, 1.0)
    raised = jnp.where(s.k == 0, first, s.raised)
    slack = -change - rounding
    was = s.raised > 0.0
    enough = over.all(end | (slack >= ENOUGH * raised)) & (rounding <= ENOUGH * raised)
    found = was & enough
    above, slack = jnp.where(found, s.v, s.above), jnp.where(found, slack, s.slack)
    late = was & ~found & (s.left <= 1)
    attempt = s.attempt + late.astype(jnp.int32)
    raised = jnp.where(found | ~was, 0.0, jnp.where(late, raised / 8, raised))
    left = jnp.where(late, PATIENCE * 2**attempt, s.left - 1).astype(jnp.int32)

    # Bounds, once there is one.
    high, low, error = _bounds(s.v, change, rounding, above, slack, run.end, operator)
    error = jnp.where(was & ~found, jnp.inf, error)
    k, certain = s.k + 1, jnp.isfinite(error)
    stale = jnp.where(~certain | (error < s.best), 0, s.stale + 1).astype(jnp.int32)
    residual = over.max(jnp.abs(change))
    least = error * rounding / jnp.maximum(residual, rounding)
    running = jnp.int32(Outcome.RUNNING)
    given_up = jnp.where(stale >= STALE, stuck(error, least, Outcome.STALLED), running)
    given_up = jnp.where(attempt >= ATTEMPTS, jnp.int32(Outcome.DISCOUNT), given_up)
    code = verdict(error, k, given_up, unsound(s.v, tv, over), options)

    # The step. A new attempt begins at zero, the value at what was found.
    start = jnp.where(end | late, 0.0, tv + raised)
    # A policy is evaluated only where the bounds prove it proper.
    daring = (code == Outcome.RUNNING) & (s.penalty == 0) & certain
    if options.method == "auto":
        daring &= ~nearly_done(error, error / s.error, s.plain, s.k, options.tol_on_grid)
    changed = operator.changed(policy, s.policy)
    per_error = jnp.where(certain, residual / error, 0.0)
    aim = jnp.maximum(0.3 * options.tol_on_grid * per_error, share_left(changed) * residual)
    aim = jnp.maximum(aim, rounding)
    v, paid = _step(operator, policy, start, end, aim, daring, options)
    lost = daring & ~paid
    penalty = jnp.where(lost, s.patience, jnp.maximum(s.penalty - 1, 0))
    return _State(
        v=v,
        swept=s.v,
        policy=policy,
        above=above,
        slack=slack,
        raised=raised,
        attempt=attempt,
        left=left,
        high=high,
        low=low,
        residual=residual,
        error=error,
        best=jnp.minimum(s.best, error),
        stale=stale,
        plain=~daring | ~paid,
        penalty=penalty.astype(jnp.int32),
        patience=jnp.where(lost, jnp.minimum(2 * s.patience, 1_000), s.patience),
        k=k,
        code=code,
    )


def _bounds(
    v: Array,
    change: Array,
    rounding: Array,
    above: Array,
    slack: Array,
    end: Array,
    operator: BellmanOperator,
) -> tuple[Array, Array, Array]:
    """Return how far up and down from `v` to `above` the true value may lie, and the error."""
    over = operator.reductions
    by = jnp.where(end | ~(slack > 0.0), 1.0, slack)
    high = over.max(jnp.where(end, 0.0, (change + rounding) / by)) * (1.0 + 8 * EPS)
    low = over.min(jnp.where(end, 0.0, (change - rounding) / by)) * (1.0 + 8 * EPS)
    high, low = jnp.maximum(high, 0.0), jnp.minimum(low, 0.0)
    certain = over.all(end | (slack > 0.0)) & (low > -0.9)
    high, low = high / (1.0 + high), low / jnp.where(certain, 1.0 + low, 1.0)
    reach = over.max(jnp.abs(above - v))
    error = (high - low) / 2 * reach + _stored(v, above, operator)
    return high, jnp.where(certain, low, -jnp.inf), jnp.where(certain, error, jnp.inf)


def _stored(v: Array, above: Array, operator: BellmanOperator) -> Array:
    """Return what putting the ends together may round."""
    over = operator.reductions
    return 8 * (EPS * (over.max(jnp.abs(v)) + over.max(jnp.abs(above))) + TINY)


def _step(
    operator: BellmanOperator,
    policy: Array,
    start: Array,
    end: Array,
    aim: Array,
    daring: Array,
    options: SolveOptions,
) -> tuple[Array, Array]:
    """Evaluate the greedy policy if it is to be; also tell whether that came to anything."""
    if options.method == "vi":
        return start, jnp.asarray(True)
    over, fixed = operator.reductions, _ending(operator.at(policy), end)
    if options.method == "opi":
        steps = jnp.where(daring, jnp.int32(options.steps), 0)
        return richardson(fixed.apply, fixed.reward, start, steps), jnp.asarray(True)

    def gap(x: Array) -> Array:
        return over.max(jnp.abs(fixed.reward - x + fixed.apply(x)))

    most = jnp.where(daring, jnp.int32(options.inner_iter), 0)
    before = gap(start)
    x, _ = fixed.evaluate(start, aim, most)
    after = gap(x)
    paid = jnp.isfinite(after) & ((after <= aim) | (after <= PAID * before))
    return jnp.where(daring & paid, jnp.where(end, 0.0, x), start), paid


def _ending(fixed: PolicyOperator, end: Array) -> PolicyOperator:
    """Return a policy's operator that stops at the end."""
    other = copy.copy(fixed)
    other.reward = jnp.where(end, 0.0, fixed.reward)
    other.discount = jnp.where(end, 0.0, 1.0)
    return other


def finish(operator: BellmanOperator, run: ShortestPathState) -> Fixpoint:
    """Read value and bounds off the last sweep; a failed point holds NaN."""
    s = run.state
    v, way = s.swept, s.above - s.swept
    stored, certain = _stored(v, s.above, operator), jnp.isfinite(s.error)
    middle = jnp.where(certain, (s.high + s.low) / 2, 0.0)

    def told(x: Array) -> Array:
        return jnp.where(s.code >= 10, jnp.nan, x)

    def at(share: Array, beyond: Array, otherwise: float) -> Array:
        ends = jnp.where(run.end, 0.0, v + share * way + beyond)
        return told(jnp.where(certain, ends, otherwise))

    return Fixpoint(
        value=told(v + middle * way),
        lower=at(s.low, -stored, -jnp.inf),
        upper=at(s.high, stored, jnp.inf),
        policy=s.policy,
        residual=told(s.residual),
        error_bound=told(s.error),
        iterations=s.k,
        code=s.code,
        sampled=jnp.asarray(False),
    )
