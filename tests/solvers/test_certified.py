"""What bounds are of, and the tolerance that is asked for of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dpsolve as dp
from dpsolve.solvers.certified import at_best, of_what, promise
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.labelled import choices_of
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import CERTIFIES, CONCAVITY, accuracy, in_words
from household import household


def model(state: Any, choice: Any, rule: Any) -> dp.Model:
    return dp.Model(
        states={"x": state}, choices={"y": choice}, transition={"x": rule},
        reward=lambda x, y: -((x - y) ** 2), discount=0.9,
    )  # fmt: skip


GRID, INTEGERS = dp.grid(0.0, 4.0, 5), dp.integers(0, 4)


@pytest.mark.parametrize(
    ("made", "word", "words"),
    [
        (model(INTEGERS, "x", "y"), "exact", ""),
        (model(GRID, INTEGERS, "x"), "exact", ""),  # it stays on its node
        (model(GRID, INTEGERS, lambda x: 0.5 * x), "interpolated", "of the interpolated problem"),
        (model(GRID, dp.grid(0.0, 1.0, 3), "y"), "grid", "on this grid"),
        (household(), "continuum", "over the continuum"),
        (dp.mdp(np.zeros((2, 1)), np.full((2, 1, 2), 0.5), 0.9), "exact", ""),
        ({"a": 1.0}, "none", ""),
    ],
)
def test_a_model_has_the_weakest_that_applies(made: Any, word: str, words: str) -> None:
    assert (at_best(made), of_what(made)) == (word, words)


def test_a_choice_that_shares_a_grid_says_what_it_is_not() -> None:
    sentence = "choices on this grid; of a continuous choice it says nothing (dp.interval)"
    made = model(GRID, "x", "y")
    assert of_what(made) == f"for {sentence}"
    assert promise(made) == sentence
    assert promise(household()) == "the continuum"
    assert accuracy(2e-7, 1e-6, of_what=of_what(made)) == (
        "certified error 2e-07 for choices on this grid (tol 1e-06); of a continuous choice it "
        "says nothing (dp.interval)"
    )


def test_words_of_numbers() -> None:
    assert in_words(CERTIFIES, np.int8(1)) == "continuum"
    found = in_words(CONCAVITY, np.array([2, 1, 0, -1], np.int8))
    assert list(found) == ["proved", "declared", "none", "none"]  # -1: there is no such point


def test_a_choice_is_told_from_what_stands_beside_it() -> None:
    names = ["policy_a", "policy_lower_a", "policy_upper_a", "policy_loss", "value", "policy_b"]
    assert choices_of(names) == ("a", "b")
    assert choices_of(["policy_loss", "policy_index_loss"]) == ("loss",)
    assert choices_of(["policy_index_a", "policy_a"]) == ("a",)


def test_no_tolerance_is_one_on_a_grid_and_none_over_a_continuum() -> None:
    options = SolveOptions()
    assert options.tol is None
    assert (options.tolerance(model(GRID, "x", "y")), options.tol_on_grid) == (1e-6, 1e-6)
    assert options.tolerance(household()) is None
    assert "tol" not in options.as_dict()
    asked = SolveOptions(tol=1e-6)
    assert asked.tolerance(household()) == 1e-6
    assert SolveOptions.from_mapping(asked.as_dict()) == asked
    refined = SolveOptions(tol=1e-3, refine="n_a,n_b")  # type: ignore[arg-type]
    assert refined.refine == ("n_a", "n_b")
    assert SolveOptions.from_mapping(refined.as_dict()) == refined
    with pytest.raises(UsageError, match="no tol is given"):
        SolveOptions(refine=("n_a",))
