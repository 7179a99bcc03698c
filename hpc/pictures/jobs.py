"""Who solved what when: a row for each worker, from the event log of a store.

A bar is one attempt at a task, from the worker's word that it started to its word that it committed
or gave it back, or to the driver's that it was lost. Later attempts at a task are hatched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsolve.solvers.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dpsolve.hpc.store.event_log import Event

ENDS = {"committed": "committed", "dropped": "given back", "abandoned": "given back",
        "declined": "given back", "lost": "lost"}  # fmt: skip
COLOURS = {"committed": "#0072b2", "given back": "#999999", "lost": "#d55e00",
           "not ended": "#e69f00"}  # fmt: skip
MOST_NAMED = 24


@dataclass(frozen=True)
class Attempt:
    """One attempt at a task.

    Attributes
    ----------
    worker : str
    task : int
    number : int
        1 for the first.
    start, end : float
        Seconds since 1970.
    ending : str
        Of :data:`COLOURS`.
    """

    worker: str
    task: int
    number: int
    start: float
    end: float
    ending: str


def attempts(events: Sequence[Event]) -> list[Attempt]:
    """Return every attempt at a task, in the order in which they began."""
    open_: dict[tuple[str, int], tuple[float, int]] = {}
    tried: Counter[int] = Counter()
    found: list[Attempt] = []
    for event in sorted(events, key=lambda event: event.time):
        if event.task is None:
            continue
        # The driver says of a worker that it was lost; of the rest each worker speaks itself.
        worker = str(event.facts.get("worker") or event.writer)
        key = (worker, event.task)
        if event.what == "started":
            tried[event.task] += 1
            open_[key] = (event.time, tried[event.task])
        elif event.what in ENDS and key in open_:
            start, number = open_.pop(key)
            found.append(Attempt(*key, number, start, event.time, ENDS[event.what]))
    last = max((event.time for event in events), default=0.0)
    found += [Attempt(*key, n, start, last, "not ended") for key, (start, n) in open_.items()]
    return sorted(found, key=lambda attempt: attempt.start)


def draw_timeline(axis: Axes, events: Sequence[Event]) -> None:
    """Draw a row for each worker.

    Raises
    ------
    UsageError
        If no event tells of a task: a sweep in one process keeps no log.
    """
    from matplotlib.patches import Patch

    found = attempts(events)
    if not found:
        raise UsageError(
            "the store's log tells of no task: a sweep in this process (--on local) has neither "
            "jobs nor retries, and keeps none"
        )
    begun = found[0].start
    span = max(each.end for each in found) - begun
    unit, seconds = ("h", 3600.0) if span > 7200 else ("min", 60.0) if span > 120 else ("s", 1.0)
    rows = {worker: i for i, worker in enumerate(dict.fromkeys(each.worker for each in found))}
    for each in found:
        axis.barh(
            rows[each.worker], max(each.end - each.start, span / 500) / seconds,
            left=(each.start - begun) / seconds, height=0.8, color=COLOURS[each.ending],
            edgecolor="white", linewidth=0.5, hatch="///" if each.number > 1 else None,
        )  # fmt: skip
    counted = Counter(each.ending for each in found)
    keys = [Patch(color=c, label=f"{n}: {counted[n]:,}") for n, c in COLOURS.items() if counted[n]]
    if again := sum(each.number > 1 for each in found):
        keys.append(Patch(facecolor="w", edgecolor="0.3", hatch="///", label=f"again: {again:,}"))
    axis.set_ylim(len(rows) - 0.4, -0.6)
    named = rows if len(rows) <= MOST_NAMED else {}
    axis.set_yticks([*named.values()], [name.removeprefix("worker-") for name in named], fontsize=7)
    axis.set_ylabel("" if named else f"{len(rows):,} workers")
    axis.set_xlabel(f"time since the first task began ({unit})")
    axis.set_title("attempts at tasks, by worker", fontsize=9)
    low = (0.5, -0.13)
    axis.legend(
        handles=keys, fontsize=8, loc="upper center", bbox_to_anchor=low, ncols=5, frameon=False
    )
    axis.grid(alpha=0.25, axis="x")
