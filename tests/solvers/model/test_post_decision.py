"""Post-decision variables: the same numbers as without them, for less work."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import dpsolve as dp
from dpsolve.hpc.model_definition.pairs import define
from dpsolve.sharding.devices.fit import make_partition
from dpsolve.sharding.devices.mesh import STATES, MeshShape, make_mesh
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.operators.expectation import Rule, plan

DRAW = np.random.default_rng(6)
S, Q, D = 7, 4, 5
CHANCES = DRAW.dirichlet(np.ones(D))
YIELD = np.array([0.2, 0.5, 0.3])
CHAIN = np.array([[0.8, 0.2], [0.3, 0.7]])


def left(y: Any, d: Any) -> Any:
    return jnp.maximum(y - d, 0)


def sold(y: Any, d: Any) -> Any:
    return 3.0 * jnp.minimum(y, d) - 0.2 * left(y, d)


def bill(q: Any) -> Any:
    return -q - 0.4 * (q > 0)


def filled(s: Any, q: Any) -> Any:
    return jnp.minimum(s + q, S)


STOCK = {"states": {"s": dp.integers(0, S)}, "choices": {"q": dp.integers(0, Q)}}
DEMAND = {"shocks": {"d": dp.iid(np.arange(D), CHANCES)}, "discount": 0.9}


def plain() -> tuple[dp.Model, dp.Model]:
    """Order up, then sell."""
    return dp.Model(
        **STOCK,
        **DEMAND,
        post={"y": (dp.integers(0, S), filled)},
        transition={"s": left},
        reward=[sold, bill],
        feasible=lambda s, q: s + q <= S,
        outputs={"sales": lambda y, d: jnp.minimum(y, d), "y": lambda y: y},
    ), dp.Model(
        **STOCK,
        **DEMAND,
        transition={"s": lambda s, q, d: left(filled(s, q), d)},
        reward=[lambda s, q, d: sold(filled(s, q), d), bill],
        feasible=lambda s, q: s + q <= S,
        outputs={"sales": lambda s, q, d: jnp.minimum(filled(s, q), d), "y": filled},
    )


def uncertain_delivery() -> tuple[dp.Model, dp.Model]:
    """A shock decides what arrives, another what is sold; the first one is seen again later."""
    shocks = {"d": dp.iid(np.arange(D), CHANCES), "w": dp.iid([0, 1, 2], YIELD)}

    def arrived(s: Any, q: Any, w: Any) -> Any:
        return jnp.minimum(s + q * w, S)

    def after(y: Any, d: Any, w: Any) -> Any:
        return jnp.where(w == 2, jnp.maximum(left(y, d) - 1, 0), left(y, d))

    return dp.Model(
        **STOCK,
        shocks=shocks,
        discount=0.9,
        post={"y": (dp.integers(0, S), arrived)},
        transition={"s": after},
        reward=[lambda y, d, w: sold(y, d) + 0.1 * w, bill, lambda y, q, s: 0.01 * y * q * s],
    ), dp.Model(
        **STOCK,
        shocks=shocks,
        discount=0.9,
        transition={"s": lambda s, q, d, w: after(arrived(s, q, w), d, w)},
        reward=[
            lambda s, q, d, w: sold(arrived(s, q, w), d) + 0.1 * w,
            bill,
            lambda s, q, w: 0.01 * arrived(s, q, w) * q * s,
        ],
    )


def market() -> tuple[dp.Model, dp.Model]:
    """Demand's chances hang on a chain and on a chosen price; rules take mixed arguments."""
    common = {
        "states": {"s": dp.integers(0, S), "z": dp.markov([0, 1], CHAIN), "k": dp.integers(0, 2)},
        "choices": {"q": dp.integers(0, Q), "price": dp.grid([0.5, 1.0, 2.0])},
        "shocks": {"d": dp.iid(np.arange(D), chances)},
        "discount": lambda z: 0.85 + 0.05 * z,
        "feasible": lambda s, q: s + q <= S,
    }

    def worn(k: Any, y: Any, q: Any) -> Any:
        return jnp.where(y + q > S, jnp.minimum(k + 1, 2), k)

    return dp.Model(
        **common,
        post={"y": (dp.integers(0, S), filled)},
        transition={"s": left, "k": worn},
        reward=[lambda y, d, price, k: price * jnp.minimum(y, d) - 0.1 * k * y, bill],
    ), dp.Model(
        **common,
        transition={
            "s": lambda s, q, d: left(filled(s, q), d),
            "k": lambda k, s, q: worn(k, filled(s, q), q),
        },
        reward=[
            lambda s, q, d, price, k: price * jnp.minimum(filled(s, q), d) - 0.1 * k * filled(s, q),
            bill,
        ],
    )


def chances(z: Any, price: Any) -> Any:
    weight = jnp.exp(-jnp.abs(jnp.arange(D) - 2.0 - z + price))
    return weight / weight.sum()


def two_shops() -> tuple[dp.Model, dp.Model]:
    """Two post variables, of which not every pair can come about; one is a choice by name."""
    n = 4
    common = {
        "states": {"a": dp.integers(0, n), "b": dp.integers(0, n)},
        "choices": {"to_b": "b", "q": dp.integers(0, 8)},
        "shocks": {"d": dp.iid([0, 1, 2], YIELD)},
        "discount": 0.9,
        "feasible": lambda a, b, to_b, q: (q == 0) | (a + b + q <= n),
    }

    def rest(a: Any, b: Any, to_b: Any, q: Any) -> Any:
        return jnp.maximum(a + b + q - to_b, 0)

    # Where p and r are both large, p + r is no member: no feasible pair leads there.
    return dp.Model(
        **common,
        post={"p": (dp.integers(0, 3 * n), rest), "r": ("b", "to_b")},
        transition={
            "a": lambda p, r, d: jnp.where(
                p + r > 2 * n, p + r, jnp.maximum(jnp.minimum(p, n) - d, 0)
            ),
            "b": lambda r, d: jnp.maximum(r - jnp.maximum(d - 1, 0), 0),
        },
        reward=[lambda p, r, d: jnp.sqrt(p + 1.0) + 2.0 * jnp.minimum(r, d), lambda q: -0.7 * q],
    ), dp.Model(
        **common,
        transition={
            "a": lambda a, b, to_b, q, d: jnp.where(
                rest(a, b, to_b, q) + to_b > 2 * n,
                rest(a, b, to_b, q) + to_b,
                jnp.maximum(jnp.minimum(rest(a, b, to_b, q), n) - d, 0),
            ),
            "b": lambda to_b, d: jnp.maximum(to_b - jnp.maximum(d - 1, 0), 0),
        },
        reward=[
            lambda a, b, to_b, q, d: (
                jnp.sqrt(rest(a, b, to_b, q) + 1.0) + 2.0 * jnp.minimum(to_b, d)
            ),
            lambda q: -0.7 * q,
        ],
    )


EXACT = [
    pytest.param(f, id=f.__name__, marks=[pytest.mark.slow] * (f in (market, two_shops)))
    for f in (plain, uncertain_delivery, market, two_shops)
]


def _defined(model: dp.Model, v: Any) -> tuple[Any, Any]:
    """Return quality (states, choices) by the definition, in NumPy, and the sweep's at once."""
    d = define(model)
    s, c = (x.ravel() for x in np.indices((d.n, d.m)))
    return d.look(s, c).q(d.ahead(v)).reshape(d.n, d.m)


@pytest.mark.slow
@pytest.mark.parametrize("pair", EXACT)
def test_a_model_with_post_is_the_model_without(pair: Callable[..., Any]) -> None:
    given, meant = pair()
    dp.check(given)
    v = DRAW.normal(size=given.shape)
    q = _defined(meant, v)
    np.testing.assert_allclose(_defined(given, v), q, atol=1e-12)
    for block in (None, 3):  # kept, and streaming

        def sweep(v: Any, model: dp.Model = given, block: int | None = block) -> Any:
            operator = GridOperator(model, block=block)
            best, policy = operator.greedy(v)
            fixed = operator.at(policy)
            return best, policy, fixed.reward + fixed.apply(v), operator.survey().gap

        best, policy, step, gap = jax.jit(sweep)(v)
        np.testing.assert_allclose(np.ravel(best), q.max(1), atol=1e-12)
        chosen = q[np.arange(len(q)), np.ravel(policy)]
        np.testing.assert_allclose(chosen, q.max(1), atol=1e-12)
        np.testing.assert_allclose(np.ravel(step), q.max(1), atol=1e-12)
        assert gap == 0.0


ASKED = ("mean_sales", "sd_sales", "p90_y", "gini_s")


@pytest.fixture(scope="module")
def solved() -> tuple[dp.Solution, dp.Solution]:
    """The plain model, with and without post."""
    with_post, without = (dp.solve(m, tol=1e-9, distribution=True, moments=ASKED) for m in plain())
    return with_post, without


@pytest.mark.slow
def test_what_follows_from_a_solution_is_the_same(solved: tuple[Any, Any]) -> None:
    given, meant = solved
    np.testing.assert_allclose(given.value, meant.value, atol=2e-9)
    compared = 0
    for name, x in meant.arrays.items():
        if name.startswith(("output_", "policy_", "moment_")) or name == "distribution":
            np.testing.assert_allclose(given.arrays[name], x, atol=1e-8, err_msg=name)
            compared += 1
    assert compared == 9
    found = dp.verify(given)
    assert found.ok, str(found)


@pytest.mark.slow
def test_agents_are_as_without_post_and_record_it(solved: tuple[Any, Any]) -> None:
    names = ("s", "q", "sales", "y")
    given, meant = (
        dp.simulate(x, 3, agents=50, periods=30, variables=names, initial={"s": 0}).to_xarray()
        for x in solved
    )
    np.testing.assert_array_equal(given["y"], np.minimum(given["s"] + given["q"], S))
    assert float(given["sales"].mean()) == pytest.approx(float(meant["sales"].mean()), rel=0.05)


N, M = 9, 5
GROWTHS, YIELDS = np.array([0.7, 1.1]), np.array([0.4, 0.6])


def wealth(beta: Any = 0.9, *, horizon: int | None = None) -> dp.Model:
    """Wealth is eaten or kept; what is kept lies between the points of its grid."""
    time = {"horizon": horizon, "terminal": lambda x: jnp.sqrt(x)} if horizon else {}
    return dp.Model(
        states={"x": dp.grid(0.2, 3.0, N, outside="clip")},
        choices={"share": dp.grid(0.1, 0.9, M)},
        shocks={"g": dp.iid(GROWTHS, YIELDS)},
        post={"k": (dp.grid(0.0, 3.0, 7, curve=2.0), lambda x, share: (1.0 - share) * x)},
        transition={"x": lambda k, g: g * k + 0.3},
        reward=[lambda x, share: jnp.sqrt(share * x), lambda k, g: 0.1 * jnp.log(g * k + 0.5)],
        discount=beta,
        outputs={"bequest": lambda k, g: (g * k) ** 2},
        **time,
    )


def _wealth_by_hand(beta: float, v: Any) -> tuple[Any, Any, Any]:
    """Return quality (x, share), and where each pair leads in each branch, with chances."""
    x, share = np.linspace(0.2, 3.0, N), np.linspace(0.1, 0.9, M)
    k = 3.0 * np.linspace(0.0, 1.0, 7) ** 2
    after = np.clip(np.outer(k, GROWTHS) + 0.3, 0.2, 3.0)
    w = np.interp(after, x, v) @ YIELDS * beta + 0.1 * np.log(np.outer(k, GROWTHS) + 0.5) @ YIELDS
    kept = np.outer(x, 1.0 - share)
    bequest = np.interp(kept, k, (np.outer(k, GROWTHS) ** 2) @ YIELDS)
    return np.sqrt(np.outer(x, share)) + np.interp(kept, k, w), bequest, kept


@pytest.fixture(scope="module")
def wealthy() -> dp.Solution:
    """What is kept lies between the points of its grid."""
    return dp.solve(wealth, {"beta": 0.9}, tol=1e-9, distribution=True, moments=("mean_bequest",))


@pytest.mark.slow
def test_a_continuous_post_variable_is_interpolated(wealthy: dp.Solution) -> None:
    v = np.zeros(N)
    for _ in range(400):
        v = _wealth_by_hand(0.9, v)[0].max(1)
    q, bequest, _ = _wealth_by_hand(0.9, v)
    np.testing.assert_allclose(wealthy.value, v, atol=1e-8)
    best = q.argmax(1)
    np.testing.assert_array_equal(wealthy.policy_index["share"], best)
    given = bequest[np.arange(N), best]
    np.testing.assert_allclose(wealthy.arrays["output_bequest"], given)
    mean = float(wealthy.arrays["distribution"] @ given)
    assert float(wealthy.arrays["moment_mean_bequest"]) == pytest.approx(mean)
    found = dp.verify(wealthy)
    assert found.ok, str(found)


@pytest.mark.slow
def test_agents_draw_between_the_points_of_a_post_grid(wealthy: dp.Solution) -> None:
    names = ("x", "k", "bequest")
    panel = dp.simulate(
        wealthy, 1, agents=20_000, periods=30, variables=names, burn=20, initial={"x": 0.2}
    ).to_xarray()
    x = np.linspace(0.2, 3.0, N)
    seen = np.bincount(np.searchsorted(x, np.ravel(panel["x"]) - 1e-9), minlength=N)
    np.testing.assert_allclose(seen / seen.sum(), wealthy.arrays["distribution"], atol=0.01)
    points = 3.0 * np.linspace(0, 1, 7) ** 2
    assert np.isin(np.round(panel["k"], 12), np.round(points, 12)).all()
    mean = float(wealthy.arrays["moment_mean_bequest"])
    assert float(panel["bequest"].mean()) == pytest.approx(mean, rel=0.02)


@pytest.mark.slow
def test_a_finite_horizon_and_many_points_and_gradients() -> None:
    found = dp.solve(wealth, {"beta": 0.9, "horizon": 3})
    v = np.sqrt(np.linspace(0.2, 3.0, N))
    for t in (2, 1, 0):
        v = _wealth_by_hand(0.9, v)[0].max(1)
        np.testing.assert_allclose(found.value[t], v, rtol=1e-12)
    betas = jnp.array([0.85, 0.9])
    many = dp.solve_many(wealth, {"beta": betas}, tol=1e-9, gradients=("beta",))
    one = dp.solve(wealth, {"beta": 0.9 + 1e-6}, tol=1e-10)
    np.testing.assert_allclose(
        many.arrays["d_value_d_beta"][1], (one.value - many.value[1]) / 1e-6, rtol=1e-3
    )


def _model(**changes: Any) -> dp.Model:
    given = {**STOCK, **DEMAND, "post": {"y": (dp.integers(0, S), filled)}}
    given |= {"transition": {"s": left}, "reward": [sold, bill]}
    return dp.Model(**given | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post": {"y": (dp.integers(0, S), lambda s, q: s + q)}},
         "from s=7, q=4 the post variable 'y' lies 4 off its grid [0, 7]"),
        ({"post": {"y": (dp.grid(0.0, 8.0, 5), lambda s, q: s + q)}, "transition": {
            "s": lambda y, d: left(jnp.floor(y), d) * 0}},
         "from s=7, q=4 the post variable 'y' lies 3 off its grid [0, 8]"),
        ({"transition": {"s": lambda y, d: y - d}},
         "from s=0, q=0, y=0, d=4 the next state of 's' lies 4 off its grid [0, 7]"),
        ({"feasible": lambda y, q: y > q}, "the state s=0 has no feasible choice"),
        ({"post": {"y": dp.integers(0, S)}}, "give its grid and its rule"),
        ({"post": {"y": ("z", filled)}}, "shares the grid of 'z', which is no state or choice"),
        ({"post": {"y": (dp.rouwenhorst(3, 0.5, 0.1), filled)}}, "post variable 'y' has the grid"),
        ({"post": {"y": (dp.integers(0, S), "order")}}, "is 'order', which is no choice, state or"),
        ({"post": {"y": (dp.integers(0, S), lambda y, q: y + q)}}, "which is not known before it"),
        ({"post": {"q": (dp.integers(0, S), filled)}}, "'q' stands under choices and under post"),
        ({"post": {"y": (dp.grid([0.0, 2.0, 1.0]), filled)}}, "variable 'y' does not increase"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(dp.ModelError, match=re.escape(message)):
        dp.check(_model(**changes))


@pytest.mark.slow
def test_a_solve_fails_where_a_post_variable_leaves_its_grid() -> None:
    wrong = _model(post={"y": (dp.integers(0, S), lambda s, q: s + q)})
    with pytest.raises(dp.ModelError, match="from s=7, q=4 the post variable 'y' lies 4 off"):
        dp.solve(wrong)


def test_post_is_looked_up_after_every_rule_that_names_it() -> None:
    sizes = {"x": 50, "x'": 50, "p": 60, "k": 5, "k'": 5, "w": 30, "*": 20}
    rules = [
        Rule("x", frozenset({"p", "w"})),
        Rule("p", frozenset({"x", "*"}), post=True),
        Rule("k", frozenset({"*"})),
    ]
    steps = plan(rules, [], {"w": frozenset()}, sizes)
    order = [name for step in steps for name in step.states]
    assert order.index("x") < order.index("p")
    assert steps[0].states == ("x",)
    assert steps[0].shocks == ("w",)


def test_a_sweep_costs_post_times_shocks_and_pairs_but_not_their_product() -> None:
    def largest(model: dp.Model) -> int:
        jaxpr = jax.make_jaxpr(lambda v: GridOperator(model).greedy(v)[0])(jnp.zeros(model.shape))
        return max(v.aval.size for eqn in jaxpr.jaxpr.eqns for v in eqn.outvars)

    given, meant = plain()
    pairs = (S + 1) * (Q + 1)
    assert largest(given) <= pairs < pairs * D <= largest(meant)


@pytest.mark.parametrize("memory", [2**28, 8])
@pytest.mark.parametrize(
    "pair", [pytest.param(plain), pytest.param(market, marks=pytest.mark.slow)]
)
def test_states_over_devices(pair: Callable[..., Any], memory: int) -> None:
    given, meant = pair()
    partition = make_partition(lambda: given, {}, MeshShape(states=2))
    assert partition is not None
    axis = list(given.states).index(partition.state)
    v = DRAW.normal(size=given.shape)
    where = PartitionSpec(*[None] * axis, STATES)

    def sweep(v: Any) -> Any:
        operator = GridOperator(given, memory=memory, partition=partition)
        best, policy = operator.greedy(v)
        fixed = operator.at(policy)
        return best, fixed.reward + fixed.apply(v)

    shared = jax.shard_map(sweep, mesh=make_mesh(MeshShape(states=2)), in_specs=where,
                           out_specs=where, check_vma=False)  # fmt: skip
    members = np.minimum(np.arange(2 * partition.width), partition.size - 1)
    for found in jax.jit(shared)(np.take(v, members, axis)):
        whole = np.take(np.asarray(found), np.arange(partition.size), axis)
        np.testing.assert_allclose(whole.ravel(), _defined(meant, v).max(1), atol=1e-11)


def booked(beta: float = 0.95, *, read: str = "reward") -> dp.Model:
    """What is booked lies beyond its grid, and is extrapolated; the state moves by itself, or not.

    The rewards are linear in what is booked, so that extrapolation is exact there.
    """
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, 11, outside="clip")},
        choices={"y": "x"},
        post={"b": (dp.grid(0.0, 0.5, 3, outside="extrapolate"), lambda x, y: x + y)},
        transition={"x": "y" if read == "reward" else lambda b: b / 2},
        reward=[lambda x, y: -((y - x / 2) ** 2), lambda b: 0.1 * b],
        discount=beta,
    )


def test_only_what_the_continuation_reads_of_a_post_variable_can_take_the_bounds_away() -> None:
    found = dp.solve(booked, tol=1e-8)
    assert (found.status, found.message) == ("solved", "")
    x = np.linspace(0.0, 1.0, 11)
    v, reward = np.zeros(11), 0.1 * (x[:, None] + x) - (x - x[:, None] / 2) ** 2
    for _ in range(1000):
        v = (reward + 0.95 * v).max(1)
    np.testing.assert_allclose(found.value, v, atol=2e-8)
    assert float(found.error_bound) <= 1e-8
    verified = dp.verify(found)
    assert verified.ok, str(verified)
    assert verified.worst_error <= 1e-8
    # What the rule of the state reads does count: weights beyond [0, 1] multiply the value.
    loose = dp.solve(booked, {"read": "state"}, tol=1e-8)
    assert (loose.status, float(loose.error_bound)) == ("inexact", np.inf)
