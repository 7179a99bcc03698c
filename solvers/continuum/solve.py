"""A model with continuous choices at one parameter point, solved and certified inside a trace."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.model.model import Model
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Certifies, Concavity, Outcome

from .barren import escapes, filled, kept_alive, worthless
from .between import falls_short, optimal_choices, widths
from .bounds import (
    Lines,
    borrowed,
    bounds_for_ever,
    contracts,
    free_disposal,
    local,
    lower_step,
    resolvent,
    tightened,
    upper_step,
)
from .cells import Marginal
from .egm import allowed, on_endogenous_grid, stationary
from .equivalent import share_of, utility_of
from .euler import improved, mended, stationary_policy
from .problem import ContinuousProblem, read_problem
from .refutation import LIGHT, STATES, Refutation, refute, refute_terminal

LEAKS = 1e-9
"""How far from one a row of probabilities may sum to."""


EQUIVALENT = "consumption_equivalent"
HELD, SLOPES = "held_choices", "marginal_values"
"""Which ends hold choices (z, n, m), and marginal values (z, n, d): for derivatives, not stored.

Where nodes are dead (:mod:`.barren`) choices were moved away from them, and there are no slopes.
"""

WORST = {"error_bound", "policy_loss", EQUIVALENT}
"""Numbers of a point that are infinite where nothing is certified."""


class Certified(NamedTuple):
    """Bounds on the true value of a problem, from a policy; in one period, or for ever.

    Attributes
    ----------
    y : array (z, n, m)
        The policy that the lower bound is of.
    lower, upper : array (z, n)
        At the nodes; between them the interpolation of `lower` is a lower bound. Cells with a
        corner where it is -inf are left out of all that follows.
    lines : Lines
        The upper bound everywhere.
    width, error : float
        See :class:`~.between.Widths`.
    loss : float
        Bounds what the policy loses at any state, interpolated between the nodes.
    beyond : array (z,)
        What it may earn less than its lower bound, of interpolation.
    """

    y: Array
    lower: Array
    upper: Array
    lines: Lines
    width: Array
    error: Array
    loss: Array
    beyond: Array

    @property
    def extremes(self) -> tuple[Array, Array]:
        """Numbers that the true value is nowhere below and nowhere above."""
        lower = jnp.where(jnp.isneginf(self.lower), jnp.inf, self.lower)
        return jnp.min(lower), jnp.max(self.upper) + self.width


def certified(
    problem: ContinuousProblem,
    y: Array,
    lower: Array,
    lines: Lines,
    inverse: Array | None = None,
    later: tuple[Array, Array] | None = None,
    after: Array | None = None,
) -> Certified:
    """Read off bounds what they say between the nodes.

    Parameters
    ----------
    y, lower, lines
        A policy, its lower bound and an upper one.
    inverse : array (z, z'), optional
        Without a horizon, of one less the discounts.
    later : (array (z,), array (z,)), optional
        With a horizon, what the next period's interpolated lower bound falls short, and its policy
        may earn less than that.
    after : bool array (z, n), optional
        With a horizon, nodes of the next period whose lower bound is -inf.
    """
    upper = tightened(problem, lines)
    dead = jnp.isneginf(lower)
    chords = filled(problem, lower, lines.slope)
    wide = widths(problem, chords, upper, lines, ~dead)
    error = jnp.where(free_disposal(problem, lines), wide.error, jnp.inf)
    # With m the concave envelope of the interpolated lower bound and e >= sup (m - l), the policy
    # interpolated between nodes earns at least l - (I - D)^-1 D e; over a horizon l less the
    # discounted e of the periods that follow.
    weights = problem.weights
    if inverse is not None:
        short = falls_short(problem, chords, wide.between, lines)
        beyond = inverse @ (weights @ short)
    else:
        beyond = weights @ sum(later or ())
    beyond = jnp.where(escapes(problem, dead if after is None else after), jnp.inf, beyond)
    loss = wide.between + jnp.max(beyond)
    return Certified(y, lower, upper, lines, wide.between, error, loss, beyond)


def solve_continuous(
    model: Model, options: SolveOptions, live: Array | bool = True, proved: bool = False
) -> dict[str, Array]:
    """Solve a model with continuous choices, and bound its true value.

    With `proved` it is known to be concave, and is not tested.

    Returns
    -------
    dict
        ``value``, ``lower``, ``upper``, ``policy_<choice>`` and ``output_<name>``, arrays
        (states...), with a horizon (t, states...); with one choice, ``policy_lower_<choice>`` and
        ``policy_upper_<choice>``, between which the optimal one lies; ``grid_<state>``, and
        numbers, among them what the bounds are of (:class:`Certifies`). With gradients among the
        options, ``HELD`` and ``SLOPES``, which they are found from.
    """
    problem = read_problem(model, known=True)
    found, told = solve_and_test(problem, proved=proved, method=options.method)
    kept = {n: found.pop(n) for n in (HELD, SLOPES)}
    return verdict(found, told, live) | (kept if options.gradients else {})


def solve_and_test(
    problem: ContinuousProblem,
    given: Array | None = None,
    proved: bool = False,
    method: str = "auto",
) -> tuple[dict[str, Array], Refutation]:
    """Solve a problem, bound it, and look for a counterexample to its concavity.

    Parameters
    ----------
    problem : ContinuousProblem
        With a horizon, of any of its periods.
    given : array (z, n, m), with a horizon (t, z, n, m), optional
        A policy that the lower bound is to be of, in place of ours.
    proved : bool
        That it is concave: then nothing is tested.
    method : str
        With ``auto`` or ``egm`` choices are found on an endogenous grid, where that applies.
    """
    endogenous = method in ("auto", "egm")
    if problem.model.horizon is None:
        inverse = resolvent(problem.weights)
        found, told = _for_ever(problem, given, proved, endogenous, inverse)
    else:
        inverse = None
        found, told = _over_a_horizon(problem, given, proved, endogenous)
    return found | grids(problem) | {"fault": fault(problem, inverse)}, told


def fault(problem: ContinuousProblem, inverse: Array | None = None) -> Array:
    """Return the code of what is wrong with the model's own numbers, or that nothing is."""
    model, horizon = problem.model, problem.model.horizon
    code = jnp.int32(Outcome.SOLVED)
    if horizon is None:
        weights = problem.weights
        discounts = contracts(weights, inverse)
    else:
        weights = jax.vmap(lambda t: problem.at(t).weights)(jnp.arange(int(horizon)))
        discounts = (weights >= 0.0).all()
    code = jnp.where(discounts, code, Outcome.DISCOUNT)
    for name in problem.members:
        rows = jnp.asarray(model.states[name].transition_matrix)
        even = (rows >= 0.0).all() & (jnp.abs(rows.sum(-1) - 1.0) <= LEAKS).all()
        code = jnp.where(even, code, Outcome.LEAK)
    rising = jnp.stack([(jnp.diff(jnp.asarray(g.values)) > 0.0).all() for g in problem.grids])
    code = jnp.where(rising.all(), code, Outcome.NOT_INCREASING)
    known = jnp.isfinite(problem.nodes).all() & jnp.isfinite(weights).all()
    return jnp.where(known, code, Outcome.NOT_FINITE)


def grids(problem: ContinuousProblem) -> dict[str, Array]:
    """Return the states' values by name."""
    own = dict(zip(problem.states, problem.grids, strict=True))
    specs = {**problem.model.states, **own}
    return {f"grid_{n}": jnp.asarray(s.values) for n, s in specs.items()}


def verdict(found: dict[str, Array], told: Refutation, live: Array | bool) -> dict[str, Array]:
    """Return the code of a point, and its numbers as the code allows."""
    code = jnp.where(
        ~jnp.isfinite(found["error_bound"]),
        Outcome.NO_BOUND,
        jnp.where(told.refuted, Outcome.NOT_CONCAVE, Outcome.SOLVED),
    )
    code = jnp.where(told.strange, Outcome.NOT_FINITE, code)
    code = jnp.where(found.pop("infeasible"), Outcome.INFEASIBLE, code)
    wrong = found.pop("fault")
    code = jnp.where(wrong == Outcome.SOLVED, code, wrong)
    code = jnp.where(jnp.asarray(live), code, Outcome.NOT_FINITE).astype(jnp.int32)
    sound = code == Outcome.SOLVED
    missing = jnp.where(code >= 10, jnp.nan, jnp.inf)
    numbers = {n: jnp.where(sound, found[n], missing) for n in sorted(WORST & set(found))}
    for name, none in (("lower", -jnp.inf), ("upper", jnp.inf)):
        numbers[name] = jnp.where(sound, found[name], jnp.where(code >= 10, jnp.nan, none))
    arrays = {
        n: jnp.where(code >= 10, jnp.nan, x) for n, x in found.items()
        if n == "value" or n.startswith("output_")
    }  # fmt: skip
    return (
        found
        | arrays
        | numbers
        | {
            "residual": jnp.asarray(jnp.nan),
            "code": code,
            "certifies": jnp.where(sound, Certifies.CONTINUUM, Certifies.NONE).astype(jnp.int8),
            "concavity": jnp.where(sound, Concavity.DECLARED, Concavity.NONE).astype(jnp.int8),
        }
    )


def named(
    problem: ContinuousProblem, at: Certified, after: Lines, found: Array, poor: Array
) -> dict[str, Array]:
    """Return what was found by the names of results, arrays over the model's states.

    Where nothing feasible was `found` (z, n) there is no policy, and where all choices are `poor`
    the value is -inf; where no more than an upper bound is known, it is that.
    """
    middle = jnp.where(jnp.isneginf(at.lower), at.upper, (at.lower + at.upper) / 2)
    middle = jnp.where(poor, -jnp.inf, middle)
    arrays = {"value": middle, "lower": at.lower, "upper": at.upper}
    arrays |= {
        f"policy_{c}": jnp.where(found, at.y[..., j], jnp.nan)
        for j, c in enumerate(problem.choices)
    }
    if len(problem.choices) == 1:
        (choice,) = problem.choices
        low, high = optimal_choices(problem, at.y, at.lower, after)
        arrays |= {f"policy_lower_{choice}": low, f"policy_upper_{choice}": high}
    for name, f in problem.model.outputs.items():

        def output(x: Array, z: Array, y: Array, f: Any = f) -> Array:
            return problem.output(f, x, y, z)

        arrays[f"output_{name}"] = problem.each(output, at.y)
    return {name: problem.over_states(x) for name, x in arrays.items()}


def _for_ever(
    problem: ContinuousProblem,
    given: Array | None,
    proved: bool,
    endogenous: bool,
    inverse: Array,
) -> tuple[dict[str, Array], Refutation]:
    found = stationary(problem) if endogenous else None
    policy, poor = worthless(problem, found or stationary_policy(problem))
    kept = [kept_alive(problem, policy.y, poor)]
    if given is not None:
        kept.append(kept_alive(problem, given, poor, move=False))
    lowers, lines = bounds_for_ever(problem, policy, kept, inverse)
    told = Refutation.none(problem)
    if not proved:
        told = refute(problem, kept[0][0], (lowers[0], lowers[0]), (lines, lines), poor)
    y, dead = kept[-1]
    at = certified(problem, y, lowers[-1], lines, inverse)
    share: dict[str, Array] = {}
    if (utility := utility_of(problem)) is not None:
        share = {EQUIVALENT: share_of(utility, at.loss, jnp.sum(inverse, 1), *at.extremes)}
    return named(problem, at, lines, policy.found, poor) | share | {
        "error_bound": at.error,
        "policy_loss": at.loss,
        "iterations": policy.steps.astype(jnp.int32),
        "infeasible": ~policy.found.all(),
        HELD: policy.held,
        SLOPES: jnp.where(dead.any(), jnp.nan, policy.p),
    }, told


class _Period(NamedTuple):
    """What a period hands to the one before it."""

    y: Array
    p: Array
    lower: Array
    own: Array  # the lower bound of a given policy
    lines: Lines
    short: Array
    beyond: Array
    left: Array  # discounted periods that are left (z,)


def _over_a_horizon(
    problem: ContinuousProblem, given: Array | None, proved: bool, endogenous: bool
) -> tuple[dict[str, Array], Refutation]:
    """Solve backwards; both bounds are recursions of the same pass."""
    whole, horizon = problem, int(problem.model.horizon or 0)
    states = max(LIGHT, STATES // horizon)
    utility = utility_of(whole)

    def period(after: _Period, now: tuple[Array, Array | None]) -> tuple[_Period, Any]:
        t, y = now
        problem = whole.at(t)
        marginal = Marginal.smooth(problem, after.p)
        grid = on_endogenous_grid(problem) if endogenous else None
        found = (
            allowed(problem, grid.improved(marginal))
            if grid
            else improved(problem, marginal, after.y)
        )
        policy, poor = worthless(problem, found)
        kept, dead = kept_alive(problem, policy.y, poor, jnp.isneginf(after.lower))
        lower = own = lower_step(problem, kept, after.lower, dead)
        lines = upper_step(problem, local(problem, policy.y), after.lines)
        lowers, both = (lower, after.lower), (lines, after.lines)
        told = Refutation.none(problem)
        if not proved:
            told = refute(problem, kept, lowers, both, poor, t, states)
        later = jnp.isneginf(after.own)
        if y is not None:
            kept, dead = kept_alive(problem, y, poor, later, move=False)
            own = lower_step(problem, kept, after.own, dead)
        at = certified(problem, kept, own, lines, None, (after.short, after.beyond), later)
        out = named(problem, at, after.lines, policy.found, poor)
        out |= {"error_bound": at.error, "policy_loss": at.loss}
        out |= {HELD: policy.held, SLOPES: jnp.where(dead.any(), jnp.nan, policy.p)}
        left = 1.0 + problem.weights @ after.left
        if utility is not None:
            out |= {EQUIVALENT: share_of(utility, at.loss, left, *at.extremes)}
        short = falls_short(problem, filled(problem, own, lines.slope), at.width, lines)
        handed = _Period(policy.y, policy.p, lower, own, lines, short, at.beyond, left)
        return handed, (out, told, ~policy.found.all())

    last = _after_the_end(problem.at(jnp.int32(horizon - 1)))
    periods = (jnp.arange(horizon), given)
    _, (out, told, infeasible) = lax.scan(period, last, periods, reverse=True)
    for name in sorted(WORST & set(out)):
        out[name] = jnp.max(jnp.where(jnp.isnan(out[name]), jnp.inf, out[name]))
    out |= {"iterations": jnp.int32(horizon), "infeasible": infeasible.any()}
    told = told.worst_period()
    if problem.model.terminal is not None and not proved:
        told = refute_terminal(problem.at(jnp.int32(horizon - 1)), told, last.lower, last.lines)
    return out, told


def _after_the_end(problem: ContinuousProblem) -> _Period:
    terminal, known = problem.model.terminal, tuple(problem.model.states)

    def one(x: Array, z: Array) -> tuple[Array, Array]:
        def value(x: Array) -> Array:
            return jnp.zeros(()) if terminal is None else problem.at_state(terminal, known, x, z)

        found: tuple[Array, Array] = jax.value_and_grad(value)(x)
        return found

    value, slope = problem.each(one)
    nothing = jnp.zeros(problem.shape[0])
    # A node with an infinite slope gives no line, but a value.
    usable = (jnp.isfinite(value) & jnp.isfinite(slope).all(-1)).all(0)
    lines = borrowed(problem, value, slope, usable)
    unknown = jnp.full((*problem.shape, len(problem.choices)), jnp.nan)
    p = mended(problem, slope)
    return _Period(unknown, p, value, value, lines, nothing, nothing, nothing)
