"""Bounds over a continuum: against closed forms, finer grids, wrong policies, and lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.continuum.between import widths
from dpsolve.solvers.continuum.bounds import lower_bound, tightened, upper_bound
from dpsolve.solvers.continuum.equivalent import Utility, share_of, utility_of
from dpsolve.solvers.continuum.euler import stationary_policy
from dpsolve.solvers.continuum.problem import read_problem

ALPHA, BETA = 1 / 3, 0.95


def brock_mirman(alpha=ALPHA, beta=BETA, *, n_k=100):
    """Full depreciation and log utility: v = A + B log k."""
    k_ss = (alpha * beta) ** (1 / (1 - alpha))
    return dp.Model(
        states={"k": dp.grid(0.25 * k_ss, 1.75 * k_ss, n_k)},
        choices={"k_next": "k"},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k**alpha > k_next,
        reward=lambda k, k_next: jnp.log(k**alpha - k_next),
        discount=beta,
        concave=True,
        outputs={"consumption": lambda k, k_next: k**alpha - k_next},
    )


def brock_mirman_value(k):
    slope = ALPHA / (1 - ALPHA * BETA)
    at_one = np.log(1 - ALPHA * BETA) + BETA * slope * np.log(ALPHA * BETA)
    return at_one / (1 - BETA) + slope * np.log(k)


def household(gamma=2.0, r=0.03, *, n_a=200):
    """The household of the README, on a curved grid."""

    def consumption(a, z, a_next):
        return (1 + r) * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 20.0, n_a, curve=2), "z": dp.rouwenhorst(7, 0.9, 0.1)},
        choices={"a_next": "a"},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=0.96,
        concave=True,
        outputs={"consumption": consumption},
    )


@pytest.mark.parametrize(("n_k", "width", "middle"), [(100, 9e-4, 4e-5), (1_000, 9.2e-6, 1e-6)])
def test_bounds_hold_everywhere_against_a_closed_form(n_k, width, middle):
    problem = read_problem(brock_mirman(n_k=n_k))

    @jax.jit
    def found():
        policy = stationary_policy(problem)
        lower = lower_bound(problem, policy.y)
        lines = upper_bound(problem, policy, lower)
        upper = tightened(problem, lines)
        return lower, upper, lines, widths(problem, lower, upper, lines)

    lower, upper, lines, wide = found()
    nodes = np.asarray(problem.nodes[:, 0])
    k = np.linspace(nodes[0], nodes[-1], 200_001)
    cell = np.clip(np.searchsorted(nodes, k, side="right") - 1, 0, n_k - 2)
    height, slope = np.asarray(lines.height)[0], np.asarray(lines.slope)[0, :, 0]
    above = np.minimum(*(height[j] + slope[j] * (k - nodes[j]) for j in (cell, cell + 1)))
    below = np.interp(k, nodes, np.asarray(lower)[0])
    true = brock_mirman_value(k)
    assert (below <= true).all()
    assert (true <= above).all()
    assert (above - below).max() <= wide.between <= width
    value = (np.asarray(lower) + np.asarray(upper))[0] / 2
    assert np.abs(np.interp(k, nodes, value) - true).max() <= wide.error <= wide.between
    assert np.abs(value - brock_mirman_value(nodes)).max() <= middle


@pytest.mark.slow
def test_a_binding_constraint_against_six_thousand_nodes():
    """Bounds of CERTIFICATE.md, section 10, from 6,000 nodes: they overlap with ours."""
    s = dp.certify(household)
    assert (s.status, s.message) == ("solved", "")
    assert s.error_bound <= 4e-3
    reference = {
        0.0: [(-30.4606673, -30.4606670), (-25.3806652, -25.3806647), (-21.3882177, -21.3882165)],
        5.0: [(-24.0535134, -24.0535113), (-21.4421146, -21.4421127), (-18.7317783, -18.7317762)],
    }
    a = np.asarray(s.grids["a"])
    for wealth, rows in reference.items():
        for z, (low, high) in zip((0, 3, 6), rows, strict=True):
            assert np.interp(wealth, a, s.lower[:, z]) <= high
            value = np.interp(wealth, a, s.value[:, z])
            assert abs(value - (low + high) / 2) <= s.error_bound
    at = {name: s[f"policy_{name}a_next"] for name in ("lower_", "", "upper_")}
    assert (at["lower_"] <= at[""]).all()
    assert (at[""] <= at["upper_"]).all()


@pytest.fixture(scope="module")
def fine():
    return dp.certify(household, {"n_a": 1_500})


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_wrong_policy_is_bounded_and_what_it_loses(share, fine):
    own = dp.certify(household)
    rng = np.random.default_rng(0)
    consumption = np.asarray(own.outputs["consumption"])
    wrong = np.asarray(own.policy["a_next"]) + share * consumption * rng.uniform(0, 1, (200, 7))
    wrong = np.minimum(wrong, 20.0)
    s = dp.certify(household, policy={"a_next": wrong})
    a = np.asarray(s.grids["a"])
    for z in range(7):
        true_low, true_high = (
            np.interp(a, fine.grids["a"], x[:, z]) for x in (fine.lower, fine.upper)
        )
        assert (s.lower[:, z] <= true_high).all()
        assert (s.upper[:, z] >= true_low).all()
    lost = float(np.max(own.lower - s.lower))  # what is lost at the nodes, at least
    assert 0 < lost <= s["policy_loss"]
    assert s.error_bound > own.error_bound
    assert s["policy_loss"] < 5 * (lost + own["policy_loss"])


@pytest.mark.slow
def test_a_policy_with_knots_is_bounded_as_it_is(fine):
    knots = np.linspace(0, 20, 30)
    choice = np.stack([np.interp(knots, fine.grids["a"], x) for x in fine.policy["a_next"].T], 1)
    s = dp.certify(household, policy={"a_next": choice}, knots={"a": knots})
    a = np.asarray(s.grids["a"])
    assert set(knots) <= set(a)
    assert s.value.shape == (len(a), 7)
    np.testing.assert_allclose(s.policy["a_next"][:, 3], np.interp(a, knots, choice[:, 3]))
    function = dp.certify(
        household,
        policy={"a_next": lambda a, z: np.where(z > 0, 0.9, 0.8) * a},
    )
    assert function["policy_loss"] > s["policy_loss"]


def declared(
    hump=0.0, corner=0.0, both=0.0, fixed=0.0, logistic=0.0, ripple=0.0, root=0.0, kink=0.0
):
    """A concave reward, and what is added to it that is not concave."""

    def income(x):
        return 1.2 * x**0.4 + 0.5 * x + 1.0

    def reward(x, y):
        c = income(x) - y
        return (
            jnp.log(c)
            + hump * jnp.exp(-(((y - 3.2) / 0.15) ** 2))
            + corner * jnp.maximum(x - 3, 0) ** 2
            + both * x * y
            - fixed * (1 - jnp.exp(-(((y - x) / 0.2) ** 2)))
            + logistic / (1 + jnp.exp(-8 * (y - 2.0)))
            + ripple * jnp.sin(20 * x)
            + root * c**1.3
            + kink * jax.nn.relu(x - 2.0)
        )

    return dp.Model(
        states={"x": dp.grid(0.05, 4.0, 60, curve=1.3)},
        choices={"y": "x"},
        transition={"x": "y"},
        feasible=lambda x, y: income(x) - y > 1e-6,
        reward=reward,
        discount=0.9,
        concave=True,
    )


LIES = [
    {"hump": 0.2}, {"hump": 1.0}, {"corner": 0.01}, {"corner": 0.1}, {"both": 0.02},
    {"both": 0.2}, {"fixed": 0.15}, {"logistic": 0.6}, {"ripple": 1e-3}, {"root": 3.0},
    {"kink": 0.3},
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_reward_declared_concave_that_is_not_is_refuted(lie):
    s = dp.certify(declared, lie)
    assert s.status == "inexact"
    assert s.error_bound == np.inf
    assert (s.upper == np.inf).all()
    assert (s.lower == -np.inf).all()
    assert "declared concave in x and y, and is not: at x=" in s.message


@pytest.mark.parametrize("hump", [0.0, 0.01, 0.05])
def test_a_hump_far_away_from_the_policy_is_found_however_small(hump):
    s = dp.certify(declared, {"hump": hump})
    assert s.status == ("inexact" if hump else "solved")
    best = dp.solve(declared, {"hump": hump}, tol=1e-9)  # a feasible policy: a lower bound
    assert (np.asarray(best.lower) <= s.upper).all()


@pytest.mark.slow
def test_a_tolerance_says_how_many_points_would_do():
    s = dp.certify(household, tol=1e-4)
    assert s.status == "inexact"
    assert s.error_bound > 1e-4
    assert "some 1," in s.message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": {"a": 0}}, "the choice is 'a_next'"),
        ({"policy": {"a_next": np.zeros(3)}}, r"has shape \(3,\)"),
        ({"policy": {"a_next": lambda a, z: a + 100}}, "a_next=100 at a=0, .* lies outside"),
        ({"policy": {"a_next": lambda a, z: 1.03 * a + np.exp(z)}}, "infeasible there"),
        ({"policy": {"a_next": lambda a, z: 0.0}}, "returned shape"),
        ({"knots": {"a": [0, 1]}}, "give the policy, too"),
        ({"policy": {"a_next": np.zeros((2, 7))}, "knots": {"a": [0, 30]}}, "beyond the grid"),
        ({"policy": {"a_next": "abc"}}, "holds no real numbers"),
        ({"policy": {"a_next": [[1], [1, 2]]}}, "unequal parts"),
        ({"policy": {"a_next": np.zeros((200, 7), complex)}}, "holds no real numbers"),
        ({"policy": np.zeros((200, 7))}, "policy is a ndarray; write policy={'a_next'"),
        ({"policy": {"a_next": lambda a, z: "s"}}, "holds no real numbers"),
        ({"policy": {"a_next": np.zeros((2, 7))}, "knots": "a"}, "knots='a'"),
        ({"policy": {"a_next": np.zeros((2, 7))}, "knots": {"a": "b"}}, "holds no real numbers"),
        ({"tol": 0}, "above 0"),
        ({"tol": "1"}, "above 0"),
        ({"params": {"r": np.zeros(2)}}, "takes one point"),
    ],
)
def test_what_cannot_be_certified_as_it_was_asked(given, said):
    with pytest.raises(dp.UsageError, match=said):
        dp.certify(household, **given)


def test_a_policy_takes_the_states_by_name():
    with pytest.raises(dp.DpsolveError, match="wealth"):
        dp.certify(household, policy={"a_next": lambda wealth: wealth})


def test_a_traced_policy_is_refused_in_a_sentence():
    def value(policy):
        return dp.certify(household, policy={"a_next": policy}).value

    with pytest.raises(dp.UsageError, match="inside jit or grad"):
        jax.jit(value)(jnp.zeros((200, 7)))


def replaced(**fields):
    def factory():
        made = household(n_a=20)
        own = {f: getattr(made, f) for f in ("states", "choices", "transition", "feasible",
               "reward", "discount", "concave")}  # fmt: skip
        return dp.Model(**{**own, **fields})

    return factory


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"concave": False}, r"write dp.Model\(..., concave=True\)"),
        ({"choices": {"a_next": "a", "b": dp.integers(0, 3)}}, "its choice 'b' is discrete"),
        ({"discount": lambda a: 0.9 + 0 * a}, "its discount depends on 'a'"),
        ({"reward": lambda a, z, a_next: jnp.sqrt(a - 1) - a_next}, "a=0"),
        ({"feasible": lambda a, a_next: a > a_next}, "no choice|no feasible choice"),
    ],
)
def test_models_that_cannot_be_certified_say_why(fields, said):
    with pytest.raises(dp.ModelError, match=said):
        dp.certify(replaced(**fields))


@pytest.mark.slow
def test_a_state_without_a_feasible_choice_is_named_without_a_look_at_all_pairs(monkeypatch):
    monkeypatch.setattr("dpsolve.solvers.solve.certify.LOOKED_OVER", 0)
    with pytest.raises(dp.ModelError, match=r"no choice of 'a_next' .* at the state a=0"):
        dp.certify(replaced(feasible=lambda a, a_next: a > a_next))


def test_a_model_without_a_continuous_state_is_exact_as_it_is():
    with pytest.raises(dp.ModelError, match="no continuous state"):
        dp.certify("inventory")
    with pytest.raises(dp.ModelError, match="no continuous state"):
        dp.certify({})


@pytest.mark.slow
def test_a_loss_is_a_share_of_consumption_where_the_reward_is_a_utility_of_it():
    s = dp.certify(brock_mirman, {"n_k": 40})
    assert s["consumption_equivalent"] == pytest.approx(np.expm1((1 - BETA) * s["policy_loss"]))
    wealth = read_problem(household())
    assert float(utility_of(wealth).gamma) == 2.0
    # To consume a share more throughout scales a value of constant relative risk aversion.
    loss, share = 0.3, share_of(Utility(2.0), 0.3, np.ones(1), -30.0, -20.0)
    assert -20.0 - loss == pytest.approx(-20.0 * (1 + share))
    assert share_of(Utility(0.5), loss, np.ones(1), 4.0, 9.0) == pytest.approx((4.3 / 4) ** 2 - 1)
    assert share_of(Utility(2.0), loss, np.ones(1), -1.0, 1.0) == np.inf


@pytest.mark.slow
def test_other_rewards_have_no_share_of_consumption():
    def reward(a, z, a_next):
        return dp.crra((1.03 * a + jnp.exp(z)) - a_next, 2.0 + 0.1 * z)

    assert utility_of(read_problem(replaced(reward=reward)())) is None  # gamma is none of its own
    plus = {"reward": [household().reward[0], lambda a: 0.01 * a]}
    assert utility_of(read_problem(replaced(**plus)())) is None
    assert "consumption_equivalent" not in dp.certify(replaced(**plus))
