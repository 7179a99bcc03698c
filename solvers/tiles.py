"""A sweep by tiles of states: blocks of choices that no state of a tile may take are passed over.

A household without credit cannot choose a wealth far above its own: half of all pairs of savings
are infeasible, and their rewards are as dear as the others' (a power costs some 6 ns). Whether a
pair is feasible costs far less to find out. So the states are cut into tiles along the longest of
them, and of each tile only those blocks of choices are evaluated that are feasible somewhere in it.
"""

from __future__ import annotations

import copy
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from .named import Named

if TYPE_CHECKING:
    from .lattice import Lattice

__all__ = ["best_of_tiles", "tiled_along"]

Array = Any
PAIRS = 2**16  # of a tile and a block of choices: enough to keep several cores busy
LEAST = 4  # tiles below which nothing worth mentioning is passed over


def tiled_along(lattice: Lattice) -> str | None:
    """Return the state along which to cut, or None where tiles would gain nothing."""
    if lattice.model.feasible is None or lattice.block_size is None or lattice.cut is not None:
        return None
    state = max(lattice.states, key=lattice.model.size_of)
    return state if ceil(lattice.model.size_of(state) / _width(lattice, state)) >= LEAST else None


def _width(lattice: Lattice, state: str) -> int:
    others = prod(lattice.shape) // lattice.model.size_of(state)
    return max(1, PAIRS // (others * lattice.width))


def best_of_tiles(
    lattice: Lattice, state: str, x: Named, *, reward: bool = True
) -> tuple[Array, Array]:
    """Return, over the states, the maximum and the number of the first block that has it.

    Parameters
    ----------
    lattice : Lattice
    state : str
        Cut along this one.
    x : Named
        What :meth:`.Lattice.expected` returns.
    reward : bool
        Whether to add it.
    """
    n = lattice.model.size_of(state)
    width = _width(lattice, state)
    axis = lattice.states.index(state)

    def tile(number: Array) -> tuple[Array, Array]:
        members = jnp.minimum(number * width + jnp.arange(width, dtype=jnp.int32), n - 1)
        part = _part(lattice, state, members)
        return part.best_of_blocks(_members_of(x, state, members), reward=reward)

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return lax.slice_in_dim(x, 0, n, axis=axis)

    value, block = lax.map(tile, jnp.arange(ceil(n / width), dtype=jnp.int32))
    return joined(value), joined(block)


def _part(lattice: Lattice, state: str, members: Array) -> Lattice:
    """Return the same operator at some members of a state; its sweeps end with their blocks."""
    part = copy.copy(lattice)
    axis = part.states.index(state)
    part.shape = (*part.shape[:axis], members.size, *part.shape[axis + 1 :])
    part.functions = lattice.functions.at_members(state, members)
    part.early_locations = {
        name: at.map(lambda y: _members_of(y, state, members))
        for name, at in part.early_locations.items()
    }
    part.early_probabilities = {
        w: _members_of(p, state, members) for w, p in part.early_probabilities.items()
    }
    return part


def _members_of(x: Named, state: str, members: Array) -> Named:
    if state not in x.dims:
        return x
    return Named(jnp.take(x.array, members, axis=x.dims.index(state)), x.dims)
