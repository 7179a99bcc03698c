r"""In which order to take the expectation over next states: the least work the signatures allow.

The expected continuation value :math:`E\,v(x_1', \ldots, x_k', z)` starts as an array over the
next values of the states that follow a rule (axes ``x'``) and the current values of the Markov
states. Each rule :math:`x_j' = f_j(\cdot)` replaces the axis ``x_j'`` by the axes of the arguments
that :math:`f_j` takes. A shock's axis is summed as soon as no rule that is left names it.

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
    """One state's rule: the axes its result depends on, and the entries each lookup reads."""

    state: str
    dims: frozenset[str]
    corners: int = 1  # 2 where the result is interpolated


@dataclass(frozen=True)
class Step:
    """Look up these states' axes together, then sum over these shocks."""

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
        One per state that follows a rule.
    chains : sequence of str
        Axes of the Markov states.
    shock_dims : mapping
        The axes that each shock's probabilities depend on.
    sizes : mapping
        Length of every axis, ``x'`` axes included.
    """
    best: tuple[float, tuple[Step, ...]] = (float("inf"), ())
    for groups in _ordered_partitions(tuple(rules)):
        cost, steps = _price(groups, rules, chains, shock_dims, sizes)
        if cost < best[0]:
            best = (cost, steps)
    return best[1]


def _price(
    groups: Sequence[tuple[Rule, ...]],
    rules: Sequence[Rule],
    chains: Sequence[str],
    shock_dims: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
) -> tuple[float, tuple[Step, ...]]:
    dims = frozenset(chains) | {next_axis(r.state) for r in rules}
    left = list(rules)
    cost = 0.0
    steps = []
    for group in groups:
        left = [r for r in left if r not in group]
        gone = {next_axis(r.state) for r in group}
        dims = (dims - gone).union(*(r.dims for r in group))
        cost += prod(sizes[d] for d in dims) * prod(r.corners for r in group)
        named = frozenset().union(*(r.dims for r in left)) if left else frozenset()
        done = tuple(w for w in shock_dims if w in dims and w not in named)
        dims = (dims - set(done)).union(*(shock_dims[w] for w in done))
        steps.append(Step(tuple(r.state for r in group), done, dims))
    return cost, tuple(steps)


MOST_STATES = 6  # beyond it, the ordered partitions are too many to compare (47,293 for seven)


def _ordered_partitions(items: tuple[Rule, ...]) -> Iterator[tuple[tuple[Rule, ...], ...]]:
    if not items:
        yield ()
        return
    if len(items) > MOST_STATES:
        free = tuple((r,) for r in items if CHOICE not in r.dims)
        bound = tuple(r for r in items if CHOICE in r.dims)
        yield (*free, bound) if bound else free
        return
    for mask in range(2 ** len(items) - 1, 0, -1):
        first = tuple(r for i, r in enumerate(items) if mask >> i & 1)
        rest = tuple(r for i, r in enumerate(items) if not mask >> i & 1)
        for tail in _ordered_partitions(rest):
            yield (first, *tail)
