"""Where nothing better is known: continuous choices on a table, certified as such."""

import jax.numpy as jnp
import numpy as np
import pytest
from nonconcave_models import solved

import dpsolve as dp
from dpsolve.solvers.nonconcave.table import shares


def share_model(beta=0.9, *, n=40):
    """A share is the choice, and the next state is a product."""
    return dp.Model(
        states={"m": dp.grid(0.5, 5.0, n, outside="clip")},
        choices={"s": dp.interval(0.01, 0.99)},
        transition={"m": lambda m, s: 0.5 + s * m},
        reward=lambda m, s: jnp.log((1.0 - s) * m),
        outputs={"consumption": lambda m, s: (1.0 - s) * m},
        discount=beta,
    )


@pytest.mark.slow
def test_a_table_is_what_a_grid_of_its_choices_is():
    found = solved(share_model, beta=0.9)
    table = 0.01 + np.asarray(shares(share_model())) * 0.98
    listed = dp.Model(
        states={"m": dp.grid(0.5, 5.0, 40, outside="clip")},
        choices={"s": dp.grid(table)},
        transition={"m": lambda m, s: 0.5 + s * m},
        reward=lambda m, s: jnp.log((1.0 - s) * m),
        discount=0.9,
    )
    solution = dp.solve(listed)
    np.testing.assert_allclose(found["value"], solution.value, atol=2e-6)
    np.testing.assert_allclose(found["policy_s"], solution.policy["s"], atol=1e-12)
    np.testing.assert_allclose(
        found["output_consumption"], (1 - found["policy_s"]) * found["grid_m"]
    )
    assert (found["certifies"], found["code"]) == (3, 0)
    assert found["policy_loss"] == np.inf


def two_choices(beta=0.9, *, horizon=None, n=12):
    """The second interval ends where the first choice says; nothing leaves the grid."""
    return dp.Model(
        states={"m": dp.grid(0.5, 4.0, n), "z": dp.integers(0, 1)},
        choices={
            "z_next": dp.integers(0, 1),
            "c": dp.interval(0.1, lambda m: m),
            "d": dp.interval(0.0, lambda m, c: m - c),
        },
        transition={"m": lambda m, c, d: 0.6 + 0.8 * (m - c - d), "z": "z_next"},
        reward=lambda c, d, z, z_next: jnp.log(c) + 0.5 * z * jnp.sqrt(d) - 0.1 * (z != z_next),
        discount=beta,
        horizon=horizon,
    )


def test_later_intervals_see_earlier_choices():
    found = solved(two_choices, beta=0.9, horizon=3)
    m = found["grid_m"][None, :, None]
    assert found["certifies"] == 3
    assert (found["policy_c"] + found["policy_d"] <= m + 1e-12).all()
    # In the last period all is spent: where z is 0 on c, which alone pays.
    last = {n: found[f"policy_{n}"][-1] for n in ("c", "d")}
    np.testing.assert_allclose(last["c"][:, 0], found["grid_m"])
    assert (last["d"][2:, 1] > 0).all()
    assert found["policy_index_z_next"].shape == (3, 12, 2)


def test_a_choice_that_leaves_the_grid_is_none():
    def stay(*, n=30):
        return dp.Model(
            states={"m": dp.grid(1.0, 2.0, n)},
            choices={"c": dp.interval(0.0, 2.0)},
            transition={"m": lambda m, c: 1.2 * m - c},
            reward=lambda c: c,
            discount=0.9,
        )

    found = solved(stay)
    then = 1.2 * found["grid_m"] - found["policy_c"]
    assert found["code"] == 0
    assert ((then > 1.0 - 1e-9) & (then < 2.0 + 1e-9)).all()
