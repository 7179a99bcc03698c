"""dp.load: a stored point as a solution, found exactly, and never solved again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dpsolve as dp
from dpsolve.hpc.store.load import find_point
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve

from ..conftest import run

Make = Callable[..., Sweep]
OWN = '''
import dpsolve as dp
import jax.numpy as jnp

def shop(price=2.0, *, most=5):
    """Stock between two rooms, with a demand that nobody knows."""
    return dp.Model(
        states={"stock": dp.integers(0, most), "mood": dp.markov([0, 1], [[.9, .1], [.2, .8]])},
        choices={"order": dp.integers(0, 2), "extra": dp.grid(0.0, 0.3, 4)},
        shocks={"demand": dp.iid([0, 1, 2], [.3, .4, .3])},
        transition={
            "stock": lambda stock, order, demand: jnp.clip(stock + order - demand, 0, most)
        },
        reward=lambda stock, mood, order, extra, demand: (price + mood * extra)
        * jnp.minimum(stock, demand) - order - extra**2,
        outputs={"sold": lambda stock, demand: jnp.minimum(stock, demand)},
        discount=0.9,
    )
'''
LIFE = """
import dpsolve as dp
import jax.numpy as jnp

def life(beta=0.95, *, n=8, T=4):
    return dp.Model(
        states={"a": dp.grid(0.0, 2.0, n)}, choices={"next": "a"}, transition={"a": "next"},
        feasible=lambda a, next: a + 1 > next, reward=lambda a, next, t: jnp.log(a + 1 - next) + t,
        outputs={"c": lambda a, next: a + 1 - next}, discount=beta, horizon=T,
    )
"""


def assert_same(one: dp.Solution, other: dp.Solution, names: set[str] | None = None) -> None:
    """Every array alike, to rounding: a store's program solves several points side by side."""
    assert names is None or names <= one.arrays.keys()
    for name, x in one.arrays.items():
        if name in ("residual", "error_bound", "iterations"):
            continue
        y = np.asarray(other.arrays[name])
        assert (np.shape(x), np.asarray(x).dtype) == (y.shape, y.dtype), name
        if y.dtype.kind == "f":
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Path]:
    """Sweep the shop into a store, and return its path."""
    (tmp_path / "shop.py").write_text(OWN, encoding="utf-8")

    def make(**tables: Any) -> Path:
        raw = {"model": f"{tmp_path / 'shop.py'}:shop", "solve": {"tol": 1e-8}} | tables
        raw["store"] = {"path": str(tmp_path / "shop.zarr")} | tables.get("store", {})
        run(sweep_from(raw))
        return tmp_path / "shop.zarr"

    return make


# -- what is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keep", [["policy"], ["policy_index"], ["value", "lower", "upper", "policy", "sold"]]
)
@pytest.mark.slow
def test_a_loaded_point_is_what_solve_returns(shop: Callable[..., Path], keep: list[str]) -> None:
    path = shop(grid={"price": [1.5, 2.0]}, store={"keep": keep})
    loaded = dp.load(path, price=1.5)
    solved = dp.solve(resolve(f"{path.parent / 'shop.py'}:shop").load(), {"price": 1.5}, tol=1e-8)
    names = {"policy_index_order", "policy_index_extra", "policy_extra", "output_sold",
             "grid_stock", "grid_mood"}  # fmt: skip
    assert_same(loaded, solved, names)
    assert loaded.status == "solved"
    assert loaded.message == ""
    assert loaded.error_bound <= 1e-8
    assert float(loaded.parameters["price"]) == 1.5
    if "value" in keep:
        assert loaded.to_xarray().equals(loaded.to_xarray())
        assert np.abs(loaded.value - solved.value).max() <= 2e-8
        assert dp.verify(loaded).ok
    else:
        with pytest.raises(dp.UsageError, match=r"has no value: .*did not keep it"):
            _ = loaded.value
    assert set(loaded.to_xarray()) >= {"policy_order", "output_sold"}


@pytest.mark.slow
def test_agents_and_distributions_follow_the_stored_policy(shop: Callable[..., Path]) -> None:
    path = shop(grid={"price": [1.5, 2.0]}, store={"keep": ["policy"]})
    (path.parent / "shop.py").unlink()  # the store explains itself
    loaded = dp.load(path, price=2.0)
    mu = dp.stationary(loaded)
    found = dp.simulate(loaded, 0, agents=2000, periods=50).moments(["mean_stock", "mean_sold"])
    exact = mu.moments(["mean_stock", "mean_sold"])
    for name, (value, error) in found.items():
        assert abs(value - float(exact[name])) <= 4 * error + 1e-12


@pytest.mark.slow
def test_a_stored_policy_is_used_as_it_is(shop: Callable[..., Path], monkeypatch: Any) -> None:
    """Were it solved again, the changed file on disk or the solver would show."""
    path = shop(grid={"price": [2.0]}, store={"keep": ["policy"]})
    import dpsolve.solvers.methods.discounted as iteration

    monkeypatch.setattr(iteration, "begin", None)
    (path.parent / "shop.py").write_text("raise SystemExit", encoding="utf-8")
    loaded = dp.load(path)
    ds = dp.simulate(loaded, 0, agents=5, periods=5, initial={"stock": 0, "mood": 0}).to_xarray()
    order = np.asarray(loaded.policy["order"])
    np.testing.assert_array_equal(ds.order, order[ds.stock.values, ds.mood.values])


@pytest.mark.slow
def test_a_finite_horizon_comes_back_with_its_periods(tmp_path: Path) -> None:
    (tmp_path / "life.py").write_text(LIFE, encoding="utf-8")
    path = tmp_path / "life.zarr"
    run(sweep_from({"model": f"{tmp_path / 'life.py'}:life", "grid": {"beta": [0.9, 0.95]},
                    "store": {"path": str(path), "keep": ["policy"]}}))  # fmt: skip
    loaded = dp.load(path, beta=0.9)
    solved = dp.solve(resolve(f"{tmp_path / 'life.py'}:life").load(), {"beta": 0.9})
    assert_same(loaded, solved, {"policy_index_next", "output_c"})
    size: dict[str, Any] = {"agents": 2, "periods": 4, "initial": {"a": 0.6}}
    one, other = (dp.simulate(x, 0, **size).to_xarray() for x in (loaded, solved))
    assert one.equals(other)


def test_a_factory_s_own_arrays_come_back(toy_sweep: Make) -> None:
    sweep = toy_sweep()
    run(sweep)
    loaded = dp.load(sweep.store.path, a=2.0)
    assert float(loaded["price"]) == 4.0
    np.testing.assert_array_equal(loaded["path"], [2.0, 4.0, 6.0])
    assert loaded.to_xarray()["path"].dims == ("t",)


# -- which point ----------------------------------------------------------------------------------


@pytest.fixture
def grid(toy_sweep: Make) -> Path:
    """Points that all differ by their price a * b."""
    sweep = toy_sweep(grid={"a": {"from": 0.9, "to": 0.99, "points": 10}, "b": [1.0, 10.0, 100.0]})
    run(sweep)
    return Path(sweep.store.path)


def test_every_point_is_found_by_its_parameters(grid: Path) -> None:
    ds = dp.open(grid)
    for a in ds.a.values:
        for b in ds.b.values:
            assert float(dp.load(grid, a=a, b=b)["price"]) == float(ds.price.sel(a=a, b=b))
    typed = dp.load(grid, a=0.93 + 1e-15, b=np.float32(10))
    assert float(typed["price"]) == pytest.approx(9.3)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"a": 0.94}, r"3 points with a=0.94: give b = 1, 10, 100$"),
        ({}, r"30 points .*give a = 0.9, .*\(10 values\); b = 1, 10, 100"),
        ({"a": 0.9451, "b": 1.0}, r"no such point: a=0.9451.*The nearest is 0.95\."),
        ({"a": 0.94, "b": 2.0}, r"b=2.0. It has b = 1, 10, 100"),
        ({"a": 0.94, "b": 1.0, "n": 4}, r"n=4. It has n = 3"),
        ({"aa": 1.0}, r"no parameter 'aa'. Did you mean 'a'"),
        ({"a": "0.94"}, r"a='0.94'; it is one number"),
        ({"a": [0.94]}, r"it is one number"),
        ({"point": 3}, r"a grid of a, b, and its points have no numbers"),
    ],
)
def test_what_is_no_point_is_refused_with_what_there_is(
    grid: Path, given: dict[str, Any], text: str
) -> None:
    with pytest.raises(dp.UsageError, match=text):
        dp.load(grid, **given)


def test_points_in_a_row_are_found_by_number_or_by_value(toy_sweep: Make) -> None:
    sweep = toy_sweep(zip={"a": [1.0, 2.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0, 6.0]})
    run(sweep)
    path = sweep.store.path
    assert float(dp.load(path, point=2)["price"]) == 12.0
    assert float(dp.load(path, a=2.0, b=5.0)["price"]) == 10.0
    assert float(dp.load(path, a=3.0)["price"]) == 18.0
    with pytest.raises(dp.UsageError, match=r"2 points with a=2.0: give point = 1, 2, or b"):
        dp.load(path, a=2.0)
    with pytest.raises(dp.UsageError, match=r"but none with a=1.0, b=6.0"):
        dp.load(path, a=1.0, b=6.0)
    with pytest.raises(dp.UsageError, match=r"point=4. It has point = 0, 1, 2, 3"):
        dp.load(path, point=4)
    with pytest.raises(dp.UsageError, match="point=True"):
        dp.load(path, point=True)


def test_sizes_are_told_like_parameters(toy_sweep: Make) -> None:
    sweep = toy_sweep(grid={"a": [1.0, 2.0], "n": [2, 5]})
    run(sweep)
    assert dp.load(sweep.store.path, a=2.0, n=5)["path"].shape == (5,)
    with pytest.raises(dp.UsageError, match=r"2 points with a=2.0: give n = 2, 5"):
        dp.load(sweep.store.path, a=2.0)


def test_a_single_point_needs_no_name(toy_sweep: Make) -> None:
    sweep = toy_sweep(grid={"a": [1.5]})
    run(sweep)
    assert float(dp.load(sweep.store.path)["price"]) == 3.0


# -- what cannot be loaded ------------------------------------------------------------------------


@pytest.mark.slow
def test_pending_and_failed_points_say_so(tmp_path: Path, cake: Make) -> None:
    sweep = cake(grid={"beta": [0.5, 1.5, 0.9]}, store={"points_per_task": 1})
    run(sweep)
    path = Path(sweep.store.path)
    with pytest.raises(dp.StoreError, match=r"beta=1.5 failed: .*discount"):
        dp.load(path, beta=1.5)
    stored, index = find_point(open_store(path), None, {"beta": 0.9})
    task = next(t for t in stored.tasks if t.start == index)
    stored.file("status", task).unlink()
    with pytest.raises(dp.StoreError, match=r"beta=0.9 is not computed yet.*dpsolve resume"):
        dp.load(path, beta=0.9)


@pytest.mark.slow
def test_without_a_policy_nothing_is_made_up(cake: Make) -> None:
    sweep = cake(grid={"beta": [0.9]}, store={"keep": ["value"]})
    run(sweep)
    with pytest.raises(dp.UsageError, match=r"has no policy: the store kept neither.*keep = "):
        dp.load(sweep.store.path)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dp.StoreError, match="no store at"):
        dp.load(tmp_path / "nothing.zarr", beta=0.9)


def test_damage_is_named(toy_sweep: Make) -> None:
    sweep = toy_sweep()
    run(sweep)
    stored = open_store(sweep.store.path).buckets[0]
    stored.file("price", stored.tasks[1]).write_bytes(b"nonsense")
    with pytest.raises(dp.StoreError, match=r"price of the point a=2 cannot be read.*verify"):
        dp.load(sweep.store.path, a=2.0)


@pytest.mark.slow
def test_a_policy_off_its_grid_is_refused(shop: Callable[..., Path]) -> None:
    """As when the model that is built here has another grid than the one that was stored."""
    import zarr

    path = shop(grid={"price": [2.0]}, store={"keep": ["policy"]})
    group = zarr.open_group(path, mode="r+")
    array: Any = group["policy_extra"]
    array[...] = np.where(array[...] == 0.0, 0.05, array[...])
    with pytest.raises(dp.StoreError, match=r"policy_extra = 0.05, which is no value"):
        dp.load(path)
