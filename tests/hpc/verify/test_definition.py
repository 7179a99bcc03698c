"""The NumPy definition of the Bellman operator against loops written out, and closed forms."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.model_definition.bellman import Definition, bellman
from dpsolve.hpc.model_definition.pairs import define

from ...reference import random_arrays, random_problem, solve_arrays


def fixed_point(definition: Definition, sweeps: int) -> np.ndarray[Any, Any]:
    value = np.zeros(definition.n)
    for _ in range(sweeps):
        value = bellman(definition, [value]).value[0]
    return value


# -- one model after another, each with its own loops ---------------------------------------------


def test_savings_agrees_with_loops_written_out() -> None:
    grid, income, chain = [0.0, 0.7, 1.5, 3.0], [0.5, 1.2], [[0.8, 0.2], [0.3, 0.7]]
    model = dp.Model(
        states={"a": np.array(grid), "z": dp.markov(income, chain)},
        choices={"a_next": "a"},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: 1.03 * a + z - a_next > 0,
        reward=lambda a, z, a_next: jnp.log(1.03 * a + z - a_next),
        discount=0.9,
        outputs={"consumption": lambda a, z, a_next: 1.03 * a + z - a_next},
    )
    v = [[0.3, -1.0], [0.1, 2.0], [-0.7, 0.4], [1.1, 0.9]]
    expected, best = np.zeros((4, 2)), np.zeros((4, 2), dtype=int)
    for i, a in enumerate(grid):
        for j, z in enumerate(income):
            top = -math.inf
            for k, a_next in enumerate(grid):
                c = 1.03 * a + z - a_next
                if c <= 0:
                    continue
                q = math.log(c) + 0.9 * sum(chain[j][h] * v[k][h] for h in range(2))
                if q > top:
                    top, best[i, j] = q, k
            expected[i, j] = top
    definition = define(model)
    sweep = bellman(definition, [np.array(v).ravel()])
    np.testing.assert_allclose(sweep.value[0].reshape(4, 2), expected, rtol=1e-14)
    np.testing.assert_array_equal(sweep.policy[0].reshape(4, 2), best)
    assert sweep.monotone
    np.testing.assert_allclose(sweep.discount, 0.9, rtol=1e-15)
    flat = np.arange(8)
    consumption = definition.outputs(flat, sweep.policy[0])["consumption"].reshape(4, 2)
    for i, a in enumerate(grid):
        for j, z in enumerate(income):
            assert consumption[i, j] == pytest.approx(1.03 * a + z - grid[best[i, j]], rel=1e-14)


def test_interpolation_and_shocks_agree_with_loops_written_out() -> None:
    grid, effort, draw = [1.0, 2.0, 4.0], [0.0, 0.5, 1.0], [-0.5, 0.5]
    model = dp.Model(
        states={"k": dp.grid(np.array(grid), outside="clip")},
        choices={"e": np.array(effort)},
        shocks={"w": dp.iid(draw, lambda e: jnp.stack([1 - 0.6 * e, 0.6 * e]))},
        transition={"k": lambda k, e, w: 0.8 * k + e + w},
        reward=[lambda k, e: k - e * e, lambda w: 0.1 * w],
        discount=lambda k, e: 0.7 + 0.05 * k - 0.1 * e,
    )
    v = [0.2, 1.0, -0.5]
    expected = []
    for k in grid:
        top = -math.inf
        for e in effort:
            p = [1 - 0.6 * e, 0.6 * e]
            total = k - e * e
            for w, weight in zip(draw, p, strict=True):
                x = min(max(0.8 * k + e + w, 1.0), 4.0)
                low = 0 if x < 2.0 else 1
                share = (x - grid[low]) / (grid[low + 1] - grid[low])
                ahead = (1 - share) * v[low] + share * v[low + 1]
                total += weight * (0.1 * w + (0.7 + 0.05 * k - 0.1 * e) * ahead)
            top = max(top, total)
        expected.append(top)
    sweep = bellman(define(model), [np.array(v)])
    np.testing.assert_allclose(sweep.value[0], expected, rtol=1e-14)
    np.testing.assert_allclose(sweep.discount, (0.7 + 0.05 - 0.1, 0.7 + 0.2), rtol=1e-14)


def test_inventory_agrees_with_loops_written_out() -> None:
    demand, probs = [0, 1, 2], [0.25, 0.5, 0.25]
    model = dp.Model(
        states={"stock": dp.integers(0, 3)},
        choices={"order": dp.integers(0, 3)},
        shocks={"d": dp.iid(demand, probs)},
        feasible=lambda stock, order: stock + order <= 3,
        transition={"stock": lambda stock, order, d: jnp.maximum(stock + order - d, 0)},
        reward=[lambda stock, order, d: 4.0 * jnp.minimum(stock + order, d), lambda order: -order],
        discount=0.8,
    )
    v = [0.5, -0.25, 2.0, 1.0]
    expected = []
    for stock in range(4):
        top = -math.inf
        for order in range(4 - stock):
            q = -float(order)
            for d, p in zip(demand, probs, strict=True):
                q += p * (4.0 * min(stock + order, d) + 0.8 * v[max(stock + order - d, 0)])
            top = max(top, q)
        expected.append(top)
    np.testing.assert_allclose(bellman(define(model), [np.array(v)]).value[0], expected, rtol=1e-14)


def test_finite_horizon_sees_the_period() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"up": dp.integers(0, 1)},
        transition={"x": lambda x, up: jnp.minimum(x + up, 2)},
        reward=lambda x, up, t: x * (1.0 + t) - 0.5 * up,
        discount=0.5,
        horizon=3,
        terminal=lambda x: 10.0 * x,
    )
    definition = define(model)
    v = [10.0 * x for x in range(3)]
    value = definition.terminal()
    np.testing.assert_array_equal(value, v)
    for t in (2, 1, 0):
        v = [
            max(x * (1.0 + t) - 0.5 * up + 0.5 * v[min(x + up, 2)] for up in (0, 1))
            for x in range(3)
        ]
        value = bellman(definition, [value], t).value[0]
        np.testing.assert_allclose(value, v, rtol=1e-15)


# -- many models against the oracle, which loops over everything ----------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_problem_agrees_with_the_oracle(seed: int) -> None:
    problem = random_problem(seed)
    definition = define(problem.model())
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, definition.n))
    for t in [None] if problem.horizon is None else range(problem.horizon):
        table = problem.table(t)
        sweep = bellman(definition, list(values), t)
        for k, value in enumerate(values):
            q = table.q(value)
            np.testing.assert_allclose(sweep.value[k], q.max(1), rtol=1e-12, atol=1e-12)
            np.testing.assert_array_equal(sweep.policy[k], q.argmax(1))
        if sweep.monotone:  # it is judged shock by shock; the sum may be positive all the same
            assert (table.transition >= 0).all()
        states = np.arange(definition.n)
        for name, found in definition.outputs(states, sweep.policy[0], t).items():
            expected = table.outputs[name][states, sweep.policy[0]]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(definition.terminal(), problem.terminal_value(), atol=1e-13)


@pytest.mark.parametrize("block", [40])
def test_blocks_do_not_change_the_result(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = define(random_problem(1, finite=False).model())
    value = np.random.default_rng(0).normal(size=definition.n)
    whole = bellman(definition, [value])
    monkeypatch.setattr("dpsolve.hpc.model_definition.bellman.BLOCK", block)
    pieces = bellman(definition, [value])
    np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-14)
    np.testing.assert_array_equal(pieces.policy, whole.policy)
    assert pieces.discount == pytest.approx(whole.discount)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", ["product", "pairs", "sparse"])
def test_arrays_agree_with_the_oracle_in_each_form(seed: int, form: str) -> None:
    from scipy.sparse import csr_array

    reward, transition, beta = random_arrays(seed, sparse=form == "sparse")
    if form == "product":
        model = dp.mdp(reward, transition, beta)
    else:
        s, a = np.nonzero(reward > -np.inf)
        shuffle = np.random.default_rng(seed).permutation(s.size)
        s, a = s[shuffle], a[shuffle]
        rows: Any = transition[s, a]
        if form == "sparse":
            rows = csr_array(rows)
        model = dp.mdp(reward[s, a], rows, beta, states=s, actions=a)
    answer = solve_arrays(reward, transition, beta)
    sweep = bellman(define(model), [answer.value])
    np.testing.assert_allclose(sweep.value[0], answer.value, rtol=1e-11)
    np.testing.assert_array_equal(sweep.policy[0], answer.policy)


# -- numbers from elsewhere -----------------------------------------------------------------------


def test_cake_reaches_the_published_values() -> None:
    grid = np.linspace(0.1, 1.0, 100)
    model = dp.Model(
        states={"x": grid},
        choices={"x_next": "x"},
        transition={"x": "x_next"},
        feasible=lambda x, x_next: x_next <= x,
        reward=lambda x, x_next: jnp.sqrt(x - x_next),
        discount=0.95,
    )
    definition = define(model)
    value = np.sqrt(grid)
    for _ in range(100):
        value = bellman(definition, [value]).value[0]
    index = [0, 1, 9, 24, 49, 74, 98, 99]
    after_100 = [
        0.0018722357289836311, 0.09721849465354289, 0.7069589460871037, 1.3720276921764305,
        2.0519831363769123, 2.5577396878175422, 2.9631116528373864, 2.9788299673223517,
    ]  # fmt: skip
    np.testing.assert_allclose(value[index], after_100, rtol=1e-13)


def test_growth_reaches_the_published_values_and_its_steady_state() -> None:
    beta, delta, alpha = 0.95, 0.1, 0.35
    k_ss = (alpha / (1 / beta - 1 + delta)) ** (1 / (1 - alpha))
    grid = np.linspace(0.5 * k_ss, 2.0 * k_ss, 100)
    model = dp.Model(
        states={"k": grid},
        choices={"k_next": "k"},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k**alpha + (1 - delta) * k - k_next > 0,
        reward=lambda k, k_next: jnp.log(k**alpha + (1 - delta) * k - k_next),
        discount=beta,
    )
    definition = define(model)
    value = np.log(grid**alpha)
    for _ in range(300):
        value = bellman(definition, [value]).value[0]
    index = [0, 24, 49, 74, 99]
    after_300 = [
        1.7867741917530697, 3.278276793970738, 4.431323403937444, 5.366582592395779,
        6.1634214714194115,
    ]  # fmt: skip
    np.testing.assert_allclose(value[index], after_300, rtol=1e-13)
    steady = math.log(k_ss**alpha - delta * k_ss) / (1 - beta)
    assert np.interp(k_ss, grid, value.astype(float)) == pytest.approx(steady, abs=5e-7)


def test_a_certain_reward_is_worth_its_annuity() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 1)},
        transition={"x": "x"},
        reward=lambda: 3.0,
        discount=0.75,
    )
    np.testing.assert_allclose(fixed_point(define(model), 200), 12.0, rtol=1e-14)


# -- what it refuses ------------------------------------------------------------------------------


def test_a_next_state_off_its_grid_is_named_with_where_it_came_from() -> None:
    def model(outside: Any, step: float) -> dp.Model:
        return dp.Model(
            states={"k": dp.grid(0.0, 1.0, 3, outside=outside)},
            choices={"c": np.array([0.0, 1.0])},
            transition={"k": lambda k, c: k + step * c},
            reward=lambda c: c,
            discount=0.9,
        )

    with pytest.raises(dp.ModelError, match=r"k=1\.25 leaves its grid \[0, 1\].*k=1, c=1"):
        bellman(define(model("error", 0.25)), [np.zeros(3)])
    for allowed in (model("clip", 0.25), model("error", 1e-12)):
        assert np.isfinite(bellman(define(allowed), [np.zeros(3)]).value).any()


def test_an_infeasible_choice_may_lead_anywhere_and_cost_nan() -> None:
    model = dp.Model(
        states={"n": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 2)},
        transition={"n": lambda n, c: n + c},
        feasible=lambda n, c: n + c <= 2,
        reward=lambda n, c: jnp.sqrt(2.0 - n - c),
        discount=0.9,
    )
    assert np.isfinite(bellman(define(model), [np.zeros(3)]).value).all()


def test_a_non_member_and_a_leak_are_named() -> None:
    def model(next_n: Any, probs: Any) -> dp.Model:
        return dp.Model(
            states={"n": dp.integers(0, 2)},
            choices={"c": dp.integers(0, 1)},
            shocks={"w": dp.iid([0, 1], probs)},
            transition={"n": next_n},
            reward=lambda c: c,
            discount=0.9,
        )

    half = np.array([0.5, 0.5])
    with pytest.raises(dp.ModelError, match=r"n=0\.5 is no member of the integers 0 to 2"):
        bellman(define(model(lambda c: 0.5 * c, half)), [np.zeros(3)])
    leaking = model(lambda n: n, lambda n: jnp.stack([0.5, 0.5 - 1e-4 * n]))
    with pytest.raises(dp.ModelError, match=r"shock 'w' sum to 0\.9999 .*n=1"):
        bellman(define(leaking), [np.zeros(3)])


def test_a_chain_that_leaks_is_named() -> None:
    chain = dp.markov([0.0, 1.0], [[0.5, 0.5], [0.1, 0.9]])
    object.__setattr__(chain, "transition_matrix", np.array([[0.5, 0.5], [0.1, 0.8]]))
    model = dp.Model(
        states={"z": chain}, choices={"c": dp.integers(0, 1)}, reward=lambda c: c, discount=0.9
    )
    with pytest.raises(dp.ModelError, match=r"Markov state 'z' sum to 0\.9 .*row 1"):
        define(model)


def test_only_models_are_defined() -> None:
    with pytest.raises(dp.ModelError, match=r"a dp\.Model is needed, not dict"):
        define({"price": 1.0})
