"""Solutions with continuous choices: bounds of our own confirm or refute what is stored.

What is "stored" here is made by hand: closed forms, or time iteration and the two linear systems
written down once more, for one state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

import dpsolve as dp
from dpsolve.hpc.model_definition.continuous import ContinuousProblem
from dpsolve.hpc.verify.continuum_bounds import sampled
from dpsolve.hpc.verify.continuum_lines import bounds
from dpsolve.hpc.verify.stored_point import Findings, Stored, examine
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.solution import Problem

Floats = NDArray[np.float64]
ALPHA, BETA = 1 / 3, 0.95
STEADY = (ALPHA * BETA) ** (1 / (1 - ALPHA))


@dataclass(frozen=True)
class Point:
    """A model, and what is stored of it."""

    model: dp.Model
    arrays: Mapping[str, Any]
    error_bound: float

    def found(self) -> Findings:
        return examine(self.model, Stored(self.arrays, self.error_bound))

    def altered(self, name: str, at: Any, change: float) -> Point:
        array = np.array(self.arrays[name])
        array[at] += change
        return replace(self, arrays={**self.arrays, name: array})


def refuted(point: Point, *words: str) -> bool:
    faults = point.found().faults
    assert any(all(word in text for word in words) for text in faults), faults
    return True


def stored(
    model: dp.Model, policy: Mapping[str, Floats], lower: Floats, upper: Floats, error: float
) -> Point:
    """Return a point, with the policy (t, states...) and its outputs."""
    problem = ContinuousProblem(model)
    arrays: dict[str, Any] = {"value": (lower + upper) / 2, "lower": lower, "upper": upper}
    arrays |= {f"policy_{n}": y for n, y in policy.items()}
    arrays |= {f"grid_{n}": np.asarray(s.values) for n, s in model.states.items()}
    arrays |= {"certifies": np.int8(1), "concavity": np.int8(1)}
    claim = np.stack([problem.by_members(y) for y in policy.values()], -1)
    x = np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape))
    moved = {
        n: np.stack(
            [
                problem.outputs(x, y, None if model.horizon is None else t)[n]
                for t, y in enumerate(claim)
            ]
        )
        for n in model.outputs
    }
    return Point(model, arrays | _outputs(problem, moved, lower.shape), error)


def _outputs(problem: ContinuousProblem, outputs: Any, shape: Any) -> dict[str, Floats]:
    return {f"output_{n}": np.moveaxis(x, 1, -1).reshape(shape) for n, x in outputs.items()}


def brock_mirman(n: int = 60) -> Point:
    def consumption(k: Any, k_next: Any) -> Any:
        return k**ALPHA - k_next

    model = dp.Model(
        states={"k": dp.grid(0.25 * STEADY, 1.75 * STEADY, n)},
        choices={"k_next": dp.interval("k")},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: consumption(k, k_next) > 0,
        reward=lambda k, k_next: jnp.log(consumption(k, k_next)),
        discount=BETA,
        concave=True,
        outputs={"consumption": consumption},
    )
    k = np.asarray(model.grid_of("k").values)
    slope = ALPHA / (1 - ALPHA * BETA)
    level = np.log(1 - ALPHA * BETA) + ALPHA * BETA / (1 - ALPHA * BETA) * np.log(ALPHA * BETA)
    true = level / (1 - BETA) + slope * np.log(k)
    # The interpolation of values at the nodes is below the true value by what log is curved.
    between = slope * (np.diff(k) / k[:-1]) ** 2 / 8
    half = 1e-3
    return stored(
        model,
        {"k_next": ALPHA * BETA * k**ALPHA},
        true - half,
        true + half,
        float(half + between.max()),
    )


def test_some_nodes_of_a_finer_grid_are_compared_with_bounds_on_that():
    fine, coarse = brock_mirman(61), brock_mirman(31)
    arrays = dict(fine.arrays)
    for name in ("value", "lower", "upper", "policy_k_next", "output_consumption"):
        arrays[name] = np.asarray(fine.arrays[name])[..., ::2].reshape(coarse.arrays[name].shape)
    arrays["grid_k"] = coarse.arrays["grid_k"]

    def found(change: float) -> Findings:
        held = {**arrays, "value": arrays["value"] + change, "lower": arrays["lower"] + change}
        own = Stored(held, fine.error_bound, finer=lambda: fine.model)
        return examine(coarse.model, own)

    honest = found(0.0)
    assert honest.faults == []
    assert honest.error < 2 * fine.error_bound
    assert found(0.01).faults


def household(n: int, choice: str, shock: bool = False, horizon: int | None = None) -> dp.Model:
    """A saver who may not borrow; wealth above the grid is not allowed."""
    chain = dp.rouwenhorst(3, 0.9, 0.2)

    def means(a: Any, z: Any) -> Any:
        return 1.03 * a + jnp.exp(z)

    common: dict[str, Any] = {
        "states": {"a": dp.grid(0.0, 15.0, n, curve=2), "z": chain},
        "discount": 0.94,
        "concave": True,
        "horizon": horizon,
        "shocks": {"e": dp.iid([-0.2, 0.2], [0.5, 0.5])} if shock else {},
        "terminal": None if horizon is None else lambda a: 3.0 * jnp.log(a + 1.0),
    }
    if choice == "a_next":
        return dp.Model(
            choices={"a_next": dp.interval("a")},
            transition={"a": "a_next"},
            feasible=lambda a, z, a_next: means(a, z) - a_next > 0,
            reward=lambda a, z, a_next: dp.crra(means(a, z) - a_next, 2.0),
            outputs={"consumption": lambda a, z, a_next: means(a, z) - a_next},
            **common,
        )
    transition: Callable[..., Any] = lambda a, z, c: means(a, z) - c  # noqa: E731
    if shock:
        transition = lambda a, z, c, e: means(a, z) - c + 0.2 + e  # noqa: E731
    return dp.Model(
        choices={"c": dp.interval(0.0, means)},
        transition={"a": transition},
        feasible=lambda c: c > 0,
        reward=lambda c: dp.crra(c, 2.0),
        outputs={"saved": lambda a, z, c: means(a, z) - c},
        **common,
    )


def consumption_of(model: dp.Model, shock: bool) -> Floats:
    """Return a household's consumption (periods, z, i) by iterating its Euler equation."""
    problem = ContinuousProblem(model)
    (x,), draws = problem.axes, np.array([-0.2, 0.2]) + 0.2 if shock else np.zeros(1)
    means = 1.03 * x + np.exp(problem.members["z"])[:, None]
    c, found = 0.5 * means, []
    slopes = 1.03 * c**-2.0 if model.horizon is None else (3.0 / (x + 1.0)) * np.ones_like(c)
    for _ in range(model.horizon or 400):
        low, high = np.maximum(means + draws.max() - x[-1], 0.0), means.copy()
        for _ in range(50):
            c = (low + high) / 2
            after = np.stack(
                [_at(x, row, means - c, draws) for row in 0.94 * problem.chances(None) @ slopes]
            )
            after = after[np.arange(len(c)), np.arange(len(c))]
            more = c**-2.0 > after
            low, high = np.where(more, c, low), np.where(more, high, c)
        c = np.where(means - c < 1e-9, means, c)
        slopes = 1.03 * c**-2.0
        found.append(c)
    return np.stack(found[::-1] if model.horizon is not None else found[-1:])


def _at(x: Floats, row: Floats, place: Floats, draws: Floats) -> Floats:
    return np.mean([np.interp(place + e, x, row) for e in draws], axis=0)


def from_bounds(model: dp.Model, policy: Floats) -> Point:
    """Store what our own bounds say: a policy, the bounds at the nodes, and their width."""
    problem = ContinuousProblem(model)
    found = bounds(problem, policy)
    shape = (len(found), *model.shape) if model.horizon is not None else model.shape

    def over_states(x: Floats) -> Floats:
        return np.stack(x).reshape(len(found), *problem.lengths, *(a.size for a in problem.axes))

    order = [n for n in (*problem.chains, *problem.states)]
    back = [0, *(1 + order.index(n) for n in model.states)]

    def put(x: Any) -> Floats:
        return np.transpose(over_states(x), back).reshape(shape)

    lower = [own.lower for _, own in found]
    upper = [sampled(problem, own, problem.nodes).upper for _, own in found]
    x = np.concatenate([problem.nodes, *(_inside(problem, k) for k in range(4))])
    error = 0.0
    for own, low, high in zip((o for _, o in found), lower, upper, strict=True):
        seen = sampled(problem, own, x)
        middle = seen.of(problem, (low + high) / 2)
        error = max(error, float(np.max(seen.upper - middle)), float(np.max(middle - seen.lower)))
    chosen = {n: put(policy[..., j]) for j, n in enumerate(problem.choices)}
    point = stored(model, chosen, put(lower), put(upper), 1.05 * error)
    outputs = {
        f"output_{n}": put(
            [
                problem.outputs(
                    np.broadcast_to(problem.nodes, (problem.nz, *problem.nodes.shape)), y, t
                )[n]
                for t, y in zip(_periods(model), policy, strict=True)
            ]
        )
        for n in model.outputs
    }
    return replace(point, arrays={**point.arrays, **outputs, "policy_loss": np.float64(2 * error)})


def _periods(model: dp.Model) -> list[int | None]:
    return [None] if model.horizon is None else list(range(model.horizon))


def _inside(problem: ContinuousProblem, seed: int) -> Floats:
    low, high = problem.box
    return low + (high - low) * np.random.default_rng(seed).random((300, len(low))) ** 2


@cache
def saving(choice: str, shock: bool = False, n: int = 40, horizon: int | None = None) -> Point:
    model = household(n, choice, shock, horizon)
    problem = ContinuousProblem(model)
    c = consumption_of(model, shock)
    means = 1.03 * problem.axes[0] + np.exp(problem.members["z"])[:, None]
    return from_bounds(model, (c if choice == "c" else means - c)[..., None])


def test_a_closed_form_is_confirmed_and_its_alterations_are_refuted() -> None:
    point = brock_mirman()
    found = point.found()
    assert found.faults == []
    assert 0 < found.width < 4e-3
    assert found.error < 5e-3
    where = "k=0.121567"
    assert refuted(point.altered("value", 17, 5e-3), "value", where)
    assert refuted(point.altered("lower", 17, 5e-3), "lower", where)
    assert refuted(point.altered("upper", 17, -5e-3), "upper", where)
    assert refuted(point.altered("policy_k_next", 17, 0.5), "policy_k_next", where)
    assert refuted(point.altered("output_consumption", 17, 1e-6), "output_consumption", where)


CASES = {
    "wealth is the choice": ("a_next", False),
    "consumption is the choice": ("c", False),
    "consumption is the choice, and shocks": ("c", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_household_is_confirmed_and_one_altered_entry_is_refuted(case: str) -> None:
    """At a state where the constraint binds, and at one where it does not."""
    point = saving(*CASES[case])
    found = point.found()
    assert (found.faults, found.notes) == ([], [])
    assert found.residual < 1e-11
    assert found.width < 0.05
    choice, bound = CASES[case][0], point.error_bound
    for at, where in (((1, 0), "a=0.00986193, z=-0.648886"), ((20, 2), "a=3.9447")):
        assert refuted(point.altered("value", at, 3 * bound), "value", where)
        assert refuted(point.altered("lower", at, 3 * bound), "lower", where)
        assert refuted(point.altered("lower", at, 1e-7), where)
        assert refuted(point.altered("upper", at, -3 * bound), "upper", where)
        assert refuted(point.altered("upper", at, 1e-7), where)
        assert refuted(point.altered(f"policy_{choice}", at, 0.3), where)
    narrower = replace(point, error_bound=point.error_bound / 4)
    assert refuted(narrower, "error_bound")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_claims_that_agree_with_each_other_are_refuted_by_bounds_of_our_own(
    sign: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsolve.hpc.verify.continuum.EULER_STEPS", 0)  # they change nothing here
    point = saving("a_next", n=20)
    moved = {n: point.arrays[n] + sign * 0.3 for n in ("value", "lower", "upper")}
    wrong = replace(point, arrays={**point.arrays, **moved})
    side = "upper" if sign > 0 else "lower"
    assert refuted(
        wrong, f"the {side} bound of the true value there is", "linear systems of our own"
    )
    only = {n: x for n, x in moved.items() if n != ("upper", "lower")[sign < 0]}
    rest = {n: x for n, x in point.arrays.items() if n not in moved}
    assert refuted(replace(point, arrays={**rest, **only}), "by linear systems")
    assert refuted(replace(point, error_bound=2e-3), "error_bound")


@pytest.mark.slow
def test_a_loss_that_is_too_small_is_refuted() -> None:
    point = saving("a_next")
    policy = np.array(point.arrays["policy_a_next"])
    policy[20] += 0.6
    means = point.arrays["output_consumption"] + point.arrays["policy_a_next"]
    worse = {"policy_a_next": policy, "output_consumption": means - policy}
    assert refuted(replace(point, arrays={**point.arrays, **worse, "policy_loss": 1e-9}), "loses")


def test_a_reward_that_is_not_concave_is_found_out() -> None:
    """Of a hump far from the policy the slopes at the policy tell nothing."""
    point = brock_mirman()

    def reward(k: Any, k_next: Any) -> Any:
        c = k**ALPHA - k_next
        return jnp.log(c) + 3.0 * jnp.exp(-(((k_next - 0.3) / 0.01) ** 2))

    assert refuted(replace(point, model=replace(point.model, reward=reward)), "not concave")


def test_a_life_cycle_is_confirmed_period_by_period() -> None:
    point = saving("a_next", horizon=6)
    found = point.found()
    assert (found.faults, found.notes) == ([], [])
    for t in (0, 5):
        where = f"t={t}, a=3.9447"
        assert refuted(point.altered("lower", (t, 20, 1), 1e-7), where)
        assert refuted(point.altered("value", (t, 20, 1), 2 * point.error_bound), "value", where)
        assert refuted(point.altered("policy_a_next", (t, 20, 1), -1.0), where)


def irreversible(n: int = 50) -> Point:
    """Investment is not negative: an end of the interval that is a function of the state binds."""
    chain = dp.markov([0.7, 1.3], [[0.8, 0.2], [0.3, 0.7]])

    def output(k: Any, z: Any) -> Any:
        return z * k**0.36 + 0.92 * k

    model = dp.Model(
        states={"k": dp.grid(0.5, 12.0, n, curve=1.5), "z": chain},
        choices={"k_next": dp.interval("k", lo=lambda k: 0.92 * k)},
        transition={"k": "k_next"},
        feasible=lambda k, z, k_next: output(k, z) - k_next > 0,
        reward=lambda k, z, k_next: dp.crra(output(k, z) - k_next, 2.0),
        discount=0.95,
        concave=True,
    )
    problem = ContinuousProblem(model)
    (k,), z = problem.axes, problem.members["z"][:, None]
    means, low = z * k**0.36 + 0.92 * k, np.maximum(0.92 * k, 0.5)
    marginal = z * 0.36 * k**-0.64 + 0.92
    y, slopes = np.tile(low, (2, 1)), marginal * (means - low) ** -2.0
    for _ in range(400):
        q = 0.95 * problem.chances(None) @ slopes
        bottom, top = np.tile(low, (2, 1)), np.minimum(12.0, means - 1e-9)
        for _ in range(50):
            y = (bottom + top) / 2
            here = np.stack([np.interp(row, k, own) for row, own in zip(y, q, strict=True)])
            more = here > (means - y) ** -2.0
            bottom, top = np.where(more, y, bottom), np.where(more, top, y)
        y = np.where(y - low < 1e-9, low, y)
        here = np.stack([np.interp(row, k, own) for row, own in zip(y, q, strict=True)])
        mu = np.where((y == low) & (low > 0.5), (means - y) ** -2.0 - here, 0.0)
        slopes = marginal * (means - y) ** -2.0 - 0.92 * mu
    assert (mu > 0).any()
    return from_bounds(model, y[None, ..., None])


def test_an_end_that_binds_has_its_multiplier() -> None:
    """Without one the bounds of this model are 1.7 apart (certificate/constraints.py)."""
    point = irreversible()
    found = point.found()
    assert (found.faults, found.notes) == ([], [])
    assert found.width < 0.12
    assert refuted(point.altered("lower", (30, 0), 1e-7), "k=6.00916, z=0.7")
    assert refuted(point.altered("policy_k_next", (30, 0), -0.1), "outside of its interval")


def test_two_capital_goods_in_closed_form() -> None:
    shares, n = np.array([0.2, 0.3]), 20
    total = shares.sum()
    steady = 0.95 * shares * np.prod((0.95 * shares) ** (shares / (1 - total)))

    def consumption(k: Any, h: Any, k_next: Any, h_next: Any) -> Any:
        return k**0.2 * h**0.3 - k_next - h_next

    grids = {x: dp.grid(0.5 * s, 1.5 * s, n) for x, s in zip(("k", "h"), steady, strict=True)}
    model = dp.Model(
        states=grids,
        choices={"k_next": dp.interval("k"), "h_next": dp.interval("h")},
        transition={"k": "k_next", "h": "h_next"},
        feasible=lambda k, h, k_next, h_next: consumption(k, h, k_next, h_next) > 0,
        reward=lambda k, h, k_next, h_next: jnp.log(consumption(k, h, k_next, h_next)),
        discount=0.95,
        concave=True,
        outputs={"consumption": consumption},
    )
    problem = ContinuousProblem(model)
    x = problem.nodes
    y = 0.95 * shares * np.prod(x**shares, -1, keepdims=True)
    slopes = shares / (1 - 0.95 * total)
    level = (np.log(1 - 0.95 * total) + 0.95 * (slopes * np.log(0.95 * shares)).sum()) / 0.05
    true = (level + (slopes * np.log(x)).sum(-1)).reshape(n, n)
    policy = {"k_next": y[:, 0].reshape(n, n), "h_next": y[:, 1].reshape(n, n)}
    point = stored(model, policy, true - 1e-3, true + 1e-3, 6e-3)
    found = point.found()
    assert found.faults == []
    assert found.width < 0.014
    own = bounds(problem, y[None, None])[0][1]
    for seed in range(3):
        inside = _inside(problem, seed)
        seen = sampled(problem, own, inside)
        truth = level + (slopes * np.log(inside)).sum(-1)
        assert (seen.lower <= truth).all()
        assert (truth <= seen.upper).all()
    assert refuted(point.altered("lower", (7, 9), 0.02), "lower", "k=0.0399846, h=0.0672468")
    assert refuted(point.altered("policy_h_next", (7, 9), 0.02), "k=")


def test_the_report_says_what_was_computed() -> None:
    point = saving("a_next")
    numbers = {"error_bound": point.error_bound, "code": np.int32(0), "residual": np.nan}
    made = Problem(None, point.model, (), SolveOptions(tol=1.0), ())
    solution = dp.Solution({**point.arrays, **numbers}, {}, made, "", 0.0, 0.0)
    told = dp.verify(solution)
    assert told.ok, str(told)
    assert "own bounds of the true value are at most 0.034" in str(told)
    none = replace(solution, arrays={**solution.arrays, "certifies": np.int8(4)})
    assert "not said to be of the continuum" in str(dp.verify(none))


@pytest.mark.slow
def test_a_distribution_follows_the_policy_between_nodes() -> None:
    """With the lottery of neighbours: it keeps the mean."""
    point = saving("c", shock=True, n=20)
    problem = ContinuousProblem(point.model)
    (a,), z = problem.axes, problem.members["z"]
    c = point.arrays["policy_c"]
    matrix = np.zeros((20, 3, 20, 3))
    for i, j, e in np.ndindex(20, 3, 2):
        place = 1.03 * a[i] + np.exp(z[j]) - c[i, j] + (0.0, 0.4)[e]
        share = np.maximum(0.0, 1.0 - np.abs(np.arange(20) - np.interp(place, a, np.arange(20))))
        matrix[i, j] += 0.5 * np.outer(share, problem.chances(None)[j])
    whole = matrix.reshape(60, 60)
    system = np.eye(60) - whole.T + 1.0 / 60
    mass = np.linalg.solve(system, np.full(60, 1.0 / 60)).reshape(20, 3)
    mass = np.maximum(mass, 0.0) / np.maximum(mass, 0.0).sum()
    mean = float(mass.sum(1) @ a)
    held = {
        "distribution": mass,
        "distribution_residual": 1e-12,
        "distribution_error": 1e-9,
        "moment_mean_a": mean,
        "moment_mean_c": float((mass * c).sum()),
    }
    right = replace(point, arrays={**point.arrays, **held})
    assert right.found().faults == []
    assert refuted(replace(right, arrays={**right.arrays, "moment_mean_c": mean}), "moment_mean_c")
    moved = mass + 1e-6 * (np.arange(60) == 3).reshape(20, 3)
    wrong = {"distribution": moved / moved.sum()}
    assert refuted(replace(right, arrays={**right.arrays, **wrong}), "distribution_residual claims")
