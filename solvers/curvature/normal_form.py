"""Expressions in a normal form: sums of products of powers, with exact coefficients.

Two expressions with one normal form are equal wherever both are defined; so a condition
``w - s - b > 0`` is recognised in ``log(w - (s + b))``, exponents ``alpha`` and ``1 - alpha`` sum
to one exactly, and ``(i/k - 1)**2 * k`` is ``i**2/k - 2*i + k``. What is no sum or product is an
*atom*, a number given by whoever makes it. Exponents are expressions, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

# A product: pairs of an atom and its exponent. An expression: pairs of a product and its factor.
Product = frozenset[tuple[int, Any]]
Expression = frozenset[tuple[Product, Fraction]]

NOTHING: Product = frozenset()
NIL: Expression = frozenset()
MOST = 40  # terms; what is longer becomes an atom


def number(x: Fraction | float) -> Expression:
    """Return a number as an expression."""
    fraction = Fraction(x)
    return frozenset({(NOTHING, fraction)}) if fraction else NIL


ONE = number(1)


def single(atom: int) -> Expression:
    """Return an atom as an expression."""
    return frozenset({(frozenset({(atom, ONE)}), Fraction(1))})


def value_of(p: Expression) -> Fraction | None:
    """Return the number that an expression is, or None if it holds atoms."""
    if not p:
        return Fraction(0)
    if len(p) == 1:
        ((product, factor),) = p
        return factor if not product else None
    return None


def plus(p: Expression, q: Expression, scale: Fraction | int = 1) -> Expression:
    """Return p + scale * q."""
    terms = dict(p)
    for product, factor in q:
        terms[product] = terms.get(product, Fraction(0)) + scale * factor
    return frozenset((m, c) for m, c in terms.items() if c)


def joined(m: Product, n: Product) -> Product:
    """Return the product of two products."""
    powers = dict(m)
    for atom, exponent in n:
        powers[atom] = plus(powers.get(atom, NIL), exponent)
    return frozenset((atom, e) for atom, e in powers.items() if e)


def multiplied(p: Expression, q: Expression) -> Expression | None:
    """Return p * q, or None if it is too long."""
    if len(p) * len(q) > MOST:
        return None
    terms: dict[Product, Fraction] = {}
    for m, c in p:
        for n, d in q:
            product = joined(m, n)
            terms[product] = terms.get(product, Fraction(0)) + c * d
    return frozenset((m, c) for m, c in terms.items() if c)


def constant_part(p: Expression) -> tuple[Expression, Fraction]:
    """Return an expression without its number, and that number."""
    number = dict(p).get(NOTHING, Fraction(0))
    return frozenset(term for term in p if term[0] != NOTHING), number


def grouped(p: Expression, varies: Mapping[int, bool]) -> dict[Product, Expression]:
    """Return the factor of each product of atoms that vary, an expression in those that do not."""
    groups: dict[Product, Expression] = {}
    for product, factor in p:
        moving = frozenset(pair for pair in product if varies[pair[0]])
        rest: Expression = frozenset({(product - moving, factor)})
        groups[moving] = plus(groups.get(moving, NIL), rest)
    return groups
