"""The atoms of a model's expressions, and what was learned of their ranges.

An atom is whatever is no sum or product: a variable, a logarithm of something. Atoms are found by
what they are, so that the same thing is one atom wherever it is written. What is feasible teaches
something of expressions: ``w - s - b > 0``, wherever that difference stands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from . import normal_form as form
from . import ranges
from .normal_form import Expression, Product
from .ranges import Range
from .signs import UP
from .values import Value


class Atoms:
    """Everything that is known of the atoms of one model."""

    def __init__(self) -> None:
        self.atoms: list[Value] = []
        self.ids: dict[Hashable, int] = {}
        self._facts: dict[Expression, tuple[float, float]] = {}
        self.positive: set[Expression] = set()
        self.domains: list[Value] = []  # what has to be positive for numbers to be numbers
        self.unfinished: dict[Expression, int] = {}

    # -- what there is --------------------------------------------------------------------------

    def variable(self, name: str, r: Range) -> Value:
        """Return a continuous state or choice."""
        return self.opaque(("variable", name), lambda: {"range": r, "slopes": {name: UP}})

    def constant(self, x: Any) -> Value:
        """Return plain numbers."""
        r = ranges.exactly(x)
        if np.ndim(x) == 0 and np.isfinite(x):
            return Value(r, form.number(Fraction(np.asarray(x).item())))
        return self.opaque(("numbers", np.shape(x), np.asarray(x).tobytes()), lambda: {"range": r})

    def opaque(self, name: Hashable, make: Callable[[], dict[str, Any]]) -> Value:
        """Return the value that is an atom of a name; `make` tells of it the first time."""
        i = self.ids.get(name)
        if i is None:
            known = make()
            i = self.ids[name] = len(self.atoms)
            self.atoms.append(Value(key=form.single(i), **known))
        return self.refined(self.atoms[i])

    def learn(self, difference: Value, strict: bool = False) -> None:
        """Take for granted from here on that something is not negative, or positive."""
        if strict:
            self.positive.add(difference.key)
        key, number = form.constant_part(difference.key)
        opposite = form.plus(form.NIL, key, -1)
        lo, hi = self._bounds(key)[0], self._bounds(opposite)[1]
        self._facts[key] = (max(lo, _below(-number)), self._bounds(key)[1])
        self._facts[opposite] = (self._bounds(opposite)[0], min(hi, -_below(-number)))

    def _bounds(self, key: Expression) -> tuple[float, float]:
        return self._facts.get(key, (-np.inf, np.inf))

    def refined(self, v: Value) -> Value:
        """Return a value with what was learned of its range."""
        if not v.varies or not self._facts:
            return v
        key, number = form.constant_part(v.key)
        fact = self._facts.get(key)
        if fact is None:
            return v
        known = ranges.add(ranges.between(*fact), range_of(number))
        lo, hi = known.bottom, known.top
        if lo <= v.range.bottom and hi >= v.range.top:
            return v
        return replace(v, range=ranges.meet(v.range, lo, hi))

    def base(self, v: Value) -> int:
        """Return the atom that stands for a whole value."""
        if len(v.key) == 1:
            ((product, factor),) = v.key
            if factor == 1 and len(product) == 1:
                ((atom, exponent),) = product
                if exponent == form.ONE:
                    return atom
        name = ("base", v.key)
        if name not in self.ids:
            self.ids[name] = len(self.atoms)
            self.atoms.append(v)
        return self.ids[name]

    # -- expressions ----------------------------------------------------------------------------

    def evaluate(self, expression: Expression) -> Range:
        """Return the range of an expression in constants."""
        exact = form.value_of(expression)
        if exact is not None:
            return range_of(exact)
        r = ranges.exactly(0.0)
        for product, factor in expression:
            term = range_of(factor)
            for atom, exponent in product:
                term = ranges.multiply(term, self._power_range(self.atoms[atom].range, exponent))
            r = ranges.add(r, term)
        return r

    def _power_range(self, base: Range, exponent: Expression) -> Range:
        whole = form.value_of(exponent)
        if whole == 1:
            return base
        if whole is not None and whole.denominator == 1 and abs(whole) < 512:
            return ranges.whole_power(base, int(whole))
        if base.bottom < 0:
            return ranges.anything(np.shape(base.lo))
        return ranges.power(base, self.evaluate(exponent))

    def factors(self, v: Value) -> tuple[Range, Product]:
        """Return a constant and a product of varying atoms that a value is."""
        if v.factors is not None:
            return v.factors
        if not v.varies:
            return v.range, form.NOTHING
        if len(v.key) == 1:
            ((product, _),) = v.key
            moving = frozenset(pair for pair in product if self.atoms[pair[0]].varies)
            ((_, factor),) = v.key
            rest = self.evaluate(frozenset({(product - moving, factor)}))
            return rest, moving
        return ranges.exactly(1.0), frozenset({(self.base(v), form.ONE)})


def range_of(x: Fraction) -> Range:
    """Return the range that a fraction is in float64 numbers."""
    return ranges.between(_below(x), -_below(-x))


def _below(x: Fraction) -> float:
    """Return the largest float64 number that is not above a fraction."""
    try:
        near = float(x)
    except OverflowError:
        return float(np.finfo(np.float64).max) if x > 0 else -np.inf
    return near if Fraction(near) <= x else float(np.nextafter(near, -np.inf))
