"""What a first call compiles: ``scripts/bench compile``, this checkout beside an earlier commit.

Each call is made in a process of its own, with no compiled programs on disk. Processor time counts,
told apart by what JAX says it has just done; operations are those of the programs that are handed
to XLA, programs how many there are. Rows with "quick" compile as the tests do, without LLVM's
optimisations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "4f9a09e"  # the last commit whose searches, expansions and linear systems had copies
QUICK = "--xla_backend_optimization_level=0"

CASES = {
    "savings": 'dp.solve("savings")',
    "savings, choices on the grid": 'dp.solve("savings", {"continuous": False})',
    "savings, stationary": 'dp.stationary(dp.solve("savings"))',
    "savings, stationary, on the grid": 'dp.stationary(dp.solve("savings", {"continuous": False}))',
    "growth": 'dp.solve("growth")',
}

CHILD = """
import collections, json, sys, time
import jax
import dpsolve as dp
from jax import monitoring

STAGES = {{
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}}
spent, programs, since = collections.Counter(), 0, time.process_time()

def heard(event, duration_secs, **_):
    global programs, since
    if event not in STAGES:
        return
    now = time.process_time()
    spent[STAGES[event]] += now - since
    programs, since = programs + (STAGES[event] == "compile"), now

monitoring.register_event_duration_secs_listener(heard)
since = began = time.process_time()
{case}
print(json.dumps({{**spent, "programs": programs, "whole": time.process_time() - began}}))
"""


def measured(checkout: Path, case: str, quick: bool) -> dict[str, float]:
    """Make a first call in a new process; return seconds of each stage, and sizes."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK if quick else ''}".strip()
        more = {
            "PYTHONPATH": str(checkout / "src"),
            "DPSOLVE_CACHE": "off",
            "JAX_DUMP_IR_TO": folder,
            "XLA_FLAGS": flags,
        }
        told = subprocess.run(
            [sys.executable, "-c", CHILD.format(case=case)],
            capture_output=True, text=True, check=True, env=os.environ | more, cwd=folder,
        )  # fmt: skip
        lines = (line for path in Path(folder).rglob("*.mlir") for line in path.open())
        operations = sum(" = " in line for line in lines)
    return {**json.loads(told.stdout.splitlines()[-1]), "operations": operations}


def rows(commit: str = BEFORE) -> list[tuple[str, str, str, str]]:
    """Compare this checkout with a commit of its history, case by case."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), commit], check=True)
        try:
            for quick in (False, True):
                for what, case in CASES.items():
                    ours, before = (measured(at, case, quick) for at in (ROOT, other))
                    name = f"{what}, quick" if quick else what
                    share = f"{ours['whole'] / before['whole']:.2f}"
                    found.append((name, f"{worded(ours)}; before {worded(before)}", share, ""))
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    return found


def worded(told: dict[str, float]) -> str:
    """Say what a first call took."""
    stages = " + ".join(f"{told.get(stage, 0.0):.1f}" for stage in ("trace", "lower", "compile"))
    return (
        f"{told['whole']:.1f} s ({stages}), {told['operations']:,.0f} operations in "
        f"{told['programs']:.0f} programs"
    )
