"""Sweeps of growth: models a second and core, each to 1e-8, at 100, 500 and 5,000 grid points.

The peers apply T until its contraction promises 1e-8, which for value iteration from log c is the
true error too. Both keep the rewards of a model over all pairs of capital, which is the quicker way
for as long as they fit. XLA's vmapped loop runs until the last model is done.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dpsolve as dp
from dpsolve.sharding.devices.threads import cores

from .machine import machine
from .timing import LIMIT, Contender, Row, clock, compare, seconds
from .work import work

__all__ = ["brute_force", "capital", "parallel_loop", "parameters", "rows"]

ERROR = 1e-8
POINTS = ((100, 512), (500, 64), (5_000, 4))  # grid points, models
DELTA = 0.1


def parameters(models: int) -> dict[str, Any]:
    """Return the parameters that differ between models."""
    alpha = np.random.default_rng(0).uniform(0.3, 0.4, models)
    return {"beta": np.linspace(0.90, 0.97, models), "alpha": alpha}


def capital(beta: Any, alpha: Any, n: int) -> Any:
    """Return the built-in model's grid of capital (n,)."""
    steady = (alpha / (1 / beta - 1 + DELTA)) ** (1 / (1 - alpha))
    return jnp.linspace(0.5 * steady, 2.0 * steady, n)


@partial(jax.jit, static_argnames="n")
@partial(jax.vmap, in_axes=(0, 0, None, None))
def brute_force(beta: Any, alpha: Any, n: int, most: Any) -> tuple[Any, Any]:
    """Apply T to vmapped models, at most `most` times; return the values (models, n), sweeps."""
    k = capital(beta, alpha, n)
    c = (k**alpha + (1 - DELTA) * k)[:, None] - k
    reward = jnp.where(c > 0, jnp.log(jnp.where(c > 0, c, 1.0)), -jnp.inf)
    enough = ERROR * (1 - beta) / beta

    def step(carry: Any) -> Any:
        v, _, i = carry
        tv = jnp.max(reward + beta * v, 1)
        return tv, jnp.max(jnp.abs(tv - v)), i + 1

    start = (jnp.log(k**alpha), jnp.inf, 0)
    v, _, i = jax.lax.while_loop(lambda s: (s[1] > enough) & (s[2] < most), step, start)
    return v, i


@lru_cache(maxsize=1)
def _compiled() -> Any:
    import numba

    @numba.njit(parallel=True)
    def loop(beta, alpha, grids, most, values, sweeps):  # type: ignore[no-untyped-def]
        models, n = grids.shape
        for m in numba.prange(models):
            k = grids[m]
            reward = np.full((n, n), -np.inf)
            v = np.empty(n)
            for i in range(n):
                v[i] = np.log(k[i] ** alpha[m])
                means = k[i] ** alpha[m] + (1 - DELTA) * k[i]
                for j in range(n):
                    if means - k[j] <= 0:
                        break
                    reward[i, j] = np.log(means - k[j])
            tv = np.empty(n)
            change = np.inf
            while change > ERROR * (1 - beta[m]) / beta[m] and sweeps[m] < most:
                change = 0.0
                for i in range(n):
                    best = -np.inf
                    for j in range(n):
                        q = reward[i, j] + beta[m] * v[j]
                        if q > best:
                            best = q
                    tv[i] = best
                    change = max(change, abs(best - v[i]))
                v, tv = tv, v
                sweeps[m] += 1
            values[m] = v

    return loop


def parallel_loop(beta: Any, alpha: Any, n: int, most: int) -> tuple[Any, Any]:
    """Do the same in Numba, models in parallel; return the values (models, n) and the sweeps."""
    grids = np.asarray(jax.vmap(lambda b, a: capital(b, a, n))(beta, alpha))
    values, sweeps = np.empty_like(grids), np.zeros(len(grids), np.int64)
    _compiled()(np.asarray(beta), np.asarray(alpha), grids, most, values, sweeps)
    return values, sweeps


def rows() -> list[Row]:
    """Return the rows of all sizes."""
    return [row for n, models in POINTS for row in _size(n, models)]


def _size(n: int, models: int) -> list[Row]:
    asked = parameters(models)
    beta, alpha = asked["beta"], asked["alpha"]

    def solve() -> Any:
        found = dp.solve_many("growth", {"continuous": False, **asked, "n_k": n}, tol=ERROR)
        assert (found.status == "solved").all()
        return found

    sweeps = int(np.sum(solve().iterations))
    taken = clock(lambda: solve().value)
    done = work(n * models, n, sweeps // models, others=models)
    told = done.told(taken, machine(), machine().logs)
    ours = Contender("ours", lambda: solve().value, note=_rate(models, taken) + f"; {told}")
    peers, skipped = [], []
    for name, run in (("vmapped JAX brute force", brute_force), ("Numba loop", parallel_loop)):
        try:
            peers.append(_peer(name, partial(run, beta, alpha, n), asked))
        except ModuleNotFoundError as missing:
            skipped.append(f"{name}: {missing.name} is not installed")
    what = f"growth, {models} models of {n:,} points to {ERROR:g}"
    table = compare(what, ours, peers, "")
    return [*table, *((what, text, "", "") for text in skipped)]


def _peer(name: str, run: Any, asked: dict[str, Any]) -> Contender:
    """Return a peer, with all sweeps, or with as few as there is time for."""
    few = 20
    clock(lambda: run(few))  # compile
    needed = _sweeps(tuple(asked["beta"]), tuple(asked["alpha"]))
    # What is done once (the rewards) is in both; the difference is of sweeps alone.
    short, long = clock(lambda: run(few)), clock(lambda: run(3 * few))
    a_sweep = max(long - short, 0.0) / (2 * few)
    expected = short + (needed - few) * a_sweep
    models = len(asked["beta"])
    if expected > LIMIT:
        part = Contender(name, lambda: run(3 * few), expected / long)
        note = f"by count: {needed:.0f} sweeps of {seconds(a_sweep)}"
    else:
        part = Contender(name, lambda: run(100_000))
        expected = clock(part.run)
        note = f"{needed:.0f} sweeps"
    return replace(part, note=f"{_rate(models, expected)}; {note}")


@lru_cache(maxsize=8)
def _sweeps(beta: tuple[float, ...], alpha: tuple[float, ...]) -> float:
    """Return the sweeps of the model that needs most, on a coarse grid, as vmapped loops wait."""
    return float(np.max(brute_force(jnp.asarray(beta), jnp.asarray(alpha), 50, 100_000)[1]))


def _rate(models: int, taken: float) -> str:
    return f"{models / taken / cores():.3g} models a second and core"
