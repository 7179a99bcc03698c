"""Bounds by monotone rounding: valid where they are claimed, refused where they are not."""

from dataclasses import fields, replace

import jax.numpy as jnp
import numpy as np
import pytest
from nonconcave_models import rising, solved
from not_concave_models import BETA, CASES, CONTROL, KINKS, STEEP, income

import dpsolve as dp
from dpsolve.solvers.nonconcave.landing import read_landing
from dpsolve.solvers.nonconcave.solve import obstacle


def declared(model):
    object.__setattr__(model, "increasing", ("x",))
    return model


@pytest.mark.parametrize(
    "case",
    [
        CASES["s-shape"],
        KINKS["relu"],
        *(pytest.param(c, marks=pytest.mark.slow) for c in (CONTROL, CASES["corner 0.1"], STEEP)),
    ],
    ids=["s-shape", "relu", "control", "corner", "steep"],
)
def test_bounds_are_on_either_side_of_the_truth(case):
    n = 60
    found = solved(lambda: declared(case.model(n=n, concave=False)))
    assert found["certifies"] == 1
    truth = case.truth()
    x = found["grid_x"]
    nodes = np.isin(x, truth.x)
    lower, upper = (found[k].reshape(x.size, -1).T[:, nodes] for k in ("lower", "upper"))
    below = truth.below(x[nodes])
    assert (below <= upper).all()
    assert (lower <= below + truth.slack).all()
    assert np.abs(truth.below(truth.x)[..., ::7] - _middle(found, truth.x[::7])).max() <= (
        found["error_bound"] + truth.slack
    )


def _middle(found, x):
    rows = found["value"].reshape(found["grid_x"].size, -1).T
    return np.stack([np.interp(x, found["grid_x"], row) for row in rows])


def household(reward, **more):
    return rising(
        "x",
        states={"x": dp.grid(0.05, 4.0, 60, curve=1.3)},
        choices={"y": dp.interval("x", hi=lambda x: income(x) - 1e-6)},
        transition={"x": "y"},
        reward=reward,
        discount=BETA,
        **more,
    )


def usual(x, y):
    return jnp.log(income(x) - y)


@pytest.mark.slow
@pytest.mark.parametrize(
    "reward",
    [
        # A reward that rises in the next state; and one that falls in the state.
        lambda x, y: usual(x, y) + 2.0 * jnp.exp(-(((y - 3.2) / 0.3) ** 2)),
        lambda x, y: usual(x, y) - 1.5 * jnp.exp(-(((x - 2.0) / 0.3) ** 2)),
        lambda x, y: usual(x, y) - 0.5 * x**2,
    ],
    ids=["in the next state", "in the state", "in the state, everywhere"],
)
def test_what_is_declared_and_is_not_so_is_seen(reward):
    found = solved(lambda: household(reward))
    assert (found["code"], found["certifies"]) == (-6, 4)
    assert found["error_bound"] == np.inf
    assert (found["lower"] == -np.inf).all()
    assert (found["upper"] == np.inf).all()


@pytest.mark.slow
def test_a_fall_between_two_nodes_is_seen():
    x = np.asarray(dp.grid(0.05, 4.0, 60, curve=1.3).values)
    middle, step = (x[30] + x[31]) / 2, x[31] - x[30]
    # The probe has a random state in every cell of so few.
    found = solved(
        lambda: household(
            lambda x, y: usual(x, y) - jnp.where(jnp.abs(x - middle) < 0.48 * step, 1.0, 0.0)
        )
    )
    assert found["certifies"] == 4


def savings(interest=1.02, *, n=60):
    """Work for a wage or not, and save."""
    return rising(
        "m",
        states={"m": dp.grid(0.1, 10.0, n, curve=2, outside="clip")},
        choices={"work": dp.integers(0, 1), "a": dp.interval(0.0, lambda m: m - 1e-3)},
        transition={"m": lambda a, work: interest * a + 0.4 * work + 0.1},
        reward=lambda m, a, work: jnp.log(m - a) - 0.3 * work,
        discount=0.9,
    )


def spending(interest=1.02, *, n=60):
    """Consumption is the choice: the next state falls in it."""
    return rising(
        "m",
        states={"m": dp.grid(0.1, 10.0, n, curve=2, outside="clip")},
        choices={"work": dp.integers(0, 1), "c": dp.interval(1e-3, lambda m: m)},
        transition={"m": lambda m, c, work: interest * (m - c) + 0.4 * work + 0.1},
        reward=lambda c, work: jnp.log(c) - 0.3 * work,
        discount=0.9,
    )


@pytest.mark.slow
def test_consumption_as_the_choice_is_worth_what_savings_are():
    one, other = solved(savings, interest=1.02), solved(spending, interest=1.02)
    assert one["certifies"] == other["certifies"] == 1
    for bound in ("lower", "upper"):
        np.testing.assert_allclose(one[bound], other[bound], atol=1e-6)
    m = one["grid_m"]
    np.testing.assert_allclose(m - one["policy_a"], other["policy_c"], atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"transition": {"m": lambda a: a**2}}, "the next m is not affine in 'a'"),
        ({"transition": {"m": lambda a: jnp.minimum(a, 3.0)}}, "the next m is not affine in 'a'"),
        ({"transition": {"m": lambda m: 0.9 * m}}, "the next m is not chosen"),
        (
            {
                "transition": {"m": lambda a, w: a + w},
                "shocks": {"w": dp.iid([0.1, 0.2], lambda m: jnp.stack([0.5, 0.5]))},
            },
            "the chances of shock 'w' are a function",
        ),
        ({"discount": lambda a: 0.9 - 0.0 * a}, "the discount depends on 'a'"),
    ],
)
def test_what_cannot_be_rounded_is_said(changed, said):
    usual = {
        "states": {"m": dp.grid(0.1, 10.0, 20, outside="clip")},
        "choices": {"a": dp.interval(0.0, lambda m: m - 1e-3)},
        "transition": {"m": "a"},
        "reward": lambda m, a: jnp.log(m - a),
        "discount": 0.9,
    }
    model = rising("m", **{**usual, **changed})
    assert read_landing(model) == (None, said)
    assert obstacle(model) == said


def test_what_is_not_declared_is_said():
    model = dp.Model(
        states={"m": dp.grid(0.1, 10.0, 20)},
        choices={"a": dp.interval("m", hi=lambda m: m)},
        transition={"m": "a"},
        reward=lambda m, a: jnp.log(1.0 + m - a),
        discount=0.9,
    )
    assert "increasing=('m',)" in obstacle(model)


def risky(wage=0.4, *, n=60):
    """Returns and wages are drawn after the choice."""
    return rising(
        "m",
        states={"m": dp.grid(0.1, 10.0, n, curve=2, outside="clip")},
        choices={"work": dp.integers(0, 1), "a": dp.interval(0.0, lambda m: m - 1e-3)},
        shocks={
            "r": dp.iid([0.9, 1.0, 1.1], [0.25, 0.5, 0.25]),
            "y": dp.iid([0.5, 1.5], [0.5, 0.5]),
        },
        transition={"m": lambda a, work, r, y: r * a + wage * y * work + 0.1},
        reward=lambda m, a, work: jnp.log(m - a) - 0.3 * work,
        outputs={"consumption": lambda m, a: m - a},
        discount=0.9,
    )


@pytest.mark.slow
def test_shocks_in_the_transition_are_rounded_for_each_value():
    found, fine = solved(risky, wage=0.4, n=40), solved(risky, wage=0.4, n=157)
    assert found["certifies"] == fine["certifies"] == 1
    x, q = found["grid_m"], fine["grid_m"]
    above = found["upper"][np.searchsorted(x, q - 1e-12)]
    below = found["lower"][np.searchsorted(x, q + 1e-12, side="right") - 1]
    assert (fine["lower"] <= above).all()
    assert (below <= fine["upper"]).all()
    assert (fine["upper"] - fine["lower"]).max() < 0.4 * (found["upper"] - found["lower"]).max()
    # And what the best choice of a table against an interpolated value is worth lies between them.
    undeclared = replace(
        risky(n=157), **{f.name: () for f in fields(dp.Model) if f.name == "increasing"}
    )
    table = solved(lambda: undeclared)
    assert table["certifies"] == 3
    assert ((below - 1e-3 <= table["value"]) & (table["value"] <= above + 1e-3)).all()
    middle = np.interp(q, x, found["value"])
    assert np.maximum(fine["lower"] - middle, middle - fine["upper"]).max() <= found["error_bound"]
