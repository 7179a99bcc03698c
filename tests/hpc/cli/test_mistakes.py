"""What is typed by mistake ends in a sentence and an exit code, never in a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dpsolve.hpc.cli.main import cli
from dpsolve.hpc.run.overwrite import remove_store
from dpsolve.solvers.errors import RefusedError

from ..conftest import files

LONG = "x" * 256
PLAN = [
    "plan",
    "growth",
    "--set=continuous=false",
    "--no-probe",
    "--set=n_k=20",
    "--grid=beta=0.9,0.95",
]
STOCK = """import dpsolve as dp
def stock(beta=0.5, taxed=1, *, n=4):
    return dp.Model(
        states={"x": dp.integers(1, n)},
        choices={"u": dp.integers(0, 1)},
        transition={"x": "x"},
        reward=lambda x, u: 0.9 * x if taxed else 1.0 * x,
        discount=beta,
    )
"""
SWEEP = 'model = "growth"\n[fixed]\nn_k = 20\n[store]\npath = "a.zarr"\n'
FILES = {
    "stock.py": STOCK,
    "stock.toml": 'model = "stock.py:stock"\n[grid]\nbeta = [0.4, 0.5]\n',
    "nul.toml": SWEEP.replace("a.zarr", "a\\u0000.zarr") + "[grid]\nbeta = [0.9, 0.95]\n",
    "long.toml": SWEEP.replace("a.zarr", LONG) + "[grid]\nbeta = [0.9, 0.95]\n",
    "model.toml": '[grid]\nbeta = [0.9]\n[store]\npath = "a.zarr"\n'.join(
        ['model = "a\\u0000.py:f"\n', ""]
    ),
    **{f"{n}.toml": SWEEP + f'[table]\nfile = "{n}.csv"\n' for n in ("bare", "semicolons", "tabs")},
    "bare.csv": "beta\n0_93\n0.95\n",
    "semicolons.csv": "beta;alpha\n0,93;0,3\n",
    "tabs.csv": "beta\talpha\n0.93\t0.3\n",
}
TYPED: dict[str, tuple[list[str], str]] = {
    "size": (["solve", "growth", "--set", "n_k=99999999999"], "n=99,999,999,999"),
    "text": (["solve", "growth", "--set", "alpha='x'"], "parameter 'alpha' is 'x'"),
    "word": (["describe", "growth", "--set", "beta=abc"], "parameter 'beta' is 'abc'"),
    "twice": (["solve", "growth", "--set", "n_k=20", "--set", "n_k=30"], "n_k is 20 already"),
    "axis twice": ([*PLAN, "--grid", "beta=.8,.85"], "given by --grid beta=0.9,0.95 as well"),
    "both": ([*PLAN, "--set", "beta=.9"], "given by --set beta=.9 as well"),
    "tol": ([*PLAN, "--tol", "1e-6", "--with", "solve.tol=1e-8"], "given by --tol as well"),
    "0_93": (["plan", "growth", "--grid", "beta=0_93,0.95"], "takes a number"),
    "points": (["plan", "growth", "--grid", f"beta=0.9:0.95:{10**23}"], "at most 2,147,483,647"),
    "seed": (["verify", "no.zarr", "--seed", "-1"], "seed=-1"),
    "long store": ([*PLAN, "--store", LONG], "has 256 bytes"),
    "long file": (["sweep", f"{LONG}.toml"], "File name too long"),
    "long target": (["status", LONG], "has 256 bytes"),
    "NUL": (["sweep", "growth", "--store", "a\0"], "NUL"),
    "NUL in a file": (["plan", "nul.toml"], "line 5, store.path = "),
    "long in a file": (["plan", "long.toml"], "has 256 bytes"),
    "NUL in a model": (["plan", "model.toml"], "NUL"),
    "underscore in a cell": (["plan", "bare.toml"], "0_93 is not a finite number"),
    "semicolons": (["plan", "semicolons.toml"], "separated by semicolons"),
    "tabs": (["plan", "tabs.toml"], "separated by tabs"),
    "if": (["check", "stock.py"], "the parameter 'taxed'"),
    "if, swept": (["check", "stock.toml"], "the parameter 'taxed'"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def typed(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


@pytest.mark.parametrize("name", TYPED)
def test_it_ends_in_a_sentence(name: str, folder: Path) -> None:
    args, words = TYPED[name]
    result = typed(*args)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == (1 if name in ("long file", "long target") else 2)
    assert words in result.output


def test_underscores_stand_where_toml_has_them(folder: Path) -> None:
    assert (
        typed("plan", "growth", "--no-probe", "--set", "n_k=2_0", "--grid", "z=1,2").exit_code == 0
    )


def test_overwrite_begins_anew_and_touches_no_other_folder(folder: Path) -> None:
    def sweep(grid: str, *more: str) -> Result:
        return typed("sweep", "growth", "--set=continuous=false", "--set=n_k=20", "--grid", grid,
                     "--no-verify", "--store", "a.zarr", *more)  # fmt: skip

    def betas() -> list[float]:
        held = json.loads((folder / "a.zarr" / "zarr.json").read_text(encoding="utf-8"))
        return list(json.loads(held["attributes"]["sweep"])["grid"]["beta"])

    assert sweep("beta=0.9,0.95").exit_code == 0
    assert sweep("beta=0.8,0.85").exit_code == 3
    mistaken = sweep("beta=0.8,0.85", "--keep", "no_such", "--overwrite")
    assert mistaken.exit_code == 2
    assert betas() == [0.9, 0.95]
    assert sweep("beta=0.8,0.85", "--overwrite").exit_code == 0
    assert betas() == [0.8, 0.85]
    assert not [p.name for p in folder.iterdir() if p.name.endswith(".removed")]
    (folder / "own").mkdir()
    (folder / "own" / "thesis.tex").write_text("x", encoding="utf-8")
    refused = typed("sweep", "growth", "--grid", "beta=0.9,0.95", "--store", "own", "--overwrite")
    assert refused.exit_code == 3
    assert (folder / "own" / "thesis.tex").exists()


def test_overwrite_takes_nobody_else_s_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        "sweep",
        "growth",
        "--set=continuous=false",
        "--set=n_k=20",
        "--grid=beta=0.9",
        "--no-verify",
    ]
    assert typed(*made, "--store", "a.zarr").exit_code == 0
    before = files(folder / "a.zarr")
    (folder / "link.zarr").symlink_to("a.zarr")
    linked = typed(*made, "--store", "link.zarr", "--overwrite")
    assert linked.exit_code == 3
    assert "is a link to" in linked.output
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(RefusedError, match="belongs to another user"):
        remove_store(folder / "a.zarr")
    assert files(folder / "a.zarr") == before
    assert (folder / "link.zarr").is_symlink()
