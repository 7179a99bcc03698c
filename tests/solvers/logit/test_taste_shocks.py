"""What ``taste_shocks`` may say, and what it is refused with."""

import numpy as np
import pytest

import dpsolve as dp


def model(taste_shocks, **more):
    keywords = {
        "states": {"x": dp.integers(0, 4)},
        "choices": {"go": dp.integers(0, 2), "far": [0.5, 1.0]},
        "transition": {"x": lambda x, go: (x + go) % 5},
        "reward": lambda x, go, far: x * far - go,
        "discount": 0.9,
    }
    return dp.Model(**{**keywords, **more}, taste_shocks=taste_shocks)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"go": 0}, ["scale", "'go'", "is 0", "above 0"]),
        ({"go": -0.5}, ["'go'", "-0.5"]),
        ({"go": float("nan")}, ["'go'", "nan"]),
        ({"go": [1.0, 2.0]}, ["'go'", "one number"]),
        ({"goo": 1.0}, ["'goo'", "no choice", "Did you mean 'go'"]),
        ({("go", "go"): 1.0}, ["('go', 'go')"]),
        ({"go": 1.0, "far": 1.0}, ["2 entries", "'go', 'far'", "tuple"]),
        (0.3, ["taste_shocks is 0.3", "dict"]),
    ],
)
def test_a_mistake_is_named_with_its_value(said, words):
    with pytest.raises(dp.ModelError) as error:
        model(said)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("scale", "nests", "words"),
    [
        (0.0, {"out": ([1, 2], 0.5)}, ["outer scale", "is 0"]),
        (0.4, {"out": ([1, 2], 0.5)}, ["'out'", "0.5", "0.4"]),
        (1.0, {"out": ([1, 2], 0.0)}, ["'out'", "is 0"]),
        (1.0, {"out": ([1, 3], 0.5)}, ["'out'", "member 3", "0, 1, 2"]),
        (1.0, {"out": ([1], 0.5), "in": ([1], 0.5)}, ["'out'", "'in'", "1 is in"]),
        (1.0, {"out": [1, 2, 3]}, ["'out'", "members"]),
        (1.0, {}, ["nests is {}"]),
    ],
)
def test_nests_are_of_values_of_the_choice(scale, nests, words):
    with pytest.raises(dp.ModelError) as error:
        model({"go": dp.nested(scale, nests)})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_tastes_are_for_lists_of_values_and_for_nothing_continuous():
    grid = {"x": dp.grid(0.0, 4.0, 5)}
    saving = {
        "states": grid,
        "transition": {"x": "to"},
        "reward": lambda x, go, to: x - to - go,
    }
    choices = {"go": dp.integers(0, 2), "to": dp.interval("x")}
    with pytest.raises(dp.ModelError, match="'to', which is continuous"):
        model({"to": 1.0}, choices=choices, **saving)
    with pytest.raises(dp.ModelError, match="beside the continuous choice 'to'"):
        model({"go": 1.0}, choices=choices, **saving)


def test_names_of_results_are_taken():
    with pytest.raises(dp.ModelError, match="probability_go"):
        model(
            {"go": 1.0},
            choices={"go": dp.integers(0, 2), "probability_go": [0.0, 1.0]},
            reward=lambda x, go: x - go,
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [({"criterion": "average"}, "average"), ({"certificate": "sampled"}, "sample")],
)
def test_options_for_policies_of_one_choice_are_refused(options, words):
    with pytest.raises(dp.UsageError, match=words):
        dp.solve(model({"go": 1.0}), **options)


def test_a_scale_that_is_a_parameter_is_refused_where_it_is_bad():
    def priced(scale=1.0):
        return model({"go": scale})

    with pytest.raises(dp.ModelError, match="the scale of taste_shocks on 'go' is -2"):
        dp.solve(priced, {"scale": -2.0})
    many = dp.solve_many(priced, {"scale": np.array([1.0, 0.0, np.nan])})
    assert list(many.status) == ["solved", "failed", "failed"]
    assert "is 0" in many.message[1]
