"""The pieces of a proof: each function of a model over the ranges of its variables.

They are looked at in an order in which each may take for granted what comes before it: a choice's
interval, then the conditions, each over the set that the ones before it leave, which is convex
already; then rewards and transitions over all that is feasible.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from . import ranges
from .interpreter import Evaluation
from .ranges import Range
from .rules import Rules, listed
from .signs import UP, ZERO
from .statement import Statement
from .values import Value


class Unproved(Exception):
    """What could not be proved, in a sentence."""


def parameter(rules: Rules, name: str, r: Range) -> Value:
    """Return a parameter or a discrete variable, which does not vary with state and choice."""
    if r.known and np.isfinite(r.bottom):
        return rules.constant(r.bottom)
    return rules.opaque(("parameter", name), lambda: {"range": r})


class Pieces:
    """What is known of a model's functions, with every variable in one range.

    Parameters
    ----------
    statement : Statement
    parameters : dict of str to Range
    hull : dict of str to Range
        Of states, shocks and ``t``.
    lenient : bool
        Whether to look at rewards that are not concave, too.

    Raises
    ------
    Unproved
        If one is not what it has to be, whatever the value rises in.
    """

    def __init__(
        self,
        statement: Statement,
        parameters: Mapping[str, Range],
        hull: Mapping[str, Range],
        lenient: bool = False,
    ) -> None:
        self.statement, self.rules, self._lenient = statement, Rules(), lenient
        closed = statement.functions
        self._body = Evaluation(self.rules, closed.jaxpr, closed.consts)
        for i, name in enumerate(statement.parameters):
            self._body.give(i, parameter(self.rules, name, parameters[name]))
        for name in statement.continuous:
            self._give(name, self.rules.variable(name, hull[name]))
        for name in statement.discrete:
            self._give(name, parameter(self.rules, name, hull[name]))
        self._lows: dict[str, list[float]] = {}
        self._highs: dict[str, list[float]] = {}
        self._given: set[str] = set()
        # What has to be positive, what is maximised, and where it leads.
        self.limits: list[Value] = []
        self.rewards: list[Value] = []
        self.now: list[Value] = []  # without what is paid at the end
        self.next: dict[str, Value] = {}
        self.room: dict[tuple[str, str], Value] = {}
        for i, (kind, *which) in enumerate(statement.function_names):
            getattr(self, f"_{kind}")(i, *which)

    def _give(self, name: str, v: Value) -> None:
        self._body.give(len(self.statement.parameters) + self.statement.taken.index(name), v)

    # -- each kind of function ------------------------------------------------------------------

    def _terminal(self, i: int) -> None:
        self.rewards.append(_need_concave(self._body.output(i), "terminal"))

    def _lower(self, i: int, choice: str) -> None:
        v = self._body.output(i)
        if not v.convex:
            raise Unproved(_sentence(f"the lower end of choice '{choice}'", v, "convex"))
        self._lows.setdefault(choice, []).append(v.range.bottom)

    def _upper(self, i: int, choice: str) -> None:
        v = _need_concave(self._body.output(i), f"the upper end of choice '{choice}'")
        self._highs.setdefault(choice, []).append(v.range.top)

    def _room(self, i: int, choice: str) -> None:
        if choice not in self._given:
            self._given.add(choice)
            lo = max(self._lows.get(choice, [-np.inf]))
            hi = min(self._highs.get(choice, [np.inf]))
            self._give(choice, self.rules.variable(choice, ranges.between(lo, max(lo, hi))))
        self._limit(self._body.output(i), f"the ends of choice '{choice}'")

    def _limit(self, v: Value, what: str, strict: bool = False) -> None:
        _need_concave(v, what)
        self.rules.learn(v, strict)
        self.limits.append(v)

    def _feasible(self, i: int, index: int) -> None:
        v = self._body.output(i)
        if v.range.bottom == 1 and not v.fault:
            return
        if v.conditions is None:
            raise Unproved(f"feasible: {v.reason}")
        for condition in v.conditions:
            if condition.difference.varies:
                self._limit(self.rules.refined(condition.difference), "feasible", condition.strict)

    def _reward(self, i: int, index: int) -> None:
        several = ("reward", 1) in self.statement.function_names
        what = f"reward {index + 1}" if several else "reward"
        v = self._body.output(i)
        self.now.append(v)
        self.rewards.append(v if self._lenient else _need_concave(v, what))

    def _transition(self, i: int, state: str) -> None:
        v = self._body.output(i)
        if state not in self.statement.continuous:
            if v.varies:
                raise Unproved(f"the transition of '{state}', which takes single values, varies")
            return
        if v.fault:
            raise Unproved(_sentence(f"the transition of '{state}'", v, "affine"))
        self.next[state] = v

    def _above(self, i: int, state: str) -> None:
        self.room["above", state] = self._body.output(i)

    def _below(self, i: int, state: str) -> None:
        self.room["below", state] = self._body.output(i)

    def _discount(self, i: int) -> None:
        v = self._body.output(i)
        if v.varies:
            raise Unproved(f"discount: it depends on {_names(v)}")
        if not v.range.bottom >= 0:
            raise Unproved("discount: it is not known to be positive")

    def _probabilities(self, i: int, shock: str) -> None:
        v = self._body.output(i)
        if v.varies:
            raise Unproved(f"the probabilities of shock '{shock}' depend on {_names(v)}")

    # -- next states ----------------------------------------------------------------------------

    def rising(self, rising: Collection[str]) -> set[str]:
        """Return in which of some states the value rises, if it rises in all of them."""
        useful = {*rising, *self.statement.increasing}
        return {s for s in rising if self._rises(s, useful)}

    def _rises(self, state: str, rising: Collection[str]) -> bool:
        grows = (*self.limits, *self.rewards, *self.rules.domains)
        if not all(v.slope(state) & UP for v in grows):
            return False
        for other, v in self.next.items():
            slope = v.slope(state)
            if slope == ZERO:
                continue
            # Where the top is forbidden, more of the state leaves fewer choices.
            stays = self.statement.outside[other][1] == "clip" or self._inside("below", other)
            if not slope & UP or other not in rising or not stays:
                return False
        return True

    def _inside(self, side: str, state: str) -> bool:
        return self.room[side, state].range.bottom >= 0

    def check_next(self, rising: Collection[str]) -> None:
        """Check that next states keep concave what is concave.

        Raises
        ------
        Unproved
            If one does not.
        """
        helped = {*rising, *self.statement.increasing}
        for state, v in self.next.items():
            what = f"the transition of '{state}'"
            declare = f"not known to rise in '{state}' (increasing=('{state}',) declares it)"
            below, above = self.statement.outside[state]
            if not v.affine and not v.concave:
                raise Unproved(_sentence(what, v, "affine"))
            if not v.affine and state not in helped:
                raise Unproved(f"{what}: it is concave and not affine, and the value is {declare}")
            if not self._inside("above", state) and below != "error":
                raise Unproved(f"{what}: it may leave the grid below, where outside='{below}'")
            if self._inside("below", state):
                continue
            if above == "extrapolate":
                raise Unproved(f"{what}: it may leave the grid above, where outside='{above}'")
            if above == "clip" and state not in helped:
                raise Unproved(f"{what}: it is clipped at the top, and the value is {declare}")
            if above == "error" and not v.affine:
                raise Unproved(
                    f"{what}: it is concave and may leave the grid above, and what keeps it inside "
                    "is no convex set; outside=('error', 'clip') would"
                )


def _need_concave(v: Value, what: str) -> Value:
    if not v.concave:
        raise Unproved(_sentence(what, v, "concave"))
    return v


def _sentence(what: str, v: Value, wanted: str) -> str:
    shape = "convex" if v.convex else "concave"
    known = v.fault or (f"it is {shape}, not {wanted}" if v.curvature else v.why)
    return f"{what}: {known or f'it is not known to be {wanted}'}"


def _names(v: Value) -> str:
    return listed(sorted(v.slopes))
