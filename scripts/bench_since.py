"""What has been paid since another commit: ``scripts/bench since``.

Both checkouts solve the same problems, each in a process of its own, in turn: what certificates and
tests of NaN cost is the ratio to a commit that had fewer of them. Processor time counts, since it
is what a loaded machine changes least.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "f28e5d3"  # the last commit whose maxima dropped NaN and whose bounds forgot roundings
ROUNDS = 5

# What is solved, and how often in a row: about a second each.
CASES = {
    "savings 2,000 x 25 to 1e-6": (
        'dp.solve("savings", {**GRID, "n_a": 2_000, "n_z": 25}, tol=1e-6)',
        2,
    ),
    "savings 1,000 x 25, 8 points": (
        'dp.solve_many("savings", '
        '{**GRID, "n_a": 1_000, "n_z": 25, "beta": np.linspace(0.95, 0.98, 8)}, tol=1e-6)',
        1,
    ),
    "growth 100, 512 points": (
        'dp.solve_many("growth", '
        '{**GRID, "n_k": 100, "beta": np.linspace(0.9, 0.97, 512)}, tol=1e-8)',
        10,
    ),
    "growth 512, 100 points": (
        'dp.solve_many("growth", '
        '{**GRID, "n_k": 512, "beta": np.linspace(0.9, 0.97, 100)}, tol=1e-8)',
        5,
    ),
}

# Solves once for the compiler, and then once for every line that it is sent.
CHILD = """
import sys, time
import jax, numpy as np
import dpsolve as dp

GRID = {{"continuous": False}}  # choices on a grid, as they were before there were others
try:
    dp.describe("growth", GRID)
except dp.DpsolveError:
    GRID = {{}}

def solve():
    found = {case}
    assert np.all(np.asarray(found.status) == "solved")

solve()
for _ in sys.stdin:
    began = time.process_time()
    for _ in range({times}):
        solve()
    print(time.process_time() - began, flush=True)
"""


class _Side:
    """One checkout, ready to solve one case as often as it is asked."""

    def __init__(self, checkout: Path, case: str, times: int) -> None:
        source = str(checkout / "src")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(case=case, times=times)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": source},
            cwd=source,
        )

    def seconds(self) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def rows(commit: str = BEFORE) -> list[tuple[str, str, str, str]]:
    """Compare this checkout with a commit of its history, case by case."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), commit], check=True)
        try:
            for what, case in CASES.items():
                sides = _Side(ROOT, *case), _Side(other, *case)
                pairs = [(sides[0].seconds(), sides[1].seconds()) for _ in range(ROUNDS)]
                for side in sides:
                    side.close()
                ratios = sorted(ours / before for ours, before in pairs)
                a, b = (median(column) for column in zip(*pairs, strict=True))
                measured = f"{a:.2f} s of processor time against {b:.2f} s (commit {commit})"
                span = f"{median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
                found.append((what, measured, span, "<= 1.05"))
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    return found
