"""Average rewards in a store: what is kept, verified, loaded, and shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import dpsolve as dp
from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import run_sweep
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
from dpsolve.hpc.verify.stored_point import Stored, examine

MACHINE = '''
import dpsolve as dp
import jax.numpy as jnp

def machine(wear=0.2, beta=1.0):
    """Replacing costs a half; a new machine earns one, a worn one a fifth."""
    moves = jnp.array([[[1 - wear, wear], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    return dp.mdp(jnp.array([[1.0, -jnp.inf], [0.2, -0.5]]), moves, beta)
'''


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "machine.py"
    file.write_text(MACHINE)
    return file


def gain(wear: float) -> float:
    return (1 / wear - 0.5) / (1 / wear + 1)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, ["policy"]])
def test_a_sweep_of_average_rewards(model_file: Path, tmp_path: Path, keep: list[str]) -> None:
    store = tmp_path / "machine.zarr"
    raw = {
        "model": f"{model_file}:machine",
        "grid": {"wear": [0.1, 0.2, 0.4], "beta": [1.0, 0.9]},
        "solve": {"tol": 1e-8, "criterion": "average"},
        "store": {"path": str(store), **({"keep": keep} if keep else {})},
    }
    sweep = sweep_from(raw)
    run_sweep(sweep, resolve(sweep.model), progress=Silent())
    found = dp.open(store)
    assert found.gain.dims == ("wear", "beta")
    assert list(found.status.values[:, 0]) == ["solved"] * 3
    assert list(found.status.values[:, 1]) == ["failed"] * 3
    assert "exactly 1" in str(found.message.values[0, 1])
    for i, wear in enumerate((0.1, 0.2, 0.4)):
        assert found.gain_lower[i, 0] <= gain(wear) <= found.gain_upper[i, 0]
    assert not {"lower", "upper"} & set(found)
    assert dp.verify(store).ok
    loaded = dp.load(store, wear=0.2, beta=1.0)
    assert float(loaded.gain) == pytest.approx(gain(0.2), abs=1e-8)
    assert loaded.status == "solved"
    assert np.asarray(dp.stationary(loaded).mass).sum() == pytest.approx(1.0)


def test_what_is_altered_is_told(model_file: Path) -> None:
    factory = resolve(f"{model_file}:machine").load()
    solution = dp.solve(factory, criterion="average", tol=1e-3, method="vi")
    arrays = {name: np.asarray(x) for name, x in solution.arrays.items()}
    stored = Stored(arrays, float(solution.error_bound))
    assert not examine(factory(), stored).faults

    def faults(**changes: float) -> str:
        return " ".join(examine(factory(), replace(stored, arrays=arrays | changes)).faults)

    shift = float(solution.error_bound)
    assert "gain_lower is" in faults(gain_lower=arrays["gain_lower"] + 0.1 * shift)
    assert "gain_upper is" in faults(gain_upper=arrays["gain_upper"] - 0.1 * shift)
    assert "contradict" in faults(gain=arrays["gain"] + 2 * shift)
    assert "gain is NaN" in faults(gain=np.nan)
    assert "gain_lower is" in faults(value=arrays["value"] + np.array([0.0, 0.1]))
    wrong = {"policy_action": np.array([0, 0]), "policy_index_action": np.array([0, 0])}
    assert "loses" in faults(**wrong)  # type: ignore[arg-type]
    tight = replace(stored, error_bound=shift / 2)
    assert "error_bound claims" in " ".join(examine(factory(), tight).faults)
    discounted = " ".join(examine(factory(beta=0.9), stored).faults)
    assert "discount" in discounted


def run(line: str) -> Result:
    return CliRunner().invoke(cli, line.split(), prog_name="dpsolve")


@pytest.mark.slow
def test_the_command_line(model_file: Path, tmp_path: Path) -> None:
    done = run(f"solve {model_file}:machine --criterion average")
    assert done.exit_code == 0, done.output
    assert "0.75 on average per period" in done.output
    store = tmp_path / "one.zarr"
    line = f"{model_file}:machine --grid wear=0.1,0.2 --criterion average --store {store}"
    assert run(f"sweep {line}").exit_code == 0
    assert run(f"verify {store}").exit_code == 0
    refused = run(f"solve {model_file}:machine")
    assert refused.exit_code == 2
    assert "criterion='average'" in refused.output
