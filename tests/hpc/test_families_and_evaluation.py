"""The examples of a family of states, a model without a choice, and a shortest path, swept."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import poisson

import dpsolve as dp


@pytest.mark.slow
def test_an_asset_price_is_swept_without_a_choice(root: Path, tmp_path: Path) -> None:
    """Log utility has the ratio beta / (1 - beta) (Lucas 1978); others are a linear system."""
    path = str(root / "examples" / "asset_price.py")
    own = runpy.run_path(path)
    growth, chain = own["GROWTH"], own["CHAIN"]
    store = tmp_path / "assets.zarr"
    ds = dp.sweep(
        f"{path}:asset_price", grid={"beta": [0.9, 0.95], "alpha": [1.0, 2.0]}, store=store,
        keep=["value", "distribution"], tol=1e-10, quiet=True,
    )  # fmt: skip
    for beta in (0.9, 0.95):
        for alpha in (1.0, 2.0):
            pay = growth ** (1 - alpha)
            exact = np.linalg.solve(np.eye(2) - beta * pay[:, None] * chain, pay)
            found = ds.sel(beta=beta, alpha=alpha)
            np.testing.assert_allclose(found["value"], exact, atol=1e-9)
            np.testing.assert_allclose(found["distribution"], [0.5, 0.5], atol=1e-12)
        ratio = beta * chain @ ds["value"].sel(beta=beta, alpha=1.0).values
        np.testing.assert_allclose(ratio, beta / (1 - beta), atol=1e-9)
    assert "verified" in str(dp.verify(store))
    loaded = dp.load(store, beta=0.9, alpha=2.0)
    assert loaded.policy == {}
    assert dp.simulate(loaded, 1, agents=10, periods=3).to_xarray()["x"].shape == (10, 3)


@pytest.mark.slow
def test_perishable_stock_of_one_age_is_the_newsvendors(root: Path, tmp_path: Path) -> None:
    path = str(root / "examples" / "perishable.py")
    store = tmp_path / "perishable.zarr"
    sizes = {"ages": 1, "most": 6}
    ds = dp.sweep(f"{path}:perishable", grid={"mean": [1.0, 3.0]}, fixed=sizes, store=store,
                  tol=1e-9, quiet=True)  # fmt: skip
    beta, price, cost, waste = 0.95, 5.0, 2.0, 1.0
    for mean in (1.0, 3.0):
        demand = np.arange(200)
        p = poisson.pmf(demand, mean)
        stock = np.arange(7)
        sold = (np.minimum(stock[:, None], demand) * p).sum(1)
        pays = price * sold - waste * (stock - sold)
        share = 1 - (cost + beta * waste) / (beta * (price + waste))
        order = int(np.argmax(poisson.cdf(stock, mean) >= share))
        ahead = (pays[order] - cost * order) / (1 - beta)
        found = ds.sel(mean=mean)
        np.testing.assert_array_equal(found["policy_order"], np.full(7, order))
        np.testing.assert_allclose(found["value"], pays - cost * order + beta * ahead, atol=1e-7)
    assert "verified" in str(dp.verify(store))


@pytest.mark.slow
def test_perishable_stock_of_two_ages_is_as_by_hand(root: Path) -> None:
    factory = runpy.run_path(str(root / "examples" / "perishable.py"))["perishable"]
    solution = dp.solve(factory, {"ages": 2, "most": 3}, tol=1e-9)
    beta, price, cost, waste, n = 0.95, 5.0, 2.0, 1.0, 12
    p = poisson.pmf(np.arange(n), 2.0)
    p[-1] += 1.0 - p.sum()
    v = np.zeros((4, 4))
    for _ in range(600):
        new = np.full((4, 4), -np.inf)
        for old, young, order in np.ndindex(4, 4, 4):
            total = -cost * order
            for d, chance in enumerate(p):
                stale = max(old - d, 0)
                fresh = min(young, max(old + young - d, 0))
                total += chance * (
                    price * min(old + young, d) - waste * stale + beta * v[fresh, order]
                )
            new[old, young] = max(new[old, young], total)
        v = new
    assert solution.status == "solved"
    np.testing.assert_allclose(solution.value, v, atol=1e-8)


@pytest.mark.slow
def test_a_shortest_path_is_swept(root: Path, tmp_path: Path) -> None:
    """Each step of the shortest path is tried 1 / (1 - slip) times on average."""
    path = str(root / "examples" / "shortest_path.py")
    store, slips = tmp_path / "paths.zarr", [0.0, 0.5]
    ds = dp.sweep(
        f"{path}:shortest_path", grid={"slip": slips}, fixed={"n": 6}, store=store, quiet=True
    )
    steps = runpy.run_path(path)["distances"](6)
    for slip in slips:
        found = ds["value"].sel(slip=slip).values
        for at, k in steps.items():
            assert abs(found[at] + k / (1 - slip)) <= 1e-6
    assert "verified" in str(dp.verify(store))
