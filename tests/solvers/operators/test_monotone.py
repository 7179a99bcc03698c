"""Divide and conquer: exact where the best choice rises, and never trusted where it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.library import savings
from dpsolve.solvers.methods.choose_operator import shortcut_of
from dpsolve.solvers.model.factory_signature import build, split
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.monotone import MonotoneOperator, rising
from dpsolve.solvers.options import SolveOptions


def household(n_a: int) -> dp.Model:
    sizes = {"continuous": False, "n_a": n_a, "n_z": 3}
    return build(savings, split(savings, sizes)[0], sizes)


@pytest.mark.slow
@pytest.mark.parametrize("n", [257, 300, 512])
def test_a_rising_choice_is_found_as_by_a_full_sweep(n: int) -> None:
    model = household(n)
    assert rising(model) == ("a_next", "a")
    quick = jax.jit(MonotoneOperator(model, ("a_next", "a"), block=1).greedy)
    full = jax.jit(GridOperator(model).greedy)
    v = jnp.zeros(model.shape)
    for _ in range(4):
        value, policy = quick(v)
        expected, best = full(v)
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_array_equal(policy, best)
        v = expected


@pytest.mark.slow
@pytest.mark.parametrize("away", [0, 2, -2, 40])
def test_a_sweep_begins_beside_the_last_policy(away: int) -> None:
    """Near or far, what is found is what a full sweep finds."""
    model = household(257)
    v = jnp.log1p(jnp.asarray(model.states["a"].values))[:, None] * jnp.ones(3)
    expected, best = jax.jit(GridOperator(model).greedy)(v)
    operator = MonotoneOperator(model, ("a_next", "a"), block=1)
    value, policy = jax.jit(operator.improve)(v, jnp.clip(best + away, 0, 256))
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_array_equal(policy, best)


def test_a_hill_beside_a_mountain_is_left() -> None:
    """Nothing better is near the top of the hill: the certificate's sweep finds what is far."""

    def model(monotone: dict[str, str]) -> dp.Model:
        return dp.Model(
            states={"x": dp.grid(0.0, 1.0, 300)},
            choices={"y": "x"},
            transition={"x": "y"},
            reward=lambda x, y: 0.1 * x * y + jnp.cos(12.0 * y) * (0.2 + 2.0 * x * y),
            discount=0.9,
            monotone=monotone,
        )

    hinted = dp.solve(model({"y": "x"}), tol=1e-8, memory=2**16)
    plain = dp.solve(model({}), tol=1e-8, method="vi", max_iter=10_000)
    assert hinted.status == plain.status == "solved"
    np.testing.assert_allclose(hinted.value, plain.value, atol=2e-8)


@pytest.mark.slow
def test_several_choices_are_searched_along_the_one_that_rises() -> None:
    def two(a, z, a_next, work):
        return dp.crra(1.03 * a + jnp.exp(z) * work - a_next + 0.2, 2.0) - 0.3 * work

    model = dp.Model(
        states={"a": dp.grid(0.0, 5.0, 260), "z": dp.rouwenhorst(2, 0.8, 0.1)},
        choices={"work": dp.grid(0.0, 1.0, 3), "a_next": "a"},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next, work: 1.03 * a + jnp.exp(z) * work - a_next + 0.2 > 0,
        reward=two,
        discount=0.95,
    )
    v = jnp.log1p(model.states["a"].values)[:, None] * jnp.ones(2)
    value, _ = jax.jit(MonotoneOperator(model, ("a_next", "a"), block=1).greedy)(v)
    np.testing.assert_allclose(value, jax.jit(GridOperator(model).greedy)(v)[0], rtol=1e-13)


def falling(monotone: dict[str, str]) -> dp.Model:
    """The more there is, the less is left: the best choice falls with the state."""
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, 300)},
        choices={"y": "x"},
        transition={"x": "y"},
        reward=lambda x, y: -((x + y - 1.0) ** 2) + 0.3 * jnp.sin(9.0 * y),
        discount=0.9,
        monotone=monotone,
    )


@pytest.mark.slow
def test_a_wrong_hint_costs_time_and_no_accuracy() -> None:
    wrong, plain = dp.solve(falling({"y": "x"}), tol=1e-8), dp.solve(falling({}), tol=1e-8)
    assert wrong.status == plain.status == "solved"
    assert wrong.iterations > plain.iterations
    assert (wrong.lower <= plain.upper).all()
    assert (plain.lower <= wrong.upper).all()
    assert np.max(np.abs(wrong.value - plain.value)) <= 2e-8


def test_it_is_tried_by_hint_or_where_rewards_stream_and_not_for_few_choices() -> None:
    options = SolveOptions()
    assert shortcut_of(GridOperator(falling({})), options) is None
    assert shortcut_of(GridOperator(falling({"y": "x"})), options) is not None
    assert shortcut_of(GridOperator(falling({"y": "x"})), SolveOptions(method="vi")) is None
    assert shortcut_of(GridOperator(household(300), memory=2**16), options) is not None
    assert shortcut_of(GridOperator(household(50), memory=2**12), options) is None


@pytest.mark.slow
def test_a_grid_of_a_hundred_thousand_points() -> None:
    n = 100_000

    def saver(beta=0.9):
        return dp.Model(
            states={"a": dp.grid(0.0, 20.0, n)},
            choices={"a_next": "a"},
            transition={"a": "a_next"},
            feasible=lambda a, a_next: 1.03 * a + 1.0 - a_next > 0,
            reward=lambda a, a_next: jnp.log(1.03 * a + 1.0 - a_next),
            discount=beta,
        )

    found = dp.solve(saver, certificate="sampled", sample=300)
    assert (found.status, found.certificate) == ("inexact", "sampled")
    a, v = np.linspace(0.0, 20.0, n), np.asarray(found.value)
    for i in (0, 1, 16_384, 40_000, 65_535, 65_536, n - 1):
        c = 1.03 * a[i] + 1.0 - a
        best = np.max(np.log(c[c > 0]) + 0.9 * v[c > 0])
        assert abs(best - v[i]) <= 2e-6
