"""dp.solve: one program per set of sizes, inside other traces, statuses with a sentence."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp


@pytest.mark.slow
def test_a_changed_value_never_recompiles_and_a_changed_size_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fresh(beta=0.9, *, n=11):
        return dp.Model(
            states={"x": dp.grid(0.0, 1.0, n)},
            choices={"y": "x"},
            transition={"x": "y"},
            feasible=lambda x, y: y <= x,
            reward=lambda x, y: jnp.sqrt(x - y),
            discount=beta,
        )

    caplog.set_level(logging.INFO, "dpsolve")
    for beta in (0.8, 0.85, 0.9):
        dp.solve(fresh, {"beta": beta})
    assert caplog.text.count("compiling fresh(n=11)") == 1
    dp.solve(fresh, {"n": 12})
    assert caplog.text.count("compiling fresh") == 2


@pytest.mark.slow
def test_a_ready_model_gives_the_factory_s_answer() -> None:
    from dpsolve.solvers.library import growth

    ready = dp.solve(growth(beta=0.93, n_k=60, continuous=False), tol=1e-8)
    made = dp.solve(growth, {"continuous": False, "beta": 0.93, "n_k": 60}, tol=1e-8)
    assert np.max(np.abs(ready.value - made.value)) <= 2e-8


@pytest.mark.slow
def test_solve_composes_with_jit_and_vmap() -> None:
    betas = jnp.array([0.9, 0.95])

    def top(beta):
        return dp.solve("growth", {"continuous": False, "beta": beta, "n_k": 40}, tol=1e-7).value[
            -1
        ]

    plain = [float(top(b)) for b in betas]
    np.testing.assert_allclose(jax.jit(top)(betas[0]), plain[0], rtol=0, atol=2e-7)
    np.testing.assert_allclose(jax.vmap(top)(betas), plain, rtol=0, atol=2e-7)


@pytest.mark.slow
def test_a_solution_passes_through_jit_as_a_pytree() -> None:
    solution = jax.jit(lambda b: dp.solve("cake", {"beta": b, "n_x": 20}))(0.9)
    assert solution.status == "solved"
    assert solution.message == ""
    assert solution.policy["x_next"].shape == (20,)
    short = jax.jit(lambda b: dp.solve("cake", {"beta": b}, method="vi", max_iter=3))(0.9)
    assert "max_iter" in short.message
    assert "max_iter" in str(short.to_xarray().message.item())


@pytest.mark.slow
def test_blocks_of_any_size_give_the_same_solution() -> None:
    whole = dp.solve("savings", {"continuous": False, "n_a": 50, "n_z": 3}, tol=1e-8)
    for block in (1, 7, 64):
        part = dp.solve(
            "savings", {"continuous": False, "n_a": 50, "n_z": 3}, tol=1e-8, block=block
        )
        assert np.max(np.abs(part.value - whole.value)) <= 2e-8
        np.testing.assert_array_equal(part.policy_index["a_next"], whole.policy_index["a_next"])


def test_a_nan_reward_is_a_status_that_names_the_place() -> None:
    model = dp.Model(
        states={"k": dp.grid(0.0, 1.0, 3)},
        choices={"c": [0.0, 1.0]},
        transition={"k": "k"},
        reward=lambda k, c: jnp.where((k > 0.4) & (k < 0.6) & (c > 0), jnp.nan, k),
        discount=0.9,
    )
    solution = dp.solve(model)
    assert solution.status == "failed"
    assert "k=0.5" in solution.message
    assert "c=1" in solution.message
    assert np.isnan(solution.value).all()


def test_too_few_sweeps_is_a_status() -> None:
    solution = dp.solve("savings", {"continuous": False}, method="vi", max_iter=5)
    assert solution.status == "inexact"
    assert "max_iter" in solution.message
    assert int(solution.iterations) == 5
    assert np.all(solution.lower <= solution.upper)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "params", "options", "words"),
    [
        ("growth", {"bta": 0.9}, {}, ["bta", "Did you mean 'beta'"]),
        ("grwth", {}, {}, ["grwth", "Did you mean 'growth'"]),
        ("growth", {"beta": 1.0}, {}, ["discount is 1", "below 1"]),
        ("growth", {"beta": jnp.ones(3)}, {}, ["shape (3,)", "solve_many"]),
        ("growth", {"n_k": [3]}, {}, ["n_k", "one number, not an array"]),
        ("growth", {}, {"tol": "1e-8"}, ["tol='1e-8'", "not a number"]),
        ("growth", {}, {"tol": 0.0}, ["tol=0.0"]),
        ("growth", {}, {"method": "howrd"}, ["howrd", "Did you mean 'howard'"]),
        ("growth", {}, {"maxiter": 3}, ["maxiter", "Did you mean 'max_iter'"]),
    ],
)
def test_bad_arguments_are_named(model: str, params: dict, options: dict, words: list) -> None:
    with pytest.raises(dp.DpsolveError) as caught:
        dp.solve(model, params, **options)
    for word in words:
        assert word in str(caught.value)


def test_results_are_labelled() -> None:
    data = dp.solve("savings", {"continuous": False, "n_a": 30, "n_z": 3}).to_xarray()
    assert data.value.dims == ("a", "z")
    assert set(data.coords) >= {"a", "z", "beta"}
    assert data.policy_a_next.sel(a=20.0).shape == (3,)
    assert str(data.status.item()) == "solved"


def test_a_size_of_the_wrong_kind_is_no_key_of_the_right_one() -> None:
    with pytest.raises(dp.UsageError, match=r"paths=1000\.0"):
        dp.solve("call_option", {"paths": 1000.0, "n": 2})
    assert dp.solve("call_option", {"paths": 1000, "n": 2}).status == "solved"
