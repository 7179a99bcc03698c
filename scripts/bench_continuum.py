"""Many households with a continuous choice: ``scripts/bench continuum``.

Against the endogenous grid method (Carroll 2006) in plain JAX, over batches, with bounds from the
same two linear systems: what one would write by hand for this one model. And a life cycle of 60
periods, by processor time, which says the same on a machine that others use.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.sparse.linalg import bicgstab

import dpsolve as dp

__all__ = ["rows"]

Row = tuple[str, str, str, str]

POINTS, SIDE_BY_SIDE = 256, 8
RETURN, NODES = 1.03, 200
PERIODS, LIVES = 60, 32


def household(
    beta: float = 0.96, gamma: float = 2.0, *, n_a: int = NODES, n_z: int = 7
) -> dp.Model:
    """Return the household of the README, with wealth to 20."""

    def consumption(a: Any, z: Any, a_next: Any) -> Any:
        return RETURN * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 20.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, 0.9, 0.1)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=beta,
        concave=True,
    )


def life(
    beta: float = 0.96,
    gamma: float = 2.0,
    *,
    n_a: int = NODES,
    n_z: int = 7,
    periods: int = PERIODS,
) -> dp.Model:
    """Return the same household over a life that ends."""

    def consumption(a: Any, z: Any, a_next: Any) -> Any:
        return RETURN * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 20.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, 0.9, 0.1)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=beta,
        horizon=periods,
        concave=True,
    )


def _power(c: Array, exponent: Array) -> Array:
    return jnp.exp(exponent * jnp.log(c))


class ByHand:
    """The endogenous grid method for this household, and its bounds."""

    def __init__(self) -> None:
        chain = household().states["z"]
        self.chances = jnp.asarray(chain.transition_matrix)
        self.income = jnp.exp(jnp.asarray(chain.values))[:, None]
        self.nodes = 20.0 * jnp.linspace(0.0, 1.0, NODES) ** 2
        self.cash = RETURN * self.nodes + self.income

    def find(self, grid: Array, x: Array) -> Array:
        return jnp.clip(jnp.searchsorted(grid, x, side="right") - 1, 0, grid.size - 2)

    def read(self, x: Array, grid: Array, f: Array) -> Array:
        i = self.find(grid, x)
        share = (x - grid[i]) / (grid[i + 1] - grid[i])
        return f[i] + share * (f[i + 1] - f[i])

    def consumption(self, beta: Array, gamma: Array) -> Array:
        """Iterate to a relative change of 1e-9; return (z, n)."""
        x, chances = self.nodes, self.chances

        def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            c, _, k = carry
            chosen = _power(beta * RETURN * (chances @ _power(c, -gamma)), -1 / gamma)
            before = (chosen + x - self.income) / RETURN
            new = jax.vmap(self.read, (None, 0, 0))(x, before, chosen)
            new = jnp.where(x < before[:, :1], self.cash - x[0], new)
            new = jnp.where(x > before[:, -1:], self.cash - x[-1], new)
            return new, jnp.max(jnp.abs(new / c - 1)), k + 1

        def proceed(carry: tuple[Array, Array, Array]) -> Array:
            return (carry[1] > 1e-9) & (carry[2] < 3_000)

        start = (0.3 * self.cash, jnp.asarray(1.0), jnp.int32(0))
        found: Array = lax.while_loop(proceed, step, start)[0]
        return found

    def bounds(self, c: Array, beta: Array, gamma: Array) -> tuple[Array, Array]:
        """Return bounds (z, n) on the true value at the nodes."""
        x, chances = self.nodes, self.chances
        y = jnp.clip(self.cash - c, x[0], x[-1])
        c = self.cash - y
        reward, cost = _power(c, 1 - gamma) / (1 - gamma), -_power(c, -gamma)
        slope = -RETURN * cost

        def at(values: Array, k: Array, share: Array) -> Array:
            low, high = (jnp.take_along_axis(values, i, 1) for i in (k, k + 1))
            return (1 - share) * low + share * high

        def value(constant: Array, k: Array, share: Array, start: Array) -> tuple[Array, Array]:
            def apply(v: Array) -> Array:
                return v - beta * at(chances @ v, k, share)

            v, _ = bicgstab(apply, constant, x0=start, tol=1e-11, maxiter=300)
            return v, constant - apply(v)

        k = jax.vmap(self.find, (None, 0))(x, y)
        level = jnp.mean(reward) / (1 - beta) * jnp.ones_like(reward)
        lower, left = value(reward, k, (y - x[k]) / (x[k + 1] - x[k]), level)
        lower = lower + jnp.minimum(jnp.min(left), 0.0) / (1 - beta)
        q, wanted = chances @ slope, -cost / beta
        k = jax.vmap(self.find)(-q, -wanted)
        here, there = (jnp.take_along_axis(q, i, 1) for i in (k, k + 1))
        drop = here - there
        share = jnp.clip(
            jnp.where(drop > 0, (here - wanted) / jnp.where(drop > 0, drop, 1), 0.5), 0, 1
        )
        mixed = at(q, k, share)
        excess = cost + beta * mixed
        gap = jnp.maximum(jnp.maximum(excess * (x[-1] - y), excess * (x[0] - y)), 0.0)
        constant = reward + gap + beta * (mixed * y - at(chances @ (slope * x), k, share))
        upper, left = value(constant, k, share, lower)
        return lower, upper + jnp.maximum(jnp.max(left), 0.0) / (1 - beta)

    @partial(jax.jit, static_argnums=0)
    def many(self, betas: Array, gammas: Array) -> tuple[Array, Array]:
        def one(at: tuple[Array, Array]) -> tuple[Array, Array]:
            return self.bounds(self.consumption(*at), *at)

        found: tuple[Array, Array] = lax.map(one, (betas, gammas), batch_size=SIDE_BY_SIDE)
        return found


def rows() -> list[Row]:
    """Solve and bound many calibrations both ways, in turn."""
    rng = np.random.default_rng(0)
    betas, gammas = rng.uniform(0.93, 0.965, POINTS), rng.uniform(1.5, 3.0, POINTS)
    hand = ByHand()
    ours: list[float] = []
    theirs: list[float] = []
    for i in range(4):  # the first compiles
        began = time.perf_counter()
        found = dp.solve_many(household, {"beta": betas, "gamma": gammas})
        between = time.perf_counter()
        lower, upper = jax.block_until_ready(hand.many(jnp.asarray(betas), jnp.asarray(gammas)))
        ended = time.perf_counter()
        if i:
            ours.append((between - began) / POINTS)
            theirs.append((ended - between) / POINTS)
    assert (found.status == "solved").all()
    mine = np.moveaxis(np.asarray(found.value), 2, 1)  # (points, z, a)
    far = np.abs(mine - np.asarray(lower + upper) / 2).max()
    assert far <= float(np.max(found.error_bound)) + float(jnp.max(upper - lower)), far
    measured = (
        f"{1e3 * median(ours):.1f} ms a model, certified to {float(np.max(found.error_bound)):.1e} "
        f"over the continuum, against {1e3 * median(theirs):.1f} ms"
    )
    what = (
        f"household 200 x 7, {POINTS} calibrations, certificate included: EGM by hand, over batches"
    )
    household_row = (what, measured, f"{median(theirs) / median(ours):.2f}", ">= 4")
    return [household_row, _life_cycle(betas[:LIVES], gammas[:LIVES])]


def _life_cycle(betas: Any, gammas: Any) -> Row:
    """Solve and bound many lives; count models by the second of a processor."""
    each: list[float] = []
    for i in range(3):  # the first compiles
        began = time.process_time()
        found = dp.solve_many(life, {"beta": betas, "gamma": gammas})
        if i:
            each.append((time.process_time() - began) / LIVES)
    assert (found.status == "solved").all()
    what = f"life cycle of {PERIODS} periods, {NODES} x 7, {LIVES} calibrations, bounds at each age"
    measured = f"{1e3 * min(each):.1f} ms of a processor a model"
    return what, measured, f"{1 / min(each):.0f} a second", ">= 100"
