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
    "default": (8, [""]),
    "growth": (1025, [""]),
    "growth_zip": (9, [""]),
    "household": (16, [""]),
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


def test_a_price_loop_compiles_once_and_ends_in_equilibrium(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the schedule found, values of payers and of the excluded by plain iteration in NumPy."""
    example = runpy.run_path(str(root / "examples" / "default.py"))
    n_b, n_y, beta, back = 21, 5, 0.953, 0.282
    with caplog.at_level("INFO", "dpsolve"):
        found, rounds = example["equilibrium"](n_b=n_b, n_y=n_y, tol=1e-10)
    assert rounds > 4
    assert caplog.text.count("compiling default") == 1
    b, p = np.linspace(-0.45, 0.45, n_b), np.asarray(found.transition_matrix("y"))
    y = np.exp(np.asarray(found.grids["y"]))
    q = np.asarray(found.parameters["q"])  # (b', y)
    c = y + b[:, None, None] - (q * b[:, None])  # (b, b', y)
    pay = np.where(c > 0, -1 / np.where(c > 0, c, 1.0), -np.inf)
    excluded = -1 / np.minimum(y, 0.969 * y.mean())
    v, out = np.zeros((n_b, n_y)), np.zeros(n_y)
    for _ in range(600):
        again = excluded + beta * p @ (back * v[n_b // 2] + (1 - back) * out)
        v, out = np.maximum((pay + beta * (v @ p.T)).max(axis=1), again), again
    assert np.abs(np.asarray(found.value)[:, :, 0] - v).max() < 1e-6
    assert np.abs(np.asarray(found.value)[:, :, 1] - out).max() < 1e-6
    chance = (v <= out + 1e-12) @ p.T
    assert np.abs(q - (1 - chance) / 1.017).max() < 1e-9
    assert 0.05 < (q < 0.9 / 1.017).mean() < 0.95


def test_a_law_of_motion_is_what_a_household_does_at_it(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the law found, the household's value by plain iteration in NumPy; debt has a hook."""
    example = runpy.run_path(str(root / "examples" / "overborrowing.py"))
    n_b, n_y, n_next = 12, 2, 83
    with caplog.at_level("INFO", "dpsolve"):
        found, rounds = example["equilibrium"](n_b=n_b, n_y=n_y, n_next=n_next)
    assert rounds > 20
    assert caplog.text.count("compiling household") == 1
    law, p = np.asarray(found.parameters["law"]), np.asarray(found.transition_matrix("y"))
    y, b = np.exp(np.asarray(found.grids["y"])), np.linspace(-1.02, -0.2, n_b)
    after, eta, omega = np.linspace(-1.02, -0.2, n_next), 1 / 0.83 - 1, 0.31
    price = (1 - omega) / omega * (1.04 * b[:, None] + y - law) ** (1 + eta)  # (B, y)
    ratio = ((1 - omega) / (omega * price)) ** (1 / (1 + eta))
    have = 1.04 * b[:, None, None, None] + (y + price)[None, :, :, None] - after
    c = np.maximum(have, 1e-9) / (1 + price * ratio)[..., None]  # (b, B, y, b')
    basket = (omega * c**-eta + (1 - omega) * (c * ratio[..., None]) ** -eta) ** (-1 / eta)
    may = (have > 0) & (after >= -0.3235 * (y + price)[..., None])
    reward, v = np.where(may, -1 / basket, -np.inf), np.zeros((n_b, n_b, n_y))

    def weights(x: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(x, b, row) for row in np.eye(n_b)], axis=-1)

    own, all_ = weights(after), weights(law)  # (b', b), (B, y, B')
    for _ in range(300):
        ahead = np.einsum("kb,Byc,bcz,yz->Byk", own, all_, v, p, optimize=True)
        v = (reward + 0.91 * ahead).max(axis=-1)
    assert np.abs(np.asarray(found.value) - v).max() < 1e-6
    assert law[:, 0].argmin() > 0  # the poorest cannot borrow what the less poor do
