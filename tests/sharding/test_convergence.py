"""dp.convergence: what a finer grid changes, and at which order."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.convergence import _order, _orders_of_bounds, _orders_of_gaps

ALPHA, BETA = 1 / 3, 0.95


def growth(
    beta: float = BETA, *, n_k: int = 20, n_z: int = 1, continuous: bool = False
) -> dp.Model:
    """Brock and Mirman's model; its policy is k' = alpha beta k**alpha."""
    steady = (ALPHA * BETA) ** (1 / (1 - ALPHA))
    return dp.Model(
        states={
            "k": dp.grid(0.4 * steady, 1.6 * steady, n_k),
            "z": dp.markov(jnp.arange(n_z), jnp.full((n_z, n_z), 1 / n_z)),
        },
        choices={"k_next": dp.interval("k") if continuous else "k"},
        transition={"k": "k_next"},
        reward=lambda k, k_next: jnp.log(k**ALPHA - k_next),
        discount=beta,
        concave=continuous or None,
    )


@pytest.fixture(scope="module")
def table() -> Any:
    return dp.convergence(growth, {"beta": BETA}, n_k=[15, 29, 57], moments=["mean_k"])


@pytest.mark.slow
def test_every_column_has_the_numbers_of_its_solves(table: Any) -> None:
    solved = [dp.solve(growth, {"n_k": n}, moments=["mean_k"]) for n in (15, 29, 57)]
    np.testing.assert_array_equal(table["n_k"], [15, 29, 57])
    for name in ("error_bound", "moment_mean_k"):
        np.testing.assert_allclose(table[name], [float(s[name]) for s in solved], rtol=1e-9)
    # These grids contain each other, so that nothing is interpolated.
    value = [np.asarray(s.value)[:: 2**i] for i, s in enumerate(solved)]
    policy = [np.asarray(s.policy["k_next"])[:: 2**i] for i, s in enumerate(solved)]
    for name, x in (("value_difference", value), ("policy_difference_k_next", policy)):
        true = [np.abs(y - x[2]).max() for y in x[:2]]
        np.testing.assert_allclose(table[name][:2], true, rtol=1e-6, atol=1e-12)
        assert np.isnan(table[name][2])
    assert list(table["status"].values) == ["solved"] * 3
    assert float(table["beta"]) == BETA


@pytest.mark.slow
def test_bounds_over_the_continuum_fall_at_second_order() -> None:
    found = dp.convergence(growth, {"continuous": True}, n_k=[15, 29, 57])
    for name in ("error_bound", "policy_loss"):
        assert 1.5 < float(found[f"order_{name}"][-1]) < 2.5


def test_the_table_is_in_print(table: Any) -> None:
    assert "no bounds" in table.attrs["note"]
    lines = table.attrs["table"].splitlines()
    assert lines[0].split() == ["n_k", "15", "29", "57", "order"]
    assert any(line.startswith("moment_mean_k") for line in lines)


@pytest.mark.parametrize("n", [[100, 200, 400], [11, 21, 41], [10, 50, 60]])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_the_order_of_a_known_error_is_found_whatever_the_ratios(n: list[int], p: float) -> None:
    sizes = np.array(n)
    q = 7.0 + 3.0 * (1.0 / (sizes - 1.0)) ** p
    assert _orders_of_gaps(np.abs(np.diff(q)), sizes)[2] == pytest.approx(p, abs=1e-6)
    np.testing.assert_allclose(_orders_of_bounds(q - 7.0, sizes)[1:], p, atol=1e-9)


def test_differences_that_do_not_fall_have_no_order() -> None:
    assert np.isnan(_order(0.5, 1.0, 0.5, 0.25))


def test_with_halved_steps_the_order_is_a_logarithm_to_base_two() -> None:
    assert _order(4.0, 1.0, 0.5, 0.25) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "needs a size of the model as a rising list"),
        ({"nk": [10, 20]}, "Did you mean 'n_k'"),
        ({"n_k": [20, 10]}, "a rising list of sizes"),
        ({"n_k": 20}, "a rising list of sizes"),
        ({"n_k": [10.5, 20.5]}, "a rising list of sizes"),
        ({"n_k": [10, 20], "n_z": [2, 3, 4]}, "there are 2 of n_k, 3 of n_z"),
    ],
)
def test_sizes_that_are_no_lists_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(dp.UsageError, match=why):
        dp.convergence(growth, **given)


def test_a_size_that_changes_a_chain_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(dp.ModelError, match="changes 'z', which stands for itself"):
        dp.convergence(growth, n_z=[2, 3])


@pytest.mark.slow
def test_a_grid_model_over_a_horizon_is_compared_too() -> None:
    def cake(*, n: int = 10) -> dp.Model:
        return dp.Model(
            states={"a": dp.grid(1.0, 2.0, n)},
            choices={"a_next": "a"},
            transition={"a": "a_next"},
            reward=lambda a, a_next: jnp.log(2.0 + a - a_next),
            discount=0.9,
            horizon=3,
        )

    found = dp.convergence(cake, n=[5, 9, 17])
    assert float(found["value_difference"][0]) >= 0.0
    assert "order_error_bound" not in found


def test_the_picture_shows_errors_and_moments(table: Any) -> None:
    figure = dp.plot.convergence(table)
    errors, moments = figure.axes
    labels = [text.get_text() for text in errors.get_legend().get_texts()]
    assert "value, to the finest" in labels
    assert "order 2" in labels
    (line,) = (x for x in errors.lines if x.get_label() == "value, to the finest")
    np.testing.assert_allclose(line.get_ydata(), table["value_difference"][:2])
    assert errors.get_xscale() == errors.get_yscale() == "log"
    assert len(moments.lines) == 2
    with pytest.raises(dp.UsageError, match=r"draws what dp\.convergence returns"):
        dp.plot.convergence(3)
