"""Compiled programs are found by the next process, are bounded, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpsolve.hpc.run.compiled_programs import ENTRY, OURS, keep_compiled_programs, tidy

SOLVE = """
import dpsolve as dp
from dpsolve.hpc.run.compiled_programs import counting
with counting() as use:
    print(float(dp.solve("cake", {"n_x": 9}).value.sum()))
print(use.hits, use.misses)
"""


def solved(code: str = SOLVE, *, limit: int = 0, **environment: str) -> list[str]:
    """What a process says that solves, with warnings as errors, and files of at most so much."""
    shell = f"ulimit -f {limit}; exec " if limit else "exec "
    done = subprocess.run(
        ["bash", "-c", f'{shell}"$0" "$@"', sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_what_is_broken_goes(tmp_path: Path) -> None:
    told = {"DPSOLVE_CACHE": str(tmp_path / "kept")}
    value, use = solved(**told)
    hits, programs = map(int, use.split())
    assert (hits, programs > 0) == (0, True)
    assert solved(**told) == [value, f"{programs} 0"]

    (folder,) = (tmp_path / "kept").iterdir()
    assert folder.stat().st_mode & 0o777 == (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    entry = max(folder.glob(f"*{ENTRY}"), key=lambda path: path.stat().st_size)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-20])  # as a process leaves it that is killed while it writes
    assert solved(**told)[0] == value  # without a warning
    assert not entry.exists()
    assert solved(**told) == [value, f"{programs - 1} 1"]
    assert len(entry.read_bytes()) > 0.9 * len(whole)

    full = {"DPSOLVE_CACHE": str(tmp_path / "full")}
    assert solved(limit=1, **full) == [value, f"0 {programs}"]  # a disk that takes no more
    assert not list((tmp_path / "full").glob(f"*/{entry.name}"))


def test_off_and_a_folder_of_someone_elses(tmp_path: Path) -> None:
    assert solved(DPSOLVE_CACHE="off")[1] == "0 0"
    told = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "DPSOLVE_CACHE": ""}
    told["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    solved(**told, XDG_CACHE_HOME=str(tmp_path / "ours"))
    assert list(tmp_path.glob(f"*{ENTRY}"))
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("DPSOLVE_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match=r"others can write to .* compiled anew"):
        assert keep_compiled_programs() is None
    assert not list(tmp_path.iterdir())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    folders = [tmp_path / f"{OURS}a", tmp_path / f"{OURS}b"]
    entries = []
    for age, folder in enumerate([*folders, *folders]):
        folder.mkdir(exist_ok=True)
        entries.append(folder / f"{age}{ENTRY}")
        entries[-1].write_bytes(b"\x78\x9c\x03\x00\x00\x00\x00\x01")  # nothing, by zlib
        os.utime(entries[-1], (1e9 - age, 1e9 - age))
    (folders[0] / "broken-cache").write_bytes(b"no program")
    assert tidy(folders[0], most=26) == {folders[0] / "broken-cache", entries[3]}
    assert [entry.exists() for entry in entries] == [True, True, True, False]
