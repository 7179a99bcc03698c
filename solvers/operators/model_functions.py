"""The user's scalar functions, evaluated over named axes of states, choices and shocks.

All choices together are one axis, flattened in C order. Every method takes the choices it is asked
about as an index with named axes: one block of choices, all of them, or one for each state (a
policy) serve alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.named_arguments.order import ancestors
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.numerics.tracing import is_concrete, same_values
from dpsolve.solvers.probability.probabilities import normalised

from .interpolation import Location, corners, eliminated, greatest_reached, locate, looked_up
from .named_arrays import NamedArray, add, least, mapped, multiply, take, top, total, where

CHOICE = "*"  # the axis of all choices together, flattened in C order
BLOCK = "#"  # the axis of blocks of choices, when all are looked at together


class ModelFunctions:
    """A model's functions over named axes.

    Parameters
    ----------
    model : Model
        At one parameter point; its arrays may be traced.
    t : int, optional
        The period, with a horizon.
    partition : Partition, optional
        The state of which this device has a part.
    """

    def __init__(
        self, model: Model, t: ArrayLike | None = None, partition: Partition | None = None
    ) -> None:
        self.model = model
        self.partition = partition
        self.order = (*model.states, BLOCK, CHOICE, *model.post, *model.shocks)
        self.n_choices = prod(model.size_of(c) for c in model.choices)
        # The barrier keeps XLA from evaluating a model without parameters at compile time, which
        # takes it longer than running it.
        self.env: dict[str, NamedArray] = {
            name: NamedArray(lax.optimization_barrier(jnp.asarray(spec.values)), (name,))
            for name, spec in (*model.states.items(), *model.shocks.items())
        }
        if partition is not None:
            whole = self.env[partition.state]
            self.env[partition.state] = NamedArray(whole.array[partition.index()], whole.dims)
        # Only what comes after a decision may name these.
        self.post_env = {
            name: NamedArray(lax.optimization_barrier(jnp.asarray(post.spec.values)), (name,))
            for name, post in model.post.items()
        }
        self.t = t
        if t is not None:
            self.env["t"] = NamedArray(jnp.asarray(t))
        self.members: dict[str, Array] = {}  # of states of which not all are at hand
        self.vanishing = [w for w, s in model.shocks.items() if not _all_positive(s.probs)]

    def axes_of(self, f: Any) -> frozenset[str]:
        """Return the axes that a rule or function depends on, as its signature tells."""
        names = (f,) if isinstance(f, str) else arguments(f, self.model.later_arguments)
        choices = self.model.choices
        return frozenset(CHOICE if n in choices else n for n in names if n != "t")

    def _axes_of_law(self, f: Any) -> frozenset[str]:
        return self.axes_of(f) if callable(f) or isinstance(f, str) else frozenset()

    def spec_of(self, name: str) -> Grid | Integers:
        """Return what values a state that follows a rule, or a post variable, has."""
        return cast("Grid | Integers", self.model.grid_of(name))

    def shares_grid(self, name: str) -> bool:
        """Tell whether a state's (or post variable's) rule names what lies on its very grid."""
        rule = self.model.rule_of(name)
        if not isinstance(rule, str):
            return False
        if rule in self.model.shocks:
            return same_values(self.model.shocks[rule].values, self.spec_of(name).values)
        return self.model.grid_of(rule) is self.model.grid_of(name)

    def positions(self, state: str) -> Array:
        """Return the positions (n,) on its grid of a state's members that this device has."""
        if state in self.members:
            return self.members[state]
        if self.partition is not None and state == self.partition.state:
            return self.partition.index()
        return jnp.arange(self.model.size_of(state), dtype=jnp.int32)

    def restricted(self, members: Mapping[str, Array], axis: str) -> ModelFunctions:
        """Return the same functions at some members (n,) of states, along one `axis` then."""
        part = copy.copy(self)
        part.env = self.env | {
            name: NamedArray(self.env[name].array[at], (axis,)) for name, at in members.items()
        }
        part.members = self.members | dict(members)
        return part

    def is_exact(self, name: str) -> bool:
        """Tell whether a rule always leads to a member of the grid, and nothing is interpolated."""
        return isinstance(self.spec_of(name), Integers) or self.shares_grid(name)

    def choice_index(self, index: NamedArray) -> dict[str, NamedArray]:
        """Split a flattened choice into an index for each choice."""
        parts = {}
        stride = self.n_choices
        for name in self.model.choices:
            n = self.model.size_of(name)
            stride //= n
            parts[name] = NamedArray(index.array // stride % n, index.dims)
        return parts

    def choice_values(self, index: NamedArray) -> dict[str, NamedArray]:
        """Return each choice's grid value."""
        values = {}
        for name, part in self.choice_index(index).items():
            grid = jnp.asarray(self.model.grid_of(name).values)
            values[name] = NamedArray(grid[part.array], part.dims)
        return values

    def probability(self, shock: str, env: Mapping[str, NamedArray]) -> NamedArray:
        """Return a shock's probabilities: over its own axis and those of what they depend on."""
        probs = self.model.shocks[shock].probs
        if callable(probs):
            what = f"the function of probabilities of shock '{shock}'"
            own = {shock: self.model.size_of(shock)}
            return mapped(probs, env, self.order, what, own).map(normalised)
        return NamedArray(jnp.asarray(probs), (shock,))

    def average(
        self,
        fs: Any,
        env: Mapping[str, NamedArray],
        probabilities: Mapping[str, NamedArray],
        what: str,
        posts: Mapping[str, Location],
        of: Callable[[Array], Array] | None = None,
    ) -> NamedArray:
        """Sum functions, each averaged over just the shocks it names.

        Parameters
        ----------
        fs : iterable of functions
        env : mapping
            What states, choices and shocks stand for.
        probabilities : mapping
            Of the shocks.
        what : str
            What to call a function in an error.
        posts : mapping
            Where the post variables lie on their grids.
        of : function, optional
            Of each value, to average that in its place.
        """
        parts = []
        for f in fs:
            named = {p: posts[p] for p in posts if p in arguments(f, posts)}
            if self._is_chained(f):
                x = self._evaluated(f, {**env, **self.post_env}, what, of)
                x = eliminated(
                    x, self.model.needs, posts, probabilities, looked_up, self.over_shocks
                )
            elif not named:
                x = self._evaluated(f, env, what, of)
            elif self._is_tabulated(f):
                x = self._evaluated(f, {**env, **self.post_env}, what, of)
                soon = self._shocks_after(x, named, probabilities)
                x = looked_up(self.over_shocks(x, probabilities, soon), named)
            else:
                x = self._at_corners(f, env, named, what, of)
            parts.append(self.over_shocks(x, probabilities, self.model.shocks))
        return add(*parts)

    def _is_chained(self, f: Any) -> bool:
        """Tell whether what a function names is drawn by a law, or follows by a rule, of others."""
        return any(self.depends(n) for n in self.axes_of(f))

    def depends(self, name: str) -> bool:
        """Tell whether a shock's law names others, or a post variable's rule comes after others."""
        model, needs = self.model, self.model.needs
        if name not in needs:
            return False
        if name in model.post and not needs[name] & set(model.post):
            return any(self.depends(n) for n in needs[name])
        return bool(needs[name])

    def _evaluated(
        self,
        f: Any,
        env: Mapping[str, NamedArray],
        what: str,
        of: Callable[[Array], Array] | None = None,
    ) -> NamedArray:
        x = mapped(f, env, self.order, what).map(lambda a: jnp.asarray(a, jnp.float64))
        return x if of is None else x.map(of)

    @property
    def cancels(self) -> bool:
        """Whether a reward is added up from terms, so that it may be smaller than these."""
        rewards, random = self.model.reward, {*self.model.shocks, *self.model.post}
        return len(rewards) > 1 or bool(self.axes_of(rewards[0]) & random)

    def cancelled(self, index: NamedArray, pairs: PairTable) -> NamedArray:
        """Return what the terms that rewards are added up from exceed their sums by.

        That is twice the smaller of the positive and the negative part: nothing where all terms
        have one sign, however large they are.
        """
        env = self.env | self.choice_values(index)

        def part(of: Callable[[Array], Array]) -> NamedArray:
            rewards = self.model.reward
            return self.average(rewards, env, pairs.probabilities, "reward", pairs.posts, of)

        gains, losses = part(lambda r: jnp.maximum(r, 0.0)), part(lambda r: jnp.maximum(-r, 0.0))
        return least(gains, losses).map(lambda x: 2.0 * x)

    def _is_tabulated(self, f: Any) -> bool:
        """Tell whether a function is cheaper over the post variables' grids than over pairs."""
        return self._entries(self.axes_of(f)) <= self._entries(self._axes_of_pairs(f))

    def _axes_of_pairs(self, f: Any) -> frozenset[str]:
        """Return the axes of a function with its post variables' rules in place of them."""
        axes, post = self.axes_of(f), self.model.post
        named = axes & set(post)
        return (axes - named).union(*(self.axes_of(post[p].rule) for p in named))

    def _entries(self, axes: Iterable[str]) -> int:
        return prod(self.n_choices if d == CHOICE else self.model.size_of(d) for d in axes)

    def touched(self, f: Any) -> tuple[frozenset[str], int]:
        """Return the axes of the largest array that averaging `f` makes, and how many of them."""
        model = self.model
        named = self.axes_of(f) & set(model.post)
        if self._is_chained(f):
            axes = self.axes_of(f)
            rules = [model.post[n].rule if n in model.post else model.shocks[n].probs
                     for n in axes.union(*(ancestors(model.needs, d) for d in axes))
                     if n in model.needs]  # fmt: skip
            return axes.union({*model.states, CHOICE}, *(map(self._axes_of_law, rules))), 1
        if not named:
            return self.axes_of(f) | {*model.states, CHOICE}, 1
        if self._is_tabulated(f):
            return self.axes_of(f), 1
        corners = prod(2 for p in named if not self.is_exact(p))
        return self._axes_of_pairs(f) | {*model.states, CHOICE}, corners

    def _at_corners(
        self,
        f: Any,
        env: Mapping[str, NamedArray],
        named: Mapping[str, Location],
        what: str,
        of: Callable[[Array], Array] | None = None,
    ) -> NamedArray:
        """Evaluate a function at the grid points beside the values of post variables."""
        parts = []
        for indices, weights in corners(named):
            here = {
                p: NamedArray(self.post_env[p].array[i.array], i.dims) for p, i in indices.items()
            }
            part = self._evaluated(f, {**env, **here}, what, of)
            if weights:
                weight = multiply(*weights)
                reached = weight.map(lambda w: w != 0.0)
                part = where(reached, multiply(part, weight), NamedArray(jnp.zeros(())))
            parts.append(part)
        return add(*parts)

    def _shocks_after(
        self, x: NamedArray, named: Mapping[str, Location], probabilities: Mapping[str, NamedArray]
    ) -> list[str]:
        """Return the shocks that enter only after the post variables, and can be done with there.

        Those whose chances depend on what is no axis yet wait until it is.
        """
        before = {d for at in named.values() for d in at.index.dims}
        return [
            w
            for w in self.model.shocks
            if w in x.dims and w not in before and set(probabilities[w].dims) <= set(x.dims)
        ]

    def drawn_posts(
        self, posts: Mapping[str, Location], probabilities: Mapping[str, NamedArray]
    ) -> tuple[dict[str, NamedArray], dict[str, NamedArray]]:
        """Return post variables as shocks: values, and chances of those between grid points.

        Such a one has an axis of its own, of the two points beside it. The shocks' chances go
        along: those that depended on post variables' grids are taken at these points.
        """
        values: dict[str, NamedArray] = {}
        chances: dict[str, NamedArray] = {}
        corners_of: dict[str, NamedArray] = {}

        def here(x: NamedArray) -> NamedArray:
            for p in corners_of:
                if p in x.dims:
                    nodes = NamedArray(x.array, tuple(d if d != p else "nodes" for d in x.dims))
                    x = take(nodes, ["nodes"], corners_of[p])
            return x

        for name in self.model.drawn:
            if name not in posts:
                chances[name] = here(probabilities[name])
                continue
            at = posts[name].map(here)
            corners_of[name], grid = at.index, self.post_env[name].array
            if at.weight is not None:
                both = jnp.stack([at.index.array, at.index.array + 1], -1)
                corners_of[name] = NamedArray(both, (*at.index.dims, name))
                w = at.weight.array
                chances[name] = NamedArray(jnp.stack([1.0 - w, w], -1), (*at.weight.dims, name))
            values[name] = NamedArray(grid[corners_of[name].array], corners_of[name].dims)
        return values, chances

    def reached(self, x: NamedArray, pairs: PairTable) -> NamedArray:
        """Return the greatest value of a quantity after a decision, over what a pair leads to.

        A point of a post variable's grid that no feasible pair leads to is no matter.
        """
        named = {p: at for p, at in pairs.posts.items() if p in x.dims}
        chances = pairs.probabilities
        if any(self.depends(d) for d in x.dims):

            def over(x: NamedArray, chances: Mapping[str, NamedArray], own: Any) -> NamedArray:
                return top(self.possible(x, chances), own)

            needs = self.model.needs
            return eliminated(x, needs, pairs.posts, chances, greatest_reached, over)
        if named:
            soon = self._shocks_after(x, named, chances)
            x = top(self.possible(x, {w: chances[w] for w in soon}), soon)
            x = greatest_reached(x, named)
        return self.possible(x, chances)

    def over_shocks(
        self, x: NamedArray, probabilities: Mapping[str, NamedArray], shocks: Iterable[str]
    ) -> NamedArray:
        """Average over shocks, those among them that a quantity depends on."""
        for w in shocks:
            if w in x.dims:
                x = total(self.possible(multiply(x, probabilities[w]), probabilities), (w,))
        return x

    def possible(self, x: NamedArray, probabilities: Mapping[str, NamedArray]) -> NamedArray:
        """Zero a quantity where a shock it depends on has no chance: it may be anything there."""
        for w in self.vanishing:
            if w in x.dims and w in probabilities:
                chance = probabilities[w].map(lambda p: p > 0)
                x = where(chance, x, NamedArray(jnp.zeros(())))
        return x

    def feasibility(self, env: Mapping[str, NamedArray]) -> NamedArray | None:
        """Tell which pairs are feasible (for every shock), or None if all are."""
        if self.model.feasible is None:
            return None
        ok = mapped(self.model.feasible, env, self.order, "feasible").map(
            lambda a: jnp.asarray(a, bool)
        )
        shocks = [d for d in ok.dims if d in self.model.shocks]
        if not shocks:
            return ok
        axes = tuple(ok.dims.index(d) for d in shocks)
        return NamedArray(ok.array.all(axes), tuple(d for d in ok.dims if d not in shocks))

    def discount(self, env: Mapping[str, NamedArray]) -> NamedArray:
        """Return the discount factor, over the axes it depends on."""
        if callable(self.model.discount):
            x = mapped(self.model.discount, env, self.order, "discount")
            return x.map(lambda a: jnp.asarray(a, jnp.float64))
        return NamedArray(jnp.asarray(self.model.discount, jnp.float64))

    def location(
        self, name: str, env: Mapping[str, NamedArray], index: NamedArray | None
    ) -> Location:
        """Find a state's next value, or a post variable's value, on its grid."""
        rule = self.model.rule_of(name)
        is_post = name in self.model.post
        env = {**env, **self.post_env}
        if self.shares_grid(name):
            if rule not in self.model.choices:
                return Location(NamedArray(self.positions(str(rule)), env[str(rule)].dims))
            if index is not None:
                return Location(self.choice_index(index)[str(rule)])
        if isinstance(rule, str):
            value = env[rule]
        else:
            what = "the rule of post variable" if is_post else "the transition of"
            value = mapped(rule, env, self.order, f"{what} '{name}'")
        return locate(self.spec_of(name), value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairTable:
    """Everything the model says about some pairs of a state and a choice.

    Attributes
    ----------
    reward, raw_reward : NamedArray
        Expected reward; -inf where infeasible, or as the model's functions have it.
    feasible : NamedArray of bool, or None
        None where every choice is.
    discount : NamedArray
        Discount factor.
    locations : dict of str to Location
        Next states, of the states asked for, and values of the post variables asked for.
    probabilities : dict of str to NamedArray
        Of every shock.
    posts : dict of str to Location
        Values of every post variable.
    """

    reward: NamedArray
    raw_reward: NamedArray | None
    feasible: NamedArray | None
    discount: NamedArray
    locations: dict[str, Location]
    probabilities: dict[str, NamedArray]
    posts: dict[str, Location]

    @classmethod
    def of(
        cls,
        functions: ModelFunctions,
        choices: NamedArray | Mapping[str, NamedArray],
        states: Iterable[str],
        probabilities: Mapping[str, NamedArray],
        *,
        all_feasible: bool = False,
    ) -> PairTable:
        """Evaluate a model at all states and some choices.

        Parameters
        ----------
        functions : ModelFunctions
            The model's.
        choices : NamedArray of int32, or dict of str to NamedArray
            Joint choices, numbered; or each choice's values, which need not be on its grid.
        states : iterable of str
            States, and post variables, whose (next) values to find.
        probabilities : mapping
            Of the shocks for which they do not depend on the choice.
        all_feasible : bool
            It is known that all of these are.
        """
        index = choices if isinstance(choices, NamedArray) else None
        values = choices if isinstance(choices, Mapping) else functions.choice_values(choices)
        env = {**functions.env, **values}
        known = env | functions.post_env
        probabilities = {
            w: probabilities[w] if w in probabilities else functions.probability(w, known)
            for w in functions.model.shocks
        }
        feasible = None if all_feasible else functions.feasibility(env)
        posts = {name: functions.location(name, env, index) for name in functions.model.post}
        raw = functions.average(functions.model.reward, env, probabilities, "reward", posts)
        reward = raw
        if feasible is not None:
            reward = where(feasible, raw, NamedArray(jnp.asarray(-jnp.inf)))
        locations = {
            name: posts[name] if name in posts else functions.location(name, env, index)
            for name in states
        }
        discount = functions.discount(env)
        return cls(reward, raw, feasible, discount, locations, probabilities, posts)

    def lean(self) -> PairTable:
        """Return what a sweep needs: infeasible choices are masked in `reward` already."""
        locations = {name: at.lean() for name, at in self.locations.items()}
        return replace(self, raw_reward=None, feasible=None, posts={}, locations=locations)


def _all_positive(probs: Any) -> bool:
    """Tell whether every value of a shock surely has a chance."""
    if callable(probs) or not is_concrete(probs):
        return False
    return bool((np.asarray(probs) > 0).all())
