"""Whole solves of models with continuous choices, against what they are known to be worth."""

import jax.numpy as jnp
import numpy as np
import pytest
from not_concave_models import CASES, CONTROL, KINKS, STEEP
from scipy.interpolate import RegularGridInterpolator

import dpsolve as dp
from continuous_models import MODELS

pytestmark = pytest.mark.slow

# -- closed forms ---------------------------------------------------------------------------------


def capital_goods(beta=0.95, *, shares=(0.2, 0.3), n=12):
    """Goods that are used up in a period; log utility, with a closed form."""
    total = sum(shares)
    names = [f"k{i}" for i in range(len(shares))]
    y_one = np.prod([(beta * a) ** a for a in shares]) ** (1 / (1 - total))
    rest = [beta * a * y_one for a in shares]

    def output(goods):
        return jnp.exp(sum(a * jnp.log(k) for a, k in zip(shares, goods, strict=True)))

    if len(shares) == 2:

        def consumption(k0, k1, next0, next1):
            return output((k0, k1)) - next0 - next1
    else:

        def consumption(k0, k1, k2, next0, next1, next2):
            return output((k0, k1, k2)) - next0 - next1 - next2

    code = consumption.__code__.co_varnames[: 2 * len(shares)]
    space = {"log": jnp.log, "consumption": consumption}
    given = ", ".join(code)
    return dp.Model(
        states={name: dp.grid(0.5 * k, 1.5 * k, n) for name, k in zip(names, rest, strict=True)},
        choices={f"next{i}": dp.interval(name) for i, name in enumerate(names)},
        transition={name: f"next{i}" for i, name in enumerate(names)},
        feasible=eval(f"lambda {given}: consumption({given}) > 0", space),
        reward=eval(f"lambda {given}: log(consumption({given}))", space),
        discount=beta,
        concave=True,
    )


@pytest.mark.parametrize(
    ("shares", "n", "width"), [((0.2, 0.3), 12, 0.08), ((0.1, 0.2, 0.2), 5, 1.0)]
)
def test_capital_goods_with_a_closed_form(shares, n, width):
    beta, total = 0.95, sum(shares)
    s = dp.solve(capital_goods(shares=shares, n=n))
    assert (s.status, s.message, s.certifies) == ("solved", "", "continuum")
    slopes = [a / (1 - beta * total) for a in shares]
    at_one = np.log(1 - beta * total)
    at_one += beta * sum(b * np.log(beta * a) for a, b in zip(shares, slopes, strict=True))
    grids = np.meshgrid(*s.grids.values(), indexing="ij")
    true = at_one / (1 - beta) + sum(b * np.log(k) for b, k in zip(slopes, grids, strict=True))
    assert (s.lower <= true).all()
    assert (true <= s.upper).all()
    assert np.abs(s.value - true).max() <= s.error_bound <= width
    for i, a in enumerate(shares):
        right = beta * a * np.exp(sum(c * np.log(k) for c, k in zip(shares, grids, strict=True)))
        assert np.abs(s.policy[f"next{i}"] / right - 1).max() < 0.05
    # Whoever follows the stored policy loses something, and no more than is claimed. The bound is
    # little more than the width: without a look between the nodes it would be 20 times that.
    states = np.random.default_rng(0).uniform(
        [g[0] for g in s.grids.values()], [g[-1] for g in s.grids.values()], (200, len(shares))
    )
    loss = at_one / (1 - beta) + np.log(states) @ slopes - followed(s, shares, states)
    assert 0 < loss.max() <= s["policy_loss"] < 6 * s.error_bound


def followed(s, shares, goods):
    """Return what the stored policy earns from some states (draws, d), along the path it takes."""
    grids = [np.asarray(g) for g in s.grids.values()]
    policy = [RegularGridInterpolator(grids, np.asarray(x)) for x in s.policy.values()]
    earned = np.zeros(len(goods))
    for t in range(600):
        output = np.exp(np.log(goods) @ np.asarray(shares))
        goods = np.stack([
            np.clip(f(goods), g[0], g[-1]) for f, g in zip(policy, grids, strict=True)
        ], 1)  # fmt: skip
        earned += 0.95**t * np.log(output - goods.sum(1))
    return earned


# -- against a far finer solve of the same --------------------------------------------------------

SIZES = {  # of the finer one
    "aiyagari": {"n_a": 185}, "labour": {"n_a": 96}, "portfolio": {"n_w": 76},
    "entrepreneur": {"n_a": 96}, "life_cycle": {"n_a": 153}, "irreversible": {"n_k": 153},
    "cash_on_hand": {"n_m": 153},
}  # fmt: skip


def rows_of(s, points):
    """Value and bounds as rows along the axis of a state, the only one of its length."""
    arrays = [np.asarray(a) for a in (s.value, s.lower, s.upper)]
    moved = [np.moveaxis(a, a.shape.index(len(points)), -1) for a in arrays]
    return [a.reshape(-1, len(points)) for a in moved]


def assert_one_bounds_the_other(coarse, fine, name):
    """One continuous state: what both say of the true value is true of the same one."""
    x, points = np.asarray(coarse.grids[name]), np.asarray(fine.grids[name])
    own, other = rows_of(coarse, x), rows_of(fine, points)
    for value, lower, upper, value_f, lower_f, upper_f in zip(*own, *other, strict=True):
        slack = 1e-11 * (1 + np.abs(value_f).max())
        assert (np.interp(points, x, lower) <= upper_f + slack).all()
        assert (np.interp(x, points, lower_f) <= upper + slack).all()
        off = np.abs(np.interp(points, x, value) - value_f).max()
        assert off <= coarse.error_bound + fine.error_bound + slack


@pytest.mark.parametrize("name", MODELS)
def test_seven_models_against_far_finer_solves_of_themselves(name):
    factory, (size,) = MODELS[name], SIZES[name].items()
    coarse, fine = dp.solve(factory), dp.solve(factory, dict([size]))
    for s in (coarse, fine):
        assert (s.status, s.certifies) == ("solved", "continuum"), s.message
    assert_one_bounds_the_other(coarse, fine, size[0][-1])
    assert fine.error_bound < coarse.error_bound
    for choice in coarse.policy if len(coarse.policy) == 1 else ():
        low, high = (coarse[f"policy_{end}_{choice}"] for end in ("lower", "upper"))
        assert (low <= coarse.policy[choice]).all()
        assert (coarse.policy[choice] <= high).all()


def consumer(beta=0.94, *, by="savings", n=40):
    """The same household, whose choice is what it saves or what it consumes."""
    if by == "savings":
        choices = {"c": dp.interval(0.0, lambda m: m)}
        moves, utility = (lambda m, c, y: 1.03 * c + y), lambda m, c: dp.crra(m - c, 2.0)
        feasible = [lambda m, c: m - c > 0]
    else:
        choices = {"c": dp.interval(0.0, lambda m: m)}
        moves, utility = (lambda m, c, y: 1.03 * (m - c) + y), lambda c: dp.crra(c, 2.0)
        feasible = [lambda c: c > 0]
    return dp.Model(
        states={"m": dp.grid(0.5, 20.0, n, curve=2, outside=("error", "clip"))},
        choices=choices,
        shocks={"y": dp.iid([0.5, 1.0, 1.5], [0.25, 0.5, 0.25])},
        transition={"m": moves},
        feasible=feasible,
        reward=utility,
        discount=beta,
        concave=True,
    )


def test_what_is_consumed_and_what_is_saved_are_the_same_choice():
    saved, eaten = (dp.solve(consumer, {"by": by}) for by in ("savings", "consumption"))
    m = np.asarray(saved.grids["m"])
    np.testing.assert_allclose(m - saved.policy["c"], eaten.policy["c"], rtol=1e-8)
    for s, other in ((saved.lower, eaten.lower), (saved.upper, eaten.upper)):
        np.testing.assert_allclose(s, other, rtol=1e-8)


# -- random models --------------------------------------------------------------------------------


def endless(a=0.5, b=0.5, c=0.5, d=0.5, e=0.5, f=0.5, g=0.5, *, n=30):
    """Returns are random, the top is cut off, and the upper end is a function that may bind."""
    beta, gamma, income, sd = 0.6 + 0.38 * a, 0.5 + 5 * b, 0.3 + c, 0.05 + 0.3 * d
    returns = jnp.array([1 - sd, 1.0, 1 + sd]) * (0.85 + 0.25 * e)

    def consumption(x, z, s):
        return x + income * jnp.exp(z) - s

    return dp.Model(
        states={
            "x": dp.grid(0.0, 8.0, n, curve=2, outside=("error", "clip")),
            "z": dp.rouwenhorst(2, 0.9 * f, 0.3),
        },
        choices={"s": dp.interval(0.0, lambda x: 0.1 + (0.3 + 0.7 * g) * x)},
        shocks={"w": dp.iid(returns, jnp.array([0.3, 0.4, 0.3]))},
        transition={"x": lambda s, w: w * s},
        feasible=lambda x, z, s: consumption(x, z, s) > 0,
        reward=lambda x, z, s: (
            dp.crra(consumption(x, z, s), gamma)
            - 0.03 * a * (s - 0.5 * x) ** 2
            + 0.05 * e * jnp.sqrt(x + 0.01)
        ),
        discount=lambda z: beta + 0.005 * z,
        concave=True,
    )


def ending(a=0.5, b=0.5, c=0.5, d=0.5, e=0.5, f=0.5, g=0.5, *, n=30):
    """A horizon, a bequest, the Markov state first, and ends and rewards that depend on t."""
    beta, gamma = 0.6 + 0.38 * a, 0.5 + 5 * b

    def consumption(x, z, y, t):
        return (0.9 + 0.2 * d) * x + (0.3 + c) * jnp.exp(z) * (1 + 0.1 * t * (e - 0.5)) - y

    return dp.Model(
        states={"z": dp.rouwenhorst(2, 0.9 * f, 0.3), "x": dp.grid(-0.5, 8.0, n, curve=2)},
        choices={"y": dp.interval("x", hi=lambda x, t: 0.5 + 0.1 * t + (0.5 + g) * x)},
        transition={"x": "y"},
        feasible=lambda x, z, y, t: consumption(x, z, y, t) > 0,
        reward=lambda x, z, y, t: dp.crra(consumption(x, z, y, t), gamma),
        terminal=lambda x: 5 * c * jnp.sqrt(x + 0.6),
        discount=lambda t: beta * (1 - 0.05 * t),
        horizon=5,
        concave=True,
    )


@pytest.mark.parametrize(
    ("factory", "most"), [(endless, 1), (ending, 0)], ids=["endless", "ending"]
)
def test_random_concave_models_against_a_far_finer_grid(factory, most):
    """In one of the endless ones the search for a policy ends early: then nothing is certified."""
    rng = np.random.default_rng(5)
    uncertified = 0
    for _ in range(36):
        drawn = dict(zip("abcdefg", rng.random(7), strict=True))
        coarse, fine = dp.solve(factory, drawn), dp.solve(factory, {**drawn, "n": 241})
        for s in (coarse, fine):
            assert s.status == "solved" or (s.certifies, s.error_bound) == ("none", np.inf), drawn
        if coarse.status == fine.status == "solved":
            assert_one_bounds_the_other(coarse, fine, "x")
        else:
            uncertified += 1
    assert uncertified <= most


# -- policies that are wrong ----------------------------------------------------------------------


def two_assets(beta=0.93, *, n=12):
    """Two states and a chain of three members: liquid and illiquid wealth."""
    return dp.Model(
        states={
            "z": dp.rouwenhorst(3, 0.8, 0.2),
            "a": dp.grid(0.0, 6.0, n, curve=2),
            "b": dp.grid(0.0, 6.0, n, curve=2),
        },
        choices={"a_next": dp.interval("a"), "b_next": dp.interval("b")},
        transition={"a": "a_next", "b": "b_next"},
        feasible=lambda z, a, b, a_next, b_next: (
            jnp.exp(z) + 1.01 * a + 1.05 * b - a_next - b_next - 0.2 * (b_next - b) ** 2 > 0
        ),
        reward=lambda z, a, b, a_next, b_next: dp.crra(
            jnp.exp(z) + 1.01 * a + 1.05 * b - a_next - b_next - 0.2 * (b_next - b) ** 2, 2.0
        ),
        discount=beta,
        concave=True,
    )


@pytest.mark.parametrize("factory", [MODELS["aiyagari"], two_assets], ids=["one state", "two"])
def test_wrong_policies_are_bounded_and_lose_no_more_than_is_said(factory):
    own = dp.certify(factory)
    wider = [own.error_bound]
    for share in (0.01, 0.1):
        wrong = {c: (1 - share) * np.asarray(y) for c, y in own.policy.items()}
        s = dp.certify(factory, policy=wrong)
        assert s.status == "solved", s.message
        assert (s.lower <= own.upper).all()
        np.testing.assert_allclose(s.upper, own.upper, rtol=1e-9)
        wider.append(s.error_bound)
        # At nodes a policy earns at most what is above its own lower bound by interpolation.
        assert float(np.max(own.lower - s.lower)) <= s["policy_loss"]
    assert wider == sorted(wider)
    assert wider[0] < wider[2]


# -- models that are not what they declare --------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_no_invalid_bound_of_a_reward_that_is_not_concave_is_called_certified(name):
    case = CASES[name]
    s = dp.solve(case.factory, case.params)
    if s.status == "solved":  # harmless where households go: the bounds must hold
        truth = case.truth()
        below = np.squeeze(truth.below(np.asarray(s.grids["x"])))
        assert (below <= s.upper).all()
        assert (s.lower <= below + truth.slack).all()
    else:
        assert (s.status, s.certifies, s.error_bound) == ("inexact", "none", np.inf)
        assert "is not" in s.message


@pytest.mark.parametrize("case", [CONTROL, *KINKS.values(), STEEP])
def test_kinks_and_infinite_slopes_of_concave_rewards(case):
    s = dp.solve(case.factory, case.params)
    truth = case.truth(800)
    below = truth.below(np.asarray(s.grids["x"]))
    lower, upper = (np.asarray(a).T.reshape(below.shape) for a in (s.lower, s.upper))
    assert (below <= upper).all()
    assert (lower <= below + truth.slack).all()
    if case.params.get("position") in (None, "minimum"):
        assert s.status == "solved", s.message


def income(x):
    return 1.2 * x**0.4 + 0.5 * x + 1.0


def household(**fields):
    own = {
        "states": {"x": dp.grid(0.05, 4.0, 30, curve=1.3)},
        "choices": {"y": dp.interval("x", hi=lambda x: income(x) - 1e-6)},
        "transition": {"x": "y"},
        "reward": lambda x, y: jnp.log(jnp.maximum(income(x) - y, 1e-9)),
        "discount": 0.9,
        "concave": True,
    }
    return dp.Model(**{**own, **fields})


MEMBERS = {"x": dp.grid(0.05, 4.0, 30), "z": dp.markov([0.0, 1.0], [[0.5, 0.5], [0.1, 0.9]])}


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"discount": 0.9999}, "solved", ""),
        ({"feasible": lambda y: (y < 1.7) | (y > 1.75)}, "inexact", "is not"),
        (
            {"reward": lambda x, y: jnp.where(
                (x > 3.5) & (y < 0.5), jnp.nan, jnp.log(income(x) - y))},
            "failed", "NaN",
        ),
        ({"choices": {"y": dp.interval("x", hi=lambda x: 0.1 + 0.5 * x)}}, "solved", ""),
        (
            {"choices": {"y": dp.interval("x", lo=lambda x: 0.3 + 0.5 * x,
                                          hi=lambda x: 0.3 + 0.5 * x)}},
            "solved", "",
        ),
        ({"horizon": 3, "terminal": lambda x: 0.1 * x**2}, "inexact", "is not"),
        (
            {"states": {"x": dp.grid(0.05, 4.0, 30, outside=("error", "clip"))},
             "choices": {"c": dp.interval(0.1, 2.0)},
             "transition": {"x": lambda x, c: x + 1.0 - 0.3 * c},
             "reward": lambda x, c: jnp.sqrt(c) - 0.2 * x},
            "inexact", "falls in a state that is cut off",
        ),
        ({"reward": lambda x, y: 1e9 + jnp.log(jnp.maximum(income(x) - y, 1e-9))}, "solved", ""),
    ],
    ids=["patient", "hole", "NaN", "binds", "fixed", "terminal", "falls", "constant"],
)  # fmt: skip
def test_what_a_solve_says_of_a_model(fields, status, said):
    s = dp.solve(household(**fields))
    assert s.status == status, s.message
    assert said in s.message
    assert (s.certifies == "continuum") == (status == "solved")


def test_discounts_that_do_not_contract_are_refused():
    with pytest.raises(dp.ModelError, match="discount"):
        dp.solve(household(states=MEMBERS, discount=lambda z: 0.8 + 0.3 * z))


# -- states that are worth -inf -------------------------------------------------------------------


def cake_and_bequest(beta=0.96, R=1.03, *, n=30, horizon=4):
    """Wealth that may be nothing, and a bequest of which nothing is worth -inf."""
    return dp.Model(
        states={"w": dp.grid(0.0, 10.0, n, curve=3)},
        choices={"w_next": dp.interval("w", hi=lambda w: R * w)},
        transition={"w": "w_next"},
        reward=lambda w, w_next: jnp.log(w - w_next / R),
        terminal=lambda w: jnp.log(w),
        discount=beta,
        horizon=horizon,
    )


def test_cells_beside_states_that_are_worth_nothing_are_left_out_by_name():
    s = dp.solve(cake_and_bequest)
    assert (s.status, s.certifies, s.concavity) == ("solved", "continuum", "proved")
    assert s.message.startswith("of 120 states 4 are worth -inf, t=0, w=0 the first")
    assert s.message in repr(s)
    beta, rate, w = 0.96, 1.03, np.linspace(s.grids["w"][1], 10.0, 5_001)
    level, share = 0.0, 1.0  # the value is level + share * log(w)
    for t in range(3, -1, -1):
        own = 1.0 + beta * share
        moved = np.log(rate * (1.0 - 1.0 / own))
        level, share = -np.log(own) + beta * (level + share * moved), own
        true = level + share * np.log(w)
        assert np.isneginf(s.value[t, 0])
        assert np.isneginf(s.lower[t, 0])
        assert np.isfinite(s.lower[t, 1:]).all()
        assert (np.interp(w, s.grids["w"][1:], s.lower[t, 1:]) <= true + 1e-12).all()
        assert (np.interp(s.grids["w"][1:], w, true) <= s.upper[t, 1:] + 1e-9).all()
        assert np.abs(np.interp(w, s.grids["w"][1:], s.value[t, 1:]) - true).max() <= s.error_bound
    assert 0.5 < s.error_bound < s["policy_loss"] < 50
