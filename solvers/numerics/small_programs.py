"""What keeps compiled programs small: reads without a check, and maps with one copy of a function.

Most of a first solve is compiling, and takes as long as the program is large. ``a[i]`` allows for
negative positions and for such as are beyond the end, in five operations more; ``lax.map`` by
batches compiles its function twice, once for what is left over in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax


def entries(array: Array, *index: Array) -> Array:
    """Return the entries of an array at positions that are within it."""
    found: Array = array.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return found


def mapped(function: Callable[..., Any], rows: Any, size: int) -> Any:
    """Apply a function to the rows of arrays (n, ...), `size` of them side by side.

    Some of the last rows are computed twice, so that they come in full batches.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    batches = max(1, -(-n // size))
    if batches == 1:
        return jax.vmap(function)(rows)
    each = -(-n // batches)
    place = np.minimum(np.arange(batches * each), n - 1).reshape(batches, each)
    found = lax.map(jax.vmap(function), jax.tree.map(lambda x: x[place], rows))
    return jax.tree.map(lambda x: x.reshape(batches * each, *x.shape[2:])[:n], found)
