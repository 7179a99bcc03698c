r"""The composition rules: sums, products and powers of what is known to be concave or convex.

With the signs of :mod:`.signs`, a function :math:`f(g)` of one that is known has

.. math::
    \operatorname{sign} (f \circ g)'' = \operatorname{sign} f'' \wedge
        (\operatorname{sign} f' \cdot \operatorname{sign} g''),

which is the composition rule of disciplined convex programming: an increasing concave function of a
concave one is concave, and so on. A sum knows what all its terms know, a positive multiple what its
factor knows. Products of powers have rules of their own (:meth:`Rules.product`):

- :math:`\prod b_i^{e_i}` is concave where :math:`e_i \ge 0`, :math:`\sum e_i \le 1` and the bases
  are concave: geometric means, and what is below constant returns;
- it is convex where all :math:`e_i \le 0` and the bases are concave and positive;
- and where one exponent is at least 1, the others are at most 0 and their sum is at least 1:
  squares over what is positive and concave.

A domain is part of what is proved: a logarithm is -inf, or no number, where its argument is not
positive, and that set must be convex, which it is where the argument is concave. What is not known
to have a convex domain has a *fault*, and is nothing.

Reference: M. Grant, S. Boyd and Y. Ye (2006), "Disciplined convex programming", in L. Liberti and
N. Maculan (eds.), *Global Optimization*, 155-210. Powers: S. Boyd and L. Vandenberghe (2004),
*Convex Optimization*, sections 3.1.5 and 3.2.4.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

from . import normal_form as form
from . import ranges
from .atoms import Atoms, range_of
from .normal_form import Expression, Product
from .ranges import Range
from .signs import DOWN, UNKNOWN, UP, ZERO, flip, sign_of, times
from .values import Value


class Rules(Atoms):
    """The rules that make more of what is known of the atoms of one model."""

    def by_terms(self, key: Expression) -> tuple[int, dict[str, int]]:
        """Return curvature and slopes of a sum of products, read off its normal form."""
        varies = {a: self.atoms[a].varies for product, _ in key for a, _ in product}
        curvature, slopes = ZERO, dict[str, int]()
        for product, factor in form.grouped(key, varies).items():
            if product:
                sign = sign_of(self.evaluate(factor))
                curvature &= times(sign, self.product(product))
                for name, slope in self.product_slopes(product).items():
                    slopes[name] = slopes.get(name, ZERO) & times(sign, slope)
        return curvature or self._quadratic(key, varies), slopes

    def _quadratic(self, key: Expression, varies: Mapping[int, bool]) -> int:
        """Return the curvature of a quadratic form in affine atoms, and of what is added to it."""
        form_of: dict[tuple[int, int], Range] = {}
        rest = ZERO
        for product, factor in form.grouped(key, varies).items():
            powers = [(a, form.value_of(e)) for a, e in product]
            affine = all(self.atoms[a].curvature == ZERO for a, _ in powers)
            if affine and sorted(e or 0 for _, e in powers) in ([1, 1], [2]):
                ends = sorted(a for a, _ in powers)
                form_of[ends[0], ends[-1]] = self.evaluate(factor)
            elif product:
                rest &= times(sign_of(self.evaluate(factor)), self.product(product))
        atoms = sorted({a for pair in form_of for a in pair})
        half, zero = ranges.exactly(0.5), ranges.exactly(0.0)
        matrix = {(a, a): form_of.get((a, a), zero) for a in atoms}
        for a, b in combinations(atoms, 2):
            matrix[a, b] = ranges.multiply(half, form_of.get((a, b), zero))
        if _semidefinite(matrix, atoms):
            return UP & rest
        if _semidefinite({pair: ranges.minus(r) for pair, r in matrix.items()}, atoms):
            return DOWN & rest
        return UNKNOWN

    # -- products of powers ---------------------------------------------------------------------

    def product(self, product: Product) -> int:
        """Return the curvature of a product of powers of atoms."""
        bases = [(self.refined(self.atoms[a]), self.evaluate(e)) for a, e in product]
        if len(bases) == 1 and _is(bases[0][1], 1):
            return bases[0][0].curvature
        total = self.evaluate(_sum(e for _, e in product))
        found = UNKNOWN
        low = [(b, e) for b, e in bases if e.top <= 0]
        high = [(b, e) for b, e in bases if e.bottom >= 1]
        if all(e.bottom >= 0 and b.curvature & DOWN for b, e in bases) and total.top <= 1:
            found |= DOWN  # at exponents of 0 and 1 also where a base is negative
        if all(b.curvature & DOWN and _positive(b, e) for b, e in low):
            if len(low) == len(bases):
                found |= UP
            if len(low) == len(bases) - 1 and len(high) == 1 and total.bottom >= 1:
                found |= UP if _leads(*high[0]) else UNKNOWN
        if len(bases) == 1 and len(high) == 1:
            base, e = bases[0]
            if _is_odd(e) and base.range.top <= 0 and base.curvature & DOWN:
                found |= DOWN  # a cube of what is negative
        return found

    def product_slopes(self, product: Product) -> dict[str, int]:
        """Return the slopes of a product of powers of atoms."""
        bases = [(self.refined(self.atoms[a]), self.evaluate(e)) for a, e in product]
        if len(bases) == 1 and _is(bases[0][1], 1):
            return dict(bases[0][0].slopes)
        names = {name for b, _ in bases for name in b.slopes}
        if not all(_positive(b, e) for b, e in bases):
            return dict.fromkeys(names, UNKNOWN)
        slopes = dict.fromkeys(names, ZERO)
        for b, e in bases:
            for name, slope in b.slopes.items():
                slopes[name] &= times(sign_of(e), slope)
        return slopes

    # -- operations -----------------------------------------------------------------------------

    def finished(self, v: Value) -> Value:
        """Return a value with all that its normal form, and what was learned, tell of it."""
        v = replace(v, why="") if v.curvature else v
        exact = form.value_of(v.key)
        if exact is not None and not v.fault:
            shape = np.shape(v.range.lo)
            r = range_of(exact)
            r = Range(np.broadcast_to(r.lo, shape), np.broadcast_to(r.hi, shape))
            return replace(v, range=r, curvature=ZERO, slopes=dict.fromkeys(v.slopes, ZERO))
        if v.varies and UNKNOWN in (v.curvature, *v.slopes.values()):
            curvature, slopes = self.by_terms(v.key)
            curvature |= v.curvature
            known = {name: s | slopes.get(name, ZERO) for name, s in v.slopes.items()}
            v = replace(v, curvature=curvature, slopes=known, why="" if curvature else v.why)
        v = self.refined(v)
        if v.key in self.unfinished:
            self.atoms[self.unfinished.pop(v.key)] = v
        return v

    def add(self, a: Value, b: Value, sign: int = 1) -> Value:
        """Return a + b, or a - b."""
        r = ranges.add(a.range, b.range if sign > 0 else ranges.minus(b.range))
        key = self._key(form.plus(a.key, b.key, sign), a, b, ("add", sign))
        turn = (lambda s: s) if sign > 0 else flip
        curvature = a.curvature & turn(b.curvature)
        if not curvature:
            curvature = self._of_one(a, b, sign)
        mixed = f"the sum of what is concave and what is convex in {listed(_names(a, b))}"
        why = a.why or b.why or mixed
        return self.finished(
            Value(
                r, key, curvature,
                {n: a.slope(n) & turn(b.slope(n)) for n in _names(a, b)},
                {p: a.cross(p) & turn(b.cross(p)) for p in {*a.crosses, *b.crosses}},
                fault=a.fault or b.fault, why=why,
            )
        )  # fmt: skip

    def minus(self, a: Value) -> Value:
        """Return -a."""
        return self.multiply(self.constant(-1.0), a)

    def multiply(self, a: Value, b: Value, word: str = "product") -> Value:
        """Return a * b."""
        r = ranges.multiply(a.range, b.range)
        key = self._key(form.multiplied(a.key, b.key), a, b, ("mul",))
        fault, why = a.fault or b.fault, a.why or b.why
        if not a.varies and not b.varies:
            return self.finished(Value(r, key, fault=fault))
        (c, m), (d, n) = self.factors(a), self.factors(b)
        factor, product = ranges.multiply(c, d), form.joined(m, n)
        sa, sb = sign_of(a.range), sign_of(b.range)
        if a.varies and b.varies:
            curvature = times(sign_of(factor), self.product(product))
            this = f"the {word} of {named(a)} and {named(b)}, both of which vary"
            why = this if not curvature else ""
        else:
            curvature = times(sa, b.curvature) if b.varies else times(sb, a.curvature)
            why = why or f"{named(a if a.varies else b)} times a constant of unknown sign"
        slopes = {s: times(sa, b.slope(s)) & times(sb, a.slope(s)) for s in _names(a, b)}
        crosses = {
            p: times(sa, b.cross(p)) & times(sb, a.cross(p))
            & times(a.slope(p[0]), b.slope(p[1])) & times(a.slope(p[1]), b.slope(p[0]))
            for p in _pairs(a, b)
        }  # fmt: skip
        kept = (factor, product) if product else None
        return self.finished(Value(r, key, curvature, slopes, crosses, kept, fault, why))

    def divide(self, a: Value, b: Value) -> Value:
        """Return a / b."""
        return self.multiply(a, self.power(b, self.constant(-1.0)), "quotient")

    def power(self, b: Value, e: Value) -> Value:
        """Return b ** e, e a constant."""
        whole = form.value_of(e.key)
        n = int(whole) if whole is not None and whole.denominator == 1 else None
        if n is not None and abs(n) > 500:
            n = None
        if n == 1:
            return b
        if n == 0:
            return self.constant(1.0)
        key, fault, e_range = self._power_key(b, e, n), b.fault or e.fault, e.range
        if n is not None:
            r = ranges.whole_power(b.range, n)
        elif b.range.bottom >= 0 or (fractional(e_range) and b.range.bottom > -np.inf):
            r = ranges.power(b.range, e_range)
        else:
            shape = np.broadcast_shapes(np.shape(b.range.lo), np.shape(e_range.lo))
            r = ranges.anything(shape)
        if not b.varies:
            return self.finished(Value(r, key, fault=fault))
        if not fault and not self._power_domain(b, e_range, n):
            fault = f"a power of {named(b)}, which may be negative"
        signed = e_range.bottom < 0 and not fractional(e_range) and (n is None or n % 2 == 1)
        if not fault and signed and b.range.bottom <= 0 and b.key not in self.positive:
            # One over zero is infinity of either sign, as zero has one, too.
            fault = f"a division by {named(b)}, which may be zero"
        if n is None and b.range.bottom < 0:
            self.domains.append(b)
        factor, product = self._power_factors(b, e, n)
        alone = frozenset({(self.base(b), e.key)})
        curvature = times(sign_of(factor), self.product(product)) | self.product(alone)
        curvature |= self._aggregate(b, e)
        direction, shape_sign = _power_signs(b, e_range, n)
        why = "" if curvature else b.why or f"a power of {named(b)} that no rule covers"
        return self.finished(
            Value(
                r, key, curvature, {s: times(direction, x) for s, x in b.slopes.items()},
                self.composed_crosses(b, direction, shape_sign), (factor, product), fault, why,
            )
        )  # fmt: skip

    def composed(self, v: Value, name: Hashable, r: Range, direction: int, shape: int,
                 fault: str = "") -> Value:  # fmt: skip
        """Return f(v) of which are known the signs of its slope and curvature."""

        def make() -> dict[str, Any]:
            curvature = shape & times(direction, v.curvature)
            return {
                "range": r,
                "curvature": curvature if v.varies else ZERO,
                "slopes": {s: times(direction, x) for s, x in v.slopes.items()},
                "crosses": self.composed_crosses(v, direction, shape),
                "fault": v.fault or (fault if v.varies else ""),
                "why": ""
                if curvature
                else v.why or f"{_word(name)} of {named(v)}, for which no rule holds",
            }

        return self.opaque((name, v.key, np.shape(r.lo)), make)

    def composed_crosses(self, v: Value, direction: int, shape: int) -> dict[tuple[str, str], int]:
        """Return the cross derivatives of f(v)."""
        return {
            p: times(shape, times(v.slope(p[0]), v.slope(p[1]))) & times(direction, v.cross(p))
            for p in _pairs(v)
        }

    def _aggregate(self, b: Value, e: Value) -> int:
        """Return the curvature of (a1 x1**r + a2 x2**r + ...)**e, which is a CES aggregate."""
        varies = {a: self.atoms[a].varies for product, _ in b.key for a, _ in product}
        found: tuple[Expression, Range] | None = None
        shapes = ZERO
        for product, factor in form.grouped(b.key, varies).items():
            if not sign_of(self.evaluate(factor)) & UP or len(product) > 1:
                return UNKNOWN
            for atom, r in product:
                base, exponent = self.refined(self.atoms[atom]), self.evaluate(r)
                if (found and found[0] != r) or not _positive(base, exponent):
                    return UNKNOWN
                found, shapes = (r, exponent), shapes & base.curvature
        scale = form.multiplied(found[0], e.key) if found else None
        if found is None or scale is None:
            return UNKNOWN
        # The aggregate, raised to 1/r, is concave for r up to 1 and a convex norm from 1 on.
        r, scaled = found[1], self.evaluate(scale)
        curvature = UNKNOWN
        if ((r.bottom > 0 and r.top <= 1) or r.top < 0) and shapes & DOWN:
            curvature |= DOWN if scaled.bottom >= 0 and scaled.top <= 1 else UNKNOWN
            curvature |= UP if scaled.top <= 0 else UNKNOWN
        if r.bottom >= 1 and shapes & UP and scaled.bottom >= 1:
            curvature |= UP
        return curvature

    def _of_one(self, a: Value, b: Value, sign: int) -> int:
        """Return the curvature of c u**m + d u**n, a function of one concave or convex number."""
        terms = [self.factors(a), self.factors(b)]
        atoms = {atom for _, product in terms for atom, _ in product}
        if len(atoms) != 1 or any(len(product) != 1 for _, product in terms):
            return UNKNOWN
        u = self.refined(self.atoms[atoms.pop()])
        first = second = ranges.exactly(0.0)
        for (factor, product), s in zip(terms, (1, sign), strict=True):
            ((_, e),) = product
            n = self.evaluate(e)
            below, twice = (
                self._power_range(u.range, form.plus(e, form.number(-k))) for k in (1, 2)
            )
            c = ranges.multiply(factor if s > 0 else ranges.minus(factor), n)
            first = ranges.add(first, ranges.multiply(c, below))
            less = ranges.add(n, ranges.exactly(-1.0))
            second = ranges.add(second, ranges.multiply(ranges.multiply(c, less), twice))
        return sign_of(second) & times(sign_of(first), u.curvature)

    # -- powers ---------------------------------------------------------------------------------

    def _key(self, key: Expression | None, a: Value, b: Value, name: Hashable) -> Expression:
        """Return a normal form, or one atom where it is too long or stands for an array."""
        shape = np.broadcast_shapes(np.shape(a.range.lo), np.shape(b.range.lo))
        array = shape != () and not (a.varies or b.varies)
        if key is None or array or len(key) > form.MOST:
            return form.single(self._reserve((name, a.key, b.key, shape), a, b))
        return key

    def _reserve(self, name: Hashable, *parts: Value) -> int:
        if name not in self.ids:
            self.ids[name] = len(self.atoms)
            self.unfinished[form.single(self.ids[name])] = self.ids[name]
            names = _names(*parts)
            shape = np.broadcast_shapes(*(np.shape(v.range.lo) for v in parts))
            self.atoms.append(
                Value(
                    ranges.anything(shape), form.single(self.ids[name]),
                    UNKNOWN if names else ZERO, dict.fromkeys(names, UNKNOWN),
                    dict.fromkeys(combinations(names, 2), UNKNOWN),
                )
            )  # fmt: skip
        return self.ids[name]

    def _power_key(self, b: Value, e: Value, n: int | None) -> Expression:
        exact = form.value_of(b.key)
        if exact is not None and n is not None and exact:
            return form.number(exact**n)
        if n in (2, 3):
            key: Expression | None = b.key
            for _ in range(n - 1):
                key = None if key is None else form.multiplied(key, b.key)
            if key is not None:
                return key
        if len(b.key) == 1:
            ((product, factor),) = b.key
            raised = self._raised(product, e, n)
            if factor == 1 and raised is not None:
                return frozenset({(raised, Fraction(1))})
        return frozenset({(frozenset({(self.base(b), e.key)}), Fraction(1))})

    def _raised(self, product: Product, e: Value, n: int | None) -> Product | None:
        """Return a power of a product as a product, where that is the same."""
        raised = []
        for atom, exponent in product:
            new = form.multiplied(exponent, e.key)
            if new is None:
                return None
            positive = _positive(self.refined(self.atoms[atom]), self.evaluate(exponent))
            if n is None and not positive and not (len(product) == 1 and exponent == form.ONE):
                return None
            raised.append((atom, new))
        return frozenset(pair for pair in raised if pair[1])

    def _power_factors(self, b: Value, e: Value, n: int | None) -> tuple[Range, Product]:
        factor, product = self.factors(b)
        raised = self._raised(product, e, n)
        if raised is not None and (n is not None or factor.bottom >= 0):
            scale = (
                ranges.whole_power(factor, n) if n is not None else ranges.power(factor, e.range)
            )
            return scale, raised
        return ranges.exactly(1.0), frozenset({(self.base(b), e.key)})

    def _power_domain(self, b: Value, e: Range, n: int | None) -> bool:
        """Whether a power is defined on a convex set (as far as its base is)."""
        if b.range.bottom > 0 or (n is not None and n >= 0):
            return True
        if b.range.bottom >= 0:
            return e.bottom >= 0 or bool(b.curvature & DOWN)
        if b.range.bottom == -np.inf:  # whose powers, 0 or infinity, are numbers
            return False
        unit = e.bottom >= 0 and e.top <= 1
        return bool(b.curvature & DOWN) and (unit or fractional(e))


def named(v: Value) -> str:
    """Return a value in words."""
    names = sorted(v.slopes)
    if not names:
        return "a constant"
    if len(names) == 1 and len(v.key) == 1 and v.curvature == ZERO:
        return names[0]
    return f"an expression of {listed(names)}"


def fractional(e: Range) -> bool:
    """Whether no exponent is an integer: the power of a negative number is no number then."""
    return bool(np.floor(e.bottom) == np.floor(e.top) and e.bottom > np.floor(e.bottom))


def _positive(b: Value, e: Range) -> bool:
    """Whether a base is not negative where its power is a number."""
    return b.range.bottom >= 0 or fractional(e)


def _leads(b: Value, e: Range) -> bool:
    """Whether a base may stand above the others, with an exponent of at least 1."""
    even = _is(e, int(e.bottom)) and int(e.bottom) % 2 == 0 if np.isfinite(e.bottom) else False
    if b.curvature == ZERO and (even or fractional(e)):
        return True
    if b.curvature & UP and b.range.bottom >= 0:
        return True
    return bool(even and b.curvature & DOWN and b.range.top <= 0)


def _is(r: Range, n: int) -> bool:
    return bool(r.bottom == n == r.top)


def _is_odd(r: Range) -> bool:
    return bool(r.bottom == r.top and r.bottom % 2 == 1)


def _power_signs(b: Value, e: Range, n: int | None) -> tuple[int, int]:
    """Return the signs of slope and curvature of a power in its base."""
    unit = e.bottom >= 0 and e.top <= 1
    if _positive(b, e) or unit:
        convex = e.top <= 0 or e.bottom >= 1
        return sign_of(e), DOWN if unit else UP if convex else UNKNOWN
    if n is None:
        return UNKNOWN, UNKNOWN
    sign = sign_of(b.range)
    if n % 2 == 0:
        return (sign if n > 0 else flip(sign)), UP
    return (UP if n > 0 else DOWN), sign


def listed(names: list[str]) -> str:
    """Return names in words."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _semidefinite(matrix: dict[tuple[int, int], Range], atoms: list[int]) -> bool:
    """Whether a symmetric matrix, of which the upper half is given, is positive semidefinite.

    By elimination: a pivot is positive, or zero like all that is left of its row.
    """
    left = dict(matrix)
    for i, a in enumerate(atoms):
        pivot, later = left[a, a], atoms[i + 1 :]
        if pivot.bottom <= 0:
            if not all(_is(left[a, b], 0) for b in (a, *later)):
                return False
            continue
        for b, c in ((b, c) for j, b in enumerate(later) for c in later[j:]):
            both = ranges.multiply(left[a, b], left[a, c])
            if b == c and both.bottom < 0:
                both = ranges.meet(both, 0.0, np.inf)  # a square
            share = ranges.multiply(both, ranges.reciprocal(pivot))
            left[b, c] = ranges.add(left[b, c], ranges.minus(share))
    return True


def _names(*values: Value) -> list[str]:
    return sorted({name for v in values for name in v.slopes})


def _pairs(*values: Value) -> Iterable[tuple[str, str]]:
    return combinations(_names(*values), 2)


def _sum(expressions: Iterable[Expression]) -> Expression:
    total = form.NIL
    for e in expressions:
        total = form.plus(total, e)
    return total


def _word(name: Hashable) -> str:
    return str(name[0] if isinstance(name, tuple) else name)
