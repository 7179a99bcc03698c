r"""A model proved to be concave, and what of it could not be.

The problem is

.. math::
    v(x, z) = \max_{y \in Y(x, z)} E_w\bigl[F(x, y, z, w)
              + \beta(z) \sum_{z'} P(z, z')\, v(f(x, y, z, w), z')\bigr]

with continuous states :math:`x` and choices :math:`y`, Markov states :math:`z` and shocks
:math:`w`. One step of it keeps concave functions concave, and so its solution is concave, if

- the rewards are jointly concave in :math:`(x, y)`;
- what is feasible is a convex set: lower ends of intervals convex, upper ends concave, conditions
  "concave > 0", joined by ``&``;
- each :math:`f_j` is affine, or concave where the value rises in :math:`x_j`, which is declared
  (``increasing``) or proved; a state that is clipped at the top has the next value
  :math:`\min(f_j, \bar x_j)`, which is concave and needs the same;
- the discount is not negative, and free of :math:`(x, y)` like the chances of shocks and the
  transitions of discrete states;
- the terminal value is concave.

All of it is proved over the whole range of the variables, for every value of discrete states,
shocks and ``t``, and of parameters between two ends. Ranges of numbers come by interval arithmetic,
rounded outward (:mod:`.ranges`), curvature by composition rules (:mod:`.rules`). What is proved is
of the formulae in real numbers: that float64 rounds a value is a matter of the bounds that use it.
The value rises in a state if the rewards do, what is feasible only grows, and next states rise;
that is found for all states at once, as the largest set for which it holds.

Reference: M. Grant, S. Boyd and Y. Ye (2006), "Disciplined convex programming".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Any

import numpy as np

from dpsolve.solvers.model.factory_signature import Factory
from dpsolve.solvers.model.model import Model

from . import ranges
from .interpreter import Evaluation
from .pieces import Pieces, Unproved, parameter
from .ranges import Range
from .rules import Rules
from .signs import UNKNOWN, ZERO
from .statement import NotProvable, Statement, filled, read

MOST_CASES = 64  # values of discrete states, shocks and t that are looked at one by one


@dataclass(frozen=True)
class Proof:
    """Whether a model is proved to be concave.

    Attributes
    ----------
    concave : bool
    why : str
        The function and the operation that could not be proved; empty where all is.
    rising : tuple of str
        The states in which the value is proved to rise.
    """

    concave: bool
    why: str = ""
    rising: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.concave


def prove(model: Factory | Model, sizes: Mapping[str, Any], values: Mapping[str, Any]) -> Proof:
    """Prove that a model is jointly concave in its continuous states and choices.

    Parameters
    ----------
    model : function or Model
        A factory, or a model without parameters.
    sizes : dict
        The factory's static parameters.
    values : dict
        Of each parameter a number, a pair (lo, hi), or an array of many points, which stands for
        the range between the least and the largest. What is left out has its default.

    Returns
    -------
    Proof
        Never an error: a model that cannot be read is not proved, with what was said of it.
    """
    try:
        statement = read(model, sizes)
        given = filled(model, values)
        return prove_statement(statement, {n: as_range(x) for n, x in given.items()})
    except Exception as error:  # whatever a user's functions raise: it is no proof
        return not_proved(error)


def not_proved(error: Exception) -> Proof:
    """Return that something could not be read."""
    if isinstance(error, NotProvable):
        return Proof(False, str(error))
    return Proof(False, f"the model could not be read ({type(error).__name__}: {error})")


def as_range(given: Any) -> Range:
    """Return the range of a number, a pair or an array."""
    x = np.asarray(given, np.float64)
    if np.isnan(x).any():
        raise NotProvable("a parameter is no number")
    return ranges.between(x.min(), x.max())


def prove_statement(statement: Statement, parameters: Mapping[str, Range]) -> Proof:
    """Prove a traced model for parameters in ranges."""
    with np.errstate(all="ignore"):
        found = Variables(statement, parameters)
        proof = _attempt(statement, parameters, [found.whole()])
        if proof.concave or not found.few():
            return proof
        closer = _attempt(statement, parameters, found.cases())
        return closer if closer.concave else proof


def _attempt(
    statement: Statement, parameters: Mapping[str, Range], cases: Iterable[Mapping[str, Range]]
) -> Proof:
    """Prove a model in each of some cases, which together are all."""
    try:
        pieces = [Pieces(statement, parameters, case) for case in cases]
        rising = {*statement.continuous}
        while True:
            kept = set(rising).intersection(*(p.rising(rising) for p in pieces))
            if kept == rising:
                break
            rising = kept
        for p in pieces:
            p.check_next(rising)
    except Unproved as found:
        return Proof(False, str(found))
    return Proof(True, "", tuple(sorted(rising)))


def reward_crosses(
    statement: Statement, parameters: Mapping[str, Range]
) -> dict[tuple[str, str], int]:
    """Return the sign of each cross derivative of the rewards' sum."""
    with np.errstate(all="ignore"):
        whole = Variables(statement, parameters).whole()
        pieces = Pieces(statement, parameters, whole, lenient=True)
    names = sorted((*statement.continuous, *statement.choices))
    signs = dict.fromkeys(combinations(names, 2), ZERO)
    for v in pieces.now:
        signs = {p: s & (UNKNOWN if v.fault else v.cross(p)) for p, s in signs.items()}
    return signs


class Variables:
    """Over what a model's variables range."""

    def __init__(self, statement: Statement, parameters: Mapping[str, Range]) -> None:
        self.statement = statement
        rules = Rules()
        inner = Evaluation(rules, statement.variables.jaxpr, statement.variables.consts)
        for i, name in enumerate(statement.parameters):
            inner.give(i, parameter(rules, name, parameters[name]))
        self._found = {n: inner.output(i).range for i, n in enumerate(statement.variable_names)}

    def whole(self) -> dict[str, Range]:
        """Return the hull of each variable but the choices."""
        hull = {
            n: ranges.between(self._found["bottom", n].lo, self._found["top", n].hi)
            for n in self.statement.continuous
        }
        for name in self.statement.discrete:
            r = self._found["values", name]
            hull[name] = ranges.between(r.bottom, r.top)
        return hull

    def _lengths(self) -> list[int]:
        return [self._entries(name)[0].size for name in self.statement.discrete]

    def _entries(self, name: str) -> tuple[Any, Any]:
        r = self._found["values", name]
        if name in self.statement.discrete and (name == "t" or self._whole(name)):
            every = np.arange(r.bottom, min(r.top, r.bottom + MOST_CASES) + 1)
            return every, every
        return r.lo, r.hi

    def _whole(self, name: str) -> bool:
        kind = self.statement.functions.jaxpr.invars[
            len(self.statement.parameters) + self.statement.taken.index(name)
        ].aval.dtype.kind
        return bool(kind in "iu" and self._found["values", name].lo.size == 2)

    def few(self) -> bool:
        """Whether discrete values can be looked at one by one."""
        return 1 < prod(self._lengths()) <= MOST_CASES

    def cases(self) -> Iterator[dict[str, Range]]:
        """Yield the ranges with one value of each discrete variable."""
        whole = self.whole()
        for index in product(*map(range, self._lengths())):
            one = {}
            for name, i in zip(self.statement.discrete, index, strict=True):
                lo, hi = self._entries(name)
                one[name] = ranges.between(lo[i], hi[i])
            yield whole | one
