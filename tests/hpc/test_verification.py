"""Verification: it confirms what is right, and names what was altered, and where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import dpsolve as dp
from dpsolve.hpc import audit, manifest
from dpsolve.hpc.definition import define
from dpsolve.hpc.examination import Stored, examine
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.proof import Claim, Interval, Place, Step, find_weight
from dpsolve.hpc.resolve import resolve
from dpsolve.hpc.spec import sweep_from
from dpsolve.hpc.store import open_store
from dpsolve.hpc.sweep import run_sweep
from dpsolve.hpc.verification import Verification

from ..reference import random_arrays, random_problem, solve_arrays

TOL = 1e-8
GROWTH = {
    "model": "growth",
    "fixed": {"n_k": 10, "delta": 0.1},
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
        block, _ = audit.read_task(bucket, task, group)
        content = b"".join(manifest.encode(block, task.size))
        manifest.manifest_file(bucket.file("status", task)).write_bytes(content)


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
    tables = GROWTH | {"fixed": {}, "grid": {"beta": [0.9, 0.92], "n_k": [8, 10]}}
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
        ("seconds", POINT, lambda x: x * 2),
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
        ("model_source", "k_ss", "K_ss", "model_source"),
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


# -- solutions ------------------------------------------------------------------------------------


def altered(solution: dp.Solution, name: str, at: Any, change: float) -> dp.Solution:
    array = np.array(solution.arrays[name])
    array[at] += change
    return replace(solution, arrays={**solution.arrays, name: array})


@pytest.mark.slow
def test_a_solution_is_verified() -> None:
    solution = dp.solve("savings", {"n_a": 30, "n_z": 3}, tol=TOL)
    found = dp.verify(solution)
    assert found.ok, str(found)
    assert found.worst_point["beta"] == 0.96
    assert found.worst_error <= TOL
    wrong = dp.verify(altered(solution, "value", (7, 1), 1e-7))
    assert_refuted(wrong, "value", "a=4.82759, z=0")
    assert str(wrong).startswith("savings: NOT verified")


@pytest.mark.slow
def test_every_point_of_many_is_verified() -> None:
    many = dp.solve_many("growth", {"beta": np.array([0.9, np.nan, 0.93]), "n_k": 10}, tol=TOL)
    found = dp.verify(many)
    assert found.ok, str(found)
    assert (found.points_checked, found.points_failed, found.points_total) == (2, 1, 3)
    assert_refuted(dp.verify(altered(many, "upper", (2, 4), -1e-7)), "beta=0.93", "upper")


def test_a_finite_horizon_is_verified_period_by_period() -> None:
    solution = dp.solve("cake", {"n_x": 12, "horizon": 5})
    found = dp.verify(solution)
    assert found.ok, str(found)
    for name in ("value", "lower", "upper"):
        wrong = dp.verify(altered(solution, name, (3, 8), 1e-9 if name != "upper" else -1e-9))
        assert_refuted(wrong, name, "t=3, x=0.754545")


@pytest.mark.parametrize("form", ["product", "pairs"])
def test_a_model_from_arrays_is_verified(form: str) -> None:
    reward, transition, beta = random_arrays(3)
    if form == "product":
        model = dp.mdp(reward, transition, beta)
    else:
        s, a = np.nonzero(reward > -np.inf)
        model = dp.mdp(reward[s, a], transition[s, a], beta, states=s, actions=a)
    solution = dp.solve(model, tol=TOL)
    found = dp.verify(solution)
    assert found.ok, str(found)
    np.testing.assert_allclose(
        solution.value, solve_arrays(reward, transition, beta).value, atol=TOL
    )
    assert_refuted(dp.verify(altered(solution, "lower", 4, 1e-7)), "lower", "state=4")
    infeasible = np.argwhere(reward == -np.inf)[0]
    shift = infeasible[1] - int(solution.policy_index["action"][infeasible[0]])
    wrong = altered(solution, "policy_index_action", infeasible[0], shift)
    wrong = altered(wrong, "policy_action", infeasible[0], shift)
    assert_refuted(dp.verify(wrong), "policy_action", "not feasible")


def test_a_claim_beyond_a_false_certificate_is_refuted() -> None:
    """Bounds shifted as a whole keep their width, and the step still refutes them."""
    solution = dp.solve("growth", {"n_k": 10}, tol=TOL)
    arrays = {n: np.asarray(x) for n, x in solution.arrays.items()}
    for shift in (1e-6, -1e-6):
        moved = {n: arrays[n] + shift for n in ("value", "lower", "upper")}
        found = dp.verify(replace(solution, arrays={**arrays, **moved}))
        assert_refuted(found, "lower" if shift > 0 else "upper", "not confirmed")


def test_probabilities_that_leak_within_their_tolerance_are_no_fault() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 2)},
        shocks={"w": dp.iid([0.0, 1.0], lambda x: jnp.array([0.5, 0.5 - 5e-10]))},
        transition={"x": "c"},
        reward=lambda x, c, w: x + c * w,
        discount=0.9,
    )
    assert dp.verify(dp.solve(model, tol=1e-6)).ok


def test_large_points_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    solution = dp.solve("growth", {"n_k": 10}, tol=TOL)
    monkeypatch.setattr("dpsolve.hpc.verification.MOST_PAIRS", 50)
    found = dp.verify(solution)
    assert found.ok, str(found)
    assert any("0.5 of the states" in note for note in found.notes)
    assert not dp.verify(solution, all_points=True).notes


# -- what the proofs rest on ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_interval_from_any_value_holds_the_true_one(seed: int) -> None:
    kind = ("constant", "varying", "above")[seed % 3]
    problem = random_problem(seed, finite=False, discount=kind, outside=seed % 2 == 0)
    model, true = problem.model(), problem.solve().value
    definition = define(model)
    place = Place(model, definition, np.arange(definition.n))
    rng = np.random.default_rng(seed)
    for size in (1e-9, 1e-3, 10.0):
        value = true + size * rng.uniform(-1, 1, definition.n)
        claim = Claim(value, value, value, ("lower", "upper"))
        proven = Step(place, None, claim, claim, 0.0).interval(Interval(value, value))
        assert (proven.low <= true).all()
        assert (true <= proven.high).all()
        assert np.max(proven.high - proven.low) < 1e3 * size + 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_honest_and_false_claims_about_random_problems(seed: int) -> None:
    problem = random_problem(seed + 20)
    model, answer = problem.model(), problem.solve()
    shape = (-1, *problem.shape) if problem.horizon else problem.shape
    true = answer.value.reshape(shape)
    bound = 1e-6
    honest = {"value": true, "lower": true - bound, "upper": true + bound}
    assert examine(model, Stored(honest, bound)).faults == []
    for name, sign in (("lower", 1.0), ("upper", -1.0), ("value", 1.0)):
        false = {k: np.array(v) for k, v in honest.items()}
        false[name].flat[1] += sign * 2.5 * bound
        assert any(name in fault for fault in examine(model, Stored(false, bound)).faults)


def test_a_weight_function_is_the_expected_sum_of_discounts() -> None:
    """x' = 0 from anywhere, with discount 1.5 at x = 1 and 0.5 at x = 0: w = 1 + b(x) w(0)."""
    model = dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={"c": dp.integers(0, 0)},
        transition={"x": lambda: 0},
        reward=lambda x: x,
        discount=lambda x: 0.5 + x,
    )
    weight, rate = find_weight(define(model))
    np.testing.assert_allclose(weight, [2.0, 4.0], rtol=1e-2)
    assert rate == pytest.approx(0.75, rel=1e-2)
    diverging = dp.Model(
        states={"x": dp.integers(0, 1)},
        choices={"c": dp.integers(0, 0)},
        transition={"x": "x"},
        reward=lambda x: x,
        discount=lambda x: 0.5 + x,
    )
    assert find_weight(define(diverging))[1] > 1.0


def test_digests_tell_any_change_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(5, 3)),
        "b": rng.integers(0, 9, 5).astype(np.int32),
        "c": np.array(["x", "", "é", "x", "y"], dtype=object),
        "d": rng.random((5, 2, 2)) > 0.5,
        "e": np.zeros((5, 0)),
    }
    held = manifest.decode(b"".join(manifest.encode(arrays, 5)))
    assert list(held) == list(arrays)
    changed: dict[str, Any] = {k: v.copy() for k, v in arrays.items()}
    changed["a"][2, 1] = np.nextafter(changed["a"][2, 1], 0)
    changed["b"][0] += 1
    changed["c"][2] = "e"
    changed["d"][4, 1, 0] ^= True
    differ = {k: np.flatnonzero(manifest.digests(v, 5) != held[k]) for k, v in changed.items()}
    assert {k: v.tolist() for k, v in differ.items()} == {
        "a": [2], "b": [0], "c": [2], "d": [4], "e": []
    }  # fmt: skip
    swapped = arrays["a"].astype(">f8")
    np.testing.assert_array_equal(manifest.digests(swapped, 5), held["a"])


def test_rewards_that_are_not_numbers_are_named() -> None:
    model = dp.Model(
        states={"x": dp.integers(0, 2)},
        choices={"c": dp.integers(0, 1)},
        transition={"x": "x"},
        reward=lambda x: jnp.where(x == 1, jnp.nan, 1.0),
        discount=0.9,
    )
    found = examine(model, Stored({"value": np.full(3, 10.0)}, 1e-6))
    assert any("gives nan at x=1" in fault for fault in found.faults)


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


def test_a_post_variable_off_its_grid_is_named_by_the_definition() -> None:
    model = dp.Model(
        states={"s": dp.integers(0, 3)},
        choices={"q": dp.integers(0, 2)},
        post={"y": (dp.integers(0, 3), lambda s, q: s + q)},
        transition={"s": "y"},
        reward=lambda y: y * 1.0,
        discount=0.9,
    )
    every = np.arange(12)
    with pytest.raises(dp.ModelError, match=r"the post variable y=4 is no member .* s=2, q=2"):
        define(model).look(every // 3, every % 3)
