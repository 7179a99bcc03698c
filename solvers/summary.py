"""A solution in a line: how it ended, what is certified, and of what."""

from __future__ import annotations

from typing import Any

import numpy as np

from .outcomes import accuracy


def in_a_line(solution: Any) -> str:
    """Return the line, for one point or for many."""
    shape = np.shape(np.asarray(solution.arrays.get("value", solution.code)))
    return _many(solution, shape) if solution.problem.batched else _one(solution, shape)


def _one(solution: Any, shape: tuple[int, ...]) -> str:
    why, status = str(solution.message).rstrip("."), solution.status
    reason = f"{status}{', ' if status == 'solved' else ': '}{why}" if why else "solved"
    if status == "failed":
        return reason
    bound, sweeps = float(solution.error_bound), f"{int(solution.iterations)} sweeps"
    if np.isnan(bound):  # the reason says it
        return f"{reason}, shape {shape}"
    tol = solution.tol
    first, more, rest = solution.of_what.partition("; ")
    certified = " ".join(filter(None, [f"certified error {bound:.2g}", first]))
    if solution.certifies != "continuum":  # which is found by linear systems
        certified += f", {sweeps}"
    if not np.isfinite(bound):
        certified, more, rest = f"nothing certified, {sweeps}", "", ""
    elif "value" not in dict(solution.problem.dims):
        certified = f"error at most {bound:.2g} by the factory's word"
    elif status != "solved" and tol is not None:
        certified += f" (tol {tol:g})"
    return f"{reason}; {certified}, shape {shape}{more}{rest}"


def _many(solution: Any, shape: tuple[int, ...]) -> str:
    """Say how many points ended how, and why the first that is not solved did."""
    status, bounds = np.atleast_1d(solution.status), np.asarray(solution.error_bound)
    words, counts = np.unique(status, return_counts=True)
    each = ", ".join(f"{n:,} {w}" for w, n in zip(words, counts, strict=True))
    parts = [f"{shape[0]:,} points: {each}"]
    if (bounds := bounds[status != "failed"]).size:
        worst = float(np.max(bounds))  # NaN where one has none
        parts += [accuracy(worst, solution.tol, "worst certified error", solution.of_what)]
    if (status != "solved").any():
        first = int(np.argmax(np.where(status == "failed", 2, status == "inexact")))
        parts += [f"point {first} {status[first]}: {np.atleast_1d(solution.message)[first]}"]
    return "; ".join(part.rstrip(".") for part in [*parts, f"shape {shape}"])
