"""``dp.grid``, ``dp.integers``, ``dp.interval``, ``dp.iid``: what a state, choice or shock can be.

Each specification holds its ``values``, a one-dimensional array. Arrays made of plain numbers stay
NumPy arrays, so that they can be looked at while JAX traces a model; arrays that depend on traced
parameters are JAX arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.memory import check_length
from dpsolve.solvers.numerics.tracing import EPS, is_concrete, namespace

from .probabilities import check_distribution, normalised

MOST = 2**31 - 1  # values of one variable, and joint choices: policies are int32
Outside = Literal["error", "clip", "extrapolate"]


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


@dataclass(frozen=True, eq=False)
class Grid:
    """A continuous variable on a grid of points.

    Attributes
    ----------
    values : array (n,)
        The points; strictly increasing for a state.
    outside : {"error", "clip", "extrapolate"}
        What a next state beyond the ends means: an error, the nearest end, or the last segment's
        line continued.
    span : (lo, hi, curve) or None
        The closed form ``lo + (hi - lo) * u**curve`` the points were made from, if any: it makes
        finding a point's segment cheap.
    """

    values: AnyArray
    outside: Outside = "error"
    span: tuple[Array | float, Array | float, float] | None = None

    @property
    def size(self) -> int:
        """Number of points."""
        return int(self.values.shape[0])


@dataclass(frozen=True, eq=False)
class Integers:
    """The integers from `lo` to `hi`, both included."""

    lo: int
    hi: int

    @property
    def values(self) -> Numpy:
        """The members, int64 (n,)."""
        check_length(f"integers: lo={self.lo}, hi={self.hi}", self.size)
        return np.arange(self.lo, self.hi + 1)

    @property
    def size(self) -> int:
        """Number of members."""
        return self.hi - self.lo + 1


End = Array | float | Callable[..., Any] | None


@dataclass(frozen=True, eq=False)
class Interval:
    """A continuous choice: any number from a lower to an upper end.

    Attributes
    ----------
    state : str or None
        A continuous state, whose range the choice is made from.
    lo, hi : number, function or None
        The ends, or what cuts that range. A function takes states, ``t`` and choices earlier in the
        dict, by name.
    """

    state: str | None
    lo: End
    hi: End


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


@overload
def grid(lo: ArrayLike, *, outside: Outside = "error") -> Grid: ...


@overload
def grid(
    lo: Array | float,
    hi: Array | float,
    n: int,
    curve: float = 1.0,
    *,
    outside: Outside = "error",
) -> Grid: ...


def grid(
    lo: Any, hi: Any = None, n: int | None = None, curve: float = 1.0, *, outside: Outside = "error"
) -> Grid:
    """Make a continuous grid, from its ends or from an array.

    Parameters
    ----------
    lo, hi : float
        First and last point; they may depend on the model's parameters. With `lo` an array (n,)
        and nothing else, the array holds the points.
    n : int
        Number of points (static).
    curve : float
        Points lie at ``lo + (hi - lo) * u**curve`` for ``u`` evenly spaced in [0, 1]; a curve
        above 1 puts more of them near `lo`.
    outside : {"error", "clip", "extrapolate"}
        What a next state beyond the ends means.

    Raises
    ------
    ModelError
        If the ends are not increasing, `n` is not a positive integer (of a range, at least 2), or
        `outside` is unknown.
    """
    if outside not in ("error", "clip", "extrapolate"):
        raise ModelError(f"grid: outside={outside!r}; it can be 'error', 'clip' or 'extrapolate'")
    if hi is None and n is None:
        return Grid(vector(lo, "a grid"), outside)
    if hi is None or n is None:
        raise ModelError("grid takes either one array, or its ends and size: dp.grid(lo, hi, n)")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ModelError(
            f"grid: n={n!r}; the number of points is a positive integer, and static: in a factory, "
            "put it after the '*'"
        )
    if n > MOST:
        raise ModelError(f"grid: n={n:,}; positions are counted to {MOST:,}: take fewer points")
    for name, end in (("lo", lo), ("hi", hi), ("curve", curve)):
        check_number(end, f"grid: {name}")
    check_length(f"grid: n={n}", int(n))
    if n == 1 and not (is_concrete(lo, hi) and float(lo) == float(hi)):
        ends = f" from {lo} to {hi}" if is_concrete(lo, hi) else ""
        raise ModelError(
            f"grid: n=1; a range{ends} takes at least 2 points. Where one value is meant, give it "
            "as an array: dp.grid([lo])"
        )
    if not is_concrete(curve) or not curve > 0:
        raise ModelError(f"grid: curve={curve!r}; it is a positive number that is not swept")
    if is_concrete(lo, hi) and n > 1 and not float(lo) < float(hi):
        raise ModelError(f"grid: lo={lo} is not below hi={hi}")
    xp = namespace(lo, hi)
    u = np.linspace(0.0, 1.0, int(n)) ** curve
    values = xp.asarray(lo + (hi - lo) * u, dtype=np.float64)
    if n > 1:  # rounding must not move the upper end
        values = xp.where(np.arange(n) == n - 1, hi, values)
    if curve == 1.0 and n > 2:  # nor a point that is meant to be zero
        inner = (np.arange(n) > 0) & (np.arange(n) < n - 1)
        near = xp.abs(values) <= 4 * EPS * xp.maximum(xp.abs(lo), xp.abs(hi))
        values = xp.where(inner & near, 0.0, values)
    return Grid(values, outside, (lo, hi, float(curve)))


def integers(lo: int, hi: int) -> Integers:
    """Make the range of integers from `lo` to `hi`, both included.

    Raises
    ------
    ModelError
        If the ends are not integers or `lo` exceeds `hi`.
    """
    for name, x in (("lo", lo), ("hi", hi)):
        whole = is_concrete(x) and not isinstance(x, bool)
        if whole:
            check_number(x, f"integers: {name}")
        if not whole or not (isinstance(x, int) or np.isfinite(x)) or int(x) != x:
            raise ModelError(
                f"integers: {name}={x!r}; the ends of a range are integers, and static: in a "
                "factory, put them after the '*'"
            )
    if lo > hi:
        raise ModelError(f"integers: lo={lo} exceeds hi={hi}")
    for name, x in (("lo", lo), ("hi", hi)):
        if abs(int(x)) > 2**62:
            raise ModelError(f"integers: {name}={x}; whole numbers have 64 bits here")
    return Integers(int(lo), int(hi))


def interval(
    first: Any = None, second: Any = None, /, *, lo: End = None, hi: End = None
) -> Interval:
    """Make a continuous choice: any number of an interval.

    ``dp.interval("a")`` is the range of the continuous state `a`, ``dp.interval("a", lo=f, hi=g)``
    that range cut by `f` and `g`, and ``dp.interval(lo, hi)`` the numbers from `lo` to `hi`.

    Parameters
    ----------
    first, second
        The name of a state; or both ends.
    lo, hi : float or function
        The ends, or what cuts the state's range. A function takes states, ``t`` (with a horizon)
        and choices that stand earlier in the dict, by name. Where both are equal the choice is
        fixed, and where `lo` exceeds `hi` the earlier choices are infeasible.

    Raises
    ------
    ModelError
        If an end is missing, or is neither a number nor a function.
    """
    state = first if isinstance(first, str) else None
    if state is not None and second is not None:
        raise ModelError(
            f"interval: {state!r} is followed by {second!r}; the range of a state is cut by name: "
            f"dp.interval({state!r}, lo=..., hi=...)"
        )
    if state is None:
        if (first is not None and lo is not None) or (second is not None and hi is not None):
            raise ModelError("interval: an end is given twice, by place and by name")
        lo, hi = (lo if first is None else first), (hi if second is None else second)
        if lo is None or hi is None:
            raise ModelError(
                "interval takes the name of a continuous state, dp.interval('a'), or two ends, "
                "dp.interval(lo, hi)"
            )
    for name, end in (("lo", lo), ("hi", hi)):
        if end is not None and not callable(end):
            check_number(end, f"interval: {name}")
    numbers = [float(end) for end in (lo, hi) if isinstance(end, int | float)]
    if len(numbers) == 2 and not numbers[0] <= numbers[1]:
        raise ModelError(f"interval: lo={lo} exceeds hi={hi}")
    return Interval(state, lo, hi)


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
