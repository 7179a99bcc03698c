"""The README: what it prints runs as it is printed, in a folder with the examples beside it."""

from __future__ import annotations

import linecache
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib
import pytest
from click.testing import CliRunner

import dpsolve as dp
from dpsolve.hpc.cli.main import cli

# What takes devices or a cluster is read and not run, and so is what asks for a store of theirs.
ELSEWHERE = {"--mesh", "slurm", "submit", "savings.zarr"}


@pytest.fixture
def blocks(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    shutil.copytree(root / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    text = (root / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def run_as_printed(blocks: list[tuple[str, str]], *, small: bool) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for kind, body in blocks:
        if kind == "python":
            if small and "dp.open" not in body:
                continue
            names.setdefault("dp", dp)
            cell = f"<README {len(names)}>"  # its source can be looked up, as that of a notebook
            linecache.cache[cell] = (len(body), None, body.splitlines(keepends=True), cell)
            exec(compile(body, cell, "exec"), names)
        elif kind == "toml":
            said = re.match(r"# (\S+) — run with: dpsolve sweep (\S+)", body)
            assert said is not None
            assert said[1] == said[2]
            Path(said[1]).write_text(body, encoding="utf-8")
        else:
            for line in body.splitlines():
                type_in(line, small=small)
    return names


def type_in(line: str, *, small: bool) -> None:
    program, *args = shlex.split(line, comments=True)
    if program.startswith("scripts/"):
        return
    command = cli.commands[args[0]]
    if ELSEWHERE & set(args) or (small and args[0] == "plan"):  # it probes for some ten seconds
        read = command.make_context(args[0], args[1:])
        target = read.params.get("target", "")
        assert target.endswith(".toml") is bool(target)
        assert not target or Path(target).is_file()
        return
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_its_commands_and_files_run_as_printed(blocks: list[tuple[str, str]]) -> None:
    assert {kind for kind, _ in blocks} == {"console", "python", "toml"}
    names = run_as_printed(blocks, small=True)
    assert names["ds"].sizes["beta"] == 40


@pytest.mark.slow
def test_all_of_it_runs_as_printed(blocks: list[tuple[str, str]]) -> None:
    names = run_as_printed(blocks, small=False)
    assert names["many"].value.shape == (100, 200, 7)
    assert set(names["many"].status) == {"solved"}


def test_what_it_says_of_choices_and_named_arrays_holds() -> None:
    def values(beta: float = 0.9) -> dict[str, Any]:
        x = jnp.linspace(0.0, 1.0, 4)
        return {"ev": (("x",), beta * x), "p_replace": (("x",), x**2), "grid_x": x}

    found = dp.solve(values).to_xarray()
    assert found.ev.dims == found.p_replace.dims == ("x",)
    assert found.ev.sel(x=1.0) == pytest.approx(0.9)

    def eat(beta: float = 0.9, *, fine: bool = False) -> dp.Model:
        return dp.Model(
            states={"w": dp.grid(0.1, 1.0, 10)},
            choices={"left": dp.grid(0.1, 1.0, 181) if fine else "w"},
            transition={"w": "left"},
            feasible=lambda w, left: w - left + 1e-9 > 0.0,
            reward=lambda w, left: jnp.sqrt(jnp.maximum(w - left, 0.0)),
            discount=beta,
        )

    coarse, fine = (dp.solve(eat, {"fine": fine}).value for fine in (False, True))
    assert (fine >= coarse - 1e-6).all()
    assert (fine > coarse + 1e-3).any()
