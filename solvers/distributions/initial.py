"""Initial distributions, read from an array or from states by name; mass between grid points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.given import check_number
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.operators.interpolation import locate
from dpsolve.solvers.operators.named_arrays import NamedArray
from dpsolve.solvers.probability.markov import Markov
from dpsolve.solvers.solution import Solution

from .finer_grid import on_distribution_grid
from .solved_points import model_of
from .stationary_derivatives import stationary_of

SUM_TOLERANCE = 1e-9
WORDS = ("uniform", "stationary")


def read_initial(
    initial: ArrayLike | Mapping[str, ArrayLike], model: Model | TabularModel
) -> Array:
    """Return a distribution over a model's states, float64 (states...).

    Parameters
    ----------
    initial : array (states...) or mapping
        An array (states...); or, by state name, a number (all mass at that value, shared
        between grid neighbours in proportion to nearness), an array (n,) of masses, ``"uniform"``
        or, for a Markov state, ``"stationary"``. The joint distribution is the product. Markov
        states may be left out and are then stationary; the others must be given.
    model : Model or TabularModel
        Its arrays may be traced; what is traced cannot be refused and gives NaN where it is wrong.

    Raises
    ------
    ModelError
        If a name is unknown or missing, a shape is wrong, a mass is negative, masses do not sum to
        one, or a value is off its grid.
    """
    states = _states(model)
    if not isinstance(initial, Mapping):
        return check_masses(initial, model.shape, "initial")
    for name in initial:
        if name not in states:
            raise ModelError(
                f"initial names '{name}', which is no state.{did_you_mean(str(name), states)} "
                f"The states are: {', '.join(states)}."
            )
    joint = jnp.ones(())
    for name, spec in states.items():
        if name not in initial and not isinstance(spec, Markov):
            raise ModelError(
                f"initial says nothing of state '{name}'; give a value, an array of "
                f"{spec.size} masses or 'uniform' (only Markov states have a distribution of "
                "their own)"
            )
        joint = joint[..., None] * _one_state(name, spec, initial.get(name, "stationary"))
    return joint


def _states(model: Model | TabularModel) -> dict[str, Any]:
    if isinstance(model, TabularModel):
        return {"state": Integers(0, model.n_states - 1)}
    return dict(model.states)


def _one_state(name: str, spec: Grid | Integers | Markov, given: Any) -> Array:
    """Return the masses (n,) of one state."""
    n = spec.size
    what = f"initial['{name}']"
    if isinstance(given, str):
        if given == "uniform":
            return jnp.full(n, 1.0 / n)
        if given == "stationary" and isinstance(spec, Markov):
            return _own_stationary(what, spec)
        why = "" if given not in WORDS else f": '{name}' is no Markov state"
        raise ModelError(
            f"{what} is '{given}'{why}; it can be a value of '{name}', an array of {n} masses, "
            "'uniform', or 'stationary' for a Markov state"
        )
    if np.ndim(given) == 0:
        check_number(given, what)
        return _at_value(what, name, spec, given)
    return check_masses(given, (n,), what)


def _own_stationary(what: str, spec: Markov) -> Array:
    if spec.moves:
        raise ModelError(
            f"{what}: the chain moves with the period, and has no stationary distribution; give a "
            f"value, 'uniform' or an array of {spec.size} masses"
        )
    matrix = jnp.asarray(spec.transition_matrix)
    found = stationary_of(lambda f: matrix @ f, (spec.size,))
    if is_concrete(found.mass) and bool(jnp.isnan(found.mass).any()):
        raise ModelError(
            f"{what}: the chain has no stationary distribution that is the only one; give a value "
            f"or an array of {spec.size} masses"
        )
    return found.mass


def _at_value(what: str, name: str, spec: Grid | Integers | Markov, given: Any) -> Array:
    """Put all mass at a value, shared between the two grid points around it."""
    values = spec.values
    grid = spec if isinstance(spec, Integers) else Grid(jnp.asarray(values, jnp.float64))
    value = jnp.asarray(given, jnp.float64)
    at = locate(grid, NamedArray(value))
    gap = jnp.zeros(()) if at.gap is None else at.gap.array
    gap = jnp.where(jnp.isnan(value), jnp.nan, gap)
    if is_concrete(gap) and not float(gap) <= 0.0:
        lo, hi = float(values[0]), float(values[-1])
        kind = "no member of" if isinstance(spec, Integers) else "off the grid of"
        raise ModelError(
            f"{what} is {float(value):g}, which is {kind} '{name}' ({lo:g} to {hi:g}); choose a "
            "value there, or give an array of masses"
        )
    point = jnp.arange(spec.size)
    index = at.index.array
    if at.weight is None:
        mass = jnp.where(point == index, 1.0, 0.0)
    else:
        w = jnp.clip(at.weight.array, 0.0, 1.0)
        mass = jnp.where(point == index, 1.0 - w, 0.0) + jnp.where(point == index + 1, w, 0.0)
    return jnp.where(gap <= 0.0, mass, jnp.nan)


def check_masses(given: Any, shape: tuple[int, ...], what: str) -> Array:
    """Return masses as float64 (states...), refused unless they are a distribution of that shape.

    Raises
    ------
    ModelError
        If the shape is wrong, an entry is negative or NaN, or the sum is not one.
    """
    try:
        masses = jnp.asarray(given, jnp.float64)
    except (TypeError, ValueError):
        raise ModelError(f"{what} is {given!r}; it is an array of masses {shape}") from None
    if masses.shape != shape:
        raise ModelError(f"{what} has shape {masses.shape}; the states' shape is {shape}")
    if not is_concrete(masses):
        good = (masses >= 0.0).all() & (jnp.abs(jnp.sum(masses) - 1.0) <= SUM_TOLERANCE)
        return jnp.where(good, masses, jnp.nan)
    array = np.asarray(masses)
    bad = np.argwhere(~(array >= 0.0))
    if bad.size:
        at = tuple(int(i) for i in bad[0])
        raise ModelError(
            f"{what} has the mass {array[at]:g} at index {at[0] if len(at) == 1 else at}; a mass "
            "is a number of at least 0"
        )
    total = float(array.sum())
    if not abs(total - 1.0) <= SUM_TOLERANCE:
        raise ModelError(
            f"{what} sums to {total:.12g}, not to 1; divide it by its sum: m / m.sum()"
        )
    return masses


def initial_of(solution: Solution, initial: Any) -> Array:
    """Read an initial distribution (states...), the same words or masses for every point.

    With many points an axis of points comes first.

    Raises
    ------
    ModelError
        If it is none, at one of the points.
    """
    problem, parameters = solution.problem, solution.parameters
    given = getattr(initial, "mass", initial)

    def one(parameters: Mapping[str, Any]) -> Array:
        made = model_of(problem, parameters)
        if isinstance(made, Model):
            made = on_distribution_grid(made, problem.options.distribution_grid)
        return read_initial(given, made)

    if not problem.batched:
        return one(parameters)
    masses: Array = jax.jit(jax.vmap(one))(parameters)
    if isinstance(masses, jax.core.Tracer):
        return masses
    wrong = np.flatnonzero(np.isnan(np.asarray(masses)).any(tuple(range(1, masses.ndim))))
    if wrong.size:
        one({name: x[wrong[0]] for name, x in parameters.items()})
    return masses
