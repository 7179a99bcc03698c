r"""Bounds on the true value over the continuum, computed a second time: two linear systems.

*Lower.* With multilinear weights :math:`a` of the place :math:`f(x_i, y_i, w)` that the stored
policy moves to, :math:`l = F + D\,E_w \sum_k a_k l_k` is what that policy is worth on chords, and
below the true value, which is concave.

*Upper.* The least of lines through the nodes (:mod:`.continuum_lines`).

Both systems are solved inexactly. With :math:`r + Qv - v \le e`, :math:`v + s` is a bound for
:math:`s = (I - D)^{-1} \max_x e`. Over a finite horizon both are recursions backward in time.

A node at which slopes are no numbers (a corner with an infinite slope) has no line of its own: it
takes its neighbour's. A node whose reward is −inf has none, and its lower bound is −inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, kron
from scipy.sparse.linalg import LinearOperator, bicgstab, spsolve

from dpsolve.hpc.model_definition.continuous import Constraints, ContinuousProblem, Floats, Ints

EPS = float(np.finfo(np.float64).eps)
PLACES = 200  # between the nodes, at each member
UNITS = 32 * EPS  # what a term may be rounded by
DIRECT = 3000  # unknowns up to which a system is factorised

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Bounds:
    """Bounds at one period: at the nodes (z, i), and lines that hold everywhere.

    Attributes
    ----------
    lower : array (z, i)
    lines, slopes : arrays (z, i), (z, i, d)
    gap : array (z, i)
        What is left of the first-order conditions.
    """

    lower: Floats
    lines: Floats
    slopes: Floats
    gap: Floats


@dataclass(frozen=True)
class Period:
    """A model at a policy, at all nodes: values, slopes, next places and constraints."""

    problem: ContinuousProblem
    t: int | None
    y: Floats
    weights: Floats
    chances: Floats
    reward: Floats
    fx: Floats
    fy: Floats
    place: Floats
    a: Floats
    b: Floats
    bound: Constraints
    low: Floats
    high: Floats

    @classmethod
    def of(cls, problem: ContinuousProblem, y: Floats, t: int | None) -> Period:
        """Evaluate a model at a policy (z, i, m)."""
        x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
        fx, fy = problem.reward_slopes(x, y, t)
        place, a, b = problem.moves(x, y, t)
        low, high, _, _ = problem.ends(x, y, t)
        return cls(
            problem, t, y, problem.weights(t), problem.probs(t), problem.reward(x, y, t), fx, fy,
            place, a, b, problem.constraints(x, y, t), low, high,
        )  # fmt: skip

    def at(self, y: Floats) -> Period:
        """Return the model at other choices."""
        return Period.of(self.problem, y, self.t)

    def mean(self, over_shocks: Floats) -> Floats:
        """Average (z, i, w, ...) over the shocks."""
        found: Floats = np.einsum("ziw...,zw->zi...", over_shocks, self.chances)
        return found

    def onward(self, value: Floats) -> Floats:
        """Return the discounted expectation (z, ...) of next period's members."""
        found: Floats = np.einsum("zy,y...->z...", self.weights, value)
        return found


def locate(problem: ContinuousProblem, place: Floats) -> tuple[Ints, Floats]:
    """Return the corners (..., 2^d) of the cells that places (..., d) lie in, and their weights.

    Places beyond the nodes' hull are at its nearest point.
    """
    sizes = [axis.size for axis in problem.axes]
    ends = []
    for k, axis in enumerate(problem.axes):
        x = np.nan_to_num(place[..., k], nan=axis[0])
        low = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, axis.size - 2)
        share = np.clip((x - axis[low]) / (axis[low + 1] - axis[low]), 0.0, 1.0)
        ends.append(((low, 1.0 - share), (low + 1, share)))
    index, weight = [], []
    for corner in product(*ends):
        flat, share = np.zeros(place.shape[:-1], np.int64), np.ones(place.shape[:-1])
        for size, (i, w) in zip(sizes, corner, strict=True):
            flat, share = flat * size + i, share * w
        index.append(flat)
        weight.append(share)
    return np.stack(index, -1), np.stack(weight, -1)


def at_corners(value: Floats, index: Ints) -> Floats:
    """Read an array (z, i, ...) at nodes (z, ...)."""
    z = np.arange(value.shape[0]).reshape(-1, *(1,) * (index.ndim - 1))
    return np.asarray(value[z, index])


def interpolated(value: Floats, index: Ints, weight: Floats) -> Floats:
    """Return a mixture (z, ..., [d]) of an array's entries at corners."""
    corners = at_corners(value, index)
    rule = "...c,...c->..." if corners.ndim == weight.ndim else "...c,...cd->...d"
    found: Floats = np.einsum(rule, weight, corners)
    return found


def moving(period: Period, index: Ints, weight: Floats) -> csr_array:
    """Return the matrix of places: rows (z, i), columns (z, k)."""
    return _matrix(period.chances, index, weight)


def _matrix(chances: Floats, index: Ints, weight: Floats) -> csr_array:
    nz, n = index.shape[:2]
    mass = weight * chances[:, None, :, None]
    column = index + (np.arange(nz) * n)[:, None, None, None]
    each = mass.shape[2] * mass.shape[3]
    rows = np.repeat(np.arange(nz * n), each)
    keep = mass.ravel() != 0
    entries = (mass.ravel()[keep], (rows[keep], column.ravel()[keep]))
    return csr_array(entries, shape=(nz * n, nz * n))


def solve(matrix: Callable[[Floats], Floats], whole: Callable[[], csr_array], r: Floats) -> Floats:
    """Solve v = r + Qv, more or less."""
    if r.size <= DIRECT:
        system = (eye_array(r.size) - whole()).tocsc()
        return np.asarray(spsolve(system, r.ravel())).reshape(r.shape)
    operator = LinearOperator((r.size, r.size), lambda v: v - matrix(v.reshape(r.shape)).ravel())
    v = np.zeros_like(r)
    best = np.inf
    for _ in range(10):
        left = r + matrix(v) - v
        size = float(np.abs(left).max())
        if size < 1e-13 * max(1.0, float(np.abs(v).max())) or not size < best:
            break
        best = size
        step, _ = bicgstab(operator, left.ravel(), rtol=1e-10, maxiter=2000)
        v = v + np.nan_to_num(step).reshape(r.shape)
    return v


def shifted(weights: Floats, excess: Floats) -> Floats:
    """Return what residuals (z, i) of at most `excess` add to a bound, (z, 1)."""
    most = np.maximum(excess.max(1), 0.0) * (1 + 1e-9)
    return np.linalg.solve(np.eye(len(weights)) - weights, most)[:, None]


# -- the lower bound ------------------------------------------------------------------------------


def lower_bound(period: Period, ahead: Floats | None) -> Floats:
    """Return what the policy is worth on chords: (z, i), below the true value.

    `ahead` is that of the next period, None over an infinite horizon.
    """
    index, weight = locate(period.problem, period.place)
    matrix = moving(period, index, weight)
    shape = period.reward.shape
    dead = ~np.isfinite(period.reward)
    if ahead is not None:
        dead |= _reaches(matrix, period, ~np.isfinite(ahead))
        value = period.reward + (matrix @ period.onward(_finite(ahead)).ravel()).reshape(shape)
        rounding = UNITS * (np.abs(period.reward) + np.abs(_finite(ahead)).max())
        return np.where(dead, -np.inf, value - rounding)
    while True:
        more = dead | _reaches(matrix, period, dead)
        if (more == dead).all():
            break
        dead = more
    reward = np.where(dead, 0.0, period.reward)
    alive = csr_array((np.ones(dead.size), (np.arange(dead.size),) * 2)) * ~dead.ravel()[:, None]
    matrix = csr_array(alive @ matrix)

    def once(v: Floats) -> Floats:
        return (matrix @ period.onward(v).ravel()).reshape(shape)

    def whole() -> csr_array:
        return csr_array(matrix @ kron(period.weights, eye_array(shape[1])))

    value = solve(once, whole, reward)
    left = value - once(value) - reward
    rounding = UNITS * (np.abs(reward) + np.abs(value).max())
    return np.where(dead, -np.inf, value - shifted(period.weights, left + rounding))


def _reaches(matrix: csr_array, period: Period, dead: Mask) -> Mask:
    """Tell which nodes go to a dead one with a positive weight."""
    into = period.onward(dead.astype(np.float64)) > 0
    return np.asarray((matrix @ into.ravel().astype(np.float64)) > 0).reshape(dead.shape)


def _finite(value: Floats) -> Floats:
    return np.where(np.isfinite(value), value, 0.0)


def earned(period: Period, value: Floats) -> Floats:
    """Return one step of the policy from a value (z, i): the reward and what follows."""
    index, weight = locate(period.problem, period.place)
    held = np.where(weight > 0, at_corners(period.onward(value), index), 0.0)
    return period.reward + period.mean((weight * held).sum(-1))


def promised(period: Period, ahead: Bounds) -> Floats:
    """Return the reward and an upper bound on what follows, at the policy."""
    return period.reward + period.mean(after(period.problem, period.weights, ahead, period.place))


def after(problem: ContinuousProblem, weights: Floats, ahead: Bounds, place: Floats) -> Floats:
    """Return the discounted upper bound (z, i, w) of next period, at places (z, i, w, d)."""
    index, _ = locate(problem, place)
    least = np.full((problem.nz, *place.shape[:-1]), np.inf)  # (z', z, i, w)
    for member in range(problem.nz):
        for corner in range(index.shape[-1]):
            k = index[..., corner]
            step = place - problem.nodes[k]
            line = ahead.lines[member][k] + (ahead.slopes[member][k] * step).sum(-1)
            least[member] = np.minimum(least[member], line)
    found: Floats = np.einsum("zy,yz...->z...", weights, least)
    return found


def least_line(problem: ContinuousProblem, found: Bounds, x: Floats) -> Floats:
    """Return the least of all lines (z, points) at places (points, d)."""
    least = np.full((problem.nz, len(x)), np.inf)
    size = max(1, 2**21 // (problem.nz * max(len(x), 1)))
    for first in range(0, len(problem.nodes), size):
        part = slice(first, first + size)
        step = x[:, None, :] - problem.nodes[None, part]
        lines = found.lines[:, None, part] + np.einsum("pkd,zkd->zpk", step, found.slopes[:, part])
        least = np.minimum(least, lines.min(-1))
    return least


# -- at the nodes and between them ---------------------------------------------------------------


@dataclass(frozen=True)
class Sampled:
    """Our own bounds at the nodes and at places between them: all (z, points)."""

    x: Floats
    lower: Floats
    upper: Floats

    def of(self, problem: ContinuousProblem, values: Floats) -> Floats:
        """Interpolate values (z, i) to these places; NaN beside a node without a value."""
        index, weight = locate(problem, np.broadcast_to(self.x, (problem.nz, *self.x.shape)))
        with np.errstate(invalid="ignore"):
            held = np.where(weight > 0, at_corners(values, index), 0.0)
            return np.asarray((weight * held).sum(-1))


def places(problem: ContinuousProblem, random: np.random.Generator) -> Floats:
    """Return the nodes, places drawn between them, and the middles of some cells."""
    low, high = problem.box
    drawn = low + (high - low) * random.random((PLACES, len(low))) ** 2  # more near the lower ends
    cells = [random.integers(0, axis.size - 1, PLACES) for axis in problem.axes]
    middles = np.stack(
        [(a[k] + a[k + 1]) / 2 for a, k in zip(problem.axes, cells, strict=True)], -1
    )
    return np.concatenate([problem.nodes, drawn, middles])


def narrower(a: Sampled, b: Sampled) -> Sampled:
    """Return what two pairs of bounds say together: both upper bounds hold."""
    return Sampled(a.x, a.lower, np.minimum(a.upper, b.upper))


def sampled(problem: ContinuousProblem, own: Bounds, x: Floats) -> Sampled:
    """Take bounds at places (points, d)."""
    empty = Sampled(x, np.zeros(0), np.zeros(0))
    return Sampled(x, empty.of(problem, own.lower), least_line(problem, own, x))


def steps_beyond(
    period: Period, own: Bounds, ahead: Bounds, random: np.random.Generator, count: int
) -> tuple[Floats, Floats, Floats]:
    """Return how far one step from the upper bound exceeds it at pairs drawn by chance.

    Returns
    -------
    tuple
        The excess (z, points), −inf where a choice is infeasible; the places (points, d); the
        choices (z, points, m): some anywhere between their ends, some near the policy's.
    """
    problem, t = period.problem, period.t
    low, high = problem.box
    drawn = low + (high - low) * random.random((count, len(low)))
    x = np.broadcast_to(drawn, (problem.nz, *drawn.shape))
    y = np.zeros((*x.shape[:2], period.y.shape[-1]))
    usual = interpolated(period.y, *locate(problem, x))
    for j in range(y.shape[-1]):  # ends may be functions of the choices before
        bottom, top, _, _ = problem.ends(x, y, t)
        free = bottom[..., j] + random.random(y.shape[:2]) * (top[..., j] - bottom[..., j])
        near = np.clip(usual[..., j], bottom[..., j], np.maximum(bottom[..., j], top[..., j]))
        y[..., j] = near + (free - near) * random.choice([0.0, 0.1, 1.0], y.shape[:2])
    reward = problem.reward(x, y, t)
    place, _, _ = problem.moves(x, y, t)
    good = np.isfinite(reward) & (problem.constraints(x, y, t).h >= 0).all(-1)
    lines = least_line(problem, ahead, place.reshape(-1, len(low)))
    lines = lines.reshape(problem.nz, *place.shape[:3])
    after = np.einsum("zy,yzpw,zw->zp", period.weights, lines, period.chances)
    with np.errstate(invalid="ignore"):
        over = reward + after - least_line(problem, own, drawn)
    return np.where(good & ~np.isnan(over), over, -np.inf), drawn, y


# -- where a policy moves mass ---------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyChain:
    """The chain that a continuous policy (periods, z, i, m) makes of a model's nodes.

    Mass goes to the corners of the cell that a next state lies in, so that means are kept. It
    answers what a :class:`~dpsolve.hpc.model_definition.bellman.Definition` is asked of
    distributions, by whatever flat choice: the choice is the policy's.
    """

    problem: ContinuousProblem
    policy: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points of each state, in the model's order."""
        return self.problem.model.shape

    @property
    def n(self) -> int:
        """Number of states."""
        return int(prod(self.shape))

    @property
    def horizon(self) -> int | None:
        """Number of periods."""
        return self.problem.model.horizon

    @property
    def depth(self) -> int:
        """Additions that an entry goes through."""
        draws = prod(s.size for s in self.problem.model.shocks.values())
        return int(draws * 2 ** len(self.problem.axes) + sum(self.problem.lengths))

    @property
    def _flat(self) -> Ints:
        """The model's flat number of each (z, i)."""
        numbers = np.arange(self.n).reshape(self.shape)
        return np.asarray(self.problem.by_members(numbers)[0], np.int64)

    def look(self, s: Ints, c: Ints, t: int | None = None) -> Moves:
        """Return where one period takes mass."""
        problem, y = self.problem, self.policy[t or 0]
        x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
        place, _, _ = problem.moves(x, y, t)
        index, weight = locate(problem, place)
        return Moves(_matrix(problem.probs(t), index, weight), self._flat)

    def behind(self, pushed: Floats, t: int | None = None) -> Floats:
        """Take mass (z, i) over the chains, and return it by flat numbers (n,)."""
        mass = np.zeros(self.n)
        mass[self._flat] = self.problem.chances(t).T @ pushed
        return mass

    def draws(self, s: Ints, c: Ints) -> tuple[dict[str, Floats], Floats]:
        """Return values (n, w) as drawn with the shocks, and the chances of those."""
        problem = self.problem
        x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
        chances = np.repeat(problem.probs(None), len(problem.nodes), 0)
        back = np.argsort(self._flat.ravel())
        values = problem.named_values(x, self.policy[0])
        return {n: np.broadcast_to(v, chances.shape)[back] for n, v in values.items()}, chances[
            back
        ]


@dataclass(frozen=True)
class Moves:
    """Where one period takes mass, before the chains move."""

    matrix: csr_array
    flat: Ints

    def push(self, mass: Floats) -> Floats:
        """Return mass (n,) as (z, i), after the choice."""
        moved = self.matrix.T @ np.asarray(mass, np.float64)[self.flat].ravel()
        return np.asarray(moved).reshape(self.flat.shape)
