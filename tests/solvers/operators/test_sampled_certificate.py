"""A sample in place of a certificate: never called one; a full one where it finds better."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.inspection.forecast import outlook
from dpsolve.solvers.library import savings
from dpsolve.solvers.operators import sampled_certificate
from dpsolve.solvers.options import SolveOptions

MORE = {"continuous": False, "n_a": 300, "n_z": 3}


def test_a_sample_certifies_nothing_and_says_so() -> None:
    full = dp.solve("savings", MORE, certificate="full")
    some = dp.solve("savings", MORE, certificate="sampled", sample=2_000)
    assert (full.status, full.certificate) == ("solved", "full")
    assert (some.status, some.certificate) == ("inexact", "sampled")
    assert some.message.startswith(
        "no better choice at 2,000 sampled states (confidence .999), which bounds no error"
    )
    assert float(some.error_bound) == np.inf
    assert (np.asarray(some.lower) == -np.inf).all()
    assert (np.asarray(some.upper) == np.inf).all()
    assert "nothing certified" in repr(some)
    np.testing.assert_allclose(some.value, full.value, atol=2e-6)
    verified = dp.verify(some)
    assert verified.ok, str(verified)
    assert any("nothing is claimed of the value" in note for note in verified.notes)


@pytest.mark.slow
def test_one_that_is_called_solved_is_refuted() -> None:
    """As stores have it from before a sample was no certificate."""
    some = dp.solve("savings", MORE, certificate="sampled", sample=100)
    value, bound = some.value, 1e-5
    claim = {"error_bound": bound, "lower": value - bound, "upper": value + bound, "code": 0}
    arrays = dict(some.arrays) | {name: jnp.asarray(x) for name, x in claim.items()}
    found = dp.verify(dp.Solution(arrays, some.parameters, some.problem, ""))
    assert not found.ok
    assert "a sample of states bounds no error" in str(found)


@pytest.mark.slow
def test_inside_a_trace_the_sentence_has_the_number_too() -> None:
    some = jax.jit(lambda b: dp.solve("savings", {**MORE, "beta": b}, certificate="sampled",
                                      sample=1_500))(0.95)  # fmt: skip
    assert some.message.startswith("no better choice at 1,500 sampled states (confidence .999)")


def leaking(beta=0.9):
    """Chances sum to 1.8 at one value of n, where a sample need not look."""

    def probs(n):
        return jnp.where(n == 3, jnp.array([0.9, 0.9]), jnp.array([0.5, 0.5]))

    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, 300), "n": dp.integers(0, 4)},
        choices={"y": "x"},
        shocks={"w": dp.iid([0.5, 1.5], probs)},
        transition={"x": "y", "n": "n"},
        reward=lambda x, y, w: w * jnp.log(2.0 * x - y + 1.1),
        feasible=lambda x, y: 2.0 * x - y + 1.0 > 0,
        discount=beta,
        monotone={"y": "x"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_pairs_are_surveyed_and_not_those_of_the_sample_alone(seed: int) -> None:
    with pytest.raises(dp.ModelError, match=r"'w' at .*n=3.* sum to 1\.8"):
        dp.solve(leaking, certificate="sampled", sample=1, sample_seed=seed)


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
        ahead = outlook(savings, {"continuous": False, "n_a": 20_000, "n_z": 25}, options)
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
    assert list(many.status) == ["inexact", "solved"]
    assert "3,000 sampled states" in many.message[0]


def test_the_share_of_states_is_that_of_the_docstring() -> None:
    assert sampled_certificate.share(2_000) == pytest.approx(np.log(1_000) / 2_000)
    assert sampled_certificate.share(1) == 1.0


@pytest.mark.parametrize(
    ("option", "value"), [("certificate", "none"), ("sample", 0), ("sample_seed", -1)]
)
def test_bad_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        dp.solve("savings", MORE, **{option: value})
