"""Divide and conquer in place of all pairs: the same bounds, or none."""

import jax.numpy as jnp
import numpy as np
import pytest
from nonconcave_models import retirement, rising, solved

from dpsolve import grid, interval
from dpsolve.solvers.options import SolveOptions

SMALL = SolveOptions(memory=2**16)  # so that pairs do not fit


def hinted(beta=0.98, *, n=270):
    model = retirement(beta, n=n, horizon=2)
    object.__setattr__(model, "monotone", {"A": "M"})
    return model


@pytest.mark.slow
def test_the_bounds_are_those_of_full_sweeps():
    full = solved(retirement, beta=0.98, n=270, horizon=2)
    found = solved(hinted, beta=0.98, options=SMALL)
    assert found["certifies"] == 1
    for bound in ("lower", "upper"):
        np.testing.assert_allclose(found[bound], full[bound], atol=1e-9)
    np.testing.assert_allclose(found["policy_A"], full["policy_A"], atol=1e-6)
    # Of all pairs nothing is known: the interval is that of all choices.
    assert (found["policy_lower_A"] == 0.0).all()
    assert (found["policy_upper_A"][0, :, 1] == found["grid_M"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("declared", [False, True])
def test_a_choice_that_falls_with_the_state_is_not_trusted_to_rise(declared):
    # At little x a large y costs little: whoever has less chooses more.
    def substitutes():
        return rising(
            "x",
            states={"x": grid(0.0, 3.0, 270)},
            choices={"y": interval("x")},
            transition={"x": "y"},
            reward=lambda x, y: 3.0 * x - 0.9 * x * y - 0.1 * y**2,
            discount=0.9,
            horizon=3,
            monotone={"y": "x"} if declared else {},
        )

    full, found = solved(substitutes), solved(substitutes, options=SMALL)
    assert full["certifies"] == 1
    assert (np.diff(full["policy_y"][0]) < 0).any()
    if declared:
        assert found["certifies"] == 4
    else:
        np.testing.assert_allclose(found["upper"], full["upper"], atol=1e-9)
        assert found["certifies"] == 1
    assert jnp.isinf(found["error_bound"]) == declared
