"""A walk through a traced function (a jaxpr): what is known of each of its numbers.

Operations without a rule give numbers of which nothing is known, by name; of constants they are
computed where those are plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from dpsolve.solvers.model.utility import CRRA

from . import functions, ranges
from . import normal_form as form
from .arrays import computed, dot, joined, moved, of_what, reduced
from .functions import unknown
from .ranges import Range
from .rules import Rules, named
from .signs import DOWN, UP, ZERO
from .values import Condition, Value

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint")
OWN_SLOPES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
SAME = frozenset({"copy", "copy_p", "optimization_barrier"})
MOVES = frozenset({"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "slice",
                   "rev", "concatenate", "stack", "pad", "dynamic_slice", "gather"})  # fmt: skip
COMPARISONS = frozenset({"gt", "ge", "lt", "le", "eq", "ne"})
STEPS = {"floor": np.floor, "ceil": np.ceil, "sign": np.sign}


class Evaluation:
    """The numbers of one jaxpr, computed when they are asked for.

    Parameters
    ----------
    rules : Rules
    jaxpr : Jaxpr
    consts : sequence of arrays
        Of its constants.
    """

    def __init__(self, rules: Rules, jaxpr: Any, consts: Sequence[Any]) -> None:
        self.rules, self.jaxpr = rules, jaxpr
        self._known: dict[Any, Value] = {}
        for v, x in zip(jaxpr.constvars, consts, strict=True):
            self._known[v] = rules.constant(x)
        self._made = {v: e for e in jaxpr.eqns for v in e.outvars}
        self._order = {id(e): i for i, e in enumerate(jaxpr.eqns)}

    def give(self, position: int, v: Value) -> None:
        """Say what an argument is."""
        self._known[self.jaxpr.invars[position]] = v

    def output(self, position: int) -> Value:
        """Return what is known of a result."""
        wanted = self.jaxpr.outvars[position]
        needed, waiting = {}, [wanted]
        while waiting:
            atom = waiting.pop()
            if isinstance(atom, Literal) or atom in self._known:
                continue
            equation = self._made[atom]
            if id(equation) not in needed:
                needed[id(equation)] = equation
                waiting += equation.invars
        for key in sorted(needed, key=self._order.__getitem__):
            equation = needed[key]
            inputs = [self._read(atom) for atom in equation.invars]
            results = step(self.rules, equation, inputs)
            self._known |= zip(equation.outvars, results, strict=True)
        return self._read(wanted)

    def _read(self, atom: Any) -> Value:
        if isinstance(atom, Literal):
            return self.rules.constant(atom.val)
        return self.rules.refined(self._known[atom])


def call(rules: Rules, closed: Any, inputs: Sequence[Value]) -> list[Value]:
    """Return the results of a closed jaxpr."""
    jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    inner = Evaluation(rules, jaxpr, consts)
    for i, v in enumerate(inputs):
        inner.give(i, v)
    return [inner.output(i) for i in range(len(jaxpr.outvars))]


def step(rules: Rules, equation: Any, inputs: list[Value]) -> list[Value]:
    """Return the results of one operation."""
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        if params.get("name") == CRRA:
            return [functions.crra(rules, *inputs)]
        return call(rules, params.get("jaxpr") or params["call_jaxpr"], inputs)
    if name in OWN_SLOPES:
        return _own_slopes(rules, name, params, inputs, equation)
    if len(equation.outvars) != 1:
        return [_other(rules, equation, inputs, i) for i in range(len(equation.outvars))]
    return [_one(rules, equation, name, params, inputs)]


def _one(rules: Rules, equation: Any, name: str, params: Any, v: list[Value]) -> Value:
    dtype = equation.outvars[0].aval.dtype
    kind = dtype.kind
    if kind == "f" and dtype.itemsize < 8 and name != "convert_element_type":
        why = f"{of_what(v)} is computed in {dtype}"
        shape = equation.outvars[0].aval.shape
        return unknown(rules, name, tuple(v), why, shape, (dtype, str(equation.params)))
    if kind in "iu" and any(x.varies for x in v):
        return _other(rules, equation, v)
    if name in functions.TABLE and kind == "f":
        return functions.apply(rules, name, v[0])
    if name in OPERATIONS and (kind == "f" or name not in ("div", "pow")):
        return OPERATIONS[name](rules, *v)
    if name == "integer_pow":
        return rules.power(v[0], rules.constant(float(params["y"])))
    if name == "convert_element_type":
        return _converted(rules, equation, v[0])
    if name in SAME:
        return v[0]
    if name in COMPARISONS:
        return _compared(rules, name, *v)
    if name in ("and", "or", "not") and kind == "b":
        return _logic(rules, name, v)
    if name == "select_n":
        return _selected(rules, *v)
    if name in MOVES:
        return moved(rules, equation, name, params, v)
    if name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "cumsum"):
        return reduced(rules, equation, name, params, v[0])
    if name == "dot_general":
        return dot(rules, equation, params, *v)
    if name in STEPS and not v[0].varies:
        r = Range(STEPS[name](v[0].range.lo), STEPS[name](v[0].range.hi))
        return rules.opaque((name, v[0].key, np.shape(r.lo)), lambda: {"range": r})
    return _other(rules, equation, v)


# -- arithmetic ---------------------------------------------------------------------------------


def _power(rules: Rules, b: Value, e: Value) -> Value:
    if not e.varies:
        return rules.power(b, e)
    if not b.varies and b.range.bottom > 0:  # b ** e = exp(e log b)
        return functions.apply(rules, "exp", rules.multiply(e, functions.apply(rules, "log", b)))
    why = f"a power of {named(b)} whose exponent, {named(e)}, varies"
    return unknown(rules, "pow", (b, e), why, np.shape(b.range.lo))


def _above(rules: Rules, a: Value, b: Value) -> bool:
    """Whether a is larger than b everywhere: at a tie JAX takes half of either slope."""
    if a.fault or b.fault:
        return False
    if a.range.bottom > b.range.top:
        return True
    return (a.varies or b.varies) and rules.add(a, b, -1).key in rules.positive


def _maximum(rules: Rules, a: Value, b: Value) -> Value:
    if _above(rules, a, b):
        return a
    if _above(rules, b, a):
        return b
    found = _extreme(rules, "max", a, b, UP)
    if np.shape(found.range.lo) or not found.varies:
        return found
    # So that a maximum and a minimum of the same two are known to be related. JAX gives both half
    # of either slope at a tie, and so their sums have slopes that are right there, too.
    least = _extreme(rules, "min", a, b, DOWN)
    key = form.plus(form.plus(a.key, b.key), least.key, -1)
    return rules.finished(replace(found, key=key))


def _minimum(rules: Rules, a: Value, b: Value) -> Value:
    if _above(rules, b, a):
        return a
    if _above(rules, a, b):
        return b
    return _extreme(rules, "min", a, b, DOWN)


def _extreme(rules: Rules, name: str, a: Value, b: Value, shape: int) -> Value:
    pick = np.maximum if name == "max" else np.minimum
    r = Range(pick(a.range.lo, b.range.lo), pick(a.range.hi, b.range.hi))
    names = sorted({*a.slopes, *b.slopes})
    crosses = {(x, y): 0 for i, x in enumerate(names) for y in names[i + 1 :]}
    if not b.varies:
        crosses = dict(rules.composed_crosses(a, UP, shape))
    elif not a.varies:
        crosses = rules.composed_crosses(b, UP, shape)
    word = "maximum" if name == "max" else "minimum"
    return rules.opaque(
        (name, frozenset({a.key, b.key}), np.shape(r.lo)),
        lambda: {
            "range": r,
            "curvature": (a.curvature & b.curvature & shape) if names else ZERO,
            "slopes": {n: a.slope(n) & b.slope(n) for n in names},
            "crosses": crosses,
            "fault": a.fault or b.fault,
            "why": a.why or b.why or f"a {word} of {named(a)} and {named(b)}",
        },
    )


def _clamped(rules: Rules, lo: Value, x: Value, hi: Value) -> Value:
    if lo.varies or hi.varies:
        return unknown(rules, "clamp", (lo, x, hi), "a range whose ends vary", np.shape(x.range.lo))
    above, below = x.range.bottom > lo.range.top, x.range.top < hi.range.bottom
    r = Range(np.clip(x.range.lo, lo.range.lo, hi.range.lo),
              np.clip(x.range.hi, lo.range.hi, hi.range.hi))  # fmt: skip
    shape = (DOWN if above else 0) | (UP if below else 0)
    return rules.composed(x, ("clamp", lo.key, hi.key), r, UP, shape)


OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": lambda rules, a, b: rules.add(a, b),
    "add_any": lambda rules, a, b: rules.add(a, b),
    "sub": lambda rules, a, b: rules.add(a, b, -1),
    "mul": lambda rules, a, b: rules.multiply(a, b),
    "div": lambda rules, a, b: rules.divide(a, b),
    "neg": lambda rules, a: rules.minus(a),
    "pow": _power,
    "square": lambda rules, a: rules.power(a, rules.constant(2.0)),
    "max": _maximum,
    "min": _minimum,
    "abs": functions.absolute,
    "clamp": _clamped,
}


def _converted(rules: Rules, equation: Any, v: Value) -> Value:
    dtype = equation.outvars[0].aval.dtype
    before = equation.invars[0].aval.dtype
    if dtype.kind == "f" and dtype.itemsize == 8 and before.kind in "iufb":
        if v.conditions is not None and v.varies:
            return _other(rules, equation, [v])
        return v
    if v.varies:
        if dtype.kind == "b" or before.kind == "b":
            return _other(rules, equation, [v])
        return unknown(rules, "convert", (v,), f"{named(v)} is rounded to {dtype}", key=dtype)
    if dtype.kind in "iu" and before.kind in "iub":
        return v
    r = v.range
    if dtype.kind in "iu":
        r = ranges.ordered(np.trunc(r.lo), np.trunc(r.hi))
    elif dtype.kind == "f":
        with np.errstate(all="ignore"):
            wide = 2.0 * float(jnp.finfo(dtype).eps) * np.maximum(np.abs(r.lo), np.abs(r.hi))
            r = ranges.ordered(r.lo - wide, r.hi + wide)
    else:
        r = ranges.anything(np.shape(r.lo))
    return rules.opaque(("convert", str(dtype), v.key, np.shape(r.lo)), lambda: {"range": r})


# -- conditions ---------------------------------------------------------------------------------


def _compared(rules: Rules, name: str, a: Value, b: Value) -> Value:
    d = rules.add(a, b, -1) if name in ("gt", "ge") else rules.add(b, a, -1)
    strict = name in ("gt", "lt")
    lo, hi = d.range.lo, d.range.hi
    if name in ("gt", "lt"):
        r = Range((lo > 0) * 1.0, (hi > 0) * 1.0)
    elif name in ("ge", "le"):
        r = Range((lo >= 0) * 1.0, (hi >= 0) * 1.0)
    else:
        same, apart = (lo == 0) & (hi == 0), (lo > 0) | (hi < 0)
        r = Range(same * 1.0, ~apart * 1.0)
        r = Range(1.0 - r.hi, 1.0 - r.lo) if name == "ne" else r
    if strict and d.key in rules.positive:
        r = Range(np.ones_like(lo), np.ones_like(lo))
    conditions: tuple[Condition, ...] | None = () if not d.varies else (Condition(d, strict),)
    if d.varies and name in ("eq", "ne"):
        conditions = None
    return _truth(rules, name, r, (a, b), conditions)


def _logic(rules: Rules, name: str, v: list[Value]) -> Value:
    conditions: tuple[Condition, ...] | None = None
    if name == "not":
        r = Range(1.0 - v[0].range.hi, 1.0 - v[0].range.lo)
    else:
        pick = np.minimum if name == "and" else np.maximum
        r = Range(pick(v[0].range.lo, v[1].range.lo), pick(v[0].range.hi, v[1].range.hi))
        if name == "and" and all(x.conditions is not None for x in v):
            conditions = tuple(c for x in v for c in x.conditions or ())
    if name == "or":
        for one, other in (v, v[::-1]):
            if one.range.top == 0 and not one.varies:
                return other
    if not any(x.varies for x in v):
        conditions = ()
    return _truth(rules, name, r, tuple(v), conditions)


def _truth(rules: Rules, name: str, r: Range, of: tuple[Value, ...],
           conditions: tuple[Condition, ...] | None) -> Value:  # fmt: skip
    names = sorted({n for x in of for n in x.slopes})
    made = rules.opaque(
        (name, tuple(x.key for x in of), np.shape(r.lo)),
        lambda: {
            "range": r,
            "curvature": 0 if names else ZERO,
            "slopes": dict.fromkeys(names, 0),
            "fault": next((x.fault for x in of if x.fault), ""),
            "why": f"a condition on {of_what(of)} that is no comparison joined to others by &",
        },
    )
    return replace(made, range=r, conditions=conditions)


def _selected(rules: Rules, which: Value, *cases: Value) -> Value:
    r = which.range
    if r.known and np.all(r.lo == r.bottom) and not which.fault:
        return _shaped(cases[int(r.bottom)], cases)
    if which.varies:
        why = f"a choice by a condition on {of_what([which])} (jnp.where)"
        return unknown(rules, "select", (which, *cases), why, np.shape(cases[0].range.lo))
    if r.known:
        index = np.broadcast_to(r.lo, np.shape(cases[0].range.lo))
        lo, hi = cases[0].range.lo, cases[0].range.hi
        for i, case in enumerate(cases):
            lo = np.where(index == i, case.range.lo, lo)
            hi = np.where(index == i, case.range.hi, hi)
        whole = Range(lo, hi)
    else:
        whole = ranges.hull(*(c.range for c in cases))
    return joined(rules, ("select", which.key), whole, cases)


def _shaped(case: Value, cases: Sequence[Value]) -> Value:
    shape = np.broadcast_shapes(*(np.shape(c.range.lo) for c in cases))
    lo, hi = np.broadcast_to(case.range.lo, shape), np.broadcast_to(case.range.hi, shape)
    return replace(case, range=Range(lo, hi))


# -- the rest -----------------------------------------------------------------------------------


def _own_slopes(rules: Rules, name: str, params: Any, v: list[Value], e: Any) -> list[Value]:
    """Return a function whose derivatives are not those of its values, but what its author says."""
    closed = params.get("call_jaxpr") or params.get("fun_jaxpr")
    inner = getattr(closed, "jaxpr", closed)
    calls = [q.params.get("name") for q in inner.eqns]
    if not any(x.varies for x in v):
        return call(rules, closed, v)
    if calls == ["relu"] and call(rules, closed, v)[0].curvature & UP:
        r = Range(np.maximum(v[0].range.lo, 0.0), np.maximum(v[0].range.hi, 0.0))
        return [rules.composed(v[0], "relu", r, UP, UP)]  # its slope at the kink, 0, is one of its
    why = "a function with derivatives of its own (jax.custom_jvp, jax.custom_vjp)"
    return [unknown(rules, name, tuple(v), why, x.aval.shape, i) for i, x in enumerate(e.outvars)]


def _other(rules: Rules, equation: Any, v: list[Value], i: int = 0) -> Value:
    """Return what an operation without a rule gives."""
    name, shape = equation.primitive.name, equation.outvars[i].aval.shape
    names = {n for x in v for n in x.slopes}
    if not names and len(equation.outvars) == 1 and all(x.range.known for x in v):
        try:
            x = computed(equation, [x.range.lo for x in v])
        except Exception:  # an operation that computes on no plain numbers
            return unknown(rules, name, tuple(v), "", shape, i)
        return rules.constant(np.asarray(x, np.float64))
    if names:
        why = f"'{name}' of {of_what(v)}, for which there is no rule"
        return unknown(rules, name, tuple(v), why, shape, (i, str(equation.params)[:200]))
    key = (i, id(equation))
    return unknown(rules, name, tuple(v), "", shape, key)
