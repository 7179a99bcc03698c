"""More points until a tolerance holds: which sizes, how many, and what is refused."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

import dpsolve as dp
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.solve import refinement as module
from dpsolve.solvers.solve.refinement import Refinement
from household import household


def refinement(factory: Any, *names: str, tol: float = 1e-3, **sizes: Any) -> Refinement:
    return Refinement(factory, sizes, SolveOptions(tol=tol, refine=names))


def test_nodes_are_doubled_without_moving() -> None:
    found = refinement(household, "n_a", n_a=14)
    assert [found.finer(k)["n_a"] for k in range(4)] == [14, 27, 53, 105]
    assert found.named(2) == {"refined_size": 53}
    found.check({"beta": 0.95, "gamma": 2.0, "r": 0.02})


def test_steps_are_as_long_as_the_error_asks_and_never_longer() -> None:
    found = refinement(household, "n_a")
    assert [found.next(0, error) for error in (1e-3 * 1.01, 4.1e-3, 15e-3, 17e-3)] == [1, 1, 1, 2]
    assert found.next(2, 2e-3) == 3


def test_memory_ends_it_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    has = module.footprint(household, {"n_a": 27}, SolveOptions()).bytes
    monkeypatch.setattr(module, "memory_of_a_device", lambda: has)
    found = refinement(household, "n_a")
    assert found.next(0, 1.0) == 1
    assert found.next(1, 1.0) == 1
    why = found.why_not(1, 2.0, 1.0)
    assert why.startswith("refine ended at n_a=27, because n_a=53 takes ")


def test_points_that_narrow_nothing_end_it() -> None:
    assert "no longer narrow" in refinement(household, "n_a").why_not(1, 1.0, 0.95)
    assert not refinement(household, "n_a").why_not(1, 1.0, 0.3)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("n_z",), "the chain 'z' changes with it"),
        (("n_a", "n_z"), "the chain 'z' changes with it"),
        (("beta",), "that is a parameter of household"),
        (("n_b",), "that is no size of household"),
        (("curve",), "it is a number of points"),
    ],
)
def test_what_is_no_size_of_a_grid_is_refused(names: tuple[str, ...], what: str) -> None:
    given = {"curve": 1.5} if names == ("curve",) else {}
    with pytest.raises(UsageError, match=what):
        refinement(household, *names, **given).check({"beta": 0.95, "gamma": 2.0, "r": 0.02})


def test_a_shock_a_grid_that_does_not_nest_and_one_that_stays_are_refused() -> None:
    def other(beta: float = 0.9, *, n: int = 5, m: int = 5, k: int = 3) -> dp.Model:
        draws = jnp.arange(float(k))
        return dp.Model(
            states={"x": dp.grid(jnp.arange(float(n)) ** 1.5)},
            choices={"y": dp.interval("x")},
            shocks={"w": dp.iid(draws, jnp.full(k, 1.0 / k))},
            transition={"x": "y"},
            reward=lambda x, y, w: jnp.log(1.0 + 9.0 * x + w - y),
            discount=beta,
            concave=True,
        )

    for name, what in (("n", "do not contain them"), ("m", "no state's grid"), ("k", "shock 'w'")):
        with pytest.raises(UsageError, match=what):
            refinement(other, name).check({"beta": 0.9})


def test_a_tolerance_and_a_continuous_choice_are_needed() -> None:
    with pytest.raises(UsageError, match="no tol is given"):
        dp.solve(household, refine="n_a")
    with pytest.raises(UsageError, match=r"write dp\.interval"):
        dp.solve("savings", {"continuous": False}, tol=1e-3, refine="n_a")
    with pytest.raises(UsageError, match="pass its factory"):
        dp.solve(household(), tol=1e-3, refine="n_a")
