"""Attacks on the bounds that once held or were wrongly refused, each a model of its own."""

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp


def income(x):
    return 1.2 * x**0.4 + 0.5 * x + 1.0


def model(level=0.0, hump=0.0, *, reward=None, feasible=None, choices=None, shocks=None, n=40):
    """A household with a concave reward, and what is changed of it."""

    def usual(x, y):
        far = jnp.exp(-(((y - 3.2) / 0.15) ** 2))
        return level + jnp.log(income(x) - y) + hump * far

    return dp.Model(
        states={"x": dp.grid(0.05, 4.0, n, curve=1.3, outside="clip")},
        choices=choices or {"y": "x"},
        transition={"x": "y"},
        feasible=feasible or (lambda x, y: income(x) - y > 1e-6),
        reward=reward or usual,
        shocks=shocks or {},
        discount=0.9,
        concave=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("hump", [0.2, 1.0])
def test_a_constant_in_the_reward_does_not_hide_what_is_not_concave(hump):
    s = dp.certify(model, {"level": 1e9, "hump": hump})
    assert "is not: at" in s.message


@pytest.mark.slow
def test_a_constant_in_the_reward_leaves_the_bounds_narrow():
    plain, raised = dp.certify(model), dp.certify(model, {"level": 1e6})
    assert raised.status == "solved"
    assert raised.error_bound < plain.error_bound + 1e-4
    assert np.abs(raised.value - 1e7 - plain.value).max() < plain.error_bound + 1e-4


@pytest.mark.slow
def test_a_constraint_that_binds_is_not_refuted_by_rounding():
    s = dp.certify(model(feasible=lambda x, y: (y <= 1.06 * x) & (income(x) - y > 1e-6)))
    assert (s.status, s.message) == ("solved", "")


@pytest.mark.slow
@pytest.mark.parametrize("hole", [(1.7, 1.75)])
def test_a_hole_that_the_policy_jumps_over_is_seen_on_any_number_of_nodes(hole):
    def feasible(x, y):
        return (income(x) - y > 1e-6) & ((y < hole[0]) | (y > hole[1]))

    s = dp.certify(model(feasible=feasible, n=1_200))
    assert "half way between two feasible ones is not feasible" in s.message


@pytest.mark.slow
def test_a_draw_that_never_comes_does_not_enter():
    def reward(x, y, w):
        return jnp.log(jnp.sqrt(w) * (income(x) - y))

    s = dp.certify(model(reward=reward, shocks={"w": dp.iid([1.0, 0.0], [1.0, 0.0])}))
    np.testing.assert_allclose(s.value, dp.certify(model).value, atol=1e-9)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([0.05, 1.0, 6.0], "y' runs from 0.05 to 6, beyond the grid of 'x'"),
        ([0.0, 1.0, 2.0], "y' runs from 0 to 2, beyond the grid of 'x'"),
        ([2.0, 0.3, 1.0], "must rise"),
        ([1.0], "must rise"),
    ],
)
def test_choices_that_leave_the_continuum_are_refused(points, said):
    with pytest.raises(dp.ModelError, match=said):
        dp.certify(model(choices={"y": dp.grid(np.array(points))}))
