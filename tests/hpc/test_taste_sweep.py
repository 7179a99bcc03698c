"""Taste shocks in a sweep: stored, loaded, verified in NumPy, and false claims found."""

from pathlib import Path

import numpy as np
import pytest

import dpsolve as dp

FILE = """
import jax.numpy as jnp
import dpsolve as dp

def worker(beta=0.9, scale=0.3, inner=0.1, *, n_a=8):
    def consumption(a, hours, a_next):
        return 1.04 * a + hours - a_next + 0.1
    return dp.Model(
        states={"a": dp.grid(0.2, 4.0, n_a)},
        choices={"a_next": "a", "hours": [0.0, 0.5, 1.0]},
        transition={"a": "a_next"},
        feasible=lambda a, hours, a_next: consumption(a, hours, a_next) > 0,
        reward=lambda a, hours, a_next: jnp.log(consumption(a, hours, a_next)) - 0.4 * hours**2,
        discount=beta,
        taste_shocks={"hours": dp.nested(scale, {"work": ([0.5, 1.0], inner)})},
        outputs={"consumption": consumption},
    )
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tastes")
    (folder / "worker.py").write_text(FILE)
    path = folder / "worker.zarr"
    keep = ["value", "lower", "upper", "policy", "probability", "consumption", "distribution"]
    dp.sweep(
        f"{folder / 'worker.py'}:worker",
        grid={"beta": [0.9, 0.95], "scale": [0.2, -1.0]},
        moments=["mean_hours"],
        keep=keep,
        store=path,
        quiet=True,
    )
    return path


def test_probabilities_are_stored_by_name_and_a_bad_scale_is_named(store: Path):
    found = dp.open(store)
    assert found["probability_hours"].dims == ("beta", "scale", "a", "hours")
    np.testing.assert_array_equal(found["hours"], [0.0, 0.5, 1.0])
    good = found.sel(scale=0.2)
    assert (good["status"] == "solved").all()
    np.testing.assert_allclose(good["probability_hours"].sum("hours"), 1.0)
    assert (good["probability_error"] < 1e-5).all()
    assert good["policy_a_next"].dims == good["output_consumption"].dims == ("beta", "a", "hours")
    bad = found.sel(scale=-1.0)
    assert (bad["status"] == "failed").all()
    assert "the outer scale" in str(bad["message"].values[0])
    assert "-1" in str(bad["message"].values[0])


def test_what_is_stored_is_verified_and_loaded(store: Path):
    report = dp.verify(store, all_points=True)
    assert report.ok, str(report)
    loaded = dp.load(store, beta=0.95, scale=0.2)
    fresh = dp.solve(loaded.problem.factory, {"beta": 0.95, "scale": 0.2})
    np.testing.assert_allclose(loaded.probability["hours"], fresh.probability["hours"], atol=1e-12)
    assert loaded["consumption"].shape == (8, 3)


def test_false_claims_are_found():
    import importlib.util
    import sys
    import tempfile
    from dataclasses import replace

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "worker_of_tastes.py"
        path.write_text(FILE)
        spec = importlib.util.spec_from_file_location("worker_of_tastes", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["worker_of_tastes"] = module
        spec.loader.exec_module(module)
    found = dp.solve(module.worker, distribution=True)
    assert dp.verify(found).ok

    def claim(**changes):
        arrays = {**found.arrays, **{n: f(np.array(found.arrays[n])) for n, f in changes.items()}}
        return str(dp.verify(replace(found, arrays=arrays)))

    def tilt(p):
        p[2] = p[2] + np.array([1e-3, -1e-3, 0.0])
        return p

    assert "probability_hours at a=" in claim(probability_hours=tilt)
    assert "sums to" in claim(probability_hours=lambda p: p * 1.001)
    assert "likeliest" in claim(
        policy_index_hours=lambda i: (i + 1) % 3, policy_hours=lambda x: np.roll([0, 0.5, 1], -1)[
            np.searchsorted([0, 0.5, 1], x)]
    )  # fmt: skip
    assert "lower" in claim(lower=lambda x: x + 1e-3)


@pytest.mark.slow
def test_the_bus_engine_is_swept_at_a_small_size(root, tmp_path):
    source = f"{root / 'examples' / 'bus_engine.py'}:bus_engine"
    found = dp.sweep(
        source, grid={"RC": [8.0, 10.0]}, fixed={"n_x": 40, "beta": 0.99}, moments=["mean_replace"],
        keep=["value", "probability", "distribution"], store=tmp_path / "bus.zarr", quiet=True,
    )  # fmt: skip
    assert (found["status"] == "solved").all()
    chance = found["probability_replace"].sel(replace=1)
    mean = (found["distribution"] * chance).sum("x")
    np.testing.assert_allclose(found["moment_mean_replace"], mean, rtol=1e-12)
    assert float(mean[0]) > float(mean[1]) > 0.0
