r"""Sums in a fixed order: the same bits, however the terms were computed.

Floating-point addition is not associative, so a sum that a compiler may order as it likes changes
its last bits with the shapes around it (how many points share a batch, how many devices). Here the
order is written down: the second half is added to the first until one term is left. That is also
accurate: the rounding error grows with the logarithm of the number of terms (Higham 1993, *SIAM
J. Sci. Comput.* 14).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

Array = Any


def pairwise_sum(x: Array) -> Array:
    """Sum an array over its first axis."""
    n = x.shape[0]
    full = 1 << max(0, n - 1).bit_length()
    if full > n:
        x = jnp.concatenate([x, jnp.zeros((full - n, *x.shape[1:]), x.dtype)])
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = x[:half] + x[half:]
    return x[0]
