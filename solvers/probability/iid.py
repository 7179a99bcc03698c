"""``dp.iid``: a shock drawn afresh each period."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.given import vector
from dpsolve.solvers.numerics.tracing import is_concrete

from .probabilities import check_distribution, normalised


@dataclass(frozen=True, eq=False)
class Iid:
    """A shock drawn afresh each period.

    Attributes
    ----------
    values : array (n,)
        What it can be.
    probs : array (n,) or function
        Probability of each value; a function takes named states and choices and returns (n,).
    """

    values: AnyArray
    probs: AnyArray | Callable[..., Any]

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.values.shape[0])


def iid(values: ArrayLike, probs: ArrayLike | Callable[..., Any]) -> Iid:
    """Make a shock that is drawn independently each period.

    Parameters
    ----------
    values : array (n,)
        What it can be.
    probs : array (n,) or function
        Probability of each value. A function takes states and choices by name and returns (n,).
        Probabilities within 1e-9 of a distribution are divided by their sum
        (:mod:`.probabilities`), plain, traced or returned by a function.

    Raises
    ------
    ModelError
        If the lengths differ, an entry is negative, or the entries do not sum to one.
    """
    values = vector(values, "iid: values")
    if callable(probs):
        return Iid(values, probs)
    probs = vector(probs, "iid: probs").astype(np.float64)
    if probs.shape != values.shape:
        raise ModelError(f"iid: {values.shape[0]} values but {probs.shape[0]} probabilities")
    if is_concrete(probs):
        check_distribution(np.asarray(probs), "iid: probs")
    return Iid(values, normalised(probs))
