"""Lines that move by a few steps, or leap to one place, against dense LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpsolve.solvers.discrete_choice.banded import REACH, moves, solve_along

N, LINES, POINTS = 30, 2, 3


def chain(seed, leaps):
    """Chances (lines, alternatives, n, n): short steps, wear alone, and leaps if there are any."""
    rng = np.random.default_rng(seed)
    p = np.zeros((LINES, 3, N, N))
    for line, i, step in np.ndindex(LINES, N, 2 * REACH + 1):
        for j, down in enumerate((REACH, 0)):
            if step >= REACH - down:
                p[line, j, i, np.clip(i + step - REACH, 0, N - 1)] += rng.random()
    p[:, 2] = {"one place": rng.random((LINES, 1, N)), "anywhere": rng.random((LINES, N, N))}[leaps]
    return p / p.sum(-1, keepdims=True)


def errors(p, weight, transposed):
    """Solve at all points at once, as a batch of batches; the largest error against LAPACK's."""
    b = np.random.default_rng(5).normal(size=(POINTS, N, LINES))
    found = moves(lambda f: jnp.einsum("ajik,k->iaj", p, f), N)
    one = jax.vmap(jax.vmap(lambda w, b: solve_along(found, w, b, transposed)))
    x = np.asarray(jax.jit(one)(weight[None], b[None]))[0]
    worst = 0.0
    for point, line in np.ndindex(POINTS, LINES):
        chances = np.einsum("ij,jik->ik", weight[point, :, line], p[line])
        system = np.eye(N) - (chances.T if transposed else chances)
        exact = np.linalg.solve(system, b[point, :, line])
        worst = max(worst, abs(exact - x[point, :, line]).max() / abs(exact).max())
    return worst


@pytest.mark.parametrize("transposed", [False, True])
def test_a_band_and_leaps_to_one_place_are_solved_exactly(transposed):
    weight = np.random.default_rng(1).random((POINTS, N, LINES, 3))
    weight *= 0.9999 / weight.sum(-1, keepdims=True)
    # LAPACK's own error, at a condition number of 2 / (1 - .9999).
    assert errors(chain(2, "one place"), weight, transposed) < 1e-10


def test_leaps_to_many_places_are_left_to_others():
    p = chain(3, "anywhere")
    found = moves(lambda f: jnp.einsum("ajik,k->iaj", p, f), N)
    assert np.asarray(found.leaps).sum() == LINES  # the first row that leaps, and no other
    assert (np.asarray(found.steps)[:, :, 2] == 0.0).all()
    np.testing.assert_allclose(np.asarray(found.place).T, p[:, 2, 0], atol=1e-14)
    np.testing.assert_allclose(np.asarray(found.steps).sum(-1)[:, :, :2], 1.0, rtol=1e-13)
