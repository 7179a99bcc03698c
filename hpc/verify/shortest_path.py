r"""Bounds on a sum of rewards that is not discounted, computed a second time: an upper solution.

With discount 1 the claim is about :math:`v^* = \sup_\pi \liminf_n E \sum_{t<n} r_t`. Let G be the
largest set of states that no choice leaves, in which none decides what comes next, and whose best
reward is exactly 0: there :math:`v^* = 0`. And let :math:`z` be 0 on G, with
:math:`c = z - Tz > 0` off it. Then
:mod:`dpsolve.solvers.methods.shortest_path` proves that the problem is well-posed, and that

.. math::
    v + \frac{\rho_-}{1 + \rho_-} (z - v) \;\le\; v^* \;\le\; v + \frac{\rho_+}{1 + \rho_+} (z - v)

for any v that is 0 on G and :math:`\rho_- c \le Tv - v \le \rho_+ c` off it. Here z, G and v's step
are found from the definition, in extended precision. Where no z is found nothing is proven: not
even a bound that one step confirms, as :math:`T\ell \ge \ell` says nothing of a cycle without cost.
"""

from __future__ import annotations

import numpy as np

from dpsolve.hpc.model_definition.bellman import (
    WIDE,
    WIDE_EPS,
    Array,
    BellmanSweep,
    Definition,
    Index,
    Mask,
    bellman,
    growth,
)

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
ATTEMPTS, PATIENCE = 8, 40  # each with an eighth of what rewards are raised by, twice as long
ENOUGH = 0.1  # of that: a slack to be content with


def bounds(
    definition: Definition, value: Array, states: Index
) -> tuple[Array, Array, float] | None:
    """Bound the true value at some states by one step from a claimed one (n,).

    Returns
    -------
    low, high : array (states,)
    slack : float
        What of them is the allowance for rounding.
    None
        If no upper solution is found.
    """
    end = ends(definition)
    found = upper_solution(definition, end)
    if found is None:
        return None
    above, slack = found
    v = np.where(end, 0, value.astype(WIDE))
    sweep, off = bellman(definition, [v]), ~end
    tv, allowed = sweep.value[0], _rounding(definition, v, sweep)
    change = np.where(end, 0, tv - v)
    high = max(0.0, float(np.max((change[off] + allowed) / slack[off], initial=0.0)))
    low = min(0.0, float(np.min((change[off] - allowed) / slack[off], initial=0.0)))
    way = above - v
    least = -np.inf if not low > -1 else v + low / (1 + low) * way
    beyond = 8 * WIDE_EPS * (np.abs(v) + np.abs(above))
    lower, upper = np.where(end, 0, least - beyond), np.where(end, 0, v + high * way / (1 + high))
    share = allowed / float(np.min(slack[off], initial=np.inf)) / (1 + max(low, -0.999))
    room = share * float(np.max(np.abs(way), initial=0.0)) + float(beyond.max(initial=0.0))
    return lower[states], (upper + beyond)[states], room


def ends(definition: Definition) -> Mask:
    """Return where everything is over (n,): the largest set that nothing leaves, and pays 0.

    And where no choice decides what comes next: all lead to the same mean of some function.
    """
    some = np.arange(definition.n, dtype=WIDE) * np.sqrt(WIDE(2)) % 1
    spread = growth(definition, some)[0] + growth(definition, -some)[0]
    end: Mask = bellman(definition, [np.zeros(definition.n, WIDE)]).value[0] == 0
    end &= spread <= 1e-12
    while True:
        kept = end & (growth(definition, np.where(end, 0, 1).astype(WIDE))[0] == 0)
        if (kept == end).all():
            return end
        end = kept


def upper_solution(definition: Definition, end: Mask) -> tuple[Array, Array] | None:
    """Return a value (n,) and what one step takes from it off the end (n,), or None."""
    if not end.any():
        return None
    raised: float | None = None
    for attempt in range(ATTEMPTS):
        z = np.zeros(definition.n, WIDE)
        for _ in range(PATIENCE * 2**attempt):
            sweep = bellman(definition, [z])
            tz = np.where(end, 0, sweep.value[0])
            if not np.isfinite(tz).all():
                return None
            if raised is None:
                raised = float(np.max(np.abs(tz))) / 8 or 1.0
            slack = z - tz - _rounding(definition, z, sweep)
            if (end | (slack >= ENOUGH * raised)).all():
                return z, slack
            z = np.where(end, 0, tz + raised)
        assert raised is not None
        raised /= 8
    return None


def _rounding(definition: Definition, v: Array, sweep: BellmanSweep) -> float:
    """Return how far the solver's model may be from one step of this one."""
    scale = max(float(np.max(np.abs(x))) for x in (v, sweep.value[0])) + sweep.cancelled
    unit = definition.units * EPS + (8 + 2 * definition.depth) * WIDE_EPS
    return unit * scale + definition.depth * TINY
