"""What distributions, simulation and the built-in systems cost: ``scripts/bench distributions``."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

import dpsolve as dp

__all__ = ["rows"]

Row = tuple[str, str, str, str]

PEAK = """
import re, time
import dpsolve as dp
began = time.perf_counter()
{body}
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak.group(1)) * 1024, time.perf_counter() - began, found)
"""


def rows() -> list[Row]:
    """Return all rows."""
    return [*stationary(), *firms(), *peaks()]


def stationary() -> list[Row]:
    """Find the distribution of savings at 2,000 x 25: accelerated against plain iteration."""
    patient = {"beta": 0.985, "r": 0.015, "rho": 0.95, "sigma": 0.04}
    return [_stationary({"rho": 0.95}, ""), _stationary(patient, ">= 10 above .99")]


def _stationary(params: dict[str, float], target: str) -> Row:
    solution = dp.solve(
        "savings", {"continuous": False, "n_a": 2_000, "n_z": 25, **params}, tol=1e-5
    )

    def run(method: str, tol: float = 1e-8) -> tuple[Any, float]:
        asked: dict[str, Any] = {"method": method, "tol": tol, "max_iter": 1_000_000}
        jax.block_until_ready(dp.stationary(solution, **asked).mass)  # compile
        began = time.perf_counter()
        found = dp.stationary(solution, **asked)
        jax.block_until_ready(found.mass)
        return found, time.perf_counter() - began

    plain, slow = run("plain")
    before, _ = run("plain", 1e-6)
    fall = float(plain.residual) / float(before.residual)
    second = fall ** (1 / (int(plain.applications) - int(before.applications)))
    ours, quick = run("auto")
    gap = float(np.abs(np.asarray(ours.mass) - np.asarray(plain.mass)).sum())
    assert gap <= float(ours.error_bound) + float(plain.error_bound), gap
    times = int(plain.applications) / int(ours.applications)
    measured = (
        f"{int(ours.applications)} products in {quick:.2f} s against {int(plain.applications)} in "
        f"{slow:.2f} s (plain); residual {float(ours.residual):.0e}, certified distance "
        f"{float(ours.error_bound):.0e}"
    )
    what = f"savings 2,000 x 25, distribution, second eigenvalue {second:.4f}"
    return what, measured, f"{times:.1f} in products", target


def firms() -> list[Row]:
    """Solve firm_quality with 100 bins at 10,000 parameter sets."""
    rng = np.random.default_rng(0)
    params = {"tau": rng.uniform(0.05, 0.15, 10_000), "kappa": rng.uniform(0.01, 0.05, 10_000)}
    dp.solve_many("firm_quality", {k: x[:64] for k, x in params.items()})  # compile
    began = time.perf_counter()
    found = dp.solve_many("firm_quality", params)
    seconds = time.perf_counter() - began
    solved = float((found.status == "solved").mean())
    measured = f"{seconds:.1f} s, {seconds / 10:.2f} ms a set, {solved:.1%} solved"
    return [("firm_quality, N = 100, 10,000 sets", measured, "", "")]


def peaks() -> list[Row]:
    """Measure whole processes whose arrays would not fit, if they were made."""
    bodies = {
        "surface, 20,000 x 20,000": 'found = float(dp.solve("surface", {"n": 20_000})["mean"])',
        "call_option, 10^8 paths": 'found = float(dp.solve("call_option", '
        '{"paths": 100_000_000})["price"])',
    }
    made = []
    for what, body in bodies.items():
        done = subprocess.run(
            [sys.executable, "-c", PEAK.format(body=body)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak, seconds, value = done.stdout.split()
        measured = f"{float(peak) / 1e6:.0f} MB, {float(seconds):.0f} s, {float(value):.10g}"
        made.append((f"{what}, whole process", measured, "", "< 1,000 MB"))
    return made
