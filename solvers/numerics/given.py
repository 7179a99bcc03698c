"""Numbers and vectors as they are given: read, or refused in words."""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError

from .arrays import AnyArray
from .tracing import is_concrete, namespace

MOST = 2**31 - 1  # values of one variable, and joint choices: policies are int32


def vector(values: ArrayLike, what: str) -> AnyArray:
    """Return `values` as a non-empty float64 or integer array (n,)."""
    try:
        if isinstance(values, list | tuple) and not is_concrete(*values):
            values = jnp.stack([jnp.asarray(v) for v in values])
        array = np.asarray(values) if is_concrete(values) else jnp.asarray(values)
    except ValueError:  # of unequal parts
        raise ModelError(f"{what} is {values!r}; it must be a one-dimensional array") from None
    if array.ndim == 0:
        raise ModelError(f"{what} is {values!r}; it must be a one-dimensional array")
    if array.ndim != 1 or array.shape[0] == 0:
        raise ModelError(
            f"{what} must be a one-dimensional array with at least one value, but its shape is "
            f"{array.shape}"
        )
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        raise ModelError(f"{what} must hold numbers, but its dtype is {array.dtype}")
    return array.astype(np.float64)


def vectors(values: ArrayLike, what: str) -> AnyArray:
    """Return `values` as :func:`vector` does, (n,), or as several of one length, (m, n)."""
    if depth(values) != 2:
        return vector(values, what)
    rows = [vector(row, f"row {i} of {what}") for i, row in enumerate(cast("Any", values))]
    if len({row.shape for row in rows}) > 1:
        raise ModelError(f"{what} has rows of {', '.join(str(len(r)) for r in rows)} numbers")
    found: AnyArray = namespace(*rows).stack([row.astype(np.float64) for row in rows])
    return found


def depth(x: Any) -> int:
    """Return the number of dimensions of an array, or of nested lists, traced or not."""
    if isinstance(x, list | tuple):
        return 1 + depth(x[0]) if x else 1
    return int(getattr(x, "ndim", 0))


def check_horizon(horizon: Any) -> None:
    """Refuse what is no number of periods."""
    whole = isinstance(horizon, int | np.integer) and not isinstance(horizon, bool)
    if not whole or not 1 <= horizon <= MOST:
        raise ModelError(
            f"horizon={horizon!r}; it is a positive number of periods, at most {MOST:,}"
        )


def check_number(x: Any, what: str) -> None:
    """Refuse what is no real number, plain or traced."""
    if isinstance(x, int | float):
        return
    try:
        array = np.asarray(x) if is_concrete(x) else x
        if array.ndim == 0 and array.dtype.kind in "biuf":
            return
    except (TypeError, ValueError, AttributeError):
        pass
    raise ModelError(f"{what}={x!r}; it is one number")
