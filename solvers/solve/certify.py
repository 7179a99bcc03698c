"""``dp.certify``: bounds on the true value of a model whose choices are continuous."""

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

from dpsolve.solvers.continuum.problem import ContinuousProblem, listed, read_problem
from dpsolve.solvers.continuum.solve import HELD, SLOPES, solve_and_test, verdict
from dpsolve.solvers.continuum.words import counterexample, left_out, name_state
from dpsolve.solvers.curvature.proved import proved
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.inspection.check import diagnose
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.model.array_factory import rebuild
from dpsolve.solvers.model.factory_signature import (
    Factory,
    Sizes,
    build,
    check_numbers,
    refuse_parameters,
    signature,
    split,
)
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import is_concrete
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome, sentence
from dpsolve.solvers.solution import Problem, Solution

from .compile_clock import compile_clock
from .continuum_point import points_that_would_do, with_proof
from .given_policy import Policy, with_policy
from .one_device import check_sizes
from .result_dims import arrays_dims, shape_of

LOOKED_OVER = 2 * 10**7
"""Pairs of nodes up to which each is looked at for NaN; beyond, those of the tests are."""

Program = Callable[..., Any]


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

    Models of continuous states (beside Markov states) and continuous choices, with a reward that is
    declared concave: ``dp.Model(..., concave=True)``. A choice on a grid is read as any number of
    the grid's range. The Markov chain and the states' range are the model's own, and nothing is
    said of the process that a chain approximates.

    Parameters
    ----------
    model : factory or str
        A factory, or the name of a built-in model.
    params : dict, optional
        Values of its parameters and sizes; the rest have their defaults.
    policy : dict, optional
        ``{"a_next": array or function}``: each choice at the nodes (states...), with a horizon (t,
        states...), or a function of the states (and ``t``) by name, called once with arrays of one
        shape (NumPy's). The lower bound is then of
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
        by not being optimal, and, of a model with one choice, ``policy_lower_<choice>`` and
        ``policy_upper_<choice>`` (states...), between which the optimal choice lies. Where a
        counterexample to concavity is found, the point is ``inexact``, nothing is bounded, and the
        message names it.

    Raises
    ------
    ModelError
        If the model is of another kind, or a state has no feasible choice.
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
        refuse_parameters(params)
        known = bool(proved(model, {}, {}))
        task = _Task(read_problem(model, known=known), {}, policy, knots, tol, known)
        return task.solution(
            _compiled(lambda _: model), Problem(None, model, (), SolveOptions(), ())
        )
    factory = as_factory(model)
    values, sizes = split(factory, params)
    check_sizes(sizes)
    if not is_concrete(values):
        raise UsageError("dp.certify looks at numbers: it cannot be called inside jit or grad")
    check_numbers(factory, values, "dp.certify takes one point", UsageError)
    values = {k: jnp.asarray(v, jnp.float64) for k, v in values.items()}
    known = bool(proved(factory, sizes, values))
    problem = read_problem(rebuild(factory, values, sizes), signature(factory).name, known)
    static = Sizes(sizes.items())
    task = _Task(problem, values, policy, knots, tol, known)
    made = Problem(factory, None, static, SolveOptions(), ())
    return task.solution(_program(factory, static), made)


@lru_cache(maxsize=32)
def _program(factory: Factory, sizes: tuple[tuple[str, Any], ...]) -> Program:
    static = dict(sizes)
    return _compiled(lambda values: build(factory, values, static))


def _compiled(made: Callable[[Mapping[str, Array]], Any]) -> Program:
    """Return a compiled program: from parameters, nodes and perhaps a policy to named arrays.

    Nodes are a tuple of arrays, or None for the model's own.
    """

    def run(values: Mapping[str, Array], nodes: Any, policy: Array | None) -> Any:
        problem = read_problem(made(values), known=True)
        if nodes is not None:
            own = zip(problem.grids, nodes, strict=True)
            problem = problem.on(tuple(Grid(x, grid.outside) for grid, x in own))
        found, told = solve_and_test(problem, policy)
        del found[HELD], found[SLOPES]
        return verdict(found, told, True), told

    return jax.jit(run)


@dataclass(frozen=True)
class _Task:
    """What was asked for, at one parameter point."""

    problem: ContinuousProblem
    values: Mapping[str, Array]
    policy: Policy | None
    knots: Mapping[str, Any] | None
    tol: float | None
    known: bool

    def solution(self, program: Program, made: Problem) -> Solution:
        """Run the program and read its verdict."""
        began = time.perf_counter()
        _check_model(self.problem)
        problem, given = with_policy(self.problem, self.policy, self.knots)
        nodes = None
        if self.knots is not None:
            nodes = tuple(jnp.asarray(grid.values, jnp.float64) for grid in problem.grids)
        with compile_clock() as compiling:
            found, told = program(self.values, nodes, given)
            jax.block_until_ready(found)
        arrays: dict[str, Any] = with_proof(found, self.known)
        code, error = Outcome(int(arrays["code"])), float(arrays["error_bound"])
        if code == Outcome.INFEASIBLE:
            names = listed(f"'{c}'" for c in problem.choices)
            raise ModelError(
                f"no choice of {names} is feasible and pays "
                f"more than -inf at the state {_without_choice(problem, arrays)}: let the grid "
                "begin where one is"
            )
        message = counterexample(problem, told) if code == Outcome.NOT_CONCAVE else sentence(code)
        if code == Outcome.SOLVED:
            message = left_out(problem.model, arrays)
        if code == Outcome.SOLVED and self.tol is not None and not error <= self.tol:
            code = Outcome.TOO_COARSE
            message = points_that_would_do(problem.model, error, self.tol)
        arrays["code"] = jnp.int32(code)
        options = made.options if self.tol is None else SolveOptions(tol=self.tol)
        dims = arrays_dims(shape_of(problem.model), arrays, made.array_dims)
        made = replace(made, options=options, dims=tuple(dims.items()))
        seconds = time.perf_counter() - began - compiling.seconds
        return Solution(arrays, self.values, made, message, seconds, compiling.seconds)


def _check_model(problem: ContinuousProblem) -> None:
    """Refuse what is wrong with the model itself, as a solve does: NaN, rows that leak."""
    model = problem.model
    for name in model.gridded:
        own = np.asarray(model.grid_of(name).values)
        if not (np.diff(own) > 0).all() or len(own) < 2:
            raise ModelError(f"the grid of choice '{name}' must rise, from its least choice "
                             "to its greatest, to be a range to choose from")  # fmt: skip
        for state in (n for n in problem.states if model.transition[n] == name):
            nodes = np.asarray(model.states[state].values)
            if not (own[0] >= nodes[0] and own[-1] <= nodes[-1]):
                raise ModelError(
                    f"the choice '{name}' runs from {own[0]:.6g} to {own[-1]:.6g}, beyond the grid "
                    f"of '{state}' from {nodes[0]:.6g} to {nodes[-1]:.6g}: bounds hold on that "
                    "alone; widen it, or narrow the choice"
                )
    if not model.continuous:
        pairs = math.prod(model.shape) * math.prod(model.size_of(c) for c in model.choices)
        if pairs <= LOOKED_OVER and (fault := diagnose(model, "discounted")):
            raise ModelError(fault)
    radius = float(np.max(np.abs(np.linalg.eigvals(np.asarray(problem.weights)))))
    if model.horizon is None and not radius < 1.0:
        raise ModelError(
            f"the discount times the chances of the next state has spectral radius {radius:.6g}; "
            "values are bounded where it is below 1"
        )


def _without_choice(problem: ContinuousProblem, arrays: Mapping[str, Array]) -> str:
    """Name the first state at which nothing feasible was found."""
    policy = np.asarray(arrays[f"policy_{problem.choices[0]}"])
    first = policy if problem.model.horizon is None else policy[-1]
    rows = np.asarray(problem.from_states(jnp.asarray(first)))
    z, i = np.unravel_index(int(np.argmax(np.isnan(rows))), rows.shape)
    return name_state(problem, int(z), np.asarray(problem.nodes[i]))
