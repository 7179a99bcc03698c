"""Bounds against exact rationals: none is violated, rounding of the last bit included.

What a certificate is of: the float64 discount and rewards as given, and each row's float64
probabilities divided by their exact sum. The oracle solves that very problem in Python's fractions,
by policy iteration with exact linear solves, and compares as fractions, too.
"""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp

SHAPES = ((2, 2), (3, 2), (4, 3))  # states and actions, a program each
DISCOUNTS = (0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12)


def typed_row(random: np.random.Generator, n: int) -> list[float]:
    """Return a row as decimals are typed: .1 .2 .7, thirds to ten digits, what is left of one."""
    kind = random.integers(4)
    if kind == 0:  # one decimal each
        cuts = np.sort(random.integers(0, 11, n - 1))
        return [float(f"{part / 10:.1f}") for part in np.diff([0, *cuts, 10])]
    if kind == 1:  # equal parts
        return [round(1 / n, 10)] * n
    if kind == 2:  # what the others leave of one, which may come out below zero
        cuts = np.sort(random.integers(0, 101, n - 1))
        first = [float(f"{part / 100:.2f}") for part in np.diff([0, *cuts, 100])][:-1]
        last = 1.0
        for p in first:
            last = last - p
        return [*first, last]
    weights = random.random(n)
    return list(weights / weights.sum())


def problems(count: int, n: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw rewards (count, n, m), probabilities (count, n, m, n) and discounts (count,)."""
    random = np.random.default_rng(seed)
    rewards = random.normal(size=(count, n, m))
    kind = random.integers(4, size=count)
    rewards[kind == 1] = np.round(rewards[kind == 1], 1)
    rewards[kind == 2] = 1.0  # a value without a rest
    rewards[kind == 3] *= 10.0 ** random.integers(-300, 9, size=((kind == 3).sum(), 1, 1))
    rows = [typed_row(random, n) for _ in range(count * n * m)]
    beta = random.choice(DISCOUNTS, size=count)
    return rewards, np.reshape(rows, (count, n, m, n)), beta


def solve_exactly(reward: np.ndarray, rows: np.ndarray, beta: float) -> list[Fraction]:
    """Return the value of each state, by policy iteration in rational numbers."""
    n, m, b = *reward.shape, Fraction(beta)
    r = [[Fraction(x) for x in row] for row in reward.tolist()]
    p = []
    for s in range(n):
        own = [[max(Fraction(x), Fraction(0)) for x in row] for row in rows[s].tolist()]
        p.append([[x / sum(row) for x in row] for row in own])
    policy = [0] * n
    while True:
        value = solve_linear(
            [[(i == j) - b * p[i][policy[i]][j] for j in range(n)] for i in range(n)],
            [r[i][policy[i]] for i in range(n)],
        )
        q = [
            [r[i][c] + b * sum(p[i][c][j] * value[j] for j in range(n)) for c in range(m)]
            for i in range(n)
        ]
        if all(max(q[i]) == value[i] for i in range(n)):
            return value
        policy = [policy[i] if max(q[i]) == value[i] else q[i].index(max(q[i])) for i in range(n)]


def solve_linear(a: list[list[Fraction]], b: list[Fraction]) -> list[Fraction]:
    """Solve a small linear system by elimination; its diagonal dominates."""
    rows = [[*row, x] for row, x in zip(a, b, strict=True)]
    n = len(rows)
    for i in range(n):
        head = rows[i][i]
        rows[i] = [x / head for x in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                factor = rows[k][i]
                rows[k] = [x - factor * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[n] for row in rows]


def certified(n: int, m: int, count: int, seed: int, **options: object) -> None:
    """Solve `count` random problems in one program, and compare each bound with the truth."""
    rewards, rows, beta = problems(count, n, m, seed)

    def numbered(i: float = 0.0) -> dp.TabularModel:
        at = jnp.asarray(i).astype(int)
        return dp.mdp(jnp.asarray(rewards)[at], jnp.asarray(rows)[at], jnp.asarray(beta)[at])

    found = dp.solve_many(numbered, {"i": np.arange(float(count))}, **options)
    assert np.isin(found.status, ["solved", "inexact"]).all()
    for i in range(count):
        truth = solve_exactly(rewards[i], rows[i], float(beta[i]))
        bound = Fraction(float(found.error_bound[i]))
        for s in range(n):
            low, value, high = (
                Fraction(float(x[i, s])) for x in (found.lower, found.value, found.upper)
            )
            said = f"problem {i} of seed {seed} at discount {beta[i]!r}, state {s}"
            assert low <= truth[s] <= high, said
            assert abs(value - truth[s]) <= bound, said


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_bounds_of_small_problems_hold_exactly(n: int, m: int) -> None:
    certified(n, m, 60, seed=7)


@pytest.mark.slow
@pytest.mark.parametrize("tol", [1e-6, 1e-3])
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_bounds_of_3000_small_problems_hold_exactly(n: int, m: int, tol: float) -> None:
    certified(n, m, 500, seed=1 + round(1 / tol), tol=tol)
