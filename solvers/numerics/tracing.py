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
