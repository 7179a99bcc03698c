"""Comparing solvers at the same true error, in turn, within one run.

A *contender* is what is timed. Where a solver would take longer than ``LIMIT``, what is timed is a
part of its work (a few sweeps, or sweeps of a part of the states), and ``times`` says how many such
parts the whole has; the row then says that its time is by count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import numpy as np

__all__ = ["LIMIT", "Contender", "Row", "clock", "compare", "loosest", "seconds", "true_error"]

LIMIT = 20.0  # seconds that a peer's solve may take; a longer one is timed in part
Row = tuple[str, str, str, str]  # what, measured, ratio (lowest-highest), target


@dataclass(frozen=True)
class Contender:
    """A solver to be timed.

    Attributes
    ----------
    name : str
        Who it is.
    run : function
        Does the work, or a part of it.
    times : float
        How many such parts the whole has.
    note : str
        What the row says beside the time.
    """

    name: str
    run: Callable[[], Any]
    times: float = 1.0
    note: str = ""

    @property
    def by_count(self) -> bool:
        """Whether the time is of a part, multiplied by a count."""
        return self.times != 1.0


def clock(f: Callable[[], Any]) -> float:
    """Return the seconds that a call takes, its result waited for."""
    began = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - began


def compare(
    what: str,
    ours: Contender,
    peers: Sequence[Contender],
    target: str,
    rounds: int = 3,
) -> list[Row]:
    """Time ours and all peers in turn, `rounds` times; return a row for each peer.

    All have run once before, so that they are compiled.
    The ratio is of the same round, since the machine's speed drifts; the target is held against
    the fastest peer.
    """
    everyone = [ours, *peers]
    taken = np.array([[clock(one.run) * one.times for one in everyone] for _ in range(rounds)])
    ratios = np.sort(taken[:, 1:] / taken[:, :1], axis=0)
    own = f"ours {seconds(float(np.median(taken[:, 0])))}"
    own += f" ({ours.note})" if ours.note else ""
    rows: list[Row] = [(what, own, "", "")]
    rivals = [i for i, peer in enumerate(peers) if not peer.name.startswith("ours")]
    fastest = min(rivals, key=lambda i: float(np.median(taken[:, i + 1])), default=-1)
    for i, peer in enumerate(peers):
        about = "~" if peer.by_count else ""
        told = f"{peer.name}: {about}{seconds(median(taken[:, i + 1]))}"
        told += f" ({peer.note})" if peer.note else ""
        low, mid, high = ratios[0, i], median(ratios[:, i]), ratios[-1, i]
        ratio = f"{about}{mid:.3g} ({low:.3g}-{high:.3g})"
        rows.append((what, told, ratio, target if i == fastest else ""))
    return rows


def true_error(value: Any, reference: Any) -> float:
    """Return the largest distance of a value from the true one, over all states."""
    return float(np.max(np.abs(np.asarray(value) - np.asarray(reference))))


def loosest(
    solve: Callable[[float], Any], reference: Any, wanted: float, tolerances: Iterable[float]
) -> tuple[float, int]:
    """Return the first of a solver's own tolerances with which its *true* error is as wanted.

    `solve` returns a value and a number of sweeps; the sweeps are returned too.

    A rule such as ``max|v' - v| < tol`` promises nothing of the kind by itself, and a solver that
    promises too much should not pay for it: so it is tried, from loose to tight.

    Raises
    ------
    ArithmeticError
        If none will do.
    """
    errors = {}
    for tol in tolerances:
        value, sweeps = solve(tol)
        errors[tol] = true_error(value, reference)
        if errors[tol] <= wanted:
            return tol, int(sweeps)
    raise ArithmeticError(f"no tolerance gives a true error of {wanted:g}: {errors}")


def seconds(x: float) -> str:
    """Word a time."""
    return f"{x * 1e3:.3g} ms" if x < 1 else f"{x:.3g} s" if x < 1e4 else f"{x:.2g} s"
