"""Which models are proved to be concave, and of which it is said why they are not."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from continuous_models import MODELS
from dpsolve.solvers.curvature.proof import prove
from dpsolve.solvers.curvature.proved import cross_sign, proved, reason
from dpsolve.solvers.library.savings import savings

from . import economies

LITERATURE = [
    *MODELS.values(), economies.brock_mirman, economies.two_capitals, economies.leisure, savings,
]  # fmt: skip


def defaults(factory: Any) -> dict[str, float]:
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is not p.KEYWORD_ONLY}


@pytest.mark.parametrize("factory", LITERATURE, ids=lambda f: f.__name__)
def test_models_of_the_literature_are_proved_at_a_point_and_over_ranges(factory: Any) -> None:
    sizes = {"n_a": 8, "n_z": 3} if factory is savings else {}
    values = defaults(factory)
    assert prove(factory, sizes, values).why == ""
    around = {n: (min(0.98 * x, x), max(1.02 * x, x)) for n, x in values.items()}
    assert prove(factory, sizes, around).why == ""


def plain(reward: Any, lo: float = 0.05, hi: float = 4.0, **more: Any) -> dp.Model:
    """One state whose next value is the choice."""
    given = {
        "states": {"x": dp.grid(lo, hi, 5)}, "choices": {"y": dp.interval("x")},
        "transition": {"x": "y"}, "reward": reward, "discount": 0.9,
    }  # fmt: skip
    return dp.Model(**(given | more))


def inner(x: Any, y: Any) -> Any:
    return 1.2 * x**0.4 + 0.5 * x - y + 1.0


def base(x: Any, y: Any) -> Any:
    return jnp.log(inner(x, y))


CONCAVE = {
    "log": base,
    "quadratic": lambda x, y: inner(x, y) - 0.05 * inner(x, y) ** 2,
    "quadratic in both": lambda x, y: -(x - y) * (x - y) - 0.5 * y * y,
    "quadratic form": lambda x, y: -0.5 * x * x + 0.3 * x * y - 0.5 * y * y + inner(x, y),
    "one with rank one": lambda x, y: -(x**2) - 2 * x * y - y**2,
    "CARA": lambda x, y: -jnp.exp(-2.0 * (1.02 * x - y)) / 2.0,
    "hours": lambda x, y: jnp.log(x) - 8.0 * y ** (1 + 1 / 0.5),
    "adjustment over capital": lambda x, y: inner(x, y) - 0.5 * (y - 0.9 * x) ** 2 / x,
    "the same as a share": lambda x, y: inner(x, y) - 0.5 * (y / x - 0.9) ** 2 * x,
    "adjustment over more": lambda x, y: jnp.log(
        inner(x, y) - 0.5 * (y - 0.9 * x) ** 2 / (x + 1.0)
    ),
    "the same as a product": lambda x, y: -(y - 0.9 * x) * (y - 0.9 * x) / (x + 1.0),
    "two rates": lambda x, y: jnp.log(jnp.minimum(1.12 * (x - 1), 1.01 * (x - 1)) + 5 - y),
    "two rates in parts": lambda x, y: jnp.log(
        1.12 * jnp.minimum(x - 1, 0) + 1.01 * jnp.maximum(x - 1, 0) + 5 - y
    ),
    "CES": lambda x, y: (0.3 * x**-0.5 + 0.7 * (y + 1) ** -0.5) ** -2.0,
    "a maximum that never comes near": lambda x, y: jnp.maximum(x, 0.04) - y**2,
    "CES above": lambda x, y: jnp.sqrt((0.3 * x**0.5 + 0.7 * (y + 1) ** 0.5) ** 2),
    "condition that is known": lambda x, y: jnp.where(x > -1, base(x, y), 0.0),
    "arrays": lambda x, y: jnp.sum(jnp.array([0.3, 0.7]) * jnp.log(jnp.stack([x, 5 - y]))),
    "dot": lambda x, y: jnp.dot(jnp.array([0.3, 0.7]), jnp.sqrt(jnp.stack([x, 5 - y]))),
}


@pytest.mark.parametrize("name", CONCAVE)
def test_concave_rewards_are_proved(name: str) -> None:
    assert prove(plain(CONCAVE[name]), {}, {}).why == ""


@jax.custom_jvp
def lying(x: Any) -> Any:
    return jnp.log(x)


lying.defjvp(lambda primals, tangents: (jnp.log(primals[0]), 0.0 * tangents[0]))

# The rewards of which 13 are no concave ones, each with log(max(c, 1e-9)) as it was, and with log.
FLAWED = {
    f"hump {e}": lambda x, y, e=e: e * jnp.exp(-(((y - 3.2) / 0.15) ** 2))
    for e in (0.01, 0.05, 0.2, 1.0)
} | {
    "corner .01": lambda x, y: 0.01 * jnp.maximum(x - 3, 0) ** 2,
    "corner .1": lambda x, y: 0.1 * jnp.maximum(x - 3, 0) ** 2,
    "complements .02": lambda x, y: 0.02 * x * y,
    "complements .2": lambda x, y: 0.2 * x * y,
    "fixed cost": lambda x, y: -0.15 * (1 - jnp.exp(-(((y - x) / 0.2) ** 2))),
    "S-shape": lambda x, y: 0.6 / (1 + jnp.exp(-8 * (y - 2.0))),
    "ripple": lambda x, y: 1e-3 * jnp.sin(20 * x),
    "corner lie": lambda x, y: 0.3 * jnp.where(jnp.abs(x - 2.003) < 0.001, 1.0, 0.0),
    "steps": lambda x, y: jnp.floor(x),
    "stopped slopes": lambda x, y: jax.lax.stop_gradient(jnp.log(x)),
    "slopes of their own": lambda x, y: lying(x),
    "single precision": lambda x, y: jnp.log(x.astype(jnp.float32)).astype(float),
    "table": lambda x, y: jnp.interp(x, jnp.array([0.0, 1.0, 4.0]), jnp.array([0.0, 1.0, 2.0])),
}
WHOLE = {
    "a power above one": lambda x, y: inner(x, y) ** 1.3,
    "convex and concave production": lambda x, y: jnp.log(
        0.4 + 2.5 * x**3 / (1 + x**3) + 0.3 * x - y + 1.0
    ),
    "log of a floor": lambda x, y: jnp.log(jnp.maximum(inner(x, y), 1e-9)),
    "relu": lambda x, y: jnp.log(1.01 * jax.nn.relu(x - 1) - 1.12 * jax.nn.relu(1 - x) + 5 - y),
    "relu and minimum": lambda x, y: jnp.log(
        1.01 * jax.nn.relu(x - 1) + 1.12 * jnp.minimum(x - 1, 0) + 5 - y
    ),
    # JAX's slope is half of that of x at the least x there is.
    "a maximum that never binds": lambda x, y: jnp.maximum(x, 0.05) - y**2,
    "where": lambda x, y: jnp.log(jnp.where(x > 1, 1.01, 1.12) * (x - 1) + 5 - y),
    "log of a square": lambda x, y: jnp.log((x - 2) ** 2) - y,
    "a saddle": lambda x, y: -0.5 * x * x + 1.1 * x * y - 0.5 * y * y,
    "one over": lambda x, y: -1 / (x - y + 0.1),
    "increasing returns": lambda x, y: x**0.6 * (y + 1) ** 0.5,
    "a share": lambda x, y: jnp.log(x * (1 - y / 5)) + x * y,
    "a power that varies": lambda x, y: -((x + 1) ** y),
}


@pytest.mark.parametrize("name", FLAWED)
def test_what_is_not_concave_is_not_proved(name: str) -> None:
    flaw = FLAWED[name]
    found = prove(plain(lambda x, y: base(x, y) + flaw(x, y)), {}, {})
    assert not found.concave
    assert found.why.startswith("reward: ")


@pytest.mark.parametrize("name", WHOLE)
def test_nor_are_rewards_of_other_shapes(name: str) -> None:
    found = prove(plain(WHOLE[name]), {}, {})
    assert not found.concave
    assert found.why.startswith("reward: ")


def test_the_reason_names_function_operation_and_variables() -> None:
    why = prove(plain(lambda x, y: base(x, y) + 0.02 * x * y), {}, {}).why
    assert why == "reward: the product of x and y, both of which vary"
    why = prove(plain(lambda x, y: jnp.where(x > 1, 2.0, 1.0) * x - y), {}, {}).why
    assert why == "reward: a choice by a condition on x (jnp.where)"


def test_what_is_feasible_tells_where_a_reward_is_defined() -> None:
    def reward(x: Any, y: Any) -> Any:
        return (x - y + 0.1) ** -1.0 / -1.0

    assert "may be negative" in prove(plain(reward), {}, {}).why
    assert prove(plain(reward, feasible=lambda x, y: x + 0.1 > y), {}, {}).why == ""
    closed = plain(reward, feasible=lambda x, y: x + 0.1 >= y)  # with the division by zero
    assert "may be zero" in prove(closed, {}, {}).why


@pytest.mark.parametrize(
    ("feasible", "why"),
    [
        (lambda x, y: (x - y > 0) & (x + y < 6), ""),
        (lambda x, y: jnp.sqrt(x) >= y, ""),
        (lambda x, y: jnp.sqrt(x) <= y, "feasible: it is convex, not concave"),
        (lambda x, y: (x > 1) | (y > 1), "feasible: a condition on x and y that is no comparison"),
        (lambda x, y: x != y, "feasible: a condition on x and y that is no comparison"),
        (lambda x, y: x * y > 1, "feasible: the product of x and y, both of which vary"),
    ],
)
def test_conditions_leave_convex_sets(feasible: Any, why: str) -> None:
    assert prove(plain(base, feasible=feasible), {}, {}).why.startswith(why or "")
    assert prove(plain(base, feasible=feasible), {}, {}).concave is not bool(why)


def test_a_condition_that_depends_on_a_chain_holds_only_where_it_is_one() -> None:
    z = dp.markov([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]])

    def model(reward: Any) -> dp.Model:
        return plain(
            reward,
            states={"x": dp.grid(0.05, 4.0, 5), "z": z},
            feasible=lambda x, y, z: jnp.where(z == 0, x - y > 0, x - y > -1),
        )

    assert prove(model(base), {}, {}).why == ""  # one by one
    assert not prove(model(lambda x, y: -1 / (x - y)), {}, {}).concave
    assert prove(model(lambda x, y, z: -1 / (x - y + z)), {}, {}).why == ""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"choices": {"y": dp.interval(lambda x: jnp.sqrt(x), 4.0)}}, "the lower end of choice"),
        ({"choices": {"y": dp.interval(0.05, lambda x: x**2)}}, "the upper end of choice 'y'"),
        ({"discount": lambda x: 0.9 / (1 + x)}, "discount: it depends on x"),
        ({"transition": {"x": lambda x, y: x * y / 8}}, "the transition of 'x': the product"),
        ({"transition": {"x": lambda x, y: jnp.sqrt(y)}}, "the transition of 'x': it is concave"),
        ({"choices": {"y": dp.interval("x"), "d": dp.integers(0, 1)}}, "choice 'd' is made from"),
        ({"choices": {"y": dp.grid(0.1, 3.0, 4)}}, "choice 'y' is made from a list"),
        (
            {"choices": {"y": dp.interval(0.05, 5.0)},
             "states": {"x": dp.grid(0.05, 4.0, 5, outside="clip")}},
            "the transition of 'x': it is clipped at the top",
        ),
        (
            {"choices": {"y": dp.interval(0.01, 4.0)},
             "states": {"x": dp.grid(0.05, 4.0, 5, outside="clip")}},
            "the transition of 'x': it may leave the grid below",
        ),
        ({"horizon": 3, "terminal": lambda x: x**2}, "terminal: it is convex"),
        (
            {"shocks": {"w": dp.iid([0.0, 1.0], lambda x: jnp.stack([x / 5, 1 - x / 5]))}},
            "the probabilities of shock 'w' depend on x",
        ),
    ],
)  # fmt: skip
def test_every_part_of_a_model_is_looked_at(changed: dict[str, Any], why: str) -> None:
    model = plain(lambda x, y: -((x - 2) ** 2) - y, **changed)
    assert prove(model, {}, {}).why.startswith(why)


def test_entries_of_a_table_at_different_places_are_different_numbers() -> None:
    table = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    half = [[0.5, 0.5], [0.5, 0.5]]
    chains = {n: dp.markov(jnp.array([0, 1]), half) for n in ("i", "j")}
    states = {"x": dp.grid(0.05, 4.0, 5), **chains}

    def gain(x: Any, i: Any, j: Any) -> Any:
        return (table[i, j] - table[i, i]) * x**2  # which is x**2 where i and j differ

    assert not prove(plain(lambda x, y, i, j: -gain(x, i, j) + y, states=states), {}, {}).why
    assert not prove(plain(lambda x, y, i, j: gain(x, i, j) + y, states=states), {}, {}).concave


def test_what_is_thrown_away_at_the_top_needs_a_value_that_rises() -> None:
    def model(reward: Any, **more: Any) -> dp.Model:
        grid = economies.thrown_away(dp.grid(0.05, 4.0, 5))
        transition = {"x": lambda x, y, w: x - y + w}
        return plain(
            reward, states={"x": grid}, choices={"y": dp.interval(0.0, lambda x: x)},
            transition=transition, shocks={"w": dp.iid([0.1, 1.0], [0.5, 0.5])}, **more,
        )  # fmt: skip

    assert prove(model(lambda y: jnp.log(y)), {}, {}).rising == ("x",)
    falls = model(lambda x, y: jnp.log(y) - 3 * x)
    assert "clipped at the top, and the value is not known to rise" in prove(falls, {}, {}).why
    object.__setattr__(falls, "increasing", ("x",))
    assert prove(falls, {}, {}).why == ""
    bare = model(lambda y: jnp.log(y))
    capped = replace(bare, transition={"x": lambda x, y, w: jnp.sqrt(x - y) + w})
    assert prove(capped, {}, {}).why == ""  # concave, where the value rises


def test_a_choice_on_the_grid_of_a_state_is_taken_for_a_range_of_it() -> None:
    assert prove(plain(base, choices={"y": "x"}), {}, {}).why == ""


def own_crra(gamma=2.0):
    def utility(c):
        return jnp.where(gamma == 1.0, jnp.log(c), c ** (1 - gamma) / (1 - gamma))

    return plain(lambda x, y: utility(x + 0.1 - y), feasible=lambda x, y: x + 0.1 - y > 0)


def test_points_that_are_not_proved_together_are_proved_in_parts() -> None:
    gamma = np.linspace(0.5, 3.0, 50)
    assert "power" in reason(own_crra, {}, {"gamma": gamma})
    assert proved(own_crra, {}, {"gamma": gamma}).all()
    assert proved(economies.leisure, {}, {"gamma": gamma}).all()  # the others have their defaults
    some = {"alpha": 0.3, "theta": 0.4, "gamma": np.array([-1.0, 2.0, np.nan])}
    assert proved(economies.leisure, {}, some).tolist() == [False, True, False]
    assert proved(own_crra, {}, {"gamma": 2.0}) is True


def test_a_factory_that_cannot_be_read_is_not_proved_and_says_so() -> None:
    def broken(beta=0.9):
        raise RuntimeError("no model today")

    assert "no model today" in prove(broken, {}, {"beta": 0.9}).why
    assert proved(broken, {}, {"beta": 0.9}) is False
    assert proved(own_crra, {}, {"gamma": "two"}) is False
    assert prove(lambda beta: plain(base), {}, {}).why == "parameter 'beta' has no value"
    assert prove(lambda: dp.mdp(np.zeros((1, 1)), np.ones((1, 1, 1)), 0.9), {}, {}).why == (
        "nothing in it is continuous"
    )


def test_cross_derivatives_have_a_sign() -> None:
    assert cross_sign(economies.brock_mirman, {}, defaults(economies.brock_mirman)) == {
        ("k", "k_next"): 1
    }
    model = plain(lambda x, y: jnp.log(x) - y**2 - 0.1 * x * y)
    assert cross_sign(model, {}, {}) == {("x", "y"): -1}
    assert cross_sign(plain(lambda x, y: jnp.log(x) - y**2), {}, {}) == {("x", "y"): 0}
    assert cross_sign(plain(lambda x, y: jnp.sin(x * y)), {}, {}) == {("x", "y"): None}
