"""The shipped examples: every sweep file is valid, and job search agrees with its closed form."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

import dpsolve as dp
from dpsolve.hpc.plan.design import make_design
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.sweep_file.reader import read_sweep

SIZES = {
    "ascent": (20, [""]),
    "bus_engine": (400, [""]),
    "call_option": (21, [""]),
    "firm_quality": (57, [""]),
    "solow": (123, [""]),
    "surface": (21, ["n=80", "n=400", "n=2000"]),
    "cake": (30, ["n_x=50", "n_x=100", "n_x=200"]),
    "calibrations": (5, [""]),
    "growth": (1025, [""]),
    "growth_zip": (9, [""]),
    "job_search": (45, [""]),
    "savings": (36, [""]),
    "savings_sobol": (128, [""]),
}


def test_every_example_is_known_here(root: Path) -> None:
    assert {path.stem for path in (root / "examples").glob("*.toml")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_every_example_is_valid(root: Path, name: str) -> None:
    path = root / "examples" / f"{name}.toml"
    reading = read_sweep(path)
    design = make_design(reading.sweep, reading.signature)
    assert (design.size, [bucket.group for bucket in design.buckets]) == SIZES[name]
    assert reading.sweep.store.path == f"{name}.zarr"
    assert f"dpsolve sweep examples/{name}.toml" in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.0, 0.05])
def test_job_search_agrees_with_its_closed_form(root: Path, separation: float) -> None:
    """One unknown, the value E of a fresh offer, solves E = mean max(b + beta E, W(w; E))."""
    beta, benefit, n = 0.96, 0.6, 41
    w = np.linspace(0.5, 1.5, n)

    def at_work(e: float) -> np.ndarray:
        return (w + beta * separation * e) / (1 - beta * (1 - separation))

    def excess(e: float) -> float:
        return float(np.maximum(benefit + beta * e, at_work(e)).mean() - e)

    e = brentq(excess, 0.0, 100.0, xtol=1e-13)
    factory = resolve("examples/job_search.py:job_search", root).load()
    solution = dp.solve(factory, {"benefit": benefit, "separation": separation, "n_w": n}, tol=1e-9)
    value = np.asarray(solution.value)
    assert solution.status == "solved"
    np.testing.assert_allclose(value[:, 1], at_work(e), atol=1e-9)
    np.testing.assert_allclose(value[:, 0], np.maximum(benefit + beta * e, at_work(e)), atol=1e-9)
    np.testing.assert_array_equal(solution.policy["work"][:, 0], at_work(e) > benefit + beta * e)


@pytest.mark.slow
def test_what_policies_of_other_codes_lose_is_bounded(root: Path) -> None:
    peers = runpy.run_path(str(root / "examples" / "peers.py"))
    losses = peers["losses"](nodes=60, points=40)
    by_euler, by_search = (
        [losses[f"{code}, {points}"][0] for points in ("curved", "even")]
        for code in ("endogenous grid", "value iteration")
    )
    assert all(0.0 < loss < np.inf for loss in (*by_euler, *by_search))
    assert by_euler[0] < by_euler[1]  # few points where the policy bends
    assert by_euler[0] < 0.3 * by_search[0]
    assert by_euler[1] < 0.3 * by_search[1]
