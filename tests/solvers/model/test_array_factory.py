"""Factories that return arrays: what they may say of a point, and what a batch of them takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpsolve as dp
from dpsolve.sharding.batches.program import program
from dpsolve.solvers.library import BUILTIN
from dpsolve.solvers.model.factory_signature import split


def newton(a: float = 2.0, *, steps: int = 3) -> dict[str, Any]:
    """The square root of a, with a bound on its error."""
    x = jax.lax.fori_loop(0, steps, lambda _, x: (x + a / x) / 2, jnp.maximum(a, 1.0))
    return {
        "root": x,
        "error_bound": jnp.abs(x * x - a) / x,
        "iterations": steps,
        "require": {"a is the square of nothing": a > 0, "a is too large": a < 100},
    }


def test_a_factory_may_state_its_error() -> None:
    good = dp.solve(newton, {"steps": 6}, tol=1e-12)
    assert (good.status, good.message, int(good.iterations)) == ("solved", "", 6)
    assert float(good["root"]) == pytest.approx(2**0.5, rel=1e-14)
    early = dp.solve(newton, {"steps": 2}, tol=1e-12)
    assert early.status == "inexact"
    assert "above tol" in early.message
    assert abs(float(early["root"]) - 2**0.5) <= float(early.error_bound)
    assert dp.solve(newton, {"steps": 2}, tol=0.1).status == "solved"


def test_a_factory_that_states_no_error_is_said_to_certify_nothing() -> None:
    def product(a: float = 2.0) -> dict[str, Any]:
        return {"price": 3.0 * a}

    told = "nothing is certified: the factory states no error_bound of its arrays"
    found = dp.solve(product)
    assert (found.status, found.message, np.isnan(found.error_bound)) == ("solved", told, True)
    assert "solved, nothing is certified" in repr(found)
    assert jax.jit(lambda a: dp.solve(product, {"a": a}))(1.0).message == told
    many = dp.solve_many(product, {"a": np.array([1.0, np.nan])})
    assert list(many.message) == [told, "parameter 'a' is NaN"]
    assert dp.verify(found).ok
    assert "error at most" in repr(dp.solve(newton, {"steps": 6}))


def test_a_factory_may_refuse_parameters() -> None:
    with pytest.raises(dp.ModelError, match="a is the square of nothing"):
        dp.solve(newton, {"a": -1.0})
    with pytest.raises(dp.ModelError, match="a is too large"):
        dp.check(newton, {"a": 100.0})
    many = dp.solve_many(newton, {"a": np.array([4.0, -4.0, 400.0, np.nan]), "steps": 30})
    assert list(many.status) == ["solved", "failed", "failed", "failed"]
    assert list(many.message[1:3]) == ["a is the square of nothing", "a is too large"]
    assert "NaN" in many.message[3]
    np.testing.assert_array_equal(np.isnan(many["root"]), [False, True, True, True])
    assert many["root"][0] == pytest.approx(2.0, rel=1e-14)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({"x": (("t", "u"), jnp.zeros(3))}, "has 1 dimensions .* 2 names"),
        ({"x": 1.0, "error_bound": jnp.zeros(2)}, "'error_bound' of shape"),
        ({"x": 1.0, "status": 2.0}, "an array 'status'"),
        ({"x": 1.0, "require": True}, "a dict of sentences"),
        ({"x": 1.0, "require": {"so": jnp.zeros(2) > 0}}, "not one truth value"),
        (3.0, "returns float; a factory returns"),
    ],
)
def test_what_a_dict_cannot_hold_is_told(made: Any, text: str) -> None:
    def factory(a: float = 1.0) -> Any:
        return made

    with pytest.raises(dp.ModelError, match=text):
        dp.solve(factory)


@pytest.mark.parametrize("look", [dp.check, dp.describe])
def test_what_is_no_model_is_told_by_every_look(look: Any) -> None:
    def factory(a: float = 1.0) -> Any:
        return [a]

    with pytest.raises(dp.ModelError, match=r"factory returns list; a factory returns dp\.Model"):
        look(factory)


def test_a_grid_that_nothing_moves_is_a_coordinate() -> None:
    def line(a: float = 1.0, b: float = 2.0) -> dict[str, Any]:
        x = jnp.linspace(0.0, b, 4)
        return {"y": (("x",), a * x), "grid_x": (("x",), x)}

    given = program(line, {}, dp.SolveOptions()).layout({"b": 2.0}, ["a"])
    np.testing.assert_allclose(given.coords["x"], [0, 2 / 3, 4 / 3, 2])
    assert set(given.variables) == {"y"}
    moved = program(line, {}, dp.SolveOptions()).layout({"a": 1.0}, ["b"])
    assert "x" not in moved.coords
    assert set(moved.variables) == {"y", "grid_x"}


def test_nothing_is_computed_to_describe_or_to_plan() -> None:
    def endless(a: float = 1.0) -> dict[str, Any]:
        def shout(x: Any) -> Any:
            raise AssertionError("computed")

        x = jax.pure_callback(shout, jax.ShapeDtypeStruct((), jnp.float64), a,
                              vmap_method="sequential")  # fmt: skip
        return {"x": (("t",), x + jnp.zeros(3)), "grid_t": (("t",), jnp.arange(3.0))}

    assert "over t (3)" in str(dp.describe(endless))
    layout = program(endless, {}, dp.SolveOptions()).layout({}, ["a"])
    np.testing.assert_array_equal(layout.coords["t"], [0.0, 1.0, 2.0])


def test_a_batch_is_as_wide_as_memory_allows() -> None:
    def large(a: float = 1.0, *, n: int = 10**6) -> dict[str, Any]:
        return {"sum": jnp.sum(jnp.sort(a * jnp.arange(float(n))))}

    def shared(a: float = 1.0) -> dict[str, Any]:
        return {"sum": a * jnp.sum(jnp.sort(jnp.arange(1e6)))}

    one = program(large, {"n": 10**6}, dp.SolveOptions())
    assert one.lanes == 1
    assert 8e6 <= one.footprint.bytes <= 1e8
    assert program(large, {"n": 10**3}, dp.SolveOptions()).lanes > 16
    assert program(shared, {}, dp.SolveOptions()).lanes == 4096


@pytest.mark.parametrize(
    ("name", "size", "value"),
    [
        ("solow", "periods", -1),
        ("ascent", "steps", 2.5),
        ("surface", "n", 0),
        ("call_option", "paths", 1e6),
        ("firm_quality", "periods", 0),
    ],
)
def test_sizes_of_built_ins_are_whole_numbers(name: str, size: str, value: Any) -> None:
    with pytest.raises(dp.UsageError, match=f"{size}={value}; it is a whole number, at least"):
        dp.solve(name, {size: value})


@pytest.mark.parametrize("name", ["solow", "firm_quality", "call_option", "ascent", "surface"])
def test_no_batch_of_a_built_in_could_hang(name: str) -> None:
    _, sizes = split(BUILTIN[name])
    assert not program(BUILTIN[name], sizes, dp.SolveOptions()).footprint.alone
