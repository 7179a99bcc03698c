"""Interval arithmetic on arrays, rounded outward: between which numbers a result lies.

A result is widened by a step of the float64 numbers where it may have been rounded, and left as it
is where it is exact, so that what begins at zero does not begin below it. An end that is no number
(infinity minus infinity) is infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpsolve.solvers.numerics.arrays import Numpy

ULPS = 8.0  # how far NumPy's exp, log, pow and their like may be off, in units of the last place


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, elementwise; both float64 arrays of one shape."""

    lo: Numpy
    hi: Numpy

    @property
    def bottom(self) -> float:
        """Least number of all elements."""
        return float(np.min(self.lo))

    @property
    def top(self) -> float:
        """Largest number of all elements."""
        return float(np.max(self.hi))

    @property
    def known(self) -> bool:
        """Whether both ends are the same number."""
        return bool(np.all(self.lo == self.hi))


def exactly(x: Any) -> Range:
    """Return the range of plain numbers; NaN can be anything."""
    a = np.asarray(x, np.float64)
    if np.asarray(x).dtype.kind in "iu" and np.any(np.abs(a) > 2.0**53):
        return Range(np.nextafter(a, -np.inf), np.nextafter(a, np.inf))
    return ordered(a, a)


def between(lo: Any, hi: Any) -> Range:
    """Return the range from `lo` to `hi`."""
    return ordered(np.asarray(lo, np.float64), np.asarray(hi, np.float64))


def anything(shape: tuple[int, ...] = ()) -> Range:
    """Return all numbers."""
    return Range(np.full(shape, -np.inf), np.full(shape, np.inf))


def ordered(lo: Numpy, hi: Numpy) -> Range:
    """Return the range between two ends of which some may be NaN."""
    return Range(np.where(np.isnan(lo), -np.inf, lo), np.where(np.isnan(hi), np.inf, hi))


def hull(*ranges: Range) -> Range:
    """Return the numbers from the least to the largest end."""
    lo, hi = ranges[0].lo, ranges[0].hi
    for r in ranges[1:]:
        lo, hi = np.minimum(lo, r.lo), np.maximum(hi, r.hi)
    return Range(*np.broadcast_arrays(lo, hi))


def meet(r: Range, lo: float, hi: float) -> Range:
    """Return what of a range lies from `lo` to `hi`."""
    return Range(np.maximum(r.lo, lo), np.maximum(np.minimum(r.hi, hi), np.maximum(r.lo, lo)))


def _outward(lo: Numpy, hi: Numpy, exact_lo: Any, exact_hi: Any) -> Range:
    lo = np.where(exact_lo, lo, np.nextafter(lo, -np.inf))
    return ordered(lo, np.where(exact_hi, hi, np.nextafter(hi, np.inf)))


def _sum(a: Numpy, b: Numpy) -> tuple[Numpy, Any]:
    """Return a sum, and whether it is exact (Knuth's error term)."""
    s = np.asarray(a + b)
    back = s - a
    return s, (a - (s - back)) + (b - back) == 0.0


def add(a: Range, b: Range) -> Range:
    """Return the sums."""
    lo, exact_lo = _sum(a.lo, b.lo)
    hi, exact_hi = _sum(a.hi, b.hi)
    return _outward(lo, hi, exact_lo, exact_hi)


def minus(a: Range) -> Range:
    """Return the numbers with their signs changed."""
    return Range(-a.hi, -a.lo)


def _product(a: Numpy, b: Numpy) -> tuple[Numpy, Any]:
    """Return a product (0 where one factor is 0), and whether it is surely exact."""
    a, b = np.broadcast_arrays(a, b)
    zero = (a == 0) | (b == 0)
    p = np.where(zero, 0.0, a * b)
    powers = (np.abs(np.frexp(a)[0]) == 0.5) | (np.abs(np.frexp(b)[0]) == 0.5)
    return p, zero | (powers & (np.abs(p) > 1e-300) & np.isfinite(p))


def multiply(a: Range, b: Range) -> Range:
    """Return the products."""
    lows, highs = [], []
    for x in (a.lo, a.hi):
        for y in (b.lo, b.hi):
            p, exact = _product(x, y)
            lows.append(np.where(exact, p, np.nextafter(p, -np.inf)))
            highs.append(np.where(exact, p, np.nextafter(p, np.inf)))
    return ordered(np.minimum.reduce(lows), np.maximum.reduce(highs))


def reciprocal(a: Range) -> Range:
    """Return the reciprocals; all numbers where 0 lies inside."""
    inside = (a.lo < 0) & (a.hi > 0)
    lo, exact_lo = _one_over(np.where(a.hi == 0, -0.0, a.hi))
    hi, exact_hi = _one_over(np.where(a.lo == 0, 0.0, a.lo))
    r = _outward(lo, hi, exact_lo, exact_hi)
    return Range(np.where(inside, -np.inf, r.lo), np.where(inside, np.inf, r.hi))


def _one_over(x: Numpy) -> tuple[Numpy, Any]:
    r = 1.0 / x
    return r, (np.abs(np.frexp(x)[0]) == 0.5) | ~np.isfinite(r) | (r == 0)


def rising(
    f: Callable[[Any], Any], a: Range, least: float = -np.inf, most: float = np.inf
) -> Range:
    """Return the values of a function that nowhere falls, which are from `least` to `most`."""
    lo, hi = np.asarray(f(a.lo), np.float64), np.asarray(f(a.hi), np.float64)
    return _widened(lo, hi, least, most)


def _widened(lo: Numpy, hi: Numpy, least: float, most: float) -> Range:
    r = ordered(lo, hi)
    # Not where infinite: infinity minus a margin is infinity.
    down = np.where(np.isfinite(r.lo), ULPS * np.spacing(np.abs(r.lo)), 0.0)
    up = np.where(np.isfinite(r.hi), ULPS * np.spacing(np.abs(r.hi)), 0.0)
    lo = np.where(r.lo == np.inf, np.finfo(np.float64).max, r.lo - down)  # overflow is no number
    hi = np.where(r.hi == -np.inf, np.finfo(np.float64).min, r.hi + up)
    return Range(np.clip(lo, least, most), np.clip(hi, least, most))


def power(base: Range, exponent: Range) -> Range:
    """Return the powers of the bases that are not negative."""
    b = meet(base, 0.0, np.inf)
    corners = [np.power(x, e) for x in (b.lo, b.hi) for e in (exponent.lo, exponent.hi)]
    if any(np.isnan(c).any() for c in corners):
        return Range(np.zeros_like(corners[0]), np.full_like(corners[0], np.inf))
    return _widened(np.minimum.reduce(corners), np.maximum.reduce(corners), 0.0, np.inf)


def whole_power(base: Range, n: int) -> Range:
    """Return the n-th powers, n an integer."""
    if n < 0:
        return reciprocal(whole_power(base, -n))
    if n % 2 == 0:
        inside = (base.lo <= 0) & (base.hi >= 0)
        size_lo = np.where(inside, 0.0, np.minimum(np.abs(base.lo), np.abs(base.hi)))
        size_hi = np.maximum(np.abs(base.lo), np.abs(base.hi))
        return _widened(size_lo**n, size_hi**n, 0.0, np.inf)
    r = _widened(base.lo**n, base.hi**n, -np.inf, np.inf)
    # The sign of the base is that of its power, however small.
    lo = np.where(base.lo >= 0, np.maximum(r.lo, 0.0), r.lo)
    return Range(lo, np.where(base.hi <= 0, np.minimum(r.hi, 0.0), r.hi))


def total(a: Range, axes: tuple[int, ...]) -> Range:
    """Return sums over axes."""
    n = int(np.prod([a.lo.shape[i] for i in axes], dtype=int))
    margin = n * np.finfo(np.float64).eps * np.maximum(np.abs(a.lo), np.abs(a.hi)).sum(axes)
    lo, hi = a.lo.sum(axes), a.hi.sum(axes)
    return ordered(lo - margin, hi + margin)
