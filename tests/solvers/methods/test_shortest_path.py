"""Sums of rewards at a discount of 1: bounds against rational arithmetic, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

N, M, POINTS = 6, 3, 20


def problems(seed: int) -> tuple[Any, Any]:
    """Return rewards (points, N, M) and chances (points, N, M, N); the last state is the goal.

    Rewards are below 0 at even points, mixed at odd ones; every fifth has a cycle without a cost.
    """
    rng = np.random.default_rng(seed)
    reward = np.where(np.arange(POINTS)[:, None, None] % 2, rng.normal(-1, 1, (POINTS, N, M)), 0)
    reward = np.where(reward == 0, -(10.0 ** rng.uniform(-2, 3, (POINTS, N, M))), reward)
    chance = np.zeros((POINTS, N, M, N))
    for i in np.ndindex(POINTS, N, M):
        to = rng.choice(N, rng.integers(1, 4), replace=False)
        chance[i][to] = rng.dirichlet(np.ones(to.size))
    for k in range(0, POINTS, 5):
        chance[k, 0, 0], chance[k, 1, 0] = np.eye(N)[[1, 0]]
        reward[k, 1, 0] = -reward[k, 0, 0]
    chance[:, -1], reward[:, -1] = np.eye(N)[-1], 0
    return reward, chance


def exact(reward: Any, chance: Any, policy: Any) -> list[Fraction]:
    """Return a policy's value by Gauss' elimination in rational arithmetic."""
    rows = []
    for s in range(N - 1):
        p = [Fraction(float(x)) for x in chance[s, policy[s]]]
        total = sum(p)
        left = [Fraction(int(s == j)) - p[j] / total for j in range(N - 1)]
        rows.append([*left, Fraction(float(reward[s, policy[s]]))])
    for i in range(N - 1):
        at = next(k for k in range(i, N - 1) if rows[k][i])
        rows[i], rows[at] = rows[at], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(N - 1):
            if k != i:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [*(row[-1] for row in rows), Fraction(0)]


REWARD, CHANCE = np.zeros((N, M)), np.eye(N)[:, None].repeat(M, 1)


def goes(R: Any = REWARD, P: Any = CHANCE) -> Any:
    return dp.mdp(R, P, 1)


@pytest.mark.slow
def test_bounds_hold_in_rational_arithmetic() -> None:
    """To the last digit: at a tolerance that rounding does not allow, all of it is allowance."""
    reward, chance = problems(1)
    many = dp.solve_many(goes, {"R": reward, "P": chance}, tol=1e-13, max_iter=1000)
    lower, upper, error = (np.asarray(x) for x in (many.lower, many.upper, many.error_bound))
    proven = 0
    for k in range(POINTS):
        if not np.isfinite(error[k]):
            continue
        assert k % 5
        proven += 1
        value = exact(reward[k], chance[k], np.asarray(many.policy["action"][k]))
        for s in range(N):
            # What the policy earns is between the bounds, as is the greatest value, ...
            assert lower[k, s] <= value[s] <= upper[k, s]
            # ... and no other choice is better by more than what is between them.
            for a in range(M):
                total = sum(Fraction(float(x)) for x in chance[k, s, a])
                ahead = [
                    Fraction(float(p)) * v for p, v in zip(chance[k, s, a], value, strict=True)
                ]
                q = Fraction(float(reward[k, s, a])) + sum(ahead) / total
                assert q <= value[s] + Fraction(4 * float(error[k]))
    assert proven >= 10


def test_a_solution_is_verified_and_a_forged_one_is_not() -> None:
    reward, chance = problems(1)
    found = dp.solve(goes, {"R": reward[3], "P": chance[3]})
    assert dp.verify(found).ok
    for name, moved in (("lower", 1e-3), ("upper", -1e-3), ("value", 1e-3), ("value", 1e3)):
        arrays = {**found.arrays, name: np.asarray(found.arrays[name]) + moved}
        assert not dp.verify(replace(found, arrays=arrays)).ok
    # A cycle without a cost: each of these bounds is confirmed by one step, and false.
    loop = np.zeros((N, M, N))
    loop[:, 0, -1] = 1
    loop[:, 1:] = np.eye(N)[(np.arange(N) + 1) % (N - 1)][:, None]
    loop[-1] = np.eye(N)[-1]
    pay = np.full((N, M), -1.0)
    pay[:-1, 1:], pay[-1] = 0, 0
    value = np.append(np.full(N - 1, 7.0), 0.0)
    arrays = {**found.arrays, "value": value, "lower": value - 1e-9, "upper": value + 1e-9}
    forged = replace(found, arrays=arrays, parameters={"R": pay, "P": loop})
    assert "no upper solution" in str(dp.verify(forged))


@pytest.mark.parametrize(
    ("reward", "to", "words"),
    [
        ([[-1, -1], [-1, -1], [-1, -1]], [[1, 2], [0, 2], [2, 2]], "there is no end"),
        ([[-1, -1], [-1, -1], [0, 0]], [[1, 1], [0, 0], [2, 2]], "from state 0 (in all from 2 of"),
        ([[0, -1], [0, -1], [0, 0]], [[1, 2], [0, 2], [2, 2]], "a cycle of rewards"),
        ([[1, -1], [-0.5, -1], [0, 0]], [[1, 2], [0, 2], [2, 2]], "a cycle of rewards"),
        ([[0, -1], [0, -1], [0, 0]], [[0, 2], [1, 2], [2, 2]], "a cycle of rewards"),
    ],
)
def test_what_is_no_shortest_path_is_refused(reward: Any, to: Any, words: str) -> None:
    with pytest.raises(dp.ModelError, match="the discount is 1") as told:
        dp.check(dp.mdp(np.array(reward, float), np.eye(3)[np.array(to)], 1.0))
    assert words in str(told.value)


def test_a_prize_at_the_goal_and_a_free_step_are_no_hindrance() -> None:
    """Steps along a line cost 1, the last pays 10, and a door on the way is free."""
    n = 9

    def line(prize: float = 10.0) -> Any:
        return dp.Model(
            states={"x": dp.integers(0, n)},
            choices={"move": dp.integers(-1, 1)},
            transition={"x": lambda x, move: jnp.where(x == n, n, jnp.clip(x + move, 0, n))},
            reward=lambda x, move: jnp.where(
                (x == n) | ((x == 4) & (move == 1)), 0.0, prize * ((x == n - 1) & (move == 1)) - 1.0
            ),
            discount=1,
        )

    found = dp.solve(line, tol=1e-9)
    steps = n - np.arange(n + 1) - (np.arange(n + 1) <= 4)
    assert found.status == "solved"
    np.testing.assert_allclose(found.value, np.where(steps > 0, 10.0 - steps, 0.0), atol=1e-9)
    with pytest.raises(dp.UsageError, match="no gradients"):
        dp.solve(line, gradients=["prize"])
