"""Verification: it confirms what is right, and names what was altered, and where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import dpsolve as dp
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import run_sweep
from dpsolve.hpc.store import checksums
from dpsolve.hpc.store.damage import read_task
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.verify.verification import Verification

TOL = 1e-8
GROWTH = {
    "model": "growth",
    "fixed": {"continuous": False, "n_k": 10, "delta": 0.1},
    "grid": {"beta": [0.9, 0.93, 0.95], "alpha": [0.3, 0.35]},
    "solve": {"tol": TOL, "method": "vi"},  # policy iteration would be exact on so small a grid
    "store": {
        "points_per_task": 2,
        "keep": ["value", "lower", "upper", "policy", "policy_index", "consumption"],
    },
}
POINT = (1, 0)  # beta=0.93, alpha=0.3: the first point of the second task
NAMED = "beta=0.93, alpha=0.3"

FAILING = '''
import dpsolve as dp
import jax.numpy as jnp

def model(beta=0.9, cost=0.0, *, n=4):
    """One choice in four; a cost below zero costs a NaN."""
    return dp.Model(
        states={"x": dp.integers(0, n - 1)},
        choices={"move": dp.integers(0, 1)},
        transition={"x": lambda x, move: (x + move) % n},
        reward=lambda x, move: x - jnp.sqrt(cost) * move,
        discount=beta,
    )

def numbers(a=1.0, b=2.0, *, n=3):
    """Arrays of its own."""
    return {"price": a * b, "path": (("t",), a + b * jnp.arange(n))}
'''


def sweep(folder: Path, name: str, tables: dict[str, Any]) -> Path:
    path = folder / name
    raw = tables | {"store": {**tables.get("store", {}), "path": str(path)}}
    run_sweep(sweep_from(raw), resolve(raw["model"]), progress=Silent())
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(tmp_path_factory.mktemp("growth"), "growth.zarr", GROWTH)


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "growth.zarr"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(FAILING, encoding="utf-8")
    return path


def alter(store: Path, name: str, at: Any, change: Callable[[Any], Any]) -> None:
    """Alter one number as any program could: through zarr, with valid checksums."""
    array = zarr.open_group(store, mode="r+")[name]
    assert isinstance(array, zarr.Array)
    array[at] = change(array[at])


def vouch(store: Path) -> None:
    """Write the manifests anew, so that only the definition can tell what was altered."""
    opened = open_store(store)
    root = zarr.open_group(store, mode="r")
    for task in opened.tasks:
        bucket = opened.buckets[task.bucket]
        group = root[bucket.bucket.group] if bucket.bucket.group else root
        block, _ = read_task(bucket, task, group)
        content = b"".join(checksums.encode(block, task.size))
        checksums.manifest_file(bucket.file("status", task)).write_bytes(content)


def assert_refuted(found: Verification, *words: str) -> None:
    assert not found.ok
    assert any(all(word in claim for word in words) for claim in found.claims), str(found)


# -- what is right is confirmed -------------------------------------------------------------------


@pytest.mark.slow
def test_a_store_is_verified(pristine: Path) -> None:
    found = dp.verify(pristine, all_points=True)
    assert found.ok, str(found)
    assert (found.points_checked, found.points_total, found.points_pending) == (6, 6, 0)
    assert 0 < found.worst_error <= TOL
    assert 0 < found.worst_residual < found.worst_error
    assert found.worst_point.keys() == {"beta", "alpha"}
    assert str(found).startswith(f"{pristine}: verified\n")
    assert "6 of 6 points" in str(found)


def test_the_sample_is_drawn_by_its_seed(pristine: Path) -> None:
    worst = {}
    for seed in range(4):
        first, second = (dp.verify(pristine, sample=1, seed=seed) for _ in range(2))
        assert first.points_checked == 1
        assert first.worst_point == second.worst_point
        worst[seed] = tuple(first.worst_point.values())
    assert len(set(worst.values())) > 1
    assert dp.verify(pristine, sample=0).points_checked == 0


def test_pending_points_are_reported_and_no_fault(store: Path) -> None:
    (store / "status" / "c.1.0").unlink()
    found = dp.verify(store)
    assert found.ok, str(found)
    assert (found.points_checked, found.points_pending) == (4, 2)
    assert "2 pending" in str(found)


@pytest.mark.slow
def test_each_size_is_verified_in_its_group(tmp_path: Path) -> None:
    tables = GROWTH | {
        "fixed": {"continuous": False}, "grid": {"beta": [0.9, 0.92], "n_k": [8, 10]}
    }  # fmt: skip
    path = sweep(tmp_path, "sizes.zarr", tables)
    found = dp.verify(path)
    assert found.ok, str(found)
    assert found.points_checked == 4
    alter(path, "n_k=10/value", (1, 4), lambda x: x + 1e-3)
    assert_refuted(dp.verify(path), "n_k=10, beta=0.92: value was altered")
    vouch(path)
    assert_refuted(dp.verify(path), "n_k=10, beta=0.92: value")


@pytest.mark.parametrize(
    "keep", [["value"], ["policy"], ["lower", "upper"], ["value", "consumption"], ["upper"]]
)
def test_whatever_is_kept_is_verified(tmp_path: Path, keep: list[str]) -> None:
    grid = {"beta": [0.9, 0.93]}
    path = sweep(tmp_path, "part.zarr", GROWTH | {"grid": grid, "store": {"keep": keep}})
    found = dp.verify(path)
    assert found.ok, str(found)
    assert found.points_checked == 2
    assert bool(found.notes) == (keep == ["policy"])
    for name in zarr.open_group(path, mode="r").array_keys():
        if name.startswith(("value", "lower", "upper", "output", "policy")):
            copy = Path(shutil.copytree(path, tmp_path / f"{name}.zarr"))
            alter(copy, name, (1, 4), lambda x: x + 1e-3)
            vouch(copy)
            assert_refuted(dp.verify(copy), "beta=0.93:", name)


@pytest.mark.slow
def test_failed_and_inexact_points_are_held_to_what_they_say(
    model_file: Path, tmp_path: Path
) -> None:
    tables = {
        "model": f"{model_file}:model",
        "grid": {"cost": [0.1, -1.0, 0.2]},
        "solve": {"tol": 1e-10, "max_iter": 2, "method": "vi"},
        "store": {"points_per_task": 1},
    }
    path = sweep(tmp_path, "failing.zarr", tables)
    found = dp.verify(path)
    assert found.ok, str(found)
    assert (found.points_checked, found.points_failed) == (2, 1)
    alter(path, "value", (1, 2), lambda x: 0.0)
    alter(path, "status", (2,), lambda x: "solved")
    vouch(path)
    found = dp.verify(path)
    assert_refuted(found, "cost=-1: status is failed, but value is not NaN")
    assert_refuted(found, "cost=0.2: status is solved, but error_bound is above tol")
    assert_refuted(found, "cost=0.2: status is solved, but message says why not")


def test_a_factorys_own_arrays_are_computed_again(model_file: Path, tmp_path: Path) -> None:
    tables = {"model": f"{model_file}:numbers", "grid": {"a": [1.0, 2.0]}}
    path = sweep(tmp_path, "numbers.zarr", tables)
    found = dp.verify(path)
    assert found.ok, str(found)
    alter(path, "path", (1, 2), lambda x: x + 1e-6)
    alter(path, "price", (0,), lambda x: x + 1e-6)
    vouch(path)
    found = dp.verify(path)
    assert_refuted(found, "a=2: path: entry 3")
    assert_refuted(found, "a=1: price: entry 1")


# -- one number altered: the manifest tells -------------------------------------------------------

STATE = (*POINT, 4)


@pytest.mark.parametrize(
    ("name", "at", "change"),
    [
        ("value", STATE, lambda x: np.nextafter(x, np.inf)),
        ("lower", STATE, lambda x: x - 1e-12),
        ("upper", STATE, lambda x: x + 1e-12),
        ("policy_k_next", STATE, lambda x: np.nextafter(x, np.inf)),
        ("policy_index_k_next", STATE, lambda x: x + 1),
        ("output_consumption", STATE, lambda x: x * (1 + 1e-15)),
        ("grid_k", STATE, lambda x: np.nextafter(x, np.inf)),
        ("status", POINT, lambda x: "inexact"),
        ("message", POINT, lambda x: "all is well"),
        ("residual", POINT, lambda x: x * 2),
        ("error_bound", POINT, lambda x: x * (1 + 1e-15)),
        ("iterations", POINT, lambda x: x + 1),
    ],
)
def test_one_altered_number_is_named_with_its_point(
    store: Path, name: str, at: tuple[int, ...], change: Callable[[Any], Any]
) -> None:
    alter(store, name, at, change)
    found = dp.verify(store, sample=0)
    assert_refuted(found, f"{NAMED}: {name} was altered")
    assert [claim for claim in found.claims if "altered" in claim] == [
        f"{NAMED}: {name} was altered: its checksum in the manifest is another"
    ]


# -- one number altered, and the manifest with it: the definition tells ---------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("value", lambda x: x + 1e-7),
        ("value", lambda x: x - 1e-7),
        ("value", lambda x: np.nan),
        ("value", lambda x: np.inf),
        ("lower", lambda x: x + 1e-7),
        ("lower", lambda x: x - 1e-7),
        ("upper", lambda x: x + 1e-7),
        ("upper", lambda x: x - 1e-7),
        ("policy_k_next", lambda x: x + 1e-7),
        ("policy_index_k_next", lambda x: x + 1),
        ("policy_index_k_next", lambda x: -1),
        ("policy_index_k_next", lambda x: 10),
        ("output_consumption", lambda x: x + 1e-7),
        ("output_consumption", lambda x: np.nan),
        ("grid_k", lambda x: x + 1e-12),
    ],
)
def test_the_definition_tells_an_altered_number(
    store: Path, name: str, change: Callable[[Any], Any]
) -> None:
    alter(store, name, STATE, change)
    vouch(store)
    found = dp.verify(store)
    assert_refuted(found, NAMED, name)
    assert all(claim.startswith(NAMED) for claim in found.claims)
    if not name.startswith("grid"):
        state = float(zarr.open_group(store, mode="r")["grid_k"][STATE])
        assert_refuted(found, NAMED, name, f"k={state:.6g}")


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.99, -1.0, np.nan])
def test_an_error_bound_below_the_true_one_is_refuted(store: Path, factor: float) -> None:
    alter(store, "error_bound", POINT, lambda x: x * factor)
    vouch(store)
    assert_refuted(dp.verify(store), NAMED, "error_bound")


def test_a_bound_claimed_too_small_is_refuted_by_the_residual_alone(tmp_path: Path) -> None:
    path = sweep(tmp_path, "v.zarr", GROWTH | {"store": {"keep": ["value"]}})
    alter(path, "error_bound", POINT, lambda x: x / 100)
    vouch(path)
    assert_refuted(dp.verify(path), NAMED, "value", "error_bound")


def test_a_policy_that_is_not_optimal_is_refuted(store: Path) -> None:
    index = zarr.open_group(store, mode="r")["policy_index_k_next"][STATE]
    grid = zarr.open_group(store, mode="r")["grid_k"][POINT]
    alter(store, "policy_index_k_next", STATE, lambda x: x + 1)
    alter(store, "policy_k_next", STATE, lambda x: grid[int(index) + 1])
    vouch(store)
    assert_refuted(dp.verify(store), NAMED, "policy_k_next", "loses", "in one step")


@pytest.mark.slow
def test_an_infeasible_policy_is_refuted(tmp_path: Path) -> None:
    path = sweep(tmp_path, "cake.zarr", {"model": "cake", "fixed": {"n_x": 8}, "grid": {
        "beta": [0.5, 0.9]}})  # fmt: skip
    alter(path, "policy_x_next", (1, 3), lambda x: 1.0)
    vouch(path)
    assert_refuted(dp.verify(path), "beta=0.9: policy_x_next at x=0.485714 is not feasible")


def test_status_and_error_bound_must_agree(store: Path) -> None:
    alter(store, "status", POINT, lambda x: "inexact")
    vouch(store)
    assert_refuted(dp.verify(store), NAMED, "status is inexact, but error_bound is within tol")
    alter(store, "status", POINT, lambda x: "sloved")
    vouch(store)
    assert_refuted(dp.verify(store), NAMED, "status is ['sloved']")


# -- coordinates, attributes, files ---------------------------------------------------------------


def test_an_altered_coordinate_is_named(store: Path) -> None:
    alter(store, "beta", (1,), lambda x: 0.931)
    assert_refuted(dp.verify(store), "coordinate beta: number 2", "0.931", "0.93")


def test_an_altered_parameter_along_points_is_named(tmp_path: Path) -> None:
    tables = GROWTH | {"grid": {}, "zip": {"beta": [0.9, 0.92], "alpha": [0.3, 0.35]}}
    path = sweep(tmp_path, "zip.zarr", tables)
    assert dp.verify(path).ok
    alter(path, "alpha", (1,), lambda x: 0.36)
    assert_refuted(dp.verify(path), "parameter alpha: number 2", "0.36", "0.35")


def test_an_altered_state_grid_is_named(tmp_path: Path) -> None:
    tables = {"model": "cake", "fixed": {"n_x": 8}, "grid": {"beta": [0.5, 0.9]}}
    path = sweep(tmp_path, "cake.zarr", tables)
    alter(path, "x", (3,), lambda x: x + 1e-12)
    assert_refuted(dp.verify(path), "beta=0.5: x: number 4")


@pytest.mark.parametrize(
    ("attribute", "old", "new", "said"),
    [
        ("fixed", "0.1", "0.2", "the attribute fixed says delta=0.2"),
        ("sizes", "10", "11", "the attribute sizes says n_k=11"),
        ("solve", "1e-08", "1e-06", "the attribute solve differs"),
        ("model_source", "k_ss", "K_ss", "do not have the checksum"),
    ],
)
def test_an_altered_attribute_is_named(
    store: Path, attribute: str, old: str, new: str, said: str
) -> None:
    path = store / "zarr.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    text = document["attributes"][attribute]
    assert old in text
    document["attributes"][attribute] = text.replace(old, new)
    path.write_text(json.dumps(document), encoding="utf-8")
    assert_refuted(dp.verify(store), said)


def data_files(store: Path) -> Iterator[Path]:
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.name != "zarr.json":
            yield path


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_is_told_with_the_array(store: Path) -> None:
    for number, path in enumerate(data_files(store)):
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[(number % 5) * (len(content) - 1) // 4] ^= 0x10  # the ends, and between
        path.write_bytes(flipped)
        name = "manifest" if path.name.startswith("m.") else path.parent.name
        assert_refuted(dp.verify(store, sample=0), name)
        path.write_bytes(content)
    assert dp.verify(store, sample=0).ok


def test_a_missing_file_is_told_with_the_array(store: Path) -> None:
    for path in [p for p in data_files(store) if p.name in ("c.1.0.0", "m.1.0")]:
        content = path.read_bytes()
        path.unlink()
        name = "manifest" if path.name.startswith("m.") else path.parent.name
        assert_refuted(dp.verify(store, sample=0), f"{NAMED}: {name} is missing")
        path.write_bytes(content)


def test_altered_metadata_of_an_array_are_told(store: Path) -> None:
    path = store / "value" / "zarr.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("value function", "value"), encoding="utf-8")
    assert_refuted(dp.verify(store), "the metadata of value differ")


def test_what_is_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(dp.StoreError, match="no store at"):
        dp.verify(tmp_path / "nowhere.zarr")
    with pytest.raises(dp.StoreError, match="not a store of dpsolve"):
        dp.verify(tmp_path)
    with pytest.raises(dp.UsageError, match="not dict"):
        dp.verify({})
    with pytest.raises(dp.UsageError, match="sample=-1"):
        dp.verify(tmp_path, sample=-1)


@pytest.mark.slow
def test_a_sweep_with_a_post_variable_is_verified_and_refuted(tmp_path: Path) -> None:
    given = {
        "model": "inventory",
        "fixed": {"n_stock": 12, "n_order": 6, "n_demand": 8, "mean_demand": 3.0, "fixed": 2.0},
        "grid": {"beta": [0.9, 0.93]},
        "solve": {"tol": TOL},
        "store": {"keep": ["value", "lower", "upper", "policy", "sales"]},
    }
    path = sweep(tmp_path, "inventory.zarr", given)
    found = dp.verify(path, all_points=True)
    assert found.ok, str(found)
    alter(path, "value", (1, 4), lambda x: x + 1e-3)
    assert_refuted(dp.verify(path, all_points=True), "beta=0.93: value")
