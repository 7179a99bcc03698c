"""Tests for NaN, and extremes in which NaN counts: no verdict rests on NaN passing through.

On the CPU, XLA hands reductions of 4,096 entries and more to a library that drops NaN: ``jnp.max``
and ``jnp.min`` of an array with a NaN are finite, eager, jitted and mapped (jaxlib 0.10.2 and
0.12.0.1; openxla/xla#21461 and tensorflow/tensorflow#116992 are its like). Sums keep NaN today, and
nobody has promised that they will. So what is decided by an extreme takes it from here, where NaN
is replaced, entry by entry, before anything is reduced; and what asks for NaN asks for it alone.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .tracing import is_concrete

Axes = int | tuple[int, ...] | None


def largest(x: Array, axis: Axes = None) -> Array:
    """Return the largest entry; NaN counts as infinite."""
    return jnp.max(jnp.where(jnp.isnan(x), jnp.inf, x), axis)


def smallest(x: Array, axis: Axes = None) -> Array:
    """Return the smallest entry; NaN counts as minus infinite."""
    return jnp.min(jnp.where(jnp.isnan(x), -jnp.inf, x), axis)


def any_nan(x: Array) -> Array:
    """Tell whether an entry is NaN."""
    return jnp.isnan(x).any()


def all_finite(x: Array) -> Array:
    """Tell whether no entry is NaN or infinite."""
    return jnp.isfinite(x).all()


# What a sweep recomputes for lack of memory takes most of a solve's time, and is fast because XLA's
# library evaluates rewards and their maximum together, of sums, products and extremes only: a test
# for NaN among them takes twice the time (savings, 2,000 x 25: .20 s for a sweep, .42 with it). A
# minimum with a constant costs nothing, and for a NaN that library returns the constant; where XLA
# computes it by itself NaN is passed on, by the maximum, too. That is tried before it is relied on.
GREATEST = float(np.finfo(np.float64).max)


def largest_computed(x: Array) -> Array:
    """Return the largest entry over the last axis, infinite where one is NaN or infinite.

    As :func:`largest`, for entries that are computed on the way and kept nowhere.
    """
    if is_concrete(x) or not _minimum_tells():  # one operation after the other: nothing is fused
        return largest(x, -1)
    best = jnp.max(jnp.minimum(x, GREATEST), -1)
    return jnp.where(best < GREATEST, best, jnp.inf)


@lru_cache(maxsize=1)
def _minimum_tells() -> bool:
    """Try whether a NaN gets through a minimum with a constant and a maximum of it."""

    def best(x: Array, shift: Array) -> Array:
        allowed = jnp.where(x < 40.0, jnp.sqrt(x) + shift, -jnp.inf)
        return jnp.stack([jnp.max(jnp.minimum(y, GREATEST), -1) for y in (allowed, jnp.sqrt(x))])

    with jax.ensure_compile_time_eval():
        rows = np.arange(512)
        x = np.full((512, 33), 2.0)
        x[rows, rows % 33] = -1.0
        shift = np.linspace(0.0, 1.0, 33)
        found = np.asarray(jax.jit(best)(x, shift))
        mapped = np.asarray(jax.jit(jax.vmap(best, (0, None)))(x.reshape(8, 64, 33), shift))
    return not any((y < GREATEST).any() for y in (found, mapped))
