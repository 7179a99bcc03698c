"""What a solve of ours did, by count: reward evaluations and bytes, beside the least there is.

A full certificate needs every reward once: states × choices. Where the rewards over all pairs are
kept (``memory`` of the options), they are evaluated once, and each sweep reads them all. Where they
are not, divide and conquer finds the value (monotone.py), each of its sweeps looking at about
``m log2 n`` pairs for each value of the other states, and the last sweep is over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import dpsolve as dp

from .machine import Machine

__all__ = ["Work", "work"]


@dataclass(frozen=True)
class Work:
    """Reward evaluations and bytes of memory of one solve.

    Attributes
    ----------
    evaluations : float
        Rewards computed.
    least : float
        Rewards that a certificate needs.
    moved : float
        Bytes that the sweeps read and write, from memory or from a cache.
    """

    evaluations: float
    least: float
    moved: float

    def told(self, taken: float, machine: Machine, per_second: float) -> str:
        """Word it for a solve of `taken` seconds; rewards can be had at `per_second` at best."""
        return (
            f"{self.evaluations:.2g} rewards, {self.evaluations / self.least:.2g} times the least; "
            f"{self.moved / 1e6:.3g} MB touched, "
            f"{self.moved / taken / machine.bytes_per_second:.0%} of what memory delivers; "
            f"{self.evaluations / taken / per_second:.0%} of the arithmetic"
        )


def work(states: int, choices: int, sweeps: int, *, others: int = 1, sampled: float = 1.0) -> Work:
    """Count one solve.

    Parameters
    ----------
    states, choices : int
        Points of the whole state space, and choices at each.
    sweeps : int
        ``Solution.iterations``: all sweeps, the last of them over all pairs.
    others : int
        Points of the states along which the choice does not rise (the shocks).
    sampled : float
        Share of the states that the certificate looks at.
    """
    pairs = float(states) * choices
    if 8 * pairs <= dp.SolveOptions().memory:
        return Work(pairs, pairs, 8 * pairs * (sweeps + 1))
    along = states // others
    search = others * choices * max(1.0, log2(along)) * (sweeps - 1)
    evaluations = sampled * pairs + search
    return Work(evaluations, sampled * pairs, 8 * (search + 3 * states * sweeps))
