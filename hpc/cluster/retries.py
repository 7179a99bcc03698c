"""Retries: how often a task is tried, by what ended it, and when it is given up.

dask counts losses (`allowed-failures`) and errors (`retries=`) and knows no cause: with its counts
a task that kills every worker is tried as often as one whose jobs are cancelled, and one that took
too much memory is tried with the same batch. So dask hands each loss over, and it is judged here. A
task has a budget for each cause, because causes differ in whose fault they are:

========== ===================================================== ======= =========================
cause      what happened                                         budget  between attempts
========== ===================================================== ======= =========================
error      the task raised an error of its own                         3  nothing changes
memory     it took more memory than it had                             8  its batch is halved
process    its worker process died, and nothing says why               5  nothing changes
job        its job ended: scancel, node failure, preemption           30  nothing changes
disk       the store could not be written                              3  nothing changes
========== ===================================================== ======= =========================

A batch is halved on evidence alone (the worker's own guard, the kernel's count of kills, SLURM's
OUT_OF_MEMORY, what JAX says), because another number of lanes is another program and may differ in
the last digits: a run that was disturbed has to give the same store. What was found to fit is
where later tasks of the same bucket begin.

When the budget of `error`, `memory` or `process` is used up, the task's points are marked `failed`
with the last message, and the sweep goes on: the model cannot be solved there. When that of `job`
or `disk` is, the sweep ends: no other task would fare better. So it does when `HOPELESS` tasks
were given up before any was solved: then the fault is not in the points. And what every task would
meet, because it lies in the worker's environment, is never judged here (:mod:`.error_causes`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Literal

Cause = Literal["error", "memory", "process", "job", "disk"]

BUDGET: dict[Cause, int] = {"error": 3, "memory": 8, "process": 5, "job": 30, "disk": 3}
HOPELESS = 8

_ENDS_SWEEP: frozenset[Cause] = frozenset({"job", "disk"})


@dataclass(frozen=True)
class Verdict:
    """What to do with a task that did not end well.

    Attributes
    ----------
    action : str
        ``retry``; ``give up`` (mark its points failed) or ``stop`` (end the sweep).
    attempt : int
        How often this cause has come, this time included.
    halvings : int
        How often the task's batch is to be halved when it is tried again.
    message : str
        In words.
    """

    action: Literal["retry", "give up", "stop"]
    attempt: int
    halvings: int
    message: str


class Retries:
    """The account of one run of a sweep."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, Counter[Cause]] = defaultdict(Counter)
        self._halvings: Counter[int] = Counter()
        self._fitting: Counter[int] = Counter()  # by bucket
        self._given_up = 0
        self.hopeful = False
        """Whether a task was solved, so that a fault is that of the points that meet it."""

    def solved(self) -> None:
        """Note that a task of this store was solved."""
        self.hopeful = True

    def worked(self, bucket: int, halvings: int) -> bool:
        """Note that a bucket's batch fits when halved so often; return whether that is news."""
        news = halvings > self._fitting[bucket]
        self._fitting[bucket] = max(self._fitting[bucket], halvings)
        return news

    def halvings(self, task: int, bucket: int = 0) -> int:
        """Return how often a task's batch is to be halved."""
        return max(self._halvings[task], self._fitting[bucket])

    def judge(
        self, task: int, cause: Cause, message: str, *, tried: int = 0, smallest: bool = False
    ) -> Verdict:
        """Count a mishap of a task, and decide.

        Parameters
        ----------
        task : int
        cause : str
            One of `BUDGET`.
        message : str
            What was said or seen.
        tried : int
            How often its batch was halved this time.
        smallest : bool
            The batch was one point already, so it cannot be halved.
        """
        self._counts[task][cause] += 1
        count, budget = self._counts[task][cause], BUDGET[cause]
        if cause == "memory":
            self._halvings[task] = max(self._halvings[task], tried + 1)
        if count < budget and not (cause == "memory" and smallest):
            return Verdict("retry", count, self._halvings[task], message)
        if cause in _ENDS_SWEEP:
            return Verdict("stop", count, 0, f"task {task}: {message} ({_times(count)})")
        self._given_up += 1
        if not self.hopeful and self._given_up >= HOPELESS:
            text = (
                f"{self._given_up} tasks failed and none succeeded, so the fault is not in single "
                f"points. The last one says: {message}"
            )
            return Verdict("stop", count, 0, text)
        return Verdict("give up", count, 0, f"{message} ({_times(count)})")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
