"""What a million points of a tiny model cost: ``scripts/bench points``.

Each command is a process of its own, whose processor time (all of its threads), largest memory and
wall time the system tells. What a point costs is the difference of two sweeps, so that imports and
compiling drop out; what ten times as many would cost is the same line drawn on, and is not
measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY, MORE = 100_000, 1_000_000, 10_000_000
COSTS = 100

# Five ages of a machine that is kept or replaced.
MODEL = """
import jax.numpy as jnp
import dpsolve as dp

def machine(beta=0.9, cost=1.0):
    return dp.Model(
        states={"age": dp.integers(0, 4)},
        choices={"replace": dp.integers(0, 1)},
        transition={"age": lambda age, replace: jnp.minimum((1 - replace) * (age + 1), 4)},
        reward=lambda age, replace: -replace * cost - 0.3 * age * (1 - replace),
        discount=beta,
    )
"""


class Use(NamedTuple):
    """What a process took: seconds of processor time, seconds, bytes of memory at most."""

    busy: float
    wall: float
    memory: int


def rows() -> list[tuple[str, str, str, str]]:
    """Sweep twice, and look at the larger store."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "machine.py").write_text(MODEL)
        _run(folder, "sweep", *_grid(10 * COSTS), "--store", "first.zarr")  # compiles
        few, many = (_run(folder, "sweep", *_grid(n), "--store", f"{n}.zarr") for n in (FEW, MANY))
        plan = _run(folder, "plan", *_grid(MANY), "--store", "planned.zarr")
        status = _run(folder, "status", f"{MANY}.zarr")
        files = {
            n: [p for p in (folder / f"{n}.zarr").rglob("*") if p.is_file()] for n in (FEW, MANY)
        }
        size = {n: sum(p.stat().st_size for p in found) for n, found in files.items()}
    each, slow = ((b - a) / (MANY - FEW) for a, b in zip(few[:2], many[:2], strict=True))

    def drawn_on(a: float, b: float) -> float:
        return b + (b - a) / (MANY - FEW) * (MORE - MANY)

    memory = drawn_on(few.memory, many.memory) / 2**20
    on_paper = (
        f"{drawn_on(few.busy, many.busy):,.0f} s of processor time, {memory:,.0f} MiB, "
        f"{drawn_on(len(files[FEW]), len(files[MANY])):,.0f} files, "
        f"{drawn_on(size[FEW], size[MANY]) / 2**30:.1f} GiB"
    )
    stored = f"{len(files[MANY]):,} files, {size[MANY] / 2**20:,.0f} MiB"
    return [
        (f"plan of {MANY:,} points, its probe included", _worded(plan), "", "<= 5 s"),
        (
            f"sweep of {MANY:,} points, a point",
            f"{each * 1e6:.1f} us of processor time, {slow * 1e6:.1f} us",
            "",
            "<= 50 us",
        ),
        (f"sweep of {MANY:,} points, all", f"{_worded(many)}; {stored}", "", "<= 1,024 MiB"),
        (f"status of {MANY:,} points", _worded(status).rpartition(",")[0], "", "<= 1 s"),
        (f"{MORE:,} points, on paper", on_paper, "", ""),
    ]


def _grid(points: int) -> tuple[str, ...]:
    betas = points // COSTS
    return "machine.py:machine", "--grid", f"beta=0.5:0.9:{betas}", "--grid", f"cost=1:2:{COSTS}"


def _run(folder: Path, *arguments: str) -> Use:
    """Run a command in a folder, in a process of its own."""
    paths = {"PYTHONPATH": str(ROOT / "src"), "DPSOLVE_CACHE": str(folder / "programs")}
    began = time.perf_counter()
    with open(folder / "output.txt", "w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "dpsolve", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **paths},
        )
        _, code, use = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(code)
    if code:
        raise SystemExit((folder / "output.txt").read_text())
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return Use(use.ru_utime + use.ru_stime, time.perf_counter() - began, use.ru_maxrss * scale)


def _worded(use: Use) -> str:
    busy, wall, memory = use
    return f"{busy:.1f} s of processor time, {wall:.1f} s, {memory / 2**20:,.0f} MiB"
