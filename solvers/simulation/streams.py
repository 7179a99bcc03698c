r"""Random numbers of simulated agents: one stream to each, whatever their number.

Agent `i` of a panel has the key ``fold_in(key, i)``, and the number at place `n` of its stream is
made of the 64 bits of ``fold_in(fold_in(key, i), n)``. Nothing is carried from one draw to the
next. So the same key gives the same panel to the last bit, whatever the number of agents beside,
the blocks they are computed in and the devices, and a draw that nobody needs can be left out.

``fold_in`` is one call of Threefry-2x32-20 (Salmon, Moraes, Dror and Shaw, 2011, *Parallel random
numbers: as easy as 1, 2, 3*, SC11). It is written out here, because JAX compiles its own to rolled
loops on a CPU, which cost some three times as much; the tests compare the bits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics.tracing import is_concrete

Keys = tuple[Array | np.uint32, Array | np.uint32]
"""The two words of each key, uint32: numbers, or arrays (agents,)."""

PLACES = 2**32
"""How many places a stream has, and how many agents a panel can have."""

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def read_key(key: Any) -> Keys:
    """Return the two words of a key; an int is a seed, ``jax.random.key(seed)``.

    A key of another generator than Threefry is folded into two words, so that every key will do.

    Raises
    ------
    UsageError
        If it is neither one key nor an integer, or is traced.
    """
    if not is_concrete(key):
        raise UsageError("the key is traced; a panel is drawn outside of jit, with a plain key")
    given = key
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        try:
            key = jax.random.key(int(key))
        except OverflowError:
            raise UsageError(f"key={given}; a seed is an integer of at most 64 bits") from None
    words = key
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        words = jax.random.key_data(key)
    if getattr(words, "dtype", None) != np.uint32 or words.ndim != 1 or words.size < 2:
        what = f"{np.shape(key)[0]} keys" if np.ndim(key) else repr(given)
        raise UsageError(f"key is {what}; it is one key, jax.random.key(0), or an integer seed")
    if words.size > 2:
        folded = jax.random.key(0, impl="threefry2x32")
        for word in words:
            folded = jax.random.fold_in(folded, word)
        words = jax.random.key_data(folded)
    two = np.asarray(words)
    return two[0], two[1]


def agent_keys(key: Keys, agents: Array) -> Keys:
    """Return each agent's own key, two words (agents,), by the agents' numbers (agents,)."""
    return _threefry(key, agents)


def uniform(keys: Keys, place: Array) -> Array:
    """Return the number at a place of each stream (agents,), in [0, 1) with 53 random bits."""
    high, low = _threefry(keys, place)
    # By way of int32, because vector units convert those and not unsigned numbers.
    a = (high >> np.uint32(5)).astype(jnp.int32).astype(jnp.float64)
    b = (low >> np.uint32(6)).astype(jnp.int32).astype(jnp.float64)
    return (a * 2.0**26 + b) * 2.0**-53


def _threefry(key: Keys, count: Array) -> Keys:
    """Return Threefry-2x32 of the counter ``(0, count)``: the words of ``fold_in(key, count)``."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    x, y = schedule[0], count + schedule[1]
    for i in range(5):
        for turn in ROTATIONS[i % 2]:
            x = x + y
            y = (y << np.uint32(turn)) | (y >> np.uint32(32 - turn))
            y = x ^ y
        x = x + schedule[(i + 1) % 3]
        y = y + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x, y
