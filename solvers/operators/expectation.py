r"""Cheapest order in which to take the expectation over next states.

The expected continuation value :math:`E\,v(x_1', \ldots, x_k', z)` starts as an array over the
next values of the states that follow a rule (axes ``x'``) and the current values of the Markov
states. Each rule :math:`x_j' = f_j(\cdot)` replaces the axis ``x_j'`` by the axes of the arguments
that :math:`f_j` takes. A shock's axis is summed as soon as no rule that is left names it, or, where
its probabilities depend on what is no axis yet, once all rules are done: whichever costs less. Its
law may name other shocks and post variables, whose axes come in with it.

Post-decision variables are axes on the way. A rule :math:`x_j' = f_j(p, \cdot)` that names one has
:math:`p` among its axes, and the variable's own rule :math:`p = g(\cdot)` replaces that axis in its
turn, which can be done only after every rule that names :math:`p`, and every shock whose law does.
The rule of one post variable may name another. So what depends on :math:`p` and
a shock is averaged once for each :math:`p`, whatever the number of pairs that lead there (Powell,
2011, *Approximate Dynamic Programming*, ch. 4.6).

The order matters by orders of magnitude: a component that depends on state and shock but not on
the choice is contracted before the choice is looked at, so its shocks are never multiplied by the
choices. All ordered groupings of the rules are compared by the number of entries they touch (there
are few: 3 for two states, 13 for three), and the cheapest is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil, prod
from typing import Any, cast

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.named_arguments.order import ancestors
from dpsolve.solvers.probability.markov import Markov

from .interpolation import Location, at_members, corners, flattened
from .model_functions import CHOICE, ModelFunctions, PairTable
from .named_arrays import NamedArray, add, multiply, take, where


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
        if not _in_order(groups, shock_dims):
            continue
        for waiting in (False, True):
            cost, steps = _price(groups, rules, chains, shock_dims, sizes, waiting)
            if cost < best[0]:
                best = (cost, steps)
    return best[1]


def _in_order(groups: Sequence[tuple[Rule, ...]], shock_dims: Mapping[str, frozenset[str]]) -> bool:
    """Tell whether each post variable is looked up after every rule that names it."""
    gone: set[str] = set()
    for group in groups:
        gone |= {r.axis for r in group if r.post}
        if any(gone & _named(r.dims, shock_dims) for r in group):
            return False
    return True


def _named(dims: Iterable[str], shock_dims: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return axes, and those that come with the laws of the shocks among them."""
    found, new = frozenset[str](), frozenset(dims)
    while new:
        found |= new
        new = frozenset().union(*(shock_dims.get(d, frozenset()) for d in new)) - found
    return found


def _price(
    groups: Sequence[tuple[Rule, ...]],
    rules: Sequence[Rule],
    chains: Sequence[str],
    shock_dims: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    waiting: bool,
) -> tuple[float, tuple[Step, ...]]:
    dims = frozenset(chains) | {r.axis for r in rules if not r.post}
    posts = {r.axis for r in rules if r.post}
    left = list(rules)
    cost = 0.0
    steps = []
    for group in groups:
        left = [r for r in left if r not in group]
        gone = {r.axis for r in group}
        if any(gone & posts & _named([w], shock_dims) for w in shock_dims if w in dims):
            return float("inf"), ()
        dims = (dims - gone).union(*(r.dims for r in group))
        cost += prod(sizes[d] for d in dims) * prod(r.corners for r in group)
        named = _named(frozenset().union(*(r.dims for r in left)), shock_dims)
        weighed, done = dims, list[str]()
        while True:
            left_over = [w for w in shock_dims if w in weighed and w not in done]
            laws = {w: _named(shock_dims[w], shock_dims) for w in left_over}
            ready = [
                w
                for w in left_over
                if w not in named
                and not any(w in laws[other] for other in left_over)
                and not (waiting and left and shock_dims[w] - weighed - posts)
            ]
            if not ready:
                break
            weighed = weighed.union(*(shock_dims[w] for w in ready))
            done += ready
        if weighed - dims:
            cost += prod(sizes[d] for d in weighed)
        dims = weighed - set(done)
        steps.append(Step(tuple(r.state for r in group), tuple(done), dims))
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
    last = tuple(r for r in bound if not r.dims & axes)
    posts = [r for r in items if r.post]
    if any(r.dims & axes for r in posts):  # one after the other, each after those that name it
        singly = tuple((r,) for r in reversed(posts))
        return (*free, *(group for group in (middle, last) if group), *singly)
    groups = (middle, (*last, *posts))
    return (*free, *(group for group in groups if group))


class Expectation:
    """The expectation over next states and shocks of a model, taken in the cheapest order.

    Parameters
    ----------
    functions : ModelFunctions
        The model's.
    shape : tuple of int
        Of the states at hand.
    memory : int
        Bytes that arrays over states and choices may take.
    """

    def __init__(self, functions: ModelFunctions, shape: tuple[int, ...], memory: int) -> None:
        model, partition = functions.model, functions.partition
        self.functions, self.partition, self.states = functions, partition, tuple(model.states)
        self.sizes = {n: model.size_of(n) for n in (*model.states, *model.shocks, *model.post)}
        self.sizes |= {next_axis(n): model.size_of(n) for n in model.states}
        self.sizes |= dict(zip(model.states, shape, strict=True))
        self.sizes[CHOICE] = functions.n_choices
        self.chains = tuple(n for n, s in model.states.items() if isinstance(s, Markov))
        shock_dims = {
            w: functions.axes_of(s.probs) if callable(s.probs) else frozenset()
            for w, s in model.shocks.items()
        }
        rules = _rules(functions)
        self.steps = plan(rules, self.chains, shock_dims, self.sizes)
        self.early = [s for s in self.steps if not s.needs_choice]
        self.late = self.steps[len(self.early) :]
        self.late_states = [n for s in self.late for n in s.states]
        self.axes = {rule.state: rule.axis for rule in rules}
        env = functions.env | functions.post_env
        self.early_probabilities = {
            w: functions.probability(w, env) for w, dims in shock_dims.items() if CHOICE not in dims
        }
        self.early_locations = {
            n: functions.location(n, env, None) for s in self.early for n in s.states
        }
        # In units of eps, which are two roundings: a sum of n products has n of these, and its
        # probabilities two more; weights between two points, and what they weigh, at most eight.
        sums = sum(self.sizes[n] / 2 + 1 for n in (*self.chains, *model.shocks))
        between = sum(not functions.is_exact(n) for n in (*model.transition, *model.post))
        self.additions = ceil(sums) + 4 * between + len(model.reward) // 2
        # A device that has a part of the states gathers the others' parts when they fit beside the
        # rest, else it looks at them one part, or one block of choices, at a time. Parts of what
        # depends on the sender's own states already are of no use to others.
        self.parted = (
            partition is not None
            and 8 * prod(model.shape) > memory // 8
            and self._looked_up_first(partition.state)
        )

    def _looked_up_first(self, state: str) -> bool:
        """Tell whether no step before the lookup of a state depends on its current value."""
        before = takewhile(lambda step: state not in step.states, self.steps)
        return all(state not in step.dims for step in before)

    def given(
        self, locations: Mapping[str, Location], probabilities: Mapping[str, NamedArray]
    ) -> Expectation:
        """Return the same with other arrays for what does not depend on the choice."""
        other = copy.copy(self)
        other.early_locations, other.early_probabilities = dict(locations), dict(probabilities)
        return other

    def restricted(self, members: Mapping[str, Array], axis: str) -> Expectation:
        """Return the same at some states, positions (n,) on the grid of each, along one `axis`."""

        def some(x: NamedArray) -> NamedArray:
            return at_members(x, members, axis)

        return self.given(
            {name: at.map(some) for name, at in self.early_locations.items()},
            {w: some(p) for w, p in self.early_probabilities.items()},
        )

    def __call__(self, v: Array, pairs: PairTable) -> NamedArray:
        """Take the expectation of a function (states...) of the next state, at given choices."""
        return self.at_choices(self.before_choice(v), pairs)

    def before_choice(self, v: Array) -> NamedArray:
        """Take the expectation of `v` (states...) as far as it does not depend on the choice."""
        dims = tuple(n if n in self.chains else next_axis(n) for n in self.states)
        for name in self.chains:
            chain = cast("Markov", self.functions.model.states[name])
            p = jnp.asarray(chain.at(self.functions.t), v.dtype)
            axis = self.states.index(name)
            if self.partition is not None and name == self.partition.state:
                v = self._across_parts(v, p[self.partition.index()], axis)
                continue
            v = jnp.moveaxis(jnp.tensordot(v, p, axes=(axis, 1)), -1, axis)
        if (
            self.partition is not None
            and self.partition.state not in self.chains
            and not self.parted
        ):
            v = self.partition.gather(v, self.states.index(self.partition.state))
        x = NamedArray(v, dims)
        for step in self.early:
            x = self._contract(x, step, self.early_locations, self.early_probabilities)
        return x

    def _across_parts(self, v: Array, p: Array, axis: int) -> Array:
        """Contract the cut state's own chain with this device's rows of probabilities."""
        assert self.partition is not None
        width, parts = self.partition.width, self.partition.parts
        p = jnp.pad(p, ((0, 0), (0, width * parts - self.partition.size)))

        def visit(part: Array, first: Array) -> Array:
            columns = lax.dynamic_slice_in_dim(p, first, width, axis=1)
            return jnp.moveaxis(jnp.tensordot(part, columns, axes=(axis, 1)), -1, axis)

        return self.partition.ring(v, visit)

    def at_choices(self, x: NamedArray, pairs: PairTable) -> NamedArray:
        """Finish the expectation at given choices."""
        for step in self.late:
            x = self._contract(x, step, pairs.locations, pairs.probabilities)
        return x

    def _contract(
        self,
        x: NamedArray,
        step: Step,
        locations: Mapping[str, Location],
        probabilities: Mapping[str, NamedArray],
    ) -> NamedArray:
        partition = self.partition
        if (
            self.parted
            and partition
            and partition.state in step.states
            and not locations[partition.state].here
        ):
            dims = x.dims
            found: list[tuple[str, ...]] = []

            def visit(part: Array, first: Array) -> Array:
                y = self._look_up(NamedArray(part, dims), step, locations, first)
                found.append(y.dims)
                return y.array

            total = partition.ring(x.array, visit)
            y = NamedArray(total, found[0])
        else:
            y = self._look_up(x, step, locations)
        return self.functions.over_shocks(y, probabilities, step.shocks)

    def _look_up(
        self,
        x: NamedArray,
        step: Step,
        locations: Mapping[str, Location],
        first: Array | None = None,
    ) -> NamedArray:
        """Replace next states' axes by lookups; only of the part that begins at `first`."""
        at = {self.axes[n]: locations[n] for n in step.states}
        parts = []
        for indices, weights in corners(at):
            inside = None if first is None else self._within_part(indices, first)
            part = multiply(take(x, list(at), flattened(indices, x)), *weights)
            parts.append(part if inside is None else where(inside, part, NamedArray(jnp.zeros(()))))
        return add(*parts)

    def _within_part(self, indices: dict[str, NamedArray], first: Array) -> NamedArray:
        """Count positions of the cut state from `first` on; tell which of them are in that part."""
        assert self.partition is not None
        axis, width = next_axis(self.partition.state), self.partition.width
        index = indices[axis].map(lambda i: i - first)
        indices[axis] = index.map(lambda i: jnp.clip(i, 0, width - 1))
        return index.map(lambda i: (i >= 0) & (i < width))


def _rules(functions: ModelFunctions) -> list[Rule]:
    """Return the rules of a model's states, and of the post variables that these name."""
    model = functions.model

    def rule(name: str, given: Any, post: bool = False) -> Rule:
        return Rule(name, functions.axes_of(given), 1 if functions.is_exact(name) else 2, post)

    rules = [rule(name, given) for name, given in model.transition.items()]
    named = frozenset().union(*(r.dims for r in rules))
    later = named.union(*(ancestors(model.needs, n) for n in named))
    posts = [n for n in model.drawn if n in model.post and n in later]
    return [*rules, *(rule(n, model.post[n].rule, True) for n in posts)]
