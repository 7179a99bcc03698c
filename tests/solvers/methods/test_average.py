"""Average rewards: the gain, its bounds, and what has no single gain."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.methods.average import begin, finish, iterate
from dpsolve.solvers.operators.tabular import TabularOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome

METHODS = ("auto", "vi", "pi", "opi")
average = partial(dp.solve, criterion="average")


def replacement(wear=0.2, earn=1.0, cost=0.5):
    """A machine that is new or worn; a worn one earns less, a new one costs `cost`.

    Running to the end: new for 1 / wear periods on average, then replaced in one.
    """
    reward = jnp.array([[earn, -jnp.inf], [0.2 * earn, 0.0 - cost]])
    moves = jnp.array([[[1 - wear, wear], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    return dp.mdp(reward, moves, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_machine_replacement(method: str) -> None:
    wear, earn, cost = 0.2, 1.0, 0.5
    solution = average(replacement, method=method, tol=1e-9)
    # A cycle is 1 / wear periods of earning and one of replacing.
    gain = max((earn / wear - cost) / (1 / wear + 1), 0.2 * earn)
    assert solution.status == "solved"
    assert solution.gain_lower <= gain <= solution.gain_upper
    assert solution.gain_upper - solution.gain_lower <= 2e-9 * (1 + 1e-9)
    assert float(solution.gain) == pytest.approx(gain, abs=1e-9)
    # h(new) - h(worn) of the replacing policy: earn - gain = wear * (h(new) - h(worn)).
    assert float(solution.value[0]) == 0.0
    assert -float(solution.value[1]) == pytest.approx((gain - earn) / -wear, abs=1e-7)


def queue(arrive=0.3, hold=1.0, beta=1.0, *, n=12):
    """A queue of at most `n`, served slowly or, at a cost, fast."""

    def chances(q, rate):
        up, down = jnp.where(q < n, arrive, 0.0), jnp.where(q > 0, rate, 0.0)
        return jnp.stack([down, 1.0 - up - down, up])

    return dp.Model(
        states={"q": dp.integers(0, n)},
        choices={"rate": jnp.array([0.25, 0.6])},
        shocks={"e": dp.iid(jnp.array([-1, 0, 1]), chances)},
        transition={"q": lambda q, e: q + e},
        reward=lambda q, rate: -hold * q - 2.0 * (rate > 0.4),
        discount=beta,
        outputs={"cost": lambda q: hold * q},
    )


def queue_gain(arrive: float, n: int = 12) -> float:
    """The best threshold policy's, by detailed balance."""
    best = -np.inf
    q = np.arange(n + 1)
    for threshold in range(n + 2):
        fast = q >= threshold
        ratio = arrive / np.where(fast, 0.6, 0.25)[1:]
        mass = np.concatenate([[1.0], np.cumprod(ratio)])
        best = max(best, mass @ (-q - 2.0 * fast) / mass.sum())
    return float(best)


@pytest.mark.slow
def test_queue_control_at_many_points_in_rounds_and_over_devices() -> None:
    arrive = np.array([0.1, 0.2, 0.3, 0.35])
    gains = np.array([queue_gain(a) for a in arrive])
    many = dp.solve_many(queue, {"arrive": arrive}, criterion="average", tol=1e-8)
    assert list(many.status) == ["solved"] * 4
    assert (many.gain_lower <= gains).all()
    assert (gains <= many.gain_upper).all()
    np.testing.assert_allclose(many.gain, gains, atol=1e-8)
    one = average(queue, {"arrive": 0.2}, tol=1e-8)
    np.testing.assert_allclose(many.value[1], one.value, atol=1e-6)
    shared = dp.solve_many(
        queue, {"arrive": arrive}, criterion="average", tol=1e-8, mesh="states=2"
    )
    np.testing.assert_allclose(shared.gain, gains, atol=1e-8)
    assert many.point(2).to_xarray()["gain"].shape == ()
    assert dp.verify(many).ok
    assert dp.verify(one).ok


@pytest.mark.slow
def test_the_policy_is_all_that_distributions_need() -> None:
    solution = average(queue, tol=1e-9, moments=("mean_q",))
    found = dp.stationary(solution)
    fast = np.asarray(solution.policy["rate"]) > 0.4
    earned = np.asarray(found.mass) @ (-np.arange(13) - 2.0 * fast)
    assert float(earned) == pytest.approx(queue_gain(0.3), abs=1e-6)
    cost = float(np.asarray(found.mass) @ np.arange(13))
    assert float(solution.moments["mean_q"]) == pytest.approx(cost, abs=1e-6)
    panel = dp.simulate(solution, 1, agents=3, periods=4)
    assert panel is not None


@pytest.mark.slow
def test_limit_of_discounted_values() -> None:
    gain = queue_gain(0.3)
    gaps = []
    betas = np.array([0.99, 0.999, 0.9999])
    many = dp.solve_many(queue, {"beta": betas}, tol=1e-6)
    for beta, value in zip(betas, np.asarray(many.value), strict=True):
        gaps.append(abs((1 - beta) * value[0] - gain))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


def periodic(*, n=7):
    """Deterministic: a cycle of n states, of which the k-th earns k."""
    return dp.mdp(np.arange(float(n))[:, None], np.roll(np.eye(n), 1, 1)[:, None, :], 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_periodic_chain(method: str) -> None:
    solution = average(periodic, method=method, tol=1e-9)
    assert solution.status == "solved"
    assert float(solution.gain) == pytest.approx(3.0, abs=1e-9)
    steps = np.concatenate([[0.0], np.cumsum(3.0 - np.arange(6.0))])
    np.testing.assert_allclose(solution.value, steps, atol=1e-6)


# -- against policy iteration in NumPy ------------------------------------------------------------

N, M = 9, 4


def random_arrays(seed: Any) -> tuple[Any, Any]:
    """A unichain problem: every row gives some mass to the first state; every other is sparse."""
    keys = jax.random.split(jax.random.key(jnp.asarray(seed).astype(jnp.int32)), 4)
    reward = jax.random.normal(keys[0], (N, M), jnp.float64)
    weight = jax.random.uniform(keys[1], (N, M, N), jnp.float64)
    weight = jnp.where(jax.random.uniform(keys[2], (N, M, N)) < 0.25, weight, 0.0)
    weight = weight.at[:, :, 0].add(10.0 ** (-3.0 * jax.random.uniform(keys[3])))
    return reward, weight / weight.sum(-1, keepdims=True)


def random_problem(seed=0.0):
    """See `random_arrays`."""
    reward, moves = random_arrays(seed)
    return dp.mdp(reward, moves, 1.0)


def howard(reward: np.ndarray, moves: np.ndarray) -> float:
    """The optimal gain, by policy iteration with dense linear systems."""
    n = len(reward)
    policy = np.zeros(n, int)
    for _ in range(100):
        rows, own = moves[np.arange(n), policy], reward[np.arange(n), policy]
        # Unknowns: h with h[0] = 0 in favour of the gain.
        system = np.eye(n) - rows
        system[:, 0] = 1.0
        found = np.linalg.solve(system, own)
        gain, h = found[0], np.concatenate([[0.0], found[1:]])
        q = reward + moves @ h
        better = q.max(1) > q[np.arange(n), policy] + 1e-11
        if not better.any():
            return float(gain)
        policy = np.where(better, q.argmax(1), policy)
    raise AssertionError("policy iteration did not end")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", pytest.param("vi", marks=pytest.mark.slow)])
def test_random_unichain_problems(method: str) -> None:
    seeds = np.arange(40.0)
    many = dp.solve_many(
        random_problem, {"seed": seeds}, criterion="average", method=method, tol=1e-8
    )
    truth = np.array([howard(*map(np.asarray, random_arrays(s))) for s in seeds])
    assert set(many.status) == {"solved"}
    assert (many.gain_lower <= truth + 1e-13).all()
    assert (truth <= many.gain_upper + 1e-13).all()
    np.testing.assert_allclose(many.gain, truth, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", pytest.param("opi", marks=pytest.mark.slow)])
def test_bounds_hold_at_every_sweep(method: str) -> None:
    options = SolveOptions(criterion="average", method=method, tol=1e-12)

    @jax.jit
    def first(seed):
        return begin(TabularOperator(random_problem(seed)))

    @jax.jit
    def on(seed, run):
        run = iterate(TabularOperator(random_problem(seed)), options, run)
        return run, finish(run)

    for seed in (1.0, 2.0, 3.0):
        gain = howard(*map(np.asarray, random_arrays(seed)))
        run = first(seed)
        while run.running:
            run, found = on(seed, run)
            assert found.gain_lower <= gain + 1e-14
            assert gain <= found.gain_upper + 1e-14
        assert found.error_bound < 1e-11


# -- no single gain, or none that is seen at once -------------------------------------------------


def separate(bridge=0.0):
    """Two absorbing states, of which the second earns more, and one between them."""
    moves = jnp.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.5, 0.5, 0.0]]])
    moves = moves.at[0, 0].set(jnp.array([1.0 - bridge, 0.0, bridge]))
    return dp.mdp(jnp.array([[1.0], [2.0], [0.0]]), moves, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_gain_that_differs_between_states_is_told(method: str) -> None:
    solution = average(separate, method=method)
    assert solution.status == "inexact"
    assert "differ between states" in solution.message
    assert int(solution.code) == Outcome.GAIN_DIFFERS
    assert solution.gain_lower <= 1.0
    assert solution.gain_upper >= 2.0
    assert float(solution.error_bound) == pytest.approx(0.5, abs=1e-6)
    assert dp.verify(solution).ok


def test_a_weak_link_makes_one_gain() -> None:
    assert float(average(separate, {"bridge": 1e-3}).gain) == pytest.approx(2.0, abs=1e-6)


def walk(*, n=30):
    """Stay, or step to the left or right: nearly every policy has several recurrent classes."""
    s = np.arange(n)
    earn = np.sin(s) + (s == 20) * 1.0
    moves = np.zeros((n, 3, n))
    for a, to in enumerate((s, np.maximum(s - 1, 0), np.minimum(s + 1, n - 1))):
        moves[s, a, to] = 1.0
    return dp.mdp(np.stack([earn, 0 * earn, 0 * earn], 1), moves, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_policies_of_several_classes_on_the_way_to_one(method: str) -> None:
    solution = average(walk, method=method, tol=1e-8)
    assert solution.status == "solved"
    assert float(solution.gain) == pytest.approx(np.sin(20) + 1.0, abs=1e-8)


def metastable(p=1e-5):
    """Two halves that hardly mix."""
    moves = np.zeros((4, 2, 4))
    moves[:2, :, :2] = moves[2:, :, 2:] = 0.5
    moves = jnp.asarray(moves) * (1 - p) + p / 4
    return dp.mdp(jnp.array([[0.0, 0.1], [1.0, 0.3], [2.0, 2.1], [5.0, 0.0]]), moves, 1.0)


def test_slow_mixing_takes_few_sweeps() -> None:
    solution = average(metastable, tol=1e-9)
    assert solution.status == "solved"
    assert float(solution.gain) == pytest.approx((0.1 + 1.0 + 2.1 + 5.0) / 4, abs=1e-9)
    assert int(solution.iterations) < 20


# -- what is refused ------------------------------------------------------------------------------


def discounted(beta=0.9):
    """One state."""
    return dp.mdp(jnp.ones((1, 1)), jnp.ones((1, 1, 1)), beta)


@pytest.mark.slow
def test_discounts() -> None:
    with pytest.raises(dp.ModelError, match=r"discount is 0\.9.*exactly 1"):
        average(discounted)
    with pytest.raises(dp.ModelError, match="criterion='average'"):
        dp.solve(discounted, {"beta": 1.0})
    assert float(average(discounted, {"beta": 1.0}).gain) == pytest.approx(1.0)
    many = dp.solve_many(discounted, {"beta": [0.9, 1.0]}, criterion="average")
    assert list(many.status) == ["failed", "solved"]
    assert "exactly 1" in many.message[0]
    assert np.isnan(many.gain[0])


def varying(low=0.9):
    """A discount that is a function, and 1 but for one state."""
    return dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 2)},
        transition={"x": "c"},
        reward=lambda x, c: x - 0.5 * c,
        discount=lambda x: jnp.where(x == 1, low, 1.0),
    )


@pytest.mark.slow
def test_a_discount_by_states() -> None:
    with pytest.raises(dp.ModelError, match=r"discount is 0\.9.*exactly 1"):
        average(varying)
    assert float(average(varying, {"low": 1.0}).gain) == pytest.approx(1.0, abs=1e-6)


def finite(beta=1.0):
    """Three periods."""
    return dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={"c": dp.integers(0, 1)},
        transition={"x": "c"},
        reward=lambda x, c: x,
        discount=beta,
        horizon=3,
    )


def arrays(x=1.0):
    """No model."""
    return {"y": 2 * x}


def test_refusals() -> None:
    with pytest.raises(dp.UsageError, match="finite horizon of 3 periods"):
        average(finite)
    with pytest.raises(dp.UsageError, match="no gradients"):
        average(queue, gradients=("hold",))
    with pytest.raises(dp.UsageError, match="no gradients"):
        average(queue, gradients_fixed_policy=("hold",))
    with pytest.raises(dp.UsageError, match="no gradients"):
        jax.grad(lambda x: average(queue, {"hold": x}).gain)(1.0)
    with pytest.raises(dp.UsageError, match="no average reward"):
        average(arrays)
    with pytest.raises(dp.UsageError, match="criterion='mean' is unknown"):
        dp.solve(queue, criterion="mean")


def test_bounds_of_a_value_are_not_to_be_had() -> None:
    solution = average(replacement)
    with pytest.raises(dp.UsageError, match="gain_lower"):
        _ = solution.lower
    with pytest.raises(dp.UsageError, match="criterion='average'"):
        _ = dp.solve(discounted).gain


def test_options_read_as_before() -> None:
    assert "criterion" not in SolveOptions().as_dict()
    plain = SolveOptions(criterion="average").as_dict()
    assert plain["criterion"] == "average"
    assert SolveOptions.from_mapping(plain) == SolveOptions(criterion="average")


def leaking(excess=5e-10):
    """Rows that miss one, within what is tolerated."""
    moves = jnp.array([[[0.5 + excess, 0.5]], [[0.5, 0.5 + excess]]])
    return dp.mdp(jnp.array([[0.0], [1e6]]), moves, 1.0)


def test_rows_that_miss_one_are_divided_by_their_sum() -> None:
    solution = average(leaking, tol=1e-9)
    assert solution.status == "inexact"
    assert solution.gain_lower <= 5e5 <= solution.gain_upper


def extrapolated(beta=1.0):
    """A next state beyond its grid."""
    return dp.Model(
        states={"x": dp.grid(0.0, 1.0, 5, outside="extrapolate")},
        choices={"c": dp.integers(0, 1)},
        transition={"x": lambda x, c: 1.2 * x - 0.1 * c},
        reward=lambda x, c: x - c,
        discount=beta,
    )


def test_no_bound_where_a_next_state_is_extrapolated() -> None:
    solution = average(extrapolated)
    assert solution.status == "inexact"
    assert int(solution.code) == Outcome.NO_CERTIFICATE
    assert np.isinf(solution.error_bound)
