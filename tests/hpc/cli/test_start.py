"""``dpsolve init`` and ``dpsolve completion``: what they write runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import dpsolve as dp
from dpsolve.hpc.cli.main import cli


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, arguments, prog_name="dpsolve")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


def test_a_first_model_is_whole_and_well_formed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = run("init", "my paper")
    assert (code, text.splitlines()[-1]) == (0, "next  cd 'my paper'; dpsolve sweep sweep.toml")
    ruff = Path(sys.executable).with_name("ruff")
    for check in (["check"], ["format", "--check"]):
        subprocess.run([ruff, *check, "--isolated", "my paper"], check=True)
    monkeypatch.chdir(tmp_path / "my paper")
    code, text = run("check", "sweep.toml")
    assert (code, text[:35]) == (0, "sweep.toml: 16 points, no fault fou")


@pytest.mark.parametrize("name", ["model.py", "sweep.toml"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, text = run("init", str(tmp_path))
    assert code == 3
    assert f"{tmp_path / name} exists, and nothing was written" in text
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "mine")]
    code, text = run("init", str(tmp_path / name))
    assert (code, "is no folder" in text) == (2, True)


@pytest.mark.slow
def test_the_first_sweep_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fewer points than it comes with: the same files, program and arrays."""
    monkeypatch.chdir(tmp_path)
    assert run("init")[0] == 0
    code, text = run("sweep", "sweep.toml", "--set", "n_a=30", "--set", "n_z=2")
    assert (code, "16 points: 16 solved" in text) == (0, True), text
    found = dp.open("household.zarr")
    assert found.sizes == {"r": 8, "gamma": 2, "a": 30, "z": 2}
    assert (found.lower <= found.value).all()
    assert (found.concavity == 2).all()  # proved, and not only declared
    supply = found.moment_mean_a.diff("r")
    assert (supply > 0).all()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_is_told_how_to_complete(shell: str) -> None:
    code, text = run("completion", shell)
    assert (code, f"_DPSOLVE_COMPLETE={shell}_complete" in text) == (0, True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("dpsolve comp", "plain,completion"), ("dpsolve plot --v", "plain,--var"),
     ("dpsolve status swe", "file,swe")],
)  # fmt: skip
def test_what_is_typed_is_completed(typed: str, offered: str) -> None:
    at = str(len(typed.split()) - 1)
    asked = {"_DPSOLVE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": at}
    command = [sys.executable, "-m", "dpsolve"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == [offered]
