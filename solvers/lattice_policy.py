"""One policy on a lattice: where it leads, what it pays, what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from .doubling import path_doubling
from .locate import SLACK
from .named import Named
from .operator import PolicyOperator

if TYPE_CHECKING:
    from .lattice import Lattice

__all__ = ["LatticePolicy"]

Array = Any


class LatticePolicy(PolicyOperator):
    """A policy on a lattice; its next states are found once, not once per application."""

    def __init__(self, lattice: Lattice, policy: Array) -> None:
        self.lattice = lattice
        self.everywhere, self.cut = lattice.everywhere, lattice.cut
        index = Named(policy, lattice.states)
        self.pairs = lattice.pairs(index)
        assert self.pairs.raw_reward is not None
        self.reward = lattice.over_states(self.pairs.raw_reward)
        self.discount = lattice.over_states(self.pairs.discount)
        functions = lattice.functions
        self.env = functions.env | functions.choice_values(index)
        self.line = lattice.walking

    def expect(self, f: Array) -> Array:
        """Return the expectation of a function of next period's state."""
        x = self.lattice.continuation(self.lattice.expected(f), self.pairs)
        return self.lattice.over_states(x)

    @property
    def proper(self) -> Array:
        """Whether every weight that a next state is interpolated with lies in [0, 1]."""
        found = jnp.asarray(True)
        lattice, pairs = self.lattice, self.pairs
        for at in (lattice.early_locations | pairs.locations).values():
            if at.weight is not None:
                beyond = at.weight.map(lambda w: 1.0 * ~((w >= -SLACK) & (w <= 1.0 + SLACK)))
                if set(beyond.dims) & set(pairs.posts):
                    beyond = lattice.functions.reached(beyond, pairs)
                found &= ~(beyond.array > 0.0).any()
        return found

    def evaluate(self, start: Array, tol: Array, max_iter: Array) -> tuple[Array, Array]:
        """Approach the policy's value: by path doubling if its transitions are deterministic."""
        lattice = self.lattice
        if not lattice.deterministic:
            return super().evaluate(start, tol, max_iter)
        successor = jnp.zeros(lattice.shape, jnp.int32)
        for name in lattice.states:
            where_to = (lattice.early_locations | self.pairs.locations)[name]
            index = lattice.over_states(where_to.index)
            successor = successor * lattice.model.size_of(name) + index
        flat = path_doubling(
            self.reward.ravel(),
            self.discount.ravel(),
            successor.ravel(),
            start.ravel(),
            tol,
            max_iter > 0,
        )
        return flat.reshape(lattice.shape), jnp.asarray(False)

    def outputs(self) -> dict[str, Array]:
        """Evaluate the model's outputs at the policy."""
        arrays = {}
        for name, f in self.lattice.model.outputs.items():
            what = f"output '{name}'"
            x = self.lattice.functions.average(
                (f,), self.env, self.pairs.probabilities, what, self.pairs.posts
            )
            arrays[name] = self.lattice.over_states(x)
        return arrays
