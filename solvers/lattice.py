"""The Bellman operator of a :class:`~dpsolve.Model`: scalar functions mapped over grids.

How a sweep goes, and what it costs for S states, C choices and W shock values:

1. ``expected``: the expectation over the Markov states, a matrix product each, once per sweep;
   then every step of the contraction plan that does not depend on the choice. What depends on a
   post-decision variable and shocks is averaged there, once for each of its values.
2. ``quality``: the remaining steps and the reward, at given choices. When the next state is a
   choice, this is a lookup of rows.
3. the maximum, in two stages: first over blocks of choices, by maxima alone (fast and streamable),
   then within each state's winning block, where the first maximiser is found. The second stage
   looks at S x block pairs only.

Rewards over all pairs are kept in memory when they fit; otherwise stage one streams over blocks of
choices and recomputes them, and memory stays at S x block entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import takewhile
from math import ceil, prod
from typing import Any, cast

import jax.numpy as jnp
from jax import lax

from .chains import Markov
from .contraction import CHOICE, Rule, Step, next_axis, plan
from .cut import Cut
from .functions import BLOCK, Functions, Pairs
from .lattice_policy import LatticePolicy
from .line import LEAST
from .locate import Location
from .lookup import corners, flattened
from .maximum import FEW, argmax, max_and_argmax
from .model import Model
from .named import Named, add, aligned, multiply, take, where
from .operator import BellmanOperator, Survey
from .survey import survey_lattice
from .tiles import best_of_tiles, tiled_along

__all__ = ["Lattice"]

Array = Any


class Lattice(BellmanOperator):
    """The Bellman operator of a model on its grids.

    Parameters
    ----------
    model : Model
        At one parameter point; its arrays may be traced.
    t : int array, optional
        The period, with a horizon.
    block : int, optional
        Number of choices looked at together when they do not all fit.
    memory : int
        Bytes the arrays over states and choices may take.
    kept : Pairs, optional
        The pairs that an operator of the same model kept, so that they need not be found again.
    cut : Cut, optional
        The state of which this device has a part: all arrays over the states are that part then.
    """

    def __init__(
        self,
        model: Model,
        t: Array | None = None,
        block: int | None = None,
        memory: int = 2**28,
        kept: Pairs | None = None,
        cut: Cut | None = None,
    ) -> None:
        self.model = model
        self.states = tuple(model.states)
        self.cut = cut
        self.shape = model.shape
        if cut is not None:
            at = self.states.index(cut.state)
            self.shape = (*model.shape[:at], cut.width, *model.shape[at + 1 :])
            self.everywhere = cut.everywhere
        self.functions = Functions(model, t, cut)
        self.n_choices = self.functions.n_choices
        self.constant_discount = not callable(model.discount)
        self._plan_contraction()
        self._choose_block(block, memory)
        # A device that has a part of the states gathers the others' parts when they fit beside the
        # rest, else it looks at them one part, or one block of choices, at a time. Parts of what
        # depends on the sender's own states already are of no use to others.
        self.parted = (
            cut is not None
            and 8 * prod(model.shape) > memory // 8
            and self._looked_up_first(cut.state)
        )
        self.by_rows = (
            cut is not None
            and self.parted
            and self.block_size is not None
            and cut.state in self.late_states
            and model.transition[cut.state] in model.choices
            and self.functions.shares_grid(cut.state)
        )
        self.kept: Pairs | None = None
        if self.block_size is None:
            self.kept = kept if kept is not None else self.pairs(self.kept_index())

    # -- what depends on what -------------------------------------------------------------------

    def _plan_contraction(self) -> None:
        model, f = self.model, self.functions
        sizes = {n: model.size_of(n) for n in (*model.states, *model.shocks, *model.post)}
        sizes |= {next_axis(n): model.size_of(n) for n in model.states}
        sizes |= dict(zip(model.states, self.shape, strict=True))
        sizes[CHOICE] = self.n_choices
        self.chains = tuple(n for n, s in model.states.items() if isinstance(s, Markov))
        shock_dims = {
            w: f.axes_of(s.probs) if callable(s.probs) else frozenset()
            for w, s in model.shocks.items()
        }
        rules = []
        for name, rule in model.transition.items():
            rules.append(Rule(name, f.axes_of(rule), 1 if f.is_exact(name) else 2))
        named = frozenset().union(*(rule.dims for rule in rules))
        for name in named & set(model.post):
            axes = f.axes_of(model.post[name].rule)
            rules.append(Rule(name, axes, 1 if f.is_exact(name) else 2, post=True))
        self.steps = plan(rules, self.chains, shock_dims, sizes)
        self.sizes = sizes
        early = [s for s in self.steps if not s.needs_choice]
        self.early, self.late = early, self.steps[len(early) :]
        self.late_states = [n for s in self.late for n in s.states]
        self.early_probabilities = {
            w: f.probability(w, f.env) for w, dims in shock_dims.items() if CHOICE not in dims
        }
        self.axes = {rule.state: rule.axis for rule in rules}
        self.early_locations = {n: f.location(n, f.env, None) for s in early for n in s.states}
        # Beyond the next states that are choices themselves, an infeasible choice may lead
        # anywhere, NaN included; then the sweep masks it after the expectation, too.
        self.mask_late = callable(model.discount) or any(
            not f.shares_grid(n) for n in self.late_states
        )
        # Paths are followed from state to state, and so need all of them on one device.
        self.deterministic = (
            self.cut is None
            and not self.chains
            and all(
                f.is_exact(n) and not f.axes_of(rule) & {*model.shocks, *model.post}
                for n, rule in model.transition.items()
            )
        )
        self.depth = (
            8 + sum(sizes[n] for n in self.chains) + sum(sizes[w] for w in model.shocks)
            + 4 * len(rules)
        )  # fmt: skip

    @property
    def walking(self) -> int | None:
        """The longest state whose rule moves it from where it is: it may walk step by step."""
        if self.cut is not None:
            return None
        rules = self.model.transition
        own = [n for n in self.states if n in rules and n in self.functions.axes_of(rules[n])
               and self.model.size_of(n) >= LEAST]  # fmt: skip
        longest = max(own, key=self.model.size_of, default=None)
        return None if longest is None else self.states.index(longest)

    def _looked_up_first(self, state: str) -> bool:
        """Tell whether no step before the lookup of a state depends on its current value."""
        before = takewhile(lambda step: state not in step.states, self.steps)
        return all(state not in step.dims for step in before)

    @property
    def width(self) -> int:
        """Choices to a block. The second stage costs a width, the first C / width more."""
        if self.block_size is not None:
            return self.block_size
        if self.n_choices <= FEW:
            return self.n_choices
        return 8 if self.n_choices < 256 else 16 if self.n_choices < 2048 else 32

    def _choose_block(self, block: int | None, memory: int) -> None:
        """Decide whether all pairs fit, else how many choices are looked at together."""
        functions = self.functions
        touched = [functions.touched(f) for f in self.model.reward]
        for step in self.late:
            n_corners = prod(2 for n in step.states if not functions.is_exact(n))
            touched.append((step.dims | set(step.shocks), n_corners))
        entries = [
            n * prod(self.sizes[d] for d in dims if d != CHOICE)
            for dims, n in touched
            if CHOICE in dims
        ]
        per_choice = max([prod(self.shape), *entries])
        self.bytes_per_choice = 8 * per_choice * (2 if self.mask_late else 1)
        if block is None and self.n_choices * self.bytes_per_choice <= memory:
            self.block_size: int | None = None
        else:
            fits = max(1, memory // 4 // self.bytes_per_choice)
            self.block_size = min(self.n_choices, block or min(fits, 32))

    def _block_index(self, number: Array, dims: tuple[str, ...]) -> Named:
        """Return the choices of blocks, flattened; the last block repeats the last choice."""
        index = jnp.minimum(number * self.width + jnp.arange(self.width), self.n_choices - 1)
        return Named(index.astype(jnp.int32), dims)

    def kept_index(self) -> Named:
        """Return all choices, by blocks."""
        numbers = jnp.arange(ceil(self.n_choices / self.width))
        return self._block_index(numbers[:, None], (BLOCK, CHOICE))

    def pairs_of_block(self, number: Array, *, all_feasible: bool = False) -> Pairs:
        """Evaluate the model at all states and one block of choices."""
        return self.pairs(self._block_index(number, (CHOICE,)), all_feasible=all_feasible)

    def pairs(self, index: Named, *, all_feasible: bool = False) -> Pairs:
        """Evaluate the model at all states and the choices in `index`."""
        return Pairs.of(
            self.functions,
            index,
            self.late_states,
            self.early_probabilities,
            all_feasible=all_feasible,
        )

    # -- the expectation ------------------------------------------------------------------------

    def expected(self, v: Array) -> Named:
        """Take the expectation as far as it does not depend on the choice."""
        dims = tuple(n if n in self.chains else next_axis(n) for n in self.states)
        for name in self.chains:
            p = jnp.asarray(cast("Markov", self.model.states[name]).transition_matrix, v.dtype)
            axis = self.states.index(name)
            if self.cut is not None and name == self.cut.state:
                v = self._across_parts(v, p[self.cut.index()], axis)
                continue
            v = jnp.moveaxis(jnp.tensordot(v, p, axes=(axis, 1)), -1, axis)
        if self.cut is not None and self.cut.state not in self.chains and not self.parted:
            v = self.cut.gather(v, self.states.index(self.cut.state))
        x = Named(v, dims)
        for step in self.early:
            x = self._contract(x, step, self.early_locations, self.early_probabilities)
        return x

    def _across_parts(self, v: Array, p: Array, axis: int) -> Array:
        """Contract the cut state's own chain with this device's rows of probabilities."""
        assert self.cut is not None
        width, parts = self.cut.width, self.cut.parts
        p = jnp.pad(p, ((0, 0), (0, width * parts - self.cut.size)))

        def visit(part: Array, first: Array) -> Array:
            columns = lax.dynamic_slice_in_dim(p, first, width, axis=1)
            return jnp.moveaxis(jnp.tensordot(part, columns, axes=(axis, 1)), -1, axis)

        return self.cut.ring(v, visit)

    def continuation(self, x: Named, pairs: Pairs) -> Named:
        """Finish the expectation at given choices."""
        for step in self.late:
            x = self._contract(x, step, pairs.locations, pairs.probabilities)
        return x

    def _contract(
        self,
        x: Named,
        step: Step,
        locations: Mapping[str, Location],
        probabilities: Mapping[str, Named],
    ) -> Named:
        cut = self.cut
        if self.parted and cut and cut.state in step.states and not locations[cut.state].here:
            dims = x.dims
            found: list[tuple[str, ...]] = []

            def visit(part: Array, first: Array) -> Array:
                y = self._look_up(Named(part, dims), step, locations, first)
                found.append(y.dims)
                return y.array

            total = cut.ring(x.array, visit)
            y = Named(total, found[0])
        else:
            y = self._look_up(x, step, locations)
        return self.functions.over_shocks(y, probabilities, step.shocks)

    def _look_up(
        self,
        x: Named,
        step: Step,
        locations: Mapping[str, Location],
        first: Array | None = None,
    ) -> Named:
        """Replace next states' axes by lookups; only of the part that begins at `first`."""
        at = {self.axes[n]: locations[n] for n in step.states}
        parts = []
        for indices, weights in corners(at):
            inside = None if first is None else self._within_part(indices, first)
            part = multiply(take(x, list(at), flattened(indices, x)), *weights)
            parts.append(part if inside is None else where(inside, part, Named(jnp.zeros(()))))
        return add(*parts)

    def _within_part(self, indices: dict[str, Named], first: Array) -> Named:
        """Count positions of the cut state from `first` on; tell which of them are in that part."""
        assert self.cut is not None
        axis, width = next_axis(self.cut.state), self.cut.width
        index = indices[axis].map(lambda i: i - first)
        indices[axis] = index.map(lambda i: jnp.clip(i, 0, width - 1))
        return index.map(lambda i: (i >= 0) & (i < width))

    # -- the operator ---------------------------------------------------------------------------

    def quality(self, x: Named, pairs: Pairs, *, reward: bool = True) -> Named:
        """Return reward plus discounted continuation, -inf where infeasible."""
        future = multiply(self.continuation(x, pairs), pairs.discount)
        if not reward:
            worst = Named(jnp.asarray(-jnp.inf))
            return future if pairs.feasible is None else where(pairs.feasible, future, worst)
        return self._sum(pairs.reward, future)

    def _sum(self, reward: Named, future: Named) -> Named:
        q = add(reward, future)
        if self.mask_late:
            q = where(reward.map(lambda r: r != -jnp.inf), q, Named(jnp.asarray(-jnp.inf)))
        return q

    def over_states(self, x: Named, *extra: str) -> Array:
        """Return an array over all states, and any axes of choices."""
        array = aligned(x, (*self.states, *extra))
        return jnp.broadcast_to(array, (*self.shape, *array.shape[len(self.shape) :]))

    def _best_blocks(self, x: Named, *, reward: bool = True) -> tuple[Array, Array]:
        """Return, over the states, the maximum and the number of the first block that has it."""
        if self.kept is not None:
            q = self.quality(x, self.kept, reward=reward)
            # Without the barrier XLA fuses this reduction into both of its uses, and pays for it
            # 10 times over.
            tops = lax.optimization_barrier(jnp.max(self.over_states(q, BLOCK, CHOICE), -1))
            block = argmax(tops)
            return jnp.max(tops, -1), block
        along = tiled_along(self)
        if along is not None:
            return best_of_tiles(self, along, x, reward=reward)
        return self.best_of_blocks(x, reward=reward)

    def best_of_blocks(self, x: Named, *, reward: bool = True) -> tuple[Array, Array]:
        """Return the same by block after block.

        Those without a feasible pair are passed over, and those that have no other need no mask:
        XLA evaluates their rewards by vectors, together with the maximum.
        """
        Best = tuple[Array, Array]

        def evaluate(number: Array, best: Best, *, all_feasible: bool = False) -> Best:
            q = self._block_quality(x, number, reward=reward, all_feasible=all_feasible)
            top = jnp.max(q, -1)
            # `not <=` takes NaN as better, so that it is not lost.
            better = ~(top <= best[0]) & ~jnp.isnan(best[0])
            return jnp.where(better, top, best[0]), jnp.where(better, number, best[1])

        def look(number: Array, best: Best) -> Best:
            env = self.functions.env | self.functions.choice_values(
                self._block_index(number, (CHOICE,))
            )
            feasible = self.functions.feasibility(env)
            if feasible is None or self.cut is not None:
                return evaluate(number, best)
            # Counted in two steps, which takes a fifth of the time of `any` and `all`.
            rows = jnp.atleast_1d(feasible.array).sum(-1, dtype=jnp.int32)
            count = rows.sum(dtype=jnp.int64)
            way = jnp.where(count == feasible.array.size, 2, jnp.where(count > 0, 1, 0))
            ways = (lambda _, best: best, evaluate, partial(evaluate, all_feasible=True))
            found: Best = lax.switch(way, ways, number, best)
            return found

        none = jnp.full(self.shape, -jnp.inf), jnp.zeros(self.shape, jnp.int32)
        n = ceil(self.n_choices / self.width)
        best: Best = lax.fori_loop(0, n, lambda i, b: look(jnp.int32(i), b), none)
        return best

    def _block_quality(
        self, x: Named, number: Array, *, reward: bool = True, all_feasible: bool = False
    ) -> Array:
        """Return reward plus discounted continuation at one block of choices."""
        pairs = self.pairs_of_block(number, all_feasible=all_feasible)
        if self.by_rows:
            x, pairs = self._rows_of_block(x, pairs)
        return self.over_states(self.quality(x, pairs, reward=reward), CHOICE)

    def _rows_of_block(self, x: Named, pairs: Pairs) -> tuple[Named, Pairs]:
        """Fetch just the rows that a block of choices of the cut state leads to."""
        assert self.cut is not None
        name = self.cut.state
        wanted = pairs.locations[name].index
        axis = x.dims.index(next_axis(name))
        rows = Named(self.cut.rows(x.array, axis, wanted.array), x.dims)
        own = Location(Named(jnp.arange(self.width, dtype=jnp.int32), wanted.dims), here=True)
        return rows, replace(pairs, locations=pairs.locations | {name: own})

    def _greedy_by_rows(self, x: Named) -> tuple[Array, Array]:
        """Maximise in one stage: the second would look up rows that are on other devices."""

        def look(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            q = self._block_quality(x, number)
            top = jnp.max(q, -1)
            choice = jnp.minimum(number * self.width + argmax(q), self.n_choices - 1)
            better = ~(top <= best[0]) & ~jnp.isnan(best[0])
            return jnp.where(better, top, best[0]), jnp.where(better, choice, best[1])

        none = jnp.full(self.shape, -jnp.inf), jnp.zeros(self.shape, jnp.int32)
        n = ceil(self.n_choices / self.width)
        best: tuple[Array, Array] = lax.fori_loop(0, n, lambda i, b: look(jnp.int32(i), b), none)
        return best

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return ``Tv`` and the first maximising policy: one full sweep."""
        x = self.expected(v)
        if self.by_rows:
            return self._greedy_by_rows(x)
        if self.kept is not None and self.n_choices <= FEW:
            q = self.over_states(self.quality(x, self.kept), BLOCK, CHOICE)[..., 0, :]
            # The value is a reduction, as with many choices: what XLA fuses with that is rounded
            # alike in every program, and what it fuses with comparisons is not.
            return jnp.max(q, -1), max_and_argmax(lax.optimization_barrier(q))[1]
        value, block = self._best_blocks(x)
        if self.kept is not None:
            future = multiply(self.continuation(x, self.kept), self.kept.discount)
            at = Named(block, self.states)
            q = self._sum(_rows(self.kept.reward, at), _rows(future, at))
        else:
            index = self._block_index(block[..., None], (*self.states, CHOICE))
            q = self.quality(x, self.pairs(index))
        best = argmax(self.over_states(q, CHOICE))
        policy = jnp.minimum(block * self.width + best, self.n_choices - 1)
        return value, policy.astype(jnp.int32)

    def growth(self, w: Array) -> Array:
        """Return the sweep without rewards."""
        return self._best_blocks(self.expected(w), reward=False)[0]

    def at(self, policy: Array) -> LatticePolicy:
        """Fix a policy."""
        return LatticePolicy(self, policy)

    def labels(self, policy: Array) -> dict[str, Array]:
        """Split a policy into an index for each choice."""
        return {
            k: v.array for k, v in self.functions.choice_index(Named(policy, self.states)).items()
        }

    def policy_of(self, labels: Mapping[str, Array]) -> Array:
        """Flatten an index for each choice to a policy."""
        policy = jnp.zeros(self.shape, jnp.int32)
        for choice in self.model.choices:
            policy = policy * self.model.size_of(choice) + labels[choice]
        return policy

    def survey(self) -> Survey:
        """Look over all pairs once; see :mod:`.survey`."""
        return survey_lattice(self)


def _rows(x: Named, block: Named) -> Named:
    """Keep, at each state, only the choices of one block."""
    return take(x, (BLOCK,), block) if BLOCK in x.dims else x
