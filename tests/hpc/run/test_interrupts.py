"""Ctrl-C ends a command, once or pressed again and again, whatever its threads are doing."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dpsolve.hpc.run.interrupts import interruptible

# A call into C that no signal reaches, as the compiler's is none; it takes minutes.
HOLDS_ON = """
import hashlib, pathlib

def stuck(a=1.0):
    pathlib.Path("begun").touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    return {"x": a}
"""


def test_what_stays_in_compiled_code_can_be_interrupted() -> None:
    began = time.monotonic()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**7))
    assert time.monotonic() - began < 3.0
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


@pytest.mark.parametrize("presses", [1, 5])
@pytest.mark.parametrize("words", [["plan", "--grid", "a=1,2"], ["solve"]], ids=["plan", "solve"])
def test_ctrl_c_ends_a_command_with_130_at_once(
    tmp_path: Path, words: list[str], presses: int
) -> None:
    (tmp_path / "stuck.py").write_text(HOLDS_ON)
    process = subprocess.Popen(
        [sys.executable, "-m", "dpsolve", words[0], "stuck.py:stuck", *words[1:]],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    sent = time.monotonic()
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert time.monotonic() - sent < 5
    assert "Traceback" not in error


SLOW = """
import jax

def slow(a=1.0):
    return {"x": jax.lax.fori_loop(0, (a * 1e9).astype(int), lambda i, x: x * 0.5 + a, a)}
"""


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.3])
def test_a_sweep_that_is_interrupted_again_and_again_ends_with_130(
    tmp_path: Path, pause: float
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    given = ["--grid", "a=1e-9,1000", "--with", "store.points_per_task=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dpsolve", "sweep", "slow.py:slow", *given],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "slow.zarr" / "status" / "c.0").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    for _ in range(8):
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "Traceback" not in error


SCRIPT = """
from dpsolve.hpc.progress import Silent
from dpsolve.hpc.run.sweep import run_sweep
from dpsolve.hpc.sweep_file.fields import sweep_from
from dpsolve.hpc.sweep_file.model_source import resolve
sweep = sweep_from({"model": "slow.py:slow", "grid": {"a": [1e-9, 1000.0]},
                    "store": {"path": "slow.zarr", "points_per_task": 1}})
run_sweep(sweep, resolve(sweep.model), progress=Silent())
"""


@pytest.mark.slow
def test_a_script_that_is_interrupted_twice_does_not_abort(tmp_path: Path) -> None:
    """The second Ctrl-C comes while the first one waits for the solve, which goes on."""
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "slow.zarr" / "status" / "c.0").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.5)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
