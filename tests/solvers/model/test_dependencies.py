"""What a model's functions may depend on, against the same sums written out in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

STOCK, LEVELS, SHELF = [0.0, 1.0, 2.0, 3.5], [0.0, 1.5, 3.0, 4.0, 6.0], [0.0, 1.0, 2.5, 6.0]
ORDERS, DEMANDS, SUNNY = [0, 1, 2], [0, 1, 2], [0.0, 1.0]
Z, P_Z = [0.8, 1.2], [[0.7, 0.3], [0.4, 0.6]]
PRICES = np.array([[1.0, 1.5, 2.0], [1.3, 1.1, 2.4]])
PERIODS = 3


def demand_law(sunny: Any, level: Any, t: Any = 0, xp: Any = jnp) -> Any:
    """Chances of 0, 1 and 2, given the weather and what is on display, and the period."""
    tilt = 0.2 * sunny + 0.05 * level + 0.03 * t
    weights = xp.stack([1.0 - 0.1 * tilt, 0.5 + tilt, 0.3 * tilt + 0.0 * level])
    return weights / weights.sum(0)


def shop(beta=0.9, cost=0.3, *, horizon=None):
    """A shop: an order fills the shelf, the weather and the shelf draw customers."""
    prices = jnp.asarray(PRICES)

    def law(sunny, level, t=0):
        return demand_law(sunny, level, t)

    return dp.Model(
        states={"stock": dp.grid(STOCK), "sold": dp.integers(0, 2), "z": dp.markov(Z, P_Z)},
        choices={"order": dp.integers(0, 2)},
        shocks={
            "demand": dp.iid(DEMANDS, law),
            "sunny": dp.iid(SUNNY, lambda z: jnp.stack([0.6 / z, 1.0 - 0.6 / z])),
        },
        post={
            "shelf": (dp.grid(SHELF), lambda level, demand: jnp.maximum(level - demand, 0.0)),
            "level": (dp.grid(LEVELS), lambda stock, order: stock + order),
        },
        transition={
            "stock": lambda shelf, sunny: jnp.minimum(shelf, 3.5) * (1.0 - 0.1 * sunny),
            "sold": "demand",
        },
        feasible=lambda level: level <= 4.5,
        reward=[
            lambda z, z_index, order_index, demand, level: (
                z * prices[z_index, order_index] * jnp.minimum(demand, level)
            ),
            lambda shelf, sunny, sold: -0.2 * shelf**2 * (1.0 + sunny) + 0.05 * sold,
            lambda order: -cost * order,
        ],
        discount=lambda level: beta - 0.01 * level,
        outputs={"left": lambda shelf: shelf, "lost": lambda demand, level: demand > level},
        moments={"both": lambda left, sunny, demand: left * sunny * demand},
        horizon=horizon,
        terminal=None if horizon is None else (lambda stock: 0.5 * stock),
    )


def corners(x: float, grid: list[float]) -> Iterator[tuple[float, float]]:
    """Yield the points beside a value, and their weights."""
    i = int(np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2))
    w = (x - grid[i]) / (grid[i + 1] - grid[i])
    yield grid[i], 1.0 - w
    yield grid[i + 1], w


def by_hand(beta: float = 0.9, cost: float = 0.3, t: int = 0) -> tuple[Any, ...]:
    """Return R, beta and P over states and choices, and what is drawn in each pair."""
    shape = (4, 3, 2)
    reward, discount = np.full((*shape, 3), -np.inf), np.zeros((*shape, 3))
    moves, drawn = np.zeros((*shape, 3, *shape)), {}
    for i, k, j, c in product(range(4), range(3), range(2), range(3)):
        exact = STOCK[i] + ORDERS[c]
        if exact > 4.5:
            continue
        z, total, seen = Z[j], 0.0, []
        discount[i, k, j, c] = beta - 0.01 * exact
        for level, a in corners(exact, LEVELS):
            for sunny, p_sunny in zip(SUNNY, (0.6 / z, 1.0 - 0.6 / z), strict=True):
                chances = demand_law(sunny, level, t, np)
                for d, p_demand in zip(DEMANDS, chances, strict=True):
                    for shelf, b in corners(max(level - d, 0.0), SHELF):
                        p = a * p_sunny * p_demand * b
                        pay = z * PRICES[j, c] * min(d, level) - cost * ORDERS[c]
                        total += p * (pay - 0.2 * shelf**2 * (1 + sunny) + 0.05 * k)
                        found = {"left": shelf, "sunny": sunny, "demand": d, "lost": d > level}
                        seen.append((p, found | {"both": shelf * sunny * d}))
                        for x, e in corners(min(shelf, 3.5) * (1 - 0.1 * sunny), STOCK):
                            moves[i, k, j, c, STOCK.index(x), d] += p * e * np.asarray(P_Z[j])
        reward[i, k, j, c], drawn[i, k, j, c] = total, seen
    return reward, discount, moves, drawn


@pytest.fixture(scope="module")
def solution() -> dp.Solution:
    return dp.solve(shop, tol=1e-9)


def test_laws_on_shocks_and_posts_give_the_value_of_sums_by_hand(solution: dp.Solution) -> None:
    reward, discount, moves, drawn = by_hand()
    v = np.zeros((4, 3, 2))
    for _ in range(600):
        q = reward + discount * np.tensordot(moves, v, 3)
        v = q.max(-1)
    assert solution.status == "solved"
    np.testing.assert_allclose(solution.value, v, atol=1e-8)
    np.testing.assert_array_equal(solution.policy["order"], q.argmax(-1))
    assert (np.asarray(solution.lower) <= v + 1e-9).all()
    assert (v - 1e-9 <= np.asarray(solution.upper)).all()
    best = q.argmax(-1)
    for s in product(range(4), range(3), range(2)):
        seen = drawn[(*s, best[s])]
        for name in ("left", "lost"):
            mean = sum(p * x[name] for p, x in seen)
            assert solution.outputs[name][s] == pytest.approx(mean, abs=1e-12)


@pytest.mark.slow
def test_they_hold_in_distributions_simulation_and_verification(solution: dp.Solution) -> None:
    _, _, moves, drawn = by_hand()
    best = np.asarray(solution.policy["order"]).astype(int)
    n = best.size
    rows = np.take_along_axis(moves.reshape(n, 3, n), best.reshape(n, 1, 1), 1)[:, 0]
    mass = np.full(n, 1.0 / n)
    for _ in range(3000):
        mass = mass @ rows
    found = dp.stationary(solution, tol=1e-12)
    np.testing.assert_allclose(np.asarray(found.mass).ravel(), mass, atol=1e-9)
    each = [
        (m * p, x)
        for m, s in zip(mass, product(range(4), range(3), range(2)), strict=True)
        for p, x in drawn[(*s, best[s])]
    ]
    asked = found.moments(("both", "mean_left", "sd_left"))
    both, left = (sum(p * x[name] for p, x in each) for name in ("both", "left"))
    spread = np.sqrt(sum(p * (x["left"] - left) ** 2 for p, x in each))
    assert asked["both"] == pytest.approx(both, abs=1e-9)
    assert asked["mean_left"] == pytest.approx(left, abs=1e-9)
    assert asked["sd_left"] == pytest.approx(spread, abs=1e-8)
    panel = dp.simulate(solution, 3, agents=4000, periods=20, variables=("demand", "left", "level"))
    data = panel.to_xarray()
    together = float((data["demand"] * data["left"]).mean())
    exact = sum(p * x["left"] * x["demand"] for p, x in each)
    assert together == pytest.approx(exact, abs=0.02)
    assert "verified" in str(dp.verify(solution))
    assert "no fault" in dp.check(shop)
    assert "demand" in str(dp.describe(shop))


@pytest.mark.slow
def test_a_law_names_the_period(solution: dp.Solution) -> None:
    finite = dp.solve(shop, {"horizon": PERIODS})
    v = np.broadcast_to(0.5 * np.asarray(STOCK)[:, None, None], (4, 3, 2))
    for t in reversed(range(PERIODS)):
        reward, discount, moves, _ = by_hand(t=t)
        v = (reward + discount * np.tensordot(moves, v, 3)).max(-1)
        np.testing.assert_allclose(finite.value[t], v, atol=1e-11)
    assert "verified" in str(dp.verify(finite))


def test_positions_and_families_are_what_they_stand_for() -> None:
    table = np.array([[1.0, 5.0, 2.0], [4.0, 0.0, 3.0]])

    def model(beta=0.9):
        def pay(level_index, z_index, level, move):
            return jnp.asarray(table)[z_index, level_index[0]] + 0.1 * level[1] - 0.2 * move

        return dp.Model(
            states={
                "level": dp.family(dp.integers(3, 5), 2),
                "z": dp.markov([2.0, -1.0], [[0.7, 0.3], [0.4, 0.6]]),  # in no order
            },
            choices={"move": dp.integers(0, 1)},
            transition={"level": lambda level, move: 3 + (level - 3 + jnp.stack([move, 1])) % 3},
            reward=pay,
            discount=beta,
        )

    solution = dp.solve(model, tol=1e-10)
    v = np.zeros((3, 3, 2))
    for _ in range(400):
        ahead = v @ np.array([[0.7, 0.3], [0.4, 0.6]]).T
        q = np.empty((3, 3, 2, 2))
        for i, k, z, m in np.ndindex(3, 3, 2, 2):
            pay = table[z, i] + 0.1 * (3 + k) - 0.2 * m
            q[i, k, z, m] = pay + 0.9 * ahead[(i + m) % 3, (k + 1) % 3, z]
        v = q.max(-1)
    np.testing.assert_allclose(solution.value, v, atol=1e-9)


def spoiled(**changes: Any) -> dp.Model:
    given: dict[str, Any] = {
        "states": {"a": dp.integers(0, 3)},
        "choices": {"c": dp.integers(0, 3)},
        "transition": {"a": "c"},
        "reward": lambda a: a * 1.0,
        "discount": 0.9,
    }
    return dp.Model(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "shocks": {
                    "u": dp.iid([0, 1], lambda w: jnp.stack([w, 1.0 - w])),
                    "w": dp.iid([0, 1], lambda u: jnp.stack([u, 1.0 - u])),
                }
            },
            ["'u' takes 'w'", "'w' takes 'u'", "before the other"],
        ),
        (
            {"post": {"p": (dp.integers(0, 3), lambda p: p)}},
            ["post variable 'p' takes 'p'", "not known before it"],
        ),
        (
            {
                "shocks": {"w": dp.iid([0, 1], lambda p: jnp.stack([0.1 * p, 1.0 - 0.1 * p]))},
                "post": {"p": (dp.integers(0, 4), lambda a, w: a + w)},
            },
            ["shock 'w' takes 'p'", "post variable 'p' takes 'w'"],
        ),
        (
            {"shocks": {"w": dp.iid([0, 1], lambda a_next: jnp.stack([a_next, 1.0 - a_next]))}},
            ["shock 'w'", "'a_next'"],
        ),
        (
            {"states": {"a": dp.integers(0, 3), "a_index": dp.integers(0, 1)},
             "transition": {"a": "c", "a_index": "a_index"}, "reward": lambda a_index: -a_index},
            ["'a_index'", "position of 'a'", "rename"],
        ),
        (
            {"states": {"a": dp.integers(0, 3), "z": dp.markov([1.0, 1.0], np.full((2, 2), 0.5))},
             "reward": lambda a, z_index: a * z_index * 1.0},
            ["z_index", "values 0 and 1", "both 1"],
        ),
        ({"transition": {"a": "d"}}, ["'d'", "no choice, state or shock"]),
        (
            {"states": {"a": dp.family(dp.integers(0, 3), 2)}, "transition": {"a": ["c"]},
             "reward": lambda a: a.sum() * 1.0},
            ["1 rules", "2 members"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_known_yet_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        spoiled(**changes)
    for word in words:
        assert word in str(caught.value)


def test_a_state_called_like_a_position_is_one_where_no_function_looks_it_up() -> None:
    made = spoiled(
        states={"a": dp.integers(0, 3), "a_index": dp.integers(0, 3)},
        transition={"a": "c", "a_index": "a"},
    )
    assert made.shape == (4, 4)


def test_a_position_between_the_nodes_is_refused() -> None:
    with pytest.raises(dp.ModelError, match=r"'a_index'.*between the points.*interp"):
        spoiled(
            states={"a": dp.grid(0.0, 1.0, 5)},
            choices={"c": dp.interval("a")},
            reward=lambda a_index, c: a_index - c,
        )


@pytest.mark.slow
def test_beside_an_interval_laws_name_other_shocks() -> None:
    """Wages are drawn after the weather; the problem is linear, and its value is known."""

    def model(beta=0.9):
        return dp.Model(
            states={"a": dp.grid(0.0, 4.0, 5)},
            choices={"a_next": dp.interval(0.0, 4.0)},
            shocks={
                "wage": dp.iid(
                    [1.0, 3.0], lambda sun: jnp.array([0.2 + 0.6 * sun, 0.8 - 0.6 * sun])
                ),
                "sun": dp.iid([0.0, 1.0], [0.25, 0.75]),
            },
            transition={"a": "a_next"},
            reward=lambda a, a_next, wage, sun: 1.0 * a - 2.0 * a_next + wage * (1.0 + sun),
            discount=beta,
            concave=True,
        )

    mean = 0.25 * (0.2 * 1 + 0.8 * 3) + 0.75 * 2 * (0.8 * 1 + 0.2 * 3)
    solution = dp.solve(model)
    np.testing.assert_allclose(solution.value, np.linspace(0, 4, 5) + mean / 0.1, atol=1e-6)
    assert "verified" in str(dp.verify(solution))
