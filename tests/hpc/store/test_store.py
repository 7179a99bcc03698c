"""What is stored is what xarray shows, with where it comes from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import dpsolve
from dpsolve import StoreError
from dpsolve.hpc.store.open import open as dp_open
from dpsolve.hpc.store.provenance import _git_commit
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve

from ..conftest import BETAS, Listener, assert_equal_stores, run


def test_a_store_opens_labelled_and_without_a_warning(
    cake: Callable[..., Sweep], fresh_python: Callable[[str], str]
) -> None:
    sweep = cake()
    run(sweep, command="dpsolve sweep cake")
    code = f"import xarray; ds = xarray.open_zarr({sweep.store.path!r}); print(ds.load())"
    assert "Dimensions" in fresh_python(code)
    ds = xr.open_zarr(sweep.store.path)
    assert ds["value"].dims == ("beta", "x")
    assert {*ds.data_vars} == {
        "value", "lower", "upper", "policy_x_next",
        "status", "message", "residual", "error_bound", "iterations", "seconds",
    }  # fmt: skip
    np.testing.assert_array_equal(ds["beta"], BETAS)
    np.testing.assert_allclose(ds["x"], np.linspace(0.1, 1.0, 12))
    point = ds.sel(beta=0.95).load()
    assert point["status"].item() == "solved"
    assert point["error_bound"] <= 1e-8
    assert (point["lower"] <= point["value"]).all()
    assert (point["value"] <= point["upper"]).all()
    assert ds["value"].attrs["long_name"] == "value function"
    assert ds["seconds"].attrs["units"] == "s"
    assert dp_open(sweep.store.path).identical(ds)


def test_values_are_those_of_a_single_solve(cake: Callable[..., Sweep]) -> None:
    sweep = cake()
    run(sweep)
    ds = xr.open_zarr(sweep.store.path)
    for beta in BETAS:
        alone = dpsolve.solve("cake", {"beta": beta, "n_x": 12}, tol=1e-8)
        np.testing.assert_allclose(ds["value"].sel(beta=beta), alone.value, atol=2e-8)
        np.testing.assert_array_equal(ds["policy_x_next"].sel(beta=beta), alone.policy["x_next"])


def test_points_in_a_row_keep_their_parameters_as_coordinates(
    toy_sweep: Callable[..., Sweep],
) -> None:
    sweep = toy_sweep(zip={"a": [1.0, 2.0, 3.0], "b": [5.0, 7.0, 11.0]})
    run(sweep)
    ds = xr.open_zarr(sweep.store.path)
    assert ds["price"].dims == ("point",)
    assert {"a", "b", "point"} <= {*ds["price"].coords}
    np.testing.assert_array_equal(ds["price"], [5.0, 14.0, 33.0])
    np.testing.assert_array_equal(ds["path"].isel(point=1), [2.0, 9.0, 16.0])
    opened = dp_open(sweep.store.path)
    assert opened.identical(ds)
    assert opened["price"].where(opened["b"] == 7.0, drop=True)["a"].item() == 2.0


@pytest.mark.slow
def test_a_grid_that_depends_on_parameters_is_kept_per_point(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    raw = {
        "model": "growth",
        "fixed": {"continuous": False, "n_k": 12},
        "grid": {"beta": [0.9, 0.95]},
    }
    run(sweep_from(raw | {"store": {"path": path, "keep": ["value"]}}))
    ds = xr.open_zarr(path)
    assert ds["grid_k"].dims == ("beta", "k")
    assert "k" not in ds.coords
    assert "grid_k" in ds["value"].coords
    k_ss = (0.35 / (1 / 0.95 - 1 + 0.1)) ** (1 / 0.65)
    np.testing.assert_allclose(ds["grid_k"].sel(beta=0.95)[[0, -1]], [0.5 * k_ss, 2 * k_ss])
    assert {*ds.data_vars} & {"lower", "upper", "policy_k_next"} == set()


@pytest.mark.slow
def test_every_set_of_sizes_is_a_group(
    toy_sweep: Callable[..., Sweep], fresh_python: Callable[[str], str]
) -> None:
    sweep = toy_sweep(grid={"n": [2, 4], "a": [1.0, 2.0]})
    run(sweep)
    path = sweep.store.path
    tree = dp_open(path)
    assert isinstance(tree, xr.DataTree)
    assert {*tree.children} == {"n=2", "n=4"}
    shown = fresh_python(f"""
import xarray
for group in ("n=2", "n=4"):
    print(xarray.open_zarr({path!r}, group=group).load().sizes["t"])
print({{*xarray.open_datatree({path!r}, engine="zarr").children}} == {{"n=2", "n=4"}})
""")
    assert shown.split() == ["2", "4", "True"]
    for group, length in (("n=2", 2), ("n=4", 4)):
        expected = np.add.outer([1.0, 2.0], 2.0 * np.arange(length))
        np.testing.assert_array_equal(tree[group]["path"], expected)


def test_groups_and_arrays_keep_the_order_of_the_sweep(toy_sweep: Callable[..., Sweep]) -> None:
    """Tasks are numbered by it, and zarr's consolidated metadata are sorted by name."""
    sweep = toy_sweep(grid={"n": [10, 2, 4], "a": [1.0]})
    run(sweep)
    store = open_store(sweep.store.path)
    assert [bucket.bucket.group for bucket in store.buckets] == ["n=10", "n=2", "n=4"]
    records = ["message", "residual", "error_bound", "iterations", "seconds", "status"]
    for bucket in store.buckets:
        assert [*bucket.results] == ["price", "path", *records]
    tree = dp_open(sweep.store.path)
    assert isinstance(tree, xr.DataTree)
    assert [*tree["n=2"].data_vars] == ["price", "path", *records]


def test_one_file_for_each_variable_of_each_task(cake: Callable[..., Sweep]) -> None:
    sweep = cake()
    run(sweep)
    names = sorted(p.name for p in (Path(sweep.store.path) / "value").iterdir())
    assert names == ["c.0.0", "c.1.0", "c.2.0", "zarr.json"]
    value = zarr.open_group(sweep.store.path, mode="r")["value"]
    assert value.shards == (2, 12)
    assert not [*Path(sweep.store.path).rglob("*.partial")]


# --- where the numbers come from -----------------------------------------------------------------


def test_attributes_tell_the_origin_and_survive_a_change_of_format(
    cake: Callable[..., Sweep],
) -> None:
    sweep = cake()
    run(sweep, command="dpsolve sweep cake.toml")
    attributes = xr.open_zarr(sweep.store.path).attrs
    assert json.loads(attributes["sweep"]) == sweep.as_dict()
    source = resolve("cake")
    assert attributes["model_source"] == source.source
    assert attributes["model_sha256"] == source.sha256
    assert attributes["command"] == "dpsolve sweep cake.toml"
    assert json.loads(attributes["solve"])["tol"] == 1e-8
    assert json.loads(attributes["fixed"]) == {}
    assert json.loads(attributes["sizes"])["n_x"] == 12
    for name in ("dpsolve", "jax", "jaxlib", "numpy", "python"):
        assert attributes[f"{name}_version"][0].isdigit()
    assert "cpu" in attributes["device"]
    assert {type(value) for value in attributes.values()} <= {str, int, float}  # as NetCDF needs


def test_the_commit_of_the_model_s_repository_is_kept(
    toy_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "toy.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "a model"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    sweep = toy_sweep()
    run(sweep)
    assert open_store(sweep.store.path).attributes["git_commit"] == head.stdout.strip()


# --- opening -------------------------------------------------------------------------------------


def test_what_is_no_store_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*nowhere\.zarr"):
        open_store(tmp_path / "nowhere.zarr")
    with pytest.raises(StoreError, match="is not a store of dpsolve"):
        dp_open(tmp_path)


def test_a_store_of_a_later_format_or_a_damaged_one_is_refused(
    toy_sweep: Callable[..., Sweep],
) -> None:
    run(sweep := toy_sweep())
    path = Path(sweep.store.path)
    (path / "a" / "c.0").unlink()
    with pytest.raises(StoreError, match=r"damaged: .*c\.0 is missing"):
        open_store(path)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["dpsolve_store"] = 99
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="store format 99"):
        open_store(path)


def test_a_damaged_commit_is_no_commit(cake: Callable[..., Sweep], listener: Listener) -> None:
    sweep, undisturbed = cake(), cake("undisturbed.zarr")
    run(undisturbed)
    run(sweep)
    status = Path(sweep.store.path) / "status" / "c.1"
    status.write_bytes(status.read_bytes()[:-9])
    assert run(sweep, listener).computed == 2
    assert_equal_stores(sweep.store.path, undisturbed.store.path)


def test_the_commit_is_the_one_git_tells(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *words]
        return subprocess.run(
            command, cwd=tmp_path / "r", capture_output=True, text=True, check=True
        ).stdout.strip()

    (tmp_path / "r" / "deep").mkdir(parents=True)
    assert _git_commit(tmp_path / "r" / "deep") is None
    git("init", "-q")
    assert _git_commit(tmp_path / "r") is None  # no commit yet
    git("commit", "-q", "--allow-empty", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert _git_commit(tmp_path / "r" / "deep") == head
    git("worktree", "add", "-q", "-b", "other", str(tmp_path / "w"))
    assert _git_commit(tmp_path / "w") == head
    git("pack-refs", "--all")
    assert _git_commit(tmp_path / "r") == head
    git("checkout", "-q", "--detach")
    assert _git_commit(tmp_path / "r") == head
