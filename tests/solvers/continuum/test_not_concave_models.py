"""The models of ``not_concave_models``: what they are said to be worth is right."""

from dataclasses import replace

import numpy as np
import pytest
from not_concave_models import CASES, CONTROL, KINKS, STEEP

import dpsolve as dp


def test_there_are_thirteen_rewards_that_are_not_concave():
    assert len(CASES) == 13
    assert not any(case.is_concave for case in CASES.values())


@pytest.mark.parametrize(
    "case", [CASES["hump 1"], KINKS["relu"], STEEP], ids=["hump", "relu", "steep"]
)
def test_the_truth_is_what_dpsolve_finds_for_choices_among_its_points(case):
    truth, model = case.truth(200), case.model()
    points = dp.grid(truth.x)
    end = model.choices["y"].hi
    feasible = model.feasible if end is None else lambda x, y: y <= end(x)
    on_points = replace(
        model, states={**model.states, "x": points}, choices={"y": "x"}, feasible=feasible
    )
    found = dp.solve(on_points, tol=1e-8).value
    np.testing.assert_allclose(found, np.squeeze(truth.value.T), atol=2e-8)


@pytest.mark.slow
def test_the_concave_models_are_worth_the_same_however_they_are_written():
    first, *others = (case.truth().value for case in KINKS.values())
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-9)
    assert CONTROL.truth().slack < 1e-4
