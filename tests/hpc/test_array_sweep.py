"""Parameters that are arrays, in a sweep: from files, into a store, and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.store.store import open_store

from .conftest import reseal

MODEL = '''"""A stock that is sold at prices of its own."""
import jax.numpy as jnp

import dpsolve as dp


def shop(beta=0.9, prices=dp.array("k", fill=1.0), tax=jnp.zeros(3), *, n=6):
    return dp.Model(
        states={"k": dp.integers(0, n - 1)},
        choices={"k_next": "k"},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k_next <= k,
        reward=lambda k, k_next: prices[k] * (k - k_next) - 0.05 * (k - k_next) ** 2 - tax[1],
        discount=beta,
    )
'''
FILE = """model = "model.py:shop"
[fixed]
tax = "tax.npy"
[grid]
beta = [0.9, 0.95]
[table]
file = "schedules.npz"
columns = { prices = "schedule" }
[solve]
verify = 0
[store]
path = "s.zarr"
points_per_task = 2
"""
SCHEDULES = 1 + np.arange(18).reshape(3, 6) / 18


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "s.toml").write_text(FILE, encoding="utf-8")
    np.savez(folder / "schedules.npz", schedule=SCHEDULES)
    np.save(folder / "tax.npy", np.array([0.0, 0.2, 0.0]))
    return folder


def call(*args: str) -> str:
    result = CliRunner().invoke(cli, args, catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


@pytest.fixture(scope="module")
def store(here: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert call("sweep", "s.toml").startswith("0 ")
    return here / "s.zarr"


def by_hand(prices: Any, beta: float, tax: float) -> Any:
    """Return the value of a shop, from the empty one on."""
    value = np.zeros(len(prices))
    for k in range(1, len(prices)):
        sold = np.arange(1, k + 1)
        value[k] = max((prices[k] * sold - 0.05 * sold**2 + beta * value[k - sold]).max(), 0.0)
    return value - tax / (1 - beta)


def test_a_store_holds_every_array_with_its_dimensions(store: Path) -> None:
    for ds in (dp.open(store), xr.open_zarr(store)):
        assert ds.prices.dims == ("point", "k")
        assert ds.tax.dims == ("tax_index",)
        assert {"prices", "tax"} <= set(ds.coords)
        assert ds.prices.values.tolist() == SCHEDULES.tolist()
        for beta in (0.9, 0.95):
            for point in range(3):
                found = ds.value.sel(beta=beta, point=point).values
                assert np.abs(found - by_hand(SCHEDULES[point], beta, 0.2)).max() < 1e-11


def test_a_point_is_loaded_and_verified_with_its_arrays(store: Path) -> None:
    found = dp.load(store, beta=0.95, point=1)
    assert found.parameters["prices"].tolist() == SCHEDULES[1].tolist()
    assert found.parameters["tax"].tolist() == [0.0, 0.2, 0.0]
    assert np.abs(dp.solve(found.problem.factory, found.parameters).value - found.value).max() == 0
    assert dp.verify(store).ok
    with pytest.raises(dp.UsageError, match="'prices' is an array, and no point is told by one"):
        dp.load(store, prices=SCHEDULES[1])
    with pytest.raises(dp.UsageError, match=r"3 points with beta=0.95: give point"):
        dp.load(store, beta=0.95)


def test_an_altered_array_is_no_longer_what_was_swept(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s.zarr"
    for name in ("prices", "tax"):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        stored = open_store(copy).buckets[0]
        array = np.array(stored.bucket.fixed["tax"] if name == "tax" else SCHEDULES)
        array.flat[1] += 0.01
        import zarr

        zarr.open_group(copy, mode="r+")[name][...] = array
        reseal(copy)  # as its owner could
        found = dp.verify(copy, trust=True)
        assert not found.ok
        assert f"the parameter {name}: number" in str(found)


def test_the_same_call_resumes_and_another_array_is_refused(
    here: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    assert "every point was committed before" in call("sweep", "s.toml")
    changed = SCHEDULES.copy()
    changed[2, 5] += 0.01
    np.savez("other.npz", schedule=changed)
    (here / "o.toml").write_text(FILE.replace("schedules.npz", "other.npz"), encoding="utf-8")
    refused = call("sweep", "o.toml")
    assert refused.startswith("3 ")
    assert "parameter prices: the store has 18 values" in refused


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({"zip": {"prices": SCHEDULES[:, :5]}}, r"as \(5,\) at each of 3 points.*\(6,\): 6 of k"),
        ({"grid": {"prices": [1.0, 2.0]}}, r"an array \(k\), and no axis of numbers.*\[table\]"),
        ({"fixed": {"prices": [1.0, 2.0]}}, r"shape \(2,\), and its shape is \(6,\)"),
        ({"fixed": {"prices": SCHEDULES}}, "and not of 2 axes: its entries in brackets"),
        ({"fixed": {"tax": [0.0, float("nan"), 0.0]}}, r"its entry \[1\] is NaN"),
        ({"fixed": {"tax": "none.npy"}}, "there is no such file"),
        ({"fixed": {"beta": [0.9, 0.8]}, "grid": {"n": [5, 6]}}, "one value is expected"),
        ({"zip": {"beta": [[0.9], [0.8]]}}, "'beta' takes one number a point"),
        ({"zip": {"prices": [[1.0], [1.0, 2.0]]}}, "its lists have different lengths"),
        ({"table": "tax.npy"}, r"an .npy file names no parameter"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_there_is_a_store(
    tables: dict[str, Any], text: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    if not {"zip", "grid", "table"} & tables.keys():
        tables = tables | {"grid": {"beta": [0.9]}}
    with pytest.raises(dp.UsageError, match=text):
        dp.sweep("model.py:shop", store="none.zarr", quiet=True, **tables)
    assert not (here / "none.zarr").exists()
