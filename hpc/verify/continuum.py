"""A stored point of a model with continuous choices against bounds of our own.

With the stored policy, :mod:`.continuum_bounds` and :mod:`.continuum_lines` bound the true value
over the whole continuum, once more and in NumPy: ``l <= v* <= U``. What is stored is refuted where
it contradicts that:

* the policy is feasible at every node, and within its stored interval; outputs are what their
  functions give there;
* ``lower`` does not exceed U, ``upper`` is not below l, ``value`` is their middle, and neither is
  farther from it than ``error_bound``;
* the interpolation of ``value`` is within ``error_bound`` of some value from l to U, at the nodes
  and at places between them, some drawn by chance;
* the policy earns ``lower``: one step of it from the stored bound confirms it;
* the policy loses no more than ``policy_loss``: with what follows bounded by U, it reaches
  ``lower - policy_loss``;
* the reward is as concave as the bounds take for granted: one step from U does not exceed U, at
  places and choices drawn by chance.

Where U made with the stored policy is much wider than what is claimed, it is made again with
choices that solve the Euler equation, by bisection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.model_definition.continuous import ContinuousProblem, Floats
from dpsolve.solvers.model.model import Model

from .continuum_bounds import (
    EPS,
    Bounds,
    Period,
    Sampled,
    earned,
    narrower,
    places,
    promised,
    sampled,
    steps_beyond,
)
from .continuum_lines import bounds, end_of_time, euler_choices

CONTINUUM = 1  # the code of bounds that are of the true value over the continuum
DECLARED, PROVED = 1, 2  # the codes of what is known of concavity
OUTPUT_TOLERANCE = 1e-9  # of an output, relative to its largest value over the states
FEASIBLE = 1e-9  # of the range of a choice, or a state: what rounding may carry it past an end
EXCEPTIONS = 0.2  # a share of nodes beyond which `lower` is another system's, and no alteration
WIDE = 2.0  # times what is claimed: then tangents are taken elsewhere, too
EULER_STEPS = 4
MOST_PERIODS = 6  # at which the Euler equation is solved, or a counterexample looked for
MOST_ENTRIES = 2**26  # of a system: states x members x draws x corners
PAIRS = 2**24  # of places and lines, to look for a counterexample to concavity
MOST_PAIRS, FEWEST_PAIRS = 2000, 16  # of places and choices that are drawn


@dataclass
class ContinuumFindings:
    """What was found at one point.

    Attributes
    ----------
    residual : float
        The most that one step of the policy moves the stored lower bound by.
    error : float
        Our own bound on the distance of the interpolated value from the true one.
    width : float
        The largest distance between our own bounds, at the nodes and at the places looked at.
    faults, notes : list of str
        Each contradiction; what limits the check.
    policy : array (periods, z, i, m) or None
        The stored choices, where they are whole and feasible.
    """

    residual: float = np.nan
    error: float = np.nan
    width: float = np.nan
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    policy: Floats | None = None


def examine_continuum(
    model: Model,
    arrays: Mapping[str, NDArray[Any]],
    error_bound: float,
    finer: Model | None = None,
) -> ContinuumFindings:
    """Compare what is stored of one point with the model and with bounds of our own.

    Parameters
    ----------
    model : Model
        At the point's parameters; one with continuous choices.
    arrays : mapping
        What is stored, over (states...) or (t, states...).
    error_bound : float
    finer : Model, optional
        On the nodes that it was solved on, of which only some are stored.
    """
    found = ContinuumFindings()
    problem = ContinuousProblem(model)
    claim = _Claim(problem, arrays, error_bound)
    if problem.unreadable:
        found.notes.append(
            f"of this model with continuous choices only stored numbers were compared with each "
            f"other, because {problem.unreadable}"
        )
        found.faults += claim.disagreements()
        return found
    found.faults += claim.disagreements()
    found.faults += claim.false_words()
    if not claim.has_policy:
        found.notes.append(
            "no policy of the continuous choices is stored: bounds over the continuum were only "
            "compared with each other"
        )
        return found
    wrong = list(claim.policy_faults())
    found.faults += wrong
    if not wrong and np.isfinite(claim.policy).all():
        found.policy = claim.policy
    found.faults += claim.output_faults()
    why_not = claim.why_not_bounded()
    if why_not:
        found.notes.append(f"no bounds over the continuum were computed, because {why_not}")
    elif not found.faults:
        _compare(claim, found, None if finer is None else ContinuousProblem(finer))
    return found


@dataclass(frozen=True)
class _Claim:
    """What is stored, brought to (periods, z, i)."""

    problem: ContinuousProblem
    arrays: Mapping[str, NDArray[Any]]
    error_bound: float

    def of(self, name: str) -> Floats | None:
        if name not in self.arrays:
            return None
        return self.problem.by_members(self.arrays[name])

    @property
    def has_policy(self) -> bool:
        return all(f"policy_{n}" in self.arrays for n in self.problem.choices)

    @property
    def policy(self) -> Floats:
        """The choices (periods, z, i, m)."""
        each = [self.problem.by_members(self.arrays[f"policy_{n}"]) for n in self.problem.choices]
        return np.stack(each, -1)

    @property
    def code(self) -> int:
        """What the bounds are said to be of."""
        return int(self.arrays.get("certifies", np.int64(CONTINUUM)))

    @property
    def scale(self) -> float:
        held = [self.arrays[n] for n in ("value", "lower", "upper") if n in self.arrays]
        sizes = [np.abs(x[np.isfinite(x)]).max(initial=0.0) for x in held]
        return float(max(sizes, default=0.0))

    def when(self, t: int) -> int | None:
        return None if self.problem.model.horizon is None else t

    def name(self, at: tuple[int, ...]) -> str:
        t, z, i = at[:3]
        return self.problem.name(int(z), self.problem.nodes[i], self.when(int(t)))

    def why_not_bounded(self) -> str:
        """Tell why bounds are not computed; empty where they are."""
        problem = self.problem
        if not np.isfinite(self.error_bound):
            return "nothing is claimed (error_bound is inf)"
        if self.code != CONTINUUM:
            return "the stored bounds are not said to be of the continuum"
        if problem.unchecked:
            return problem.unchecked
        if problem.entries * 2 ** len(problem.axes) > MOST_ENTRIES:
            return "its linear systems are too large for one machine's check"
        return ""

    # -- what can be seen without bounds ----------------------------------------------------------

    def disagreements(self) -> Iterator[str]:
        """Compare value, bounds and error bound with each other."""
        if np.isnan(self.error_bound) or self.error_bound < 0:
            yield f"error_bound is {self.error_bound}, which is no bound"
            return
        held = {n: a for n in ("value", "lower", "upper") if (a := self.of(n)) is not None}
        dead = np.isneginf(held["value"]) if "value" in held else None
        for name, a in held.items():
            honest = np.isinf(a) & np.isinf(self.error_bound) & (name != "value")
            honest = honest | np.isneginf(a) | (False if dead is None else dead)
            bad = ~(np.isfinite(a) | honest)
            if bad.any():
                at = _first(bad)
                yield f"{name} at {self.name(at)} is {a[at]}"
                return
        if len(held) < 3:
            return
        value, lower, upper = held["value"], held["lower"], held["upper"]
        alive = np.isfinite(lower) & np.isfinite(upper) & np.isfinite(value)
        slack = 16 * EPS * self.scale
        with np.errstate(invalid="ignore"):
            gaps = {"lower": value - lower, "upper": upper - value}
            middle = np.abs(value - (lower + upper) / 2)
        for name, side in (("lower", "above"), ("upper", "below")):
            gap = np.where(alive, gaps[name], 0.0)
            if gap.min() < -slack:
                at = _first(gap == gap.min())
                yield f"{name} at {self.name(at)} lies {side} value, by {-gap[at]:.3g}"
            if gap.max() > self.error_bound * (1 + 8 * EPS) + slack:
                at = _first(gap == gap.max())
                yield (
                    f"value and {name} at {self.name(at)} are {gap[at]:.12g} apart, more than "
                    f"error_bound={self.error_bound:.12g}"
                )
        off = np.where(alive, middle, 0.0)
        if self.code == CONTINUUM and off.max() > slack:
            at = _first(off == off.max())
            yield (
                f"value at {self.name(at)} is {value[at]:.12g}, but the middle of lower and upper "
                f"is {(lower[at] + upper[at]) / 2:.12g}"
            )

    def false_words(self) -> Iterator[str]:
        """Refuse a certificate that the model does not even ask for."""
        concavity = self.arrays.get("concavity")
        if concavity is None or self.code != CONTINUUM:
            return
        declared = self.problem.model.concave is True
        if int(concavity) == DECLARED and not declared:
            yield "concavity is stored as declared, but the model does not declare it"
        if int(concavity) not in (DECLARED, PROVED):
            yield "bounds of the continuum are claimed, but nothing is known of concavity"

    def policy_faults(self) -> Iterator[str]:
        """Check that a policy is feasible at every node, and within its interval."""
        problem, policy = self.problem, self.policy
        x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
        value = self.of("value")
        for t in range(len(policy)):
            dead = np.zeros(policy.shape[1:3], bool) if value is None else np.isneginf(value[t])
            y = policy[t]
            for j, name in enumerate(problem.choices):
                bad = ~np.isfinite(y[..., j]) & ~dead
                if bad.any():
                    z, i = _first(bad)
                    yield f"policy_{name} at {self.name((t, z, i))} is {y[z, i, j]}"
                    return
            y = np.where(np.isfinite(y), y, 0.0)
            low, high, _, _ = problem.ends(x, y, self.when(t))
            for j, name in enumerate(problem.choices):
                slack = FEASIBLE * np.maximum(1.0, np.abs(low[..., j]) + np.abs(high[..., j]))
                bad = (y[..., j] < low[..., j] - slack) | (y[..., j] > high[..., j] + slack)
                if (bad & ~dead).any():
                    z, i = _first(bad & ~dead)
                    yield (
                        f"policy_{name} at {self.name((t, z, i))} is {y[z, i, j]:.12g}, outside "
                        f"of its interval from {low[z, i, j]:.12g} to {high[z, i, j]:.12g}"
                    )
                    return
            names = ", ".join(f"policy_{n}" for n in problem.choices)
            infeasible = ~problem.feasible(x, y, self.when(t)) & ~dead
            if infeasible.any():
                at = _first(infeasible)
                yield f"{names} at {self.name((t, *at))} is not feasible there"
                return
            place, _, _ = problem.moves(x, y, self.when(t))
            possible = (problem.probs(self.when(t)) > 0)[:, None, :]
            leaves = (problem.leaves(place) & possible).any(-1) & ~dead
            if leaves.any():
                at = _first(leaves)
                yield f"{names} at {self.name((t, *at))} lets the next state leave its grid"
                return
        yield from self._interval_faults(policy)

    def _interval_faults(self, policy: Floats) -> Iterator[str]:
        if len(self.problem.choices) != 1:
            return
        (name,) = self.problem.choices
        slack = FEASIBLE * max(1.0, float(np.abs(policy[np.isfinite(policy)]).max(initial=0.0)))
        for which, sign in (("lower", 1.0), ("upper", -1.0)):
            end = self.of(f"policy_{which}_{name}")
            if end is None:
                continue
            bad = sign * (end - policy[..., 0]) > slack
            if bad.any():
                at = _first(bad)
                yield (
                    f"policy_{name} at {self.name(at)} is {policy[at][0]:.12g}, beyond "
                    f"policy_{which}_{name}={end[at]:.12g}"
                )

    def output_faults(self) -> Iterator[str]:
        """Compare stored outputs with their functions at the stored policy."""
        problem, policy = self.problem, self.policy
        held = {n: a for n in problem.model.outputs if (a := self.of(f"output_{n}")) is not None}
        if not held:
            return
        x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
        for t in range(len(policy)):
            meant = problem.outputs(x, policy[t], self.when(t))
            for name, a in held.items():
                scale = max(np.nanmax(np.abs(meant[name])), np.nanmax(np.abs(a[t])))
                off = np.abs(a[t] - meant[name])
                off = np.where(np.isnan(a[t]) & np.isnan(meant[name]), 0.0, off)
                bad = ~(off <= OUTPUT_TOLERANCE * scale)
                if bad.any():
                    at = _first(bad)
                    yield (
                        f"output_{name} at {self.name((t, *at))} is {a[t][at]:.12g}, but its "
                        f"function at the stored policy gives {meant[name][at]:.12g}"
                    )
                    return


def _first(bad: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.argwhere(bad)[0])


# -- against bounds of our own --------------------------------------------------------------------


def _compare(claim: _Claim, found: ContinuumFindings, finer: ContinuousProblem | None) -> None:
    """Compute bounds, and compare what is stored with them.

    Where more nodes were solved on than are stored: bounds on these, with the stored policy between
    its nodes, and at the stored nodes alone, for the error was bounded between the others.
    """
    kept, policy = claim.problem, claim.policy
    policy = np.where(np.isfinite(policy), policy, 0.0)
    problem = kept if finer is None else finer
    if finer is not None:
        nothing = np.zeros(0)
        at = Sampled(finer.nodes, nothing, nothing)
        policy = np.stack([
            np.stack([at.of(kept, y[..., j]) for j in range(y.shape[-1])], -1) for y in policy
        ])  # fmt: skip
        found.notes.append("of a refined point the stored nodes were compared, on its own grid")
    radius = float(np.abs(np.linalg.eigvals(problem.weights(claim.when(0)))).max())
    if problem.model.horizon is None and not radius < 1.0:
        found.notes.append(
            f"no bounds over the continuum were computed, because discounting is {radius:.6g}"
        )
        return
    mine = bounds(problem, policy)
    x = places(problem, np.random.default_rng(0)) if finer is None else kept.nodes
    seen = [sampled(problem, own, x) for _, own in mine]
    for _ in range(EULER_STEPS if len(mine) <= MOST_PERIODS else 0):
        if _errors(claim, seen)[0] <= WIDE * claim.error_bound:
            break
        other = bounds(problem, policy, _by_euler(problem, mine))
        taken = [sampled(problem, own, x) for _, own in other]
        if _errors(claim, taken)[0] < _errors(claim, seen)[0]:
            mine = other
        seen = [narrower(a, b) for a, b in zip(seen, taken, strict=True)]
    found.error = max(_errors(claim, seen))
    found.width = max(_most(s.upper - s.lower) for s in seen)
    if not np.isfinite(found.width):
        found.error = found.width = np.nan
        found.notes.append("our own bounds are infinite at every state, so that they tell nothing")
    found.faults += _contradictions(claim, seen)
    if finer is None:
        found.faults += _unearned(claim, mine, found)
    found.faults += _not_concave(claim, mine)


def _by_euler(problem: ContinuousProblem, mine: list[tuple[Period, Bounds]]) -> Floats:
    """Return choices (periods, z, i, m) that solve the Euler equation, with slopes that we have."""
    finite = problem.model.horizon is not None
    after = [own.slopes for _, own in mine[1:]]
    after += [end_of_time(problem).slopes if finite else mine[0][1].slopes]
    return np.stack([euler_choices(period, p) for (period, _), p in zip(mine, after, strict=True)])


def _most(a: Floats) -> float:
    return float(np.max(a[np.isfinite(a)], initial=-np.inf))


def _errors(claim: _Claim, seen: list[Sampled]) -> tuple[float, float]:
    """Return our own bounds on how far the true value lies above the interpolated one, and below.

    Without a value, it is the lower bound that the true value lies above.
    """
    value = claim.of("value")
    above = below = 0.0
    for t, s in enumerate(seen):
        middle = s.lower if value is None else s.of(claim.problem, value[t])
        with np.errstate(invalid="ignore"):
            above, below = max(above, _most(s.upper - middle)), max(below, _most(middle - s.lower))
    return above, below


def _contradictions(claim: _Claim, seen: list[Sampled]) -> Iterator[str]:
    """Compare stored bounds and values with ours, at the nodes and between them."""
    bound, slack = claim.error_bound, _slack(claim)
    held = {n: claim.of(n) for n in ("value", "lower", "upper")}
    for t, s in enumerate(seen):
        for name, sign, room in (
            ("lower", 1.0, 0.0),
            ("upper", -1.0, 0.0),
            ("value", 1.0, bound),
            ("value", -1.0, bound),
        ):
            stored = held[name]
            if stored is None:
                continue
            here = s.of(claim.problem, stored[t])
            far = s.upper if sign > 0 else s.lower
            with np.errstate(invalid="ignore"):
                beyond = np.where(np.isfinite(far) & np.isfinite(here), sign * (here - far), -1.0)
            if beyond.max() > room + slack:
                z, k = _first(beyond == beyond.max())
                side = ("upper", "lower")[sign < 0]
                where = claim.problem.name(z, s.x[k], claim.when(t))
                told = f"{name} at {where} is {here[z, k]:.12g}"
                told += f" and error_bound={bound:.3g}" if room else ""
                yield (
                    f"{told}, but the {side} bound of the true value there is {far[z, k]:.12g}, by "
                    "linear systems of our own"
                )
                return


def _slack(claim: _Claim) -> float:
    return 1e-12 * max(1.0, claim.scale) + 1e-9 * claim.error_bound


def _unearned(
    claim: _Claim, mine: list[tuple[Period, Bounds]], found: ContinuumFindings
) -> Iterator[str]:
    """Confirm the lower bound by one step of the policy, and what the policy may lose."""
    lower = claim.of("lower")
    if lower is None:
        return
    problem = claim.problem
    finite = problem.model.horizon is not None
    loss = claim.arrays.get("policy_loss")
    last = end_of_time(problem) if finite else mine[0][1]
    short = np.zeros(lower.shape)
    reached = np.zeros(lower.shape)
    found.residual = 0.0
    slack = _slack(claim)
    for t, (period, own) in enumerate(mine):
        next_lower = (last.lines if t + 1 == len(mine) else lower[t + 1]) if finite else lower[t]
        reached[t] = earned(period, next_lower)
        with np.errstate(invalid="ignore"):
            miss = np.where(np.isfinite(lower[t]), lower[t] - reached[t], 0.0)
            found.residual = max(found.residual, _most(np.abs(miss)))
            # What one step does not confirm may still be what the policy is worth.
            short[t] = np.where(lower[t] > own.lower + slack, miss, 0.0)
        if loss is None:
            continue
        ahead = (last if t + 1 == len(mine) else mine[t + 1][1]) if finite else own
        with np.errstate(invalid="ignore"):
            lost = lower[t] - promised(period, ahead)
            lost = np.where(np.isfinite(lower[t]), lost, -np.inf)
        if lost.max() > float(loss) + slack:
            z, i = _first(lost == lost.max())
            yield (
                f"the policy at {claim.name((t, z, i))} loses at least {lost[z, i]:.6g} against "
                f"lower, but policy_loss claims {float(loss):.6g}"
            )
            return
    bad = short > slack
    if not bad.any():
        return
    if bad.mean() > EXCEPTIONS:
        found.notes.append(
            "lower is above what the stored policy earns on the stored nodes alone, so that it "
            "was compared with our upper bound only"
        )
        return
    at = _first(short == short.max())
    yield (
        f"lower at {claim.name(at)} is {lower[at]:.12g}, which is not confirmed: one step of the "
        f"stored policy from the stored bound gives {reached[at]:.12g}"
    )


def _not_concave(claim: _Claim, mine: list[tuple[Period, Bounds]]) -> Iterator[str]:
    """Look for places and choices at which one step from U exceeds U: then U is no bound."""
    problem, random = claim.problem, np.random.default_rng(1)
    finite = problem.model.horizon is not None
    dates = random.permutation(len(mine))[:MOST_PERIODS]
    for t in np.sort(dates).tolist():
        period, own = mine[t]
        ahead = own if not finite else mine[t + 1][1] if t + 1 < len(mine) else end_of_time(problem)
        count = min(MOST_PAIRS, PAIRS // (len(dates) * problem.entries))
        if count < FEWEST_PAIRS:
            return
        over, x, y = steps_beyond(period, own, ahead, random, count)
        if over.max() > 1e-9 * max(1.0, claim.scale):
            z, k = _first(over == over.max())
            chosen = zip(problem.choices, y[z, k], strict=True)
            yield (
                f"the reward is not concave, as the bounds suppose: at "
                f"{problem.name(z, x[k], claim.when(t))}, with "
                f"{', '.join(f'{n}={v:.6g}' for n, v in chosen)}, one step exceeds an upper bound "
                f"that no step could by {over[z, k]:.3g}"
            )
            return
