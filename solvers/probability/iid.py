"""``dp.iid``: a shock drawn afresh each period."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.given import vector, vectors
from dpsolve.solvers.numerics.tracing import is_concrete

from .probabilities import check_distribution, normalised


@dataclass(frozen=True, eq=False)
class Iid:
    """A shock drawn afresh each period.

    Attributes
    ----------
    values : array (n,) or (m, n)
        What it can be; of m shocks that are drawn together, what each is in each joint draw.
    probs : array (n,) or function
        Probability of each value; a function takes named states and choices and returns (n,).
    """

    values: AnyArray
    probs: AnyArray | Callable[..., Any]

    @property
    def size(self) -> int:
        """Number of values, or of joint draws."""
        return int(self.values.shape[-1])


def iid(values: ArrayLike, probs: ArrayLike | Callable[..., Any]) -> Iid:
    """Make a shock that is drawn independently each period.

    Parameters
    ----------
    values : array (n,) or (m, n)
        What it can be; of m shocks that are drawn together, and stand under a tuple of m names,
        what each is in each joint draw.
    probs : array (n,) or function
        Probability of each value. A function takes states and choices by name and returns (n,).
        Probabilities within 1e-9 of a distribution are divided by their sum
        (:mod:`.probabilities`), plain, traced or returned by a function.

    Raises
    ------
    ModelError
        If the lengths differ, an entry is negative, or the entries do not sum to one.
    """
    values = vectors(values, "iid: values")
    if callable(probs):
        return Iid(values, probs)
    probs = vector(probs, "iid: probs").astype(np.float64)
    if probs.shape != values.shape[-1:]:
        raise ModelError(f"iid: {values.shape[-1]} values but {probs.shape[0]} probabilities")
    if is_concrete(probs):
        check_distribution(np.asarray(probs), "iid: probs")
    return Iid(values, normalised(probs))
