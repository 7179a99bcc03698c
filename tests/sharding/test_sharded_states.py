"""States over devices: the answer is the oracle's, however they are cut and whatever is gathered.

The oracle (tests/reference.py) knows nothing of devices. Most facts are checked on one sweep of a
random value, where a wrong row shows at once; whole solves are checked against the true value.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

import dpsolve as dp
from dpsolve.sharding.batches.rounds import Rounds
from dpsolve.sharding.devices.fit import make_partition
from dpsolve.sharding.devices.mesh import STATES, MeshShape, make_mesh
from dpsolve.sharding.solve import solve
from dpsolve.solvers.library import savings
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.numerics.partition import Partition, Reductions
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.tabular import TabularOperator
from dpsolve.solvers.options import SolveOptions
from reference import Problem, Space, Table, random_arrays, random_problem

PLENTY, POOR = 2**28, 8  # bytes: everything is kept and gathered, or nothing is


def cut_of(model: Any, parts: int) -> Partition:
    partition = make_partition(lambda: model, {}, MeshShape(states=parts))
    assert partition is not None
    return partition


def most_parts(problem: Problem) -> int:
    free = [len(s.values) for s in problem.states.values() if s.kind != "markov"]
    return max(free or [len(s.values) for s in problem.states.values()])


def over_devices(partition: Partition, axis: int, f: Callable[..., Any], *arrays: Any) -> Any:
    """Apply `f` to the parts of arrays over the states, and put its results together."""
    where = PartitionSpec(*[None] * axis, STATES)
    mesh = make_mesh(MeshShape(states=partition.parts))
    shared = jax.shard_map(f, mesh=mesh, in_specs=where, out_specs=where, check_vma=False)
    members = np.minimum(np.arange(partition.width * partition.parts), partition.size - 1)
    found = jax.jit(shared)(*(np.take(x, members, axis) for x in arrays))
    return jax.tree.map(lambda x: np.take(np.asarray(x), np.arange(partition.size), axis), found)


def sweep(operator: Any, v: Any, policy: Any) -> tuple[Any, ...]:
    """Return what solves are made of: a sweep, its policy, the growth, and a step of a policy."""
    fixed = operator.at(policy)
    value, greedy = operator.greedy(v)
    return (
        value,
        operator.labels(greedy),
        operator.growth(jnp.abs(v)),
        fixed.reward + fixed.apply(v),
    )


def assert_oracles_sweep(table: Table, v: Any, policy: Any, found: Any, flat: Any) -> None:
    """Compare a sweep with the oracle's; `flat` numbers the policy's choices as the oracle does."""
    value, greedy, growth, step = found
    q, states = table.q(v.ravel()), np.arange(v.size)
    np.testing.assert_allclose(value.ravel(), q.max(1), atol=1e-11)
    np.testing.assert_allclose(q[states, flat(greedy)], q.max(1), atol=1e-11)
    grown = table.discount * (table.transition @ np.abs(v).ravel())
    best = np.where(table.feasible, grown, -np.inf).max(1)
    np.testing.assert_allclose(growth.ravel(), best, atol=1e-11)
    allowed = table.feasible[states, policy.ravel()]
    np.testing.assert_allclose(
        step.ravel()[allowed], q[states, policy.ravel()][allowed], atol=1e-11
    )


def check_sweep(problem: Problem, parts: int, memory: int, seed: int = 0) -> None:
    model, rng = problem.model(), np.random.default_rng(seed)
    partition = cut_of(model, parts)
    v = rng.normal(size=problem.shape)
    policy = rng.integers(0, np.prod(problem.choice_shape), problem.shape).astype(np.int32)
    t = None if problem.horizon is None else 0

    def f(v: Any, policy: Any) -> Any:
        now = None if t is None else jnp.int32(t)
        return sweep(GridOperator(model, t=now, memory=memory, partition=partition), v, policy)

    found = over_devices(partition, list(problem.states).index(partition.state), f, v, policy)

    def flat(labels: dict[str, Any]) -> Any:
        chosen = [labels[c].ravel() for c in problem.choices]
        return np.ravel_multi_index(chosen, problem.choice_shape)

    assert_oracles_sweep(problem.table(t), v, policy, found, flat)


def memories(problem: Problem) -> tuple[int, ...]:
    """Return memories that keep and gather, stream and fetch, and keep but do not gather."""
    return PLENTY, POOR, 64 * int(np.prod(problem.shape)) - 1


# -- one sweep --------------------------------------------------------------------------------


# Each seed draws another way of looking up: rows of a choice (1, 5), interpolation on three grids
# (3), two choices and chains beside (4).
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "parts", "memory"), [(1, 4, POOR), (5, 3, POOR), (4, 2, POOR)])
def test_a_sweep_that_gathers_nothing_is_the_oracles(seed: int, parts: int, memory: int) -> None:
    check_sweep(random_problem(seed), parts, memory)


@pytest.mark.parametrize(("seed", "parts"), [(16, 3), (21, 2)])
def test_a_sweep_that_gathers_is_the_oracles(seed: int, parts: int) -> None:
    check_sweep(random_problem(seed), parts, PLENTY)


@pytest.mark.slow
@settings(max_examples=12)
@given(seed=st.integers(0, 100_000), data=st.data())
def test_any_models_sweep_is_the_oracles(seed: int, data: Any) -> None:
    problem = random_problem(seed)
    parts = data.draw(st.integers(2, most_parts(problem)), label="parts")
    memory = data.draw(st.sampled_from(memories(problem)), label="memory")
    check_sweep(problem, parts, memory, seed)


def pipeline(values: int = 5) -> Problem:
    """A state that remembers where another was: its rule does not name the choice."""
    grid = Space(tuple(0.5 * i for i in range(values)))
    memory = Space(tuple(0.7 * i for i in range(3)))
    return Problem(
        states={"last": memory, "x": grid},
        choices={"y": "x", "effort": Space((0.0, 1.0, 2.0), "integers")},
        transition={"last": lambda x: 0.3 * x, "x": "y"},
        reward=[lambda x, y, last, effort: last * y - (x - y + 0.3) ** 2 - (effort - x) ** 2],
        discount=0.9,
    )


def delivery() -> Problem:
    """A state that becomes another one, which is chosen: rules that name a state and a choice."""
    stock = Space(tuple(float(i) for i in range(5)), "integers")
    return Problem(
        states={"here": stock, "coming": stock},
        choices={"order": "coming"},
        transition={"here": "coming", "coming": "order"},
        reward=[lambda here, order: here - 0.1 * here * here - 0.3 * order],
        discount=0.9,
    )


def weather(n: int = 5) -> Problem:
    """A model whose only state is a chain."""
    matrix = np.random.default_rng(3).dirichlet(np.ones(n), size=n)
    chain = Space(tuple(1.0 + i for i in range(n)), "markov", tuple(map(tuple, matrix.tolist())))
    coats = Space((0.0, 1.0, 2.0), "integers")
    return Problem(
        states={"sky": chain, "mood": replace(chain, values=chain.values[:n])},
        choices={"coat": coats},
        transition={},
        reward=[lambda sky, mood, coat: sky * coat - coat * coat * mood],
        discount=0.8,
    )


@pytest.mark.parametrize("memory", [PLENTY, POOR])
@pytest.mark.parametrize("problem", [pipeline, delivery, weather])
def test_rules_without_a_choice_are_looked_up_as_the_oracle_does(
    problem: Callable[[], Problem], memory: int
) -> None:
    check_sweep(problem(), 3, memory)


def test_what_depends_on_the_senders_states_is_not_passed_on() -> None:
    # Parts of an expectation that holds x already would hold the sender's x: that was a wrong
    # value, certified.
    model = pipeline().model()
    partition = cut_of(model, 2)

    def f(x: Any) -> Any:
        grid_operator = GridOperator(model, memory=POOR, partition=partition)
        assert grid_operator.expectation.steps[0].states == ("last",)
        assert "x" in grid_operator.expectation.steps[0].dims
        assert not grid_operator.expectation.parted
        return x

    over_devices(partition, 1, f, np.zeros((3, 5)))


def mdp_forms(n: int, m: int = 3) -> dict[str, tuple[TabularModel, Table]]:
    """The same arrays in every form that ``dp.mdp`` takes."""
    reward, transition, beta = random_arrays(n, n, m, sparse=True)
    feasible = reward > -np.inf
    i, a = np.nonzero(feasible)
    rows = transition[i, a]
    # One full row among short ones makes padding too dear, and coordinates are kept instead.
    tall = transition.copy()
    tall[i[0], a[0]] = 1.0 / n
    table = Table(reward, np.full(reward.shape, beta), feasible, transition, {})
    pair: dict[str, Any] = {"states": i, "actions": a}
    sparse = scipy.sparse.csr_array
    return {
        "product": (dp.mdp(reward, transition, beta), table),
        "pair": (dp.mdp(reward[i, a], rows, beta, **pair), table),
        "padded": (dp.mdp(reward[i, a], sparse(rows), beta, **pair), table),
        "coordinates": (
            dp.mdp(reward[i, a], sparse(tall[i, a]), beta, **pair),
            replace(table, transition=tall),
        ),
    }


@pytest.mark.parametrize("form", ["product", "pair", "padded", "coordinates"])
@pytest.mark.parametrize(("n", "parts"), [(17, 8), (21, 2)])
def test_a_sweep_over_arrays_is_the_oracles(form: str, n: int, parts: int) -> None:
    model, table = mdp_forms(n)[form]
    if form in ("padded", "coordinates"):
        assert (model.transition.rows is None) == (form == "padded")
    rng = np.random.default_rng(n)
    v, policy = rng.normal(size=n), table.feasible.argmax(1)
    partition = cut_of(model, parts)

    def f(v: Any, action: Any) -> Any:
        operator = TabularOperator(model, partition)
        return sweep(operator, v, operator.policy_of({"action": action}))

    found = over_devices(partition, 0, f, v, policy.astype(np.int32))
    assert_oracles_sweep(table, v, policy, found, lambda labels: labels["action"])


# -- reductions -------------------------------------------------------------------------------


def test_reductions_over_devices_are_those_over_all_states() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 8))
    broken = np.where(np.arange(8) == 5, np.nan, x)

    def f(x: Any, y: Any, broken: Any) -> Any:
        over = Reductions(STATES)
        numbers = [
            over.max(x), over.min(x), over.sum(x), over.dot(x, y), over.mean(x), over.all(x < 9),
            over.all(x < x[0] + 1e-9), over.max(broken), over.min(broken),
        ]  # fmt: skip
        return jnp.stack([jnp.asarray(n, jnp.float64) for n in numbers])[:, None]

    mesh = make_mesh(MeshShape(states=4))
    found = jax.jit(
        jax.shard_map(
            f,
            mesh=mesh,
            in_specs=PartitionSpec(STATES),
            out_specs=PartitionSpec(None, STATES),
            check_vma=False,
        )
    )(x, y, broken)
    expected = [x.max(), x.min(), x.sum(), x @ y, x.mean(), 1.0, 0.0, np.inf, -np.inf]
    np.testing.assert_allclose(found, np.tile(np.array(expected)[:, None], 4), rtol=1e-14)


# -- whole solves -----------------------------------------------------------------------------


def check_solution(problem: Problem, found: dp.Solution, tol: float) -> None:
    """Check that bounds hold, values are as near as was asked, and the policy loses no more."""
    answer = problem.solve()
    shape = problem.shape if problem.horizon is None else (problem.horizon, *problem.shape)
    truth, q = answer.value.reshape(shape), answer.q.reshape(*shape, -1)
    assert found.status == "solved"
    value, lower, upper = (np.asarray(found[k]) for k in ("value", "lower", "upper"))
    rounding = 1e-10 * max(1.0, float(np.abs(truth).max()))
    assert (lower <= truth + rounding).all()
    assert (truth <= upper + rounding).all()
    np.testing.assert_allclose(value, truth, atol=tol + rounding)
    chosen = [np.asarray(found.policy_index[c]) for c in problem.choices]
    flat = np.ravel_multi_index(chosen, problem.choice_shape)
    kept = np.take_along_axis(q, flat[..., None], -1)[..., 0]
    # The policy is greedy for a value within 2 tol of the truth.
    assert (truth - kept).max() <= 4 * tol + rounding


@pytest.mark.slow
@settings(max_examples=15)
@given(seed=st.integers(0, 100_000), data=st.data())
def test_any_model_is_solved_as_the_oracle_does(seed: int, data: Any) -> None:
    problem = random_problem(seed)
    parts = data.draw(st.integers(2, most_parts(problem)), label="parts")
    memory = data.draw(st.sampled_from(memories(problem)), label="memory")
    method = data.draw(st.sampled_from(["vi", "pi", "opi", "auto"]), label="method")
    found = solve(problem.model(), mesh={"states": parts}, tol=1e-7, memory=memory, method=method)
    check_solution(problem, found, 1e-7)


@pytest.mark.slow
@settings(max_examples=6)
@given(seed=st.integers(0, 100_000), parts=st.integers(2, 8))
def test_any_discount_above_one_is_solved_as_the_oracle_does(seed: int, parts: int) -> None:
    problem = random_problem(seed, discount="above", finite=False)
    parts = min(parts, most_parts(problem))
    found = solve(problem.model(), mesh={"states": parts}, tol=1e-7, memory=POOR)
    check_solution(problem, found, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("states", "memory"), [(2, PLENTY), (8, POOR)])
def test_a_solve_over_devices_is_certified_and_true(states: int, memory: int) -> None:
    problem = pipeline(9)  # 9 members: odd, and one more than 8 devices
    found = solve(problem.model(), mesh={"states": states}, tol=1e-8, memory=memory, method="pi")
    check_solution(problem, found, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "method", "memory"),
    [
        (2, "vi", PLENTY),
        (3, "pi", 20_000),
        (4, "opi", PLENTY),
        (4, "auto", 20_000),
        (8, "auto", PLENTY),
    ],
)
def test_savings_are_the_same_on_any_number_of_devices(
    states: int, method: str, memory: int
) -> None:
    params = {"continuous": False, "n_a": 33, "n_z": 3, "beta": 0.95}
    one = dp.solve("savings", params, tol=1e-8, method=method)
    many = solve("savings", params, tol=1e-8, method=method, memory=memory, mesh={"states": states})
    assert (one.status, many.status) == ("solved", "solved")
    assert (np.asarray(one.lower) <= np.asarray(many.upper)).all()
    assert (np.asarray(many.lower) <= np.asarray(one.upper)).all()
    np.testing.assert_allclose(np.asarray(many.value), np.asarray(one.value), atol=2e-8)


@pytest.mark.parametrize("memory", [pytest.param(PLENTY, marks=pytest.mark.slow), POOR])
def test_a_finite_horizon_over_devices_is_the_oracles(memory: int) -> None:
    ages = replace(
        pipeline(),
        horizon=3,
        terminal=lambda x: x,
        reward=[lambda x, y, last, t: last * y - (x - y) ** 2 + 0.1 * t * y],
    )
    found = solve(ages.model(), mesh={"states": 4}, memory=memory, tol=1e-9)
    assert found.policy["y"].shape == (3, 3, 5)
    check_solution(ages, found, 1e-9)


# -- faults -----------------------------------------------------------------------------------


def fragile(
    closed: float = 0.0, off: float = 0.0, leak: float = 0.0, hole: float = 0.0,
    beta: float = 0.9, *, n: int = 5, periods: int | None = None,
) -> dp.Model:  # fmt: skip
    """A model of which the last member, on the last device only, can be made to fail."""
    optional: dict[str, Any] = {"horizon": periods} if periods else {}
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, n)},
        choices={"y": "x"},
        shocks={
            "w": dp.iid(
                np.array([0.0, 0.1]), lambda x: jnp.stack([0.5 + 0.0 * x, 0.5 + leak * (x > 0.99)])
            )
        },
        transition={"x": lambda x, y: 0.5 * x + 0.5 * y + off * (x > 0.99)},
        feasible=lambda x, y: (y <= 1.0) & ~((x > 0.99) & (closed > 0)),
        reward=lambda x, y, w: jnp.where((x > 0.99) & (hole > 0), jnp.nan, w * x - (x - y) ** 2),
        discount=beta,
        **optional,
    )  # fmt: skip


FAULTS = [
    ({"closed": 1.0}, "the state x=1 has no feasible choice"),
    ({"off": 0.1}, "the next state of 'x' lies 0.1 off its grid"),
    ({"leak": 1e-3}, "the probabilities of 'w' at x=1, y=0"),
    ({"beta": 1.1}, "the discount is 1.1"),
]


@pytest.mark.parametrize(("states", "memory"), [(2, PLENTY), (4, POOR)])
@pytest.mark.parametrize(("fault", "words"), FAULTS)
@pytest.mark.slow
def test_a_fault_of_the_last_device_is_told_as_on_one_device(
    fault: dict[str, float], words: str, states: int, memory: int
) -> None:
    with pytest.raises(dp.ModelError) as alone:
        dp.solve(fragile, fault, method="vi")
    with pytest.raises(dp.ModelError) as shared:
        solve(fragile, fault, method="vi", mesh={"states": states}, memory=memory)
    assert words in str(alone.value)
    assert str(shared.value) == str(alone.value)


@pytest.mark.slow
@pytest.mark.parametrize("values", [{"hole": 1.0}, {"beta": np.nan}])
@pytest.mark.parametrize(("states", "memory"), [(2, PLENTY), (4, POOR)])
def test_a_nan_anywhere_fails_on_every_device(
    values: dict[str, float], states: int, memory: int
) -> None:
    alone = dp.solve(fragile, values, method="vi")
    shared = solve(fragile, values, method="vi", mesh={"states": states}, memory=memory)
    assert (shared.status, shared.message) == (alone.status, alone.message)
    assert shared.status == "failed"
    assert np.isnan(np.asarray(shared.value)).all()
    assert (np.asarray(shared.policy_index["y"]) == -1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "words"), FAULTS[:3])
def test_a_fault_of_the_last_device_in_some_period_is_told_as_on_one_device(
    fault: dict[str, float], words: str
) -> None:
    with pytest.raises(dp.ModelError, match=r"period t=0") as alone:
        dp.solve(fragile, fault | {"periods": 3})
    with pytest.raises(dp.ModelError) as shared:
        solve(fragile, fault | {"periods": 3}, mesh={"states": 4})
    assert words in str(alone.value)
    assert str(shared.value) == str(alone.value)


@pytest.mark.slow
def test_a_state_of_the_last_device_without_an_action_is_told() -> None:
    def bandit(closed: float = 0.0, *, n: int = 5) -> TabularModel:
        last = jnp.arange(n) == n - 1
        reward = jnp.where(last & (closed > 0), -jnp.inf, 1.0)
        return dp.mdp(jnp.stack([reward, reward - 1.0], 1), jnp.full((n, 2, n), 1 / n), 0.9)

    assert solve(bandit, mesh="states=4", method="vi").status == "solved"
    with pytest.raises(dp.ModelError, match="state 4 has no feasible action"):
        solve(bandit, {"closed": 1.0}, mesh="states=4", method="vi")


@pytest.mark.slow
def test_running_out_of_sweeps_is_told_as_on_one_device() -> None:
    few: dict[str, Any] = {"tol": 1e-12, "method": "vi", "max_iter": 3}
    alone = dp.solve(fragile, **few)
    shared = solve(fragile, mesh={"states": 2}, **few)
    assert shared.status == alone.status == "inexact"
    assert shared.message == alone.message


# -- where arrays lie -------------------------------------------------------------------------


def parts_held(x: jax.Array) -> list[tuple[int, ...]]:
    return [shard.data.shape for shard in x.addressable_shards]


@pytest.mark.slow
def test_results_lie_where_their_states_do() -> None:
    found = solve(
        savings, {"continuous": False, "n_a": 32, "n_z": 3}, mesh={"states": 4}, method="vi"
    )
    dims = dict(found.problem.dims)
    arrays = [name for name in dims if "a" in dims[name] and not name.startswith("grid_")]
    assert {"value", "lower", "upper", "policy_a_next", "policy_index_a_next"} <= set(arrays)
    for name in arrays:
        x = found[name]
        assert len(x.sharding.device_set) == 4
        assert parts_held(x) == [(8, 3)] * 4, name


@pytest.fixture(scope="module", params=[PLENTY, 12_000], ids=["gathered", "poor"])
def rounds(request: pytest.FixtureRequest) -> Rounds:
    """Savings on 4 devices; the poor one neither keeps rewards nor gathers values."""
    sizes, shape = {"continuous": False, "n_a": 256, "n_z": 3}, MeshShape(states=4)
    options = SolveOptions(memory=request.param, method="opi")
    made = Rounds(savings, sizes, options, 1, shape, make_partition(savings, sizes, shape))
    made.compile()
    return made


@pytest.mark.slow
def test_no_carried_array_over_the_states_is_whole_on_a_device(rounds: Rounds) -> None:
    states = 256 * 3
    leaves = jax.tree.leaves(rounds.empty())
    large = [x for x in leaves if x.size >= states]
    assert len(large) >= 3  # value, sweep and policy; rewards where they are kept
    for x in large:
        assert [shape[0] for shape in parts_held(x)] == [1] * 4
        assert len({shard.device for shard in x.addressable_shards}) == 4
    # Of one value per state, a device holds a quarter.
    value = rounds.empty().run.state.v
    assert parts_held(value) == [(1, 1, 64, 3)] * 4
    per_state = [x for x in leaves if x.size == states and x.dtype == np.float64]
    assert all(x.addressable_shards[0].data.nbytes == 8 * states // 4 for x in per_state)


def gathered(text: str) -> list[int]:
    """Return the number of elements of the result of each all-gather in a compiled program."""
    shapes = re.findall(r"= \(?\w+\[([\d,]*)\]\S* all-gather(?:-start)?\(", text)
    return [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]


@pytest.mark.slow
def test_without_memory_nothing_is_gathered(rounds: Rounds) -> None:
    text = rounds._advance.as_text()
    if rounds.options.memory == PLENTY:
        assert 256 * 3 in gathered(text)  # the search finds what there is
    else:
        assert gathered(text) == []
        assert "all-reduce" in text  # rows of some choices' next states, at a time


def test_a_model_is_compiled_once_for_a_mesh(caplog: pytest.LogCaptureFixture) -> None:
    def once(beta: float = 0.9, *, n: int = 6) -> dp.Model:
        return fragile(beta=beta, n=n)

    solve(once, mesh={"states": 2}, method="vi")
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = solve(once, {"beta": 0.8}, mesh={"states": 2}, method="vi")
    assert found.status == "solved"
    assert not [r for r in caplog.records if "ompiling" in r.getMessage()]
