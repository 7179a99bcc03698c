"""Concrete or traced, NumPy or JAX; machine epsilon, and the smallest normal number."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
"""XLA takes what is smaller for zero: every operation may lose as much."""


def is_concrete(*values: Any) -> bool:
    """Tell whether none of the values is traced by JAX."""
    leaves = jax.tree.leaves(values)
    return not any(isinstance(x, jax.core.Tracer) for x in leaves)


def namespace(*values: Any) -> Any:
    """Return NumPy if every value is concrete, else ``jax.numpy``."""
    return np if is_concrete(*values) else jnp


def same_values(one: Any, other: Any) -> bool:
    """Tell whether two lists of values are the same, as far as can be told of traced ones."""
    if one is other:
        return True
    if not is_concrete(one, other):
        return False
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))
