"""``dp.certify``: bounds on the true value of a model whose choice is continuous."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.continuum.bounds import lower_bound, narrowest, optimal_choices
from dpsolve.solvers.continuum.policy import policies
from dpsolve.solvers.continuum.problem import (
    ConcaveProblem,
    feasible_start,
    name_node,
    read_problem,
)
from dpsolve.solvers.continuum.refutation import Refutation, refute
from dpsolve.solvers.errors import ModelError, UsageError, did_you_mean
from dpsolve.solvers.inspection.check import diagnose
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.arguments import arguments, bind
from dpsolve.solvers.model.array_factory import rebuild
from dpsolve.solvers.model.factory_signature import (
    Factory,
    Sizes,
    build,
    refuse_parameters,
    signature,
    split,
)
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome, sentence
from dpsolve.solvers.solution import Problem, Solution

from .compile_clock import compile_clock
from .one_device import check_sizes

LOOKED_OVER = 2 * 10**7
"""Pairs of nodes up to which each is looked at for NaN; beyond, those of the tests are."""

Policy = Mapping[str, Any]
Program = Callable[[Mapping[str, Array], Array, Array], Any]


def certify(
    model: Factory | str,
    params: Mapping[str, Any] | None = None,
    *,
    policy: Policy | None = None,
    knots: Mapping[str, Any] | None = None,
    tol: float | None = None,
) -> Solution:
    r"""Bound the true value of a model whose choice is continuous, and the loss of a policy.

    ``dp.solve`` bounds the problem whose choices are grid points; this bounds the economist's, in
    which the choice is anything on the grid's range: ``lower <= v* <= upper`` at the nodes, and
    everywhere between them the interpolation of ``value`` is within ``error_bound`` of v*. The
    method is that of two linear systems (:mod:`dpsolve.solvers.continuum.bounds`), for a policy of
    our own or for one that was found elsewhere: by another package, a paper's code, a neural net.

    Models of one continuous state (beside Markov states), whose next value is the one choice, over
    an infinite horizon, with a reward that is declared concave: ``dp.Model(..., concave=True)``.
    The Markov chain and the state's range are the model's own, and nothing is said of the process
    that a chain approximates.

    Parameters
    ----------
    model : factory or str
        A factory, or the name of a built-in model.
    params : dict, optional
        Values of its parameters and sizes; the rest have their defaults.
    policy : dict, optional
        ``{"a_next": array or function}``: the choice at the nodes (states...), or a function of the
        states by name, called once with arrays of one shape (NumPy's). The lower bound is then of
        this policy, interpolated linearly between our nodes, and ``policy_loss`` bounds what it
        loses; the upper bound is made with a policy of our own. By default ours is both.
    knots : dict, optional
        ``{"a": array}``: the points between which the policy is linear. They join the nodes, and
        then what is bounded is the policy itself. An array in `policy` is over the knots.
    tol : float, optional
        Largest ``error_bound`` to be called solved. By default whatever this grid allows.

    Returns
    -------
    Solution
        Beside ``value`` (the middle), ``lower``, ``upper``, ``policy``, ``outputs`` and
        ``error_bound``: ``solution["policy_loss"]``, a bound on what the policy loses at any state
        by not being optimal, and ``policy_lower_<choice>``, ``policy_upper_<choice>`` (states...),
        between which the optimal choice lies. Where a counterexample to concavity is found, the
        point is ``inexact``, nothing is bounded, and the message names it.

    Raises
    ------
    ModelError
        If the model is of another kind, or a state has no feasible choice of finite reward.
    UsageError
        If the policy is infeasible at a node, or has another shape.

    Notes
    -----
    Value bounds from feasible policies and supergradients are those of concave stochastic programs
    (Kall and Wallace 1994, ch. 3: Jensen below, supports above), applied to the fixed point.
    """
    if tol is not None and not (isinstance(tol, int | float | np.number) and tol > 0):
        raise UsageError(f"tol={tol!r}; it is the largest error_bound to be called solved, above 0")
    if not is_concrete(policy, knots):
        raise UsageError("dp.certify looks at numbers: it cannot be called inside jit or grad")
    if isinstance(model, Mapping):
        read_problem(model)
    if isinstance(model, Model):
        return _certify_ready(model, params, policy, knots, tol)
    factory = as_factory(model)
    values, sizes = split(factory, params)
    check_sizes(sizes)
    if not is_concrete(values):
        raise UsageError("dp.certify looks at numbers: it cannot be called inside jit or grad")
    for name, value in values.items():
        if np.ndim(value) != 0:
            raise UsageError(
                f"parameter '{name}' has shape {np.shape(value)}; dp.certify takes one point"
            )
    values = {k: jnp.asarray(v, jnp.float64) for k, v in values.items()}
    problem = read_problem(rebuild(factory, values, sizes), signature(factory).name)
    static = Sizes(sizes.items())
    task = _Task(problem, values, policy, knots, tol)
    made = Problem(factory, None, static, SolveOptions(), ())
    return task.solution(_program(factory, static, policy is not None), made)


def _certify_ready(
    model: Model,
    params: Mapping[str, Any] | None,
    policy: Policy | None,
    knots: Mapping[str, Any] | None,
    tol: float | None,
) -> Solution:
    refuse_parameters(params)
    task = _Task(read_problem(model), {}, policy, knots, tol)
    program = _compiled(lambda _: model, policy is not None)
    return task.solution(program, Problem(None, model, (), SolveOptions(), ()))


@lru_cache(maxsize=32)
def _program(factory: Factory, sizes: tuple[tuple[str, Any], ...], given: bool) -> Program:
    static = dict(sizes)
    return _compiled(lambda values: build(factory, values, static), given)


def _compiled(made: Callable[[Mapping[str, Array]], Any], given: bool) -> Program:
    """Return a compiled program: from parameters, nodes and a policy to named arrays.

    Whether a policy is `given`, or the one argument in its place is not looked at.
    """

    def run(values: Mapping[str, Array], nodes: Array, policy: Array) -> Any:
        problem = replace(read_problem(made(values)), nodes=nodes)
        start = feasible_start(problem)
        candidates, bottom, top = policies(problem, start)
        ours, found = narrowest(problem, candidates, bottom, top, policy if given else None)
        y = policy if given else ours
        low, high = optimal_choices(problem, y, bottom, top, found)
        arrays = {"value": (found.lower + found.upper) / 2, "lower": found.lower}
        arrays |= {"upper": found.upper, f"policy_{problem.choice}": y}
        arrays |= {f"policy_lower_{problem.choice}": low, f"policy_upper_{problem.choice}": high}
        arrays |= {f"output_{name}": x for name, x in problem.outputs(y).items()}
        arrays = {name: problem.over_states(x) for name, x in arrays.items()}
        grids = {f"grid_{n}": jnp.asarray(s.values) for n, s in problem.model.states.items()}
        sound = lower_bound(problem, ours) if given else found.lower
        told = refute(problem, ours, sound, found)
        finite = jnp.isfinite(found.slopes)
        numbers = {"width": found.width, "error_bound": found.error}
        arrays |= grids | {f"grid_{problem.state}": nodes}
        return arrays | numbers, told, (jnp.isnan(start), finite, problem.weights, found.lower)

    return jax.jit(run)


@dataclass(frozen=True)
class _Task:
    """What was asked for, at one parameter point."""

    problem: ConcaveProblem
    values: Mapping[str, Array]
    policy: Policy | None
    knots: Mapping[str, Any] | None
    tol: float | None

    def solution(self, program: Program, made: Problem) -> Solution:
        """Run the program and read its verdict."""
        began = time.perf_counter()
        _check_model(self.problem)
        problem, given = _with_policy(self.problem, self.policy, self.knots)
        if given is not None:
            _check_policy(problem, given)
        with compile_clock() as compiling:
            found, told, (none, finite, weights, lower) = program(
                self.values, problem.nodes, problem.nodes if given is None else given
            )
            jax.block_until_ready(found)
        _check_start(problem, np.asarray(none))
        _check_slopes(problem, np.asarray(finite))
        arrays: dict[str, Array] = dict(found)
        width = arrays.pop("width")
        loss = float(width) + _off_the_nodes(problem.nodes, lower, np.asarray(weights))
        arrays |= {"policy_loss": jnp.asarray(loss), "residual": jnp.asarray(jnp.nan)}
        arrays["iterations"] = jnp.asarray(0)
        message = _refuted(problem, told)
        code, error = Outcome.SOLVED, float(arrays["error_bound"])
        if message or not np.isfinite(error):
            code = Outcome.NOT_CONCAVE if message else Outcome.NO_BOUND
            message = message or sentence(code)
            arrays |= {name: jnp.full_like(arrays[name], x) for name, x in NOTHING.items()}
            for which, end in zip(("lower", "upper"), problem.interval, strict=True):
                name = f"policy_{which}_{problem.choice}"
                arrays[name] = jnp.full_like(arrays[name], end)
        elif self.tol is not None and not error <= self.tol:
            code = Outcome.TOO_COARSE
            message = _points_that_would_do(problem, error, self.tol)
        arrays["code"] = jnp.int32(code)
        options = made.options if self.tol is None else SolveOptions(tol=self.tol)
        made = replace(made, options=options, dims=_dims(problem, arrays))
        seconds = time.perf_counter() - began - compiling.seconds
        return Solution(arrays, self.values, made, message, seconds, compiling.seconds)


NOTHING = {"lower": -np.inf, "upper": np.inf, "error_bound": np.inf, "policy_loss": np.inf}
"""What is known where the reward is not concave."""


def _with_policy(
    problem: ConcaveProblem, policy: Policy | None, knots: Mapping[str, Any] | None
) -> tuple[ConcaveProblem, Array | None]:
    """Return the problem with knots among its nodes, and the policy (z, x) at them."""
    grid = problem.nodes
    own = None
    if knots is not None:
        own = _knots(problem, knots)
        problem = replace(problem, nodes=jnp.union1d(grid, own))
    if policy is None:
        if knots is not None:
            raise UsageError("knots= are those of a policy: give the policy, too")
        return problem, None
    if not isinstance(policy, Mapping):
        raise UsageError(
            f"policy is a {type(policy).__name__}; write policy={{'{problem.choice}': array or "
            "function}"
        )
    if set(policy) != {problem.choice}:
        other = next((n for n in policy if n != problem.choice), "")
        raise UsageError(
            f"policy={{{other!r}: ...}}: the choice is '{problem.choice}'."
            f"{did_you_mean(other, (problem.choice,))}"
        )
    chosen = policy[problem.choice]
    if callable(chosen):
        return problem, _called(problem, chosen)
    array = jnp.asarray(_real(chosen, f"policy '{problem.choice}'"))
    points = grid if own is None else own
    where = list(problem.model.states).index(problem.state)
    shape = [*problem.lengths]
    shape.insert(where, points.shape[0])
    if array.shape != tuple(shape):
        raise UsageError(
            f"policy '{problem.choice}' has shape {array.shape}; it is the choice at "
            f"{'the nodes' if own is None else 'the knots'}, "
            f"({', '.join(problem.model.states)}) = {tuple(shape)}"
        )
    rows = problem.from_states(array)
    return problem, jax.vmap(lambda row: jnp.interp(problem.nodes, points, row))(rows)


def _knots(problem: ConcaveProblem, knots: Mapping[str, Any]) -> Array:
    if not isinstance(knots, Mapping) or set(knots) != {problem.state}:
        raise UsageError(
            f"knots={knots!r}: they are points of the continuous state, "
            f"{{'{problem.state}': array}}"
        )
    points = _real(knots[problem.state], f"knots of '{problem.state}'")
    low, high = float(problem.nodes[0]), float(problem.nodes[-1])
    if points.ndim != 1 or points.size < 2 or not (np.diff(points) > 0).all():
        raise UsageError(f"knots of '{problem.state}' are a rising one-dimensional array")
    if points[0] < low or points[-1] > high:
        raise UsageError(
            f"knots of '{problem.state}' run from {points[0]:g} to {points[-1]:g}, beyond the "
            f"grid's {low:g} to {high:g}: bounds hold on the grid's range alone"
        )
    return jnp.asarray(points)


def _real(given: Any, what: str) -> Numpy:
    """Return an array of floats, refusing what is none."""
    try:
        array = np.asarray(given)
        if array.dtype.kind in "biuf":
            return array.astype(float)
    except (TypeError, ValueError):  # of unequal parts
        pass
    raise UsageError(f"{what} holds no real numbers, or is of unequal parts; give an array of them")


def _called(problem: ConcaveProblem, f: Callable[..., Any]) -> Array:
    """Evaluate a policy that is a function of the states, at all nodes at once."""
    shape = problem.shape
    members = {n: np.broadcast_to(np.asarray(x)[:, None], shape).copy()
               for n, x in problem.members.items()}  # fmt: skip
    nodes = np.broadcast_to(np.asarray(problem.nodes), shape).copy()
    env = {n: nodes if n == problem.state else members[n] for n in problem.model.states}
    bind(f, tuple(env), f"policy '{problem.choice}'")
    named = arguments(f, tuple(env))
    found = _real(f(**{n: env[n] for n in named}), f"policy '{problem.choice}'")
    if found.shape != shape:
        raise UsageError(
            f"policy '{problem.choice}' returned shape {found.shape} for arrays of shape {shape}; "
            "it is called once, with NumPy arrays, and returns one of their shape"
        )
    return jnp.asarray(found)


def _check_model(problem: ConcaveProblem) -> None:
    """Refuse what is wrong with the model itself, as a solve does: NaN, rows that leak."""
    states, choices = math.prod(problem.shape), problem.model.size_of(problem.choice)
    nodes, (low, high) = np.asarray(problem.nodes), problem.interval
    if len(nodes) < 2:
        raise ModelError(f"the grid of '{problem.state}' is one point, which is no continuum")
    own = np.asarray(problem.model.grid_of(problem.choice).values)
    if not (np.diff(own) > 0).all() or len(own) < 2:
        raise ModelError(f"the grid of choice '{problem.choice}' must rise, from its least choice "
                         "to its greatest, to be a range to choose from")  # fmt: skip
    if not (low >= nodes[0] and high <= nodes[-1]):
        raise ModelError(
            f"the choice '{problem.choice}' runs from {float(low):.6g} to {float(high):.6g}, "
            f"beyond the grid of '{problem.state}' from {nodes[0]:.6g} to {nodes[-1]:.6g}: "
            "bounds hold on that alone; widen it, or narrow the choice"
        )
    if states * choices <= LOOKED_OVER and (fault := diagnose(problem.model, "discounted")):
        raise ModelError(fault)
    radius = float(np.max(np.abs(np.linalg.eigvals(np.asarray(problem.weights)))))
    if not radius < 1.0:
        raise ModelError(
            f"the discount times the chances of the next state has spectral radius {radius:.6g}; "
            "values are bounded where it is below 1"
        )


def _check_start(problem: ConcaveProblem, none: Numpy) -> None:
    """Refuse states without a feasible choice."""
    if none.any():
        raise ModelError(
            f"no choice of '{problem.choice}' is feasible and pays more than -inf at the state "
            f"{name_node(problem, none)}: let the grid begin where one is"
        )


def _check_policy(problem: ConcaveProblem, given: Array) -> None:
    """Refuse a policy that is infeasible somewhere."""
    low, high = problem.interval
    outside = ~np.asarray((given >= low) & (given <= high))
    bad = outside | ~np.isfinite(np.asarray(problem.reward(problem.nodes, given)))
    if bad.any():
        z, i = np.unravel_index(int(np.argmax(bad)), bad.shape)
        why = "lies outside its range" if outside[z, i] else "is infeasible there, or pays -inf"
        raise UsageError(
            f"the given policy: {problem.choice}={float(given[z, i]):.6g} at "
            f"{name_node(problem, bad)} {why} ({int(bad.sum())} of {bad.size} nodes)"
        )


def _check_slopes(problem: ConcaveProblem, finite: Numpy) -> None:
    if not finite.all():
        raise ModelError(
            f"the reward's slope in '{problem.state}' is not finite at "
            f"{name_node(problem, ~finite)}, so that no tangent bounds it there: let the grid "
            "begin a little above"
        )


def _off_the_nodes(nodes: Array, lower: Array, weights: Numpy) -> float:
    """Return what a policy may lose more than the bounds' width, for it is interpolated.

    With m the least concave function above the interpolated lower bound Il, and e = sup(m - Il),
    the interpolated policy earns at least Il - (I - D)^-1 D e.
    """
    x, rows = np.asarray(nodes), np.asarray(lower)
    excess = np.array([np.max(_hull(x, row) - row) for row in rows])
    return float(np.max(np.linalg.solve(np.eye(len(weights)) - weights, weights @ excess)))


def _hull(x: Numpy, y: Numpy) -> Numpy:
    """Return the least concave function above points, at these points."""
    kept: list[int] = []
    for i in range(len(x)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) > (y[i] - y[a]) * (x[b] - x[a]):
                break
            kept.pop()
        kept.append(i)
    found: Numpy = np.maximum(np.interp(x, x[kept], y[kept]), y)
    return found


def _refuted(problem: ConcaveProblem, told: Refutation) -> str:
    """Return the sentence of a counterexample to concavity, or ''."""
    found = {
        "the reward lies {far} above a tangent plane": (told.planes, told.planes_at),
        "one step raises the upper bound by {far}": (told.upper, told.upper_at),
        "one step lowers the lower bound by {far}": (told.lower, told.lower_at),
    }
    for what, (violation, at) in found.items():
        if not violation <= 0.0:
            z, x, y = (float(number) for number in at)
            own = [f"{n}={float(v[int(z)]):.6g}" for n, v in problem.members.items()]
            where = ", ".join([f"{problem.state}={x:.6g}", *own, f"{problem.choice}={y:.6g}"])
            far = what.format(far=f"{float(violation):.3g}")
            return (
                f"the reward is declared concave in {problem.state} and {problem.choice}, and is "
                f"not: at {where} {far}; so nothing is certified of a continuous choice"
            )
    return ""


def _points_that_would_do(problem: ConcaveProblem, error: float, tol: float) -> str:
    """Say how many nodes reach a tolerance: the error falls with the square of the step."""
    n = problem.shape[1]
    wanted = int(np.ceil((n - 1) * np.sqrt(error / tol) * 1.1)) + 1
    return (
        f"the error bound of {error:.3g} over the continuum is what {n} points of "
        f"'{problem.state}' allow; some {wanted:,} reach tol={tol:g}"
    )


def _dims(
    problem: ConcaveProblem, arrays: Mapping[str, Any]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    states = tuple(problem.model.states)
    return tuple(
        (name, (name.removeprefix("grid_"),) if name.startswith("grid_") else states)
        for name, x in arrays.items()
        if np.ndim(x) > 0
    )
