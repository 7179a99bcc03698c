"""``dp.load``: a stored point as a Solution; finding the point that is meant.

Nothing is solved again. The model is built from the source that the store keeps, at the point's
parameters; what was kept is read, and what follows from the policy alone (positions or values of
the choices, outputs, grids) is filled in from the model.

Which point is meant is said by the values of its parameters, exactly, or by its number.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import POINT, point_label, point_parameters
from dpsolve.solvers.distributions.finer_grid import lived_grids
from dpsolve.solvers.distributions.solved_points import fixed_policy
from dpsolve.solvers.errors import StoreError, UsageError, did_you_mean
from dpsolve.solvers.methods.finite_horizon import follow
from dpsolve.solvers.model.factory_signature import Sizes, build, signature
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import EPS
from dpsolve.solvers.operators.bellman import GridOperator, GridPolicy
from dpsolve.solvers.operators.tabular import TabularPolicy
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome, sentence
from dpsolve.solvers.solution import Problem, Solution
from dpsolve.solvers.solve.continuum_point import TOO_COARSE
from dpsolve.solvers.solve.point import decisions_in, read_off
from dpsolve.solvers.solve.result_dims import arrays_dims, shape_of

from .buckets import StoredBucket
from .damage import check_unpacked, open_groups
from .store import Store, open_store
from .trust import trusted


def load(
    path: Path | str, /, *, point: int | None = None, trust: bool = False, **parameters: Any
) -> Solution:
    """Load one point of a sweep's store as a solution, without solving it again.

    The model is built from the source that the store keeps, so that loading runs it: only that of
    a built-in or of a store that you made runs unasked.

    Parameters
    ----------
    path : path
        The store of a sweep, finished or not.
    point : int, optional
        The point's number along ``point``, for sweeps over samples, tables and paired lists.
    trust : bool
        Run the model's source, whoever made the store.
    **parameters
        The value of each parameter (and static size) that varies: one that is stored, up to
        rounding in the twelfth digit. Nothing is interpolated, and the nearest will not do.

    Returns
    -------
    Solution
        As ``dp.solve`` returned it, so that ``dp.stationary``, ``dp.path`` and ``dp.simulate``
        work under the stored policy; it has what the store kept, and what the policy tells.

    Raises
    ------
    StoreError
        If there is no store, the point is pending or failed, or the store cannot be read.
    UsageError
        If no point, or more than one, has these parameters: with the values that there are; or
        if the store did not keep the policy.
    RefusedError
        If the model is an installed one and differs from what the store was computed with; if
        somebody else made the store, naming what would run; or if it was altered.
    """
    store = trusted(open_store(path), trust)
    stored, index = find_point(store, point, parameters)
    arrays, status, message = _read(store, stored, index)
    where = _name(stored, index)
    if status == "pending":
        raise StoreError(
            f"{store.path}: the point {where} is not computed yet. Finish the sweep (dpsolve "
            f"resume {shlex.quote(str(store.path))}), then load it."
        )
    if status == "failed":
        raise StoreError(f"{store.path}: the point {where} failed: {message}")
    factory = store.source.load()
    given = stored.bucket.points(np.array([index]))
    values = {name: jnp.asarray(x[0], jnp.float64) for name, x in given.items()}
    sizes = {**signature(factory).sizes, **stored.bucket.sizes}
    made = build(factory, values, sizes)
    seconds = float(arrays.pop("seconds"))
    arrays["code"] = np.int32(_code(status, message, store.options))
    problem = Problem(factory, None, Sizes(sizes.items()), store.options, ())
    if isinstance(made, Model) and made.continuous:
        arrays = _with_what_follows(
            problem, values, made, arrays, f"{store.path}: the point {where}"
        )
        every = arrays
    elif isinstance(made, Model | TabularModel):
        arrays |= _policy(made, arrays, f"{store.path}: the point {where}")
        found = _filled_in(problem, values, made, arrays)
        arrays = {**{k: np.asarray(x) for k, x in found.items()}, **arrays}
        if isinstance(made, Model) and any(n.startswith("distribution") for n in arrays):
            arrays |= lived_grids(made, store.options.distribution_grid)
        shape = made.shape if made.horizon is None else (made.horizon, *made.shape)
        over = ("value",) if "gain" in arrays else ("value", "lower", "upper")
        every = {**dict.fromkeys(over, np.empty(shape)), **arrays}
    else:
        every = arrays
    dims = tuple(arrays_dims(shape_of(made), every, signature(factory).array_dims).items())
    problem = Problem(factory, None, problem.sizes, store.options, dims)
    return Solution(jax.tree.map(jnp.asarray, arrays), values, problem, message, seconds)


# -- what is stored of it -------------------------------------------------------------------------


def _name(stored: StoredBucket, index: int) -> str:
    return point_label(point_parameters(stored.bucket, index)) or f"number {index}"


def _read(store: Store, stored: StoredBucket, index: int) -> tuple[dict[str, Any], str, str]:
    """Return a point's arrays and numbers, its status and its message."""
    group = open_groups(store)[stored.number]
    at = tuple(int(i) for i in np.unravel_index(index, stored.bucket.shape))
    task = next(task for task in stored.tasks if task.start <= index < task.stop)
    found: dict[str, Any] = {}
    for name in stored.results:
        try:
            with suppress(FileNotFoundError):  # of a point that is not computed yet
                check_unpacked(stored, name, task)
            found[name] = np.asarray(group[name][at])
        except Exception as error:  # whatever a codec raises on damaged bytes
            raise StoreError(
                f"{store.path}: {name} of the point {_name(stored, index)} cannot be read: "
                f"{error}. dpsolve verify tells what else is damaged."
            ) from error
    return found, str(found.pop("status")), str(found.pop("message"))


def _code(status: str, message: str, options: SolveOptions) -> int:
    """Return the code of a status: that of the same sentence, where it is one of ours."""
    if status == "solved":
        return int(Outcome.SOLVED)
    if message.startswith(TOO_COARSE):
        return int(Outcome.TOO_COARSE)
    for outcome in Outcome:
        if outcome < 10 and outcome != 0 and sentence(outcome, options.sample) == message:
            return int(outcome)
    return int(Outcome.RUNNING)


# -- what follows from the policy -----------------------------------------------------------------


def _policy(
    model: Model | TabularModel, arrays: Mapping[str, Any], what: str
) -> dict[str, NDArray[np.int32]]:
    """Return the position of every choice on its grid."""
    if isinstance(model, TabularModel):
        menus = {"action": np.arange(model.n_actions)}
    else:
        menus = {name: np.asarray(model.grid_of(name).values) for name in model.choices}
    found = {}
    for name, menu in menus.items():
        if f"policy_index_{name}" in arrays:
            found[f"policy_index_{name}"] = arrays[f"policy_index_{name}"].astype(np.int32)
        elif f"policy_{name}" in arrays:
            found[f"policy_index_{name}"] = _position(menu, arrays[f"policy_{name}"], name, what)
        else:
            raise _no_policy(what, name)
    taste = getattr(model, "taste", None)
    if taste is not None and taste.name not in arrays:
        raise UsageError(
            f"{what} has no {taste.name}, the chances that its policy goes by. Sweep into a new "
            'store with keep = [..., "probability"], or solve this point with dp.solve.'
        )
    return found


def _no_policy(what: str, name: str) -> UsageError:
    return UsageError(
        f"{what} has no policy: the store kept neither policy_{name} nor policy_index_{name}. "
        'Sweep into a new store with keep = [..., "policy"], or solve this point with dp.solve.'
    )


def _grids(made: Model) -> dict[str, Array]:
    return {f"grid_{n}": jnp.asarray(s.values) for n, s in made.states.items()}


def _outputs(fixed: GridPolicy) -> dict[str, Array]:
    return {f"output_{name}": x for name, x in fixed.outputs().items()}


def _with_what_follows(
    problem: Problem, values: Mapping[str, Any], model: Model, arrays: Mapping[str, Any], what: str
) -> dict[str, Any]:
    """Return the arrays of a point with continuous choices, with outputs and grids filled in.

    Raises
    ------
    UsageError
        If the store kept no policy.
    """
    if missing := [name for name in model.choices if f"policy_{name}" not in arrays]:
        raise _no_policy(what, missing[0])
    chosen = {name: jnp.asarray(arrays[f"policy_{name}"]) for name in model.choices}

    def through_time(values: Any, chosen: Any) -> dict[str, Array]:
        made = build(problem.factory, values, dict(problem.sizes))  # type: ignore[arg-type]

        def at(pair: Any) -> dict[str, Array]:
            t, chosen = pair
            return _outputs(GridOperator(made.on_grids(), t=t, block=1).between(chosen))

        periods = jnp.arange(made.horizon, dtype=jnp.int32)
        return {**_grids(made), **lax.map(at, (periods, chosen))}

    def once(values: Any, chosen: Any) -> dict[str, Array]:
        made = build(problem.factory, values, dict(problem.sizes))  # type: ignore[arg-type]
        return {**_grids(made), **_outputs(GridOperator(made.on_grids(), block=1).between(chosen))}

    run = once if model.horizon is None else through_time
    found = jax.jit(run)(dict(values), chosen)
    return {**{k: np.asarray(x) for k, x in found.items()}, **arrays}


def _position(menu: NDArray[Any], chosen: NDArray[Any], name: str, what: str) -> NDArray[np.int32]:
    """Find choices on their grid: exactly, but for the rounding of a grid that is made anew."""
    order = np.argsort(menu, kind="stable")
    ranked = menu[order]
    above = np.clip(np.searchsorted(ranked, chosen), 0, len(menu) - 1)
    below = np.maximum(above - 1, 0)
    nearer = np.abs(ranked[below] - chosen) < np.abs(ranked[above] - chosen)
    found = np.where(nearer, below, above)
    gap = np.abs(ranked[found] - chosen)
    bad = ~(gap <= 16 * EPS * np.max(np.abs(menu)))
    if bad.any():
        raise StoreError(
            f"{what} has policy_{name} = {chosen[bad][0]:.12g}, which is no value of the choice's "
            "grid as the model makes it here. dpsolve verify compares the store with its model."
        )
    return order[found].astype(np.int32)


def _filled_in(
    problem: Problem, values: Mapping[str, Any], model: Model | TabularModel, arrays: Any
) -> dict[str, Array]:
    """Return what the policy tells, whatever was kept: choices, outputs, grids."""
    index = {n: jnp.asarray(x) for n, x in decisions_in(arrays).items()}

    # What a policy tells is of the value's grid, whatever the distribution's.
    plain = replace(problem, options=replace(problem.options, distribution_grid=()))

    def fill(values: Any, index: Any) -> dict[str, Array]:
        made, fixed = fixed_policy(plain, values, index)
        if isinstance(fixed, TabularPolicy):
            operator: Any = fixed.operator
        else:
            assert isinstance(fixed, GridPolicy)
            operator = fixed.operator
        return read_off(made, operator, operator.policy_of(index))

    def along(values: Any, index: Any) -> dict[str, Array]:
        made = build(problem.factory, values, dict(problem.sizes))  # type: ignore[arg-type]
        assert isinstance(made, Model | TabularModel)
        found = follow(made, problem.options, index)
        return {name: x for name, x in found.items() if name != "value"}

    run = fill if model.horizon is None else along
    found: dict[str, Array] = jax.jit(partial(run))(dict(values), index)
    return found


Held = dict[str, tuple[tuple[str, ...], NDArray[Any]]]
"""What a point can be told by: dimensions and values by name."""

EXACT = 1e-12  # relative: a parameter as it was typed, or printed with 12 digits, is the one stored
SHOWN = 8  # values in a message


def find_point(
    store: Store, point: int | None, parameters: Mapping[str, Any]
) -> tuple[StoredBucket, int]:
    """Return the bucket and the flat number of the one point that is meant.

    Parameters
    ----------
    store : Store
    point : int, optional
        Its coordinate along ``point``.
    parameters : mapping
        Values of parameters and static sizes; those that have one value in the store may be left
        out.

    Raises
    ------
    UsageError
        If no point or more than one is meant: with the values that there are.
    """
    _check(store, point, parameters)
    given = {**parameters} if point is None else {**parameters, POINT: point}
    held = [_held(stored) for stored in store.buckets]
    masks = [_meant(s, h, given) for s, h in zip(store.buckets, held, strict=True)]
    count = sum(int(mask.sum()) for mask in masks)
    if count == 0:
        raise UsageError(f"{store.path} has no such point: {_missing(held, given)}")
    if count > 1:
        raise UsageError(
            f"{store.path} has {count} points {_with(given)}: give {_open(store, held, masks)}"
        )
    which = next(i for i, mask in enumerate(masks) if mask.any())
    return store.buckets[which], int(np.flatnonzero(masks[which])[0])


def _check(store: Store, point: Any, parameters: Mapping[str, Any]) -> None:
    if point is not None and (isinstance(point, bool) or not isinstance(point, int | np.integer)):
        raise UsageError(f"point={point!r}; it is the number of a point, as in ds.point")
    if point is not None and not any(POINT in s.bucket.axes for s in store.buckets):
        raise UsageError(
            f"{store.path} is a grid of {', '.join(store.buckets[0].bucket.axes)}, and its points "
            "have no numbers: give these parameters"
        )
    known = signature(store.source.load()).names
    for name, value in parameters.items():
        if name not in known:
            raise UsageError(
                f"{store.source.name} has no parameter '{name}'.{did_you_mean(name, known)} "
                f"Its parameters are: {', '.join(known)}."
            )
        if any(name in s.bucket.own for s in store.buckets):
            raise UsageError(
                f"'{name}' is an array, and no point is told by one: give the number of the point, "
                "point=, or the parameters that are numbers"
            )
        economic = any(name in (*s.bucket.parameters, *s.bucket.fixed) for s in store.buckets)
        if economic and (np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "iuf"):
            raise UsageError(f"{name}={value!r}; it is one number")


def _held(stored: StoredBucket) -> Held:
    bucket = stored.bucket
    numbers = {n: x for n, x in bucket.fixed.items() if n not in bucket.own}
    held: Held = {n: ((), np.asarray(x)) for n, x in (*numbers.items(), *bucket.sizes.items())}
    if POINT in bucket.axes:
        held[POINT] = ((POINT,), bucket.axes[POINT])
    return held | {n: x for n, x in bucket.parameters.items() if n not in bucket.own}


def _meant(stored: StoredBucket, held: Held, given: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Tell for each point of a bucket whether it is meant; over the bucket's axes."""
    axes = stored.bucket.axes
    mask = np.ones(stored.bucket.shape, dtype=bool)
    for name, value in given.items():
        if name in held:
            dims, values = held[name]
            shape = [len(along) if axis in dims else 1 for axis, along in axes.items()]
            mask &= _same(values, value).reshape(shape)
    return mask


def _same(held: NDArray[Any], value: Any) -> NDArray[np.bool_]:
    if held.dtype.kind not in "iuf" or isinstance(value, str):
        return np.asarray(held == value)
    return np.asarray(np.abs(held - value) <= EXACT * np.abs(held))


def _missing(held: list[Held], given: Mapping[str, Any]) -> str:
    """Say which of the values asked for there is not, and what there is instead."""
    for name, value in given.items():
        there = _distinct(np.ravel(h[name][1]) for h in held if name in h)
        if not there or _same(np.asarray(there), value).any():
            continue
        near = ""
        if len(there) > SHOWN and not isinstance(value, str):
            near = f" The nearest is {min(there, key=lambda x: abs(x - value)):.12g}."
        return f"{name}={value}. It has {name} = {_shown(there)}.{near}"
    return f"it has points with each of these, but none {_with(given)}"


def _with(given: Mapping[str, Any]) -> str:
    return "with " + ", ".join(f"{name}={value}" for name, value in given.items()) if given else ""


def _open(store: Store, held: list[Held], masks: list[NDArray[np.bool_]]) -> str:
    """Say what tells the points apart that are all meant, and its values."""
    found: dict[str, list[NDArray[Any]]] = {}
    in_a_row = set()
    for stored, known, mask in zip(store.buckets, held, masks, strict=True):
        where = dict(zip(stored.bucket.axes, np.nonzero(mask), strict=True))
        for name, (dims, values) in known.items():
            own = values[tuple(where[d] for d in dims)] if dims else values
            found.setdefault(name, []).append(np.ravel(own) if mask.any() else np.zeros(0))
            if name != POINT and dims == (POINT,):
                in_a_row.add(name)
    several = {name: there for name, xs in found.items() if len(there := _distinct(xs)) > 1}
    told = [f"{n} = {_shown(x)}" for n, x in several.items() if n not in in_a_row]
    by_value = sorted(in_a_row & several.keys())
    return "; ".join(told) + (f", or {', '.join(by_value)}" if by_value else "")


def _distinct(arrays: Iterable[NDArray[Any]]) -> list[Any]:
    return list(dict.fromkeys(x for array in arrays for x in array.tolist()))


def _shown(values: list[Any]) -> str:
    words = [f"{x:.12g}" if isinstance(x, float) else str(x) for x in values]
    if len(words) <= SHOWN:
        return ", ".join(words)
    return f"{', '.join(words[: SHOWN - 2])}, ..., {words[-1]} ({len(words)} values)"
