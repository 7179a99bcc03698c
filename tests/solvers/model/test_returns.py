"""Functions of a model that mean something else than what was written are refused by name."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

ASK = [dp.solve, dp.check, dp.describe, lambda f: dp.solve_many(f, {"beta": [0.9]})]


def model(**changes):
    fields = {
        "states": {"a": dp.grid(0.0, 1.0, 4), "x": dp.integers(-3, 50)},
        "choices": {"b": "a", "c": dp.integers(0, 1)},
        "transition": {"a": "b", "x": "x"},
        "feasible": lambda a, b: b <= a,
        "reward": lambda a, x, c: a + x - c,
        "discount": 0.9,
    }
    return dp.Model(**fields | changes)


FAULTS = {
    "a number in place of a truth value": (
        {"feasible": lambda a, b: a - b}, r"feasible returns a number \(float64\).*a - b >= 0"),
    "a whole number in its place": (
        {"feasible": lambda c: c}, r"feasible returns a number \(int64\)"),
    "one everywhere": ({"feasible": lambda: 1}, r"feasible returns a number \(int64\)"),
    "a reward in float32": (
        {"reward": lambda a: jnp.sqrt(jnp.float32(a))}, "reward returns float32.*float64"),
    "the second reward in float16": (
        {"reward": [lambda a: a, lambda x: x.astype(jnp.float16)]}, "reward 2 returns float16"),
    "a discount in float32": (
        {"discount": lambda a: jnp.float32(0.9)}, "discount returns float32"),
    "a rule in float32": (
        {"transition": {"a": lambda b: jnp.float32(b), "x": "x"}},
        "the transition of 'a' returns float32"),
    "a complex reward": ({"reward": lambda a: a + 1j}, "reward returns complex numbers"),
    "a power that wraps around": (
        {"reward": lambda x: x**12}, r"reward: a power of whole numbers reaches 2.44e\+20"),
    "a power whose exponent is a choice": (
        {"reward": lambda x, c: x ** (20 + c)},
        "reward: a product of whole numbers reaches"),
    "a product within a clip": (
        {"reward": lambda x: jnp.clip(x**6 * x**6, 0, 10)}, "reward: a product of whole numbers"),
    "a sum": (
        {"reward": lambda x: x**11 + x**11}, "reward: a sum of whole numbers"),
    "whole numbers of 32 bits": (
        {"reward": lambda x: x.astype(jnp.int32) ** 6}, "beyond the 32 bits"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_as_soon_as_the_model_is_made(fault: str) -> None:
    changes, words = FAULTS[fault]
    with pytest.raises(dp.ModelError, match=words):
        model(**changes)


@pytest.mark.parametrize("ask", ASK)
def test_whoever_asks_is_told(ask) -> None:
    def subtracts(beta=0.9):
        return model(feasible=lambda a, b: a - b, discount=beta)

    with pytest.raises(dp.ModelError, match="feasible returns a number"):
        ask(subtracts)


@pytest.mark.parametrize(
    "changes",
    [
        {"feasible": lambda: True},
        {"feasible": lambda a, b: (b <= a) & jnp.bool_(True)},
        {"reward": lambda x: x**11},
        {"reward": lambda x: (1.0 * x) ** 12},
        {"reward": lambda x: jnp.float64(x) ** 12},
        {"reward": lambda x: jnp.minimum(jnp.abs(x), 5) ** 26},
        {"reward": lambda x, a: jnp.asarray(np.ones(60, np.float32))[x] * a},
        {"reward": lambda x: x == 2},
        {"reward": lambda x: x // 2 + x % 7 + jnp.where(x > 0, x, -x)},
    ],
)
def test_what_is_as_it_was_written_passes(changes) -> None:
    model(**changes)


def test_a_period_counts_in_32_bits() -> None:
    with pytest.raises(dp.ModelError, match="32 bits"):
        model(horizon=2000, reward=lambda t: t**3)
    model(horizon=1000, reward=lambda t: t**3)


@pytest.mark.parametrize("ask", ASK)
def test_a_parameter_that_a_state_hides_is_refused(ask) -> None:
    def hidden(beta=0.9, a=0.5):
        return model(discount=beta)

    with pytest.raises(dp.ModelError, match=r"hidden: 'a' is a parameter, and a state, choice"):
        ask(hidden)

    def sized(beta=0.9, *, c=3):
        return model(discount=beta)

    with pytest.raises(dp.ModelError, match=r"sized: 'c' is a size, and a state, choice"):
        ask(sized)


@pytest.mark.parametrize(("name", "size"), [("savings", "n_a"), ("growth", "n_k")])
def test_one_point_is_no_grid_of_a_range(name: str, size: str) -> None:
    with pytest.raises(dp.ModelError, match=r"n=1; a range.* takes at least 2 points"):
        dp.solve(name, {size: 1})
    assert dp.grid([0.5]).size == dp.grid(0.5, 0.5, 1).size == 1
