r"""An upper bound over the continuum, computed a second time: the least of lines through the nodes.

Lines through the nodes, :math:`L_i(x) = u_i + p_i (x - x_i)`, the least of which is an
upper bound everywhere, with

.. math::
    u_i = F_i + \mu h_i + \text{gap}_i + D\,E_w \sum_k b_k [u_k + p_k (f(x_i, y_i, w) - x_k)],

for **any** slopes p, multipliers :math:`\mu \ge 0` of the constraints :math:`h \ge 0`, and weights
b that sum to one: with :math:`g = F_y + \mu h_y + D E_w B_w' \sum_k b_k p_k` and
:math:`r = F_x + \mu h_x + D E_w A_w' \sum_k b_k p_k - p_i`, the gap is the maximum of
:math:`g (y - y_i) + r (x - x_i)` over the box of states and choices. (The expected least line lies
below any mixture of lines; the reward plus that mixture is concave, and below its own expansion,
which is line i: so :math:`TU \le U`.) Good ones make the gap small:

* slopes by the envelope along what binds: with :math:`\Lambda` the response of the choice that
  keeps binding constraints binding, and moves the next state least,
  :math:`p = F_x + \Lambda' F_y + D E_w (A_w + B_w \Lambda)' q`, a linear recursion;
* weights of a shifted place :math:`f(x_i, y_i + \delta, w)`, where g is zero;
* multipliers that make g small where constraints bind.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, eye_array, kron
from scipy.sparse.linalg import LinearOperator, bicgstab

from dpsolve.hpc.model_definition.continuous import Constraints, ContinuousProblem, Floats, Ints

from .continuum_bounds import (
    EPS,
    UNITS,
    Bounds,
    Mask,
    Period,
    at_corners,
    interpolated,
    locate,
    lower_bound,
    moving,
    shifted,
    solve,
)

BINDING = 1e-9  # of the range of choices: so near an end, a choice is at it
ROUNDS = 8  # of slopes and weights
HALVINGS = 60
EULER_HALVINGS = 40
NEWTON = 30
SWEEPS = 4  # over several choices


def upper_lines(period: Period, ahead: Bounds | None) -> Bounds:
    """Return lines whose least is an upper bound everywhere; the lower bound is left NaN.

    `ahead` is the next period's, None over an infinite horizon.
    """
    lost = ~(
        np.isfinite(period.reward)
        & np.isfinite(period.fx).all(-1)
        & np.isfinite(period.fy).all(-1)
        & np.isfinite(period.a).all((-1, -2, -3))
        & np.isfinite(period.b).all((-1, -2, -3))
        & np.isfinite(period.bound.hx).all((-1, -2))
        & np.isfinite(period.bound.hy).all((-1, -2))
    )
    if lost.all(1).any():
        nothing = np.full(period.reward.shape, np.inf)
        return Bounds(nothing * np.nan, nothing, np.zeros_like(period.fx), nothing)
    instead = _neighbours(period.problem, lost)
    calm = _calm(period, lost)
    found = _Lines(calm, instead, ahead).best()
    return _copied(period.problem, found, instead)


def _calm(period: Period, lost: Mask) -> Period:
    """Return a period with zeros where slopes are no numbers; those nodes are not used."""

    def cut(a: Floats) -> Floats:
        return np.where(lost.reshape(*lost.shape, *(1,) * (a.ndim - 2)), 0.0, a)

    bound = Constraints(*map(cut, (period.bound.h, period.bound.hx, period.bound.hy)))
    return Period(
        period.problem, period.t, period.y, period.weights, period.chances, cut(period.reward),
        cut(period.fx), cut(period.fy), period.place, cut(period.a), cut(period.b), bound,
        period.low, period.high,
    )  # fmt: skip


def _neighbours(problem: ContinuousProblem, lost: Mask) -> Ints:
    """Return for each node (z, i) itself, or the nearest one that has a line."""
    steps = np.stack(np.unravel_index(np.arange(lost.shape[1]), [a.size for a in problem.axes]), -1)
    own = np.tile(np.arange(lost.shape[1]), (lost.shape[0], 1))
    for z in range(lost.shape[0]):
        good = np.flatnonzero(~lost[z])
        for i in np.flatnonzero(lost[z]):
            own[z, i] = good[np.argmin(np.abs(steps[good] - steps[i]).sum(1))]
    return own


def _copied(problem: ContinuousProblem, found: Bounds, instead: Ints) -> Bounds:
    """Give nodes without a line that of their neighbour."""
    slopes = at_corners(found.slopes, instead)
    step = problem.nodes[None] - problem.nodes[instead]
    lines = at_corners(found.lines, instead) + (slopes * step).sum(-1)
    return Bounds(found.lower, lines, slopes, found.gap)


@dataclass
class _Lines:
    """Slopes, weights and multipliers, found in turn; the narrowest of some rounds is kept."""

    period: Period
    instead: Ints
    ahead: Bounds | None

    def best(self) -> Bounds:
        period = self.period
        scale = BINDING * np.maximum(1.0, np.abs(period.y).max())
        active = period.bound.h <= scale
        index, weight = locate(period.problem, period.place)
        slopes = None
        best: tuple[float, Bounds] | None = None
        for k in range(ROUNDS):
            slopes = self._slopes(active, index, weight, slopes)
            q = period.onward(self._next(slopes))
            mu = self._multipliers(active, self._pull(q, index, weight))
            dropped = active & (mu <= 0) & (period.bound.h > -scale)
            if k < 2 and dropped.any() and period.bound.h.shape[-1] > 1:
                # What holds a choice without pushing at it leaves the choice free.
                active = active & ~dropped
                slopes = self._slopes(active, index, weight, slopes)
                q = period.onward(self._next(slopes))
                mu = self._multipliers(active, self._pull(q, index, weight))
            index, weight = self._matched(q, mu)
            near = period.bound.h <= scale
            mu = self._multipliers(near, self._pull(q, index, weight))
            gap = self._gap(slopes, q, mu, index, weight)
            most = float(np.where(self._own, gap, 0.0).mean())
            if best is None or most < best[0]:
                best = (most, self._heights(slopes, q, mu, gap, index, weight))
            if most <= 1e-12 * max(1.0, float(np.abs(period.reward).mean())):
                break
        assert best is not None
        return best[1]

    @property
    def _own(self) -> Mask:
        return np.asarray(self.instead == np.arange(self.instead.shape[1]))

    def _next(self, slopes: Floats) -> Floats:
        """Return the slopes of the next period's lines: over an infinite horizon the same."""
        return slopes if self.ahead is None else self.ahead.slopes

    def _pull(self, q: Floats, index: Ints, weight: Floats) -> Floats:
        """Return F_y + D E B' q (z, i, m)."""
        mixed = interpolated(q, index, weight)
        pull: Floats = np.einsum("ziwdm,ziwd->ziwm", self.period.b, mixed)
        return self.period.fy + self.period.mean(pull)

    def _response(self, active: Mask) -> Floats:
        """Return the choice's slopes (z, i, m, d) that keep what binds binding."""
        period = self.period
        hy = np.where(active[..., None], period.bound.hy, 0.0)
        hx = np.where(active[..., None], period.bound.hx, 0.0)
        back = np.linalg.pinv(hy, rcond=1e-9)
        moved = -np.einsum("zimk,zikd->zimd", back, hx)
        free = np.eye(hy.shape[-1]) - np.einsum("zimk,zikn->zimn", back, hy)
        by = np.einsum("ziwdm,zimn->ziwdn", period.b, free)
        left = period.a + np.einsum("ziwdm,zime->ziwde", period.b, moved)
        square = period.mean(np.einsum("ziwdm,ziwdn->ziwmn", by, by))
        across = period.mean(np.einsum("ziwdm,ziwde->ziwme", by, left))
        inner = np.linalg.pinv(square, rcond=1e-9, hermitian=True)
        found: Floats = moved - np.einsum("zimn,zink,zike->zime", free, inner, across)
        return found

    def _slopes(self, active: Mask, index: Ints, weight: Floats, start: Floats | None) -> Floats:
        """Solve the linear recursion of the slopes p (z, i, d)."""
        period = self.period
        response = self._response(active)
        fixed = period.fx + np.einsum("zimd,zim->zid", response, period.fy)
        carry = period.a + np.einsum("ziwdm,zime->ziwde", period.b, response)

        def once(p: Floats) -> Floats:
            mixed = interpolated(period.onward(p), index, weight)
            new = fixed + period.mean(np.einsum("ziwde,ziwd->ziwe", carry, mixed))
            return at_corners(new, self.instead)

        if self.ahead is not None:
            return once(self.ahead.slopes)
        if float(np.abs(carry).max()) < 1e-12:
            return at_corners(fixed, self.instead)
        p = at_corners(fixed, self.instead) if start is None else start
        base = once(np.zeros_like(p))
        operator = LinearOperator(
            (p.size, p.size), lambda v: v - (once(v.reshape(p.shape)) - base).ravel()
        )
        found, _ = bicgstab(operator, base.ravel(), x0=p.ravel(), rtol=1e-11, maxiter=500)
        if np.isfinite(found).all():
            p = found.reshape(p.shape)
        return p

    def _multipliers(self, active: Mask, pull: Floats) -> Floats:
        """Return multipliers (z, i, k), not negative, that make what is left of g small."""
        hy = self.period.bound.hy
        size = np.maximum((hy * hy).sum(-1), 1e-300)
        mu = np.zeros(active.shape)
        left = pull.copy()
        held = np.flatnonzero(active.any((0, 1)))
        for _ in range(1 if hy.shape[-1] == 1 else 40):
            for k in held:
                new = np.maximum(0.0, mu[..., k] - (hy[..., k, :] * left).sum(-1) / size[..., k])
                new = np.where(active[..., k], new, 0.0)
                left = left + (new - mu[..., k])[..., None] * hy[..., k, :]
                mu[..., k] = new
        return mu

    def _matched(self, q: Floats, mu: Floats) -> tuple[Ints, Floats]:
        """Return the weights of a shifted place at which g is zero; any are valid."""
        period = self.period
        pushed = period.fy + np.einsum("zik,zikm->zim", mu, period.bound.hy)
        low, high = np.minimum(period.low, period.y), np.maximum(period.high, period.y)

        def moved(y: Floats) -> tuple[Ints, Floats]:
            shift = np.einsum("ziwdm,zim->ziwd", period.b, y - period.y)
            return locate(period.problem, period.place + shift)

        def left(y: Floats) -> Floats:
            mixed = interpolated(q, *moved(y))
            pull: Floats = np.einsum("ziwdm,ziwd->ziwm", period.b, mixed)
            return np.asarray(pushed + period.mean(pull))

        if period.y.shape[-1] > 1:
            return moved(self._newton(left, low, high))
        if np.abs(left(period.y)).max() <= 64 * EPS * np.abs(pushed).max():
            return moved(period.y)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            more = left(middle) > 0
            low, high = np.where(more, middle, low), np.where(more, high, middle)
        return moved((low + high) / 2)

    def _newton(self, left: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
        """Find a zero of g in the box of each node; the best place met is returned."""
        y = best = self.period.y
        cost = np.full(y.shape[:-1], np.inf)
        m = y.shape[-1]
        step = 1e-7 * np.maximum(high - low, 1e-3 * (1.0 + np.abs(y)))
        for k in range(NEWTON):
            g = left(y)
            held = ((y <= low) & (g < 0)) | ((y >= high) & (g > 0))
            g = np.where(held, 0.0, g)
            now = (np.abs(g) * (high - low)).sum(-1)
            best, cost = np.where((now < cost)[..., None], y, best), np.minimum(now, cost)
            if np.abs(g).max() < 1e-13 * np.abs(self.period.fy).max():
                break
            turn = np.zeros((*y.shape, m))
            for j in range(m):  # q is linear within a cell: a difference is its derivative
                toward = np.where(y[..., j] + step[..., j] > high[..., j], -1.0, 1.0)
                shift = np.zeros_like(y)
                shift[..., j] = toward * step[..., j]
                turn[..., j] = (left(y + shift) - left(y)) / shift[..., j][..., None]
            both = held[..., :, None] | held[..., None, :]
            size = np.abs(turn).max((-1, -2))[..., None, None] + 1e-300
            turn = np.where(both, 0.0, turn) - size * np.eye(m) * np.where(
                held[..., None], 1.0, 1e-10
            )
            move = -np.linalg.solve(turn, g[..., None])[..., 0]
            y = np.clip(y + (1.0 if k < 12 else 0.5) * np.nan_to_num(move), low, high)
        return best

    def _gap(self, p: Floats, q: Floats, mu: Floats, index: Ints, weight: Floats) -> Floats:
        """Return the most that line i lies below what it must not (z, i)."""
        period, bound = self.period, self.period.bound
        g = self._pull(q, index, weight) + np.einsum("zik,zikm->zim", mu, bound.hy)
        mixed = period.mean(np.einsum("ziwde,ziwd->ziwe", period.a, interpolated(q, index, weight)))
        r = period.fx + np.einsum("zik,zikd->zid", mu, bound.hx) + mixed - p
        low, high = period.problem.box
        least, most = self._range
        nodes = period.problem.nodes
        gap = np.maximum(g * (most - period.y), g * (least - period.y)).sum(-1)
        gap = gap + np.maximum(r * (high - nodes), r * (low - nodes)).sum(-1)
        terms = np.abs(period.fy) + np.abs(g)
        across = (terms * (most - least)).sum(-1)
        across = across + ((np.abs(p) + np.abs(period.fx)) * (high - low)).sum(-1)
        return np.asarray(np.maximum(gap, 0.0) + UNITS * (across + np.abs(period.reward)))

    @property
    def _range(self) -> tuple[Floats, Floats]:
        """Return a box (z, 1, m) that holds every feasible choice at every state.

        A concave upper end lies below its tangents: over the box of the states and of the earlier
        choices, at one node each; the least of these is taken. So for lower ends.
        """
        period, problem = self.period, self.period.problem
        d, m = len(problem.states), period.y.shape[-1]
        x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
        lows, highs, by_low, by_high = problem.ends(x, period.y, period.t)
        ends: list[Floats] = [np.zeros((problem.nz, 1, m)), np.zeros((problem.nz, 1, m))]
        (bottom, top) = problem.box
        for j in range(m):
            for which, (value, slope) in enumerate(((lows, by_low), (highs, by_high))):
                sign = (-1.0, 1.0)[which]
                tangent = sign * value[..., j]
                by = sign * slope[..., j, :]
                tangent = tangent + np.maximum(
                    by[..., :d] * (top - x), by[..., :d] * (bottom - x)
                ).sum(-1)
                for earlier in range(j):
                    own = by[..., d + earlier]
                    room = [e[..., earlier] - period.y[..., earlier] for e in ends]
                    tangent = tangent + np.maximum(own * room[0], own * room[1])
                tangent = np.where(np.isfinite(tangent), tangent, np.inf)
                ends[which][..., j] = sign * tangent.min(1, keepdims=True)
        return ends[0], ends[1]

    def _heights(
        self, p: Floats, q: Floats, mu: Floats, gap: Floats, index: Ints, weight: Floats
    ) -> Bounds:
        """Solve for the heights u of the lines."""
        period, instead = self.period, self.instead
        nodes, shape = period.problem.nodes, period.reward.shape
        pushed = (mu * np.maximum(period.bound.h, 0.0)).sum(-1)
        step = period.place[..., None, :] - nodes[index]
        ahead = self._next(p)
        moved = (weight[..., None] * at_corners(q, index) * step).sum((-1, -2))
        fixed = period.reward + pushed + gap + period.mean(moved)
        size = float(np.abs(at_corners(ahead, index)).max() * np.abs(step).max())
        rounding = UNITS * (np.abs(period.reward) + size)
        matrix = moving(period, index, weight)
        if self.ahead is not None:
            follows = (matrix @ period.onward(self.ahead.lines).ravel()).reshape(shape)
            rounding = rounding + UNITS * np.abs(self.ahead.lines).max()
            return Bounds(fixed * np.nan, fixed + follows + rounding, p, gap)
        copied = (p * (nodes[None] - nodes[instead])).sum(-1)  # p is its neighbour's already
        own = self._own

        def spread(u: Floats) -> Floats:
            return at_corners(u, instead)

        def once(u: Floats) -> Floats:
            follows = (matrix @ period.onward(spread(u)).ravel()).reshape(shape)
            return np.where(own, follows, 0.0)

        def whole() -> csr_array:
            n = shape[1]
            column = (instead + np.arange(shape[0])[:, None] * n).ravel()
            copy = csr_array((np.ones(own.size), (np.arange(own.size), column)))
            kept = csr_array((own.ravel().astype(np.float64), (np.arange(own.size),) * 2))
            return csr_array(kept @ matrix @ kron(period.weights, eye_array(n)) @ copy)

        follows = (matrix @ period.onward(np.where(own, 0.0, copied)).ravel()).reshape(shape)
        fixed = np.where(own, fixed + follows, 0.0)
        u = solve(once, whole, fixed)
        rounding = rounding + UNITS * np.abs(u).max()
        left = np.where(own, fixed + once(u) - u + rounding, 0.0)
        return Bounds(u * np.nan, u + shifted(period.weights, left), p, gap)


def bounds(
    problem: ContinuousProblem, policy: Floats, tangents: Floats | None = None
) -> list[tuple[Period, Bounds]]:
    """Bound the true value by a policy (periods, z, i, m), in every period.

    Parameters
    ----------
    problem : ContinuousProblem
    policy : array (periods, z, i, m)
        The lower bound is of it.
    tangents : array (periods, z, i, m), optional
        Choices that the upper bound is made with, if others.

    Returns
    -------
    list of (Period, Bounds)
        The model at the policy, and bounds on the value at the period's beginning.
    """
    if problem.model.horizon is None:
        period = Period.of(problem, policy[0], None)
        lines = upper_lines(period if tangents is None else period.at(tangents[0]), None)
        return [(period, replace(lines, lower=lower_bound(period, None)))]
    ahead = end_of_time(problem)
    found: list[tuple[Period, Bounds]] = []
    for t in reversed(range(len(policy))):
        period = Period.of(problem, policy[t], t)
        lines = upper_lines(period if tangents is None else period.at(tangents[t]), ahead)
        ahead = replace(lines, lower=lower_bound(period, ahead.lower))
        found.append((period, ahead))
    return found[::-1]


def end_of_time(problem: ContinuousProblem) -> Bounds:
    """Return the value after the last period as bounds of itself."""
    value, slopes = problem.terminal()
    found = Bounds(value, value, slopes, np.zeros_like(value))
    lost = ~(np.isfinite(slopes).all(-1) & np.isfinite(value))
    return _copied(problem, found, _neighbours(problem, lost)) if lost.any() else found


def euler_choices(period: Period, slopes: Floats) -> Floats:
    """Return choices (z, i, m) near those that solve the Euler equation, by bisection.

    `slopes` (z, i, d) are the next period's marginal values, interpolated between the nodes. One
    choice is found after the other, some times over; what is infeasible lies beyond the solution.
    """
    problem, t = period.problem, period.t
    q = period.onward(np.nan_to_num(slopes))
    x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
    y = period.y.copy()
    for _ in range(1 if y.shape[-1] == 1 else SWEEPS):
        for j in range(y.shape[-1]):
            bottom, top, _, _ = problem.ends(x, y, t)
            own = y[..., j]
            low, high = np.minimum(bottom[..., j], own), np.maximum(top[..., j], own)
            for k in range(EULER_HALVINGS):
                trial = y.copy()
                middle = trial[..., j] = high if k == 0 else low if k == 1 else (low + high) / 2
                _, fy = problem.reward_slopes(x, trial, t)
                place, _, b = problem.moves(x, trial, t)
                mixed = interpolated(q, *locate(problem, place))
                pull = fy[..., j] + period.mean(np.einsum("ziwd,ziwd->ziw", b[..., j], mixed))
                allowed = np.isfinite(problem.reward(x, trial, t))
                allowed &= ~problem.leaves(place).any(-1)
                up = np.where(allowed & ~np.isnan(pull), pull > 0, middle < own)
                low, high = np.where(up, middle, low), np.where(up, high, middle)
            trial = y.copy()
            trial[..., j] = (low + high) / 2
            good = np.isfinite(problem.reward(x, trial, t))
            y = np.where(good[..., None], trial, y)
    return y
