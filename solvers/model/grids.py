"""``dp.grid``, ``integers``, ``interval``: what a state or a choice of a model can be.

Each specification holds its ``values``, a one-dimensional array. Arrays made of plain numbers stay
NumPy arrays, so that they can be looked at while JAX traces a model; arrays that depend on traced
parameters are JAX arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.given import MOST, check_number, vector
from dpsolve.solvers.numerics.memory import check_length
from dpsolve.solvers.numerics.tracing import EPS, is_concrete, namespace

Side = Literal["error", "clip", "extrapolate"]
Outside = Side | tuple[Side, Side]
Spacing = Literal["linear", "log"]


class Span(NamedTuple):
    """The closed form that points were made from: ``lo + (hi - lo) * u**curve``, or in logs.

    Attributes
    ----------
    lo, hi : float
        The ends.
    curve : float
        The power; 1 where the spacing is in logs.
    spacing : {"linear", "log"}
        Whether points, or their logarithms, are spaced so.
    """

    lo: Array | float
    hi: Array | float
    curve: float
    spacing: Spacing = "linear"

    def points(self, n: int) -> AnyArray:
        """Return n points (n,) of that form; its ends are exact."""
        lo, hi, curve, spacing = self
        xp = namespace(lo, hi)
        u = np.linspace(0.0, 1.0, n) ** curve
        if spacing == "log":
            # Of a negative end, which only a traced one can be, it is NaN, and found at its point.
            low = xp.log(xp.asarray(lo, dtype=np.float64))
            values = xp.exp(low + (xp.log(xp.asarray(hi, dtype=np.float64)) - low) * u)
            values = xp.where(np.arange(n) == 0, lo, values)
        else:
            values = xp.asarray(lo + (hi - lo) * u, dtype=np.float64)
        if n > 1:  # rounding must not move the upper end
            values = xp.where(np.arange(n) == n - 1, hi, values)
        if curve == 1.0 and spacing == "linear" and n > 2:  # nor a point that is meant to be zero
            inner = (np.arange(n) > 0) & (np.arange(n) < n - 1)
            near = xp.abs(values) <= 4 * EPS * xp.maximum(xp.abs(lo), xp.abs(hi))
            values = xp.where(inner & near, 0.0, values)
        points: AnyArray = values
        return points

    def share(self, x: Array) -> Array:
        """Return the u in [0, 1] at which values (...) stand; those beyond the ends at an end."""
        if self.spacing == "log":
            inside = jnp.clip(x, self.lo, self.hi)
            return jnp.clip(jnp.log(inside / self.lo) / jnp.log(self.hi / self.lo), 0.0, 1.0)
        found: Array = jnp.clip((x - self.lo) / (self.hi - self.lo), 0.0, 1.0) ** (1.0 / self.curve)
        return found


@dataclass(frozen=True, eq=False)
class Grid:
    """A continuous variable on a grid of points.

    Attributes
    ----------
    values : array (n,)
        The points; strictly increasing for a state.
    outside : {"error", "clip", "extrapolate"} or pair of these
        What a next state beyond the ends means: an error, the nearest end, or the last segment's
        line continued. A pair is of what lies below and of what lies above, and no pair of equals.
    span : Span or None
        The closed form the points were made from, if any: it makes finding a point's segment cheap.
    """

    values: AnyArray
    outside: Outside = "error"
    span: Span | None = None

    @property
    def sides(self) -> tuple[Side, Side]:
        """What a next state below the grid means, and what one above."""
        return (self.outside, self.outside) if isinstance(self.outside, str) else self.outside

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


@overload
def grid(lo: ArrayLike, *, outside: Outside = "error") -> Grid: ...


@overload
def grid(
    lo: Array | float,
    hi: Array | float,
    n: int,
    curve: float = 1.0,
    *,
    spacing: Spacing = "linear",
    outside: Outside = "error",
) -> Grid: ...


def grid(
    lo: Any,
    hi: Any = None,
    n: int | None = None,
    curve: float = 1.0,
    *,
    spacing: Spacing = "linear",
    outside: Outside = "error",
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
    spacing : {"linear", "log"}
        With "log" the logarithms of the points are evenly spaced, ``lo * (hi / lo)**u``, as in
        sweep files; `lo` is positive then, and there is no curve.
    outside : {"error", "clip", "extrapolate"}, or a pair of "error" and "clip"
        What a next state beyond the ends means. A pair is of the bottom and of the top:
        ``("error", "clip")`` throws away what is above the grid, and allows nothing below it.

    Raises
    ------
    ModelError
        If the ends are not increasing, `n` is not a positive integer (of a range, at least 2),
        `outside` or `spacing` is unknown, or a logarithm is asked for of what has none.
    """
    outside = _outside(outside)
    if not isinstance(spacing, str) or spacing not in ("linear", "log"):
        raise ModelError(f"grid: spacing={spacing!r}; it can be 'linear' or 'log'")
    if hi is None and n is None:
        if spacing == "log":
            raise ModelError(
                "grid: spacing='log' beside an array, which says itself where the points are; "
                "write dp.grid(lo, hi, n, spacing='log')"
            )
        return Grid(vector(lo, "a grid"), outside)
    if hi is None or n is None:
        raise ModelError("grid takes either one array, or its ends and size: dp.grid(lo, hi, n)")
    _check_range(lo, hi, n, curve)
    if spacing == "log":
        if curve != 1.0:
            raise ModelError(
                f"grid: curve={curve!r} beside spacing='log': one of them says where points are "
                "dense; leave the other out"
            )
        if is_concrete(lo) and not float(lo) > 0:
            raise ModelError(
                f"grid: lo={lo} beside spacing='log', and only positive numbers have a logarithm; "
                "begin above 0, or space the points by curve=2"
            )
    span = Span(lo, hi, float(curve), spacing)
    return Grid(span.points(int(n)), outside, span)


def _outside(given: Any) -> Outside:
    """Return what `outside` says, a word or a pair of two different ones."""
    words = ("error", "clip", "extrapolate")
    if isinstance(given, str) and given in words:
        return given  # type: ignore[return-value]  # one of the words
    if isinstance(given, tuple | list) and len(given) == 2:
        for side in given:
            if side == "extrapolate":
                raise ModelError(
                    f"grid: outside={tuple(given)!r}; one side alone is not extrapolated: a pair, "
                    "(bottom, top), is of 'error' and 'clip'"
                )
        if all(isinstance(side, str) and side in words for side in given):
            bottom, top = given
            return bottom if bottom == top else (bottom, top)
    raise ModelError(
        f"grid: outside={given!r}; it can be 'error', 'clip' or 'extrapolate', or a pair of "
        "'error' and 'clip', of the bottom and the top: ('error', 'clip')"
    )


def _check_range(lo: Any, hi: Any, n: Any, curve: Any) -> None:
    """Refuse ends, a number of points or a curve that no grid has."""
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
        and choices that stand earlier in the dict, by name; ``z_index`` is the position of z. Where
        both are equal the choice is fixed, and where `lo` exceeds `hi` the earlier choices are
        infeasible.

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
