"""``dpsolve verify``: the run of the check and its report.

Three checks, which share no code with the solver:

1. every file, number and coordinate of the store is what was written (:mod:`.audit`);
2. at a seeded sample of points, or at all, the definition of the model confirms the stored bounds,
   policy and outputs (:mod:`.stored_point`, :mod:`.proofs`);
3. the records of each point agree with each other.

What is not confirmed is a fault, with the point named by its parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.model_definition.bellman import Index
from dpsolve.hpc.model_definition.pairs import define
from dpsolve.hpc.progress import Progress, Silent
from dpsolve.hpc.store.damage import open_groups, read_task
from dpsolve.hpc.store.store import open_store
from dpsolve.hpc.store.trust import Trust, trusted
from dpsolve.hpc.terminal_text import printable
from dpsolve.solvers.errors import DamagedError, ModelError, UsageError
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.outcomes import listed
from dpsolve.solvers.solution import Solution

from . import audit
from .distributions import MOST_STATES
from .points import Points, of_solution, of_task
from .proofs import alternatives, axes, menus
from .stored_point import Findings, Stored, examine

if TYPE_CHECKING:
    from dpsolve.hpc.plan.tasks import Task
    from dpsolve.hpc.store.store import Store


MOST_PAIRS = 2**28  # of states and choices to look at, at one point of a sample
SHOWN = 20  # faults in the report
PARTLY = "of the states were looked at"
ARRAY_TOLERANCE = 1e-9  # of a factory's own arrays, relative to the largest entry


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes
    ----------
    target : str
        What was verified.
    points_checked : int
        Points compared with the definition of their model.
    points_total, points_pending, points_failed : int
        Points in all; those not computed yet; those without a result, by their status.
    worst_point : dict of str to float
        Parameters of the checked point with the largest independent error bound.
    worst_residual : float
        Largest Bellman residual, by the definition, of the checked points.
    worst_error : float
        Largest error bound that follows from it; NaN if no point has a value.
    widest : float
        Of models with continuous choices: the largest distance between the verification's own
        bounds on the true value, over the continuum; NaN if there are none.
    claims : tuple of str
        Each claim that failed, as a sentence.
    notes : tuple of str
        What limits the check.
    of_what : str
        What the certified errors are of, in words.
    seconds : float
        Time it took.
    """

    target: str
    points_checked: int
    points_total: int
    points_pending: int
    points_failed: int
    worst_point: dict[str, Any]
    worst_residual: float
    worst_error: float
    claims: tuple[str, ...]
    notes: tuple[str, ...] = ()
    seconds: float = math.nan
    widest: float = math.nan
    of_what: str = ""

    @property
    def ok(self) -> bool:
        """Whether every claim was confirmed."""
        return not self.claims

    def __str__(self) -> str:
        return "\n".join(map(printable, self._lines()))

    def _lines(self) -> Iterator[str]:
        verdict = "verified" if self.ok else f"NOT verified, {len(self.claims)} claims failed"
        yield f"{self.target}: {verdict}"
        parts = [f"{self.points_checked} of {self.points_total} points against the definition"]
        parts += [f"{self.points_failed} failed"] if self.points_failed else []
        parts += [f"{self.points_pending} pending"] if self.points_pending else []
        yield f"  checked    {', '.join(parts)}, in {self.seconds:.1f} s"
        if self.of_what:
            yield f"  claims     certified errors {self.of_what}"
        if not math.isnan(self.worst_error):
            at = listed(self.worst_point)
            if not math.isnan(self.worst_residual):
                yield f"  residual   at most {self.worst_residual:.3g}"
            yield f"  error      at most {self.worst_error:.3g}" + (f" (at {at})" if at else "")
        if not math.isnan(self.widest):
            yield f"  continuum  own bounds of the true value are at most {self.widest:.3g} apart"
        yield from (f"  note: {text}" for text in self.notes)
        yield from (f"  {text}" for text in self.claims[:SHOWN])
        if len(self.claims) > SHOWN:
            yield f"  ... and {len(self.claims) - SHOWN} more"


def verify(
    target: str | Path | Solution,
    *,
    sample: int = 32,
    seed: int = 0,
    all_points: bool = False,
    progress: Progress | None = None,
    trust: Trust = False,
) -> Verification:
    """Check a store or a solution independently of the solver.

    Parameters
    ----------
    target : path or Solution
        A store, or what ``dp.solve`` or ``dp.solve_many`` returned.
    sample : int
        Number of points to compare with the definition of the model; the checksums and records of
        all points are checked in any case.
    seed : int
        Of the draw of these points.
    all_points : bool
        Compare all points, and all states of each.
    progress : Progress, optional
        Told of each point.
    trust : bool or callable
        Run the model that a store keeps, whoever made it (a function is asked with what would
        run). A built-in, or the model of a store that you made, runs unasked.

    Returns
    -------
    Verification
        Its ``ok`` says whether everything was confirmed, ``claims`` what was not.

    Raises
    ------
    StoreError
        If there is no store at the path.
    UsageError
        If the target is neither a path nor a solution, or the sample or the seed is
        negative.
    RefusedError
        If the store's model is not trusted: with what would run.
    """
    if sample < 0:
        raise UsageError(f"sample={sample}; it is a number of points, at least 0")
    if seed < 0:
        raise UsageError(f"seed={seed}; it is a whole number, 0 or above")
    run = _Run(sample, np.random.default_rng(seed), all_points, progress or Silent())
    try:
        if isinstance(target, Solution):
            return run.of_solution(target)
        if isinstance(target, str | Path):
            return run.of_store(Path(target).expanduser(), trust)
    finally:
        run.progress.stop()
    raise UsageError(
        f"verify takes the path of a store, or a solution of dp.solve, not {type(target).__name__}"
    )


def few_points(path: Path, sample: int, seed: int, pairs: int, trust: Trust) -> Verification:
    """Check a store at a few points, reading no other files than those that hold them.

    Parameters
    ----------
    path, sample, seed, trust
        As for :func:`verify`.
    pairs : int
        Of states and choices, to look at most at each point.
    """
    run = _Run(sample, np.random.default_rng(seed), False, Silent(), pairs=pairs, few=True)
    return run.of_store(path, trust)


@dataclass
class _Run:
    """One verification on its way.

    Attributes
    ----------
    sample, random, all_points, progress
        As for :func:`verify`.
    pairs : int
        Of states and choices, to look at most at one point of a sample.
    few : bool
        Look at no other files of a store than those that hold the sample's points.
    """

    sample: int
    random: np.random.Generator
    all_points: bool
    progress: Progress
    pairs: int = field(default_factory=lambda: MOST_PAIRS)
    few: bool = False
    begun: float = field(default_factory=time.perf_counter)
    claims: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)  # ordered, each once
    checked: int = 0
    failed: int = 0
    residual: float = math.nan
    error: float = math.nan
    widest: float = math.nan
    worst: dict[str, Any] = field(default_factory=dict)
    of_what: str = ""

    def result(self, target: str, total: int, pending: int = 0) -> Verification:
        return Verification(
            target=target,
            points_checked=self.checked,
            points_total=total,
            points_pending=pending,
            points_failed=self.failed,
            worst_point=self.worst,
            worst_residual=self.residual,
            worst_error=self.error,
            claims=tuple(self.claims),
            notes=tuple(self.notes),
            seconds=time.perf_counter() - self.begun,
            widest=self.widest,
            of_what=self.of_what,
        )

    def draw(self, candidates: Index) -> Index:
        """Choose which points to compare with the definition."""
        if not self.all_points and candidates.size > self.sample:
            candidates = np.sort(self.random.choice(candidates, self.sample, replace=False))
        self.progress.start(int(candidates.size), 0)
        return candidates

    def of_store(self, path: Path, trust: Trust) -> Verification:
        try:
            held = open_store(path)
        except DamagedError as error:
            self.claims.append(str(error))
            return self.result(str(path), 0)
        self.claims += audit.alterations(held)  # before anything runs that the store holds
        if self.claims:
            return self.result(str(path), held.points)
        coordinates, self.claims = audit.coordinates(path)
        if self.claims:
            return self.result(str(path), held.points)
        self.of_what = held.of_what
        store = trusted(held, trust)
        self.claims += audit.metadata_faults(store)
        if self.claims:  # points would be compared with the wrong parameters
            return self.result(str(path), store.points)
        groups = open_groups(store)
        committed = [task for bucket in store.buckets for task in bucket.committed()]
        done = sum(task.size for task in committed)
        if self.few and len(committed) > self.sample:
            places = self.random.choice(len(committed), self.sample, replace=False)
            committed = [committed[i] for i in np.sort(places)]
        offsets = np.cumsum([0, *(math.prod(b.bucket.shape) for b in store.buckets)])
        chosen = self.draw(_candidates(store, committed, offsets))
        for task in committed:
            bucket = store.buckets[task.bucket]
            group = bucket.bucket.group
            block, faults = read_task(bucket, task, groups[task.bucket])
            self.claims += faults
            here = chosen - offsets[task.bucket] - task.start
            here = here[(here >= 0) & (here < task.size)]
            self.look(of_task(store, bucket, task, block, coordinates.get(group, {})), here)
        return self.result(str(path), store.points, store.points - done)

    def of_solution(self, solution: Solution) -> Verification:
        points, self.of_what = of_solution(solution), solution.of_what
        self.look(points, self.draw(np.flatnonzero(~points.failed)))
        return self.result(solution.problem.name, points.failed.size)

    def look(self, points: Points, chosen: Index) -> None:
        """Compare the records of points with each other, and some with their definition."""
        for bad, text in points.faults():
            if bad.any():
                more = f" (and at {int(bad.sum()) - 1} more points)" if bad.sum() > 1 else ""
                self.say(points.label(int(np.argmax(bad))), text + more)
        self.failed += int(points.failed.sum())
        for i in chosen.tolist():
            self.compare(points, i)

    def compare(self, points: Points, i: int) -> None:
        """Compare one point with the definition of its model."""
        try:
            found = self.examine(points.model(i), points.stored(i), points.coords)
        except ModelError as error:
            found = Findings(faults=[f"the definition cannot be evaluated: {error}"])
        for text in found.faults:
            self.say(points.label(i), text)
        if found.share < 1.0:
            self.notes[
                f"of large points, {found.share:.2g} {PARTLY}; --all looks at all of them"
            ] = None
        self.notes |= dict.fromkeys(found.notes)
        self.widest = float(np.fmax(self.widest, found.width))
        self.residual = float(np.fmax(self.residual, found.residual))
        if not math.isnan(found.error) and not found.error <= self.error:
            self.error, self.worst = found.error, points.parameters(i)
        self.checked += 1
        self.progress.advance(1, 0, 0)

    def examine(self, model: Any, stored: Stored, coords: Mapping[str, NDArray[Any]]) -> Findings:
        """Examine a model's point, or evaluate a factory's own arrays anew."""
        if any(name.startswith("d_") and "_d_" in name[2:] for name in stored.arrays):
            self.notes["gradients are not verified: nothing is certified about them"] = None
        if not isinstance(model, Model | TabularModel):
            return Findings(faults=[*_own_coordinate_faults(model, coords),
                                    *_own_array_faults(model, stored)])  # fmt: skip
        if not {"value", "lower", "upper"} & stored.arrays.keys():
            self.notes[
                "no value and no bounds are stored, so that only policies can be checked"
            ] = None
        if math.isinf(stored.error_bound):
            self.notes[
                "where error_bound is inf nothing is claimed of the value: of such points only "
                "what follows from the policy was checked"
            ] = None
        self.note_distributions(model, stored.arrays)
        found = examine(model, stored, self.some_states(model))
        own = [f"{state}_distribution" for state in axes(model)]
        found.faults += _numbered(coords, {*axes(model), *alternatives(model), *own})
        if {*own, *(f"grid_{name}" for name in own)} & {*coords, *stored.arrays}:
            self.notes[
                "distributions on a grid of their own are only checked to sum to one, and their "
                "moments are not verified"
            ] = None
        return found

    def note_distributions(
        self, model: Model | TabularModel, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """Tell what cannot be checked of distributions and moments."""
        mass = arrays.get("distribution")
        if mass is None and any(name.startswith("moment_") for name in arrays):
            self.notes["moments are not verified, because no distribution is stored"] = None
        if mass is None and "distribution_path" not in arrays:
            return
        if not all({f"policy_{c}", f"policy_index_{c}"} & arrays.keys() for c in _choices(model)):
            self.notes[
                "no policy is stored, so that distributions are only checked to sum to one"
            ] = None
        elif mass is not None and mass.size > MOST_STATES:
            self.notes[
                f"the distance from the stationary distribution is solved for again up to "
                f"{MOST_STATES} states; of larger chains only the residual was checked"
            ] = None

    def some_states(self, model: Model | TabularModel) -> Index | None:
        """Choose the states to look at where there are too many pairs."""
        if isinstance(model, Model) and model.continuous:
            return None  # its linear systems are of all states
        definition = define(model)
        pairs = definition.n * definition.m * definition.width * (definition.horizon or 1)
        if self.all_points or pairs <= self.pairs:
            return None
        count = max(1, definition.n * self.pairs // pairs)
        return np.sort(self.random.choice(definition.n, count, replace=False))

    def say(self, label: str, text: str) -> None:
        self.claims.append(f"{label}: {text}" if label else text)


def _choices(model: Model | TabularModel) -> list[str]:
    return [*menus(model), *(model.continuous if isinstance(model, Model) else ())]


def _candidates(store: Store, committed: list[Task], offsets: Index) -> Index:
    """Return the points that are committed and did not fail, counted over all buckets."""
    found = [np.zeros(0, dtype=np.int64)]
    for task in committed:
        points = offsets[task.bucket] + np.arange(task.start, task.stop)
        try:
            status = store.buckets[task.bucket].record("status", task)
        except ValueError:
            status = None  # damaged, which is told when the task is read
        found.append(points if status is None else points[status != "failed"])
    return np.concatenate(found)


def _numbered(coords: Mapping[str, NDArray[Any]], states: Any) -> Iterator[str]:
    """Check the coordinates that only count: periods, and dimensions of a factory's own arrays."""
    for name, values in coords.items():
        if name not in states and not np.array_equal(values, np.arange(values.size)):
            i = int(np.argmax(values != np.arange(values.size)))
            yield f"{name}: number {i + 1} is stored as {values[i]}, but it counts from 0"


def _own_coordinate_faults(made: Any, coords: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Compare the coordinates of a factory's own arrays with its grids, where it returns some."""
    grids = {f"grid_{name}": values for name, values in coords.items() if f"grid_{name}" in made}
    yield from _own_array_faults({name: made[name] for name in grids}, Stored(grids, math.nan))
    yield from _numbered(coords, [name.removeprefix("grid_") for name in grids])


def _own_array_faults(made: Any, stored: Stored) -> Iterator[str]:
    """Compare a factory's own arrays with those that it returns when it is called again."""
    for name, x in made.items():
        if name not in stored.arrays:
            continue
        meant = np.asarray(x[1] if isinstance(x, tuple) else x)
        held = np.asarray(stored.arrays[name])
        if held.shape != meant.shape:
            yield f"{name} has the shape {held.shape}, but the factory returns {meant.shape}"
            continue
        gap = np.abs(held.astype(float) - meant.astype(float))
        allowed = ARRAY_TOLERANCE * float(np.max(np.abs(meant), initial=0.0))
        if stored.error_bound > 0:  # then two computations may differ by twice the bound
            allowed += 2 * stored.error_bound
        if gap.size and not np.max(gap) <= allowed:
            i = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
            yield (
                f"{name}: entry {i + 1} is stored as {held.flat[i]:.12g}, but the factory returns "
                f"{meant.flat[i]:.12g}"
            )
