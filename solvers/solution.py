"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .factory import Factory, signature
from .grids import is_concrete
from .options import SolveOptions
from .outcomes import sentence, word

if TYPE_CHECKING:
    import xarray

__all__ = ["Problem", "Solution"]

Array = Any
PER_POINT = ("residual", "error_bound", "iterations")
POINT = "point"


@dataclass(frozen=True)
class Problem:
    """What was solved, but for the values of the parameters.

    Attributes
    ----------
    factory : function or None
        The model's factory; None when a ready model was solved.
    model : Model or TabularModel or None
        The ready model.
    sizes : tuple of (name, value)
        Static parameters.
    options : SolveOptions
        How it was solved.
    dims : tuple of (name, tuple of str)
        Dimensions of each array, without the axis of points.
    batched : bool
        Whether arrays have a leading axis of points.
    """

    factory: Factory | None
    model: Any
    sizes: tuple[tuple[str, Any], ...]
    options: SolveOptions
    dims: tuple[tuple[str, tuple[str, ...]], ...]
    batched: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return signature(self.factory).name if self.factory is not None else "model"


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Solution:
    """Value, bounds and policy of a model; with ``solve_many``, of many points of it.

    Arrays are over the states in the model's order, with ``t`` first for a finite horizon, and the
    axis of points before everything for ``solve_many``.

    Attributes
    ----------
    value, lower, upper : array (states...)
        The value function, and certified bounds on the true one: ``lower <= v* <= upper``.
    policy : dict of str to array (states...)
        The optimal choice's grid value, by choice name.
    policy_index : dict of str to int array (states...)
        Its position on the choice's grid.
    outputs : dict of str to array (states...)
        The model's outputs at the optimum.
    grids : dict of str to array (n,)
        The states' values.
    residual, error_bound : float
        Sup-norm of the last sweep's change; certified sup-norm error of `value`.
    iterations : int
        Bellman sweeps made.
    status : str, or array of str
        ``solved`` (certified within tol), ``inexact`` (bounds are wider) or ``failed``.
    message : str, or array of str
        Why, in a sentence; empty when solved.
    parameters : dict
        Every economic parameter.
    problem : Problem
        What was solved, so that other functions need nothing else.
    """

    arrays: dict[str, Array] = field(repr=False)
    parameters: dict[str, Array]
    problem: Problem = field(repr=False)
    messages: Any = field(default=None, repr=False)
    seconds: Any = field(default=None, repr=False)

    @property
    def value(self) -> Array:
        """The value function."""
        return self.arrays["value"]

    @property
    def lower(self) -> Array:
        """Certified lower bound on the value function."""
        return self.arrays["lower"]

    @property
    def upper(self) -> Array:
        """Certified upper bound on the value function."""
        return self.arrays["upper"]

    def _group(self, prefix: str) -> dict[str, Array]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    @property
    def policy_index(self) -> dict[str, Array]:
        """The optimal choice's position on its grid, by choice name."""
        return self._group("policy_index_")

    @property
    def policy(self) -> dict[str, Array]:
        """The optimal choice's grid value, by choice name."""
        return {c: self.arrays[f"policy_{c}"] for c in self.policy_index}

    @property
    def outputs(self) -> dict[str, Array]:
        """The model's outputs at the optimum."""
        return self._group("output_")

    @property
    def grids(self) -> dict[str, Array]:
        """The states' values."""
        return self._group("grid_")

    @property
    def residual(self) -> Array:
        """Sup-norm of the last sweep's change."""
        return self.arrays["residual"]

    @property
    def error_bound(self) -> Array:
        """Certified sup-norm error of the value."""
        return self.arrays["error_bound"]

    @property
    def iterations(self) -> Array:
        """Bellman sweeps made."""
        return self.arrays["iterations"]

    @property
    def code(self) -> Array:
        """The :class:`~.outcomes.Outcome`, as a number."""
        return self.arrays["code"]

    @property
    def status(self) -> Any:
        """How it ended: ``solved``, ``inexact`` or ``failed``; not to be had inside a trace."""
        return word(self.code)

    @property
    def message(self) -> Any:
        """Why, in a sentence; empty when solved."""
        if self.messages is not None:
            return self.messages
        # It came out of somebody's jit, where no place could be looked for.
        codes = np.asarray(self.code)
        words = np.array([sentence(int(c)) for c in codes.ravel()], dtype=object)
        return words.reshape(codes.shape) if codes.ndim else str(words[0])

    def __getitem__(self, name: str) -> Array:
        """Return an array by the name it has in a store, or an output by its own name."""
        return self.arrays[name] if name in self.arrays else self.arrays[f"output_{name}"]

    def __repr__(self) -> str:
        if not is_concrete(self.arrays):
            return f"<Solution of {self.problem.name}, traced>"
        shape = np.shape(np.asarray(self.arrays.get("value", self.code)))
        if self.problem.batched:
            words, counts = np.unique(self.status, return_counts=True)
            summary = ", ".join(f"{n} {w}" for w, n in zip(words, counts, strict=True))
            return f"<Solution of {self.problem.name}: {shape[0]} points: {summary}>"
        return (
            f"<Solution of {self.problem.name}: {self.status}, certified error "
            f"{float(self.error_bound):.2g}, {int(self.iterations)} sweeps, shape {shape}>"
        )

    # -- labelled results -----------------------------------------------------------------------

    def to_xarray(self) -> xarray.Dataset:
        """Return an ``xarray.Dataset``, with the names that a store has.

        Dimensions are the states' names (after ``point`` for many points); states' values are
        coordinates, or variables ``grid_<state>`` where they differ between points.
        """
        import xarray

        point = (POINT,) if self.problem.batched else ()
        coords: dict[str, Any] = {}
        variables: dict[str, Any] = {}
        for name, dims in self.problem.dims:
            array = np.asarray(self.arrays[name])
            state = name.removeprefix("grid_")
            if name.startswith("grid_") and dims == (state,):
                same = not point or (array == array[:1]).all()
                if same:
                    coords[state] = array[0] if point else array
                    continue
            variables[name] = ((*point, *dims), array)
        variables |= {n: (point, np.asarray(self.arrays[n])) for n in PER_POINT}
        variables["status"] = (point, np.asarray(self.status, dtype=object))
        variables["message"] = (point, np.asarray(self.message, dtype=object))
        coords |= {
            n: (point, np.asarray(x)) for n, x in self.parameters.items() if n not in variables
        }
        attrs = {"model": self.problem.name, "tol": self.problem.options.tol}
        return xarray.Dataset(variables, coords, attrs)

    # -- pytree ---------------------------------------------------------------------------------

    def tree_flatten(self) -> tuple[Any, Any]:
        """Split into arrays and the rest, for JAX."""
        return (self.arrays, self.parameters), self.problem

    @classmethod
    def tree_unflatten(cls, problem: Problem, children: Any) -> Solution:
        """Put together again."""
        arrays, parameters = children
        return cls(arrays, parameters, problem)
