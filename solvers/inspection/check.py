"""``dp.check``: the first fault of a model, named with its place and value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from dpsolve.solvers.certified import of_what
from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.methods import shortest_path
from dpsolve.solvers.methods.bounds import modulus
from dpsolve.solvers.methods.finite_horizon import terminal_value
from dpsolve.solvers.methods.shortest_path import undiscounted
from dpsolve.solvers.model.array_factory import named as named_arrays
from dpsolve.solvers.model.array_factory import no_model, rebuild, refusal
from dpsolve.solvers.model.factory_signature import check_numbers, signature, split
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.operators.base import BellmanOperator
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.interpolation import corners, greatest_reached
from dpsolve.solvers.operators.model_functions import CHOICE, PairTable
from dpsolve.solvers.operators.named_arrays import NamedArray, add, mapped, multiply
from dpsolve.solvers.operators.tabular import TabularOperator
from dpsolve.solvers.operators.validation import probability_rows, some_choice
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome, listed
from dpsolve.solvers.probability.probabilities import REMEDY, ROW_SUM_TOLERANCE

from .concavity import promise_at
from .outputs import bad_somewhere, fault_at_optimum, no_number
from .pairs import ListedPairs, Place, TriedPairs, entry, largest_at, looked_at, worst


class Answer(str):
    """A sentence that a notebook shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def check(model: Any, params: Mapping[str, Any] | None = None) -> Answer:
    """Evaluate a model and name its first fault; say so if it has none.

    Choices from lists are all looked at. Of a continuous choice some places between its ends are,
    at every node; what its outputs are at the optimum only a solve tells.

    Parameters
    ----------
    model : factory, Model, TabularModel or str
        What to look at.
    params : dict, optional
        Parameters and sizes of a factory.

    Returns
    -------
    str
        That no fault was found, and at which parameters.

    Raises
    ------
    ModelError
        Naming the fault: an unknown argument, a NaN reward at a named state and choice, a state
        without a feasible choice, a row of probabilities that does not sum to one, a next state
        off its grid, a discount at which no bound can be certified.
    """
    name, given = "the model", ""
    origin: tuple[Any, dict[str, Any], dict[str, Any]] = (model, {}, {})
    if not isinstance(model, Model | TabularModel):
        factory = as_factory(model)
        values, sizes = split(factory, params)
        check_numbers(factory, values, "dp.check looks at one point")
        for name, value in values.items():
            if np.ndim(value) == 0 and not np.isfinite(value):
                raise ModelError(f"{signature(factory).name}: parameter '{name}' is {value}")
        name = signature(factory).name
        given = f" at {listed({**values, **sizes})}" if values or sizes else ""
        origin = factory, sizes, values
        model = rebuild(factory, values, sizes)
        if not isinstance(model, Model | TabularModel | Mapping):
            raise no_model(factory, model)
    found = diagnose(model)
    if found:
        raise ModelError(found)
    what = f" A solution certifies: {promise_at(model, *origin)}." if of_what(model) else ""
    return Answer(f"{name}: no fault found{given}.{what}")


def diagnose(model: Any, criterion: str = "discounted") -> str:
    """Return a sentence about a model's first fault, or '' if none is found."""
    if isinstance(model, Mapping):
        return refusal(model) or _not_finite(model)
    if isinstance(model, TabularModel):
        return _diagnose_tabular(model, criterion)
    if not isinstance(model, Model):
        return ""
    found = _grids(model) or _terminal(model)
    if found:
        return found
    suspect = False
    for t in (None,) if model.horizon is None else range(model.horizon):
        looked = looked_at(model, t)
        found = _pairs(looked, "" if t is None else f" in period t={t}")
        found = found or (_discount(looked, criterion) if model.horizon is None else "")
        if found:
            return found
        # What outputs of a continuous choice are at the optimum, no list of pairs tells.
        suspect = suspect or any(
            bad_somewhere(looked.operator, pairs, place.index)
            for pairs, place in looked
            if place.index is not None
        )
    return _outputs(model, criterion) if suspect else ""


def _terminal(model: Model) -> str:
    if model.horizon is None:
        return ""
    value = np.asarray(terminal_value(model))
    bad = ~np.isfinite(value)
    if not bad.any():
        return ""
    at = np.unravel_index(int(np.argmax(bad)), value.shape)
    where = ", ".join(
        f"{n}={np.asarray(s.values)[i]:.6g}"
        for (n, s), i in zip(model.states.items(), at, strict=True)
    )
    return (
        f"the terminal value is {value[at]} at {where}; it must be finite at every state: what may "
        "not be reached, forbid by `feasible`"
    )


def _not_finite(made: Mapping[str, Any]) -> str:
    for name, dims, x in named_arrays(made):
        array = np.asarray(x)
        if array.dtype.kind in "fc" and not (finite := np.isfinite(array)).all():
            at = np.unravel_index(int(np.argmin(finite)), array.shape)
            place = ", ".join(f"{d}={i}" for d, i in zip(dims, at, strict=True))
            return f"the array '{name}' holds {array[at]}" + f" at {place}" * bool(place)
    return ""


def _grids(model: Model) -> str:
    for name in (*model.states, *model.post):
        spec = model.grid_of(name)
        values = np.asarray(spec.values, np.float64)
        what = f"the grid of {'state' if name in model.states else 'post variable'} '{name}'"
        if not np.isfinite(values).all():
            i = int(np.argmin(np.isfinite(values)))
            return f"{what} holds {values[i]} at point {i}"
        if isinstance(spec, Grid) and not (np.diff(values) > 0).all():
            i = int(np.argmin(np.diff(values)))
            return (
                f"{what} does not increase at point {i + 1}: {values[i]:.6g} "
                f"is followed by {values[i + 1]:.6g}; at these parameters its ends are the wrong "
                "way round or coincide"
            )
    return ""


def _outputs(model: Model, criterion: str) -> str:
    found = fault_at_optimum(model, criterion)
    if found is None:
        return ""
    grid_operator, when, (name, state, choice) = found
    place = Place.numbered(grid_operator, NamedArray(jnp.full(1, choice, jnp.int32), (CHOICE,)))
    at = state | {CHOICE: 0}
    shocks = _shocks_of(grid_operator, (model.outputs[name],), at, place)
    return (
        f"the output '{name}' is NaN or +inf at the optimum, at {place.of(at | shocks)}{when}; "
        "write it so that it is a number there"
    )


def _pairs(looked: ListedPairs, when: str) -> str:
    grid_operator = looked.operator
    some, paid = np.zeros((2, *grid_operator.shape), bool)
    for pairs, place in looked:
        some |= np.asarray(some_choice(pairs.feasible, grid_operator.sizes))
        pays = pairs.reward.map(lambda r: r != -jnp.inf)
        paid |= np.asarray(some_choice(pays, grid_operator.sizes))
        found = (
            looked.ends(place, when)
            or _rewards(grid_operator, pairs, place, when)
            or _rows(grid_operator, pairs, place, when)
            or _next_states(grid_operator, pairs, place, when)
            or _discounts(pairs, place, when)
        )
        if found:
            return found
    if not some.all():
        return looked.no_choice(some, when)
    return _pays_nothing(looked, paid, when)


def _pays_nothing(looked: ListedPairs, paid: Numpy, when: str) -> str:
    """Name the first state all of whose choices pay -inf, and the first of these.

    With a continuous choice such a state is none: its value is -inf.
    """
    if paid.all() or isinstance(looked, TriedPairs):
        return ""
    grid_operator = looked.operator
    at = np.unravel_index(int(np.argmin(paid)), paid.shape)
    state = dict(zip(grid_operator.states, (int(i) for i in at), strict=True))
    for pairs, place in looked:
        here = pairs.reward.map(lambda r: r == -jnp.inf)
        if pairs.feasible is not None:
            here = multiply(here, pairs.feasible)
        chosen = entry(here, state)
        if np.asarray(chosen.array).any():
            _, choice = largest_at(chosen, None)
            where = place.of(state | choice)
            only = "that choice" if grid_operator.n_choices == 1 else "every feasible choice"
            return (
                f"the reward is -inf at {where}{when}, and so it is at {only} of that state "
                f"({int((~paid).sum())} of {paid.size} states have none that pays more); begin "
                "the grid where a choice pays a finite reward, or let `feasible` allow one"
            )
    return ""


def _rewards(grid_operator: GridOperator, pairs: PairTable, place: Place, when: str) -> str:
    assert pairs.raw_reward is not None
    most, at = largest_at(pairs.raw_reward.map(no_number), pairs.feasible)
    if most <= 0:
        return ""
    value = float(jnp.asarray(entry(pairs.raw_reward, at).array).ravel()[0])
    what = "-inf" if value == -np.inf else "NaN or +inf"
    where = place.of(at | _shocks_of(grid_operator, grid_operator.model.reward, at, place))
    return (
        f"the reward is {what} at {where}{when}; if that choice is not allowed there, say so "
        "in `feasible`"
    )


def _shocks_of(
    grid_operator: GridOperator, fs: Iterable[Any], at: Mapping[str, int], place: Place
) -> dict[str, int]:
    """Return where shocks (and post variables) stand when one of some functions is no number.

    Parameters
    ----------
    fs : iterable of functions
        Of the model; they are averaged over shocks, so that the average does not tell.
    at : mapping
        The state and the choice.
    """
    functions, model = grid_operator.functions, grid_operator.model
    env = functions.env | place.chosen(at)
    env = {name: entry(x, at) for name, x in env.items()} | functions.post_env
    chances = {w: entry(functions.probability(w, env), at) for w in model.shocks}
    for f in fs:
        x = mapped(f, env, functions.order, "a function of the model")
        bad = functions.possible(x.map(lambda a: 1.0 * no_number(a)), chances)
        if np.asarray(bad.array).any():
            return largest_at(bad, None)[1]
    return {}


def _discounts(pairs: PairTable, place: Place, when: str) -> str:
    most, where = worst(pairs.discount.map(lambda b: ~jnp.isfinite(b)), pairs.feasible, place)
    if most <= 0:
        return ""
    return f"the discount is NaN or infinite at {where}{when}; it must be a finite number"


def _rows(grid_operator: GridOperator, pairs: PairTable, place: Place, when: str) -> str:
    for name, row, matters in probability_rows(
        grid_operator.model, pairs, grid_operator.functions.t
    ):
        sums = NamedArray(row.array.sum(-1), row.dims[:-1])
        feasible = pairs.feasible if matters else None
        if grid_operator.functions.depends(name):
            sums, row = _reached_rows(grid_operator, sums, row, pairs)
        gap, where = worst(sums.map(lambda s: jnp.abs(s - 1.0)), feasible, place)
        if gap > ROW_SUM_TOLERANCE:
            high, _ = worst(sums, feasible, place)
            total = high if abs(abs(high - 1.0) - gap) < 1e-15 else 1.0 - gap
            return (
                f"the probabilities of '{name}' at {where}{when} sum to {total:.12g}, not to 1; "
                f"probabilities that leak would shift the solution: {REMEDY}"
            )
        least, where = worst(row.map(jnp.negative), feasible, place)
        if least > 0:
            return f"the probabilities of '{name}' have a negative entry, {-least:g}, at {where}"
    return ""


def _reached_rows(
    grid_operator: GridOperator, sums: NamedArray, row: NamedArray, pairs: PairTable
) -> tuple[NamedArray, NamedArray]:
    """Return the sum farthest from one, and the least entry, of the rows that a pair leads to."""
    reached = grid_operator.functions.reached
    above, below, under = (
        reached(x, pairs)
        for x in (
            sums.map(lambda s: jnp.maximum(s - 1.0, 0.0)),
            sums.map(lambda s: jnp.maximum(1.0 - s, 0.0)),
            row.map(lambda p: jnp.maximum(-p, 0.0)),
        )
    )
    farther = add(above, below.map(jnp.negative))  # a row has one of them
    return farther.map(lambda x: 1.0 + x), under.map(jnp.negative)


def _next_states(grid_operator: GridOperator, pairs: PairTable, place: Place, when: str) -> str:
    for name, location in (
        grid_operator.expectation.early_locations | pairs.locations | pairs.posts
    ).items():
        if location.gap is None:
            continue
        gap, at = largest_at(grid_operator.functions.reached(location.gap, pairs), pairs.feasible)
        if gap > 0:
            spec = grid_operator.model.grid_of(name)
            values = np.asarray(spec.values)
            remedy = (
                "widen the range, or make `feasible` exclude it"
                if not isinstance(spec, Grid)
                else "widen the grid, make `feasible` exclude it, or give the grid outside='clip' "
                "or 'extrapolate'"
            )
            where = place.of(at | _beyond(location.gap, pairs, at))
            what = "post variable" if name in grid_operator.model.post else "next state of"
            if gap == np.inf:
                return (
                    f"from {where}{when} the {what} '{name}' is NaN or infinite; make its rule a "
                    "number there, or make `feasible` exclude it"
                )
            return (
                f"from {where}{when} the {what} '{name}' lies {gap:.6g} off its grid "
                f"[{values[0]:.6g}, {values[-1]:.6g}]; {remedy}"
            )
    return ""


def _beyond(gap: NamedArray, pairs: PairTable, at: Mapping[str, int]) -> dict[str, int]:
    """Return where post variables and later shocks stand when a pair's gap is greatest."""
    named = {p: location for p, location in pairs.posts.items() if p in gap.dims}
    if not named or any(set(location.index.dims) & set(pairs.posts) for location in named.values()):
        return {}
    here = {p: location.map(lambda x: entry(x, at)) for p, location in named.items()}
    _, shocks = largest_at(greatest_reached(entry(gap, at), here), None)
    left = entry(entry(gap, at), shocks)
    reached = [
        {p: int(entry(i, shocks).array) for p, i in indices.items()}
        for indices, weights in corners(here)
        if all(float(entry(w, shocks).array) != 0.0 for w in weights)
    ]
    return max(reached, key=lambda corner: float(entry(left, corner).array)) | shocks


def _discount(looked: ListedPairs, criterion: str) -> str:
    grid_operator = looked.operator
    if isinstance(looked, TriedPairs):
        return _tried_discount(looked)
    return _rate(grid_operator, grid_operator.model, criterion)


def _rate(operator: BellmanOperator, model: Model | TabularModel, criterion: str) -> str:
    survey = operator.survey()
    low, high = float(survey.discount_low), float(survey.discount_high)
    if undiscounted(model, SolveOptions(criterion=criterion)):
        return _shortest_path(operator, model)
    if criterion == "average":
        return _undiscounted(low if low != 1.0 else high)
    if not low >= 0:
        return f"the discount is {low:.6g} somewhere; it cannot be negative or NaN"
    if operator.constant_discount:
        return _constant_discount(high)
    rates = modulus(operator, survey)
    if not float(rates.high) < 1 and bool(rates.monotone):
        return (
            f"the discount reaches {high:.6g}, and the spectral radius of the discounted "
            f"transitions, over all choices, is {spectral_radius(operator):.6g}; "
            f"{_NO_BOUND}: lower the discount, let `feasible` exclude the choices that never lead "
            "to an end, or give the model a horizon"
        )
    return ""


def _tried_discount(looked: TriedPairs) -> str:
    """Look at the discount where choices are continuous; a varying one above 1 the solve judges."""
    discount = looked.operator.model.discount
    if not callable(discount):
        return _constant_discount(float(discount))
    for pairs, place in looked:
        below, where = worst(pairs.discount.map(jnp.negative), pairs.feasible, place)
        if below > 0:
            return f"the discount is {-below:.6g} at {where}; it cannot be negative"
    return ""


# The number 1 in the model tells of a shortest path: another program is compiled then.
_NO_BOUND = (
    "the bounds that certify a value need it below 1, or written as the number 1 in a model whose "
    "choices come from lists (a shortest path: it comes to an end, and detours cost)"
)


def _shortest_path(operator: BellmanOperator, model: Model | TabularModel) -> str:
    """Tell why a sum of rewards that is not discounted is not well-posed, or ''."""
    average = ", or solve for the average reward per period, with criterion='average'"
    remedy = "Or lower the discount, give the model a horizon" + average
    end = np.asarray(shortest_path.ends(operator))
    if not end.any():
        return (
            "the discount is 1, and there is no end at which the sum of rewards is over: states "
            "that no choice leaves, in which none decides what comes next, and whose best reward "
            f"is exactly 0. Let all choices stay at the goal, and the best pay 0 there. {remedy}"
        )
    far = ~np.asarray(shortest_path.reaching(operator, jnp.asarray(end)))
    if far.any():
        at = _state_of(model, np.argwhere(far)[0])
        return (
            f"the discount is 1, and from {at} (in all from {int(far.sum()):,} of {far.size:,} "
            "states) no choices lead to an end, states that no choice leaves and whose best reward "
            "is exactly 0: the sum of rewards is minus infinity. Let them lead there, make these "
            f"states ends, or leave them out. {remedy}"
        )
    if not bool(operator.survey().monotone):
        return (
            "the discount is 1, and a next state is extrapolated beyond its grid, so that no bound "
            "holds; use outside='clip'"
        )
    run = lax.while_loop(
        lambda run: run.running & shortest_path.seeking(run),
        lambda run: shortest_path.iterate(operator, SolveOptions(method="vi"), run),
        shortest_path.begin(operator),
    )
    if int(run.state.code) != Outcome.DISCOUNT:
        return ""
    grown = np.where(end, -np.inf, np.asarray(run.state.swept))  # at a cycle it does fastest
    at = _state_of(model, np.argwhere(grown == grown.max())[0])
    return (
        f"the discount is 1, and no upper solution was found: from {at}, say, choices seem to go "
        "on for ever without a cost (a cycle of rewards that add up to 0 or more), so that the sum "
        "of rewards is infinite, or is not what a shortest path is. Let every period that does "
        f"not lead to an end cost something. {remedy}"
    )


def _state_of(model: Model | TabularModel, at: Numpy) -> str:
    if isinstance(model, TabularModel):
        return f"state {int(at[0])}"
    pairs = zip(model.states.items(), at, strict=True)
    return ", ".join(f"{n}={np.asarray(s.values)[i]:.6g}" for (n, s), i in pairs)


def _constant_discount(beta: float) -> str:
    if 0 <= beta < 1:
        return ""
    if not beta >= 1:
        return f"the discount is {beta:.12g}; over an infinite horizon it must lie in [0, 1)"
    average = ", or solve for the average reward per period, with criterion='average'"
    return (
        f"the discount is {beta:.12g}, which is not below 1; {_NO_BOUND}: lower it, or give the "
        "model a horizon" + average * (beta == 1.0)
    )


def _undiscounted(beta: float) -> str:
    if beta == 1.0:
        return ""
    return (
        f"the discount is {beta!r}, and criterion='average' takes a discount of exactly 1: set "
        "it to 1, or solve with criterion='discounted'"
    )


def spectral_radius(operator: BellmanOperator, sweeps: int = 1_000) -> float:
    """Estimate the growth rate of ``w -> max_c beta E w``, the discount's spectral radius.

    Power iteration on the average of the operator and the identity, which is aperiodic; the
    result lies between the last sweep's Collatz-Wielandt quotients.
    """
    w = jnp.ones(operator.shape)
    rate = 1.0
    for _ in range(sweeps):
        grown = (w + operator.growth(w)) / 2
        new = float(jnp.max(grown))
        w = grown / new
        if abs(new - rate) < 1e-12:
            break
        rate = new
    return 2 * rate - 1


def _diagnose_tabular(model: TabularModel, criterion: str) -> str:
    operator = TabularOperator(model)
    survey = operator.survey()
    feasible = np.asarray(survey.feasible)
    if not feasible.all():
        return f"state {int(np.argmin(feasible))} has no feasible action"
    reward = np.asarray(model.reward)
    bad = np.isnan(reward) | (reward == np.inf)
    if bad.any():
        at = np.argwhere(bad)[0]
        state, action = _pair(model, at)
        return f"the reward is {reward[tuple(at)]} at state {state}, action {action}"
    sums = np.asarray(operator.transition @ jnp.ones(model.n_states))
    gap = np.where(reward > -np.inf, np.abs(np.where(np.isnan(sums), np.inf, sums) - 1.0), 0.0)
    if gap.max() > ROW_SUM_TOLERANCE:
        at = np.argwhere(gap == gap.max())[0]
        state, action = _pair(model, at)
        total = sums[tuple(at)]
        return f"the row of P for state {state}, action {action} sums to {total:.12g}: {REMEDY}"
    if float(survey.least) < 0:
        return f"P has a negative entry, {float(survey.least):g}"
    low, high = float(survey.discount_low), float(survey.discount_high)
    if not (np.isfinite(low) and np.isfinite(high)):
        return "the discount is NaN or infinite at a feasible action; it must be a finite number"
    if model.horizon is not None:
        end = np.zeros(1) if model.end is None else np.asarray(model.end)
        bad = np.flatnonzero(~np.isfinite(end))
        at = int(bad[0]) if bad.size else 0
        return f"the terminal value is {end[at]} at state {at}; it must be finite" * bool(bad.size)
    return _rate(operator, model, criterion)


def _pair(model: TabularModel, at: Numpy) -> tuple[int, int]:
    if model.state_index is None or model.action_index is None:
        return int(at[0]), int(at[1])
    return int(model.state_index[at[0]]), int(model.action_index[at[0]])
