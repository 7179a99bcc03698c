"""A certificate by a sample: given where nothing better is found, and else a full one."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.inspection.forecast import outlook
from dpsolve.solvers.library import savings
from dpsolve.solvers.operators import sampled_certificate
from dpsolve.solvers.options import SolveOptions

MORE = {"n_a": 300, "n_z": 3}


def test_it_says_what_the_full_one_says() -> None:
    full = dp.solve("savings", MORE, certificate="full")
    some = dp.solve("savings", MORE, certificate="sampled", sample=100)
    assert full.certificate == "full"
    assert some.certificate == "sampled"
    assert some.status == "solved"
    assert (some.lower <= full.upper).all()
    assert (full.lower <= some.upper).all()
    np.testing.assert_allclose(some.value, full.value, atol=2e-6)


def falling(beta=0.9, *, hint=True):
    """The more there is, the less is left: the best choice falls with the state."""
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, 300)},
        choices={"y": "x"},
        transition={"x": "y"},
        reward=lambda x, y: -((x + y - 1.0) ** 2) + 0.3 * jnp.sin(9.0 * y),
        discount=beta,
        monotone={"y": "x"} if hint else {},
    )


@pytest.mark.slow
def test_where_the_choice_does_not_rise_the_certificate_is_full() -> None:
    found = dp.solve(falling, certificate="sampled", tol=1e-8)
    right = dp.solve(falling, {"hint": False}, tol=1e-8)
    assert found.status == "solved"
    assert found.certificate == "full"
    np.testing.assert_allclose(found.value, right.value, atol=2e-8)


def rare(bonus=0.0):
    """A choice far off pays at one state only: no neighbour of the policy tells of it."""
    n = 300

    def reward(x, y):
        treasure = (jnp.abs(x - 150) < 0.5) & (jnp.abs(y - 7) < 0.5)
        return -jnp.abs(y - jnp.minimum(x + 5, n - 1)) + bonus * treasure

    return dp.Model(
        states={"x": dp.grid(0.0, n - 1.0, n)},
        choices={"y": "x"},
        transition={"x": "y"},
        reward=reward,
        discount=0.9,
        monotone={"y": "x"},
    )


@pytest.mark.slow
def test_a_state_of_the_sample_that_has_a_better_choice_is_noticed() -> None:
    many = dp.solve(rare, {"bonus": 1e4}, certificate="sampled", sample=3_000)
    assert many.certificate == "full"
    full = dp.solve(rare, {"bonus": 1e4}, certificate="full")
    np.testing.assert_allclose(many.value, full.value, atol=2e-6)
    assert dp.solve(rare, certificate="sampled", sample=3_000).certificate == "sampled"


@pytest.mark.slow
def test_bad_models_are_refused_all_the_same() -> None:
    with pytest.raises(dp.ModelError, match="discount"):
        dp.solve(falling, {"beta": 1.5}, certificate="sampled")
    nobody = dp.Model(
        states={"x": dp.grid(0.0, 1.0, 300)},
        choices={"y": "x"},
        transition={"x": "y"},
        feasible=lambda x, y: x + y < 1.0,
        reward=lambda x, y: y - x,
        discount=0.9,
        monotone={"y": "x"},
    )
    with pytest.raises(dp.ModelError, match="no feasible choice"):
        dp.solve(nobody, certificate="sampled", sample=10)


def test_nothing_is_certified_by_a_sample_unasked() -> None:
    """Whatever the size: 10^10 pairs are looked at here, by tracing."""
    for options in (SolveOptions(), SolveOptions(certificate="auto")):
        ahead = outlook(savings, {"n_a": 20_000, "n_z": 25}, options)
        assert ahead is not None
        assert not ahead.sampled
        assert ahead.maxima.endswith("then full sweeps certify")


def test_auto_is_another_word_for_full() -> None:
    assert SolveOptions(certificate="auto") == SolveOptions(certificate="full") == SolveOptions()
    assert "certificate" not in SolveOptions(certificate="auto").as_dict()
    assert dp.solve("savings", MORE, certificate="auto").certificate == "full"


@pytest.mark.slow
def test_many_points_each_have_their_own() -> None:
    many = dp.solve_many(rare, {"bonus": [0.0, 1e4]}, certificate="sampled", sample=3_000)
    assert list(many.certificate) == ["sampled", "full"]


def test_the_share_of_states_is_that_of_the_docstring() -> None:
    assert sampled_certificate.share(2_000) == pytest.approx(np.log(1_000) / 2_000)
    assert sampled_certificate.share(1) == 1.0


@pytest.mark.parametrize(
    ("option", "value"), [("certificate", "none"), ("sample", 0), ("sample_seed", -1)]
)
def test_bad_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        dp.solve("savings", MORE, **{option: value})
