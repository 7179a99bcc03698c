"""Tasks cover the points once, and a plan foretells what lands on the disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dpsolve import ModelError, UsageError
from dpsolve.hpc.plan import cost_estimate
from dpsolve.hpc.plan.cost_estimate import estimate
from dpsolve.hpc.plan.plan import Plan, make_plan
from dpsolve.hpc.plan.tasks import WorkerCount, block_shape, cut, points_per_task
from dpsolve.hpc.run.sweep import create_store
from dpsolve.hpc.sweep_file.fields import Sweep, sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.sharding.batches.solving_order import STRAND

from ..conftest import is_array, run

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def plan_of(sweep: Sweep) -> Plan:
    return make_plan(sweep, resolve(sweep.model))


@given(shape=SHAPES, points=st.integers(1, 200), lanes=st.sampled_from([1, 2, 4, 8, 32]))
def test_tasks_are_runs_that_are_rectangles(
    shape: tuple[int, ...], points: int, lanes: int
) -> None:
    block = block_shape(shape, points, lanes)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    at = 0
    for number, task in enumerate(cut(shape, block)):
        assert (task.id, task.start) == (number, at)
        corner = [i * part for i, part in zip(task.cell, block, strict=True)]
        inside = tuple(slice(i, i + n) for i, n in zip(corner, task.shape, strict=True))
        np.testing.assert_array_equal(numbers[inside].ravel(), np.arange(task.start, task.stop))
        at = task.stop
    assert at == numbers.size


@given(shape=SHAPES, points=st.integers(1, 200))
def test_blocks_are_as_large_as_asked_and_even(shape: tuple[int, ...], points: int) -> None:
    block = block_shape(shape, points)
    assert math.prod(block) <= points
    if points >= math.prod(shape):
        assert block == shape
    sizes = [task.size for task in cut(shape, block)]
    inner = math.prod(shape[next((i for i, m in enumerate(block) if m > 1), len(shape)) + 1 :])
    assert max(sizes) - min(sizes) < max(inner * len(shape) * max(shape), 1)


@pytest.mark.parametrize(
    ("shape", "points", "lanes", "block"),
    [
        ((1000,), 250, 32, (256,)),  # filled lanes, evenly
        ((40, 25), 256, 32, (10, 25)),
        ((3, 1000), 320, 1, (1, 250)),
        ((10, 7), 7, 64, (1, 7)),  # filling the lanes would make tasks nine times as large
    ],
)
def test_blocks_fill_the_lanes_where_that_is_cheap(
    shape: tuple[int, ...], points: int, lanes: int, block: tuple[int, ...]
) -> None:
    assert block_shape(shape, points, lanes) == block


def test_tasks_are_cut_between_strands_where_starts_are_warm() -> None:
    """So one point in eight starts cold, and not one in five."""

    def cold(points: dict[str, int], workers: int = 0, **sizes: int) -> float:
        axes = {k: {"from": 0.9 if k == "beta" else 1.5, "to": 0.96 if k == "beta" else 5.0,
                    "points": n} for k, n in points.items()}  # fmt: skip
        fixed = {"continuous": False, **sizes}
        raw = {"model": "savings", "fixed": fixed, "grid": axes, "store": {"path": "no.zarr"}}
        part = make_plan(sweep_from(raw), resolve("savings"), WorkerCount(workers)).buckets[0]
        assert part.program.warm
        sizes_of = [task.size for task in part.tasks]
        return sum(-(-n // STRAND) for n in sizes_of) / sum(sizes_of)

    large = {"n_a": 2000, "n_z": 25}
    assert cold({"beta": 80}, **large) == 1 / 8  # 16 tasks of 5 before
    assert cold({"beta": 100, "gamma": 5}, **large) <= 1 / 7
    assert cold({"beta": 100, "gamma": 5}, workers=20, **large) <= 1 / 7
    assert cold({"beta": 80}, workers=80, **large) == 1.0  # one for each


def test_small_models_make_few_tasks_and_large_ones_lose_little() -> None:
    growth = points_per_task(points=1_000, point_bytes=4 * 800 + 60, lanes=16)
    assert math.ceil(1_000 / growth) == 2
    savings = points_per_task(points=1_000, point_bytes=4 * 200_000, lanes=1)
    assert math.ceil(1_000 / savings) == pytest.approx(64, abs=2)
    many_savings = points_per_task(points=10**6, point_bytes=4 * 200_000, lanes=1)
    assert many_savings * 4 * 200_000 <= 64 * 2**20
    slow_price = points_per_task(points=1_000, point_bytes=68, lanes=2)
    assert slow_price <= 1_000 / 15
    assert points_per_task(points=3, point_bytes=10**9, lanes=1) == 1


def test_a_new_store_has_tasks_for_all_who_may_work_on_it() -> None:
    tiny = {"points": 10**6, "point_bytes": 68, "lanes": 64}
    assert math.ceil(10**6 / points_per_task(**tiny)) == 64
    assert math.ceil(10**6 / points_per_task(**tiny, worker_count=WorkerCount(1_000))) >= 4_000
    assert points_per_task(**tiny, worker_count=WorkerCount(2_000)) == 64
    assert points_per_task(**tiny, worker_count=WorkerCount(100_000)) == 64  # a batch at the least
    assert (
        points_per_task(**tiny, worker_count=WorkerCount(100_000, batches=8)) == 512
    )  # or one for each core
    # What is fine for few workers stays as it is.
    assert points_per_task(**tiny, worker_count=WorkerCount(2)) == points_per_task(**tiny)
    large = {"points": 1_000, "point_bytes": 4 * 200_000, "lanes": 1}
    assert points_per_task(**large, worker_count=WorkerCount(4)) == points_per_task(**large)
    assert points_per_task(**tiny, worker_count=WorkerCount()) == points_per_task(**tiny)


def test_buckets_share_the_workers_by_their_points(toy: str, tmp_path: Path) -> None:
    grid = {"n": [2, 5], "a": {"from": 0.0, "to": 1.0, "points": 50_000}}
    raw = {"model": toy, "grid": grid, "store": {"path": str(tmp_path / "s.zarr")}}
    sweep = sweep_from(raw)
    source = resolve(sweep.model)
    here, there = make_plan(sweep, source), make_plan(sweep, source, WorkerCount(6))
    assert [len(part.tasks) for part in here.buckets] == [3, 3]
    assert [len(part.tasks) for part in there.buckets] == [13, 13]  # 12 or more


def test_the_cut_of_a_store_stays_wherever_it_goes_on(toy: str, tmp_path: Path) -> None:
    raw = {
        "model": toy,
        "grid": {"a": {"from": 0.0, "to": 1.0, "points": 20_000}},
        "store": {"path": str(tmp_path / "s.zarr"), "keep": ["price"]},
    }
    sweep = sweep_from(raw)
    made = create_store(sweep, resolve(sweep.model), worker_count=WorkerCount(20))
    opened = create_store(sweep, resolve(sweep.model), worker_count=WorkerCount(3))
    assert len(made.tasks) > len(plan_of(sweep).tasks)
    assert opened.tasks == made.tasks
    assert run(sweep).solved == 20_000  # in this process, without a crew


def test_files_and_bytes_are_foretold_exactly(cake: Callable[..., Sweep]) -> None:
    sweep = cake(store={"points_per_task": 4, "keep": ["value", "policy_index"]})
    plan = plan_of(sweep)
    run(sweep)
    found = [p for p in plan.path.rglob("*") if p.is_file()]
    assert len(found) == plan.files
    nodes = zarr.open_group(plan.path, mode="r").members(max_depth=None)
    numeric = [a for _, a in nodes if is_array(a) and a.dtype.kind in "iuf"]
    assert plan.bytes == sum(a.nbytes for a in numeric) + 2 * 6 * 16
    assert [task.size for task in plan.tasks] == [3, 3]


def test_files_are_foretold_for_every_set_of_sizes(toy: str, tmp_path: Path) -> None:
    grid = {"n": [2, 5], "a": [1.0, 2.0, 3.0]}
    store = {"path": str(tmp_path / "s.zarr"), "points_per_task": 2}
    sweep = sweep_from({"model": toy, "grid": grid, "store": store})
    plan = plan_of(sweep)
    run(sweep)
    assert len([p for p in plan.path.rglob("*") if p.is_file()]) == plan.files
    assert [(t.id, t.bucket, t.start, t.stop) for t in plan.tasks] == [
        (0, 0, 0, 2), (1, 0, 2, 3), (2, 1, 0, 2), (3, 1, 2, 3),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_plan_compiles_nothing_and_an_estimate_does(cake: Callable[..., Sweep]) -> None:
    plan = plan_of(cake(fixed={"n_x": 9}))
    program = plan.buckets[0].program
    assert program.compile_seconds == 0
    assert not plan.path.exists()
    found = estimate(plan)
    assert program.compile_seconds == found.compile_seconds > 0
    assert found.probed == 6
    longer = max(found.solve_seconds, found.write_seconds)
    assert found.seconds == found.begin_seconds + found.compile_seconds + longer
    assert found.solve_seconds > 0


def test_estimate_counts_every_batch(cake: Callable[..., Sweep]) -> None:
    few = plan_of(cake(fixed={"n_x": 9}))
    lanes = few.buckets[0].program.lanes
    many = plan_of(
        cake(
            fixed={"n_x": 9},
            grid={"beta": {"from": 0.5, "to": 0.95, "points": 40 * lanes}},
            store={"points_per_task": 10 * lanes},
        )
    )
    once = min(estimate(few).solve_seconds for _ in range(3)) / len(few.tasks)
    assert estimate(many).solve_seconds > 8 * once


def test_what_a_first_run_takes_is_counted_once(
    cake: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was counted for every batch: 13 s for one of growth."""
    axis = {"from": 0.5, "to": 0.95, "points": 4000}
    plan = plan_of(cake(fixed={"n_x": 60}, grid={"beta": axis}, store={"points_per_task": 1000}))
    program, now, ran = plan.buckets[0].program, [0.0], []
    lanes = program.lanes
    assert 2 * lanes < 4000 // 8
    real = program.run

    def run_(points: dict[str, np.ndarray], *_: object) -> object:
        """Take 5 s at the first run, 10 ms for every two batches, and solve nothing much."""
        number = len(points["beta"])
        now[0] += 0.01 * max(1.0, number / lanes / 2) + (0.0 if ran else 5.0)
        ran.append(number)
        return real({name: x[:1] for name, x in points.items()})

    monkeypatch.setattr(program, "run", run_)
    monkeypatch.setattr(type(program), "workers", property(lambda _: 2))
    monkeypatch.setattr(cost_estimate, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = cost_estimate.estimate(plan)
    assert ran == [1, lanes, 500]  # without values; a batch; an eighth of all
    assert found.probed == 500
    assert found.begin_seconds == pytest.approx(plan.seconds + cost_estimate.MAKE_STORE + 5.01)
    assert found.solve_seconds == pytest.approx(0.01 * 4000 / lanes / 2, rel=0.05)


def test_memory_holds_a_batch_and_all_that_a_task_computes(cake: Callable[..., Sweep]) -> None:
    plan = plan_of(cake(store={"points_per_task": 3, "keep": ["value"]}))
    part = plan.buckets[0]
    one_point = sum(math.prod(v.shape) * 8 for v in part.layout.variables.values())
    batch = part.program.forecast().bytes
    assert plan.memory_per_task >= batch + 3 * one_point * 0.9
    assert plan.memory_per_task < batch + 4 * one_point + 4 * 100


def test_a_swept_parameter_cannot_have_the_name_of_a_state(tmp_path: Path) -> None:
    model = tmp_path / "clash.py"
    model.write_text(
        "import jax.numpy as jnp\n"
        "def clash(t=1.0):\n    return {'path': (('t',), t * jnp.arange(3.0))}\n",
        encoding="utf-8",
    )
    store = {"path": str(tmp_path / "s.zarr")}
    sweep = sweep_from({"model": f"{model}:clash", "grid": {"t": [1.0, 2.0]}, "store": store})
    with pytest.raises(UsageError, match="swept parameter 't' has the name of a state"):
        plan_of(sweep)


def test_an_array_cannot_have_the_name_of_a_record(tmp_path: Path) -> None:
    model = tmp_path / "clash.py"
    model.write_text("def clash(a=1.0):\n    return {'seconds': a}\n", encoding="utf-8")
    store = {"path": str(tmp_path / "s.zarr")}
    sweep = sweep_from({"model": f"{model}:clash", "grid": {"a": [1.0, 2.0]}, "store": store})
    with pytest.raises(ModelError, match="'seconds'"):
        plan_of(sweep)
