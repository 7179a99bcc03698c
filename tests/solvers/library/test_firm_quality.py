"""Firm quality: reference numbers, an independent matrix, methods that agree, leaks told."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.stats import norm

import dpsolve as dp

NUMBERS = json.loads((Path(__file__).parents[2] / "systems.json").read_text())["firm_quality"]
DIRECT = ["linear", "eigenvector", "null_space", "gth"]


def raw_matrix(
    tau: float = 0.1, lam: float = 1.1, kappa: float = 0.02, mu: float = 0.0, sigma: float = 0.3,
    delta: float = 0.1, q_max: float = 5.0, n: int = 100,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Entry and transitions, bin by bin, with what leaks left out."""
    edges = np.linspace(0, q_max, n + 1)
    with np.errstate(divide="ignore"):
        entry = np.diff(norm.cdf((np.log(edges) - mu) / sigma))
    entry /= entry.sum()
    p = np.zeros((n, n))
    drift = 1 - delta * tau * math.log(lam)
    for chance, factor in ((1 - delta * tau, drift), (delta * tau, drift * lam)):
        for i in range(n):
            low, high = edges[i] * factor, edges[i + 1] * factor
            for j in range(n):
                part = min(high, edges[j + 1]) - max(low, edges[j])
                p[i, j] += chance * max(part, 0.0) / (high - low)
    return entry, (1 - delta * kappa) * p + delta * kappa * entry


def stationary(p: np.ndarray) -> np.ndarray:
    n = len(p)
    return np.linalg.solve(np.eye(n) - p.T + 1 / n, np.full(n, 1 / n))


@pytest.mark.slow
@pytest.mark.parametrize("method", DIRECT)
def test_every_method_reaches_the_reference(method: str) -> None:
    found = dp.solve("firm_quality", {"method": method}, tol=1e-9)
    assert found.status == "solved", found.message
    distribution = np.asarray(found["distribution"])
    np.testing.assert_allclose(distribution, NUMBERS["distribution"], rtol=0, atol=1e-12)
    for name, number in NUMBERS["stationary"].items():
        assert float(found[name]) == pytest.approx(number, abs=2e-12), name
    # What is claimed of the distance holds against the reference, which is not exact either.
    gap = np.abs(distribution - NUMBERS["distribution"]).sum()
    assert gap <= float(found.error_bound) + 1e-13
    assert float(found.error_bound) <= 1e-9
    assert float(found.residual) <= 1e-13
    assert float(found["leak"]) == pytest.approx(1 - NUMBERS["raw_row_sum_min"], rel=1e-12)


def test_plain_iteration_claims_no_convergence_that_it_did_not_reach() -> None:
    found = dp.solve("firm_quality", {"method": "plain", "max_iter": 4000})
    assert found.status == "inexact"
    assert "above tol" in found.message
    distribution = np.asarray(found["distribution"])
    gap = np.abs(distribution - NUMBERS["distribution"])
    assert gap.max() == pytest.approx(NUMBERS["plain_4000_sup"], rel=1e-3)
    assert gap.sum() == pytest.approx(NUMBERS["plain_4000_l1"], rel=1e-3)
    assert gap.sum() <= float(found.error_bound)
    for name, number in NUMBERS["plain_4000"].items():
        assert float(found[name]) == pytest.approx(number, rel=1e-9), name
    # One step more moves it by a share 1 - |lambda_2| of what is missing: the residual is small
    # because convergence is slow, and not because it is near.
    rate = float(found.residual) / gap.sum()
    assert rate == pytest.approx(1 - NUMBERS["second_eigenvalue"], rel=0.15)


@pytest.mark.slow
def test_the_path_of_distributions_passes_the_snapshots() -> None:
    found = dp.solve("firm_quality", {"periods": 4000})
    path = np.asarray(found["distribution_path"])
    assert path.shape == (4001, 100)
    assert found.to_xarray()["distribution_path"].dims == ("time", "quality")
    for t, (mean, *_) in NUMBERS["snapshots"].items():
        assert float(found["mean_path"][int(t)]) == pytest.approx(mean, rel=1e-12)
    np.testing.assert_allclose(found["mass_path"], 1.0, atol=1e-12)
    mean, sd = NUMBERS["entry"]["mean"], NUMBERS["entry"]["sd"]
    middle = np.asarray(found.to_xarray()["quality"])
    np.testing.assert_allclose(middle, np.arange(100) * 0.05 + 0.025)
    np.testing.assert_array_equal(path[0], found["entry"])
    assert path[0] @ middle == pytest.approx(mean, rel=1e-13)
    assert path[0] @ (middle - mean) ** 2 == pytest.approx(sd**2, rel=1e-12)


@pytest.mark.slow
def test_without_exit_the_point_is_refused_and_the_leak_can_be_looked_at() -> None:
    with pytest.raises(dp.ModelError, match=r"without exit .* mass leaks past the last bin"):
        dp.solve("firm_quality", {"kappa": 0.0})
    many = dp.solve_many("firm_quality", {"kappa": np.array([0.02, 0.0])})
    assert list(many.status) == ["solved", "failed"]
    assert "without exit" in many.message[1]
    assert np.isnan(many["distribution"][1]).all()

    raw = dp.solve("firm_quality", {"kappa": 0.0, "rows": "raw", "periods": 4000})
    assert raw.status == "solved"
    assert "distribution" not in raw.arrays
    for t, (_, mass, mean) in NUMBERS["snapshots"].items():
        assert float(raw["mass_path"][int(t)]) == pytest.approx(mass, rel=1e-11)
        assert float(raw["mean_path"][int(t)]) == pytest.approx(mean, rel=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tau": 0.3, "lam": 1.4, "kappa": 0.05, "n": 30},
        {"lam": 0.8, "mu": 0.2, "sigma": 0.7, "delta": 0.5, "q_max": 8.0, "n": 41},
    ],
)
def test_an_independent_matrix_gives_the_same(given: dict[str, Any]) -> None:
    found = dp.solve("firm_quality", given)
    entry, raw = raw_matrix(**given)
    p = raw / raw.sum(1, keepdims=True)
    mu = stationary(p)
    np.testing.assert_allclose(found["entry"], entry, atol=1e-14)
    np.testing.assert_allclose(found["distribution"], mu, atol=1e-12)
    assert float(found["leak"]) == pytest.approx(1 - raw.sum(1).min(), abs=1e-14)
    assert float(found["leak_mass"]) == pytest.approx(mu @ (1 - raw.sum(1)), abs=1e-14)
    q_max = given.get("q_max", 5.0)
    edges, cumulated = np.linspace(0, q_max, len(mu) + 1), np.append(0, np.cumsum(mu))
    for name, p in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        i = int(np.searchsorted(cumulated, p)) - 1
        at = edges[i] + (p - cumulated[i]) / mu[i] * (edges[1] - edges[0])
        assert float(found[name]) == pytest.approx(at, abs=1e-11)


@pytest.mark.parametrize(("name", "x"), [("kappa", 0.03), ("tau", 0.11)])
@pytest.mark.slow
def test_derivatives_are_those_of_the_stationary_distribution(name: str, x: float) -> None:
    def mean(x: Any, method: str = "linear") -> Any:
        return dp.solve("firm_quality", {name: x, "n": 40, "method": method})["mean"]

    h = 1e-5
    slope = (float(mean(x + h)) - float(mean(x - h))) / (2 * h)
    assert float(jax.grad(mean)(x)) == pytest.approx(slope, rel=1e-6)
    assert float(jax.jacfwd(mean)(x)) == pytest.approx(slope, rel=1e-6)
    assert float(jax.grad(mean)(x, "plain")) == pytest.approx(slope, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"tau": 11.0}, "must be probabilities"),
        ({"sigma": 0.0}, "must be above 0"),
        ({"rows": "open"}, '"normalised" or "raw"'),
        ({"rows": "raw"}, "add periods"),
        ({"method": "magic"}, "linear"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], text: str) -> None:
    with pytest.raises((dp.ModelError, dp.UsageError), match=text):
        dp.solve("firm_quality", given)
