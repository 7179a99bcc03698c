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

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.numerics.dense import eliminate
from dpsolve.solvers.numerics.small_programs import entries
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


class Slopes(NamedTuple):
    """What is known of a concave objective at one choice: slopes in choice (m,) and state (d,)."""

    by_y: Array
    by_x: Array
    feasible: Array


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


class Edge(NamedTuple):
    """The lower and the upper end of one choice's interval, at one state and choice.

    Attributes
    ----------
    at : array (2,)
    by_x, by_y : array (2, d), (2, m)
        Their derivatives in the state, and in the choices.
    """

    at: Array
    by_x: Array
    by_y: Array

    def along(self, held: Array) -> tuple[Array, Array]:
        """Return the derivatives (d,), (m,) of the end that holds the choice, 0 if none does."""
        by_x, by_y = (
            jnp.where(held > 0, slopes[1], jnp.where(held < 0, slopes[0], 0.0))
            for slopes in (self.by_x, self.by_y)
        )
        return by_x, by_y


def edge(problem: ContinuousProblem, j: int, x: Array, z: Array, y: Array) -> Edge:
    """Return the ends of choice j, and how they move."""

    def both(x: Array, y: Array) -> tuple[Array, Array]:
        ends = jnp.stack(problem.ends(j, x, y, z))
        return ends, ends

    (by_x, by_y), at = jax.jacfwd(both, (0, 1), has_aux=True)(x, y)
    return Edge(at, by_x, by_y)


def edges(problem: ContinuousProblem, x: Array, z: Array, y: Array) -> list[Edge]:
    """Return those of every choice."""
    return [edge(problem, j, x, z, y) for j in range(len(problem.choices))]


def substitute(j: int, own: Edge, at: Optimum, held: Array) -> Optimum:
    """Put the end that holds choice j, if one does, in its place."""
    slope = at.slope_y[j]
    # An end that does not hold may have no slope; where nothing is gained, nothing is to be added.
    by_x, by_y = (jnp.where(held == 0, 0.0, slope * a) for a in own.along(held))
    slope_y = at.slope_y + by_y
    slope_y = jnp.where((np.arange(slope_y.size) == j) & (held != 0), 0.0, slope_y)
    return at._replace(slope_y=slope_y, slope_x=at.slope_x + by_x, held=at.held.at[j].set(held))


def best(
    problem: ContinuousProblem,
    x: Array,
    z: Array,
    slopes: Callable[[Array], Slopes],
    near: Array,
) -> Optimum:
    """Return the best choice at one state.

    Parameters
    ----------
    problem : ContinuousProblem
    x, z : array (d,), int
        The state.
    slopes : function
        From a choice (m,) to the slopes of a concave objective there.
    near : array (m,)
        Where to begin: the nearer the quicker. What is no number tells nothing.
    """
    m, d = len(problem.choices), len(problem.states)

    def settle(j: int, y: Array) -> Optimum:
        """Make choices j, ... for given earlier ones."""
        if j == m:
            at = slopes(y)
            return Optimum(y, at.by_y, at.by_x, jnp.zeros(m, jnp.int32), at.feasible)
        own = edge(problem, j, x, z, y)
        low, high = own.at[0], jnp.maximum(own.at[0], own.at[1])
        unknown = Optimum(
            y.at[j].set((low + high) / 2),
            jnp.zeros(m),
            jnp.zeros(d),
            jnp.zeros(m, jnp.int32),
            jnp.asarray(False),
        )
        there = _root(lambda c: settle(j + 1, y.at[j].set(c)), j, low, high, near[j], unknown)
        choice, slope = there.y[j], there.slope_y[j]
        held = jnp.where(
            (choice >= high) & (slope > 0.0), 1, jnp.where((choice <= low) & (slope < 0.0), -1, 0)
        )
        there = there._replace(found=there.found & (own.at[0] <= own.at[1]))
        # The ends of a later choice move with the earlier ones alone.
        return substitute(j, own, there, jnp.where(there.found, held, 0))

    return settle(0, jnp.zeros(m))


def _root(
    trial: Callable[[Array], Optimum],
    j: int,
    low: Array,
    high: Array,
    guess: Array,
    unknown: Optimum,
) -> Optimum:
    """Return the best of choices j in an interval, on which the slope falls.

    The first choice is a feasible one: the guess, or the first that is of some shares of the
    interval. From there, the anchor, steps along secants go on until the slope's sign changes or an
    end is reached. Then Chandrupatla (1997), Advances in Engineering Software 28: inverse quadratic
    interpolation where it may be trusted, else bisection. An infinite slope is bisected away from.
    What is returned is the feasible choice with the least slope that was tried, or `unknown`.
    """
    inf, no = jnp.asarray(jnp.inf), jnp.asarray(False)
    shares = jnp.asarray((*SHARES, 1.0))

    def step(carry: _Bracket) -> _Bracket:
        choice = carry.choice
        there = trial(choice)
        found, began = there.found, carry.k > 0
        # What is infeasible lies beyond the feasible ones, which are an interval.
        outwards = jnp.where(choice < carry.kept.y[j], jnp.inf, -jnp.inf)
        slope = there.slope_y[j]
        slope = jnp.where(found & ~jnp.isnan(slope), slope, outwards)
        better = found & (jnp.abs(slope) <= carry.least)
        at_low, at_high = choice <= low, choice >= high
        held = found & ((at_low & (slope <= 0.0)) | (at_high & (slope >= 0.0)))
        at = carry.after(slope, low, high)
        ahead = at.next(SMALL * (high - low))
        size = jnp.maximum(jnp.abs(at.a), jnp.abs(at.b)) + SMALL * (high - low)
        close = jnp.isfinite(at.fc) & (jnp.abs(ahead - at.a) <= 2 * EPS * size)
        closed = jnp.abs(at.b - at.a) <= 4 * EPS * size
        done = held | (slope == 0.0) | close | closed
        begins = began | found
        share = entries(shares, jnp.clip(carry.k + len(SHARES), 0, len(SHARES)))
        return at._replace(
            k=jnp.where(begins, at.k, carry.k + 1),
            choice=jnp.where(begins, ahead, low + share * (high - low)),
            kept=jax.tree.map(partial(jnp.where, better | held), there, carry.kept),
            least=jnp.where(better, jnp.abs(slope), carry.least),
            done=jnp.where(begins, done, carry.k >= 0),
        )

    def proceed(carry: _Bracket) -> Array:
        return ~carry.done & (carry.k < HALVINGS)

    known = ~jnp.isnan(guess)
    first = jnp.where(known, jnp.clip(guess, low, high), low + SHARES[0] * (high - low))
    k = jnp.where(known, 0, 1) - len(SHARES)
    begin = _Bracket(k, first, first, inf, first, inf, first, inf, no, unknown, inf, no)
    return lax.while_loop(proceed, step, begin).kept


class _Bracket(NamedTuple):
    """Where a root is looked for.

    Attributes
    ----------
    k : int
        Trials made since the first that was feasible; less than that for each share of the interval
        that is left to look for one.
    choice : float
        The next one.
    a, fa : float
        The last one, and its slope.
    b, fb : float
        The nearest across the root; while none was `tried`, the end, and an infinite slope.
    c, fc : float
        The one before, on the side of a; an infinite slope where there is none.
    tried : bool
    kept : Optimum
        What was found of the feasible choice with the least slope.
    least : float
        That slope's size.
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
    kept: Optimum
    least: Array
    done: Array

    def after(self, slope: Array, low: Array, high: Array) -> _Bracket:
        """Return the bracket when the next choice has been tried."""
        first, rises = self.k <= 0, slope > 0
        across = ~first & (jnp.sign(slope) != jnp.sign(self.fa))
        c, fc = (jnp.where(across, *pair) for pair in ((self.b, self.a), (self.fb, self.fa)))
        b, fb = (jnp.where(across, *pair) for pair in ((self.a, self.b), (self.fa, self.fb)))
        return self._replace(
            k=jnp.maximum(self.k, 0) + 1,
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
        a, fa, b, fb, c, fc, tried = self[2:9]
        width, across = jnp.abs(b - a), c - b
        outwards = jnp.isinf(fb) & jnp.isfinite(fa)
        two = jnp.isinf(fc) & jnp.isfinite(fa) & jnp.isfinite(fb)
        level = across * (fc - fb) ** 2
        trusted = (((fa - fb) * across) ** 2 < (a - b) * level) & (
            ((fc - fa) * across) ** 2 < (c - a) * level
        )
        # One quotient serves all cases, for each would be computed in a loop of its own.
        over = fa * (fc * (b - a) * (fc - fa) - (c - a) * fb * (fb - fa))
        under = (fb - fa) * (fb - fc) * (b - a) * (fc - fa)
        over = jnp.where(outwards, fa * (a - c), jnp.where(two, fa, over))
        under = jnp.where(outwards, fa - fc, jnp.where(two, fa - fb, under))
        ratio = over / under
        share = jnp.where(two | (trusted & jnp.isfinite(ratio)), ratio, 0.5)
        near = jnp.minimum(EPS * jnp.maximum(jnp.abs(a), jnp.abs(b)), 0.5 * width)
        inside = jnp.clip(share * width, near, width - near)
        # Where there is no slope across, along the secant: not too far, and to the end at most.
        line = jnp.where(self.k > SECANTS, 2.0, 1.0) * jnp.abs(ratio)
        longest = GROWTH * jnp.abs(a - c)
        line = jnp.where(jnp.isnan(line), longest, jnp.minimum(line, longest))
        most = jnp.where(tried, 0.5, 1.0) * width
        line = jnp.minimum(jnp.where(jnp.isinf(fc), small, line), most)
        step = jnp.where(outwards, line, inside)
        return jnp.where(outwards & (line >= width), b, a + jnp.sign(b - a) * step)


def holding(ends: Sequence[Edge], y: Array) -> tuple[Array, Array]:
    """Tell which choices (m,) lie at the lower end of their interval, and which at the upper."""
    low, high = (jnp.stack([own.at[k] for own in ends]) for k in (0, 1))
    near = NEAR * (1.0 + jnp.abs(low) + jnp.abs(high))
    return y <= low + near, y >= high - near


def response(ends: Sequence[Edge], held: Array, by_x: Array, by_y: Array) -> tuple[Array, Array]:
    r"""Return how the choices (m, d) move with the state: along the ends that hold them.

    And how they move (m, m) with the free ones among them.

    A free choice may move in any way, for its slope is zero; it moves such that the next states
    move least, ``f_x + f_y G``, so that marginal values depend little on those of the next period.

    Parameters
    ----------
    ends : Edge of each choice
    held : int array (m,)
        Which choices are held by an end.
    by_x, by_y : array (w, d, d), (w, d, m)
        Derivatives of the next states.
    """
    m = len(ends)
    free = held == 0
    rows: list[Array] = []
    through: list[Array] = []  # how each choice moves with the free ones
    for j, own in enumerate(ends):
        row, end_y = own.along(held[j])
        moved = jnp.where(free[j], jnp.asarray(np.eye(m)[j]), 0.0)
        for k in range(j):
            row = row + end_y[k] * rows[k]
            moved = moved + end_y[k] * through[k]
        rows.append(jnp.where(free[j], 0.0, row))
        through.append(moved)
    along, moved = jnp.stack(rows), jnp.stack(through)
    # Least squares over the draws, of the free choices alone.
    shift = by_x + by_y @ along  # (w, d, d)
    lever = by_y @ moved  # (w, d, m)
    normal = jnp.einsum("wdj,wdk->jk", lever, lever)
    diagonal = jnp.diag(normal)
    idle = diagonal <= 1e-14 * jnp.sum(diagonal)
    normal = normal + jnp.diag(jnp.where(idle, 1.0, 1e-14 * jnp.sum(diagonal)))
    wanted = -eliminate(normal, jnp.einsum("wdj,wde->je", lever, shift))
    wanted = jnp.where((idle | ~free)[:, None], 0.0, wanted)
    return along + moved @ wanted, moved
