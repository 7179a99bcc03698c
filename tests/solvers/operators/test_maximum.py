"""The maximum over choices: always the first best one, however it is looked for.

By comparisons or by two reductions; by tiles of states, where what no state of a tile may choose is
passed over, and nothing else changes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.numerics.summation import SHORT
from dpsolve.solvers.operators import maximum
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.interpolation import at_members
from dpsolve.solvers.operators.maximum import FEW, argmax, max_and_argmax
from dpsolve.solvers.operators.model_functions import BLOCK
from dpsolve.solvers.operators.named_arrays import NamedArray, total

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
    assert np.isposinf(value[0])  # NaN counts as infinite
    assert 0 <= int(best[0]) < 3
    assert 0 <= int(jax.jit(argmax)(q)[0]) < 3


@pytest.mark.slow
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
    value, policy = jax.jit(GridOperator(model).greedy)(jnp.asarray(v))
    y = np.linspace(0.0, 2.0, n)
    q = np.where(y <= x[:, None] - 0.5, -((y - 0.4 * x[:, None]) ** 2) + 0.9 * v[:, None], -np.inf)
    np.testing.assert_allclose(value, q.max(-1), rtol=1e-13)
    np.testing.assert_allclose(q[np.arange(21), policy], q.max(-1), rtol=1e-13)


@pytest.mark.parametrize("n", [1, SHORT, SHORT + 1])
def test_a_short_axis_is_summed_like_a_long_one(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(4, n, 3))
    found = total(NamedArray(jnp.asarray(x), ("a", "w", "b")), ("w",))
    assert found.dims == ("a", "b")
    np.testing.assert_allclose(found.array, x.sum(1), rtol=1e-13, atol=1e-14)


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

    def both(operator: GridOperator) -> Any:
        return jax.jit(lambda v: (operator.greedy(v), operator.growth(jnp.abs(v) + 1)))(v)

    operator = GridOperator(model, block=7)
    monkeypatch.setattr(maximum, "PAIRS", 2**40)
    assert operator.tiles is None
    whole = both(operator)
    monkeypatch.setattr(maximum, "PAIRS", pairs)
    assert operator.tiles is not None
    assert operator.tiles[0] == "a"
    for expected, found in zip(
        jax.tree.leaves(whole), jax.tree.leaves(both(operator)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.slow
def test_rewards_of_blocks_that_are_passed_over_are_not_asked_for(monkeypatch: Any) -> None:
    asked: list[int] = []

    def reward(a, z, a_next):
        c = 1.03 * a + jnp.exp(z) - a_next
        jax.debug.callback(lambda _: asked.append(1), c)
        return dp.crra(c, 2.0)

    monkeypatch.setattr(maximum, "PAIRS", 2**6)
    states = {"a": dp.grid(0.0, 20.0, 40), "z": dp.rouwenhorst(2, 0.9, 0.1)}
    operator = GridOperator(household(reward=reward, states=states), block=4)
    jax.block_until_ready(jax.jit(operator.greedy)(jnp.zeros((40, 2))))
    jax.effects_barrier()
    again = 40 * 2 * 4  # in each state's best block
    assert 40 * 2 * 20 < len(asked) - again < 0.75 * 40 * 2 * 40


@pytest.mark.slow
@pytest.mark.parametrize("names", [("a",), ("a", "h", "last"), ("h", "last")])
def test_an_operator_on_some_states_is_the_operator_there(names: tuple[str, ...]) -> None:
    operator = GridOperator(farmer(), block=50)
    rng = np.random.default_rng(0)
    v = jnp.asarray(rng.normal(size=operator.shape))
    members = {n: jnp.asarray(rng.integers(operator.sizes[n], size=6), jnp.int32) for n in names}
    axis = names[0] if len(names) == 1 else BLOCK

    @jax.jit
    def both(v: Any) -> Any:
        x = operator.expectation.before_choice(v)
        part = operator.restricted(members, axis, block=20)
        best, _ = part.best_of_blocks(at_members(x, members, axis))
        return operator.greedy(v)[0], best, part.survey().feasible

    whole, best, feasible = both(v)
    whole = np.asarray(whole)
    if names == ("a",):
        expected = whole[members["a"]]
    elif names == ("h", "last"):
        expected = whole[:, members["h"], members["last"]]
    else:
        expected = whole[members["a"], members["h"], members["last"]]
    assert feasible.shape == expected.shape
    np.testing.assert_allclose(best, expected, rtol=1e-13)
