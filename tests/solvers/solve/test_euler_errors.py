"""dp.euler_errors: what plain NumPy says at the same places, whatever the choice is called."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from by_hand import solution_of

ALPHA, BETA = 1 / 3, 0.95
STEADY = (ALPHA * BETA) ** (1 / (1 - ALPHA))


def growth(n: int = 30, **more: Any) -> dp.Model:
    """Brock and Mirman's model, whose policy is k' = alpha beta k**alpha."""
    return dp.Model(
        states={"k": dp.grid(0.25 * STEADY, 1.75 * STEADY, n)},
        choices={"k_next": dp.interval("k")},
        transition={"k": "k_next"},
        reward=lambda k, k_next: jnp.log(k**ALPHA - k_next),
        discount=BETA,
        **more,
    )


def rule(k: Any) -> Any:
    return ALPHA * BETA * k**ALPHA


@pytest.mark.slow
def test_errors_between_nodes_are_those_of_plain_numpy() -> None:
    model = growth(outputs={"consumption": lambda k, k_next: k**ALPHA - k_next})
    found = dp.euler_errors(solution_of(model, {"k_next": rule}))
    assert found.units == {"k_next": "consumption: consumption"}
    k, nodes = found.grids["k"], np.linspace(0.25 * STEADY, 1.75 * STEADY, 30)
    assert len(k) == 58
    assert set(np.round((nodes[1:] + nodes[:-1]) / 2, 12)) <= set(np.round(k, 12))
    after = np.interp(k, nodes, rule(nodes))
    later = np.interp(after, nodes, rule(nodes))
    implied = (after**ALPHA - later) / (BETA * ALPHA * after ** (ALPHA - 1))
    true = np.log10(np.abs(implied / (k**ALPHA - after) - 1))
    np.testing.assert_allclose(found.errors["k_next"], true, atol=1e-6)
    assert found.max["k_next"] == pytest.approx(true.max(), abs=1e-6)
    assert found.mean["k_next"] == pytest.approx(true.mean(), abs=1e-6)
    data = found.to_xarray()["euler_error_k_next"]
    assert data.dims == ("k",)
    assert "no bound" in repr(found)
    assert "no bound" in data.attrs["note"]


@pytest.mark.slow
def test_without_an_output_the_error_is_free_of_units() -> None:
    found = dp.euler_errors(solution_of(growth(), {"k_next": rule}))
    assert found.units == {"k_next": "unit-free"}
    k, nodes = found.grids["k"], np.linspace(0.25 * STEADY, 1.75 * STEADY, 30)
    after = np.interp(k, nodes, rule(nodes))
    later = np.interp(after, nodes, rule(nodes))
    ratio = BETA * ALPHA * after ** (ALPHA - 1) * (k**ALPHA - after) / (after**ALPHA - later)
    np.testing.assert_allclose(found.errors["k_next"], np.log10(np.abs(1 - ratio)), atol=1e-6)


def household(by: str, *, horizon: int | None = None) -> dp.Model:
    """One household, by next wealth or by consumption."""

    def resources(a: Any, z: Any) -> Any:
        return 1.03 * a + jnp.exp(z)

    shared: dict[str, Any] = {
        "states": {"a": dp.grid(0.0, 10.0, 15, curve=2), "z": dp.rouwenhorst(3, 0.9, 0.1)},
        "discount": 0.96,
        "horizon": horizon,
    }
    if by == "a_next":
        return dp.Model(
            choices={"a_next": dp.interval("a")},
            transition={"a": "a_next"},
            reward=lambda a, z, a_next: dp.crra(resources(a, z) - a_next, 2.0),
            outputs={"eaten": lambda a, z, a_next: resources(a, z) - a_next},
            **shared,
        )
    return dp.Model(
        choices={"c": dp.interval(lambda a, z: resources(a, z) - 10.0, resources)},
        transition={"a": lambda a, z, c: resources(a, z) - c},
        reward=lambda c: dp.crra(c, 2.0),
        **shared,
    )


def saved(a: Any, z: Any, t: int = 0) -> Any:
    """Leave nothing over where there is little: the constraint binds at some nodes."""
    return np.maximum(0.0, 0.97 * a + 0.2 * (np.exp(z) - 1.0) - 0.02 - 0.01 * t)


def consumed(a: Any, z: Any, t: int = 0) -> Any:
    return 1.03 * a + np.exp(z) - saved(a, z, t)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [None, 3])
def test_the_error_is_of_the_policy_and_not_of_what_is_called_the_choice(
    horizon: int | None,
) -> None:
    one = solution_of(household("a_next", horizon=horizon), {"a_next": saved})
    two = solution_of(household("c", horizon=horizon), {"c": consumed})
    first, second = dp.euler_errors(one), dp.euler_errors(two)
    assert first.units == {"a_next": "consumption: eaten"}
    assert second.units == {"c": "consumption: c"}
    x, y = first.errors["a_next"], second.errors["c"]
    np.testing.assert_allclose(x, y, atol=1e-5)
    assert np.isnan(x).any()  # where the constraint binds
    assert np.isfinite(x[:2]).mean() > 0.4
    if horizon is not None:
        assert x.shape[0] == 3
        assert np.isnan(x[2]).all()  # what is left at the end is worth nothing
        assert np.isfinite(x[1]).any()


def test_errors_of_a_household_are_those_of_plain_numpy() -> None:
    solution = solution_of(household("a_next"), {"a_next": saved})
    found = dp.euler_errors(solution, seed=3)
    chain = dp.rouwenhorst(3, 0.9, 0.1)
    z, p = np.asarray(chain.values), np.asarray(chain.transition_matrix)
    nodes = 10.0 * np.linspace(0, 1, 15) ** 2
    a = found.grids["a"]
    for i in range(3):
        after = np.interp(a, nodes, saved(nodes, z[i]))
        marginal = np.zeros(len(a))
        for k in range(3):
            then = np.interp(after, nodes, saved(nodes, z[k]))
            marginal += p[i, k] * (1.03 * after + np.exp(z[k]) - then) ** -2.0
        implied = (0.96 * 1.03 * marginal) ** -0.5
        true = np.log10(np.abs(implied / (1.03 * a + np.exp(z[i]) - after) - 1))
        true[after <= 1e-6] = np.nan
        np.testing.assert_allclose(found.errors["a_next"][:, i], true, atol=1e-5)


@pytest.mark.slow
def test_a_moving_constraint_has_the_multiplier_of_its_end() -> None:
    """Investment that cannot be negative, by next capital or by investment itself."""

    def model(by: str) -> dp.Model:
        shared: dict[str, Any] = {
            "states": {"k": dp.grid(0.5, 4.0, 20), "z": dp.rouwenhorst(2, 0.5, 0.3)},
            "discount": 0.9,
        }
        if by == "k_next":
            return dp.Model(
                choices={"k_next": dp.interval(lambda k: jnp.maximum(0.9 * k, 0.5), 4.0)},
                transition={"k": "k_next"},
                reward=lambda k, z, k_next: jnp.log(jnp.exp(z) * k**0.3 + 0.9 * k - k_next),
                **shared,
            )
        return dp.Model(
            choices={"i": dp.interval(lambda k: jnp.maximum(0.0, 0.5 - 0.9 * k), 4.0)},
            transition={"k": lambda k, i: 0.9 * k + i},
            reward=lambda k, z, i: jnp.log(jnp.exp(z) * k**0.3 - i),
            **shared,
        )

    def invest(k: Any, z: Any) -> Any:
        return np.maximum(np.maximum(0.0, 0.5 - 0.9 * k), 0.1 + 0.3 * z - 0.02 * k)

    one = solution_of(model("k_next"), {"k_next": lambda k, z: 0.9 * k + invest(k, z)})
    two = solution_of(model("i"), {"i": invest})
    x, y = dp.euler_errors(one).errors["k_next"], dp.euler_errors(two).errors["i"]
    known = np.isfinite(x) & np.isfinite(y)
    assert known.mean() > 0.3
    assert (~known).any()
    np.testing.assert_allclose(x[known], y[known], atol=1e-4)


@pytest.mark.slow
def test_a_solved_model_has_small_errors_that_fall_with_the_grid() -> None:
    def made(*, n: int = 20) -> dp.Model:
        return growth(n, concave=True)

    errors = [dp.euler_errors(dp.solve(made, {"n": n})).mean["k_next"] for n in (20, 80)]
    assert errors[1] < errors[0] - 0.5


def test_what_has_no_euler_equation_is_refused() -> None:
    with pytest.raises(dp.UsageError, match="takes a solution"):
        dp.euler_errors(growth())  # type: ignore[arg-type]
    with pytest.raises(dp.ModelError, match="chooses from lists"):
        dp.euler_errors(dp.solve("savings", {"continuous": False, "n_a": 30}))
    static = dp.Model(
        states={"k": dp.grid(0.5, 1.0, 5)},
        choices={"h": dp.interval(0.0, 1.0)},
        transition={"k": "k"},
        reward=lambda k, h: k * h - h**2,
        discount=0.9,
    )
    with pytest.raises(dp.ModelError, match="moves a continuous state"):
        dp.euler_errors(solution_of(static, {"h": lambda k: k / 2}))
