"""What is asked, counted and said of models with continuous choices, before anything is solved."""

from dataclasses import replace

import jax.numpy as jnp
import pytest

import dpsolve as dp
from continuous_models import MODELS, aiyagari, labour, portfolio
from dpsolve.sharding.batches.result_arrays import Layout, Variable
from dpsolve.sharding.devices.fit import make_partition
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.inspection.forecast import footprint, outlook
from dpsolve.solvers.inspection.limits import TESTED, check_model
from dpsolve.solvers.inspection.requests import refusals
from dpsolve.solvers.options import SolveOptions


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"criterion": "average"}, ["continuous choice, 'a_next'", "criterion", "'a'}"]),
        ({"gradients_fixed_policy": ["beta"]}, ["'a_next'", 'gradients = ["beta"]']),
        (
            {"certificate": "sampled"},
            ["'a_next'", "without a sweep over pairs", "leave certificate out"],
        ),
        ({"precision": "mixed"}, ["'a_next'", "double precision", "leave precision out"]),
    ],
)
def test_what_is_about_lists_of_values_is_refused_in_words(asked: dict, words: list[str]) -> None:
    ((option, entry, text),) = refusals(aiyagari(), SolveOptions.from_mapping(asked), "aiyagari")
    assert (option, entry) == (next(iter(asked)), None)
    for word in ("aiyagari has", *words):
        assert word in text


def test_derivatives_of_what_is_not_concave_are_refused_as_such() -> None:
    asked = SolveOptions.from_mapping({"gradients": ["beta"], "moments": ["mean_a"]})
    assert not list(refusals(aiyagari(), asked))
    assert not list(refusals(replace(aiyagari(), concave=None), asked))  # NaN where not proved
    ((option, _, text),) = refusals(replace(aiyagari(), concave=False), asked)
    assert option == "gradients"
    assert "take differences between points" in text


def test_states_of_a_model_with_a_continuous_choice_are_not_cut() -> None:
    with pytest.raises(dp.UsageError, match=r"continuous choice, 'h'.*points=2"):
        make_partition(labour, {}, MeshShape(1, 2))
    assert make_partition(labour, {}, MeshShape(2, 1)) is None


@pytest.mark.parametrize("name", MODELS)
def test_no_pairs_are_counted_of_a_continuous_choice(name: str) -> None:
    one = footprint(MODELS[name], {}, SolveOptions())
    assert one.choices == 1
    assert not one.streams
    assert outlook(MODELS[name], {}, SolveOptions()) is None


def test_memory_grows_with_states_and_not_with_their_square() -> None:
    small, large = (footprint(aiyagari, {"n_a": n}, SolveOptions()).bytes for n in (1_000, 10_000))
    assert large - TESTED == 10 * (small - TESTED)
    check_model(aiyagari(n_a=300_000), SolveOptions(), "aiyagari")  # whose pairs would take a day


def test_memory_counts_what_shocks_lead_to() -> None:
    few, many = (footprint(portfolio, {"n_r": n}, SolveOptions()).bytes for n in (3, 30))
    assert 9 < (many - TESTED) / (few - TESTED) < 10


def test_a_description_says_what_a_continuous_choice_is_made_from() -> None:
    said = dp.describe(aiyagari)
    assert said.dimensions["a_next"] == "choice, any of the range of a (continuous)"
    assert "72 states, a_next found at each (continuous: no pairs)" in str(said)
    assert "policy_index" not in said.outputs
    assert said.continuous == ("a_next",)
    several = dp.describe(portfolio).dimensions
    assert (
        several["stock"] == "choice, anything from a function of w to a function of w (continuous)"
    )
    assert several["bond"] == "choice, anything from 0 to a function of w, stock (continuous)"
    cut = dp.Model(
        states={"a": dp.grid(0.0, 1.0, 3)},
        choices={"work": [0.0, 1.0], "b": dp.interval("a", lo=lambda a: 0.5 * a, hi=0.75)},
        transition={"a": "b"},
        reward=lambda a, b, work: a - b**2 + work,
        discount=0.9,
    )
    said = dp.describe(cut)
    words = "choice, any of the range of a from a function of a to 0.75 (continuous)"
    assert said.dimensions["b"] == words
    assert "3 states x 2 choices, b found at each" in str(said)
    assert "policy_index" in said.outputs


def layout(*names: str) -> Layout:
    variables = {n: Variable(n, ("a",), (3,), "float64", n) for n in names}
    return Layout({"a": 3}, {}, variables, ("value", "policy"))


def test_a_continuous_choice_has_no_index_to_keep() -> None:
    single = ("value", "policy_a_next", "policy_lower_a_next", "policy_upper_a_next")
    for asked in ("policy_index", "policy_index_a_next"):
        with pytest.raises(dp.UsageError, match=r"'a_next' is continuous.*Keep 'policy_a_next'"):
            layout(*single).select([asked])
    assert set(layout(*single).select(["policy"])) == {"policy_a_next"}
    beside = layout("value", "policy_a_next", "policy_work", "policy_index_work")
    assert set(beside.select(["policy_index"])) == {"policy_index_work"}
    with pytest.raises(dp.UsageError, match="'a_next' is continuous"):
        beside.select(["policy_index_a_next"])


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_right_have_no_fault(name: str) -> None:
    assert "no fault found" in dp.check(MODELS[name])


def household(**changes):
    """Cash on hand m, consumption c, income y; with something changed."""
    fields = {
        "states": {"m": dp.grid(1.0, 10.0, 7)},
        "choices": {"c": dp.interval(0.0, lambda m: m)},
        "shocks": {"y": dp.iid([1.0, 2.0], [0.5, 0.5])},
        "transition": {"m": lambda m, c, y: 0.5 * (m - c) + y},
        "feasible": lambda c: c > 0,
        "reward": lambda c: jnp.log(c),
        "discount": 0.9,
    }
    return dp.Model(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": lambda m, c: jnp.where(m > 9, jnp.nan, jnp.log(c))}, ["NaN", "m=10, c="]),
        ({"reward": lambda c, y: jnp.where(y > 1.5, jnp.inf, c)}, ["NaN or +inf", "y=2"]),
        ({"feasible": lambda m, c: (c > 0) & (m > 2)},
         ["m=1 ", "no feasible choice", "33 that were tried", "'c'", "1 of 7"]),
        ({"choices": {"c": dp.interval(lambda m: 3.0 - m, lambda m: m)}},
         ["m=1 ", "no feasible choice"]),
        ({"transition": {"m": lambda m, c, y: m - c + y + 9.0}},
         ["m=1 ", "no feasible choice", "leave its grid", "(m)", "('error', 'clip')"]),
        ({"transition": {"m": lambda m, c, y: 1.0 + jnp.log(m - 2.0 * c)}},
         ["next state of 'm' is NaN"]),
        ({"choices": {"c": dp.interval(0.0, lambda m: jnp.sqrt(m - 2.0))}},
         ["upper end of choice 'c'", "NaN", "m=1"]),
        ({"choices": {"c": dp.interval(0.0, 1.0), "d": dp.interval(lambda c: 1.0 / c, 2.0)}},
         ["lower end of choice 'd'", "infinite", "c=0"]),
        ({"discount": 1.0}, ["discount is 1", "below 1"]),
        ({"discount": lambda m: m - 1.5}, ["discount is -0.5", "m=1", "negative"]),
        ({"discount": lambda m: jnp.where(m > 9, jnp.nan, 0.9)}, ["discount is NaN", "m=10"]),
        ({"states": {"m": dp.grid(1.0, 10.0, 7), "n": dp.integers(0, 2)},
          "transition": {"m": "m", "n": lambda n: n + 1}}, ["n=2", "next state of 'n'", "1 off"]),
    ],
)  # fmt: skip
def test_the_first_fault_of_a_continuous_choice_is_named(changes: dict, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        dp.check(household(**changes))
    for word in words:
        assert word in str(caught.value)


def test_a_state_whose_choices_all_pay_minus_infinity_is_no_fault() -> None:
    """Its value is -inf, and bounds leave its cells out."""
    hungry = household(
        states={"m": dp.grid(0.0, 10.0, 7)},
        transition={"m": lambda m, c, y: 0.5 * (m - c) + y},
        feasible=None,
    )
    assert "no fault" in dp.check(hungry)


def test_a_choice_that_may_leave_the_grid_is_infeasible_and_no_fault() -> None:
    """With half of the grid clipped the other half still forbids."""
    grown = {"transition": {"m": lambda m, c, y: 2.0 * (m - c) + y}}
    assert "no fault" in dp.check(household(**grown))
    clipped = dp.grid(1.0, 10.0, 7, outside=("error", "clip"))
    assert "no fault" in dp.check(household(**grown, states={"m": clipped}))
