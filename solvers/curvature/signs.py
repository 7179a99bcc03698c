"""What is known of a sign: a set of two facts, "nowhere below zero" and "nowhere above it".

One algebra serves three questions, asked of a function of continuous variables: the sign of its
slope (rising, falling), of its second derivative along every line (convex, concave), and of a cross
derivative (increasing, decreasing differences). Functions with kinks have them as differences.
"""

from __future__ import annotations

from .ranges import Range

UNKNOWN = 0
UP = 1  # not negative: rising, convex, increasing differences
DOWN = 2  # not positive: falling, concave, decreasing differences
ZERO = UP | DOWN  # constant, affine, separable


def flip(sign: int) -> int:
    """Return the sign of minus what has `sign`."""
    return (sign & UP) << 1 | (sign & DOWN) >> 1


def times(a: int, b: int) -> int:
    """Return the sign of a product."""
    if ZERO in (a, b):
        return ZERO
    if UNKNOWN in (a, b):
        return UNKNOWN
    return UP if a == b else DOWN


def sign_of(r: Range) -> int:
    """Return the sign of all numbers of a range."""
    return (UP if r.bottom >= 0 else 0) | (DOWN if r.top <= 0 else 0)
