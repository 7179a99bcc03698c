"""Arrays: entries at other places, sums and extremes over axes, weighted sums.

What is known of an array is known of all its entries alike, but for their ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import ranges
from .functions import unknown
from .ranges import Range
from .rules import Rules, listed, named
from .signs import DOWN, UP, ZERO, sign_of, times
from .values import Value


def joined(rules: Rules, name: Any, r: Range, cases: Sequence[Value]) -> Value:
    """Return what is each of some values, somewhere or for some constants."""
    curvature, names = ZERO, sorted({n for c in cases for n in c.slopes})
    for c in cases:
        curvature &= c.curvature
    slopes = dict.fromkeys(names, ZERO)
    crosses = {p: ZERO for c in cases for p in c.crosses}
    for c in cases:
        slopes = {n: s & c.slope(n) for n, s in slopes.items()}
        crosses = {p: s & c.cross(p) for p, s in crosses.items()}
    return rules.opaque(
        (name, tuple(c.key for c in cases), np.shape(r.lo)),
        lambda: {
            "range": r, "curvature": curvature, "slopes": slopes, "crosses": crosses,
            "fault": next((c.fault for c in cases if c.fault), ""),
            "why": next((c.why for c in cases if c.why), "") or "what is concave for some and "
            "convex for others of the values that do not vary",
        },
    )  # fmt: skip


def moved(rules: Rules, equation: Any, name: str, params: Any, v: list[Value]) -> Value:
    """Return entries of arrays at other places."""
    shape = equation.outvars[0].aval.shape
    moving = v if name in ("concatenate", "stack", "pad") else v[:1]
    still = v[len(moving) :]
    if any(x.varies for x in still):
        why = f"an entry of a table at a position that depends on {of_what(still)}"
        return unknown(rules, name, tuple(v), why, shape, params)
    if not all(x.range.known for x in still):
        lo = np.full(shape, v[0].range.bottom)
        r = Range(lo, np.full(shape, v[0].range.top))
        at = tuple(x.key for x in still)
        return joined(rules, (name, str(sorted(params.items(), key=str)), at), r, v[:1])
    ends = [
        computed(equation, [x.range.lo if end == 0 else x.range.hi for x in v]) for end in (0, 1)
    ]
    r = ranges.ordered(*ends)
    if len(v) == 1 and np.size(v[0].range.lo) == 1:
        return replace(v[0], range=r)
    key = (name, str(sorted(params.items(), key=str)), tuple(x.key for x in still))
    return joined(rules, key, r, moving)


def computed(equation: Any, values: Sequence[Any]) -> Any:
    """Compute an operation at plain numbers."""
    if equation.primitive.name == "broadcast_in_dim":
        axes, shape = equation.params["broadcast_dimensions"], equation.params["shape"]
        x = np.asarray(values[0])
        spread = [1] * len(shape)
        for axis, n in zip(axes, x.shape, strict=True):
            spread[axis] = n
        return np.broadcast_to(x.reshape(spread), shape)
    if equation.primitive.name in ("reshape", "squeeze", "expand_dims"):
        return np.asarray(values[0]).reshape(equation.outvars[0].aval.shape)
    given = [
        jnp.asarray(np.asarray(x), atom.aval.dtype)
        for x, atom in zip(values, equation.invars, strict=True)
    ]
    return np.asarray(equation.primitive.bind(*given, **equation.params), np.float64)


def reduced(rules: Rules, equation: Any, name: str, params: Any, v: Value) -> Value:
    """Return sums, extremes or conjunctions over axes, or sums along one."""
    axes = tuple(params["axes"]) if "axes" in params else ()
    curvature, crosses, r = v.curvature, dict(v.crosses), v.range
    if name == "reduce_sum":
        r = ranges.total(r, axes)
    elif name == "cumsum":
        axis = params["axis"]
        if params.get("reverse"):
            return unknown(rules, name, (v,), "a sum from the end", np.shape(r.lo), params)
        margin = r.lo.shape[axis] * np.finfo(np.float64).eps
        width = margin * np.cumsum(np.maximum(np.abs(r.lo), np.abs(r.hi)), axis)
        r = ranges.ordered(np.cumsum(r.lo, axis) - width, np.cumsum(r.hi, axis) + width)
    elif name == "reduce_and":
        r = Range(r.lo.min(axes), r.hi.min(axes))
    else:
        pick = np.max if name == "reduce_max" else np.min
        r = Range(pick(r.lo, axes), pick(r.hi, axes))
        curvature &= UP if name == "reduce_max" else DOWN
        crosses = dict.fromkeys(crosses, 0)
    made = rules.opaque(
        (name, str(sorted(params.items(), key=str)), v.key, np.shape(v.range.lo)),
        lambda: {
            "range": r, "curvature": curvature if v.varies else ZERO, "slopes": dict(v.slopes),
            "crosses": crosses, "fault": v.fault, "why": v.why,
        },
    )  # fmt: skip
    return replace(made, conditions=v.conditions if name == "reduce_and" else None)


def dot(rules: Rules, equation: Any, params: Any, a: Value, b: Value) -> Value:
    """Return sums of products of entries of two arrays."""
    if a.varies and b.varies:
        why = f"the product of {named(a)} and {named(b)}, both of which vary"
        return unknown(rules, "dot", (a, b), why, equation.outvars[0].aval.shape, params)
    (ca, cb), (ba, bb) = params["dimension_numbers"]
    moving, still = (a, b) if a.varies else (b, a)
    sign = sign_of(still.range)
    if (ba, bb) != ((), ()) or np.size(a.range.lo) * np.size(b.range.lo) > 10**6:
        r = ranges.anything(equation.outvars[0].aval.shape)
    else:
        r = _dotted(a.range, b.range, ca, cb)
    return rules.opaque(
        ("dot", str(params), a.key, b.key, np.shape(r.lo)),
        lambda: {
            "range": r,
            "curvature": times(sign, moving.curvature) if moving.varies else ZERO,
            "slopes": {n: times(sign, s) for n, s in moving.slopes.items()},
            "crosses": {p: times(sign, s) for p, s in moving.crosses.items()},
            "fault": a.fault or b.fault,
            "why": moving.why or "a sum weighted by constants whose signs are not known",
        },
    )


def _dotted(a: Range, b: Range, ca: Sequence[int], cb: Sequence[int]) -> Range:
    k = len(ca)
    free_a, free_b = a.lo.ndim - k, b.lo.ndim - k

    def left(x: Any) -> Any:
        moved = np.moveaxis(x, ca, range(-k, 0)) if k else x
        return moved.reshape(*moved.shape[:free_a], *(1,) * free_b, *moved.shape[free_a:])

    def right(x: Any) -> Any:
        return np.moveaxis(x, cb, range(-k, 0)) if k else x

    products = ranges.multiply(Range(left(a.lo), left(a.hi)), Range(right(b.lo), right(b.hi)))
    return ranges.total(products, tuple(range(products.lo.ndim - k, products.lo.ndim)))


def of_what(values: Sequence[Value]) -> str:
    """Return the names of what values depend on."""
    return listed(sorted({n for v in values for n in v.slopes}))
