"""Probabilities at the door: checked where they are plain numbers, and divided by their sum.

Whoever types .1, .2, .7 means one, and the float64 sum of these misses it; 1 - .9 - .1 is
-2.8e-17. So a row that sums to one within ``ROW_SUM_TOLERANCE`` is divided by its sum, once, where
a model takes it in (``dp.mdp``, ``dp.markov``, ``dp.iid``, the chains made here, shocks whose
probabilities move with the state), whether its numbers are plain or traced; entries as little below
zero count as zero. What is no such row stays as it is, and is refused by name: here, or where it is
traced, by the survey of its point.

The sum is exact but for its last rounding, so every entry is off by one unit in the last place at
most from the exact quotient, which the bounds allow for.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.tracing import namespace

Given = TypeVar("Given", bound=AnyArray)
ROW_SUM_TOLERANCE = 1e-9
"""How far a row of probabilities may miss one, or an entry zero, and still be rounding."""
REMEDY = "divide each row by its sum, in float64: p = p.astype(float); p / p.sum(-1, keepdims=True)"


def normalised(p: Given) -> Given:
    """Divide probabilities by their sum along the last axis; what is no such row stays as it is."""
    xp = namespace(p)
    cut = xp.where((p < 0.0) & (p >= -ROW_SUM_TOLERANCE), 0.0, p)
    sums = compensated_sum(cut)[..., None]
    near = (xp.abs(sums - 1.0) <= ROW_SUM_TOLERANCE) & (cut >= 0.0).all(-1)[..., None]
    found: Given = xp.where(near, cut / xp.where(near, sums, 1.0), p)
    return found


def compensated_sum(x: Given) -> Given:
    """Sum an array over its last axis, NumPy's or JAX's, exactly but for the last rounding.

    Each addition's own rounding is found without error (Knuth's TwoSum) and summed beside it
    (Ogita, Rump and Oishi 2005, *SIAM J. Sci. Comput.* 26).
    """
    xp = namespace(x)
    total, lost = x, xp.zeros_like(x)
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        a, b, rest = total[..., :half], total[..., half : 2 * half], total[..., 2 * half :]
        s = a + b
        part = s - a
        slip = (a - (s - part)) + (b - part)
        slip = slip + lost[..., :half] + lost[..., half : 2 * half]
        total = xp.concatenate([s, rest], -1)
        lost = xp.concatenate([slip, lost[..., 2 * half :]], -1)
    found: Given = (total + lost).sum(-1)  # of one entry, or none
    return found


def check_distribution(p: Numpy, what: str) -> None:
    """Refuse concrete probabilities (…, n) that are negative or do not sum to one."""
    rows = p.reshape(-1, p.shape[-1])
    gap = np.abs(rows.sum(1) - 1.0)
    worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
    where = f"row {worst} of {what}" if p.ndim > 1 else what
    if p.ndim == 3:
        where = f"row {worst % p.shape[1]} of {what} in period t={worst // p.shape[1]}"
    if not gap[worst] <= ROW_SUM_TOLERANCE:
        raise ModelError(
            f"{where} sums to {rows[worst].sum():.12g}, not to 1; probabilities that leak would "
            f"shift the solution by more than any tolerance: {REMEDY}"
        )
    if (rows < -ROW_SUM_TOLERANCE).any():
        row, column = np.argwhere(rows < -ROW_SUM_TOLERANCE)[0]
        raise ModelError(f"{what} has a negative entry {rows[row, column]:g} in row {row}")
