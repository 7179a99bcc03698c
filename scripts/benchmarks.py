"""Benchmarks, run by ``scripts/bench [NAME ...]``: each compares two programs in turn, in one run.

Both sides are timed alternately, after compilation, and waited for; the median ratio is what
counts, since the machine's speed drifts. Memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dpsolve as dp
from dpsolve.sharding.devices.threads import cores

Row = tuple[str, str, str, str]  # what, measured, ratio (lowest-highest), target
GRID: dict[str, Any] = {"continuous": False}  # what the others solve: choices on the grid


def ratio(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, ...]:
    """Time two callables alternately; return both medians and the ratio's median and range."""

    def clock(f: Callable[[], Any]) -> float:
        began = time.perf_counter()
        jax.block_until_ready(f())
        return time.perf_counter() - began

    clock(ours), clock(other)  # compile
    pairs = [(clock(ours), clock(other)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    a, b = (median(column) for column in zip(*pairs, strict=True))
    return a, b, median(ratios), ratios[0], ratios[-1]


def versus(what: str, against: str, result: tuple[float, ...], target: str) -> Row:
    """Word a comparison."""
    a, b, mid, low, high = result
    measured = f"{a:.3f} s against {b:.3f} s ({against})"
    return what, measured, f"{mid:.1f} ({low:.1f}-{high:.1f})", target


def many() -> list[Row]:
    """Solve growth, 100 points, 1,000 parameter sets: against 300 sweeps of vmapped brute force."""
    points = 1_000
    beta = jnp.linspace(0.90, 0.97, points)
    alpha = jnp.asarray(np.random.default_rng(0).uniform(0.3, 0.4, points))

    def brute(beta: Any, alpha: Any, keep: bool) -> Any:
        k_ss = (alpha / (1 / beta - 0.9)) ** (1 / (1 - alpha))
        k = k_ss * jnp.linspace(0.5, 2.0, 100)

        def reward() -> Any:
            c = k[:, None] ** alpha + 0.9 * k[:, None] - k
            return jnp.where(c > 0, jnp.log(jnp.where(c > 0, c, 1.0)), -jnp.inf)

        kept = reward() if keep else None

        def sweep(_: int, v: Any) -> Any:
            return jnp.max((reward() if kept is None else kept) + beta * v, -1)

        v = jax.lax.fori_loop(0, 300, sweep, jnp.log(k**alpha))
        return v, jnp.argmax(reward() + beta * v, -1)

    def ours() -> Any:
        found = dp.solve_many("growth", {**GRID, "beta": beta, "alpha": alpha}, tol=1e-8)
        assert (found.status == "solved").all()
        return found.value

    rows = []
    for keep, word in ((True, "reward kept"), (False, "reward recomputed")):
        program = jax.jit(jax.vmap(lambda b, a, keep=keep: brute(b, a, keep)))
        result = ratio(ours, lambda p=program: p(beta, alpha), 7)
        rows.append(versus("growth, 1,000 sets to 1e-8", word, result, ">= 5 against the better"))
    return rows


def savings() -> list[Row]:
    """Solve savings 1,000 x 25 to a certified 1e-6: against plain value iteration to the same."""
    params = {**GRID, "gamma": 2.5, "beta": 0.98, "n_a": 1_000, "n_z": 25}
    beta, gamma, r = 0.98, 2.5, 0.03
    chain = dp.rouwenhorst(25, 0.9, 0.1)
    a, z = jnp.linspace(0, 20, 1_000), jnp.exp(chain.values)
    p = jnp.asarray(chain.transition_matrix)

    @jax.jit
    def plain(beta: Any) -> Any:
        c = (1 + r) * a[:, None, None] + z[:, None] - a
        reward = jnp.where(c > 0, jnp.where(c > 0, c, 1.0) ** (1 - gamma) / (1 - gamma), -jnp.inf)

        def sweep(carry: Any) -> Any:
            v, _, k = carry
            tv = jnp.max(reward + beta * (v @ p.T).T, -1)
            return tv, jnp.max(jnp.abs(tv - v)) * beta / (1 - beta), k + 1

        start = (jnp.zeros((1_000, 25)), jnp.inf, 0)
        return jax.lax.while_loop(lambda c: c[1] > 1e-6, sweep, start)

    found: dict[str, Any] = {}

    def ours() -> Any:
        found["ours"] = dp.solve("savings", params, tol=1e-6)
        return found["ours"].value

    def other() -> Any:
        found["other"] = plain(beta)
        return found["other"][0]

    result = ratio(ours, other, 3)
    assert found["ours"].status == "solved"
    gap = float(jnp.max(jnp.abs(found["ours"].value - found["other"][0])))
    assert gap <= 2e-6, gap
    what = f"savings 1,000 x 25 to 1e-6 ({int(found['ours'].iterations)} sweeps)"
    return [versus(what, f"value iteration, {int(found['other'][2])} sweeps", result, ">= 8")]


def sweep() -> list[Row]:
    """Time the whole of a sweep, less imports and compilation: against the bare solve_many.

    What counts is a sweep whose bare solve takes 10 s and more. In the second a point is solved
    about as fast as it is stored; in the third there is next to nothing to solve.
    """
    many = {"beta": {"from": 0.90, "to": 0.97, "points": 2_000}}
    few = {"beta": {"from": 0.90, "to": 0.97, "points": 1_000}}
    slow = {"beta": {"from": 0.95, "to": 0.98, "points": 80}}
    return [
        _sweep_against_bare("savings", {**GRID, "n_a": 1_000, "n_z": 25}, slow, 1e-6, 3, "<= 1.05"),
        _sweep_against_bare("growth", {**GRID, "n_k": 1_000}, many, 1e-8, 3, ""),
        _sweep_against_bare("growth", {**GRID, "n_k": 100}, few, 1e-8, 15, ""),
    ]


def _sweep_against_bare(
    model: str, fixed: dict[str, Any], grid: dict[str, Any], tol: float, rounds: int, target: str
) -> Row:
    from dpsolve.hpc.progress import Silent
    from dpsolve.hpc.run.sweep import run_sweep
    from dpsolve.hpc.sweep_file.fields import sweep_from
    from dpsolve.hpc.sweep_file.model_source import resolve

    ((name, axis),) = grid.items()
    values = np.linspace(axis["from"], axis["to"], axis["points"])
    folder = Path(tempfile.mkdtemp())
    count = iter(range(1_000))

    def bare() -> Any:
        return dp.solve_many(model, {**fixed, name: values}, tol=tol).value

    def whole() -> Any:
        asked = {
            "model": model,
            "fixed": fixed,
            "grid": grid,
            "solve": {"tol": tol},
            "store": {"path": str(folder / f"{next(count)}.zarr")},
        }
        outcome = run_sweep(sweep_from(asked), resolve(model), progress=Silent())
        assert outcome.solved == len(values), outcome

    try:
        a, b, mid, low, high = ratio(bare, whole, rounds)
    finally:
        shutil.rmtree(folder)
    what = (
        f"dpsolve sweep, {len(values):,} points of {model}, {' x '.join(map(str, fixed.values()))}"
    )
    measured = f"{b:.3f} s against {a:.3f} s (solve_many)"
    return what, measured, f"{mid:.3f} ({low:.3f}-{high:.3f})", target


# VmHWM and not ru_maxrss, which a child inherits from the process that started it.
MEMORY = """
import re
from pathlib import Path
import dpsolve as dp
s = dp.solve("savings", {"continuous": False, "n_a": 5_000, "n_z": 25, "gamma": 2.5}, tol=1e-6)
assert s.status == "solved", s.message
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak.group(1)) * 1024, int(s.iterations), s.seconds + s.compile_seconds)
"""


def memory() -> list[Row]:
    """Measure the peak resident memory of a whole process that solves savings at 5,000 x 25."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    peak, sweeps, seconds = done.stdout.split()
    measured = f"{float(peak) / 1e6:.0f} MB, {sweeps} sweeps, {float(seconds):.0f} s with compiling"
    return [("savings 5,000 x 25, whole process", measured, "", "< 1,000 MB")]


def maximum() -> list[Row]:
    """Time one sweep over pairs, policy included: against XLA's max and argmax."""
    from dpsolve.solvers.library import savings as model
    from dpsolve.solvers.operators.bellman import GridOperator

    v = jnp.asarray(np.random.default_rng(0).normal(size=(1_000, 25)))
    operator = GridOperator(model(n_a=1_000, n_z=25, continuous=False))
    reward = jnp.asarray(np.random.default_rng(1).normal(size=(1_000, 25, 1_000)))
    plain = jax.jit(lambda reward, v: (lambda q: (q.max(-1), q.argmax(-1)))(reward + v.T))

    def two_stages(kept: Any, v: Any) -> Any:
        with_kept = copy(operator)
        with_kept.kept = replace(operator.kept, reward=replace(operator.kept.reward, array=kept))
        return with_kept.greedy(v)

    ours, kept = jax.jit(two_stages), operator.kept.reward.array
    result = ratio(lambda: ours(kept, v), lambda: plain(reward, v), 7)
    what = f"one sweep, {result[0] / reward.size * 1e9:.2f} ns a pair"
    return [versus(what, f"argmax, {result[1] / reward.size * 1e9:.2f} ns", result, "")]


def doubling() -> list[Row]:
    """Time a batch of growth models evaluated by path doubling: against BiCGSTAB."""
    from dpsolve.sharding.batches.program import Program
    from dpsolve.solvers.library import growth
    from dpsolve.solvers.operators.base import PolicyOperator
    from dpsolve.solvers.operators.bellman import GridPolicy
    from dpsolve.solvers.options import SolveOptions

    ours, other = (Program(growth, {**GRID, "n_k": 100}, SolveOptions(tol=1e-8)) for _ in range(2))
    ours.compile()
    doubled = GridPolicy.evaluate
    GridPolicy.evaluate = PolicyOperator.evaluate
    other.compile()
    GridPolicy.evaluate = doubled
    n = ours.lanes
    points = {"beta": np.linspace(0.92, 0.95, n), "delta": np.full(n, 0.1)}
    points |= {"alpha": np.linspace(0.3, 0.4, n), "z": np.ones(n)}
    result = ratio(lambda: ours.run(points).code, lambda: other.run(points).code, 60)
    return [versus(f"a batch of {n} growth models, doubling", "BiCGSTAB", result, "")]


def loop() -> list[Row]:
    """Time 14 rounds of prices and defaults, compilation included: against a closure each round."""
    examples = Path(__file__).parent.parent / "examples" / "default.py"
    default = runpy.run_path(str(examples))["default"]
    rounds, shape = 14, (51, 21)

    def closed(q: Any) -> Callable[[], Any]:
        def model(beta: float = 0.953) -> dp.Model:
            return default(beta=beta, q=q)

        return model

    def run(solve: Callable[[Any], dp.Solution]) -> tuple[float, Any]:
        jax.clear_caches()
        began, q = time.perf_counter(), jnp.full(shape, 1 / 1.017)
        for _ in range(rounds):
            found = solve(q)
            at_risk = found.policy["default"][:, :, 0] @ found.transition_matrix("y").T
            q = (1 - at_risk) / 1.017
        return time.perf_counter() - began, q

    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    ours, found = run(lambda q: dp.solve(default, {"q": q}))
    theirs, other = run(lambda q: dp.solve(closed(q)))
    jax.config.update("jax_enable_compilation_cache", kept)
    assert np.array_equal(found, other)
    what = f"default, {rounds} rounds of prices, compiled once"
    measured = f"{ours:.1f} s against {theirs:.1f} s (a program a round)"
    return [(what, measured, f"{theirs / ours:.1f}", "8")]


def slurm() -> list[Row]:
    """Measure what driving a sweep over a real SLURM costs; minutes, and only as root."""
    from bench_slurm import rows

    return rows()


def dispatch() -> list[Row]:
    """Measure what handing tasks to dask's workers costs, against an earlier commit; minutes."""
    from bench_dispatch import rows

    return rows()


def distributions() -> list[Row]:
    """Measure stationary distributions, and systems whose arrays would not fit."""
    from bench_distributions import rows

    return rows()


def devices() -> list[Row]:
    """Measure what several devices and continuous batching gain."""
    from bench_devices import rows

    return rows()


def continuum() -> list[Row]:
    """Measure many models with a continuous choice: against a method written for one of them."""
    from bench_continuum import rows

    return rows()


def tastes() -> list[Row]:
    """Measure Rust's likelihood against NumPy, and a log-sum against a maximum."""
    from bench_tastes import rows

    return rows()


def points() -> list[Row]:
    """Sweep a million points of a tiny model: time and memory of each command, and of a point."""
    from bench_points import rows

    return rows()


def since() -> list[Row]:
    """Measure what is paid for certificates and tests of NaN: against the commit before them."""
    from bench_since import rows

    return rows()


BENCHMARKS = {
    f.__name__: f
    for f in (
        many, savings, sweep, memory, maximum, doubling, loop, distributions, devices, slurm,
        dispatch, continuum, tastes, points, since,
    )
}  # fmt: skip
ON_REQUEST = ("slurm", "dispatch", "since")  # root; the others compare with an earlier commit


def main() -> None:
    """Run the benchmarks named, or all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or [n for n in BENCHMARKS if n not in ON_REQUEST]
    unknown = [n for n in names if n not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark '{unknown[0]}'; there are: {', '.join(BENCHMARKS)}")
    where = f"{jax.devices()[0].platform}, {cores()} cores {platform.machine()}"
    print(f"jax {jax.__version__} on {where}")
    print("| what | measured | ratio (range) | target |\n|---|---|---|---|")
    for name in names:
        for row in BENCHMARKS[name]():
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
