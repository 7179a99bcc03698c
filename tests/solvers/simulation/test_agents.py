"""The law of simulated agents: the oracle's transition probabilities, and exact facts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import dpsolve as dp
from dpsolve.solvers.simulation.agents import invert
from dpsolve.solvers.simulation.streams import agent_keys, read_key, uniform
from dpsolve.solvers.simulation.tables import cumulated
from reference import Problem, random_problem

AGENTS = 20_000


# -- streams of random numbers ------------------------------------------------------------------


def test_a_number_is_made_of_the_bits_of_fold_in() -> None:
    key = jax.random.key(7)
    keys = agent_keys(read_key(key), jnp.array([0, 5, 2**32 - 1], jnp.uint32))
    for i, agent in enumerate([0, 5, 2**32 - 1]):
        for place in (0, 1, 12345, 2**32 - 1):
            folded = jax.random.fold_in(jax.random.fold_in(key, agent), np.uint32(place))
            high, low = (int(x) for x in jax.random.key_data(folded))
            expected = ((high >> 5) * 2**26 + (low >> 6)) / 2**53
            assert float(uniform(keys, jnp.uint32(place))[i]) == expected


def test_keys_of_every_kind() -> None:
    assert read_key(3) == read_key(np.int64(3)) == read_key(jax.random.key(3))
    assert read_key(3) == read_key(jax.random.PRNGKey(3))
    other = jax.random.key(3, impl="rbg")
    assert read_key(other) == read_key(other) != read_key(jax.random.key(4, impl="rbg"))


@pytest.mark.parametrize(
    "key", [None, 1.5, True, "seed", 2**80, np.arange(2), jax.random.split(jax.random.key(0), 2)]
)
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(dp.UsageError, match="key"):
        read_key(key)


def test_a_traced_key_is_refused() -> None:
    with pytest.raises(dp.UsageError, match="outside of jit"):
        jax.jit(lambda key: read_key(key)[0])(jax.random.key(0))


# -- inversion ----------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    st.lists(st.sampled_from([0.0, 1e-17, 0.1, 0.3, 1.0]), min_size=1, max_size=40).filter(any),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_inversion_is_a_search_and_never_draws_what_has_no_chance(p: list[float], u: float) -> None:
    c = cumulated(np.array(p))
    assert c[-1] == 1.0
    u = min(u, 1 - 2.0**-53)
    found = int(
        invert(jnp.asarray(c), jnp.zeros(1, jnp.int32), len(p) - 1, len(p), jnp.full(1, u))[0]
    )
    assert found == np.searchsorted(c, u, side="right")
    assert p[found] > 0.0


# -- the law of a step --------------------------------------------------------------------------


def nodes(panel: dp.Panel, model: dp.Model) -> np.ndarray[Any, Any]:
    """Return the flat state of each agent at each period, looked up from the recorded values."""
    ds = panel.to_xarray()
    index = []
    for name, spec in model.states.items():
        values = np.asarray(spec.values)
        at = np.searchsorted(values, ds[name].values)
        np.testing.assert_array_equal(values[at], ds[name].values)  # agents live on the grid
        index.append(at)
    return np.ravel_multi_index(index, model.shape)


def assert_moves_by(visits: np.ndarray[Any, Any], p: np.ndarray[Any, Any]) -> None:
    """Compare observed moves with transition probabilities, cell by cell."""
    n = len(p)
    counts = np.bincount(visits[:, 0] * n + visits[:, 1], minlength=n * n).reshape(n, n)
    trials = counts.sum(1, keepdims=True)
    p = np.clip(p, 0.0, 1.0)
    p = np.where(p < 1e-12, 0.0, np.where(p > 1 - 1e-12, 1.0, p))
    assert (counts[p == 0.0] == 0).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(p * (1 - p) > 0, (counts - trials * p) / np.sqrt(trials * p * (1 - p)), 0.0)
    large = trials * p * (1 - p) > 5
    assert np.abs(z[large]).max(initial=0.0) < 5.0
    assert np.sum(z[large] ** 2) < large.sum() + 5 * np.sqrt(2 * large.sum() + 1)


@pytest.mark.parametrize("seed", [0, 5, 8, 10, 17, 20, 22, 33])
@pytest.mark.slow
def test_moves_have_the_oracle_s_probabilities(seed: int) -> None:
    """Any mix of grids, integers and chains, with shocks whose probabilities move."""
    problem: Problem = random_problem(seed, finite=False)
    model = problem.model()
    solution = dp.solve(model, tol=1e-6)
    n = int(np.prod(problem.shape))
    labels = [np.asarray(x).ravel() for x in solution.policy_index.values()]
    policy = np.ravel_multi_index(labels, problem.choice_shape)
    p = problem.table().transition[np.arange(n), policy]
    uniform = np.full(problem.shape, 1 / n)
    if p.min() < -1e-9:  # the policy extrapolates
        with pytest.raises(dp.ModelError, match="leads off the grid of 's"):
            dp.simulate(solution, 1, agents=2, periods=2, initial=uniform)
        return
    panel = dp.simulate(solution, 1, agents=AGENTS, periods=3, initial=uniform)
    visits = nodes(panel, model)
    assert_moves_by(visits[:, :2], p)
    assert_moves_by(visits[:, 1:], p)
    first = np.bincount(visits[:, 0], minlength=n)
    assert np.abs((first - AGENTS / n) / np.sqrt(AGENTS / n)).max() < 5.0


@pytest.fixture(scope="module")
def store() -> dp.Solution:
    """A shop: demand depends on the stock in the window, and sales on demand."""

    def chance(stock):
        low = 0.2 + 0.05 * stock
        return jnp.array([1.0 - low, low / 2, low / 2])

    model = dp.Model(
        states={"stock": dp.integers(0, 6)},
        choices={"order": dp.integers(0, 3)},
        shocks={"demand": dp.iid([0, 1, 2], chance)},
        transition={"stock": lambda stock, order, demand: jnp.clip(stock + order - demand, 0, 6)},
        reward=lambda stock, order, demand: 2.0 * jnp.minimum(demand, stock) - order - 0.1 * stock,
        outputs={"sales": lambda stock, demand: jnp.minimum(demand, stock)},
        discount=0.9,
    )
    return dp.solve(model)


def test_outputs_and_rules_see_the_same_shock(store: dp.Solution) -> None:
    wanted = ["stock", "order", "sales", "demand"]
    panel = dp.simulate(store, 5, agents=500, periods=40, initial={"stock": 3}, variables=wanted)
    ds = panel.to_xarray()
    stock, order, sales, demand = (ds[name].values for name in wanted)
    np.testing.assert_array_equal(sales, np.minimum(demand, stock))
    moved = np.clip(stock + order - demand, 0, 6)
    np.testing.assert_array_equal(stock[:, 1:], moved[:, :-1])
    np.testing.assert_array_equal(order, np.asarray(store.policy["order"])[stock])
    assert set(np.unique(demand)) == {0, 1, 2}


@pytest.mark.slow
def test_what_is_recorded_moves_nobody(store: dp.Solution) -> None:
    """Each draw has its own place: leaving the shock out of the record changes no stock."""
    size: dict[str, Any] = {"agents": 50, "periods": 20, "initial": {"stock": 3}}
    all_of_it = dp.simulate(store, 5, **size).to_xarray()
    some = dp.simulate(store, 5, variables="stock", **size).to_xarray()
    assert list(some) == ["stock"]
    np.testing.assert_array_equal(some.stock, all_of_it.stock)


@pytest.mark.slow
def test_a_policy_that_extrapolates_is_refused_with_its_place() -> None:
    model = dp.Model(
        states={"k": dp.grid(0.0, 1.0, 5, outside="extrapolate")},
        choices={"i": dp.grid(0.0, 0.5, 3)},
        transition={"k": lambda k, i: 0.7 * k + i},
        reward=lambda k, i: k + i,
        discount=0.5,
    )
    solution = dp.solve(model)
    # i = .5 everywhere: .7 k + .5 passes 1 from k = .75 on, where the weight is (1.025 - .75) / .25
    with pytest.raises(dp.ModelError, match=r"grid of 'k' at k=0.75, .* weight of 1.1: .*clip"):
        dp.simulate(solution, 0, agents=1, periods=1, initial={"k": 0.0})


@pytest.mark.slow
def test_interpolation_is_a_fair_lottery() -> None:
    """k' = .3 on the grid {0, 1}: 30 % of agents go up, whatever they did before."""
    model = dp.Model(
        states={"k": dp.grid(0.0, 1.0, 2)},
        choices={"c": dp.grid(0.0, 1.0, 2)},
        transition={"k": lambda k: 0.3 + 0.0 * k},
        reward=lambda k, c: -c,
        discount=0.5,
    )
    panel = dp.simulate(dp.solve(model), 0, agents=AGENTS, periods=3, initial={"k": 0.0})
    k = panel.to_xarray().k.values
    assert (k[:, 0] == 0).all()
    se = np.sqrt(0.3 * 0.7 / AGENTS)
    assert abs(k[:, 1].mean() - 0.3) < 4 * se
    assert abs(k[:, 2].mean() - 0.3) < 4 * se
    assert abs(np.corrcoef(k[:, 1], k[:, 2])[0, 1]) < 4 / np.sqrt(AGENTS)


# -- finite horizons ------------------------------------------------------------------------------


def test_a_life_without_luck_is_followed_exactly() -> None:
    """Eat a cake in T periods at log utility without discounting: an equal piece each time."""
    model = dp.Model(
        states={"w": dp.integers(0, 12)},
        choices={"eat": dp.integers(0, 12)},
        transition={"w": lambda w, eat: w - eat},
        feasible=lambda w, eat: eat <= w,
        reward=lambda eat: jnp.log(eat + 1e-6),
        discount=1.0 - 1e-9,
        horizon=4,
    )
    solution = dp.solve(model)
    ds = dp.simulate(solution, 0, agents=3, periods=4, initial={"w": 12}).to_xarray()
    np.testing.assert_array_equal(ds.eat, [[3, 3, 3, 3]] * 3)
    np.testing.assert_array_equal(ds.w, [[12, 9, 6, 3]] * 3)


@pytest.mark.slow
def test_each_period_has_its_own_policy_and_probabilities() -> None:
    problem = random_problem(3, finite=True)
    solution = dp.solve(problem.model())
    horizon, n = int(problem.horizon or 0), int(np.prod(problem.shape))
    uniform = np.full(problem.shape, 1 / n)
    panel = dp.simulate(solution, 2, agents=AGENTS, periods=horizon, initial=uniform)
    visits = nodes(panel, problem.model())
    for t in range(horizon - 1):
        labels = [np.asarray(x)[t].ravel() for x in solution.policy_index.values()]
        policy = np.ravel_multi_index(labels, problem.choice_shape)
        p = problem.table(t).transition[np.arange(n), policy]
        assert_moves_by(visits[:, t : t + 2], p)


# -- arrays -------------------------------------------------------------------------------------


def chain_in_every_form() -> dict[str, Any]:
    """One decision process in product form, dense pairs, sparse pairs, and ragged sparse pairs."""
    rng = np.random.default_rng(0)
    n = 30
    p = rng.dirichlet(np.full(n, 0.05), size=(n, 2))
    p[:, :, 3:] = np.where(p[:, :, 3:] < 0.05, 0.0, p[:, :, 3:])
    p[0] = 1 / n  # one long row makes padding dear
    p /= p.sum(-1, keepdims=True)
    r = rng.normal(size=(n, 2))
    i, a = np.divmod(np.arange(2 * n), 2)
    pairs = p.reshape(2 * n, n)
    lean = np.where(np.arange(n) == np.arange(2 * n)[:, None] % n, 1.0, 0.0)
    lean[:2] = 1 / n
    return {
        "product": dp.mdp(r, p, 0.9),
        "pairs": dp.mdp(r.ravel(), pairs, 0.9, states=i, actions=a),
        "sparse": dp.mdp(r.ravel(), scipy.sparse.csr_array(pairs), 0.9, states=i, actions=a),
        "lean": dp.mdp(r.ravel(), lean, 0.9, states=i, actions=a),
        "ragged": dp.mdp(r.ravel(), scipy.sparse.csr_array(lean), 0.9, states=i, actions=a),
    }


@pytest.mark.slow
def test_arrays_give_the_same_panel_in_every_form() -> None:
    forms = chain_in_every_form()
    assert forms["ragged"].transition.rows is not None  # stored as coordinates
    panels = {}
    for name, model in forms.items():
        solution = dp.solve(model)
        start = np.full(30, 1 / 30)
        panels[name] = dp.simulate(solution, 3, agents=2000, periods=20, initial=start).to_xarray()
        policy = np.asarray(solution.policy["action"])
        np.testing.assert_array_equal(panels[name].action, policy[panels[name].state])
    for one, other in (("product", "pairs"), ("product", "sparse"), ("lean", "ragged")):
        np.testing.assert_array_equal(panels[one].state, panels[other].state)


@pytest.mark.slow
def test_arrays_move_by_their_rows() -> None:
    model = chain_in_every_form()["product"]
    solution = dp.solve(model)
    p = model.transition[np.arange(30), np.asarray(solution.policy_index["action"])]
    start = np.full(30, 1 / 30)
    ds = dp.simulate(solution, 4, agents=AGENTS, periods=2, initial=start).to_xarray()
    assert_moves_by(ds.state.values, p)
