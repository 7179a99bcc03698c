"""Dense systems in a batch: right, and never waiting for the threads that they occupy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.batches.program import program
from dpsolve.solvers.numerics import dense


def test_a_batch_is_solved_as_each_alone() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(5, 4, 4)), draw.normal(size=(5, 4))
    x = jax.jit(jax.vmap(dense.solve))(a, b)
    np.testing.assert_allclose(np.einsum("kij,kj->ki", a, x), b, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(dense.solve, (None, 0))(a[0], b)[1],
                               np.linalg.solve(a[0], b[1]), rtol=1e-10)  # fmt: skip
    _, s, _ = jax.vmap(dense.svd)(jnp.asarray(a))
    np.testing.assert_allclose(s, np.linalg.svd(a)[1], rtol=1e-12)


@pytest.mark.slow
def test_many_at_a_time_do_not_hang(fresh_python: Callable[[str], str]) -> None:
    """Batched LAPACK calls do, within seconds, where there are as many of them as threads."""
    code = """
import os, threading
import dpsolve, jax, jax.numpy as jnp, numpy as np
from dpsolve.sharding.devices.threads import cores
from dpsolve.solvers.numerics import dense
def one(a):
    parts = [jnp.exp(a * k) + jnp.sin(a) * jnp.cos(a) ** 2.1 + 500.0 * jnp.eye(100)
             for k in range(6)]
    return sum(dense.solve(p, jnp.ones(100)) for p in parts)
f = jax.jit(jax.vmap(one)).lower(jax.ShapeDtypeStruct((8, 100, 100), np.float64)).compile()
a = np.random.default_rng(0).random((8, 100, 100))
threads = [threading.Thread(target=lambda: [np.asarray(f(a)) for _ in range(10)], daemon=True)
           for _ in range(cores())]
[t.start() for t in threads]
[t.join(60) for t in threads]
print("hanging:", sum(t.is_alive() for t in threads), flush=True)
os._exit(0)
"""
    assert "hanging: 0" in fresh_python(code)


def test_a_users_factory_that_calls_lapack_is_solved_point_by_point() -> None:
    def system(a: float = 1.0, *, n: int = 100) -> dict[str, jax.Array]:
        m = jnp.eye(n) * n + jnp.outer(jnp.arange(n), a * jnp.ones(n)) / n
        return {"x": jnp.linalg.solve(m, jnp.ones(n)).sum(), "y": jnp.linalg.det(m.T / n)}

    made = program(system, {"n": 100}, dp.SolveOptions())
    if jax.default_backend() == "cpu":
        assert made.footprint.alone
        assert made.lanes == 1
    many = dp.solve_many(system, {"a": np.linspace(0, 1, 40)})
    m = np.eye(100) * 100 + np.outer(np.arange(100), np.ones(100)) / 100
    np.testing.assert_allclose(many["x"][-1], np.linalg.solve(m, np.ones(100)).sum(), rtol=1e-12)
    np.testing.assert_allclose(many["y"][-1], np.linalg.det(m / 100), rtol=1e-12)
