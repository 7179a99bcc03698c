"""mdpax on two problems of its own, forest and perishable inventory: ours, certified, beside it.

mdpax names CUDA wheels among its requirements on Linux (gigabytes that a CPU has no use for), so
``scripts/bench`` installs it without its requirements, and those it imports come with the extra
``bench``. It runs in this process, where float64 is on from the start: it switches that on only
after its problem's probabilities are computed. Its solvers stop by ``max_diff``, the one of their
rules that says something about the value's error, with an epsilon just below 1e-6.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.stats import gamma

import dpsolve as dp

from .machine import machine
from .timing import LIMIT, Contender, Row, clock, compare, seconds, true_error
from .work import work

__all__ = ["forest", "perishable", "problem", "rows", "solver"]

ERROR = 1e-6
TRUTH = 1e-8  # what float64 allows at this discount and scale, with room to spare
BETA = 0.99


def forest(beta: float = BETA, p: float = 0.1, *, ages: int = 3) -> dp.Model:
    """Wait or cut: mdpax's ``Forest``, with its rewards 4 for waiting and 2 for cutting at last.

    The chance of a fire is the weight of a shock in the transition of a forest that is let be.
    """
    last = ages - 1

    def after(age: Any, cut: Any, fire: Any) -> Any:
        return jnp.where((cut == 1) | (fire == 1), 0, jnp.minimum(age + 1, last))

    def reward(age: Any, cut: Any) -> Any:
        felled = jnp.where(age == last, 2.0, jnp.where(age == 0, 0.0, 1.0))
        return jnp.where(cut == 1, felled, jnp.where(age == last, 4.0, 0.0))

    return dp.Model(
        states={"age": dp.integers(0, last)},
        choices={"cut": dp.integers(0, 1)},
        shocks={"fire": dp.iid([0, 1], jnp.stack([1.0 - p, p]))},
        transition={"age": after},
        reward=reward,
        discount=beta,
    )


def perishable(beta: float = BETA, *, life: int = 2, lead: int = 1, largest: int = 10) -> dp.Model:
    """Order a perishable good: mdpax's ``DeMoorSingleProductPerishable``, newest units sold first.

    States are the orders in transit, ``t1`` the newest, and the units on hand, ``s1`` the newest.
    Demand is discretised gamma with mean 4 and coefficient of variation .5, and what lies above
    100 counts as 100. Costs: 3 a unit ordered, 5 short, 7 expired, 1 held.
    """
    transit = [f"t{i}" for i in range(1, lead)]
    stock = [f"s{i}" for i in range(1, life + 1)]
    edges = np.concatenate([[0.0], np.arange(100) + 0.5, [np.inf]])
    demand = dp.iid(np.arange(101), np.diff(gamma.cdf(edges, 4.0)))

    def left(units: dict[str, Any], age: int) -> Any:
        """Return what is left of the units of an age, after those that are newer."""
        newer = sum(units[s] for s in stock[: age - 1])
        wanted = jnp.maximum(units["demand"] - newer, 0)
        return jnp.maximum(units[stock[age - 1]] - wanted, 0)

    def reward(**units: Any) -> Any:
        short = jnp.maximum(units["demand"] - sum(units[s] for s in stock), 0)
        held = sum(left(units, age) for age in range(1, life))
        return -(5.0 * short + 7.0 * left(units, life) + 1.0 * held)

    def ages_to(age: int) -> Callable[..., Any]:
        return _named(lambda **units: left(units, age - 1), [*stock[: age - 1], "demand"])

    pipeline = ["order", *transit]  # each moves on by one; the last arrives
    moves: dict[str, Any] = dict(zip([*transit, stock[0]], pipeline, strict=True))
    moves |= {stock[age - 1]: ages_to(age) for age in range(2, life + 1)}
    return dp.Model(
        states={name: dp.integers(0, largest) for name in (*transit, *stock)},
        choices={"order": dp.integers(0, largest)},
        shocks={"demand": demand},
        transition=moves,
        reward=[lambda order: -3.0 * order, _named(reward, [*stock, "demand"])],
        discount=beta,
    )


def _named(f: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return a function whose signature has these names, of which there are as many as ages."""

    def bound(*given: Any, **named: Any) -> Any:
        return f(**dict(zip(names, given, strict=False)), **named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    bound.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    return bound


def problem(name: str, **sizes: int) -> Any:
    """Return mdpax's own problem."""
    from mdpax.problems import DeMoorSingleProductPerishable, Forest

    if name == "forest":
        return Forest(S=sizes["ages"])
    return DeMoorSingleProductPerishable(
        max_useful_life=sizes["life"], lead_time=sizes["lead"], max_order_quantity=10
    )


def solver(problem: Any, kind: str = "ValueIteration") -> Any:
    """Return one of mdpax's solvers, made anew: it starts from where it is."""
    import mdpax.solvers

    asked = {"gamma": BETA, "epsilon": 0.98 * ERROR, "convergence_test": "max_diff", "verbose": 0}
    if kind == "PolicyIteration":  # its default of 100 would end most evaluations early
        asked["max_eval_iter"] = 100_000
    return getattr(mdpax.solvers, kind)(problem, **asked)


CASES = (
    ("forest", forest, {"ages": 3}),
    ("forest", forest, {"ages": 10_000}),
    ("perishable", perishable, {"life": 2, "lead": 1}),
    ("perishable", perishable, {"life": 3, "lead": 2}),
)


def rows() -> list[Row]:
    """Return the rows of all cases."""
    return [row for name, model, sizes in CASES for row in _case(name, model, sizes)]


def _case(name: str, model: Callable[..., dp.Model], sizes: dict[str, int]) -> list[Row]:
    def solve(tol: float = ERROR) -> Any:
        found = dp.solve(model, dict(sizes), tol=tol)
        assert found.status == "solved", found.message
        return found

    found = solve()
    taken, sweeps = clock(lambda: solve().value), int(found.iterations)
    choices = model(**sizes).size_of("cut" if name == "forest" else "order")
    told = work(found.value.size, choices, sweeps).told(taken, machine(), machine().adds)
    ours = Contender("ours", lambda: solve().value, note=f"certified, {sweeps} sweeps; {told}")
    what = f"mdpax's {name} ({', '.join(f'{k} {v:,}' for k, v in sizes.items())})"
    try:
        given = problem(name, **sizes)
    except ModuleNotFoundError as missing:
        return [(what, f"mdpax: {missing.name} is not installed", "", "")]
    truth = np.asarray(solve(TRUTH).value).ravel()
    return compare(what, ours, _contenders(given, truth), ">= 20")


def _contenders(given: Any, truth: Any) -> list[Contender]:
    """Return mdpax's value and policy iteration, whole, or so many sweeps as it takes to count."""
    few = 60
    one = solver(given)

    def sweeps() -> Any:
        for _ in range(few):
            one.values, one.change = one._iteration_step()
        return one.values

    sweeps()  # compiles, and lets everything die out but the discount
    a_sweep = clock(sweeps) / few
    # Each sweep makes the change at most BETA times as large: from now on just that.
    more = max(0.0, np.log(one.conv_threshold / float(one.change)) / np.log(BETA))
    needed = 2 * few + more
    if needed * a_sweep <= LIMIT:
        return [_whole(given, kind, truth) for kind in ("ValueIteration", "PolicyIteration")]
    note = f"by count: {needed:.0f} sweeps of {seconds(a_sweep)}"
    first = Contender("mdpax ValueIteration", sweeps, needed / few, note)

    two = solver(given, "PolicyIteration")

    def evaluations() -> Any:
        for _ in range(few):
            two.values = two._calculate_policy_values(two.policy, two.values)
        return two.values

    evaluations()  # compiles
    note = f"by count: {needed:.0f} sweeps of {seconds(clock(evaluations) / few)}"
    note += ", its first policy's value alone"
    return [first, Contender("mdpax PolicyIteration", evaluations, needed / few, note)]


def _whole(given: Any, kind: str, truth: Any) -> Contender:
    """Return a whole solve; it always starts anew, in one object, which owns what it compiled."""
    one = solver(given, kind)
    values, policy = one.values, one.policy

    def whole() -> Any:
        one.values, one.policy, one.iteration = values, policy, 0
        one.solve(100_000)
        return one.values

    error = true_error(whole(), truth)
    note = f"{one.iteration} iterations; true error {error:.2g}, not certified"
    return Contender(f"mdpax {kind}", whole, 1.0, note)
