r"""In which order to take the expectation over next states: the least work the signatures allow.

The expected continuation value :math:`E\,v(x_1', \ldots, x_k', z)` starts as an array over the
next values of the states that follow a rule (axes ``x'``) and the current values of the Markov
states. Each rule :math:`x_j' = f_j(\cdot)` replaces the axis ``x_j'`` by the axes of the arguments
that :math:`f_j` takes. A shock's axis is summed as soon as no rule that is left names it, or, where
its probabilities depend on what is no axis yet, once all rules are done: whichever costs less.

Post-decision variables are axes on the way. A rule :math:`x_j' = f_j(p, \cdot)` that names one has
:math:`p` among its axes, and the variable's own rule :math:`p = g(\cdot)` replaces that axis in its
turn, which can be done only after every rule that names :math:`p`. So what depends on :math:`p` and
a shock is averaged once for each :math:`p`, whatever the number of pairs that lead there (Powell,
2011, *Approximate Dynamic Programming*, ch. 4.6).

The order matters by orders of magnitude: a component that depends on state and shock but not on
the choice is contracted before the choice is looked at, so its shocks are never multiplied by the
choices. All ordered groupings of the rules are compared by the number of entries they touch (there
are few: 3 for two states, 13 for three), and the cheapest is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

__all__ = ["CHOICE", "Rule", "Step", "next_axis", "plan"]

CHOICE = "*"  # the axis of all choices together, flattened in C order


def next_axis(state: str) -> str:
    """Name the axis of a state's next value."""
    return state + "'"


@dataclass(frozen=True)
class Rule:
    """The rule of a state or a post variable: the axes its result depends on, and what it replaces.

    Attributes
    ----------
    state : str
        The state, or the post variable.
    dims : frozenset of str
        Axes that its result depends on.
    corners : int
        Entries that each lookup reads: 2 where the result is interpolated.
    post : bool
        Whether it is a post variable's, whose axis goes by its own name.
    """

    state: str
    dims: frozenset[str]
    corners: int = 1
    post: bool = False

    @property
    def axis(self) -> str:
        """The axis that the rule replaces."""
        return self.state if self.post else next_axis(self.state)


@dataclass(frozen=True)
class Step:
    """Look up these states' (and post variables') axes together, then sum over these shocks."""

    states: tuple[str, ...]
    shocks: tuple[str, ...]
    dims: frozenset[str]  # of the result

    @property
    def needs_choice(self) -> bool:
        """Tell whether the result depends on the choice."""
        return CHOICE in self.dims


def plan(
    rules: Sequence[Rule],
    chains: Sequence[str],
    shock_dims: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
) -> tuple[Step, ...]:
    """Choose the cheapest order.

    Parameters
    ----------
    rules : sequence of Rule
        One per state that follows a rule, and per post variable that one of these names.
    chains : sequence of str
        Axes of the Markov states.
    shock_dims : mapping
        The axes that each shock's probabilities depend on.
    sizes : mapping
        Length of every axis, ``x'`` axes included.
    """
    best: tuple[float, tuple[Step, ...]] = (float("inf"), ())
    for groups in _ordered_partitions(tuple(rules)):
        if not _in_order(groups):
            continue
        for waiting in (False, True):
            cost, steps = _price(groups, rules, chains, shock_dims, sizes, waiting)
            if cost < best[0]:
                best = (cost, steps)
    return best[1]


def _in_order(groups: Sequence[tuple[Rule, ...]]) -> bool:
    """Tell whether each post variable is looked up after every rule that names it."""
    gone: set[str] = set()
    for group in groups:
        gone |= {r.axis for r in group if r.post}
        if any(gone & r.dims for r in group):
            return False
    return True


def _price(
    groups: Sequence[tuple[Rule, ...]],
    rules: Sequence[Rule],
    chains: Sequence[str],
    shock_dims: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    waiting: bool,
) -> tuple[float, tuple[Step, ...]]:
    dims = frozenset(chains) | {r.axis for r in rules if not r.post}
    left = list(rules)
    cost = 0.0
    steps = []
    for group in groups:
        left = [r for r in left if r not in group]
        gone = {r.axis for r in group}
        dims = (dims - gone).union(*(r.dims for r in group))
        cost += prod(sizes[d] for d in dims) * prod(r.corners for r in group)
        named = frozenset().union(*(r.dims for r in left)) if left else frozenset()
        done = tuple(
            w
            for w in shock_dims
            if w in dims and w not in named and not (waiting and left and shock_dims[w] - dims)
        )
        weighed = dims.union(*(shock_dims[w] for w in done))
        if weighed - dims:
            cost += prod(sizes[d] for d in weighed)
        dims = weighed - set(done)
        steps.append(Step(tuple(r.state for r in group), done, dims))
    return cost, tuple(steps)


MOST_STATES = 6  # beyond it, the ordered partitions are too many to compare (47,293 for seven)


def _ordered_partitions(items: tuple[Rule, ...]) -> Iterator[tuple[tuple[Rule, ...], ...]]:
    if not items:
        yield ()
        return
    if len(items) > MOST_STATES:
        yield _usual(items)
        return
    for mask in range(2 ** len(items) - 1, 0, -1):
        first = tuple(r for i, r in enumerate(items) if mask >> i & 1)
        rest = tuple(r for i, r in enumerate(items) if not mask >> i & 1)
        for tail in _ordered_partitions(rest):
            yield (first, *tail)


def _usual(items: tuple[Rule, ...]) -> tuple[tuple[Rule, ...], ...]:
    """Return what is usually best: choices are looked at last, post variables after their use."""
    axes = {r.axis for r in items if r.post}
    free = tuple((r,) for r in items if CHOICE not in r.dims and not r.post)
    bound = [r for r in items if CHOICE in r.dims and not r.post]
    middle = tuple(r for r in bound if r.dims & axes)
    last = (*(r for r in bound if not r.dims & axes), *(r for r in items if r.post))
    return (*free, *(group for group in (middle, last) if group))
