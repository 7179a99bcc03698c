"""More points until a tolerance holds: sizes from n to 2n - 1, whose nodes contain the old ones.

The error over a continuum falls with the square of the grid's step. So a point whose bounds are too
wide by a factor of f is solved anew, cold, on a grid that is finer by about the root of f, rounded
down to a power of two: no finer than steps of one doubling would have come to, and with fewer
programs to compile. It ends where the tolerance holds, where the next grid does not fit into
memory, or where more points no longer narrow the bounds, and says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import floor, isfinite, log
from typing import Any

import numpy as np

from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.inspection.forecast import footprint
from dpsolve.solvers.inspection.limits import memory_of_a_device
from dpsolve.solvers.model.array_factory import rebuild
from dpsolve.solvers.model.factory_signature import Factory, parameter_shapes, signature
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.memory import shown_bytes
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome
from dpsolve.solvers.probability.markov import Markov

GAIN = 0.9  # of the error: what a finer grid leaves at most, where it is of any use
ROUNDING = 64 * EPS  # relative to a grid's ends: how far nodes that are the same may be apart


@dataclass(frozen=True)
class Refinement:
    """The finer grids of one factory at its sizes.

    Attributes
    ----------
    factory, sizes, options
        What is solved, on the grid that was asked for.
    """

    factory: Factory
    sizes: Mapping[str, Any]
    options: SolveOptions
    _limits: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = signature(self.factory)
        for name in self.options.refine:
            if name not in known.sizes:
                what = "a parameter" if name in known.parameters else "no size"
                raise UsageError(
                    f"refine={name!r}: that is {what} of {known.name}."
                    f"{did_you_mean(name, known.sizes)} Its sizes are: "
                    f"{', '.join(known.sizes) or 'none'}."
                )
            n = {**known.sizes, **self.sizes}[name]
            if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2:
                raise UsageError(
                    f"refine={name!r}: {name} is {n!r}; it is a number of points, 2 or more"
                )

    def finer(self, doublings: int) -> dict[str, Any]:
        """Return the sizes, so often doubled."""
        known = {**signature(self.factory).sizes, **self.sizes}
        return {**self.sizes,
                **{n: (known[n] - 1) * 2**doublings + 1 for n in self.options.refine}}  # fmt: skip

    def named(self, doublings: int) -> dict[str, int]:
        """Return the refined sizes under the names that a result has for them."""
        sizes, names = self.finer(doublings), self.options.refine
        return {refined_size(n, names): int(sizes[n]) for n in names}

    def too_large(self, doublings: int) -> str:
        """Say why a grid cannot be solved, or ''."""
        if doublings not in self._limits:
            sizes, has = self.finer(doublings), memory_of_a_device()
            needs = footprint(self.factory, sizes, self.options).bytes
            told = ", ".join(f"{n}={sizes[n]:,}" for n in self.options.refine)
            self._limits[doublings] = (
                f"{told} takes {shown_bytes(needs)} a point, and there are {shown_bytes(has)}"
                if needs > has
                else ""
            )
        return self._limits[doublings]

    def next(self, done: int, error: float) -> int:
        """Return how often to double after `done` times, which left an error; `done` if no more."""
        assert self.options.tol is not None
        more = 1
        if isfinite(error) and error > self.options.tol:
            more = max(1, floor(log(error / self.options.tol, 4)))
        while more and self.too_large(done + more):
            more -= 1
        return done + more

    def why_not(self, done: int, before: float, error: float) -> str:
        """Say why nothing more is tried, or ''."""
        told = ", ".join(f"{n}={x:,}" for n, x in self.finer(done).items()
                         if n in self.options.refine)  # fmt: skip
        if not error <= GAIN * before:
            return f"refine ended at {told}, because more points no longer narrow the bounds"
        if self.next(done, error) == done:
            return f"refine ended at {told}, because {self.too_large(done + 1)}"
        return ""

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse sizes whose nodes do not nest, or that change the model otherwise.

        Parameters
        ----------
        values : mapping of str to float or array
            Parameters at which the model can be built.

        Raises
        ------
        UsageError
            Naming what changes.
        """
        _check_arrays(self.factory, self.sizes, self.finer(1), ", ".join(self.options.refine))
        coarse, fine = (
            rebuild(self.factory, values, sizes) for sizes in (self.sizes, self.finer(1))
        )
        if isinstance(coarse, Model) and isinstance(fine, Model) and coarse.continuous:
            _check_nested(coarse, fine, ", ".join(self.options.refine))


def refined_size(name: str, names: tuple[str, ...]) -> str:
    """Return what a result calls the size that a point was solved at."""
    return "refined_size" if len(names) == 1 else f"refined_size_{name}"


def _check_arrays(
    factory: Factory, sizes: Mapping[str, Any], finer: Mapping[str, Any], names: str
) -> None:
    fine = parameter_shapes(factory, finer)
    for name, shape in parameter_shapes(factory, sizes).items():
        if fine[name] != shape:
            raise UsageError(
                f"refine={names}: parameter '{name}' is an array of shape {shape} with an entry at "
                f"every node, and of {fine[name]} on a finer grid; refine another size, or give "
                "the parameter no dimension of a refined grid and interpolate in it"
            )


def _check_nested(coarse: Model, fine: Model, names: str) -> None:
    if coarse.horizon != fine.horizon:
        raise UsageError(f"refine={names}: the horizon changes with it; refine a grid's size")
    for name, shock in coarse.shocks.items():
        other = fine.shocks[name]
        if not _same(shock.values, other.values) or not (
            callable(shock.probs) or _same(shock.probs, other.probs)
        ):
            raise UsageError(
                f"refine={names}: the shock '{name}' changes with it, so that a finer grid would "
                "be of another model; refine a grid's size"
            )
    moved = False
    for name, spec in coarse.states.items():
        other_spec = fine.states[name]
        if isinstance(spec, Markov) and isinstance(other_spec, Markov):
            same = _same(spec.values, other_spec.values)
            if not (same and _same(spec.transition_matrix, other_spec.transition_matrix)):
                raise UsageError(
                    f"refine={names}: the chain '{name}' changes with it, so that a finer grid "
                    "would be of another model; refine a grid's size"
                )
        elif isinstance(spec, Integers) or not isinstance(other_spec, Grid):
            if not _same(spec.values, other_spec.values):
                raise UsageError(f"refine={names}: the integers '{name}' change with it")
        elif not _same(spec.values, other_spec.values):
            _check_grid(name, np.asarray(spec.values), np.asarray(other_spec.values), names)
            moved = True
    for name, choice in coarse.gridded.items():
        if isinstance(choice, str):
            continue
        if not _same(coarse.grid_of(name).values, fine.grid_of(name).values):
            raise UsageError(f"refine={names}: the values of choice '{name}' change with it")
    if not moved:
        raise UsageError(f"refine={names}: no state's grid gets more points by it")


def _check_grid(name: str, coarse: Any, fine: Any, names: str) -> None:
    reach = ROUNDING * np.max(np.abs(coarse))
    if fine.size == 2 * coarse.size - 1 and np.max(np.abs(fine[::2] - coarse)) <= reach:
        return
    raise UsageError(
        f"refine={names}: the grid of '{name}' has {coarse.size} points, and with the finer size "
        f"{fine.size} that do not contain them; those of dp.grid(lo, hi, n, curve) do, from n to "
        "2n - 1"
    )


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def refined(
    solve: Callable[[Mapping[str, Any]], Any], refinement: Refinement, first: Any
) -> tuple[Any, str]:
    """Solve one point on finer grids until its tolerance holds.

    Parameters
    ----------
    solve : function
        From sizes to a solution.
    refinement : Refinement
    first : Solution
        That on the grid that was asked for, which is too coarse.

    Returns
    -------
    found : Solution
    why : str
        Why it ended, '' if by the tolerance, or by something else than too few points.
    """
    found, done, before = first, 0, np.inf
    while int(found.code) == Outcome.TOO_COARSE:
        error = float(found.error_bound)
        if why := refinement.why_not(done, before, error):
            return found, why
        done, before = refinement.next(done, error), error
        found = solve(refinement.finer(done))
    return found, ""
