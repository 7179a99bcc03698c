"""Verification of solutions: the definition, applied in NumPy, confirms or refutes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.model_definition.pairs import define
from dpsolve.hpc.store import checksums
from dpsolve.hpc.verify.proofs import Claim, Interval, Place, ValueProof, find_weight
from dpsolve.hpc.verify.stored_point import Stored, examine
from dpsolve.hpc.verify.verification import Verification

from ...reference import random_arrays, random_problem, solve_arrays

TOL = 1e-8


def assert_refuted(found: Verification, *words: str) -> None:
    assert not found.ok
    assert any(all(word in claim for word in words) for claim in found.claims), str(found)


def altered(solution: dp.Solution, name: str, at: Any, change: float) -> dp.Solution:
    array = np.array(solution.arrays[name])
    array[at] += change
    return replace(solution, arrays={**solution.arrays, name: array})


@pytest.mark.slow
def test_a_solution_is_verified() -> None:
    solution = dp.solve("savings", {"continuous": False, "n_a": 30, "n_z": 3}, tol=TOL)
    found = dp.verify(solution)
    assert found.ok, str(found)
    assert found.worst_point["beta"] == 0.96
    assert found.worst_error <= TOL
    wrong = dp.verify(altered(solution, "value", (7, 1), 1e-7))
    assert_refuted(wrong, "value", "a=4.82759, z=0")
    assert str(wrong).startswith("savings: NOT verified")


@pytest.mark.slow
def test_every_point_of_many_is_verified() -> None:
    many = dp.solve_many(
        "growth", {"continuous": False, "beta": np.array([0.9, np.nan, 0.93]), "n_k": 10}, tol=TOL
    )
    found = dp.verify(many)
    assert found.ok, str(found)
    assert (found.points_checked, found.points_failed, found.points_total) == (2, 1, 3)
    assert_refuted(dp.verify(altered(many, "upper", (2, 4), -1e-7)), "beta=0.93", "upper")


def test_a_finite_horizon_is_verified_period_by_period() -> None:
    solution = dp.solve("cake", {"n_x": 12, "horizon": 5})
    found = dp.verify(solution)
    assert found.ok, str(found)
    for name in ("value", "lower", "upper"):
        wrong = dp.verify(altered(solution, name, (3, 8), 1e-9 if name != "upper" else -1e-9))
        assert_refuted(wrong, name, "t=3, x=0.754545")


@pytest.mark.parametrize("form", ["product", "pairs"])
def test_a_model_from_arrays_is_verified(form: str) -> None:
    reward, transition, beta = random_arrays(3)
    if form == "product":
        model = dp.mdp(reward, transition, beta)
    else:
        s, a = np.nonzero(reward > -np.inf)
        model = dp.mdp(reward[s, a], transition[s, a], beta, states=s, actions=a)
    solution = dp.solve(model, tol=TOL)
    found = dp.verify(solution)
    assert found.ok, str(found)
    np.testing.assert_allclose(
        solution.value, solve_arrays(reward, transition, beta).value, atol=TOL
    )
    assert_refuted(dp.verify(altered(solution, "lower", 4, 1e-7)), "lower", "state=4")
    infeasible = np.argwhere(reward == -np.inf)[0]
    shift = infeasible[1] - int(solution.policy_index["action"][infeasible[0]])
    wrong = altered(solution, "policy_index_action", infeasible[0], shift)
    wrong = altered(wrong, "policy_action", infeasible[0], shift)
    assert_refuted(dp.verify(wrong), "policy_action", "not feasible")


def test_a_claim_beyond_a_false_certificate_is_refuted() -> None:
    """Bounds shifted as a whole keep their width, and the step still refutes them."""
    solution = dp.solve("growth", {"continuous": False, "n_k": 10}, tol=TOL)
    arrays = {n: np.asarray(x) for n, x in solution.arrays.items()}
    for shift in (1e-6, -1e-6):
        moved = {n: arrays[n] + shift for n in ("value", "lower", "upper")}
        found = dp.verify(replace(solution, arrays={**arrays, **moved}))
        assert_refuted(found, "lower" if shift > 0 else "upper", "not confirmed")


def test_probabilities_that_leak_within_their_tolerance_are_no_fault() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 2)},
        shocks={"w": dp.iid([0.0, 1.0], lambda x: jnp.array([0.5, 0.5 - 5e-10]))},
        transition={"x": "c"},
        reward=lambda x, c, w: x + c * w,
        discount=0.9,
    )
    assert dp.verify(dp.solve(model, tol=1e-6)).ok


def test_large_points_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    solution = dp.solve("growth", {"continuous": False, "n_k": 10}, tol=TOL)
    monkeypatch.setattr("dpsolve.hpc.verify.verification.MOST_PAIRS", 50)
    found = dp.verify(solution)
    assert found.ok, str(found)
    assert any("0.5 of the states" in note for note in found.notes)
    assert not dp.verify(solution, all_points=True).notes


# -- what the proofs rest on ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_interval_from_any_value_holds_the_true_one(seed: int) -> None:
    kind = ("constant", "varying", "above")[seed % 3]
    problem = random_problem(seed, finite=False, discount=kind, outside=seed % 2 == 0)
    model, true = problem.model(), problem.solve().value
    definition = define(model)
    place = Place(model, definition, np.arange(definition.n))
    rng = np.random.default_rng(seed)
    for size in (1e-9, 1e-3, 10.0):
        value = true + size * rng.uniform(-1, 1, definition.n)
        claim = Claim(value, value, value, ("lower", "upper"))
        proven = ValueProof(place, None, claim, claim, 0.0).interval(Interval(value, value))
        assert (proven.low <= true).all()
        assert (true <= proven.high).all()
        assert np.max(proven.high - proven.low) < 1e3 * size + 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_honest_and_false_claims_about_random_problems(seed: int) -> None:
    problem = random_problem(seed + 20)
    model, answer = problem.model(), problem.solve()
    shape = (-1, *problem.shape) if problem.horizon else problem.shape
    true = answer.value.reshape(shape)
    bound = 1e-6
    honest = {"value": true, "lower": true - bound, "upper": true + bound}
    assert examine(model, Stored(honest, bound)).faults == []
    for name, sign in (("lower", 1.0), ("upper", -1.0), ("value", 1.0)):
        false = {k: np.array(v) for k, v in honest.items()}
        false[name].flat[1] += sign * 2.5 * bound
        assert any(name in fault for fault in examine(model, Stored(false, bound)).faults)


def test_a_weight_function_is_the_expected_sum_of_discounts() -> None:
    """x' = 0 from anywhere, with discount 1.5 at x = 1 and 0.5 at x = 0: w = 1 + b(x) w(0)."""
    model = dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={"c": dp.integers(0, 0)},
        transition={"x": lambda: 0},
        reward=lambda x: x,
        discount=lambda x: 0.5 + x,
    )
    weight, rate = find_weight(define(model))
    np.testing.assert_allclose(weight, [2.0, 4.0], rtol=1e-2)
    assert rate == pytest.approx(0.75, rel=1e-2)
    diverging = dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={"c": dp.integers(0, 0)},
        transition={"x": "x"},
        reward=lambda x: x,
        discount=lambda x: 0.5 + x,
    )
    assert find_weight(define(diverging))[1] > 1.0


def test_digests_tell_any_change_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(5, 3)),
        "b": rng.integers(0, 9, 5).astype(np.int32),
        "c": np.array(["x", "", "é", "x", "y"], dtype=object),
        "d": rng.random((5, 2, 2)) > 0.5,
        "e": np.zeros((5, 0)),
    }
    held = checksums.decode(b"".join(checksums.encode(arrays, 5)))
    assert list(held) == list(arrays)
    changed: dict[str, Any] = {k: v.copy() for k, v in arrays.items()}
    changed["a"][2, 1] = np.nextafter(changed["a"][2, 1], 0)
    changed["b"][0] += 1
    changed["c"][2] = "e"
    changed["d"][4, 1, 0] ^= True
    differ = {k: np.flatnonzero(checksums.digests(v, 5) != held[k]) for k, v in changed.items()}
    assert {k: v.tolist() for k, v in differ.items()} == {
        "a": [2], "b": [0], "c": [2], "d": [4], "e": []
    }  # fmt: skip
    swapped = arrays["a"].astype(">f8")
    np.testing.assert_array_equal(checksums.digests(swapped, 5), held["a"])


def test_rewards_that_are_not_numbers_are_named() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 1)},
        transition={"x": "x"},
        reward=lambda x: jnp.where(x == 1, jnp.nan, 1.0),
        discount=0.9,
    )
    found = examine(model, Stored({"value": np.full(3, 10.0)}, 1e-6))
    assert any("gives nan at x=1" in fault for fault in found.faults)


def test_a_post_variable_off_its_grid_is_named_by_the_definition() -> None:
    model = dp.Model(
        states={"s": dp.integers(0, 3)},
        choices={"q": dp.integers(0, 2)},
        post={"y": (dp.integers(0, 3), lambda s, q: s + q)},
        transition={"s": "y"},
        reward=lambda y: y * 1.0,
        discount=0.9,
    )
    every = np.arange(12)
    with pytest.raises(dp.ModelError, match=r"the post variable y=4 is no member .* s=2, q=2"):
        define(model).look(every // 3, every % 3)
