"""One stored point against the definition: value, policy, outputs, and their tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.model_definition.bellman import Array, Decisions, Index
from dpsolve.hpc.model_definition.continuous import ContinuousProblem
from dpsolve.hpc.model_definition.pairs import define
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model

from .continuum import CONTINUUM, DECLARED, examine_continuum
from .continuum_bounds import PolicyChain
from .distributions import Asked, distribution_faults
from .not_concave import GRID, amount_faults, of_steps, of_table
from .proofs import (
    EPS,
    GAINS,
    Claim,
    Interval,
    Place,
    ValueProof,
    alternatives,
    axes,
    gain_step,
    menus,
)

OUTPUT_TOLERANCE = 1e-9  # of an output, relative to its largest value over the states


@dataclass(frozen=True)
class Stored:
    """What is stored of one point: arrays by name, with the states' own shape.

    With `finer`, it was solved on more nodes than are stored, and that builds the model there.
    """

    arrays: Mapping[str, NDArray[Any]]
    error_bound: float
    asked: Asked = field(default_factory=Asked)
    finer: Callable[[], Any] | None = None

    def periods(self, name: str, n: int) -> NDArray[Any]:
        """Return an array over the states as (periods, n); one period, if there is no horizon."""
        return np.asarray(self.arrays[name]).reshape(-1, n)


@dataclass
class Findings:
    """What was found at one point.

    Attributes
    ----------
    residual : float
        Largest Bellman residual of the stored value; NaN if none is stored.
    error : float
        The independent bound on the value's error.
    share : float
        Share of the states that were looked at.
    width : float
        The largest distance between our own bounds over the continuum; NaN if there are none.
    faults : list of str
        Each contradiction, as a sentence without the point's name.
    notes : list of str
        What limits the check.
    """

    residual: float = np.nan
    error: float = np.nan
    share: float = 1.0
    width: float = np.nan
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(model: Model | TabularModel, stored: Stored, states: Index | None = None) -> Findings:
    """Compare what is stored of one point with the definition of its model.

    Parameters
    ----------
    model : Model or TabularModel
        At the point's parameters.
    stored : Stored
    states : int array, optional
        Flat numbers of the states to look at; all by default.

    Raises
    ------
    ModelError
        If the definition cannot be evaluated: a next state off its grid, probabilities that leak.
    """
    if isinstance(model, Model) and model.continuous:
        return _of_continuous_choices(model, stored)
    definition = define(model)
    place = Place(model, definition, np.arange(definition.n) if states is None else states)
    found = Findings(share=place.states.size / definition.n)
    found.faults += _grid_faults(model, stored)
    policy, faults = _policy(place, stored)
    found.faults += faults
    averaged = any(name in stored.arrays for name in GAINS)
    if averaged:
        _step_of_average(place, policy, stored, found)
    claims = [] if averaged else _claims(place, stored)
    if claims:
        found.faults += _not_numbers(place, claims, stored.error_bound)
    if claims and not found.faults:
        found.faults += _disagreements(place, claims, stored.error_bound)
        _step_through(place, claims, policy, stored, found)
    if not faults:
        found.faults += distribution_faults(place, policy, stored.arrays, stored.asked)
    return found


def _of_continuous_choices(model: Model, stored: Stored) -> Findings:
    """Compare a point with the definition and with bounds over the continuum, at all states."""
    code = int(stored.arrays.get("certifies", np.int64(CONTINUUM)))
    if code == GRID:
        return _of_table(model, stored)
    unproved = not int(stored.arrays.get("concavity", np.int64(DECLARED)))
    if code == CONTINUUM and unproved and model.concave is not True:
        return _of_steps(model, stored)
    finer = None if stored.finer is None else stored.finer()
    found = examine_continuum(model, stored.arrays, stored.error_bound, finer)
    faults = [*_grid_faults(model, stored), *found.faults]
    if found.policy is not None and not faults:
        # It answers what distributions ask of a definition, and takes choices from the policy.
        chain: Any = PolicyChain(ContinuousProblem(model), found.policy)
        place = Place(model, chain, np.arange(chain.n))
        anything = Decisions.sure(np.zeros((len(found.policy), chain.n), np.int64))
        faults += distribution_faults(place, anything, stored.arrays, stored.asked)
    return Findings(found.residual, found.error, 1.0, found.width, faults, found.notes)


def _of_table(model: Model, stored: Stored) -> Findings:
    """Compare bounds of the best of a table of choices with the definition of that."""
    plain, held, faults = of_table(model, stored.arrays)
    faults = [*faults, *amount_faults(model, stored.arrays)]
    found = examine(plain, replace(stored, arrays=held))
    found.faults[:0] = faults
    if any("distribution" in n or n.startswith("moment_") for n in stored.arrays):
        found.notes.append("distributions and moments of a table of choices were not checked")
    return found


def _of_steps(model: Model, stored: Stored) -> Findings:
    """Try bounds of the continuum that are steps between nodes."""
    faults = [*_grid_faults(model, stored), *amount_faults(model, stored.arrays)]
    bound = stored.error_bound
    if not faults:
        faults += of_steps(model, stored.arrays, bound)
    note = "bounds that are steps between nodes were tried at states drawn by chance"
    return Findings(faults=faults, notes=[note])


# -- what can be seen without the operator --------------------------------------------------------


def _grid_faults(model: Model | TabularModel, stored: Stored) -> Iterator[str]:
    for state, values in (axes(model) | alternatives(model)).items():
        for name in (state, f"grid_{state}"):
            if name not in stored.arrays:
                continue
            held = np.asarray(stored.arrays[name])
            if held.shape != values.shape:
                yield f"{name} has {held.size} values, but the model's grid has {values.size}"
                continue
            gap = np.abs(held - values)
            worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
            if not gap[worst] <= 16 * EPS * np.max(np.abs(values)):
                yield (
                    f"{name}: number {worst + 1} is stored as {held[worst]:.17g}, but the model's "
                    f"grid has {values[worst]:.17g} there"
                )


def _policy(place: Place, stored: Stored) -> tuple[Decisions | None, list[str]]:
    """Return what is chosen, None if it is not stored as a whole or is wrong."""
    parts: dict[str, Index] = {}
    faults: list[str] = []
    choices, definition = menus(place.model), place.definition
    tastes = definition.tastes
    shocked = () if tastes is None else tastes.choices
    for name, menu in choices.items():
        n = definition.n * (1 if tastes is None or name in shocked else tastes.alternatives)
        if f"policy_index_{name}" in stored.arrays:
            index = stored.periods(f"policy_index_{name}", n).astype(np.int64)
        elif f"policy_{name}" in stored.arrays:
            index = _nearest(menu, stored.periods(f"policy_{name}", n))
        else:
            continue
        wrong = list(_choice_faults(place, stored, name, index))
        faults += wrong
        parts |= {} if wrong else {name: index}
    if not choices:
        return Decisions.sure(np.zeros((definition.horizon or 1, definition.n), np.int64)), []
    if len(parts) < len(choices):
        return None, faults
    if tastes is None:
        flat = np.ravel_multi_index([*parts.values()], definition.choice_shape)
        return Decisions.sure(np.asarray(flat)), faults
    if tastes.name not in stored.arrays:
        return None, faults
    chance = stored.periods(tastes.name, definition.n * tastes.alternatives).astype(np.float64)
    chance = chance.reshape(-1, definition.n, tastes.alternatives)
    faults += _chance_faults(place, chance, [parts[name] for name in shocked])
    own = np.unravel_index(np.arange(tastes.alternatives), tastes.shape)
    each = {
        name: np.broadcast_to(own[shocked.index(name)], chance.shape)
        if name in shocked
        else parts[name].reshape(chance.shape)
        for name in choices
    }
    flat = np.ravel_multi_index([*each.values()], definition.choice_shape)
    return (None if faults else Decisions(np.asarray(flat), chance)), faults


def _chance_faults(place: Place, chance: Array, shocked: list[Index]) -> Iterator[str]:
    """Check that probabilities (periods, n, alternatives) are some, and which is the likeliest."""
    tastes = place.definition.tastes
    assert tastes is not None
    total = chance.sum(-1)
    bad = ~((chance >= 0.0).all(-1) & (np.abs(total - 1.0) <= 32 * EPS * tastes.alternatives))
    if bad.any():
        yield f"{tastes.name} at {_first(place, bad)} sums to {total[bad][0]:.15g}, not to 1"
        return
    chosen = np.ravel_multi_index(shocked, tastes.shape)[..., None]
    own = np.take_along_axis(chance, np.asarray(chosen), -1)[..., 0]
    bad = own < chance.max(-1)
    if bad.any():
        names = ", ".join(f"policy_{name}" for name in tastes.choices)
        yield (
            f"{names} at {_first(place, bad)} has the chance {own[bad][0]:.6g}, and is not the "
            f"likeliest: another has {chance.max(-1)[bad][0]:.6g}"
        )


def _choice_faults(place: Place, stored: Stored, name: str, index: Index) -> Iterator[str]:
    menu = menus(place.model)[name]
    bad = (index < 0) | (index >= menu.size)
    if bad.any():
        yield (
            f"policy_index_{name} at {_first(place, bad)} is {index[bad][0]}, but the choice has "
            f"the positions 0 to {menu.size - 1}"
        )
        return
    if f"policy_{name}" not in stored.arrays:
        return
    chosen = stored.periods(f"policy_{name}", index.shape[-1])
    bad = ~(np.abs(chosen - menu[index]) <= 16 * EPS * np.max(np.abs(menu)))
    if bad.any():
        instead = f"that is no value of the choice (the closest is {menu[index][bad][0]:.17g})"
        if f"policy_index_{name}" in stored.arrays:
            instead = f"policy_index_{name} points to {menu[index][bad][0]:.17g}"
        where = _first(place, bad)
        yield f"policy_{name} at {where} is {chosen[bad][0]:.17g}, but {instead}"


def _nearest(menu: NDArray[Any], chosen: NDArray[Any]) -> Index:
    """Return the position of the closest value; a choice's grid need not increase."""
    order = np.argsort(menu, kind="stable")
    ordered = menu[order].astype(np.float64)
    right = np.clip(np.searchsorted(ordered, chosen), 0, menu.size - 1)
    left = np.maximum(right - 1, 0)
    closer = np.abs(chosen - ordered[left]) <= np.abs(chosen - ordered[right])
    return np.asarray(order[np.where(closer, left, right)], dtype=np.int64)


def _first(place: Place, bad: NDArray[np.bool_]) -> str:
    """Name the first state (and period) at which something is so."""
    t, at = divmod(int(np.argmax(bad)), bad.shape[-1])
    s = at * place.definition.n // bad.shape[-1]  # of several alternatives, the state
    return place.at(s, None if place.definition.horizon is None else t)


def _claims(place: Place, stored: Stored) -> list[Claim]:
    """Return what is claimed of the value, by period (one, if there is no horizon)."""
    held: dict[str, Array] = {
        name: stored.periods(name, place.definition.n).astype(np.float64)
        for name in ("value", "lower", "upper")
        if name in stored.arrays
    }
    if not held:
        return []
    # Without a value, its error bound is about the middle of the bounds.
    instead = "value" if "value" in held else None
    names = tuple(name if name in held else instead for name in ("lower", "upper"))
    if "value" not in held:
        held["value"] = np.mean(list(held.values()), axis=0)
        if len(names) - names.count(None) < 2:
            held["value"] += stored.error_bound * (1.0 if "lower" in held else -1.0)
    lower = held.get("lower", held["value"] - stored.error_bound)
    upper = held.get("upper", held["value"] + stored.error_bound)
    return [
        Claim(*at, (names[0], names[1])) for at in zip(held["value"], lower, upper, strict=True)
    ]


def _not_numbers(place: Place, claims: list[Claim], bound: float) -> Iterator[str]:
    if np.isnan(bound) or bound < 0:
        yield f"error_bound is {bound}, which is no bound"
        return
    for t, claim in enumerate(claims):
        when = None if place.definition.horizon is None else t
        for name, values in zip(
            ("value", *claim.names), (claim.value, claim.lower, claim.upper), strict=True
        ):
            # Infinite bounds are honest where nothing could be certified.
            honest = np.isinf(values) if np.isinf(bound) and name != "value" else False
            bad = ~(np.isfinite(values) | honest) & (name is not None)
            if bad.any():
                s = int(np.argmax(bad))
                yield f"{name} at {place.at(s, when)} is {values[s]}"
                return


def _disagreements(place: Place, claims: list[Claim], bound: float) -> Iterator[str]:
    """Compare value, bounds and error bound with each other."""
    for t, claim in enumerate(claims):
        when = None if place.definition.horizon is None else t
        slack = 16 * EPS * float(np.max(np.abs(claim.value)))
        for name, side, gap in (
            (claim.names[0], "above", claim.value - claim.lower),
            (claim.names[1], "below", claim.upper - claim.value),
        ):
            if name is None:
                continue
            if gap.min() < -slack:
                s = int(np.argmin(gap))
                yield f"{name} at {place.at(s, when)} lies {side} value, by {-gap[s]:.3g}"
            far = gap > bound * (1 + 8 * EPS) + slack
            if far.any():
                s = int(np.argmax(gap))
                yield (
                    f"value and {name} at {place.at(s, when)} are {gap[s]:.12g} apart, more than "
                    f"error_bound={bound:.12g} (so at {int(far.sum())} of {far.size} states)"
                )


# -- what the operator says -----------------------------------------------------------------------


def _step_through(
    place: Place, claims: list[Claim], policy: Decisions | None, stored: Stored, found: Findings
) -> None:
    """Take one step to each claim: from itself, or backward through the periods."""
    definition = place.definition
    ahead, proven = claims[0], Interval(claims[0].value, claims[0].value)
    if definition.horizon is not None:
        end = definition.terminal()
        ahead = Claim(end, end, end, claims[0].names)
        proven = Interval(end[place.states], end[place.states])
    found.residual = found.error = 0.0
    for t in reversed(range(len(claims))):
        when = None if definition.horizon is None else t
        step = ValueProof(place, when, claims[t], ahead, stored.error_bound)
        value = step.sweep.value[0]
        if not np.isfinite(value).all():
            i = int(np.argmin(np.isfinite(value)))
            found.faults.append(
                f"value: the definition gives {value[i]} at {step.at(i)} (no feasible choice, or a "
                "reward that is not a number), but the point is not stored as failed"
            )
            return
        proven = step.interval(proven)
        here = claims[t].value[place.states]
        error = max(np.max(proven.high - here), np.max(here - proven.low))
        found.residual = max(found.residual, step.residual)
        found.error = max(found.error, float(error))
        found.faults += step.faults(proven)
        if policy is not None:
            found.faults += step.policy_faults(policy)
            if definition.tastes is not None:
                claimed = float(stored.arrays.get("probability_error", np.inf))
                found.faults += _chance_differences(step, policy.chance[t], claimed)
        if not found.faults:
            found.faults += _output_faults(step, policy, stored, t)
        ahead = claims[t]


def _chance_differences(step: ValueProof, chance: Array, claimed: float) -> Iterator[str]:
    """Check stored probabilities (n, alternatives) against those at the stored value."""
    tastes, meant = step.place.definition.tastes, step.sweep.chance
    assert tastes is not None
    assert meant is not None
    here = chance[step.place.states]
    off = np.abs(here - meant[0])
    if not claimed >= 0.0:
        yield f"probability_error is {claimed}, which is no bound"
        return
    (before, _), steep = step.around, tastes.steepest
    wide = step.rounding + EPS * float(np.abs(before)) * step.place.definition.units
    allowed = claimed + 2.0 * steep * wide + (tastes.alternatives + 32) * EPS
    if not off.max() <= allowed:
        i, j = np.unravel_index(int(np.argmax(np.where(np.isnan(off), np.inf, off))), off.shape)
        values = np.unravel_index(j, tastes.shape)
        which = ", ".join(
            f"{name}={menus(step.place.model)[name][k]:.6g}"
            for name, k in zip(tastes.choices, values, strict=True)
        )
        yield (
            f"{tastes.name} at {step.at(int(i))}, {which} is {here[i, j]:.12g}, but the "
            f"definition gives {meant[0][i, j]:.12g} at the stored value, and "
            f"probability_error claims {claimed:.3g}"
        )


def _step_of_average(
    place: Place, policy: Decisions | None, stored: Stored, found: Findings
) -> None:
    """Take one step from a relative value, and compare it with the bounds of the gain."""
    taken = gain_step(place, stored.arrays, stored.error_bound)
    if taken is None:
        return
    found.faults += taken.faults(policy)
    found.residual, found.error = taken.residual, taken.error
    if not found.faults:
        found.faults += _output_faults(taken.step, policy, stored, 0)


def _output_faults(
    step: ValueProof, policy: Decisions | None, stored: Stored, t: int
) -> Iterator[str]:
    """Compare stored outputs with the output functions at the stored policy.

    With taste shocks: at each alternative that has a chance.
    """
    definition, states = step.place.definition, step.place.states
    several = 1 if definition.tastes is None else definition.tastes.alternatives
    held = {
        name.removeprefix("output_"): stored.periods(name, definition.n * several)[t]
        .reshape(definition.n, several)[states]
        for name in stored.arrays
        if name.startswith("output_")
    }  # fmt: skip
    if not held:
        return
    if policy is None:
        if several > 1:  # which choices go with which alternative, nobody knows
            return
        found = _closest_outputs(step, {name: x[:, 0] for name, x in held.items()})
        yield from _output_differences(
            step, {name: x[:, 0] for name, x in held.items()}, found,
            "its function gives no closer than {:.12g} at the choices that are nearly optimal",
        )  # fmt: skip
        return
    said = "its function at the stored policy gives {:.12g}"
    for j, (choice, chance) in enumerate(policy.at(step.t or 0)):
        found = definition.outputs(states, choice[states], step.t)
        likely = chance[states] > 0
        values = {name: np.where(likely, x[:, j], 0.0) for name, x in held.items()}
        meant = {name: np.where(likely, x, 0.0) for name, x in found.items()}
        yield from _output_differences(step, values, meant, said)


def _output_differences(
    step: ValueProof, held: Mapping[str, Array], found: Mapping[str, Array], said: str
) -> Iterator[str]:
    for name, values in held.items():
        scale = max(np.max(np.abs(found[name])), np.max(np.abs(values)))
        off = np.abs(values - found[name])
        i = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        if not off[i] <= OUTPUT_TOLERANCE * scale:
            yield (
                f"output_{name} at {step.at(i)} is {values[i]:.12g}, but "
                + said.format(found[name][i])
            )


def _closest_outputs(step: ValueProof, held: Mapping[str, Array]) -> dict[str, Array]:
    """Return the output closest to the stored one, of all choices that the error bound allows."""
    definition, states = step.place.definition, step.place.states
    ahead = definition.ahead(step.ahead.value, step.t)
    closest = {name: np.full(states.size, np.nan) for name in held}
    for down, across, look in definition.blocks(step.t, states):
        s, c = np.meshgrid(states[down], np.arange(definition.m)[across], indexing="ij")
        outputs = definition.outputs(s.ravel(), c.ravel(), step.t)
        good = look.q(ahead).reshape(s.shape) >= step.sweep.value[0][down, None] - step.allowed_loss
        for name, values in held.items():
            found = np.where(good, outputs[name].reshape(s.shape), np.nan)
            gap = np.abs(found - values[down, None])
            best = np.argmin(np.where(np.isnan(gap), np.inf, gap), axis=1)[:, None]
            here = np.take_along_axis(found, best, 1)[:, 0]
            closer = ~(np.abs(here - values[down]) >= np.abs(closest[name][down] - values[down]))
            closest[name][down] = np.where(closer & ~np.isnan(here), here, closest[name][down])
    return closest
