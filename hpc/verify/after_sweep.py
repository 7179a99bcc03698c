"""The check that ends a sweep: a few points, drawn by a seed, against the model's definition.

It is what ``dpsolve verify`` does, kept small: of every point as many states as :data:`PAIRS`
allow, and of the store's files those of the tasks that hold these points. What would take long is
left out, and said.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpsolve.hpc.store.store import Store, open_store

from .verification import PARTLY, SHOWN, Verification, few_points

if TYPE_CHECKING:
    from dpsolve.hpc.sweep_file.model_source import ModelSource


PAIRS = 2**20  # of states and choices to look at, at each point
MOST_BYTES = 2**30  # of a task, all of which is read
MOST_SECONDS = 2.0  # that a point of a factory's own arrays took: it is computed anew


# How the names of a model's arrays begin; a factory's own are computed anew, at what that costs.
OF_MODELS = ("value", "policy_", "distribution", "moment_", "output_")


@dataclass(frozen=True)
class FinalCheck:
    """What the check at the end of a sweep found.

    Attributes
    ----------
    store : Path
    found : Verification or None
        None where it was left out.
    why_not : str
        The reason, in words.
    """

    store: Path
    found: Verification | None
    why_not: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was found that is not as the store says."""
        return self.found is None or self.found.ok

    def lines(self) -> Iterator[str]:
        """Yield the lines of a summary."""
        full = f"dpsolve verify {shlex.quote(str(self.store))}"
        if self.found is None:
            yield f"  verified    not here, because {self.why_not}: {full}"
            return
        some = f"{self.found.points_checked} of {self.found.points_total:,} points"
        if self.found.ok:
            part = ", some states of each" * any(PARTLY in note for note in self.found.notes)
            yield (
                f"  verified    {some} against the model's definition{part}, in "
                f"{self.found.seconds:.1f} s"
            )
            return
        claims = self.found.claims
        yield f"  NOT VERIFIED: of {some}, {len(claims)} claims are not confirmed"
        yield from (f"              {text}" for text in claims[:SHOWN])


def check_sweep(
    path: Path, points: int, seed: int = 0, source: ModelSource | None = None
) -> FinalCheck:
    """Verify a few points of a store that is complete.

    Parameters
    ----------
    path : Path
        Of the store.
    points : int
        How many.
    seed : int
        Of the draw.
    source : ModelSource, optional
        The model that the sweep ran, which runs here in place of the stored one.
    """
    store = open_store(path)
    if why_not := _too_much(store):
        return FinalCheck(path, None, why_not)
    return FinalCheck(path, few_points(path, points, seed, PAIRS, source or False))


def _too_much(store: Store) -> str:
    """Return why the check would take too long, or an empty string."""
    for bucket in store.buckets:
        held = sum(array.nbytes for array in bucket.results.values()) / len(bucket.tasks)
        if held > MOST_BYTES:
            return f"a task holds {held / 2**30:.1f} GiB"
        if any(name.startswith(OF_MODELS) for name in bucket.results):
            continue
        first = bucket.record("seconds", bucket.tasks[0])
        took = math.nan if first is None else float(np.nanmedian(np.asarray(first, float)))
        if took > MOST_SECONDS:
            return f"a point took {took:.0f} s and would be computed again"
    return ""
