r"""``dp.markov_from_data``: Markov chains estimated from observed paths.

The estimate of maximum likelihood is the share of moves, :math:`P_{ij} = N_{ij} / \sum_k N_{ik}`
(Anderson and Goodman 1957, *Annals of Mathematical Statistics* 28).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.given import vector
from dpsolve.solvers.numerics.memory import check_chain
from dpsolve.solvers.numerics.tracing import is_concrete

from .markov import Markov


def markov_from_data(
    data: ArrayLike,
    values: ArrayLike | None = None,
    *,
    n: int | None = None,
    prior: float = 0.0,
) -> Markov:
    """Estimate a Markov chain from one observed path, or from a panel of them.

    Parameters
    ----------
    data : array (periods,) or (agents, periods)
        What was observed. A NaN is missing: no move from it or to it is counted.
    values : array (k,), optional
        What the state can be; an observation is one of them. The values that occur, by default.
    n : int, optional
        For data that take any value: the number of bins, equally likely in the data; the chain's
        values are the means within them.
    prior : float
        Moves that are added to each count: 1 is a uniform prior's posterior mean, and 0 maximum
        likelihood.

    Returns
    -------
    Markov
        With increasing ``values``, and the shares of moves as its ``transition_matrix``.

    Raises
    ------
    ModelError
        If an observation is none of the values, a value is never left, or a bin is empty.
    """
    x, prior = _observed(data), _check_prior(prior)
    seen = x[np.isfinite(x)]
    if n is not None:
        if values is not None:
            raise ModelError("markov_from_data: give values=, or n= bins of them; not both")
        values, place = _binned(x, seen, n)
    else:
        values = np.unique(seen if values is None else vector(values, "markov_from_data: values"))
        check_chain("markov_from_data", values.size)
        place = np.clip(np.searchsorted(values, x), 0, values.size - 1)
        strange = np.isfinite(x) & (values[place] != x)
        if strange.any():
            at = tuple(int(i) for i in np.argwhere(strange)[0])
            raise ModelError(
                f"markov_from_data: the observation {x[at]:g} at {at[1:] if len(x) == 1 else at} "
                f"is none of the values {values.tolist()[:8]}; round it, or take n= bins"
            )
    known = np.isfinite(x)
    both = known[:, :-1] & known[:, 1:]
    counts = np.full((values.size, values.size), prior)
    np.add.at(counts, (place[:, :-1][both], place[:, 1:][both]), 1.0)
    left = counts.sum(1)
    if (left == 0).any():
        raise ModelError(
            f"markov_from_data: the value {values[int(np.argmin(left))]:g} is never seen before "
            "another observation, so nothing tells where it leads; leave it out, take fewer bins, "
            "or add prior=1"
        )
    return Markov(values, counts / left[:, None])


def _observed(data: Any) -> Numpy:
    if not is_concrete(data):
        raise ModelError("markov_from_data: the data are traced; they are plain numbers")
    try:
        x = np.atleast_2d(np.asarray(data, np.float64))
    except (TypeError, ValueError):
        raise ModelError("markov_from_data: the data are no array of numbers") from None
    if x.ndim != 2 or x.shape[1] < 2:
        raise ModelError(
            f"markov_from_data: the data have shape {np.shape(data)}; they are (periods,) or "
            "(agents, periods), of at least 2 periods"
        )
    if not np.isfinite(x).any() or np.isinf(x).any():
        raise ModelError("markov_from_data: the data are infinite somewhere, or NaN everywhere")
    return x


def _check_prior(prior: Any) -> float:
    if not is_concrete(prior) or not float(prior) >= 0:
        raise ModelError(f"markov_from_data: prior={prior!r}; it is a number of moves, 0 or more")
    return float(prior)


def _binned(x: Numpy, seen: Numpy, n: Any) -> tuple[Numpy, Numpy]:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ModelError(f"markov_from_data: n={n!r}; the number of bins is a positive integer")
    check_chain("markov_from_data", int(n))
    cuts = np.quantile(seen, np.linspace(0.0, 1.0, int(n) + 1)[1:-1])
    place = np.searchsorted(cuts, x, side="right")
    sizes = np.bincount(place[np.isfinite(x)], minlength=int(n))
    if (sizes == 0).any():
        raise ModelError(
            f"markov_from_data: bin {int(np.argmin(sizes))} of n={n} is empty, for many "
            "observations are equal; take fewer bins, or values="
        )
    return np.bincount(place[np.isfinite(x)], seen, int(n)) / sizes, place
