r"""The best of several continuous choices at one state: nested roots of slopes.

Choices are made in the model's order, and the ends of each interval may depend on those before.
The objective is concave, so for given earlier choices the slope in the next one, with the later
ones at their best, falls. Where a later choice is held by an end of its interval that depends on an
earlier one, the earlier one's slope is that along the end: each choice that its end holds is
substituted by the end, the last one first (:func:`substitute`). What is left of the slopes is zero
for a free choice. The same substitution gives the multipliers of the bounds, and how the choices
move with the state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.dense import eliminate
from dpsolve.solvers.numerics.tracing import EPS

from .problem import ContinuousProblem

HALVINGS = 64
"""Trials at most; a smooth slope takes some five from nearby, and ten from afar."""

SMALL, GROWTH = 1e-3, 30.0
"""The first step, of the interval, and how much longer than the last one a step may be."""

SECANTS = 8
"""Trials after which steps along a secant are doubled, so that the root comes to lie between."""

SHARES = (0.5, 0.05, 1e-3, 1e-6, 1e-9, 0.0, 0.95, 1 - 1e-3, 1 - 1e-9, 1.0)
"""Where in an interval a feasible choice is looked for."""

NEAR = 1e-12
"""How far from an end of its interval a choice may be by rounding, of their size."""

Slopes = Callable[[Array], tuple[Array, Array]]


class Optimum(NamedTuple):
    """The best choice at one state.

    Attributes
    ----------
    y : array (m,)
    slope_y, slope_x : array (m,), (d,)
        Of the objective there, with the choices that ends hold substituted.
    held : int array (m,)
        1 where the upper end holds a choice, -1 where the lower one does, else 0.
    found : bool
        Whether a feasible choice was found.
    """

    y: Array
    slope_y: Array
    slope_x: Array
    held: Array
    found: Array


def _end(problem: ContinuousProblem, j: int, z: Array, which: int, x: Array, y: Array) -> Array:
    """Return the lower (0) or upper (1) end of the interval of choice j."""
    return problem.ends(j, x, y, z)[which]


def substitute(
    problem: ContinuousProblem, j: int, x: Array, z: Array, at: Optimum, held: Array
) -> Optimum:
    """Put the end that holds choice j, if one does, in its place."""
    low, high = (jax.jacfwd(partial(_end, problem, j, z, k), (0, 1))(x, at.y) for k in (0, 1))
    own = at.slope_y[j]
    along = [jnp.where(held > 0, up, jnp.where(held < 0, down, 0.0))
             for down, up in zip(low, high, strict=True)]  # fmt: skip
    # An end that does not hold may have no slope; where nothing is gained, nothing is to be added.
    by_x, by_y = (jnp.where(held == 0, 0.0, own * a) for a in along)
    slope_y = at.slope_y + by_y
    slope_y = jnp.where((jnp.arange(slope_y.size) == j) & (held != 0), 0.0, slope_y)
    return at._replace(slope_y=slope_y, slope_x=at.slope_x + by_x, held=at.held.at[j].set(held))


def best(
    problem: ContinuousProblem,
    x: Array,
    z: Array,
    slopes: Slopes,
    feasible: Callable[[Array], Array],
    near: Array,
) -> Optimum:
    """Return the best choice at one state.

    Parameters
    ----------
    problem : ContinuousProblem
    x, z : array (d,), int
        The state.
    slopes : function
        From a choice (m,) to the slopes of a concave objective in choice (m,) and state (d,).
    feasible : function
        From a choice (m,) to bool.
    near : array (m,)
        Where to begin: the nearer the quicker. What is no number tells nothing.
    """
    m = len(problem.choices)

    def some(j: int, y: Array) -> tuple[Array, Array]:
        """Return a choice j after which feasible ones were found, and whether any was."""
        low, high = problem.ends(j, x, y, z)

        def follow(choice: Array) -> Array:
            later = y.at[j].set(choice)
            return feasible(later) if j + 1 == m else some(j + 1, later)[1]

        choice, ok = _first(follow, jnp.clip(near[j], low, high), low, high)
        return choice, ok & (low <= high)

    def settle(j: int, y: Array) -> Optimum:
        """Make choices j, ... for given earlier ones."""
        if j == m:
            slope_y, slope_x = slopes(y)
            return Optimum(y, slope_y, slope_x, jnp.zeros(m, jnp.int32), feasible(y))
        low, high = problem.ends(j, x, y, z)
        high = jnp.maximum(low, high)
        anchor, ok = some(j, y)

        def trial(choice: Array) -> tuple[Array, Array]:
            there = settle(j + 1, y.at[j].set(choice))
            # What is infeasible lies beyond the feasible ones, which are an interval.
            outwards = jnp.where(choice < anchor, jnp.inf, -jnp.inf)
            slope = there.slope_y[j]
            return jnp.where(there.found & ~jnp.isnan(slope), slope, outwards), there.found

        choice = _root(trial, low, high, anchor)
        there = settle(j + 1, y.at[j].set(choice))
        slope = there.slope_y[j]
        held = jnp.where(
            (choice >= high) & (slope > 0.0), 1, jnp.where((choice <= low) & (slope < 0.0), -1, 0)
        )
        there = there._replace(found=there.found & ok)
        return substitute(problem, j, x, z, there, held)

    return settle(0, jnp.zeros(m))


def _first(
    test: Callable[[Array], Array], guess: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """Return the first choice that passes a test, of a guess and of shares of an interval."""
    shares = jnp.asarray((0.0, *SHARES))

    def candidate(k: Array) -> Array:
        return jnp.where(k == 0, guess, low + shares[k] * (high - low))

    def proceed(carry: tuple[Array, Array]) -> Array:
        k, ok = carry
        return (k < len(SHARES)) & ~ok

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        k = carry[0] + 1
        return k, test(candidate(k))

    k, ok = lax.while_loop(proceed, step, (jnp.int32(-1), jnp.asarray(False)))
    return jnp.where(ok, candidate(k), candidate(jnp.int32(1))), ok


def _root(
    trial: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, anchor: Array
) -> Array:
    """Return where a falling slope is zero, or the end of the interval beyond which that is.

    From the anchor, a choice that is feasible, steps along secants go on until the slope's sign
    changes or an end is reached. Then Chandrupatla (1997), Advances in Engineering Software 28:
    inverse quadratic interpolation where it may be trusted, else bisection. An infinite slope is
    bisected away from. What is returned is the feasible choice with the least slope that was tried.
    """
    inf = jnp.asarray(jnp.inf)

    def step(carry: _Bracket) -> _Bracket:
        slope, found = trial(carry.choice)
        better = found & (jnp.abs(slope) <= carry.least)
        at_low, at_high = carry.choice <= low, carry.choice >= high
        held = found & ((at_low & (slope <= 0.0)) | (at_high & (slope >= 0.0)))
        at = carry.after(slope, low, high)._replace(
            good=jnp.where(better | held, carry.choice, carry.good),
            least=jnp.where(better, jnp.abs(slope), carry.least),
        )
        choice = at.next(SMALL * (high - low))
        size = jnp.maximum(jnp.abs(at.a), jnp.abs(at.b)) + SMALL * (high - low)
        close = jnp.isfinite(at.fc) & (jnp.abs(choice - at.a) <= 2 * EPS * size)
        closed = jnp.abs(at.b - at.a) <= 4 * EPS * size
        return at._replace(choice=choice, done=held | (slope == 0.0) | close | closed)

    def proceed(carry: _Bracket) -> Array:
        return ~carry.done & (carry.k < HALVINGS)

    no = jnp.asarray(False)
    begin = _Bracket(
        jnp.int32(0), anchor, anchor, inf, anchor, inf, anchor, inf, no, anchor, inf, no
    )
    return lax.while_loop(proceed, step, begin).good


class _Bracket(NamedTuple):
    """Where a root is looked for.

    Attributes
    ----------
    k : int
        Trials made.
    choice : float
        The next one.
    a, fa : float
        The last one, and its slope.
    b, fb : float
        The nearest across the root; while none was `tried`, the end, and an infinite slope.
    c, fc : float
        The one before, on the side of a; an infinite slope where there is none.
    tried : bool
    good, least : float
        The feasible choice with the least slope, and that slope's size.
    done : bool
    """

    k: Array
    choice: Array
    a: Array
    fa: Array
    b: Array
    fb: Array
    c: Array
    fc: Array
    tried: Array
    good: Array
    least: Array
    done: Array

    def after(self, slope: Array, low: Array, high: Array) -> _Bracket:
        """Return the bracket when the next choice has been tried."""
        first, rises = self.k == 0, slope > 0
        across = ~first & (jnp.sign(slope) != jnp.sign(self.fa))
        c, fc = (jnp.where(across, *pair) for pair in ((self.b, self.a), (self.fb, self.fa)))
        b, fb = (jnp.where(across, *pair) for pair in ((self.a, self.b), (self.fa, self.fb)))
        return self._replace(
            k=self.k + 1,
            a=self.choice,
            fa=slope,
            b=jnp.where(first, jnp.where(rises, high, low), b),
            fb=jnp.where(first, jnp.where(rises, -jnp.inf, jnp.inf), fb),
            c=c,
            fc=jnp.where(first, jnp.inf, fc),
            tried=self.tried | across,
        )

    def next(self, small: Array) -> Array:
        """Return the next choice, between a and b; a first step is a `small` one."""
        _, _, a, fa, b, fb, c, fc, tried, *_ = self
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        smooth = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
            fc - fb
        )
        share = jnp.where(trusted & jnp.isfinite(smooth), smooth, 0.5)
        two = jnp.isinf(fc) & jnp.isfinite(fa) & jnp.isfinite(fb)
        share = jnp.where(two, fa / (fa - fb), share)
        near = EPS * jnp.maximum(jnp.abs(a), jnp.abs(b)) / jnp.abs(b - a)
        share = jnp.clip(share, jnp.minimum(near, 0.5), 1.0 - jnp.minimum(near, 0.5))
        # Where there is no slope across, along the secant: not too far, and to the end at most.
        most = jnp.where(tried, 0.5, 1.0) * jnp.abs(b - a)
        line = jnp.where(self.k > SECANTS, 2.0, 1.0) * jnp.abs(fa * (a - c) / (fa - fc))
        longest = GROWTH * jnp.abs(a - c)
        line = jnp.where(jnp.isnan(line), longest, jnp.minimum(line, longest))
        line = jnp.minimum(jnp.where(jnp.isinf(fc), small, line), most)
        ahead = jnp.where(line < jnp.abs(b - a), a + jnp.sign(b - a) * line, b)
        return jnp.where(jnp.isinf(fb) & jnp.isfinite(fa), ahead, a + share * (b - a))


def holding(problem: ContinuousProblem, x: Array, z: Array, y: Array) -> tuple[Array, Array]:
    """Tell which choices (m,) lie at the lower end of their interval, and which at the upper."""
    ends = [problem.ends(j, x, y, z) for j in range(len(problem.choices))]
    low, high = (jnp.stack([e[k] for e in ends]) for k in (0, 1))
    near = NEAR * (1.0 + jnp.abs(low) + jnp.abs(high))
    return y <= low + near, y >= high - near


def response(
    problem: ContinuousProblem, x: Array, z: Array, y: Array, held: Array, by_x: Array, by_y: Array
) -> tuple[Array, Array]:
    r"""Return how the choices (m, d) move with the state: along the ends that hold them.

    And how they move (m, m) with the free ones among them.

    A free choice may move in any way, for its slope is zero; it moves such that the next states
    move least, ``f_x + f_y G``, so that marginal values depend little on those of the next period.

    Parameters
    ----------
    held : int array (m,)
        Which choices are held by an end.
    by_x, by_y : array (w, d, d), (w, d, m)
        Derivatives of the next states.
    """
    m, d = len(problem.choices), len(problem.states)
    free = held == 0
    rows: list[Array] = []
    through: list[Array] = []  # how each choice moves with the free ones
    for j in range(m):
        low, high = (jax.jacfwd(partial(_end, problem, j, z, k), (0, 1))(x, y) for k in (0, 1))
        end_x, end_y = (
            jnp.where(held[j] > 0, up, jnp.where(held[j] < 0, down, 0.0))
            for down, up in zip(low, high, strict=True)
        )
        row, own = end_x, jnp.where(free[j], jnp.eye(m)[j], 0.0)
        for k in range(j):
            row = row + end_y[k] * rows[k]
            own = own + end_y[k] * through[k]
        rows.append(jnp.where(free[j], jnp.zeros(d), row))
        through.append(own)
    along, moved = jnp.stack(rows), jnp.stack(through)
    # Least squares over the draws, of the free choices alone.
    shift = by_x + by_y @ along  # (w, d, d)
    lever = by_y @ moved  # (w, d, m)
    normal = jnp.einsum("wdj,wdk->jk", lever, lever)
    size = jnp.trace(normal)
    normal = normal + jnp.diag(jnp.where(jnp.diag(normal) > 1e-14 * size, 1e-14 * size, 1.0))
    wanted = -eliminate(normal, jnp.einsum("wdj,wde->je", lever, shift))
    idle = jnp.diag(jnp.einsum("wdj,wdk->jk", lever, lever)) <= 1e-14 * size
    wanted = jnp.where((idle | ~free)[:, None], 0.0, wanted)
    return along + moved @ wanted, moved
