"""dp.solve_many: a point's result depends on nothing but the point, bit for bit."""

import logging

import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.batches.program import program
from dpsolve.solvers.library import growth, savings
from dpsolve.solvers.options import SolveOptions

ARRAYS = ("value", "lower", "upper", "error_bound", "iterations", "residual")


def assert_same(one: dp.Solution, i, other: dp.Solution, j) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(np.asarray(one[name])[i], np.asarray(other[name])[j])
    for choice, index in one.policy_index.items():
        np.testing.assert_array_equal(index[i], other.policy_index[choice][j])


@pytest.mark.parametrize("model", [growth, pytest.param(savings, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_points_do_not_depend_on_their_neighbours(model) -> None:
    sizes = {"n_k": 50} if model is growth else {"n_a": 40, "n_z": 3}
    sizes["continuous"] = False
    rng = np.random.default_rng(1)
    beta = rng.uniform(0.85, 0.97, 70)
    whole = dp.solve_many(model, {"beta": beta, **sizes}, tol=1e-8)
    assert (whole.status == "solved").all()
    order = rng.permutation(70)
    assert_same(dp.solve_many(model, {"beta": beta[order], **sizes}, tol=1e-8),
                np.argsort(order), whole, slice(None))  # fmt: skip
    some = np.array([3, 41, 66])
    assert_same(dp.solve_many(model, {"beta": beta[some], **sizes}, tol=1e-8),
                slice(None), whole, some)  # fmt: skip


@pytest.mark.slow
def test_points_that_fail_leave_the_others_as_they_are() -> None:
    beta = np.linspace(0.9, 0.97, 9)
    clean = dp.solve_many("growth", {"continuous": False, "beta": beta, "n_k": 30}, tol=1e-8)
    broken = beta.copy()
    broken[[2, 5]] = np.nan, 1.2
    mixed = dp.solve_many("growth", {"continuous": False, "beta": broken, "n_k": 30}, tol=1e-8)
    assert mixed.status[2] == mixed.status[5] == "failed"
    assert mixed.message[2] == "parameter 'beta' is NaN"
    assert mixed.message[5]
    assert np.isnan(mixed.value[2]).all()
    assert (mixed.policy_index["k_next"][2] == -1).all()
    good = np.setdiff1d(np.arange(9), [2, 5])
    assert (mixed.status[good] == "solved").all()
    assert_same(mixed, good, clean, good)


@pytest.mark.slow
def test_an_infeasible_state_fails_its_point_only() -> None:
    def factory(need=0.0, *, n=11):
        return dp.Model(
            states={"x": dp.grid(0.0, 1.0, n)},
            choices={"y": "x"},
            transition={"x": "y"},
            feasible=lambda x, y: y + need <= x,
            reward=lambda x, y: x - y,
            discount=0.9,
        )

    many = dp.solve_many(factory, {"need": np.array([0.0, 0.2, 0.0])})
    assert list(many.status) == ["solved", "failed", "solved"]
    assert "x=0 has no feasible choice" in many.message[1]
    np.testing.assert_array_equal(many.value[0], many.value[2])


@pytest.mark.slow
def test_many_agrees_with_one_at_a_time() -> None:
    beta = np.array([0.9, 0.95])
    many = dp.solve_many("growth", {"continuous": False, "beta": beta, "n_k": 40}, tol=1e-8)
    for i, b in enumerate(beta):
        one = dp.solve("growth", {"continuous": False, "beta": b, "n_k": 40}, tol=1e-8)
        assert np.max(np.abs(many.value[i] - one.value)) <= 2e-8


@pytest.mark.slow
def test_neither_values_nor_the_number_of_points_recompile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dpsolve")
    for n in (3, 40, 90):
        dp.solve_many("growth", {"continuous": False, "alpha": np.linspace(0.3, 0.4, n), "n_k": 21})
    with_lanes = program(growth, {"n_k": 21, "continuous": False}, SolveOptions())
    compiled = dict(with_lanes._compiled)
    dp.solve_many("growth", {"continuous": False, "alpha": np.linspace(0.31, 0.39, 7), "n_k": 21})
    assert with_lanes._compiled == compiled != {}


def test_factories_of_plain_arrays_are_served_too() -> None:
    def path(s=0.3, k0=0.2, *, n=5):
        k = [k0]
        for _ in range(n - 1):
            k.append(s * k[-1] ** 0.4 + 0.9 * k[-1])
        import jax.numpy as jnp

        return {"k": (("t",), jnp.stack(k)), "last": k[-1]}

    many = dp.solve_many(path, {"s": np.array([0.2, 0.3, np.nan])})
    assert list(many.status) == ["solved", "solved", "failed"]
    assert many["k"].shape == (3, 5)
    assert many["k"][1, -1] == many["last"][1]
    assert many.to_xarray().k.dims == ("point", "t")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"beta": np.ones(3), "alpha": np.ones(4)}, ["different lengths", "beta: 3", "alpha: 4"]),
        ({"beta": np.ones((2, 2))}, ["(2, 2)", "raveled"]),
        ({"beta": np.ones(0)}, ["empty"]),
        ({"gamma": np.ones(2)}, ["no parameter 'gamma'", "beta, delta, alpha"]),
    ],
)
def test_bad_columns_are_named(params: dict, words: list[str]) -> None:
    with pytest.raises(dp.ModelError) as caught:
        dp.solve_many("growth", params)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.slow
def test_the_layout_is_known_before_anything_is_solved() -> None:
    made = program(growth, {"continuous": False, "n_k": 30}, SolveOptions())
    fixed = {"delta": 0.1, "alpha": 0.35, "z": 1.0}
    layout = made.layout(fixed, ["beta"])
    assert layout.dims == {"k": 30}
    assert "k" not in layout.coords  # the grid moves with beta
    assert layout.variables["grid_k"].dims == ("k",)
    assert list(layout.select(None)) == ["value", "lower", "upper", "policy_k_next", "grid_k"]
    assert "output_consumption" in layout.select(["consumption"])
    with pytest.raises(dp.UsageError, match="Did you mean 'consumption'"):
        layout.select(["consumtion"])
    batch = made.run({**{k: np.full(2, v) for k, v in fixed.items()}, "beta": [0.9, 0.95]})
    for name, variable in layout.variables.items():
        assert batch.variables[name].shape[1:] == variable.shape
        assert str(batch.variables[name].dtype) == variable.dtype
    still = program(savings, {"continuous": False, "n_a": 30, "n_z": 3}, SolveOptions()).layout(
        {"beta": 0.9, "r": 0.03, "rho": 0.9, "sigma": 0.1}, ["gamma"]
    )
    assert set(still.coords) == {"a", "z"}
