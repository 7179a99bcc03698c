"""States that are cycles, solved at one phase: the same values, certified, in fewer sweeps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.methods.choose_operator import Operators
from dpsolve.solvers.operators.cyclic import CyclicOperator, cycle_of
from dpsolve.solvers.options import SolveOptions

DEMAND = np.arange(4)


def shop(beta=0.95, fee=1.0, *, n=6, days=7):
    """A stock that is ordered by the day: demand goes with the weekday, prices with a chain."""

    def chances(day):
        weight = jnp.exp(-((DEMAND - 1.5 - jnp.sin(2 * jnp.pi * day / days)) ** 2))
        return weight / weight.sum()

    return dp.Model(
        states={
            "s": dp.integers(0, n),
            "day": dp.integers(0, days - 1),
            "z": dp.markov([0.8, 1.3], [[0.9, 0.1], [0.3, 0.7]]),
        },
        choices={"order": dp.integers(0, 3)},
        shocks={"d": dp.iid(DEMAND, chances)},
        feasible=lambda s, order: s + order <= n,
        transition={
            "s": lambda s, order, d: jnp.maximum(s + order - d, 0),
            "day": lambda day: (day + 1) % days,
        },
        reward=[
            lambda s, order, d, z: 4.0 * z * jnp.minimum(s + order, d),
            lambda order, day: -order - fee * (order > 0) * (1 + (day == 6)),
        ],
        discount=beta,
        outputs={"late": lambda day, order: (day >= 5) * order},
    )


def exact(beta: float, fee: float, n: int = 6, days: int = 7) -> np.ndarray:
    """Solve the shop by policy iteration, state after state, with a dense linear system."""
    chain = np.array([[0.9, 0.1], [0.3, 0.7]])
    price = (0.8, 1.3)
    shape = (n + 1, days, 2)
    states = list(np.ndindex(shape))
    rows: dict[Any, Any] = {}
    for s, day, z in states:
        weight = np.exp(-((DEMAND - 1.5 - np.sin(2 * np.pi * day / days)) ** 2))
        for order in range(min(3, n - s) + 1):
            earned = -order - fee * (order > 0) * (1 + (day == 6))
            to = np.zeros(shape)
            for d, p in zip(DEMAND, weight / weight.sum(), strict=True):
                earned += p * 4.0 * price[z] * min(s + order, d)
                for z_next in range(2):
                    to[max(s + order - d, 0), (day + 1) % days, z_next] += p * chain[z, z_next]
            rows[s, day, z, order] = earned, to.ravel()
    policy = dict.fromkeys(states, 0)
    while True:
        chosen = [rows[(*x, policy[x])] for x in states]
        system = np.eye(len(states)) - beta * np.stack([to for _, to in chosen])
        v = np.linalg.solve(system, np.array([r for r, _ in chosen]))
        better = {}
        for x in states:
            q = [
                rows[(*x, o)][0] + beta * rows[(*x, o)][1] @ v for o in range(min(3, n - x[0]) + 1)
            ]
            better[x] = policy[x] if max(q) <= q[policy[x]] + 1e-10 else int(np.argmax(q))
        if better == policy:
            return v.reshape(shape)
        policy = better


def holds(solution: dp.Solution, truth: np.ndarray) -> None:
    """Assert that the bounds contain the truth, and the value is as near as it says."""
    assert (np.asarray(solution.lower) <= truth + 1e-12).all()
    assert (truth <= np.asarray(solution.upper) + 1e-12).all()
    assert np.abs(np.asarray(solution.value) - truth).max() <= float(solution.error_bound) + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vi", pytest.param("auto", marks=pytest.mark.slow)])
def test_against_policy_iteration_in_numpy(method: str) -> None:
    truth = exact(0.95, 1.0)
    solution = dp.solve(shop, method=method, tol=1e-4)
    assert solution.status == "solved"
    holds(solution, truth)
    assert dp.verify(solution).ok
    plain = dp.solve(shop, method=method, tol=1e-4, cycles=False)
    assert int(solution.iterations) < int(plain.iterations)
    if method == "vi":  # a turn contracts by the product, and a sweep is a turn
        assert int(solution.iterations) <= int(plain.iterations) / 7 + 1
    for name in ("policy_index_order", "output_late"):
        np.testing.assert_array_equal(solution[name], plain[name])


@pytest.mark.slow
def test_many_points_in_rounds() -> None:
    betas, fees = np.array([0.5, 0.9, np.nan, 0.999, 1.2]), np.array([0.0, 1.0, 1.0, 2.0, 1.0])
    many = dp.solve_many(shop, {"beta": betas, "fee": fees}, tol=1e-6)
    assert list(many.status) == ["solved", "solved", "failed", "solved", "failed"]
    assert "discount is 1.2" in many.message[4]
    for i in (0, 1, 3):
        holds(many.point(i), exact(betas[i], fees[i]))
    assert dp.verify(many).ok


@pytest.mark.slow
def test_what_follows_from_the_policy_has_all_states() -> None:
    options = {"tol": 1e-8, "moments": ("mean_s", "mean_late")}
    solution = dp.solve(shop, **options)
    plain = dp.solve(shop, cycles=False, **options)
    for name in ("mean_s", "mean_late"):
        assert float(solution.moments[name]) == pytest.approx(float(plain.moments[name]), abs=1e-7)
    np.testing.assert_allclose(dp.stationary(solution).mass, dp.stationary(plain).mass, atol=1e-7)
    shared = dp.solve(shop, tol=1e-8, mesh="states=2")
    holds(shared, exact(0.95, 1.0))


# -- other cycles ---------------------------------------------------------------------------------


def walk(beta=0.9, bonus=1.0, *, kind="week", phases=5):
    """A position that may be moved by a step, in a phase that goes its own way."""
    numbers = np.arange(phases)
    after = {
        "week": (numbers + 1) % phases,
        "age": np.minimum(numbers + 1, phases - 1),
        "tail": np.where(numbers == phases - 1, phases - 2, numbers + 1),
        "backwards": (numbers - 2) % phases,
        "two": np.where(numbers < 2, 1 - numbers, 2 + (numbers - 1) % (phases - 2)),
        "still": numbers,
    }
    discount = beta
    if kind == "chain":
        phase = dp.markov(numbers * 1.0, np.roll(np.eye(phases), 2, 1))
        rules = {}
    elif kind == "traced":
        phase = dp.integers(0, phases - 1)
        rules = {"p": lambda p: (p + 1 + 0 * jnp.asarray(bonus).astype(int)) % phases}
    else:
        phase = dp.integers(0, phases - 1)
        to = jnp.asarray(after.get(kind, after["week"]))
        rules = {"p": lambda p: to[p]}
    if kind == "growing":  # above 1 in one phase, and below on average
        discount = lambda p: jnp.where(p == 1, 1.15, beta)  # noqa: E731
    if kind == "mixed":
        discount = lambda p, x, c: jnp.where((p == 1) & (x > 1), 1.1, beta - 0.1 * c)  # noqa: E731
    swing = 1e7 if kind == "swings" else 0.0  # values on the way dwarf those of the first phase
    return dp.Model(
        states={"p": phase, "x": dp.integers(0, 3)},
        choices={"c": dp.integers(0, 1)},
        transition={"x": lambda x, c: (x + c) % 4, **rules},
        reward=lambda p, x, c: bonus * (x == 2) * (p + 1.0) - 0.3 * c + swing * (1.0 - 0.5 * p),
        discount=discount,
    )


SLOW = ("week", "age", "backwards", "chain", "growing", "swings")
KINDS = ("tail", "mixed", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_cycle_gives_the_plain_value(kind: str) -> None:
    params, tol = {"kind": kind, "phases": 5}, 1e-5 if kind == "swings" else 1e-7
    solution = dp.solve(walk, params, tol=tol)
    plain = dp.solve(walk, params, tol=tol, cycles=False)
    assert isinstance(Operators(walk(kind=kind), SolveOptions()).loop, CyclicOperator)
    assert solution.status == plain.status == "solved"
    assert (solution.lower <= plain.upper).all()
    assert (plain.lower <= solution.upper).all()
    assert float(solution.error_bound) <= tol
    assert dp.verify(solution).ok
    assert int(solution.iterations) <= int(plain.iterations)


@pytest.mark.slow
def test_which_states_are_cycles() -> None:
    assert cycle_of(walk()).turn == (0, 1, 2, 3, 4)  # type: ignore[union-attr]
    assert set(cycle_of(walk(kind="backwards")).turn) == {0, 1, 2, 3, 4}  # type: ignore[union-attr]
    age = cycle_of(walk(kind="age"))
    assert age is not None
    assert age.turn == (4,)
    assert age.before == ((3, 4), (2, 3), (1, 2), (0, 1))
    tail = cycle_of(walk(kind="tail"))
    assert tail is not None
    assert set(tail.turn) == {3, 4}
    assert tail.before == ((2, 3), (1, 2), (0, 1))
    for kind in ("two", "still"):
        assert cycle_of(walk(kind=kind)) is None
        assert dp.solve(walk, {"kind": kind}).status == "solved"
    assert dp.solve(walk, {"kind": "traced"}).status == "solved"
    assert not isinstance(Operators(walk(), SolveOptions(cycles=False)).loop, CyclicOperator)
    average = SolveOptions(criterion="average")
    assert not isinstance(Operators(walk(beta=1.0), average).loop, CyclicOperator)


def test_the_average_reward_of_a_cycle() -> None:
    solution = dp.solve(walk, {"beta": 1.0}, criterion="average", tol=1e-8)
    # Moving to the second position and staying there: bonuses of 1 to 5 in turn.
    assert float(solution.gain) == pytest.approx(3.0, abs=1e-8)


# -- what is wrong is found at any phase ----------------------------------------------------------


def faulty(beta=0.9, *, fault="none"):
    """Something is wrong on the last day only, or in a phase that is never come back to."""
    day = 3 if fault != "early" else 0

    def reward(x, p):
        return jnp.where((p == day) & (fault == "reward"), jnp.nan, 1.0 * x)

    return dp.Model(
        states={"x": dp.integers(0, 3), "p": dp.integers(0, 3)},
        choices={"c": dp.integers(0, 1)},
        transition={
            "x": lambda x, c, p: x + c * (p == day) if fault == "grid" else (x + c) % 4,
            "p": lambda p: jnp.minimum(p + 1, 3) if fault == "early" else (p + 1) % 4,
        },
        feasible=lambda x, c, p: (p != day) | (x < 3) | (fault not in ("feasible", "early")),
        reward=reward,
        discount=lambda p: jnp.where((p == day) & (fault == "discount"), -0.1, beta),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("feasible", "x=3, p=3"),
        ("early", "x=3, p=0"),
        pytest.param("grid", "off its grid", marks=pytest.mark.slow),
        pytest.param("discount", "-0.1", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_one_phase_is_named(fault: str, words: str) -> None:
    with pytest.raises(dp.ModelError, match=words):
        dp.solve(faulty, {"fault": fault})


@pytest.mark.slow
def test_a_reward_that_is_no_number_in_one_phase() -> None:
    assert dp.solve(faulty, {"fault": "reward"}).status == "failed"
    assert dp.solve(faulty).status == "solved"


def slanted(beta=0.9, *, n=5):
    """A continuous state that is extrapolated beyond its grid."""
    return dp.Model(
        states={"k": dp.grid(0.0, 1.0, n, outside="extrapolate"), "p": dp.integers(0, 2)},
        choices={"c": dp.grid(0.0, 1.0, 3)},
        transition={"k": lambda k, c: 0.9 * k + 0.105 * c, "p": lambda p: (p + 1) % 3},
        reward=lambda k, c, p: jnp.sqrt(k + 0.1) * (1 + p) - 0.2 * c,
        discount=beta,
    )


@pytest.mark.slow
def test_extrapolation_is_left_to_the_plain_operator() -> None:
    assert cycle_of(slanted()) is None
    solution = dp.solve(slanted, tol=1e-6)
    assert solution.status == "solved"
    assert dp.verify(solution).ok
