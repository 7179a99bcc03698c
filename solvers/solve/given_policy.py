"""A policy found elsewhere, as ``dp.certify`` is given it: arrays or functions, and knots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.continuum.barren import pays_nothing
from dpsolve.solvers.continuum.optimum import NEAR
from dpsolve.solvers.continuum.problem import ContinuousProblem
from dpsolve.solvers.continuum.words import name_node
from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.model.arguments import arguments, bind
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.numerics.arrays import Numpy

Policy = Mapping[str, Any]


def with_policy(
    problem: ContinuousProblem, policy: Policy | None, knots: Mapping[str, Any] | None
) -> tuple[ContinuousProblem, Array | None]:
    """Return the problem with knots among its nodes, and the policy (z, n, m) at them.

    With a horizon the policy is (t, z, n, m).

    Raises
    ------
    UsageError
        If it is of another shape, or is infeasible at a node.
    """
    own: dict[str, Numpy] = {}
    grids = problem.grids
    if knots is not None:
        own = _knots(problem, knots)
        problem = problem.on(
            tuple(
                Grid(jnp.union1d(jnp.asarray(g.values), own[n]), g.outside) if n in own else g
                for n, g in zip(problem.states, grids, strict=True)
            )
        )
        if policy is None:
            raise UsageError("knots= are those of a policy: give the policy, too")
    if policy is None:
        return problem, None
    choices = ", ".join(f"'{c}'" for c in problem.choices)
    if not isinstance(policy, Mapping):
        raise UsageError(
            f"policy is a {type(policy).__name__}; write policy={{'{problem.choices[0]}': array or "
            "function}"
        )
    for name in policy:
        if name not in problem.choices:
            are = "choice is" if len(problem.choices) == 1 else "choices are"
            raise UsageError(
                f"policy={{{name!r}: ...}}: the {are} {choices}."
                f"{did_you_mean(name, problem.choices)}"
            )
    for name in problem.choices:
        if name not in policy:
            raise UsageError(f"policy= says nothing of the choice '{name}'; the choices: {choices}")
    points = tuple(
        own.get(n, np.asarray(g.values)) for n, g in zip(problem.states, grids, strict=True)
    )
    each = [_one(problem, c, policy[c], points, bool(own)) for c in problem.choices]
    given = jnp.stack(each, -1)
    _check(problem, given)
    return problem, given


def _one(
    problem: ContinuousProblem, choice: str, given: Any, points: tuple[Numpy, ...], knots: bool
) -> Array:
    """Return one choice (z, n) at the nodes, with a horizon (t, z, n)."""
    if callable(given):
        return _called(problem, choice, given)
    array = _real(given, f"policy '{choice}'")
    sizes = dict(zip(problem.states, (len(p) for p in points), strict=True))
    shape = tuple(sizes.get(n, problem.model.size_of(n)) for n in problem.model.states
                  if n in sizes or n in problem.members)  # fmt: skip
    names = ", ".join(problem.model.states)
    if problem.model.horizon is not None:
        shape, names = (int(problem.model.horizon), *shape), f"t, {names}"
    if array.shape != shape:
        raise UsageError(
            f"policy '{choice}' has shape {array.shape}; it is the choice at "
            f"{'the knots' if knots else 'the nodes'}, ({names}) = {shape}"
        )
    periods = array if problem.model.horizon is not None else array[None]
    found = jnp.asarray(np.stack([_at_nodes(problem, a, points) for a in periods]))
    return found if problem.model.horizon is not None else found[0]


def _at_nodes(problem: ContinuousProblem, array: Numpy, points: tuple[Numpy, ...]) -> Numpy:
    """Interpolate a policy (states...) from its points to the nodes; return it as (z, n)."""
    order = list(problem.model.states)
    rows = np.transpose(array, [order.index(n) for n in (*problem.members, *problem.states)])
    rows = rows.reshape(-1, *(len(p) for p in points))
    nodes = np.asarray(problem.nodes)
    low, share = [], []
    for i, x in enumerate(points):
        k = np.clip(np.searchsorted(x, nodes[:, i], side="right") - 1, 0, len(x) - 2)
        low.append(k)
        share.append((nodes[:, i] - x[k]) / (x[k + 1] - x[k]))
    total = np.zeros((rows.shape[0], len(nodes)))
    for corner in product((0, 1), repeat=len(points)):
        weight = np.prod([s if up else 1 - s for s, up in zip(share, corner, strict=True)], 0)
        at = tuple(k + up for k, up in zip(low, corner, strict=True))
        read = np.stack([row[at] for row in rows])
        total += np.where(weight == 0.0, 0.0, weight * read)
    return total


def _knots(problem: ContinuousProblem, knots: Mapping[str, Any]) -> dict[str, Numpy]:
    if not isinstance(knots, Mapping) or not knots or not set(knots) <= set(problem.states):
        raise UsageError(
            f"knots={knots!r}: they are points of the continuous states, "
            f"{{'{problem.states[0]}': array}}"
        )
    found = {}
    for i, name in enumerate(problem.states):
        if name not in knots:
            continue
        points = _real(knots[name], f"knots of '{name}'")
        low, high = (float(edge[i]) for edge in problem.box)
        if points.ndim != 1 or points.size < 2 or not (np.diff(points) > 0).all():
            raise UsageError(f"knots of '{name}' are a rising one-dimensional array")
        if points[0] < low or points[-1] > high:
            raise UsageError(
                f"knots of '{name}' run from {points[0]:g} to {points[-1]:g}, beyond the "
                f"grid's {low:g} to {high:g}: bounds hold on the grid's range alone"
            )
        found[name] = points
    return found


def _real(given: Any, what: str) -> Numpy:
    """Return an array of floats, refusing what is none."""
    try:
        array = np.asarray(given)
        if array.dtype.kind in "biuf":
            return array.astype(float)
    except (TypeError, ValueError):  # of unequal parts
        pass
    raise UsageError(f"{what} holds no real numbers, or is of unequal parts; give an array of them")


def _called(problem: ContinuousProblem, choice: str, f: Callable[..., Any]) -> Array:
    """Evaluate a policy that is a function of the states, at all nodes at once."""
    horizon = problem.model.horizon
    shape = problem.shape if horizon is None else (int(horizon), *problem.shape)

    def whole(x: Any) -> Numpy:
        return np.broadcast_to(np.asarray(x), shape).copy()

    env = {n: whole(np.asarray(x)[:, None]) for n, x in problem.members.items()}
    env |= {n: whole(problem.nodes[:, i]) for i, n in enumerate(problem.states)}
    env = {n: env[n] for n in problem.model.states}
    if horizon is not None:
        env["t"] = whole(np.arange(int(horizon))[:, None, None])
    bind(f, tuple(env), f"policy '{choice}'")
    found = _real(f(**{n: env[n] for n in arguments(f, tuple(env))}), f"policy '{choice}'")
    if found.shape != shape:
        raise UsageError(
            f"policy '{choice}' returned shape {found.shape} for arrays of shape {shape}; "
            "it is called once, with NumPy arrays, and returns one of their shape"
        )
    return jnp.asarray(found)


def _check(problem: ContinuousProblem, given: Array) -> None:
    """Refuse a policy that is infeasible somewhere."""
    if problem.model.horizon is None:
        _check_period(problem, given, "")
        return
    for t, y in enumerate(given):
        _check_period(problem.at(t), y, f"t={t}, ")


def _check_period(problem: ContinuousProblem, given: Array, when: str) -> None:
    def one(x: Array, z: Array, y: Array) -> tuple[Array, Array]:
        inside = []
        for j in range(len(problem.choices)):
            low, high = problem.ends(j, x, y, z)
            near = NEAR * (1.0 + jnp.abs(low) + jnp.abs(high))
            inside.append((y[j] >= low - near) & (y[j] <= high + near))
        return jnp.stack(inside), problem.feasible(x, y, z) | pays_nothing(problem, x, y, z)

    inside, feasible = (np.asarray(a) for a in problem.each(one, given))
    bad = ~inside.all(-1) | ~feasible
    if not bad.any():
        return
    z, i = np.unravel_index(int(np.argmax(bad)), bad.shape)
    own = inside[z, i]
    j = int(np.argmin(own)) if not own.all() else 0
    why = "is infeasible there, or pays -inf" if own.all() else "lies outside its range"
    raise UsageError(
        f"the given policy: {problem.choices[j]}={float(given[z, i, j]):.6g} at "
        f"{when}{name_node(problem, bad)} {why} ({int(bad.sum())} of {bad.size} nodes)"
    )
