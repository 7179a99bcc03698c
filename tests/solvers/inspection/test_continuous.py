"""What is asked, counted and said of models with continuous choices, before anything is solved."""

import pytest

import dpsolve as dp
from continuous_models import MODELS, aiyagari, labour, portfolio
from dpsolve.sharding.batches.result_arrays import Layout, Variable
from dpsolve.sharding.devices.fit import make_partition
from dpsolve.sharding.devices.mesh import MeshShape
from dpsolve.solvers.inspection.forecast import footprint, outlook
from dpsolve.solvers.inspection.limits import check_model
from dpsolve.solvers.inspection.requests import refusals
from dpsolve.solvers.options import SolveOptions


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"criterion": "average"}, ["continuous choice, 'a_next'", "criterion", "'a'}"]),
        ({"gradients_fixed_policy": ["beta"]}, ["'a_next'", 'gradients = ["beta"]']),
        ({"certificate": "sampled"}, ["'a_next'", "two linear systems", "leave certificate out"]),
        ({"precision": "mixed"}, ["'a_next'", "double precision", "leave precision out"]),
    ],
)
def test_what_is_about_lists_of_values_is_refused_in_words(asked: dict, words: list[str]) -> None:
    ((option, entry, text),) = refusals(aiyagari(), SolveOptions.from_mapping(asked), "aiyagari")
    assert (option, entry) == (next(iter(asked)), None)
    for word in ("aiyagari has", *words):
        assert word in text


def test_derivatives_of_moments_are_no_business_of_a_fixed_policy() -> None:
    asked = SolveOptions.from_mapping({"gradients": ["beta"], "moments": ["mean_a"]})
    assert not list(refusals(aiyagari(), asked))


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
    assert large == 10 * small
    check_model(aiyagari(n_a=300_000), SolveOptions(), "aiyagari")  # whose pairs would take a day


def test_memory_counts_what_shocks_lead_to() -> None:
    few, many = (footprint(portfolio, {"n_r": n}, SolveOptions()).bytes for n in (3, 30))
    assert 9 * few < many < 10 * few


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
    assert set(layout(*single).select(["policy"])) == set(single[1:])
    beside = layout("value", "policy_a_next", "policy_work", "policy_index_work")
    assert set(beside.select(["policy_index"])) == {"policy_index_work"}
    with pytest.raises(dp.UsageError, match="'a_next' is continuous"):
        beside.select(["policy_index_a_next"])
