"""Functions of one number: where they are defined, and the signs of their slopes and curvature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from . import ranges
from .ranges import Range
from .rules import Rules, named
from .signs import DOWN, UNKNOWN, UP, ZERO, sign_of
from .values import Value

Signs = Callable[[Range], tuple[int, int]]


@dataclass(frozen=True)
class Function:
    """A function of one number that nowhere falls (or, with `falls`, nowhere rises).

    Attributes
    ----------
    values : function
    signs : function
        Signs of slope and curvature over a range.
    least : float
        Below it there is no value.
    span : tuple of float
        Between which numbers its values lie.
    falls : bool
    """

    values: Callable[..., np.ndarray]
    signs: Signs
    least: float = -np.inf
    span: tuple[float, float] = (-np.inf, np.inf)
    falls: bool = False


def _always(slope: int, curvature: int) -> Signs:
    return lambda _: (slope, curvature)


def _bends_at_zero(r: Range) -> tuple[int, int]:
    """Concave above zero, convex below it, and rising."""
    sign = sign_of(r)
    return UP, ZERO if sign == ZERO else DOWN if sign == UP else UP if sign == DOWN else UNKNOWN


def _bends_up_at_zero(r: Range) -> tuple[int, int]:
    """Convex above zero, concave below it, and rising."""
    return UP, sign_of(r)


TABLE: dict[str, Function] = {
    "log": Function(np.log, _always(UP, DOWN), least=0.0),
    "log1p": Function(np.log1p, _always(UP, DOWN), least=-1.0),
    "exp": Function(np.exp, _always(UP, UP), span=(0.0, np.inf)),
    "exp2": Function(np.exp2, _always(UP, UP), span=(0.0, np.inf)),
    "expm1": Function(np.expm1, _always(UP, UP), span=(-1.0, np.inf)),
    "sqrt": Function(np.sqrt, _always(UP, DOWN), least=0.0, span=(0.0, np.inf)),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x), _always(DOWN, UP), 0.0, (0.0, np.inf), True),
    "cbrt": Function(np.cbrt, _bends_at_zero),
    "tanh": Function(np.tanh, _bends_at_zero, span=(-1.0, 1.0)),
    "logistic": Function(special.expit, _bends_at_zero, span=(0.0, 1.0)),
    "erf": Function(special.erf, _bends_at_zero, span=(-1.0, 1.0)),
    "atan": Function(np.arctan, _bends_at_zero),
    "asinh": Function(np.arcsinh, _bends_at_zero),
    "sinh": Function(np.sinh, _bends_up_at_zero),
    "erf_inv": Function(special.erfinv, _bends_up_at_zero),
}


def apply(rules: Rules, name: str, v: Value) -> Value:
    """Return a function of the table at a value."""
    f = TABLE[name]
    with np.errstate(all="ignore"):
        defined = ranges.meet(v.range, f.least, np.inf) if np.isfinite(f.least) else v.range
        if f.falls:
            defined = Range(defined.hi, defined.lo)
        r = ranges.rising(f.values, defined, *f.span)
    direction, shape = f.signs(v.range)
    fault = ""
    if np.isfinite(f.least) and v.range.bottom <= f.least:
        rules.domains.append(v)
        fault = "" if v.concave else _domain(name, v)
    return rules.composed(v, name, r, direction, shape, fault)


def absolute(rules: Rules, v: Value) -> Value:
    """Return the absolute value."""
    sign = sign_of(v.range)
    inside = (v.range.lo <= 0) & (v.range.hi >= 0)
    ends = np.abs(v.range.lo), np.abs(v.range.hi)
    r = Range(np.where(inside, 0.0, np.minimum(*ends)), np.maximum(*ends))
    return rules.composed(v, "abs", r, sign, UP)


def crra(rules: Rules, consumption: Value, gamma: Value) -> Value:
    """Return ``dp.crra``, which is no number below zero."""
    if gamma.varies:
        return unknown(
            rules, "dp.crra", (consumption, gamma), "the risk aversion of dp.crra varies"
        )
    g = gamma.range
    shape = DOWN if g.bottom >= 0 else UP if g.top <= 0 else UNKNOWN
    above = g.bottom > 1
    below = g.top < 1
    dims = np.broadcast_shapes(np.shape(consumption.range.lo), np.shape(g.lo))
    r = ranges.between(
        np.full(dims, 0.0 if below else -np.inf), np.full(dims, 0.0 if above else np.inf)
    )
    fault = ""
    if consumption.range.bottom <= 0:
        rules.domains.append(consumption)
        fault = "" if consumption.concave else _domain("dp.crra", consumption)
    return rules.composed(consumption, ("dp.crra", gamma.key), r, UP, shape, fault)


def _domain(name: str, v: Value) -> str:
    """Return why it is not known where a function is defined."""
    if v.reason:
        return f"{v.reason} (inside {name})"
    return f"{name} of {named(v)}, which is convex: where it is positive is no convex set"


def unknown(rules: Rules, name: str, values: tuple[Value, ...], why: str,
            shape: tuple[int, ...] = (), key: object = None) -> Value:  # fmt: skip
    """Return what nothing is known of but on what it depends."""
    names = sorted({n for v in values for n in v.slopes})
    pairs = {(a, b): UNKNOWN for i, a in enumerate(names) for b in names[i + 1 :]}
    fault = next((v.fault for v in values if v.fault), "")
    return rules.opaque(
        (name, str(key), shape, tuple(v.key for v in values)),
        lambda: {
            "range": ranges.anything(shape),
            "curvature": UNKNOWN if names else ZERO,
            "slopes": dict.fromkeys(names, UNKNOWN),
            "crosses": pairs,
            "fault": fault or (why if names else ""),
            "why": why if names else "",
        },
    )
