"""What several devices and continuous batching gain: ``scripts/bench devices``.

Devices are virtual ones, each held to one core: a process with one device is bound to one core, a
process with two devices to two, and XLA's own threads are switched off in both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

__all__ = ["rows"]

Row = tuple[str, str, str, str]

ON_DEVICES = """
import json, os, time
os.sched_setaffinity(0, {cores})
import numpy as np
import dpsolve as dp
{body}
run()
times = []
for _ in range({rounds}):
    began = time.perf_counter()
    run()
    times.append(time.perf_counter() - began)
print(json.dumps(times))
"""

POINTS = """
beta = np.linspace(0.93, 0.95, 48)
def run():
    params = {{"continuous": False, "beta": beta, "n_k": 2_000}}
    found = dp.solve_many("growth", params, tol=1e-8, mesh="points={devices}")
    assert (found.status == "solved").all()
"""

STATES = """
def run():
    params = {{"continuous": False, "n_a": 5_000, "n_z": 25}}
    found = dp.solve("savings", params, mesh="states={devices}", method="vi", max_iter=2)
    np.asarray(found.value)
"""


def rows() -> list[Row]:
    """Return all rows."""
    return [
        devices("growth, 48 points of 2,000 states on 2 devices, points cut", POINTS, 3, ">= 1.7"),
        devices("savings 5,000 x 25, 2 sweeps, states cut", STATES, 1, ">= 1.5"),
        *batching(),
        volume(),
    ]


def devices(what: str, body: str, rounds: int, target: str) -> Row:
    """Compare one device on one core with two devices on two."""
    ratios, seconds = [], {}
    for _ in range(3):
        for n in (2, 1):
            seconds[n] = median(_timed(body.format(devices=n), n, rounds))
        ratios.append(seconds[1] / seconds[2])
    measured = f"{seconds[2]:.2f} s against {seconds[1]:.2f} s (1 device)"
    return what, measured, f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})", target


def _timed(body: str, n: int, rounds: int) -> list[float]:
    flags = f"--xla_force_host_platform_device_count={n} --xla_cpu_multi_thread_eigen=false"
    cores = sorted(os.sched_getaffinity(0))[:n]
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES.format(body=body, rounds=rounds, cores=cores)],
        env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    times: list[float] = json.loads(done.stdout)
    return times


def batching() -> list[Row]:
    """Solve a sweep in which a tenth of the points needs 50 times the sweeps of the others."""
    from dpsolve.sharding.batches.program import Program
    from dpsolve.sharding.batches.refill import Results, serve
    from dpsolve.sharding.batches.single_pass import SinglePass
    from dpsolve.sharding.devices.mesh import ONE_DEVICE
    from dpsolve.solvers.library import growth
    from dpsolve.solvers.options import SolveOptions

    def compare(options: SolveOptions, points: dict[str, Any], n: int) -> tuple[Any, list[float]]:
        ours = Program(growth, {"continuous": False, "n_k": 100}, options)
        ours.compile()
        fixed = SinglePass(growth, ours.sizes, options, ours.lanes, ONE_DEVICE, None)
        fixed.compile()

        def other() -> None:
            serve(fixed, points, Results(n), 2)

        found = ours.run(points)
        other()
        return found, [_clock(other) / _clock(lambda: ours.run(points)) for _ in range(5)]

    n = 1_920
    rng = np.random.default_rng(0)
    hard = rng.permutation(n) < n // 10
    points = {"beta": np.where(hard, 0.96, 0.3), "delta": np.where(hard, 0.01, 1.0)}
    points["alpha"] = np.full(n, 0.35) + rng.uniform(-0.01, 0.01, n)
    points["z"] = np.ones(n)
    found, ratios = compare(SolveOptions(tol=1e-8, method="vi"), points, n)
    sweeps = found.iterations
    what = (
        f"growth, a tenth of {n} points hard ({sweeps[hard].mean():.0f} sweeps against "
        f"{sweeps[~hard].mean():.0f})"
    )
    mixed = what, "in rounds, against a fixed batch", _shown(ratios), ">= 3"
    same = {"beta": np.linspace(0.92, 0.95, n), "delta": np.full(n, 0.1)}
    same |= {"alpha": np.full(n, 0.35), "z": np.ones(n)}
    _, ratios = compare(SolveOptions(tol=1e-8), same, n)
    even = "growth, points alike", "in rounds, against a fixed batch", _shown(ratios), ">= .95"
    return [mixed, even]


def _clock(f: Callable[[], Any]) -> float:
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


def _shown(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


VOLUME = """
import json
import jax, numpy as np
from jax.sharding import PartitionSpec
import dpsolve as dp
from dpsolve.sharding.devices.fit import make_partition
from dpsolve.sharding.devices.mesh import STATES, MeshShape, make_mesh
from dpsolve.solvers.model.factory_signature import build
from dpsolve.solvers.operators.bellman import GridOperator
from dpsolve.solvers.library import savings
shape, sizes = MeshShape(1, 2), {"continuous": False, "n_a": 5_000, "n_z": 25}
partition, mesh = make_partition(savings, sizes, shape), make_mesh(shape)
defaults = {"beta": 0.96, "gamma": 2.0, "r": 0.03, "rho": 0.9, "sigma": 0.1}
def sweep(v):
    return GridOperator(build(savings, defaults, sizes), partition=partition).greedy(v)
spec = PartitionSpec(STATES)
run = jax.shard_map(sweep, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
text = jax.jit(run).lower(jax.ShapeDtypeStruct((5_000, 25), np.float64)).compile().as_text()
print(json.dumps([line for line in text.splitlines() if " all-" in line or "permute(" in line]))
"""


def volume() -> Row:
    """Count the bytes that a sweep of savings at 5,000 x 25 moves between two devices."""
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", VOLUME], env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    moved = 0
    for line in json.loads(done.stdout):
        found = re.search(r"= \(?f64\[([\d,]+)\].*? all-gather", line)
        if found:
            moved += 8 * int(np.prod([int(d) for d in found.group(1).split(",")])) // 2
    least = 8 * 5_000 * 25 // 2
    measured = f"{moved:,} bytes to each device a sweep, the least is {least:,}"
    return "savings 5,000 x 25 on 2 devices, collectives", measured, f"{moved / least:.2f}", ""
