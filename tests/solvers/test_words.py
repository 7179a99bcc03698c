"""What a solution, a check and the package say of themselves when they are looked at."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.options import METHODS, SolveOptions


def shop(beta: float = 0.9, at: float = -1.0, *, n: int = 6) -> dp.Model:
    """A reward that is NaN in one state."""
    return dp.Model(
        states={"x": dp.integers(0, n - 1)},
        choices={"u": dp.integers(0, 1)},
        transition={"x": "x"},
        reward=lambda x: jnp.where(x == at, jnp.nan, 1.0 * x),
        discount=beta,
    )


def test_a_failed_solution_shows_why() -> None:
    shown = repr(dp.solve(shop, {"at": 3.0}))
    assert shown.startswith("<Solution of shop: failed: the reward is NaN or +inf at x=3")


def test_an_inexact_solution_shows_why_and_how_far() -> None:
    shown = repr(dp.solve(shop, tol=1e-300))
    assert "inexact: float64 rounding" in shown
    assert "(tol 1e-300)" in shown


def test_many_points_are_summed_up_in_a_line() -> None:
    shown = repr(dp.solve_many(shop, {"at": np.arange(-120.0, 5.0)}))
    assert shown.startswith("<Solution of shop: 125 points: 5 failed, 120 solved; worst certified")
    assert "point 120 failed: the reward is NaN" in shown
    assert shown.count("solved") == 1
    assert len(shown) < 300


def test_a_check_answers_in_words() -> None:
    answer = dp.check(shop, {"beta": 0.95})
    assert repr(answer) == "shop: no fault found at beta=0.95, at=-1, n=6."
    assert repr(dp.check(shop())) == "the model: no fault found."


def test_the_package_shows_public_names_alone() -> None:
    shown = dir(dp)
    assert {"Model", "solve", "check", "__version__"} <= set(shown)
    assert not {"os", "sys", "Any", "TYPE_CHECKING", "import_module"} & set(shown)


@pytest.mark.parametrize(
    ("said", "meant"), [("howard", "pi"), ("Howard policy iteration", "pi"), ("vfi", "vi")]
)
def test_names_of_the_literature_mean_a_method(said: str, meant: str) -> None:
    assert SolveOptions(method=said).method == meant
    documented: Any = SolveOptions.__doc__
    assert "``howard``" in documented
    with pytest.raises(dp.UsageError, match=r"pi \(policy, hpi, howard"):
        SolveOptions(method="howrd")
    assert set(METHODS) == {"auto", "vi", "pi", "opi", "egm"}
