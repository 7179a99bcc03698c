r"""What one exact step proves of a value or a gain; allowances for rounding.

With :math:`v` the claimed value, :math:`d = Tv - v`, :math:`w` a weight (1 if all discounts are
below one) and :math:`\kappa < 1` with :math:`|L| w \le \kappa w` for the operator's linear part:

* A claimed lower bound :math:`\ell` with :math:`T\ell \ge \ell` *is* a lower bound, if :math:`T` is
  monotone: :math:`\ell \le T\ell \le T^2\ell \le \dots \to v^*`; likewise an upper one. One step
  confirms it, with no slack but rounding. Over a finite horizon the step goes from period t + 1
  to period t.
* Else (extrapolation makes :math:`T` not monotone) the claimed bounds must contain
  :math:`Tv \pm \frac{\kappa}{1-\kappa} \lVert d \rVert_w w`, which contains :math:`v^*`.
* The independent error bound is that of the interval
  :math:`Tv + \frac{\kappa}{1-\kappa}[\min d, \max d]` (MacQueen and Porteus), or of the one above.
* :math:`\lVert v - v^* \rVert \ge \lVert d \rVert / (1 + \kappa)`: an ``error_bound`` below that is
  proven false.
* A policy that was greedy for the value before the last sweep, of which :math:`v` is the middle of
  the bounds, loses at most :math:`2 (1 - \kappa_{\min})` times the error bound in one step at v.

Rounding: sums are taken in extended precision and, with one discount factor, around a constant
:math:`c`, for :math:`T(c + u) = \beta c + Tu`. What is left is what the solver's model may differ
by: some 30 units in the last place for the user's functions, which the solver compiles and fuses
and which are evaluated here one primitive at a time, and 2 for probabilities, which it divided by
their sums, too. These are units of :math:`u`, of one period's rewards and of the terms that these
are added up from. Claims are stored in float64: a bound may miss its own confirmation by a unit in
the last place of the value.

Near a discount of one that unit leaves more room than was claimed. Then some more steps are taken
from the stored value, in extended precision, for an interval of our own: a claim that does not meet
it is false. And no float64 computation proves an error below a unit in the last place of the terms
of a reward, so that a claim to have done so is not confirmed.

*A discount of one.* A step confirms a bound only where :mod:`.shortest_path` finds an upper
solution, and the interval is the one that follows from it.

*Average rewards.* With :math:`d = Tv - v` for the stored relative value :math:`v`, every state's
gain lies in :math:`[\min d, \max d]` (see :mod:`dpsolve.solvers.methods.average`). So a stored
bound is confirmed if it is no tighter than that, but for rounding. A policy that is greedy for the
stored value loses nothing in one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.model_definition.bellman import (
    WIDE,
    WIDE_EPS,
    Array,
    BellmanSweep,
    Decisions,
    Definition,
    Index,
    bellman,
    growth,
)
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model

from . import shortest_path

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
MOST_WEIGHT = 1e12  # a weight function beyond this bounds nothing
MORE_STEPS = 20  # for an interval of our own
MOST_ENTRIES = 2**20  # pairs and next states of a problem for which they are taken


@dataclass(frozen=True)
class Claim:
    """Value and bounds (n,) at one period.

    ``names`` are what the lower and the upper bound are called; None for one that is not claimed.
    """

    value: Array
    lower: Array
    upper: Array
    names: tuple[str | None, str | None]


@dataclass(frozen=True)
class Interval:
    """What is proven to contain the true value; ``slack`` of it is the allowance for rounding."""

    low: Array
    high: Array
    slack: float = 0.0


@dataclass(frozen=True)
class Place:
    """A problem, the states of it that are looked at (flat numbers), and their names."""

    model: Model | TabularModel
    definition: Definition
    states: Index

    def at(self, s: int, t: int | None = None) -> str:
        """Name a state by its values."""
        index = np.unravel_index(s, self.definition.shape)
        pairs = zip(axes(self.model).items(), index, strict=True)
        named = [f"{name}={values[i]:.6g}" for (name, values), i in pairs]
        return ", ".join(named if t is None else [f"t={t}", *named])


def axes(model: Model | TabularModel) -> dict[str, NDArray[Any]]:
    """Return the values of each state."""
    if isinstance(model, TabularModel):
        return {"state": np.arange(model.n_states)}
    return {name: np.asarray(model.grid_of(name).values) for name in model.states}


def menus(model: Model | TabularModel) -> dict[str, NDArray[Any]]:
    """Return the values of each choice that has a list of them."""
    if isinstance(model, TabularModel):
        return {"action": np.arange(model.n_actions)}
    return {name: np.asarray(model.grid_of(name).values) for name in model.gridded}


def alternatives(model: Model | TabularModel) -> dict[str, NDArray[Any]]:
    """Return the values of each choice with taste shocks, which results have an axis of."""
    tastes = model.taste if isinstance(model, Model) else None
    return {} if tastes is None else {name: menus(model)[name] for name in tastes.choices}


@dataclass(frozen=True)
class ValueProof:
    """One step of the operator, from what is claimed ahead to what is claimed here.

    Over an infinite horizon both are the same claim; ``bound`` is the claimed error bound.
    """

    place: Place
    t: int | None
    here: Claim
    ahead: Claim
    bound: float

    @cached_property
    def around(self) -> tuple[Any, Any]:
        """A constant that the values lie around, and what one step makes of it."""
        beta, value = self.place.definition.constant, self.ahead.value
        if self.t is not None or beta is None:
            return WIDE(0), WIDE(0)
        middle = (WIDE(value.max()) + WIDE(value.min())) / 2
        return middle, WIDE(beta) * middle

    @cached_property
    def sweep(self) -> BellmanSweep:
        """Apply the operator to the value and both bounds."""
        place, ahead = self.place, self.ahead
        n, (before, after) = place.definition.n, self.around
        sides = (ahead.lower, ahead.upper)
        bounds = [x if np.isfinite(x).all() else ahead.value for x in sides]
        some = None if place.states.size == n else place.states
        values = [x - before for x in (ahead.value, *bounds)]
        found = bellman(place.definition, values, self.t, some)
        each = None if found.each is None else found.each + after
        return replace(found, value=found.value + after, each=each)

    @cached_property
    def rounding(self) -> float:
        """The allowance for rounding of one step."""
        (before, after), definition = self.around, self.place.definition
        rests = (self.sweep.value[0] - after, self.ahead.value - before, self.here.value - before)
        scale = max(float(np.max(np.abs(v))) for v in rests) + self.sweep.cancelled
        moved = scale + float(abs(before - after))
        added = (8 + 2 * definition.depth) * WIDE_EPS * (scale + float(abs(before)))
        return definition.units * EPS * moved + added + definition.depth * TINY

    @cached_property
    def stored(self) -> float:
        """A unit in the last place of the values, to which claims were rounded."""
        return EPS * float(np.max(np.abs(self.here.value)))

    @cached_property
    def difference(self) -> Array:
        """What one step changes, Tv − v, at the states looked at."""
        return np.asarray(self.sweep.value[0] - self.here.value[self.place.states])

    @property
    def residual(self) -> float:
        """The largest change."""
        return float(np.max(np.abs(self.difference)))

    def at(self, i: int) -> str:
        """Name the i-th of the states looked at."""
        return self.place.at(int(self.place.states[i]), self.t)

    def interval(self, ahead: Interval) -> Interval:
        """Return what is proven to contain the true value, at the states looked at.

        Parameters
        ----------
        ahead : Interval
            The same for the next period; over an infinite horizon it does not matter.
        """
        value, (least, most) = self.sweep.value[0], self.sweep.discount
        if self.t is not None:
            next_value = self.ahead.value[self.place.states]
            error = np.maximum(ahead.high - next_value, next_value - ahead.low).max()
            slack = self.rounding + most * ahead.slack
            reach = most * float(error) + self.rounding
            return Interval(value - reach, value + reach, slack)
        if self.undiscounted:
            return self._summed
        if not most < 1.0:
            return self._weighted_interval()
        slack = self.rounding / (1.0 - most)
        if self._refinable():
            return self._refined()
        low, high = float(self.difference.min()), float(self.difference.max())
        if not self.sweep.monotone:
            high = max(high, -low)
            low = -high
        below = _series(low, most if low < 0 else least) - slack
        above = _series(high, most if high >= 0 else least) + slack
        return Interval(value + below, value + above, slack)

    def _refinable(self) -> bool:
        """Tell whether rounding in the stored value leaves more room than is claimed."""
        definition, (_, most) = self.place.definition, self.sweep.discount
        entries = definition.n * definition.m * definition.width
        return (
            definition.constant is not None
            and self.sweep.monotone
            and self.place.states.size == definition.n
            and entries <= MOST_ENTRIES
            and self.stored / (1.0 - most) > self.bound / 8
        )

    def _refined(self) -> Interval:
        """Take more steps from the stored value, for as long as they narrow its interval."""
        definition, (c, _) = self.place.definition, self.around
        beta, u = WIDE(definition.constant), self.ahead.value - c
        unit = definition.units * EPS + (8 + 2 * definition.depth) * WIDE_EPS
        best, width = Interval(u - np.inf, u + np.inf), WIDE(np.inf)
        for _ in range(MORE_STEPS):
            tu, step, base = bellman(definition, [u]).value[0], (1 - beta) * c, beta * c
            change = (tu - u - step) / (1 - beta)
            low, high = beta * change.min(), beta * change.max()
            if not high - low < width / 2:
                break
            width = high - low
            scale = max(np.max(np.abs(u)), np.max(np.abs(tu))) + self.sweep.cancelled + abs(step)
            slack = (unit * scale + definition.depth * TINY) / (1 - beta)
            slack += 8 * WIDE_EPS * (abs(c) + max(abs(low), abs(high)))
            rest = tu + base
            best = Interval(rest + (low - slack), rest + (high + slack), float(slack))
            middle = (tu.max() + tu.min()) / 2
            u, c = tu - middle, base + middle + (low + high) / 2
        return best

    @property
    def undiscounted(self) -> bool:
        """Whether it is a sum of rewards without an end in time."""
        return self.t is None and self.place.definition.constant == 1.0

    @cached_property
    def _summed(self) -> Interval:
        """An interval for a sum of rewards; infinite where none is proven."""
        states = self.place.states
        found = shortest_path.bounds(self.place.definition, self.ahead.value, states)
        if found is None or not self.sweep.monotone:
            return Interval(np.full(states.size, -np.inf), np.full(states.size, np.inf))
        return Interval(*found)

    def _weighted_interval(self) -> Interval:
        value = self.sweep.value[0]
        weight, rate = find_weight(self.place.definition)
        if not rate < 1.0:
            return Interval(np.full_like(value, -np.inf), np.full_like(value, np.inf))
        weight = weight[self.place.states]
        slack = self.rounding / (1.0 - rate) * float(weight.max())
        reach = _series(float(np.max(np.abs(self.difference) / weight)), rate) * weight + slack
        return Interval(value - reach, value + reach, slack)

    def faults(self, proven: Interval) -> Iterator[str]:
        """Yield each contradiction between the claim and the step."""
        yield from self._bound_faults(1, self.here.lower, proven)
        yield from self._bound_faults(2, self.here.upper, proven)
        yield from self._too_fine()
        if self.undiscounted and np.isfinite(self.bound) and np.isinf(proven.high).any():
            yield (
                f"error_bound claims {self.bound:.3g} at a discount of 1, but no upper solution "
                "proves that the sum of rewards is finite, and what it is"
            )
        least_error = (self.residual - self.rounding) / (1.0 + self.sweep.discount[1])
        if self.t is None and least_error > self.bound * (1 + 8 * EPS):
            i = int(np.argmax(np.abs(self.difference)))
            yield (
                f"value at {self.at(i)}: one step of the definition moves it by "
                f"{self.difference[i]:.3g}, so its error is at least {least_error:.3g}, but "
                f"error_bound claims {self.bound:.3g}"
            )

    def _too_fine(self) -> Iterator[str]:
        """Refuse an error bound below what float64 leaves of the terms of a reward."""
        most = self.sweep.discount[1] if self.t is None else 0.0
        least = EPS * self.sweep.cancelled / (1.0 - most if most < 1.0 else 1.0)
        if self.bound < least:
            yield (
                f"error_bound claims {self.bound:.3g}, but rewards are added up from terms that "
                f"cancel, up to {self.sweep.cancelled:.3g}: in float64 no error below {least:.3g} "
                "can be proven"
            )

    def _bound_faults(self, k: int, bound: Array, proven: Interval) -> Iterator[str]:
        """Confirm a claimed bound by one step from itself, or by the proven interval."""
        if self.here.names[k - 1] is None or np.isinf(bound).all():
            return  # infinite bounds are honest where nothing could be certified
        claimed = bound[self.place.states]
        sign = 1.0 if k == 1 else -1.0
        gap = sign * (claimed - self.sweep.value[k])  # how far one step falls short of the claim
        near, far = (proven.low, proven.high)[:: 1 if k == 1 else -1]
        refuted = sign * (claimed - near) > 2.0 * proven.slack + self.stored
        if self.sweep.monotone:
            refuted = (gap > self.rounding + self.stored) & (sign * (claimed - near) > 0)
        refuted |= sign * (claimed - far) > 0
        if not refuted.any():
            return
        i = int(np.argmax(np.where(refuted, gap, -np.inf)))
        name, side, beyond = (
            self.here.names[k - 1],
            *(("lower", "below"), ("upper", "above"))[k - 1],
        )
        yield (
            f"{name} at {self.at(i)}: {claimed[i]:.12g} is not confirmed as the {side} bound; one "
            f"step of the definition from the stored bounds gives {self.sweep.value[k][i]:.12g}, "
            f"{abs(gap[i]):.3g} {beyond} it (rounding allows {self.rounding:.1g}; the true value "
            f"lies from {proven.low[i]:.12g} to {proven.high[i]:.12g})"
        )

    def policy_faults(self, policy: Decisions) -> Iterator[str]:
        """Check that a policy is feasible, and loses no more than the error bound allows.

        With taste shocks: at each alternative that has a chance.
        """
        states, definition = self.place.states, self.place.definition
        names = ", ".join(f"policy_{name}" for name in menus(self.place.model))
        ahead = definition.ahead(self.ahead.value, self.t)
        for j, (choice, chance) in enumerate(policy.at(self.t or 0)):
            look, likely = definition.look(states, choice[states], self.t), chance[states] > 0
            if not (look.feasible | ~likely).all():
                i = int(np.argmin(look.feasible | ~likely))
                yield f"{names} at {self.at(i)} is not feasible there"
                return
            each = self.sweep.each
            best = self.sweep.value[0] if each is None else each[0, :, j]
            loss = np.where(likely, best, 0.0) - np.where(likely, look.q(ahead), 0.0)
            if (loss > self.allowed_loss).any():
                i = int(np.argmax(loss))
                yield (
                    f"{names} at {self.at(i)} loses {loss[i]:.3g} in one step, more than the "
                    f"{self.allowed_loss:.3g} that error_bound={self.bound:.3g} leaves room for"
                )
                return

    @property
    def allowed_loss(self) -> float:
        """What a policy may lose in one step."""
        if not np.isfinite(self.bound):
            return np.inf
        least, most = self.sweep.discount
        contracts = self.t is None and self.sweep.monotone and most < 1.0
        room = 2.0 * self.bound * (1.0 - least if contracts else 1.0)
        return room + 2.0 * (self.rounding + self.stored)


def _series(difference: float, rate: float) -> float:
    return difference * rate / (1.0 - rate)


def find_weight(definition: Definition) -> tuple[Array, float]:
    """Find w ≥ 1 with max_c |β| |E| w ≤ κ w; return it and κ (not below 1 if there is none).

    The smallest w = 1 + max_c β E w is itself a dynamic program, with reward one: it is solved by
    policy iteration, its policies evaluated by plain iteration.
    """
    weight: Array = np.ones(definition.n, WIDE)
    states = np.arange(definition.n)
    rate = np.inf
    for _ in range(50):
        grown, policy = growth(definition, weight)
        rate = float(np.max(grown / weight)) * (1.0 + 4 * definition.depth * EPS)
        settled = np.max(np.abs(1.0 + grown - weight)) <= 1e-3 * np.max(weight)
        if settled or not np.max(grown) < MOST_WEIGHT:
            break
        look = definition.look(states, policy)
        weight = 1.0 + grown
        for _ in range(200):
            weight = 1.0 + look.growth(definition.ahead(weight))
    return weight, rate


GAINS = ("gain", "gain_lower", "gain_upper")


@dataclass(frozen=True)
class GainProof:
    """One step from a stored relative value (n,), and what is stored of the gain.

    ``error`` is the independent bound on the error of the stored gain, NaN if none is stored.
    """

    step: ValueProof
    gains: Mapping[str, float]

    @property
    def residual(self) -> float:
        """Half the span of the change."""
        change = self.step.difference
        return float(change.max() - change.min()) / 2

    @property
    def error(self) -> float:
        """How far the stored gain may be off, by this step alone."""
        gain, change = self.gains.get("gain", np.nan), self.step.difference
        reach = max(change.max() - gain, gain - change.min())
        return float(reach) + self.step.rounding

    def faults(self, policy: Decisions | None) -> Iterator[str]:
        """Yield each contradiction between what is stored and the step."""
        step, bound = self.step, self.step.bound
        if not np.isfinite(step.sweep.value[0]).all():
            i = int(np.argmin(np.isfinite(step.sweep.value[0])))
            yield (
                f"value: the definition gives {step.sweep.value[0][i]} at {step.at(i)} (no "
                "feasible choice, or a reward that is not a number), but the point is not stored "
                "as failed"
            )
            return
        yield from self._wrong_numbers()
        least, most = step.sweep.discount
        if not abs(least - 1) <= 1e-8 or not abs(most - 1) <= 1e-8:
            yield f"the gain is of a discount of 1, but the model's reaches {most:.12g}"
        if not step.sweep.monotone and np.isfinite(bound):
            yield "a bound on the gain is claimed, but a next state is extrapolated: none holds"
        change, slack = step.difference, 2 * step.rounding
        for name, sign, proven in (
            ("gain_lower", 1.0, float(change.min())),
            ("gain_upper", -1.0, float(change.max())),
        ):
            claimed = self.gains.get(name, sign * -np.inf)
            if sign * (claimed - proven) > slack:
                i = int(np.argmin(sign * change))
                yield (
                    f"{name} is {claimed:.12g}, which is not confirmed: at {step.at(i)} one step "
                    f"of the definition moves the value by {proven:.12g}"
                )
        if self.residual > bound + slack:
            yield (
                f"one step of the definition leaves the gain open by {self.residual:.3g} either "
                f"way, but error_bound claims {bound:.3g}"
            )
        if policy is not None:
            yield from step.policy_faults(policy)

    def _wrong_numbers(self) -> Iterator[str]:
        """Compare the stored numbers with each other."""
        bound = self.step.bound
        if np.isnan(bound) or bound < 0:
            yield f"error_bound is {bound}, which is no bound"
            return
        for name, x in self.gains.items():
            if np.isnan(x):
                yield f"{name} is NaN"
        if "gain" not in self.gains or not np.isfinite(bound):
            return
        gain = self.gains["gain"]
        allowed = bound * (1 + 8 * EPS) + 16 * EPS * abs(gain)
        for name, sign in (("gain_lower", 1.0), ("gain_upper", -1.0)):
            apart = sign * (gain - self.gains.get(name, gain))
            if not 0 <= apart <= allowed:
                yield (
                    f"gain={gain:.12g} and {name}={self.gains[name]:.12g} contradict "
                    f"error_bound={bound:.12g}"
                )


def gain_step(
    place: Place, arrays: Mapping[str, NDArray[np.float64]], bound: float
) -> GainProof | None:
    """Take one step from the stored relative value; None if no value is stored."""
    if "value" not in arrays:
        return None
    value: Array = np.asarray(arrays["value"], np.float64).reshape(-1)
    claim = Claim(value, value, value, (None, None))
    gains = {name: float(arrays[name]) for name in GAINS if name in arrays}
    return GainProof(ValueProof(place, None, claim, claim, bound), gains)
