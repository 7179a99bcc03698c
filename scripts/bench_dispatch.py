"""What handing tasks out costs: run by ``scripts/bench dispatch [COMMIT]``.

Sweeps over a dask cluster of this machine's, with four workers, alternately by this code and by
that of another commit (the last one with a dispatcher of its own, if none is named):

- a thousand tasks that take next to nothing, where the way to a worker and back is all there is;
- tasks that sleep 0.02 to 0.5 s (so that cores do not matter), in few and in many buckets, and few
  tasks for many workers. There the sum over the workers is the time that cannot be beaten.

Each side runs in a process of its own, with its code first in the path of Python; what is timed is
a sweep whose programs are compiled, by workers that did one before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Row = tuple[str, str, str, str]  # as in benchmarks.py: what, measured, ratio, target

BEFORE = "a1df056"
WORKERS = 4
ROUNDS = 3
ROOT = Path(__file__).resolve().parents[1]

MODEL = '''
import time
import jax, jax.numpy as jnp, numpy as np

def nap(seconds):
    time.sleep(float(np.nansum(seconds)))
    return np.asarray(seconds)

def sleepy(length=0.0, other=0.0, *, n=1):
    """Sleeps as long as it is told to."""
    scalar = jax.ShapeDtypeStruct((), jnp.float64)
    return {"x": jax.pure_callback(nap, scalar, length, vmap_method="broadcast_all") + other * n}

def tiny(a=1.0):
    """A product."""
    return {"x": 2 * a}
'''

UNEVEN = {"1 bucket of 60": (1, 60), "3 buckets of 20": (3, 20), "20 buckets of 3": (20, 3),
          "1 bucket of 7": (1, 7)}  # fmt: skip


def uneven(buckets: int, each: int) -> list[float]:
    """Return how long tasks sleep, over all buckets the same."""
    rng = np.random.default_rng(each)
    return [float(x) for x in rng.choice([0.02, 0.05, 0.1, 0.5], each)]


def side(folder: str) -> None:
    """Time one side's sweeps; print them as JSON. This runs in a process of its own."""
    from distributed import LocalCluster

    from dpsolve.hpc.cluster.dask_executor import DaskExecutor
    from dpsolve.hpc.cluster.dask_settings import quiet_dask
    from dpsolve.hpc.progress import Silent
    from dpsolve.hpc.run.sweep import run_sweep
    from dpsolve.hpc.sweep_file.fields import sweep_from
    from dpsolve.hpc.sweep_file.model_source import resolve

    model = Path(folder) / "naps.py"
    model.write_text(MODEL)
    made = iter(range(1_000))

    def seconds(address: str, name: str, **tables: Any) -> float:
        store = {"path": f"{folder}/{next(made)}.zarr", "points_per_task": 1}
        asked = {"model": f"{model}:{name}", "store": store, "solve": {"verify": 0}} | tables
        began = time.perf_counter()
        outcome = run_sweep(sweep_from(asked), resolve(asked["model"]), progress=Silent(),
                            executor=DaskExecutor(address))  # fmt: skip
        assert outcome.exit_code == 0, outcome
        return time.perf_counter() - began

    found: dict[str, float] = {}
    with quiet_dask(), LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        warm = {"grid": {"a": [float(i) for i in range(4 * WORKERS)]}}
        seconds(address, "tiny", **warm)
        thousand = {"grid": {"a": {"from": 0.0, "to": 1.0, "points": 1_000}}}
        used = time.process_time()  # of this process: dask's scheduler, and the driver
        found["1,000 tiny tasks"] = seconds(address, "tiny", **thousand)
        found["1,000 tiny tasks, scheduler's and driver's processor time"] = (
            time.process_time() - used
        )
        for what, (buckets, each) in UNEVEN.items():
            lengths = uneven(buckets, each)
            places = {"length": lengths, "other": [float(i) for i in range(each)]}
            sizes = {"grid": {"n": [*range(1, buckets + 1)]}} if buckets > 1 else {}
            found[what] = seconds(address, "sleepy", zip=places, **sizes)
    print(json.dumps(found))


def timed(source: Path) -> dict[str, float]:
    """Run `side` with the code of a tree."""
    folder = tempfile.mkdtemp(prefix="dpsolve-bench-")
    try:
        words = [sys.executable, __file__, "side", folder]
        ours = os.environ | {"PYTHONPATH": str(source / "src"), "JAX_PLATFORMS": "cpu",
                             "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}  # fmt: skip
        done = subprocess.run(words, env=ours, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_tree(commit: str, use: Callable[[Path], list[Row]]) -> list[Row]:
    """Use a tree of another commit, which is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dpsolve-tree-")) / "tree"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", str(folder), commit], check=True, capture_output=True)
    try:
        return use(folder)
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)
        shutil.rmtree(folder.parent, ignore_errors=True)


def compared(before: Path) -> list[Row]:
    """Time both sides in turn."""
    pairs = [(timed(ROOT), timed(before)) for _ in range(ROUNDS)]
    rows = []
    for what in pairs[0][0]:
        ours, theirs = (sorted(pair[i][what] for pair in pairs) for i in (0, 1))
        ratios = sorted(pair[1][what] / pair[0][what] for pair in pairs)
        least = ""
        if what in UNEVEN:
            buckets, each = UNEVEN[what]
            least = f"; {sum(uneven(buckets, each)) * buckets / WORKERS:.2f} s at the least"
        measured = f"{median(ours):.2f} s against {median(theirs):.2f} s before{least}"
        rows.append((f"{what}, {WORKERS} workers", measured,
                     f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})", "~1"))  # fmt: skip
    return rows


def rows(commit: str = BEFORE) -> list[Row]:
    """Take all figures."""
    return in_tree(commit, compared)


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        side(sys.argv[2])
    else:
        for row in rows(*sys.argv[1:2]):
            print(" | ".join(row))
