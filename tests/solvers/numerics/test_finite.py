"""NaN in every reduction that verdicts rest on, on both sides of the size at which XLA drops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpsolve.solvers.numerics.finite import all_finite, any_nan, largest, largest_computed, smallest
from dpsolve.solvers.numerics.partition import ALONE
from dpsolve.solvers.numerics.summation import over_product
from dpsolve.solvers.operators.maximum import max_and_argmax

SIZES = [100, 4_095, 4_096, 7_500, 10**6]
INF = np.inf
REDUCTIONS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "largest": (largest, INF),
    "largest of sizes": (lambda x: largest(jnp.abs(x)), INF),
    "largest, computed": (lambda x: largest_computed(jnp.sqrt(x)), INF),
    "largest, masked": (
        lambda x: largest_computed(jnp.where(jnp.isnan(x) | (x > 0.5), jnp.log(x), -INF)),
        INF,
    ),
    "smallest": (smallest, -INF),
    "any NaN": (any_nan, True),
    "all finite": (all_finite, False),
    "over devices, max": (ALONE.max, INF),
    "over devices, min": (ALONE.min, -INF),
    "over devices, all": (lambda x: ALONE.all(jnp.isfinite(x)), False),
    "over devices, any": (lambda x: ALONE.any(jnp.isnan(x)), True),
    "choices": (lambda x: max_and_argmax(x)[0], INF),
    "no comparison": (lambda x: (x < INF).all(), False),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_nan_counts_wherever_it_stands(name: str, n: int) -> None:
    f, expected = REDUCTIONS[name]
    rng = np.random.default_rng(n)
    x = rng.uniform(1.0, 2.0, n)
    many = np.tile(x, (2, 1))
    places = (0, n - 1, int(rng.integers(n)))
    for sign, at in zip((1.0, -1.0, 1.0), places, strict=True):
        one = x.copy()
        one[at] = np.copysign(np.nan, sign)
        many[1] = one
        eager = f(jnp.asarray(one))
        jitted = jax.jit(f)(one)
        mapped = jax.jit(jax.vmap(f))(many)
        assert [float(y) for y in (eager, jitted, mapped[1])] == [float(expected)] * 3
        assert float(mapped[0]) != float(expected)


@pytest.mark.parametrize("n", SIZES)
def test_extremes_of_numbers_are_what_they_are(n: int) -> None:
    x = np.random.default_rng(n).normal(size=n)
    assert float(largest(jnp.asarray(x))) == float(largest_computed(jnp.asarray(x))) == x.max()
    assert float(smallest(jnp.asarray(x))) == x.min()
    x[n // 2], x[n // 3] = INF, -INF
    assert float(largest_computed(jnp.asarray(x))) == INF
    assert float(smallest(jnp.asarray(x))) == -INF
    assert not bool(any_nan(jnp.asarray(x)))


def test_a_row_of_nothing_feasible_has_no_maximum() -> None:
    x = jnp.full((300, 20), -INF)
    assert (np.asarray(jax.jit(largest_computed)(x)) == -INF).all()


def test_a_summary_of_a_function_with_a_nan_is_none() -> None:
    x = jnp.linspace(0.0, 1.0, 5_000)
    found = over_product(lambda a: jnp.sqrt(a - 0.5), x)
    assert np.isnan([float(y) for y in found]).all()
