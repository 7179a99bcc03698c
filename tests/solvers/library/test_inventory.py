"""The built-in inventory against value iteration in NumPy, and the theory of (s, S) policies."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.library import inventory
from dpsolve.solvers.operators.bellman import GridOperator

GIVEN = {"beta": 0.95, "mean_demand": 4.0, "price": 2.5, "cost": 1.0, "fixed": 5.0,
         "holding": 0.04, "shortage": 0.6}  # fmt: skip


def _by_hand(
    beta: float, mean_demand: float, price: float, cost: float, fixed: float, holding: float,
    shortage: float, n_stock: int, n_order: int, n_demand: int, n_backlog: int,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return the value, the first best order and expected sales, by explicit loops."""
    weights = [mean_demand**d / math.factorial(d) for d in range(n_demand + 1)]
    chances = np.array(weights) / sum(weights)
    n, m, demand = n_stock + n_backlog + 1, n_order + 1, np.arange(n_demand + 1)
    reward, sales = np.full((n, m), -np.inf), np.zeros((n, m))
    chain = np.zeros((n, m, n))
    for x, order in itertools.product(range(-n_backlog, n_stock + 1), range(m)):
        y, at = x + order, (x + n_backlog, order)
        if y > n_stock:
            continue
        after = np.maximum(y - demand, -n_backlog)
        flow = price * (y - after) - holding * np.maximum(y - demand, 0)
        flow = flow - shortage * np.maximum(demand - y, 0)
        reward[at] = chances @ flow - cost * order - (fixed if order else 0.0)
        sales[at] = chances @ (y - after)
        np.add.at(chain[at], after + n_backlog, chances)
    v = np.zeros(n)
    for _ in range(1_000):
        q = reward + beta * chain @ v
        if np.max(np.abs(q.max(1) - v)) < 1e-11:
            break
        v = q.max(1)
    best = q.argmax(1)
    return q.max(1), best, sales[np.arange(n), best]


@pytest.mark.slow
@pytest.mark.parametrize("n_backlog", [0, 6])
def test_it_is_value_iteration_by_hand_and_orders_up_to_a_level(n_backlog: int) -> None:
    sizes = {"n_stock": 40, "n_order": 50, "n_demand": 15, "n_backlog": n_backlog}
    found = dp.solve("inventory", GIVEN | sizes, tol=1e-9)
    value, order, sales = _by_hand(**GIVEN, **sizes)
    np.testing.assert_allclose(found.value, value, atol=1e-8)
    np.testing.assert_array_equal(found.policy["order"], order)
    np.testing.assert_allclose(found.arrays["output_sales"], sales, atol=1e-12)
    # Scarf (1960): order up to S below s, and nothing from s on.
    stock = np.arange(-n_backlog, 41)
    ordering = order > 0
    assert 0 < ordering.sum() < len(stock)
    assert not ordering[np.argmin(ordering) :].any()
    assert len(set((stock + order)[ordering])) == 1


def test_without_a_fixed_cost_it_orders_up_to_a_base_stock() -> None:
    given = GIVEN | {"fixed": 0.0, "n_stock": 30, "n_order": 30, "n_demand": 15}
    order = np.asarray(dp.solve("inventory", given).policy["order"])
    level = order[0]
    assert level > 0
    np.testing.assert_array_equal(order, np.maximum(level - np.arange(31), 0))


def test_a_sweep_of_many_states_choices_and_demands_keeps_no_more_than_pairs() -> None:
    made = []
    jax.make_jaxpr(lambda: made.append(GridOperator(inventory(n_stock=14_999, n_order=120))))()
    (operator,) = made
    assert operator.block_size is None
    assert [s.states for s in operator.expectation.steps] == [("stock",), ("level",)]
    assert operator.expectation.early[0].shocks == ("demand",)


def test_an_order_that_cannot_clear_the_backlog_is_refused() -> None:
    with pytest.raises(dp.UsageError, match="n_order=2 is less than n_backlog=3"):
        inventory(n_order=2, n_backlog=3)


# -- units that perish, and orders that take time (De Moor, Gijsbrechts and Boute 2022) ------------

MOST, CHANCES = 2, np.array([0.3, 0.4, 0.2, 0.1])
FEE, LOST, SPOILT, HELD = 3.0, 5.0, 7.0, 1.0


def _issued(ages: tuple[Any, ...], demand: Any, oldest_first: bool, xp: Any) -> list[Any]:
    """Return what is left of each age, the newest first, when demand takes one end first."""
    order = range(len(ages) - 1, -1, -1) if oldest_first else range(len(ages))
    wanted, left = demand, list(ages)
    for i in order:
        taken = xp.minimum(ages[i], wanted)
        left[i], wanted = ages[i] - taken, wanted - taken
    return left


def perishable(oldest_first: bool) -> dp.Model:
    """Units perish after two periods; an order, the choice, arrives in the next but one."""

    def costs(s1: Any, s2: Any, demand: Any) -> Any:
        held, spoilt = _issued((s1, s2), demand, oldest_first, jnp)
        return -LOST * jnp.maximum(demand - s1 - s2, 0) - SPOILT * spoilt - HELD * held

    return dp.Model(
        states={name: dp.integers(0, MOST) for name in ("transit", "s1", "s2")},
        choices={"order": "transit"},
        shocks={"demand": dp.iid(np.arange(4), CHANCES)},
        transition={
            "transit": "order",
            "s1": "transit",
            "s2": lambda s1, s2, demand: _issued((s1, s2), demand, oldest_first, jnp)[0],
        },
        reward=[lambda order: -FEE * order, costs],
        discount=0.95,
    )


def _perishable_by_hand(oldest_first: bool) -> tuple[Any, Any]:
    shape = (MOST + 1,) * 3
    reward, chain = np.zeros((*shape, MOST + 1)), np.zeros((*shape, MOST + 1, *shape))
    for at in itertools.product(range(MOST + 1), repeat=4):
        t, s1, s2, order = at
        for demand, chance in enumerate(CHANCES):
            held, spoilt = _issued((s1, s2), demand, oldest_first, np)
            lost = max(demand - s1 - s2, 0)
            reward[at] += chance * (-FEE * order - LOST * lost - SPOILT * spoilt - HELD * held)
            chain[at][order, t, held] += chance
    v = np.zeros(shape)
    for _ in range(700):
        q = reward + 0.95 * np.tensordot(chain, v, 3)
        v = q.max(-1)
    return v, q


@pytest.mark.parametrize("oldest_first", [True, False])
def test_perishable_units_with_a_lead_time(oldest_first: bool) -> None:
    found = dp.solve(perishable(oldest_first), tol=1e-10)
    v, q = _perishable_by_hand(oldest_first)
    np.testing.assert_allclose(found.value, v, atol=1e-9)
    chosen = np.take_along_axis(q, np.asarray(found.policy_index["order"])[..., None], -1)
    np.testing.assert_allclose(chosen[..., 0], v, atol=1e-9)
