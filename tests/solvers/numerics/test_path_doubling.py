"""Path doubling: the value of a deterministic policy, at the cost of a logarithm."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.numerics.path_doubling import path_doubling
from dpsolve.solvers.operators.bellman import GridOperator


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.9999])
def test_it_solves_the_linear_system_of_any_functional_graph(beta: float) -> None:
    rng = np.random.default_rng(0)
    n = 200
    successor = rng.integers(0, n, n)
    reward, discount = rng.normal(size=n), np.full(n, beta) * rng.uniform(0.9, 1.0, n)
    matrix = np.eye(n)
    np.subtract.at(matrix, (np.arange(n), successor), discount)
    truth = np.linalg.solve(matrix, reward)
    found = path_doubling(
        *map(jnp.asarray, (reward, discount, successor)), jnp.zeros(n), 1e-12, True
    )
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-9)


def test_inactive_it_returns_the_start() -> None:
    start = jnp.arange(3.0)
    same = path_doubling(jnp.ones(3), jnp.ones(3) / 2, jnp.array([1, 2, 0]), start, 1e-9, False)
    np.testing.assert_array_equal(same, start)


@pytest.mark.slow
def test_only_sure_transitions_to_grid_points_count_as_deterministic() -> None:
    common = {"choices": {"c": "x"}, "reward": lambda x, c: x - c, "discount": 0.9}
    x = {"x": dp.grid(0.0, 1.0, 5)}
    w = {"w": dp.iid([0.0, 0.1], [0.5, 0.5])}
    assert GridOperator(dp.Model(states=x, transition={"x": "c"}, **common)).deterministic
    assert GridOperator(
        dp.Model(
            states=x, transition={"x": "c"}, shocks=w, **common | {"reward": lambda x, w: x + w}
        )
    ).deterministic
    moved = dp.Model(states=x, transition={"x": lambda x, c: (x + c) / 2}, **common)
    assert not GridOperator(moved).deterministic
    chained = dp.Model(
        states=x | {"z": dp.markov([0.0, 1.0], np.full((2, 2), 0.5))},
        transition={"x": "c"},
        **common,
    )
    assert not GridOperator(chained).deterministic
    number = dp.Model(
        states={"x": dp.integers(0, 3)},
        shocks=w | {"w": dp.iid([0, 1], [0.5, 0.5])},
        transition={"x": lambda x, w: jnp.minimum(x + w, 3)},
        **common,
    )
    assert not GridOperator(number).deterministic
