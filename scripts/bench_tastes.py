"""What taste shocks cost: Rust's likelihood against NumPy, and a log-sum against a maximum."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import Row, ratio, versus

import dpsolve as dp

ROOT = Path(__file__).resolve().parents[1]
VECTORS, N, BETA = 1_000, 90, 0.9999
STEPS = np.array([0.3919, 0.5953, 1 - 0.3919 - 0.5953])


def scores(RC: Any, theta_1: Any, x: Any, replaced: Any) -> np.ndarray:
    """Return likelihood and score of a nested fixed point: Newton from zero, dense LAPACK."""
    keep, new = np.zeros((2, N, N))
    for k, p in enumerate(STEPS):
        keep[np.arange(N), np.minimum(np.arange(N) + k, N - 1)] += p
        new[:, k] += p
    found = []
    for rc, theta in zip(RC, theta_1, strict=True):
        cost, v = 0.001 * theta * np.arange(N), np.zeros(N)
        step = np.full(N, np.inf)
        while np.abs(step).max() > 1e-8:
            q = np.stack([-cost + BETA * keep @ v, -rc + BETA * new @ v], 1)
            top = q.max(1)
            tv = top + np.log(np.exp(q - top[:, None]).sum(1))
            p = np.exp(q - tv[:, None])
            chain = np.eye(N) - BETA * (p[:, :1] * keep + p[:, 1:] * new)
            step = np.linalg.solve(chain, tv - v)
            v = v + step
        dr = np.zeros((N, 2, 2))
        dr[:, 1, 0], dr[:, 0, 1] = -1.0, -0.001 * np.arange(N)
        dv = np.linalg.solve(chain, (p[..., None] * dr).sum(1))
        dq = dr + BETA * np.stack([keep @ dv, new @ dv], 1)
        chance = p[x, 1]
        value = np.log(np.where(replaced == 1, chance, 1 - chance)).sum()
        slope = ((replaced - chance)[:, None] * (dq[:, 1] - dq[:, 0])[x]).sum(0)
        found.append([value, *slope])
    return np.asarray(found)


def rows() -> list[Row]:
    """Time both, in turn."""
    sys.path.insert(0, str(ROOT / "examples"))
    from bus_engine import bus_engine

    rng = np.random.default_rng(0)
    x = rng.integers(0, N, 4_292)
    replaced = (rng.random(4_292) < 0.02).astype(int)
    RC, theta_1 = rng.uniform(8.0, 12.0, VECTORS), rng.uniform(1.5, 3.5, VECTORS)
    likelihood = dp.log_likelihood(bus_engine, {"x": x, "replace": replaced})
    ours = jax.jit(jax.vmap(jax.value_and_grad(likelihood)))
    at = {"RC": jnp.asarray(RC), "theta_1": jnp.asarray(theta_1)}
    value, slope = ours(at)
    mine = np.stack([value, slope["RC"], slope["theta_1"]], 1)[:5]
    np.testing.assert_allclose(mine, scores(RC[:5], theta_1[:5], x, replaced), rtol=1e-6)
    likely = ratio(lambda: ours(at), lambda: scores(RC, theta_1, x, replaced), 3)
    return [
        versus(
            f"Rust's likelihood and score, {VECTORS:,} vectors", "NumPy, LAPACK", likely, ">= 10"
        ),
        _log_sum(),
    ]


def _log_sum() -> Row:
    """One sweep over 2,000 x 25 states and 4 alternatives."""
    from dpsolve.solvers.discrete_choice.operator import operator_on_grids

    def model(scale: float = 0.2) -> dp.Model:
        def consumption(a: Any, z: Any, hours: Any) -> Any:
            return 0.05 * a + jnp.exp(z) * (0.2 + hours)

        return dp.Model(
            states={"a": dp.grid(0.0, 100.0, 2_000), "z": dp.rouwenhorst(25, 0.9, 0.1)},
            choices={"hours": [0.0, 0.3, 0.6, 0.9]},
            transition={"a": lambda a, z, hours: jnp.minimum(0.98 * a + 0.3 * hours, 100.0)},
            reward=lambda a, z, hours: jnp.log(consumption(a, z, hours)) - hours**2,
            discount=0.95,
            taste_shocks={"hours": scale},
        )

    v = jnp.asarray(np.random.default_rng(0).normal(size=(2_000, 25)))
    made = model()
    soft, hard = (operator_on_grids(m) for m in (made, replace(made, taste_shocks={})))
    ours = jax.jit(lambda v: soft.greedy(v)[0])
    other = jax.jit(lambda v: hard.greedy(v)[0])
    result = ratio(lambda: ours(v), lambda: other(v), 15)
    count = v.size * 4
    each = (result[0] - result[1]) / count * 1e9
    what = f"a log-sum, {count:,} exponentials, {each:.1f} ns each in fact"
    return versus(what, "the maximum", result, "")
