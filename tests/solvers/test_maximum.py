"""The maximum over choices: by comparisons or by two reductions, always the first best one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.lattice import Lattice
from dpsolve.solvers.maximum import FEW, argmax, max_and_argmax
from dpsolve.solvers.named import SHORT, Named, total

INF = np.inf


def qualities(n: int) -> Any:
    """Return rows with ties, with nothing feasible, and with everything else."""
    rng = np.random.default_rng(n)
    q = rng.integers(0, 4, (200, n)).astype(float)
    q[rng.random(q.shape) < 0.3] = -INF
    q[0], q[1] = -INF, 7.0
    return q


@pytest.mark.parametrize("n", [1, 2, FEW, 40])
def test_the_first_of_the_best_is_found(n: int) -> None:
    q = qualities(n)
    value, at = jax.jit(max_and_argmax)(q)
    np.testing.assert_array_equal(value, q.max(-1))
    np.testing.assert_array_equal(at, q.argmax(-1))
    np.testing.assert_array_equal(jax.jit(argmax)(q), q.argmax(-1))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_nan_is_never_lost(at: int) -> None:
    q = np.array([[1.0, INF, -INF]])
    q[0, at] = np.nan
    value, best = jax.jit(max_and_argmax)(q)
    assert np.isnan(value[0])
    assert 0 <= int(best[0]) < 3
    assert 0 <= int(jax.jit(argmax)(q)[0]) < 3


@pytest.mark.parametrize("n", [FEW - 1, FEW, FEW + 1])
def test_few_choices_and_many_are_compared_alike(n: int) -> None:
    """A model of any number of choices, against plain NumPy."""
    x = np.linspace(1.0, 3.0, 21)
    model = dp.Model(
        states={"x": dp.grid(1.0, 3.0, 21)},
        choices={"y": dp.grid(0.0, 2.0, n)},
        transition={"x": lambda x, y: x},
        feasible=lambda x, y: y <= x - 0.5,
        reward=lambda x, y: -((y - 0.4 * x) ** 2),
        discount=0.9,
    )
    v = np.sin(x)
    value, policy = jax.jit(Lattice(model).greedy)(jnp.asarray(v))
    y = np.linspace(0.0, 2.0, n)
    q = np.where(y <= x[:, None] - 0.5, -((y - 0.4 * x[:, None]) ** 2) + 0.9 * v[:, None], -np.inf)
    np.testing.assert_allclose(value, q.max(-1), rtol=1e-13)
    np.testing.assert_allclose(q[np.arange(21), policy], q.max(-1), rtol=1e-13)


@pytest.mark.parametrize("n", [1, SHORT, SHORT + 1])
def test_a_short_axis_is_summed_like_a_long_one(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(4, n, 3))
    found = total(Named(jnp.asarray(x), ("a", "w", "b")), ("w",))
    assert found.dims == ("a", "b")
    np.testing.assert_allclose(found.array, x.sum(1), rtol=1e-13, atol=1e-14)
