"""Tiles of states: what no state of a tile may choose is passed over, and nothing else changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers import tiles
from dpsolve.solvers.lattice import Lattice


def household(**more: Any) -> dp.Model:
    def consumption(a, z, a_next):
        return 1.03 * a + jnp.exp(z) - a_next

    return dp.Model(
        **{
            "states": {"a": dp.grid(0.0, 20.0, 150), "z": dp.rouwenhorst(3, 0.9, 0.1)},
            "choices": {"a_next": "a"},
            "transition": {"a": "a_next"},
            "feasible": lambda a, z, a_next: consumption(a, z, a_next) > 0,
            "reward": lambda a, z, a_next: dp.crra(consumption(a, z, a_next), 2.0),
            "discount": 0.96,
        }
        | more
    )


def farmer() -> dp.Model:
    """A rule before the choice depends on the state along which tiles are cut, and on a shock."""
    return household(
        states={
            "a": dp.grid(0.0, 20.0, 150),
            "h": dp.grid(0.5, 1.5, 4),
            "last": dp.grid(0.0, 20.0, 5),
        },
        shocks={"rain": dp.iid([0.9, 1.1], lambda a: jnp.stack([0.3 + 0.01 * a, 0.7 - 0.01 * a]))},
        transition={
            "a": "a_next",
            "h": lambda h, a, rain: jnp.clip(h * rain + 0.001 * a, 0.5, 1.5),
            "last": "a",
        },
        feasible=lambda a, h, a_next: 1.03 * a + h - a_next > 0,
        reward=lambda a, h, last, a_next: jnp.log(1.03 * a + h - a_next) - 0.01 * (a - last) ** 2,
        discount=lambda a: 0.9 + 0.002 * a,
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [household, farmer])
@pytest.mark.parametrize("pairs", [2**6, 2**9])
def test_a_sweep_by_tiles_is_the_sweep(make: Any, pairs: int, monkeypatch: Any) -> None:
    model = make()
    v = jnp.asarray(np.random.default_rng(0).normal(size=model.shape))

    def both(lattice: Lattice) -> Any:
        return jax.jit(lambda v: (lattice.greedy(v), lattice.growth(jnp.abs(v) + 1)))(v)

    lattice = Lattice(model, block=7)
    monkeypatch.setattr(tiles, "PAIRS", 2**40)
    assert tiles.tiled_along(lattice) is None
    whole = both(lattice)
    monkeypatch.setattr(tiles, "PAIRS", pairs)
    assert tiles.tiled_along(lattice) == "a"
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(both(lattice)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.slow
def test_rewards_of_blocks_that_are_passed_over_are_not_asked_for(monkeypatch: Any) -> None:
    asked: list[int] = []

    def reward(a, z, a_next):
        c = 1.03 * a + jnp.exp(z) - a_next
        jax.debug.callback(lambda _: asked.append(1), c)
        return dp.crra(c, 2.0)

    monkeypatch.setattr(tiles, "PAIRS", 2**6)
    states = {"a": dp.grid(0.0, 20.0, 40), "z": dp.rouwenhorst(2, 0.9, 0.1)}
    lattice = Lattice(household(reward=reward, states=states), block=4)
    jax.block_until_ready(jax.jit(lattice.greedy)(jnp.zeros((40, 2))))
    jax.effects_barrier()
    again = 40 * 2 * 4  # in each state's best block
    assert 40 * 2 * 20 < len(asked) - again < 0.75 * 40 * 2 * 40
