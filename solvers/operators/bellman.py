"""Bellman operator of a ``dp.Model`` on its grids, and of one policy.

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

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import ceil, prod
from types import MappingProxyType

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.given import MOST
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.numerics.path_doubling import path_doubling
from dpsolve.solvers.numerics.tridiagonal import LEAST

from .base import OWN_DEPTH, BellmanOperator, PolicyOperator, Survey
from .expectation import Expectation, next_axis
from .interpolation import SLACK, Location, at_members
from .maximum import (
    FEW,
    argmax,
    best_of_blocks,
    best_of_tiles,
    improved,
    max_and_argmax,
    over_blocks,
    tile_width,
)
from .model_functions import BLOCK, CHOICE, ModelFunctions, PairTable
from .named_arrays import NamedArray, add, aligned, multiply, take, where
from .validation import survey_grids, survey_pairs


class GridOperator(BellmanOperator):
    """The Bellman operator of a model on its grids.

    Parameters
    ----------
    model : Model
        At one parameter point; its arrays may be traced.
    t : int, optional
        The period, with a horizon.
    block : int, optional
        Number of choices looked at together when they do not all fit.
    memory : int
        Bytes the arrays over states and choices may take.
    kept : PairTable, optional
        The pairs that an operator of the same model kept, so that they need not be found again.
    partition : Partition, optional
        The state of which this device has a part: all arrays over the states are that part then.
    """

    def __init__(
        self,
        model: Model,
        t: ArrayLike | None = None,
        block: int | None = None,
        memory: int = 2**28,
        kept: PairTable | None = None,
        partition: Partition | None = None,
    ) -> None:
        self.model = model
        self.states = tuple(model.states)
        self.partition = partition
        self.shape = model.shape
        if partition is not None:
            at = self.states.index(partition.state)
            self.shape = (*model.shape[:at], partition.width, *model.shape[at + 1 :])
            self.reductions = partition.reductions
        self.functions = ModelFunctions(model, t, partition)
        self.n_choices = self.functions.n_choices
        self.constant_discount = not callable(model.discount)
        self.expectation = Expectation(self.functions, self.shape, memory)
        self.depth = OWN_DEPTH + self.expectation.additions
        self._look_at_rules()
        self._choose_block(block, memory)
        self.by_rows = (
            partition is not None
            and self.expectation.parted
            and self.block_size is not None
            and partition.state in self.expectation.late_states
            and model.transition[partition.state] in model.choices
            and self.functions.shares_grid(partition.state)
        )
        self.kept: PairTable | None = None
        if self.block_size is None:
            self.kept = kept if kept is not None else self.pairs(self.kept_index())

    # -- what depends on what -------------------------------------------------------------------

    def _look_at_rules(self) -> None:
        model, f = self.model, self.functions
        # Beyond the next states that are choices themselves, an infeasible choice may lead
        # anywhere, NaN included; then the sweep masks it after the expectation, too.
        self.mask_late = callable(model.discount) or any(
            not f.shares_grid(n) for n in self.expectation.late_states
        )
        # Paths are followed from state to state, and so need all of them on one device.
        self.deterministic = (
            self.partition is None
            and prod(self.shape) <= MOST
            and not self.expectation.chains
            and all(
                f.is_exact(n) and not f.axes_of(rule) & {*model.shocks, *model.post}
                for n, rule in model.transition.items()
            )
        )

    @property
    def shift(self) -> Array | None:
        """The discount, where that is one number: probabilities and weights sum to one."""
        discount = self.model.discount
        return jnp.asarray(discount, jnp.float64) if self.constant_discount else None

    @property
    def sizes(self) -> dict[str, int]:
        """The states at hand, and how many members of each."""
        return dict(zip(self.states, self.shape, strict=True))

    @property
    def walking(self) -> int | None:
        """The longest state whose rule moves it from where it is: it may walk step by step."""
        if self.partition is not None:
            return None
        rules = self.model.transition
        own = [n for n in self.states if n in rules and n in self.functions.axes_of(rules[n])
               and self.model.size_of(n) >= LEAST]  # fmt: skip
        longest = max(own, key=self.model.size_of, default=None)
        return None if longest is None else self.states.index(longest)

    @property
    def blocks(self) -> int:
        """Blocks of choices."""
        return ceil(self.n_choices / self.width)

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
        functions, sizes = self.functions, self.expectation.sizes
        touched = [functions.touched(f) for f in self.model.reward]
        for step in self.expectation.late:
            n_corners = prod(2 for n in step.states if not functions.is_exact(n))
            touched.append((step.dims | set(step.shocks), n_corners))
        entries = [
            n * prod(sizes[d] for d in dims if d != CHOICE) for dims, n in touched if CHOICE in dims
        ]
        per_choice = max([prod(self.shape), *entries])
        self.bytes_per_choice = 8 * per_choice * (2 if self.mask_late else 1)
        if block is None and self.n_choices * self.bytes_per_choice <= memory:
            self.block_size: int | None = None
        else:
            fits = max(1, memory // 4 // self.bytes_per_choice)
            self.block_size = min(self.n_choices, block or min(fits, 32))

    def _block_index(self, number: Array, dims: tuple[str, ...]) -> NamedArray:
        """Return the choices of blocks, flattened; the last block repeats the last choice."""
        return NamedArray(self._choice(number, jnp.arange(self.width)), dims)

    def _choice(self, block: Array, position: Array) -> Array:
        """Return the choice at a position of a block; a last block may reach beyond 32 bits."""
        choice = block.astype(jnp.int64) * self.width + position
        return jnp.minimum(choice, self.n_choices - 1).astype(jnp.int32)

    def kept_index(self) -> NamedArray:
        """Return all choices, by blocks."""
        numbers = jnp.arange(self.blocks)
        return self._block_index(numbers[:, None], (BLOCK, CHOICE))

    def pairs_of_block(self, number: Array, *, all_feasible: bool = False) -> PairTable:
        """Evaluate the model at all states and one numbered block of choices."""
        return self.pairs(self._block_index(number, (CHOICE,)), all_feasible=all_feasible)

    def pairs(
        self, choices: NamedArray | Mapping[str, NamedArray], *, all_feasible: bool = False
    ) -> PairTable:
        """Evaluate the model at all states and some choices, numbered or by their values."""
        return PairTable.of(
            self.functions,
            choices,
            self.expectation.late_states,
            self.expectation.early_probabilities,
            all_feasible=all_feasible,
        )

    # -- the operator ---------------------------------------------------------------------------

    def quality(self, x: NamedArray, pairs: PairTable, *, reward: bool = True) -> NamedArray:
        """Return reward plus discounted continuation, -inf where infeasible."""
        future = multiply(self.expectation.at_choices(x, pairs), pairs.discount)
        if not reward:
            worst = NamedArray(jnp.asarray(-jnp.inf))
            return future if pairs.feasible is None else where(pairs.feasible, future, worst)
        return self._sum(pairs.reward, future)

    def _sum(self, reward: NamedArray, future: NamedArray) -> NamedArray:
        q = add(reward, future)
        if self.mask_late:
            q = where(reward.map(lambda r: r != -jnp.inf), q, NamedArray(jnp.asarray(-jnp.inf)))
        return q

    def over_states(self, x: NamedArray, *extra: str) -> Array:
        """Return an array (states..., extra...) over all states, and any axes of choices."""
        array = aligned(x, (*self.states, *extra))
        return jnp.broadcast_to(array, (*self.shape, *array.shape[len(self.shape) :]))

    def _best_blocks(self, x: NamedArray, *, reward: bool = True) -> tuple[Array, Array]:
        """Return, over the states, the maximum and the number of the first block that has it."""
        if self.kept is not None:
            q = self.quality(x, self.kept, reward=reward)
            # Pairs that are kept have been looked over, and those of finite numbers have no NaN.
            # Without the barrier XLA fuses this reduction into both of its uses, and pays for it
            # 10 times over.
            tops = lax.optimization_barrier(jnp.max(self.over_states(q, BLOCK, CHOICE), -1))
            block = argmax(tops)
            return jnp.max(tops, -1), block
        tiles = self.tiles
        if tiles is None:
            return self.best_of_blocks(x, reward=reward)
        state, width = tiles

        def best(members: Array) -> tuple[Array, Array]:
            some = {state: members}
            part = self.restricted(some, state)
            return part.best_of_blocks(at_members(x, some, state), reward=reward)

        return best_of_tiles(best, self.model.size_of(state), width, self.states.index(state))

    @property
    def tiles(self) -> tuple[str, int] | None:
        """The state to cut a sweep along, and members to a tile; None where that gains nothing."""
        if self.model.feasible is None or self.block_size is None or self.partition is not None:
            return None
        state = max(self.states, key=self.model.size_of)
        size = self.model.size_of(state)
        width = tile_width(size, prod(self.shape) // size * self.width)
        return None if width is None else (state, width)

    def best_of_blocks(self, x: NamedArray, *, reward: bool = True) -> tuple[Array, Array]:
        """Return the same (states...) by block after block, at some states or all."""

        def feasible(number: Array) -> NamedArray | None:
            choices = self.functions.choice_values(self._block_index(number, (CHOICE,)))
            return self.functions.feasibility(self.functions.env | choices)

        quality = partial(self._block_quality, x, reward=reward)
        told_apart = feasible if self.partition is None else lambda _: None
        return best_of_blocks(quality, told_apart, self.blocks, self.shape)

    def _block_quality(
        self, x: NamedArray, number: Array, *, reward: bool = True, all_feasible: bool = False
    ) -> Array:
        """Return reward plus discounted continuation at one block of choices."""
        pairs = self.pairs_of_block(number, all_feasible=all_feasible)
        if self.by_rows:
            x, pairs = self._rows_of_block(x, pairs)
        return self.over_states(self.quality(x, pairs, reward=reward), CHOICE)

    def _rows_of_block(self, x: NamedArray, pairs: PairTable) -> tuple[NamedArray, PairTable]:
        """Fetch just the rows that a block of choices of the cut state leads to."""
        assert self.partition is not None
        name = self.partition.state
        wanted = pairs.locations[name].index
        axis = x.dims.index(next_axis(name))
        rows = NamedArray(self.partition.rows(x.array, axis, wanted.array), x.dims)
        own = Location(NamedArray(jnp.arange(self.width, dtype=jnp.int32), wanted.dims), here=True)
        return rows, replace(pairs, locations=pairs.locations | {name: own})

    def _greedy_by_rows(self, x: NamedArray) -> tuple[Array, Array]:
        """Maximise in one stage: the second would look up rows that are on other devices."""

        def look(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            q = self._block_quality(x, number)
            return improved(best, largest(q, -1), self._choice(number, argmax(q)))

        return over_blocks(look, self.blocks, self.shape)

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return ``Tv`` (states...) and the first maximising policy (states...): one full sweep."""
        x = self.expectation.before_choice(v)
        if self.by_rows:
            return self._greedy_by_rows(x)
        if self.kept is not None and self.n_choices <= FEW:
            few = self.over_states(self.quality(x, self.kept), BLOCK, CHOICE)[..., 0, :]
            # The value is a reduction, as with many choices: what XLA fuses with that is rounded
            # alike in every program, and what it fuses with comparisons is not.
            return jnp.max(few, -1), max_and_argmax(lax.optimization_barrier(few))[1]
        value, block = self._best_blocks(x)
        if self.kept is not None:
            future = multiply(self.expectation.at_choices(x, self.kept), self.kept.discount)
            at = NamedArray(block, self.states)
            q = self._sum(_rows(self.kept.reward, at), _rows(future, at))
        else:
            index = self._block_index(block[..., None], (*self.states, CHOICE))
            q = self.quality(x, self.pairs(index))
        best = argmax(self.over_states(q, CHOICE))
        return value, self._choice(block, best)

    def growth(self, w: Array) -> Array:
        """Return the sweep without rewards (states...)."""
        return self._best_blocks(self.expectation.before_choice(w), reward=False)[0]

    def at(self, policy: Array) -> GridPolicy:
        """Fix a policy (states...): flattened choices."""
        return GridPolicy(self, NamedArray(policy, self.states))

    def between(self, values: Mapping[str, Array]) -> GridPolicy:
        """Fix a policy whose choices, by name (states...), may lie between grid points.

        A next state between two points is a lottery over these that keeps its mean.
        """
        return GridPolicy(self, {n: NamedArray(x, self.states) for n, x in values.items()})

    def labels(self, policy: Array) -> dict[str, Array]:
        """Split a policy into an index (states...) for each choice."""
        return {
            k: v.array
            for k, v in self.functions.choice_index(NamedArray(policy, self.states)).items()
        }

    def policy_of(self, labels: Mapping[str, Array]) -> Array:
        """Flatten an index (states...) for each choice to a policy."""
        policy = jnp.zeros(self.shape, jnp.int32)
        for choice in self.model.choices:
            policy = policy * self.model.size_of(choice) + labels[choice]
        return policy

    def restricted(
        self, members: Mapping[str, Array], axis: str, block: int | None = None
    ) -> GridOperator:
        """Return the same operator at some states only.

        Its maxima are over what :meth:`.Expectation.before_choice` of the whole returns, restricted
        in the same way by :func:`.at_members`.

        Parameters
        ----------
        members : dict of str to int32 array (n,)
            Positions of the members of some states, side by side.
        axis : str
            The one axis that arrays have in place of these states'; a single state's own name keeps
            it where it is.
        block : int, optional
            Choices looked at together, where that is to be another number.
        """
        part = copy.copy(self)
        first, *_ = members
        left = [
            (axis, members[n].size) if n == first else (n, size)
            for n, size in self.sizes.items()
            if n == first or n not in members
        ]
        part.states, part.shape = tuple(n for n, _ in left), tuple(size for _, size in left)
        part.functions = self.functions.restricted(members, axis)
        part.expectation = self.expectation.restricted(members, axis)
        part.block_size = self.block_size if block is None else min(self.n_choices, block)
        return part

    def survey(self) -> Survey:
        """Look over all pairs once, in blocks when they do not fit in memory."""
        if self.kept is not None:
            found = self._survey_of(self.kept, self.kept_index())
        else:

            def look(i: Array) -> Survey:
                return self._survey_of(self.pairs_of_block(i), self._block_index(i, (CHOICE,)))

            first = look(jnp.int32(0))
            found = lax.fori_loop(1, self.blocks, lambda i, s: s.join(look(i)), first)
        found = survey_grids(self.model, found)
        return found if self.partition is None else found.over(self.reductions)

    def _survey_of(self, pairs: PairTable, index: NamedArray) -> Survey:
        locations, functions = self.expectation.early_locations, self.functions
        rewards = self.kept is not None
        cancelled = functions.cancelled(index, pairs) if functions.cancels else None
        return survey_pairs(
            functions, locations, pairs, self.sizes, rewards=rewards, cancelled=cancelled
        )


def _rows(x: NamedArray, block: NamedArray) -> NamedArray:
    """Keep, at each state, only the choices of one block."""
    return take(x, (BLOCK,), block) if BLOCK in x.dims else x


class GridPolicy(PolicyOperator):
    """A policy on grids; its next states are found once, not once per application."""

    lottery: Mapping[str, NamedArray] = MappingProxyType({})  # chances along an axis of choices

    def __init__(
        self, operator: GridOperator, policy: NamedArray | Mapping[str, NamedArray]
    ) -> None:
        self.operator = operator
        self.reductions, self.partition = operator.reductions, operator.partition
        self.on_grid = isinstance(policy, NamedArray)
        self.pairs = operator.pairs(policy)
        assert self.pairs.raw_reward is not None
        self.reward = operator.over_states(self.pairs.raw_reward)
        self.discount = operator.over_states(self.pairs.discount)
        functions = operator.functions
        values = policy if isinstance(policy, Mapping) else functions.choice_values(policy)
        self.env = {**functions.env, **values}
        self.line = operator.walking

    def expect(self, f: Array) -> Array:
        """Return the expectation (states...) of a function (states...) of next period's state."""
        x = self.operator.expectation(f, self.pairs)
        return self.operator.over_states(x)

    @property
    def proper(self) -> Array:
        """Whether every weight that a next state is interpolated with lies in [0, 1]."""
        found = jnp.asarray(True)
        operator, pairs = self.operator, self.pairs
        for at in (operator.expectation.early_locations | pairs.locations).values():
            if at.weight is not None:
                beyond = at.weight.map(lambda w: 1.0 * ~((w >= -SLACK) & (w <= 1.0 + SLACK)))
                if set(beyond.dims) & set(pairs.posts):
                    beyond = operator.functions.reached(beyond, pairs)
                found &= ~(beyond.array > 0.0).any()
        return found

    def evaluate(self, start: Array, tol: Array, max_iter: Array) -> tuple[Array, Array]:
        """Approach the value (states...): by path doubling if transitions are deterministic."""
        operator = self.operator
        if not (operator.deterministic and self.on_grid):
            return super().evaluate(start, tol, max_iter)
        successor = jnp.zeros(operator.shape, jnp.int32)
        for name in operator.states:
            where_to = (operator.expectation.early_locations | self.pairs.locations)[name]
            index = operator.over_states(where_to.index)
            successor = successor * operator.model.size_of(name) + index
        flat = path_doubling(
            self.reward.ravel(),
            self.discount.ravel(),
            successor.ravel(),
            start.ravel(),
            tol,
            max_iter > 0,
        )
        return flat.reshape(operator.shape), jnp.asarray(False)

    def outputs(self) -> dict[str, Array]:
        """Evaluate the model's outputs (states...) at the policy, by name."""
        arrays = {}
        for name, f in self.operator.model.outputs.items():
            what = f"output '{name}'"
            x = self.operator.functions.average(
                (f,), self.env, self.pairs.probabilities, what, self.pairs.posts
            )
            arrays[name] = self.operator.over_states(x)
        return arrays
