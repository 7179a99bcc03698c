"""Chains that walk step by step: solved directly, and left alone where they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.numerics.krylov import bicgstab
from dpsolve.solvers.numerics.tridiagonal import line_solver

RNG = np.random.default_rng(0)


def walk(n: int, longest: int = 1) -> np.ndarray:
    """Rows of random probabilities of moves of at most so many steps."""
    p = RNG.uniform(size=(n, n))
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    p[distance > longest] = 0.0
    return p / p.sum(1, keepdims=True)


@jax.jit
def solved(p: jax.Array, discount: jax.Array, b: jax.Array) -> jax.Array:
    return line_solver(lambda f: p @ f, discount, b.shape, 0)(b)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 101])
def test_a_walk_is_solved_directly(n: int) -> None:
    p, b = walk(n), RNG.normal(size=n)
    expected = np.linalg.solve(np.eye(n) - 0.9999 * p, b)
    np.testing.assert_allclose(solved(p, 0.9999, b), expected, rtol=1e-9, atol=1e-9)


def test_a_discount_may_depend_on_the_state() -> None:
    p, b, discount = walk(64), RNG.normal(size=64), RNG.uniform(0.2, 0.9999, size=64)
    expected = np.linalg.solve(np.eye(64) - discount[:, None] * p, b)
    np.testing.assert_allclose(solved(p, discount, b), expected, rtol=1e-9, atol=1e-9)


def test_longer_moves_are_no_walk() -> None:
    b = RNG.normal(size=64)
    np.testing.assert_array_equal(solved(walk(64, 2), 0.9999, b), b)
    seldom = walk(64)
    seldom[20] = 0.0
    seldom[20, [19, 20, 22]] = 0.5, 0.5 - 1e-6, 1e-6
    np.testing.assert_array_equal(solved(seldom, 0.9999, b), b)


@jax.jit
def beside(p: jax.Array, chain: jax.Array, b: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
    discount = jnp.asarray(0.9999)

    def apply(x: jax.Array) -> jax.Array:
        return discount * p @ x @ chain.T

    line = line_solver(lambda f: p @ f @ chain.T, discount, b.shape, 0)
    limits = 1e-8, jnp.int32(3_000)
    plain = bicgstab(apply, b, jnp.zeros(b.shape), *limits)
    return plain, bicgstab(apply, b, jnp.zeros(b.shape), *limits, precondition=line)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, 0.9, 0.999])
def test_what_moves_beside_leaves_few_iterations(memory: float | None) -> None:
    n, m = 200, 5
    p, chain = walk(n), RNG.dirichlet(np.full(m, 0.3), size=m)
    if memory is not None:
        chain = np.asarray(dp.rouwenhorst(m, memory, 0.1).transition_matrix)
    b = RNG.normal(size=(n, m))
    (_, plain), (x, better) = beside(p, chain, b)
    expected = np.linalg.solve(np.eye(n * m) - 0.9999 * np.kron(p, chain), b.ravel())
    np.testing.assert_allclose(x, expected.reshape(n, m), rtol=1e-6, atol=1e-6)
    assert 8 * better < plain


def epidemic(beta=0.9999, contact=2.0, price=1.0, *, n=400, m=5):
    """Control of an epidemic: the infected grow or fall by one, and hardly ever die out."""
    top = n - 1

    def moves(infected, control):
        x = infected / top
        up = 0.25 * contact * (1 - 0.9 * control) * x * (1 - x) + 1e-4 * (1 - x)
        down = 0.25 * x
        return jnp.stack([down, 1.0 - up - down, up])

    return dp.Model(
        states={"infected": dp.integers(0, top)},
        choices={"control": dp.grid(0.0, 1.0, m)},
        shocks={"move": dp.iid([-1.0, 0.0, 1.0], moves)},
        transition={"infected": lambda infected, move: jnp.clip(infected + move, 0, top)},
        reward=lambda infected, control: -infected / top - 0.2 * price * control**2,
        discount=beta,
    )


def test_a_metastable_chain_at_discount_9999() -> None:
    found = dp.solve(epidemic, tol=1e-6)
    assert found.status == "solved"
    assert found.iterations < 20
    np.testing.assert_allclose(
        found.value, howard(epidemic()), atol=float(found.error_bound) + 1e-8
    )


def howard(model: dp.Model) -> np.ndarray:
    """Policy iteration with dense matrices."""
    n = model.shape[0]
    infected, control = np.arange(n), np.asarray(model.choices["control"].values)
    top = n - 1
    up, down = np.empty((2, n, control.size))
    for j, u in enumerate(control):
        x = infected / top
        up[:, j] = 0.5 * (1 - 0.9 * u) * x * (1 - x) + 1e-4 * (1 - x)
        down[:, j] = 0.25 * x
    reward = -infected[:, None] / top - 0.2 * control**2
    policy = np.zeros(n, int)
    while True:
        p = np.zeros((n, n))
        rows = np.arange(n)
        u, d = up[rows, policy], down[rows, policy]
        np.add.at(p, (rows, np.minimum(rows + 1, top)), u)
        np.add.at(p, (rows, np.maximum(rows - 1, 0)), d)
        np.add.at(p, (rows, rows), 1 - u - d)
        v = np.linalg.solve(np.eye(n) - 0.9999 * p, reward[rows, policy])
        ups, downs = v[np.minimum(rows + 1, top)], v[np.maximum(rows - 1, 0)]
        q = reward + 0.9999 * (
            up * ups[:, None] + down * downs[:, None] + (1 - up - down) * v[:, None]
        )
        if (q.max(1) <= q[rows, policy] + 1e-9).all():
            return v
        policy = q.argmax(1)
