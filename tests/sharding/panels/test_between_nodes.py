"""dp.simulate under continuous policies: agents have values of their own, and the policy's law."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from by_hand import solution_of

R, Y = np.array([0.8, 1.1]), np.array([0.5, 1.5])


def cash(**more: Any) -> dp.Model:
    """Cash on hand m' = R (m - c) + y, with c chosen from an interval."""
    return dp.Model(
        states={"m": dp.grid(0.5, 12.0, 40, curve=2), "z": dp.rouwenhorst(3, 0.5, 0.2)},
        choices={"c": dp.interval(0.0, lambda m: m)},
        shocks={
            "ret": dp.iid(R, [0.25, 0.75]),
            "y": dp.iid(Y, lambda z: jnp.where(z > 0, jnp.array([0.2, 0.8]), 0.5)),
        },
        transition={"m": lambda m, c, ret, y: ret * (m - c) + y},
        reward=lambda c: jnp.log(c),
        discount=0.9,
        outputs={"saved": lambda m, c: m - c, "earned": lambda m, c, ret: (ret - 1) * (m - c)},
        moments={"rich": lambda m: m > 2.0},
        **more,
    )


def spend(m: Any, z: Any, t: int = 0) -> Any:
    """Consume a share, which is linear between nodes, too."""
    return (0.45 + 0.1 * t) * m


EVERY = ("m", "z", "c", "saved", "earned", "ret", "y")


@pytest.mark.slow
def test_agents_follow_the_policy_itself_and_are_rounded_to_no_node() -> None:
    panel = dp.simulate(
        solution_of(cash(), {"c": spend}), 0, agents=40, periods=6, initial={"m": 3.21},
        variables=EVERY,
    ).to_xarray()  # fmt: skip
    m, c, z = (panel[name].values for name in "mcz")
    np.testing.assert_array_equal(m[:, 0], 3.21)
    np.testing.assert_allclose(c, 0.45 * m, rtol=1e-12)
    np.testing.assert_allclose(panel["saved"], 0.55 * m, rtol=1e-12)
    np.testing.assert_allclose(panel["earned"], (panel["ret"] - 1) * 0.55 * m, rtol=1e-12)
    moved = panel["ret"].values * (m - c) + panel["y"].values
    np.testing.assert_allclose(m[:, 1:], moved[:, :-1], rtol=1e-12)
    assert set(np.unique(z)) <= set(np.asarray(dp.rouwenhorst(3, 0.5, 0.2).values))
    assert len(np.unique(m)) > 50


@pytest.mark.slow
def test_a_panel_is_the_same_however_it_is_cut() -> None:
    solution = solution_of(cash(), {"c": spend})
    whole = dp.simulate(solution, 3, agents=50, periods=7, initial={"m": 2.0}).to_xarray()
    parts = list(
        dp.simulate(solution, 3, agents=50, periods=7, initial={"m": 2.0}, block=20).blocks()
    )
    assert [len(p["agent"]) for p in parts] == [20, 20, 10]
    for name in whole:
        np.testing.assert_array_equal(whole[name], np.concatenate([p[name] for p in parts]))
    later = dp.simulate(solution, 3, agents=10, periods=4, initial={"m": 2.0}, burn=3).to_xarray()
    np.testing.assert_array_equal(later["m"], whole["m"][:10, 3:])


@pytest.mark.slow
def test_shocks_are_drawn_with_the_chances_they_have_where_the_agent_is() -> None:
    panel = dp.simulate(
        solution_of(cash(), {"c": spend}), 1, agents=4000, periods=5, initial={"m": 3.0},
        variables=["z", "y", "ret"],
    ).to_xarray()  # fmt: skip
    good = panel["z"].values > 0
    for where, chance in ((good, 0.8), (~good, 0.5)):
        share = (panel["y"].values[where] == 1.5).mean()
        assert abs(share - chance) < 4 * 0.5 / np.sqrt(where.sum())
    assert abs((panel["ret"].values == 1.1).mean() - 0.75) < 4 * 0.5 / np.sqrt(20_000)


@pytest.mark.slow
def test_moments_of_a_panel_are_those_of_the_distribution_within_standard_errors() -> None:
    solution = solution_of(cash(), {"c": spend})
    asked = ["mean_m", "sd_m", "p50_m", "mean_earned", "rich"]
    panel = dp.simulate(solution, 5, agents=3000, periods=30, burn=20)
    found = panel.moments(asked)
    true = dp.stationary(solution, distribution_grid={"m": 600}).moments(asked)
    for name, (value, error) in found.items():
        assert abs(value - float(true[name])) < 4.5 * error + 2e-3, name
        assert 0 <= error < 0.05
    sample = panel.to_xarray()
    assert found["mean_m"].value == pytest.approx(float(sample["m"].mean()), rel=1e-12)
    assert found["sd_m"].value == pytest.approx(float(sample["m"].std()), rel=1e-9)
    each = sample["m"].mean("time").std("agent", ddof=1) / np.sqrt(3000)
    assert found["mean_m"].error == pytest.approx(float(each), rel=1e-9)
    own = panel.moments({"square": lambda m, c: (m - c) ** 2})["square"]
    assert own.value == pytest.approx(float((sample["saved"] ** 2).mean()), rel=1e-12)


@pytest.mark.slow
def test_each_period_of_a_horizon_has_its_own_policy_and_moments() -> None:
    solution = solution_of(cash(horizon=3), {"c": spend})
    panel = dp.simulate(solution, 0, agents=200, periods=3, initial={"m": 3.0})
    data = panel.to_xarray()
    for t in range(3):
        np.testing.assert_allclose(data["c"][:, t], (0.45 + 0.1 * t) * data["m"][:, t], rtol=1e-12)
    found = panel.moments(["mean_m", "p50_m"])
    np.testing.assert_allclose(found["mean_m"].value, data["m"].mean("agent"), rtol=1e-12)
    assert found["p50_m"].value.shape == (3,)


@pytest.mark.slow
def test_mean_wealth_is_that_of_the_stationary_distribution() -> None:
    model = dp.Model(
        states={"a": dp.grid(0.0, 20.0, 25, curve=2), "z": dp.rouwenhorst(3, 0.9, 0.1)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        reward=lambda a_next: -a_next,
        discount=0.96,
    )
    policy = {"a_next": lambda a, z: np.maximum(0.0, 0.95 * a + z)}
    panel = dp.simulate(solution_of(model, policy), 0, agents=4000, periods=50, burn=50)
    found = panel.moments(["mean_a", "bottom_a", "gini_a"])
    true = dp.stationary(panel.solution, distribution_grid={"a": 1000}).moments([*found])
    for name, (value, error) in found.items():
        assert abs(value - float(true[name])) < 4 * error + 2e-3, name
        assert 0 < error < 0.05


def test_integers_and_listed_choices_move_beside_continuous_states() -> None:
    model = dp.Model(
        states={"a": dp.grid(0.0, 4.0, 5), "age": dp.integers(0, 3)},
        choices={"work": dp.integers(0, 1), "a_next": dp.interval("a")},
        transition={"a": "a_next", "age": lambda age: jnp.minimum(age + 1, 3)},
        post={"seen": (dp.grid(0.0, 8.0, 3), lambda a, work: a + work)},
        reward=lambda work, a_next: work - a_next,
        outputs={"double": lambda seen: 2 * seen},
        discount=0.9,
    )
    solution = solution_of(
        model, {"work": lambda a, age: a < 2.0, "a_next": lambda a, age: 0.9 * a}
    )
    data = dp.simulate(solution, 0, agents=1, periods=5, initial={"a": 3.7, "age": 0}).to_xarray()
    a = data["a"].values[0]
    np.testing.assert_array_equal(data["age"][0], [0, 1, 2, 3, 3])
    np.testing.assert_array_equal(data["work"][0], (a < 1.5).astype(float))
    np.testing.assert_allclose(data["double"][0], 2 * (a + data["work"][0]))
    assert a[0] == 3.7
    assert a[1] == pytest.approx(0.9 * 3.7)
