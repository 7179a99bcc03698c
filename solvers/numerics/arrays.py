"""Types of arrays: JAX's, NumPy's, or either.

JAX's own is written ``from jax import Array``: what a trace computes with, and what a device
computed. What stays on the host is NumPy's, ``Numpy``. Where both come in, as in a grid that may be
concrete or traced, or in results that were fetched or not, an annotation says ``AnyArray``. Shapes
stand in docstrings, with the dimensions by name: ``array (states, choices)``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from jax import Array

Numpy = np.ndarray[Any, Any]
AnyArray = Array | Numpy


class Sparse(Protocol):
    """A sparse matrix or array of SciPy's."""

    @property
    def shape(self) -> Any:
        """Rows and columns."""

    def tocsr(self) -> Any:
        """Convert to sparse rows."""
