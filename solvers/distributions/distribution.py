"""``Distribution``: what ``dp.stationary`` and ``dp.path`` return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.labelled import TIME, labelled
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.numerics.arrays import AnyArray, Numpy
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.outcomes import Outcome, sentence, word
from dpsolve.solvers.solution import Problem, refuse_uncertified, where_certified

from .finer_grid import lived_dims
from .solved_points import at_points, fixed_policy, horizon_of
from .top_mass import PREFIX

if TYPE_CHECKING:
    import xarray


# Numbers of a distribution, and what they are called beside those of the solution.
NUMBERS = {
    "residual": "distribution_residual",
    "error_bound": "distribution_error",
    "period": "distribution_period",
}


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Distribution:
    r"""A distribution over the states, or a path of them.

    The mass has the states' axes in the model's order; before them the axis of time for a path,
    and before everything the axis of points for many points. The other numbers have the axis of
    points alone.

    Attributes
    ----------
    mass : array (states...), or (time, states...), or (points, ...)
        Nonnegative, with sum 1.
    residual : float
        :math:`\lVert P^\top\mu - \mu \rVert_1`; of a path, the distance of its last step.
    total, smallest : float
        Sum of the masses (of a path: the one farthest from 1), and the smallest of them.
    error_bound : float
        Certified L1 distance from the stationary distribution; of a path, what rounding can have
        done. It is inf where nothing is certified.
    applications : int
        Products with the chain that it took; the certificate's own are in `certificate`.
    period : int
        Of the recurrent class; 0 where there is not one class, or for a path.
    status : str, or array of str
        ``solved`` (certified within tol), ``inexact``, or ``failed`` as the solution is.
    message : str, or array of str
        Why, in a sentence.
    grids : dict of str to array (n,)
        The states' values.
    """

    arrays: Mapping[str, Array] = field(repr=False)
    parameters: Mapping[str, AnyArray]
    policy_index: Mapping[str, AnyArray] = field(repr=False)
    grids: Mapping[str, AnyArray] = field(repr=False)
    problem: Problem | None = field(default=None, repr=False)
    is_path: bool = False
    messages: str | Numpy | None = field(default=None, repr=False)

    @property
    def mass(self) -> Array:
        """The distribution (states...), or (time, states...); of many points, (points, ...)."""
        return self.arrays["mass"]

    @property
    def residual(self) -> Array:
        """L1 distance that one step moves it by: a number, or (points,)."""
        return self.arrays["residual"]

    @property
    def total(self) -> Array:
        """Sum of the masses: a number, or (points,)."""
        return self.arrays["total"]

    @property
    def smallest(self) -> Array:
        """Smallest mass: a number, or (points,)."""
        return self.arrays["smallest"]

    @property
    def error_bound(self) -> Array:
        """Certified L1 distance from the true distribution: a number, or (points,)."""
        return self.arrays["error_bound"]

    @property
    def applications(self) -> Array:
        """Products with the chain that it took: a number, or (points,)."""
        return self.arrays["applications"]

    @property
    def certificate(self) -> Array:
        """Products with the chain that its certificate took: a number, or (points,)."""
        return self.arrays["certificate"]

    @property
    def period(self) -> Array:
        """Period of the recurrent class: a number, or (points,)."""
        return self.arrays["period"]

    @property
    def code(self) -> Array:
        """The :class:`~.outcomes.Outcome`, as a number, or (points,)."""
        return self.arrays["code"]

    @property
    def batched(self) -> bool:
        """Whether arrays have a leading axis of points."""
        return self.problem is not None and self.problem.batched

    @property
    def status(self) -> str | Numpy:
        """How it ended: ``solved``, ``inexact`` or ``failed``; not to be had inside a trace."""
        return word(self.code)

    @property
    def message(self) -> str | Numpy:
        """Why, in a sentence; empty when there is nothing to say."""
        if self.messages is not None:
            return self.messages
        if not self.batched:
            return explain_distribution(
                {k: np.asarray(x) for k, x in self.arrays.items()}, self.grids
            )
        arrays = {k: np.asarray(x) for k, x in self.arrays.items() if k != "mass"}
        words = [
            explain_distribution(
                {k: x[i] for k, x in arrays.items()},
                {k: np.asarray(x)[i] for k, x in self.grids.items()},
            )
            for i in range(len(arrays["code"]))
        ]
        return np.array(words, dtype=object)

    def __repr__(self) -> str:
        name = self.problem.name if self.problem is not None else "a chain"
        kind = "Path" if self.is_path else "Distribution"
        if not is_concrete(self.arrays):
            return f"<{kind} of {name}, traced>"
        shape = np.shape(self.mass)
        if self.batched:
            words, counts = np.unique(self.status, return_counts=True)
            summary = ", ".join(f"{n} {w}" for w, n in zip(words, counts, strict=True))
            return f"<{kind} of {name}: {shape[0]} points: {summary}>"
        turns = f", period {int(self.period)}" if int(self.period) > 1 else ""
        if self.status != "solved" and self.message:
            return f"<{kind} of {name}: {self.status}: {self.message}; shape {shape}>"
        return (
            f"<{kind} of {name}: {self.status}, certified distance {float(self.error_bound):.2g}, "
            f"{int(self.applications)} applications{turns}, shape {shape}>"
        )

    # -- labelled results -----------------------------------------------------------------------

    def to_xarray(self) -> xarray.Dataset:
        """Return an ``xarray.Dataset``, with the names that a store has.

        The mass is ``distribution``, over the states (``distribution_path`` with ``time`` first for
        a path), after ``point`` for many points. A state with points of the distribution's own has
        the dimension ``<state>_distribution``. States' values are coordinates, named
        ``grid_<state>`` where they differ between points.
        """
        sizes = () if self.problem is None else self.problem.options.distribution_grid
        dims = lived_dims(tuple(self.grids), sizes)
        named: list[tuple[str, tuple[str, ...], AnyArray]] = [
            (f"grid_{dim}", (dim,), x) for dim, x in zip(dims, self.grids.values(), strict=True)
        ]
        if self.is_path:
            named.append(("distribution_path", (TIME, *dims), self.mass))
        else:
            named.append(("distribution", dims, self.mass))
        numbers = {to: self.arrays[name] for name, to in NUMBERS.items()}
        numbers |= {name: x for name, x in self.arrays.items() if name.startswith(PREFIX)}
        return labelled(self, named, numbers, self.batched)

    # -- moments --------------------------------------------------------------------------------

    def moments(
        self,
        asked: str | Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]],
        *,
        uncertified: bool = False,
    ) -> dict[str, Array]:
        """Compute moments under the distribution; they have derivatives where it has.

        Moments of a distribution that is not certified may be anything: they are given where they
        are asked for, by `uncertified`. Else they are refused, or, where no error can be raised for
        one of many points or inside a trace, they are NaN.

        Parameters
        ----------
        asked : str, list of str and functions, or dict of functions
            Names (``mean_a``, ``gini_a``, ``p90_consumption``, ``moments`` for the usual ones; see
            :mod:`.moments`), or functions of states, choices, shocks and outputs.
        uncertified : bool
            Whether moments are wanted of a distribution whose status is ``inexact``, too.

        Returns
        -------
        dict of str to array ()
            A number each; (time,) for a path, and (points, ...) for many points. After the last
            period of a finite horizon nothing is chosen: there, moments of states alone are
            numbers, and those of choices and outputs are NaN.

        Raises
        ------
        UsageError
            If there is no moment of that name; if the distribution is one, and not certified.
        """
        if not uncertified and is_concrete(self.arrays) and not self.batched:
            refuse_uncertified(self.code, self.error_bound, self.message, "uncertified=True")
        found = self._moments(asked)
        if uncertified:
            return found
        return where_certified(found, self.code == Outcome.SOLVED)

    def _moments(
        self, asked: str | Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]]
    ) -> dict[str, Array]:
        from .moments import moments_of, of_states

        if self.problem is None:
            (values,) = self.grids.values()
            return moments_of(Grid(values), None, self.mass, asked)
        problem = self.problem
        horizon = horizon_of(problem, self.policy_index)
        after_all: set[str] = set()  # what needs no choice

        def at_time(
            parameters: Any, index: Any, mass: Array, t: Array | None = None
        ) -> dict[str, Array]:
            if t is not None:
                index = {c: i.at[t].get(mode="clip") for c, i in index.items()}
            made, fixed = fixed_policy(problem, parameters, index, t)
            after_all.update(of_states(made, asked))
            return moments_of(made, fixed, mass, asked)

        def one(parameters: Any, index: Any, mass: Array) -> dict[str, Array]:
            if not self.is_path:
                return at_time(parameters, index, mass)
            if horizon is None:
                return jax.vmap(partial(at_time, parameters, index))(mass)
            ts = jnp.arange(mass.shape[0], dtype=jnp.int32)
            found = jax.vmap(lambda m, t: at_time(parameters, index, m, t))(mass, ts)
            chosen = ts < horizon
            return {
                name: x if name in after_all else jnp.where(chosen, x, jnp.nan)
                for name, x in found.items()
            }

        found: dict[str, Array] = at_points(
            problem, one, self.parameters, self.policy_index, self.mass
        )
        return found

    # -- pytree ---------------------------------------------------------------------------------

    def tree_flatten(self) -> tuple[Any, Any]:
        """Split into arrays and the rest, for JAX."""
        children = (self.arrays, self.parameters, self.policy_index, self.grids)
        return children, (self.problem, self.is_path)

    @classmethod
    def tree_unflatten(cls, rest: Any, children: Any) -> Distribution:
        """Put together again."""
        return cls(*children, *rest)


def explain_distribution(arrays: Mapping[str, Any], grids: Mapping[str, Any]) -> str:
    """Return what is to be said of one distribution; `arrays` are its numbers."""
    code, period = int(arrays["code"]), int(arrays["period"])
    if code == Outcome.SEVERAL_CLASSES:
        named = [_place(int(s), grids) for s in np.sort(arrays["classes"]) if s >= 0]
        text = (
            f"the chain has several recurrent classes: {named[0]} and {' and '.join(named[1:])} "
            "never meet, so that no stationary distribution is the only one"
        )
        if np.isnan(arrays["residual"]):
            return f"{text}; pass initial=... to dp.stationary for the long run from there"
        return f"{text}; this is the long-run average from initial, with nothing certified"
    text = sentence(code)
    if period > 1:
        turns = (
            f"periodic with period {period}: the distribution is the average over time; the "
            "distribution at a date does not converge to it"
        )
        if code == Outcome.DISTRIBUTION_LOOSE:
            turns = (
                f"periodic with period {period}: plain iteration does not converge; use "
                "method='auto'"
            )
        text = f"{turns}; {text}" if text else turns
    return text


def _place(s: int, grids: Mapping[str, Any]) -> str:
    """Name a state by its values and indices."""
    values = {name: np.asarray(x) for name, x in grids.items()}
    at = np.unravel_index(s, [len(x) for x in values.values()])
    shown = [f"{n}={x[i]:.6g} (index {i})" for (n, x), i in zip(values.items(), at, strict=True)]
    return ", ".join(shown)
