"""dp.check names a model's first fault: the thing, the place, the value; dp.describe shows it."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.inspection.check import spectral_radius
from dpsolve.solvers.operators.bellman import GridOperator


def model(**changes):
    fields = {
        "states": {"x": dp.grid(0.0, 1.0, 5), "n": dp.integers(0, 3)},
        "choices": {"c": [0.0, 0.5]},
        "transition": {"x": "x", "n": "n"},
        "reward": lambda x, n, c: x + n - c,
        "discount": 0.9,
    }
    return dp.Model(**fields | changes)


def loose(x, w):
    return x + w


FAULTS = [
    ({"reward": lambda x, n, c: jnp.where((n == 2) & (c > 0), jnp.nan, x)},
     ["reward is NaN", "n=2", "c=0.5", "feasible"]),
    ({"feasible": lambda x, n: (x != 0.25) | (n != 3)},
     ["x=0.25, n=3", "no feasible choice", "1 of 20"]),
    ({"transition": {"x": lambda x, c: x + c, "n": "n"}},
     ["x=1", "c=0.5", "next state of 'x'", "0.5 off", "[0, 1]", "clip"]),
    ({"transition": {"x": "x", "n": lambda n, c: n + c}}, ["next state of 'n'", "0.5 off"]),
    ({"transition": {"x": "x", "n": lambda n: n + 1}}, ["n=3", "1 off", "[0, 3]"]),
    ({"shocks": {"w": dp.iid([0.0, 1.0], lambda x: jnp.stack([x, 0.99 - x + 0.01 * (x < 0.9)]))}},
     ["'w'", "x=1", "0.99"]),
    ({"discount": 1.0}, ["discount is 1", "x=0, n=1", "no choices lead to an end", "average"]),
    ({"discount": -0.1}, ["-0.1"]),
    ({"discount": lambda x: 0.9 + 0.2 * x}, ["reaches 1.1", "spectral radius", "1.1"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), FAULTS)
@pytest.mark.parametrize("how", [dp.check, dp.solve])
def test_the_first_fault_is_named(how, changes: dict, words: list[str]) -> None:
    if how is dp.solve and "reward" in changes:
        message = dp.solve(model(**changes)).message
    else:
        with pytest.raises(dp.ModelError) as caught:
            how(model(**changes))
        message = str(caught.value)
    for word in words:
        assert word in message


def test_a_function_that_returns_one_is_not_said_to_make_the_value_infinite() -> None:
    """The way home costs one a step: a plain 1 is a shortest path, and is solved as one."""

    def way(discount):
        return dp.Model(
            states={"n": dp.integers(0, 3)},
            choices={"step": dp.integers(0, 1)},
            transition={"n": lambda n, step: jnp.maximum(n - step, 0)},
            reward=lambda n: -1.0 * (n > 0),
            discount=discount,
        )

    np.testing.assert_allclose(dp.solve(way(1.0)).value, [0, -1, -2, -3], atol=1e-6)
    with pytest.raises(dp.ModelError) as caught:
        dp.solve(way(lambda n: jnp.where(n >= 0, 1.0, 0.5)))
    text = str(caught.value)
    assert "the discount reaches 1" in text
    assert "for the value to be finite" not in text
    assert "give the model a horizon" in text


@pytest.mark.slow
def test_a_sound_model_passes_and_infeasible_faults_do_not_count() -> None:
    dp.check(model())
    dp.check(
        model(
            transition={"x": lambda x, c: x + c, "n": "n"},
            feasible=lambda x, c: x + c <= 1,
            reward=lambda x, c: jnp.where(x + c > 1, jnp.nan, x),
        )
    )
    dp.check("growth", {"continuous": False, "beta": 0.99})


def test_parameters_and_factories_are_checked() -> None:
    with pytest.raises(dp.ModelError, match="'beta' is nan"):
        dp.check("growth", {"continuous": False, "beta": float("nan")})
    with pytest.raises(dp.ModelError, match="a factory returns"):
        dp.check(lambda a=1.0: 3)


@pytest.mark.slow
def test_single_discounts_above_one_can_be_fine() -> None:
    # Two states that alternate, with discounts 1.2 and 0.5: the cycle discounts by .6.
    m = dp.Model(
        states={"n": dp.integers(0, 1)},
        choices={"c": [0.0]},
        transition={"n": lambda n: 1 - n},
        reward=lambda n: 1.0 + n,
        discount=lambda n: jnp.where(n == 0, 1.2, 0.5),
    )
    dp.check(m)
    assert spectral_radius(GridOperator(m)) == pytest.approx(np.sqrt(0.6), rel=1e-6)
    s = dp.solve(m, tol=1e-8)
    assert s.status == "solved", s.message
    v0 = (1 + 1.2 * 2) / (1 - 0.6)
    np.testing.assert_allclose(s.value, [v0, 2 + 0.5 * v0], atol=1e-8)


def test_describe_shows_what_there_is() -> None:
    text = str(dp.describe("savings", {"continuous": False, "beta": 0.9, "n_a": 100}))
    for word in ("beta", "0.9", "n_a", "100", "Markov chain", "a_next", "700 states x 100 choices",
                 "consumption", "a' = a_next"):  # fmt: skip
        assert word in text
    described = dp.describe("growth", {"continuous": False})
    assert described.states == described.choices == 100
    tabular = dp.describe(dp.mdp(np.zeros((3, 2)), np.full((3, 2, 3), 1 / 3), 0.9))
    assert tabular.states == 3
    assert "product form" in str(tabular)
