"""Arrays read by closure that are too short: named with their length, and what is meant passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

SURVIVAL, TABLE = jnp.linspace(1.0, 0.5, 40), np.ones((5, 4))
ANY = Callable[..., Any]


def model(reward: ANY, feasible: ANY | None = None, horizon: int = 60) -> dp.Model:
    """Return a model of x in 0..9, b of 61 values, c in 0..3, in 60 periods."""
    return dp.Model(
        states={"x": dp.integers(0, 9), "b": dp.grid(-1.0, 0.0, 61)},
        choices={"c": dp.integers(0, 3)},
        transition={"x": "x", "b": "b"},
        reward=reward,
        feasible=feasible,
        discount=0.9,
        horizon=horizon,
    )


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda x, t: SURVIVAL[t] * x, ["'SURVIVAL'", "40 entries", "'t' goes from 0 to 59", "60"]),
        (lambda c, t: jnp.where(c == 1, SURVIVAL[t + 1], 0.0), ["from 1 to 60", "61 entries"]),
        (lambda x, c: jnp.asarray(TABLE)[x, c], ["'TABLE'", "5 entries along axis 0", "'x'"]),
        (lambda b_index: SURVIVAL[b_index] * 1.0, ["'b'", "from 0 to 60"]),
    ],
)
def test_a_table_that_is_too_short_is_named(reward: ANY, words: list[str]) -> None:
    with pytest.raises(dp.ModelError, match="reward looks up") as told:
        model(reward)
    for word in words:
        assert word in str(told.value)


@pytest.mark.parametrize(
    ("reward", "more"),
    [
        (lambda t: SURVIVAL[t], {"horizon": 40}),
        (lambda t: SURVIVAL[jnp.clip(t, 0, 39)], {}),
        (lambda t: jnp.where(t < 40, SURVIVAL[t], 0.0), {}),
        (lambda t: SURVIVAL[t] * (t < 40), {}),
        (lambda t: SURVIVAL[t % 40], {}),
        (lambda x: SURVIVAL[x - 1], {}),
        (lambda x, c: jnp.asarray(TABLE)[c - x, c], {"feasible": lambda x, c: c >= x}),
    ],
)
def test_what_is_meant_passes(reward: ANY, more: dict[str, Any]) -> None:
    model(reward, **more)
