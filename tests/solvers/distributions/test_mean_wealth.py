"""Mean wealth of the README's household, by a continuous choice: what equilibria rest on."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

TRUE = 5.0365  # on thousands of nodes, at r = .0373


def household(r: float = 0.0373, *, n_a: int = 200) -> dp.Model:
    """beta .96, gamma 2, seven incomes, wealth to 20."""

    def consumption(a: Any, z: Any, a_next: Any) -> Any:
        return (1 + r) * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 20.0, n_a, curve=2), "z": dp.rouwenhorst(7, 0.9, 0.1)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), 2.0),
        discount=0.96,
        concave=True,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*top of the grid")
@pytest.mark.parametrize(
    ("points", "within"), [(200, 1e-3), pytest.param(400, 2e-4, marks=pytest.mark.slow)]
)
def test_mean_wealth_is_right_on_few_points(points: int, within: float) -> None:
    solution = dp.solve(household, {"n_a": points}, moments=["mean_a"])
    assert float(solution.moments["mean_a"]) == pytest.approx(TRUE, rel=within)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*top of the grid")
def test_supply_of_wealth_is_continuous_in_the_interest_rate() -> None:
    rates = np.linspace(0.0371, 0.0373, 5)
    supply = [
        float(dp.solve(household, {"r": r}, moments=["mean_a"])["moment_mean_a"]) for r in rates
    ]
    steps = np.diff(supply)
    assert steps.min() > 0  # no step is flat, and none is a jump
    assert np.abs(np.diff(steps)).max() < 0.02 * steps.min()
