"""Where rounding used to be forgotten: near a discount of one, in rows, in sums that cancel."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

import dpsolve as dp
from dpsolve.solvers.probability.probabilities import compensated_sum, normalised

TYPED = ([0.1, 0.2, 0.7], [0.3333333333] * 3, [1 - 0.9 - 0.1, 0.1, 0.9], [0.6, 0.3, 0.1])


def contains(solution: dp.Solution, truth: Fraction, at: int = 0) -> bool:
    low, high = (Fraction(float(np.ravel(x)[at])) for x in (solution.lower, solution.upper))
    return low <= truth <= high


@pytest.mark.parametrize("beta", [0.999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12])
@pytest.mark.parametrize("row", TYPED)
def test_a_reward_of_one_is_worth_what_it_is_near_a_discount_of_one(
    beta: float, row: list[float]
) -> None:
    solution = dp.solve(dp.mdp(np.ones((3, 1)), np.tile(row, (3, 1, 1)), beta))
    truth = 1 / (1 - Fraction(beta))
    assert contains(solution, truth)
    # The last bit of the value, and of the period's reward with its whole series.
    assert float(solution.error_bound) <= 40 * np.spacing(float(truth))


def test_savings_near_a_discount_of_one_reach_the_usual_tol() -> None:
    solution = dp.solve("savings", {"continuous": False, "beta": 0.99999, "r": 0.0, "n_a": 100})
    assert solution.status == "solved"
    assert float(solution.error_bound) <= 1e-6


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 100, 4097])
def test_sums_are_exact_but_for_the_last_rounding(n: int) -> None:
    random = np.random.default_rng(n)
    x = random.normal(size=(20, n)) * 10.0 ** random.integers(-8, 8, (20, n))
    exact = np.array([float(sum(map(Fraction, row))) for row in x.tolist()])
    for found in (compensated_sum(x), jax.jit(jax.vmap(compensated_sum))(x)):
        assert np.max(np.abs(found - exact)) <= 2e-16 * np.max(np.abs(x))


@pytest.mark.parametrize("row", TYPED)
def test_rows_are_divided_by_their_sum_alike_wherever_they_come_from(row: list[float]) -> None:
    meant = np.maximum(row, 0.0)
    meant = np.array([float(Fraction(p) / sum(map(Fraction, meant.tolist()))) for p in meant])
    np.testing.assert_allclose(normalised(np.array(row)), meant, rtol=2.3e-16, atol=0.0)
    np.testing.assert_array_equal(jax.jit(normalised)(jnp.array(row)), normalised(np.array(row)))
    rows = np.tile(row, (3, 1))
    for found in (
        dp.iid([0.0, 1.0, 2.0], row).probs,
        dp.markov([0.0, 1.0, 2.0], rows).transition_matrix[0],
        dp.mdp(np.zeros((3, 1)), rows[:, None], 0.9).transition[0, 0],
        jax.jit(lambda p: dp.mdp(np.zeros((3, 1)), p, 0.9).transition)(rows[:, None])[0, 0],
        dp.mdp(np.zeros(3), rows, 0.9, states=np.arange(3), actions=[0] * 3).transition[0],
        (dp.mdp(np.zeros(3), csr_array(rows), 0.9, states=np.arange(3), actions=[0] * 3).transition
         @ np.eye(3)[np.argmax(row)]),
    ):  # fmt: skip
        expected = normalised(np.array(row))
        np.testing.assert_array_equal(found, expected if np.size(found) == 3 and np.ptp(found) else
                                      np.full(3, expected.max()))  # fmt: skip


@pytest.mark.parametrize("row", [[0.5, 0.5 + 2e-9], [1 + 2e-9, -2e-9], [0.5, np.nan]])
def test_what_is_no_distribution_stays_as_it_is(row: list[float]) -> None:
    np.testing.assert_array_equal(normalised(np.array(row)), row)
    np.testing.assert_array_equal(jax.jit(normalised)(jnp.array(row)), row)
    with pytest.raises(dp.ModelError):
        dp.iid([0.0, 1.0], row)


@pytest.mark.parametrize("off", [0.0, 1e-8, 0.8])
@pytest.mark.parametrize("by_state", [False, True])
def test_traced_probabilities_leave_the_same_for_what_is_left_of_one(
    off: float, by_state: bool
) -> None:
    def factory(much: float = 0.9, off: float = 0.0) -> dp.Model:
        left = jnp.stack([1 - much - 0.1, 0.1 + off, much])
        return dp.Model(
            states={"x": dp.integers(0, 2)},
            choices={"u": dp.integers(0, 1)},
            shocks={"w": dp.iid([0, 1, 2], (lambda x: left + 0 * x) if by_state else left)},
            transition={"x": lambda w: w},
            reward=lambda x, u: x - u,
            discount=0.9,
        )

    if off:
        with pytest.raises(dp.ModelError, match=r"sums? to 1.* divide each row by its sum"):
            dp.solve(factory, {"off": off})
    else:
        assert dp.solve(factory, {"off": off}).status == "solved"


def test_the_remedy_for_float32_tables_can_be_carried_out() -> None:
    p = np.tile(np.array([0.1, 0.2, 0.7], np.float32), (3, 1))
    with pytest.raises(dp.ModelError, match="float64") as refused:
        dp.markov([0.0, 1.0, 2.0], p)
    *_, remedy = str(refused.value).split("float64: ")
    first, second = remedy.split("; ")
    scope = {"p": p}
    exec(first, {}, scope)
    dp.markov([0.0, 1.0, 2.0], eval(second, {}, scope))


# -- sums that cancel ------------------------------------------------------------------------------


def windfall(beta: float = 0.9, size: float = 1e9) -> dp.Model:
    return dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"u": dp.integers(0, 1)},
        shocks={"w": dp.iid([-1.0, 0.0, 1.0], [0.3, 0.4, 0.3])},
        transition={"x": lambda x: x},
        reward=lambda u, w: size * w + 1.0 - u,
        discount=beta,
    )


def opposed(beta: float = 0.9, size: float = 1e9) -> dp.Model:
    return dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"u": dp.integers(0, 1)},
        transition={"x": lambda x: x},
        reward=[lambda x: size / 3 + 0 * x, lambda u: 1.0 - u, lambda x: -size / 3 + 0 * x],
        discount=beta,
    )


@pytest.mark.parametrize("options", [{}, {"block": 1}], ids=["kept", "streamed"])
@pytest.mark.parametrize("factory", [windfall, opposed])
def test_the_allowance_is_of_the_terms_and_not_of_their_sum(factory, options: dict) -> None:
    solution = dp.solve(factory, tol=1e-12, **options)
    assert contains(solution, 1 / (1 - Fraction(0.9)))
    assert 1e-7 < float(solution.error_bound) < 1e-3
    small = dp.solve(factory, {"size": 1.0}, tol=1e-12, **options)
    assert small.status == "solved"


def test_terms_of_one_sign_cost_nothing() -> None:
    def ruin(beta: float = 0.9) -> dp.Model:
        return dp.Model(
            states={"x": dp.integers(0, 2)},
            choices={"u": dp.integers(0, 1)},
            shocks={"w": dp.iid([1.0, 2.0], [0.5, 0.5])},
            transition={"x": lambda x: x},
            reward=lambda u, w: jnp.where(u > 0, -1e20 * w, -w),
            discount=beta,
        )

    assert float(dp.solve(ruin, tol=1e-12).error_bound) <= 1e-12


@pytest.mark.parametrize("size", [1e-280, 1e-290, 1e-300, 1e-307])
def test_bounds_do_not_collapse_where_numbers_flush_to_zero(size: float) -> None:
    rewards = size * np.array([[1.0], [2.0], [4.0]])
    rows = np.full((3, 1, 3), 1 / 3)
    solution = dp.solve(dp.mdp(rewards, rows, 0.9), tol=1e-300)
    assert (solution.upper > solution.lower).all()
    mean = sum(Fraction(float(r)) for r in rewards[:, 0]) / 3
    for s in range(3):
        truth = Fraction(float(rewards[s, 0])) + Fraction(0.9) / (1 - Fraction(0.9)) * mean
        assert contains(solution, truth, s)


def test_rows_that_are_typed_are_the_chain_of_an_average_reward() -> None:
    def typed(third: float = 0.3333333333) -> dp.TabularModel:
        return dp.mdp(jnp.array([[0.0], [1e6], [2e6]]), jnp.full((3, 1, 3), third), 1.0)

    solution = dp.solve(typed, criterion="average", tol=1e-6)
    assert solution.status == "solved"
    assert float(solution.gain_lower) <= 1e6 <= float(solution.gain_upper)


# -- grids -----------------------------------------------------------------------------------------


def far_away(step: float = 0.5, *, n: int = 3) -> dp.Model:
    return dp.Model(
        states={"x": dp.grid(1e9, 1e9 + 1, n)},
        choices={"u": dp.integers(0, 1)},
        transition={"x": lambda x, u: x + step * u},
        feasible=lambda x, u: (x < 1e9 + 1) | (u == 0) | (step < 0.4),
        reward=lambda x, u: x - 1e9 + u,
        discount=0.9,
    )


def test_a_next_state_half_a_step_beyond_a_grid_far_from_zero_is_off_it() -> None:
    with pytest.raises(dp.ModelError, match=r"lies 0\.25 off its grid"):
        dp.solve(far_away, {"step": 0.25})
    assert dp.solve(far_away).status == "solved"
    assert dp.solve(far_away, {"step": 1e-7}).status == "solved"  # a unit in the last place


def test_grids_pass_zero_at_zero() -> None:
    for lo, hi, n in ((-1.0, 1.0, 21), (-0.1, 0.2, 4), (-0.7, 1.4, 22), (-3.3, 1.1, 5)):
        values = np.asarray(dp.grid(lo, hi, n).values)
        assert values[0] == lo
        assert values[-1] == hi
        assert 0.0 in values
        traced = jax.jit(lambda a, b, n=n: dp.grid(a, b, n).values)(lo, hi)
        assert 0.0 in np.asarray(traced)
    assert dp.grid(-1e-20, 1.0, 3).values[0] == -1e-20
