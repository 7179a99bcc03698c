"""Decision processes from files of arrays: dense and sparse, npz and Zarr, by either name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from scipy.sparse import csr_array

import dpsolve as dp
from dpsolve.hpc.cli.main import cli

# Puterman (1994), example 3.1: two states; v* = (-8.5714..., -20) at a discount of 0.95.
R = np.array([[5.0, 10.0], [-1.0, -np.inf]])
P = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.5, 0.5]]])
TRUE = np.array([-8.571428571428571, -20.0])
PAIRS = {"states": [0, 0, 1], "actions": [0, 1, 0], "R": R[[0, 0, 1], [0, 1, 0]],
         "P": P[[0, 0, 1], [0, 1, 0]], "beta": 0.95}  # fmt: skip


def sparse(name: str = "P") -> dict[str, np.ndarray]:
    p = csr_array(PAIRS["P"])
    parts = {"data": p.data, "indices": p.indices, "indptr": p.indptr, "shape": np.array(p.shape)}
    return {k: x for k, x in PAIRS.items() if k != "P"} | {
        f"{name}_{k}": x for k, x in parts.items()
    }


FILES = {
    "product": {"R": R, "P": P, "beta": 0.95},
    "pairs": PAIRS,
    "sparse": sparse(),
    "quantecon": {"R": PAIRS["R"], "Q": PAIRS["P"], "beta": np.array([0.95]),
                  "s_indices": [0, 0, 1], "a_indices": [0, 1, 0]},
    "quantecon_sparse": sparse("Q"),
}  # fmt: skip


def written(path: Path, arrays: dict[str, object]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        group = zarr.create_group(str(path))
        for name, x in arrays.items():
            group.create_array(name.replace("_", "/", 1) if name.startswith("P_") else name,
                               data=np.asarray(x))  # fmt: skip
    return path


@pytest.mark.parametrize("kind", FILES)
def test_every_form_is_read(tmp_path: Path, kind: str) -> None:
    made = [dp.read_mdp(written(tmp_path / f"m.{end}", FILES[kind])) for end in ("npz", "zarr")]
    for model in made:
        p = model.transition
        assert model.discount == 0.95
        assert model.shape == (2,)
        if kind == "product":
            np.testing.assert_array_equal(p, P)
        else:
            np.testing.assert_array_equal(model.state_index, [0, 0, 1])
            np.testing.assert_array_equal(model.reward, [5.0, 10.0, -1.0])
            dense = np.asarray(p @ np.eye(2)[0]) if "sparse" in kind else p[:, 0]
            np.testing.assert_array_equal(dense, [0.5, 0.0, 0.0])


def test_a_file_is_solved_swept_and_verified_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "two-state.npz", FILES["quantecon_sparse"])
    run = CliRunner().invoke

    done = run(cli, ["solve", "two-state.npz", "--tol", "1e-8"])
    assert done.exit_code == 0, done.output
    assert "solved" in done.output

    done = run(
        cli, ["sweep", "two-state.npz", "--grid=beta=0.9,0.95", "--store=s.zarr", "--tol=1e-8"]
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(dp.open("s.zarr")["value"].sel(beta=0.95), TRUE, atol=1e-7)
    done = run(cli, ["verify", "s.zarr", "--trust"])
    assert done.exit_code == 0, done.output

    # Other arrays at that path are not what the store was computed from.
    written(tmp_path / "two-state.npz", FILES["sparse"] | {"R": [5.0, 11.0, -1.0]})
    done = run(cli, ["verify", "s.zarr", "--trust"])
    assert done.exit_code != 0
    assert "others than before" in done.output


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"P": P}, ["no array 'R'", "It has: P"]),
        ({"R": R, "P": P, "betta": 0.9}, ["'betta'", "beta"]),
        ({"R": R, "P": P, "Q": P}, ["'P' twice", "'Q'"]),
        ({"R": R, "P": P, "beta": [0.9, 0.8]}, ["beta has shape (2,)"]),
        ({"R": R, "P": P}, ["no array 'beta'", "--set beta"]),
        ({k: x for k, x in sparse().items() if k != "P_shape"}, ["P_shape is missing"]),
        ({"R": R, "P": 1.01 * P, "beta": 0.9}, ["sums to 1.01"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, arrays, words) -> None:
    with pytest.raises(dp.DpsolveError) as refused:
        dp.read_mdp(written(tmp_path / "m.npz", arrays))
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(dp.UsageError, match="there is no file"):
        dp.read_mdp(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("R")
    with pytest.raises(dp.UsageError, match="cannot read the arrays"):
        dp.read_mdp(tmp_path / "text.npz")
