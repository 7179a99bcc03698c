"""dp.mdp: arrays in product form and in pair form, dense and sparse, are one problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import dpsolve as dp
from reference import random_arrays, solve_arrays


def pairs_of(reward: np.ndarray, transition: np.ndarray):
    state, action = np.nonzero(reward > -np.inf)
    shuffled = np.random.default_rng(0).permutation(len(state))
    state, action = state[shuffled], action[shuffled]
    return reward[state, action], transition[state, action], state, action


@pytest.mark.slow
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.coo_array, sp.csc_array])
def test_pairs_in_any_order_and_form_agree_with_the_product_form(form) -> None:
    reward, transition, beta = random_arrays(3, n=20, m=5)
    truth = solve_arrays(reward, transition, beta)
    r, p, state, action = pairs_of(reward, transition)
    solution = dp.solve(dp.mdp(r, form(p), beta, states=state, actions=action), tol=1e-9)
    assert solution.status == "solved"
    assert np.max(np.abs(solution.value - truth.value)) <= 1e-9
    product = dp.solve(dp.mdp(reward, transition, beta), tol=1e-9)
    np.testing.assert_array_equal(solution.policy["action"], product.policy["action"])


@pytest.mark.slow
def test_one_long_row_among_short_ones_is_stored_by_coordinates() -> None:
    n = 60
    p = sp.lil_array((n, n))
    p[0, :] = 1 / n
    for i in range(1, n):
        p[i, i - 1] = 1.0
    r = np.arange(n, dtype=float)
    model = dp.mdp(r, p, 0.9, states=np.arange(n), actions=np.zeros(n, int))
    assert model.transition.rows is not None
    columns = jax.vmap(model.transition.__matmul__, out_axes=1)(jnp.eye(n))
    np.testing.assert_allclose(columns, p.toarray())
    v = np.linalg.solve(np.eye(n) - 0.9 * p.toarray(), r)
    for method in ("vi", "pi"):
        assert np.max(np.abs(dp.solve(model, tol=1e-8, method=method).value - v)) <= 1e-8


@pytest.mark.slow
def test_arrays_may_depend_on_parameters() -> None:
    p = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.3, 0.7]]])

    def factory(beta=0.9, bonus=1.0):
        return dp.mdp(bonus * np.array([[1.0, 0.0], [2.0, 0.5]]), p, beta)

    many = dp.solve_many(factory, {"bonus": np.array([1.0, 2.0])}, tol=1e-9)
    np.testing.assert_allclose(many.value[1], 2 * many.value[0], atol=1e-8)
    assert jax.jit(lambda b: dp.solve(factory, {"bonus": b}).value)(1.0).shape == (2,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dp.mdp(np.zeros((2, 2)), np.zeros((2, 2)), 0.9), ["(2, 2, 2)"]),
        (lambda: dp.mdp(np.zeros(3), np.zeros((3, 2)), 0.9), ["(states, actions)"]),
        (lambda: dp.mdp(np.zeros((2, 1)), np.array([[[0.5, 0.5]], [[0.5, 0.49]]]), 0.9),
         ["state 1, action 0", "0.99"]),
        (lambda: dp.mdp(np.zeros((1, 1)), sp.csr_array(np.ones((1, 1))), 0.9), ["states="]),
        (lambda: dp.mdp(np.zeros(2), np.eye(2), 0.9, states=[0, 0], actions=[0, 0]), ["twice"]),
        (lambda: dp.mdp(np.zeros(2), np.eye(2), 0.9, states=[0, 0], actions=[0, 1]),
         ["state 1 has no pair"]),
        (lambda: dp.mdp(np.zeros(2), np.eye(2), 0.9, states=[0, 5], actions=[0, 0]), ["0..1"]),
        (lambda: dp.mdp(np.zeros(2), np.eye(2), 0.9, states=[0, 1]), ["both"]),
        (lambda: dp.mdp(np.zeros(2), np.eye(2), 0.9, states=[0.0, 1.0], actions=[0, 0]),
         ["integers"]),
        (lambda: dp.mdp(np.zeros(2), np.eye(2), [0.9], states=[0, 1], actions=[0, 0]), ["beta"]),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(make, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.slow
def test_a_state_without_feasible_action_is_named() -> None:
    reward = np.array([[0.0, 1.0], [-np.inf, -np.inf]])
    model = dp.mdp(reward, np.full((2, 2, 2), 0.5), 0.9)
    for how in (dp.check, dp.solve):
        with pytest.raises(dp.ModelError, match="state 1 has no feasible action"):
            how(model)


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
def test_a_horizon_and_a_discount_of_each_pair(sparse: bool) -> None:
    rng = np.random.default_rng(5)
    n, m, periods = 4, 3, 3
    reward, p = rng.normal(size=(n, m)), rng.dirichlet(np.ones(n), size=(n, m))
    reward[1, 2] = -np.inf
    beta, end = rng.uniform(0.4, 0.98, (n, m)), rng.normal(size=n)

    def made(**horizon):
        if not sparse:
            return dp.mdp(reward, p, beta, **horizon)
        i, j = np.nonzero(reward > -np.inf)
        shuffled = rng.permutation(len(i))
        i, j = i[shuffled], j[shuffled]
        return dp.mdp(
            reward[i, j], sp.csr_matrix(p[i, j]), beta[i, j], states=i, actions=j, **horizon
        )

    def step(v):
        return (reward + beta * (p @ v)).max(1)

    finite = dp.solve(made(horizon=periods, terminal=end))
    v = end
    for t in reversed(range(periods)):
        v = step(v)
        np.testing.assert_allclose(finite.value[t], v, atol=1e-13)
    assert "verified" in str(dp.verify(finite))
    start = np.eye(n)[0]
    path = np.asarray(dp.path(finite, start).mass)
    for t in range(periods):
        rows = p[np.arange(n), np.asarray(finite.policy["action"])[t]]
        np.testing.assert_allclose(path[t + 1], path[t] @ rows, atol=1e-14)
    panel = dp.simulate(finite, 1, agents=2000, periods=periods, initial=start).to_xarray()
    share = np.bincount(panel["state"][:, -1], minlength=n) / 2000
    np.testing.assert_allclose(share, path[periods - 1], atol=0.05)
    endless = dp.solve(made(), tol=1e-10)
    v = np.zeros(n)
    for _ in range(2000):
        v = step(v)
    np.testing.assert_allclose(endless.value, v, atol=1e-9)
    assert "verified" in str(dp.verify(endless))
