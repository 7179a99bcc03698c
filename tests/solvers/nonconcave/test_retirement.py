"""Retirement of Iskhakov, Jørgensen, Rust and Schjerning (2017), whose values have closed forms."""

import numpy as np
import pytest
from nonconcave_models import retirement, solved

WORTH = {(1.0, 1): 7.514054219, (1.0, 0): -7.729715397, (400.0, 1): 21.053041586}


@pytest.fixture(scope="module")
def solution():
    return solved(retirement, beta=0.98, n=300)


def test_the_closed_forms_are_enclosed(solution):
    assert solution["certifies"] == 1
    for (wealth, worker), worth in WORTH.items():
        i = np.searchsorted(solution["grid_M"], wealth)
        assert solution["grid_M"][i] == wealth
        assert solution["lower"][0, i, worker] <= worth <= solution["upper"][0, i, worker]


def test_the_lower_bound_is_of_the_second_order(solution):
    i = np.searchsorted(solution["grid_M"], 400.0)
    assert solution["lower"][0, i, 1] > 21.053041586 - 3e-4


def test_the_policy_is_the_continuous_one_between_the_nodes(solution):
    # One who is retired eats shares of what is left that fall with beta.
    i, beta = np.searchsorted(solution["grid_M"], 400.0), 0.98
    eaten = solution["output_consumption"][0, i, 0]
    np.testing.assert_allclose(eaten, 400 * (1 - beta) / (1 - beta**5), rtol=2e-2)
    assert solution["policy_work"][0, i, 0] == 0
    # A worker of little wealth saves nothing: the end of the interval.
    i = np.searchsorted(solution["grid_M"], 1.0)
    assert solution["policy_A"][0, i, 1] == 0.0
    assert solution["policy_work"][0, i, 1] == 1


@pytest.mark.slow
def test_the_error_is_over_the_continuum(solution):
    # Beside the kinks of the value, too, a finer grid's bounds lie within the coarse one's.
    fine = solved(retirement, n=600)
    x, q = solution["grid_M"], fine["grid_M"]
    middle = np.stack([np.interp(q, x, solution["value"][0, :, w]) for w in (0, 1)], -1)
    assert np.abs(fine["lower"][0] - middle).max() <= solution["error_bound"]
    above = solution["upper"][0][np.searchsorted(x, q)]
    below = solution["lower"][0][np.searchsorted(x, q, side="right") - 1]
    assert (fine["lower"][0] <= above).all()
    assert (fine["upper"][0] >= below).all()


@pytest.mark.slow
def test_four_thousand_nodes():
    found = solved(retirement, n=4_000)
    i = np.searchsorted(found["grid_M"], 1.0)
    assert 7.5115 <= found["lower"][0, i, 1] <= found["upper"][0, i, 1] <= 7.5248


@pytest.mark.slow
def test_the_optimal_choice_is_in_its_interval(solution):
    fine = solved(retirement, beta=0.98, n=600)
    at = np.isin(fine["grid_M"], solution["grid_M"])
    nodes = np.isin(solution["grid_M"], fine["grid_M"])
    low, high = (solution[f"policy_{which}_A"][:, nodes] for which in ("lower", "upper"))
    chosen, step = fine["policy_A"][:, at], np.diff(fine["grid_M"]).max()
    assert (low <= chosen + step).all()
    assert (chosen - step <= high).all()
    # What has one best choice far from any other has a narrow interval.
    i = np.searchsorted(solution["grid_M"], 400.0)
    assert 0.5 < solution["policy_lower_A"][0, i, 0] / 316.74 < 1.0
    assert 1.0 < solution["policy_upper_A"][0, i, 0] / 316.74 < 1.2
