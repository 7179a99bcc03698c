r"""Derivatives of a solution in its parameters, by the implicit function theorem.

At the optimum the value solves :math:`v = T_\pi(v; \theta)` with its own greedy policy. By the
envelope theorem the policy may be held fixed, so that

.. math::
    (I - L_\pi)\,\frac{dv}{d\theta} = \frac{\partial T_\pi(v; \theta)}{\partial\theta},

one linear solve for each direction (forward) or for each function of the solution (reverse, with
the transposed system), however many sweeps the solution took. The stationary distribution solves
:math:`\mu = P_\pi^\top\mu` and sums to one, so that

.. math::
    (I - P_\pi^\top + \mu 1^\top)\,\frac{d\mu}{d\theta}
        = \frac{\partial P_\pi^\top}{\partial\theta}\,\mu,

one linear solve more. Moments, outputs and paths are differentiated as they are computed, with the
distribution's derivative put in.

Policies are discrete, and *held fixed*: a derivative tells what happens while everybody goes on
choosing the same grid points. For the value that is exact wherever the optimal policy does not
change, and one-sided at the kinks where it does. So ``gradients`` gives ``d_value_d_beta``. For
distributions, moments and outputs it is exact between those kinks, too, but there the truth
*jumps*, as some state's choice moves to the next grid point; the derivative knows nothing of these
jumps. Where choices respond much, as they do to patience, the jumps are the whole effect, and the
derivative at the fixed policy is 0: it is no derivative of the moment. So it has to be asked for by
that name, ``gradients_fixed_policy``, and is called ``d_moment_mean_a_d_beta_fixed_policy``; for
the response itself refine the grid and take differences. What moves with the grids, the chains'
probabilities and the rewards is all there. A quantile moves with its grid point only. Where there
is nothing to choose, or all that is chosen has taste shocks, no policy is held fixed, and
``gradients`` gives everything: probabilities are smooth, and their response is part of it. (Beside
other choices that of the probabilities is exact, like the value's; what else depends on these
choices holds them fixed.) The certificate says nothing about derivatives; a linear solve that does
not converge gives NaN.

``jax.grad`` through a solve differentiates at the fixed policy, too, whatever it is asked of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.distributions.path import pushed
from dpsolve.solvers.distributions.stationary_derivatives import respond
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.inspection.concavity import asks
from dpsolve.solvers.inspection.requests import (
    FIXED,
    NO_GRADIENTS,
    NO_GRADIENTS_UNDISCOUNTED,
    chooses,
    no_slopes,
)
from dpsolve.solvers.logit.taste_shocks import PREFIX
from dpsolve.solvers.methods.choose_operator import Operators, make_operator
from dpsolve.solvers.methods.finite_horizon import follow
from dpsolve.solvers.methods.loop import finish
from dpsolve.solvers.methods.shortest_path import undiscounted
from dpsolve.solvers.model.factory_signature import (
    Factory,
    build,
    gradient_mistake,
    look_over,
    signature,
)
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import AnyArray
from dpsolve.solvers.numerics.krylov import transposable_resolvent
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.operators.base import BellmanOperator, PolicyOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import PER_POINT, Outcome

from .point import decisions_in, read_model, read_off, solve_point
from .policy_response import moving, responds, stored, with_policy
from .statistics import follows, horizon_path, mask

Arrays = dict[str, Array]  # of one point, by name
Values = Mapping[str, Array]  # a number, or an array, for each parameter
TOLERANCE = 1e-13  # of a derivative's residual, relative to its right-hand side

# What is differentiated at the fixed policy: not the bounds, which move with the value, not the
# choices, which are held fixed, and not the grids, whose derivative the model's author can write.
DIFFERENTIATED = ("value", PREFIX, "output_", "distribution", "distribution_path", "moment_")


def check_gradients(factory: Factory, options: SolveOptions) -> None:
    """Refuse gradients with respect to what is no parameter of a factory.

    Raises
    ------
    UsageError
        With the names that there are.
    """
    for option in ("gradients", "gradients_fixed_policy"):
        for name in getattr(options, option):
            if text := gradient_mistake(signature(factory), name):
                raise UsageError(f"{option}: {text}")


def point_with_gradients(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Values,
    partition: Partition | None = None,
    proved: bool = False,
) -> Arrays:
    """Solve a point as :func:`~.point.solve_point` does, and add the gradients asked for.

    Returns
    -------
    dict
        And ``d_value_d_<parameter>``, or ``d_<variable>_d_<parameter>`` of each of a factory's own
        float arrays and of all that a model without choices gives; and
        ``d_<variable>_d_<parameter>_fixed_policy`` of the value, the outputs, the distribution, its
        moments and its path. Each has its variable's shape, and then that of its parameter.
    """
    check_gradients(factory, options)
    return _with_gradients(
        factory,
        sizes,
        options,
        values,
        lambda v: solve_point(factory, sizes, options, v, partition, proved),
        partition,
    )


def gradients_of(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Values,
    arrays: Arrays,
    partition: Partition | None = None,
) -> Arrays:
    """Add the gradients asked for, each of its variable's shape, to a solution that is at hand."""
    return _with_gradients(factory, sizes, options, values, lambda _: arrays, partition)


def _with_gradients(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Values,
    solve: Callable[[Values], Arrays],
    partition: Partition | None = None,
) -> Arrays:
    if not options.differentiated_by:
        return solve(values)
    out, push, exact = _linearized(factory, sizes, options, values, solve, partition)
    failed = out["code"] >= 10
    # One after the other, in one compiled loop: each linear solve ends by itself.
    by = {name: jnp.asarray(values[name]) for name in options.differentiated_by}
    ends = list(accumulate(x.size for x in by.values()))

    def unit(i: Array) -> Arrays:
        """Return a step of one entry of one parameter, and of no other."""
        one = jnp.split(jnp.zeros(ends[-1]).at[i].set(1.0), ends[:-1])
        moving = {n: d.reshape(x.shape) for (n, x), d in zip(by.items(), one, strict=True)}
        return {n: moving[n] if n in by else jnp.zeros_like(x) for n, x in values.items()}

    moved = lax.map(lambda i: push(unit(i)), jnp.arange(ends[-1]))
    found = {}
    for (name, at), end in zip(by.items(), ends, strict=True):
        for variable, rows in moved.items():
            x = jnp.moveaxis(rows[end - at.size : end], 0, -1)
            x = x.reshape(*x.shape[:-1], *at.shape)
            # What is no number has no derivative, either.
            none = (failed | jnp.isnan(out[variable])).reshape(rows.shape[1:] + (1,) * at.ndim)
            slope = mask(x, jnp.broadcast_to(none, x.shape))
            if name in options.gradients and exact(variable):
                found[f"d_{variable}_d_{name}"] = slope
            if name in options.gradients_fixed_policy:
                found[f"d_{variable}_d_{name}{FIXED}"] = slope
    return stored(out) | found


def differentiable_point(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions, proved: bool = False
) -> Callable[[Values], Arrays]:
    """Return :func:`point_with_gradients` as a function of the parameters, with derivatives."""
    # What derivatives are found from is kept where some are asked for; here they all may be.
    every = replace(options, gradients=tuple(signature(factory).parameters))

    def plain(values: Values) -> Arrays:
        if look_over(factory, sizes, asks):
            return solve_point(factory, sizes, every, values, proved=proved)
        return solve_point(factory, sizes, options, values)

    run = jax.custom_jvp(plain)

    def jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Arrays, dict[str, Any]]:
        (values,), (dots,) = primals, tangents
        if _is_own(factory, sizes, values):
            return jax.jvp(plain, (values,), (dots,))
        if options.criterion == "average":
            raise UsageError(NO_GRADIENTS)
        if undiscounted(build(factory, values, sizes), options):
            raise UsageError(NO_GRADIENTS_UNDISCOUNTED)
        out = run(values)
        moved = _moves(factory, sizes, options, values, out)(dots)
        moved["lower"] = moved["upper"] = moved["value"]
        return out, {name: _tangent(x, moved.get(name)) for name, x in out.items()}

    run.defjvp(jvp)
    check_gradients(factory, options)
    return lambda values: stored(_with_gradients(factory, sizes, options, values, run))


def _moves(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions, values: Values, out: Arrays
) -> Callable[[Values], Arrays]:
    """Return how a solution moves, in somebody's trace.

    Raises
    ------
    UsageError
        Naming the continuous choice of a model that is not known to be concave.
    """
    choices = getattr(build(factory, values, sizes), "continuous", ())
    if not choices:
        return _response(factory, sizes, options, values, out)
    if not responds(out):
        raise UsageError(no_slopes(signature(factory).name, next(iter(choices))))
    return with_policy(factory, sizes, options, values, out)


def _is_own(factory: Factory, sizes: Mapping[str, Any], values: Values) -> bool:
    return not isinstance(build(factory, values, sizes), Model | TabularModel)


def _linearized(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Values,
    solve: Callable[[Values], Arrays],
    partition: Partition | None,
) -> tuple[Arrays, Callable[[Values], Arrays], Callable[[str], bool]]:
    """Solve a point; return how it moves with the parameters, and of what that is a derivative.

    Of the rest it is one at the fixed policy.
    """
    if _is_own(factory, sizes, values):

        def own(values: Values) -> tuple[Arrays, Arrays]:
            out = solve(values)
            return {n: x for n, x in out.items() if _is_differentiated(n, x)}, out

        _, push, out = jax.linearize(own, values, has_aux=True)
        return out, push, lambda _: True
    made = build(factory, values, sizes)
    free, out = not chooses(made), solve(values)
    if isinstance(made, Model) and made.continuous:
        names = moving(made, out)
        # Where concavity is neither declared nor proved nothing is known.
        moved = {n: jnp.full_like(out[n], jnp.nan) for n in names}
        if responds(out):
            whole = with_policy(factory, sizes, options, values, out)
            return out, lambda dots: {n: whole(dots)[n] for n in names}, lambda _: True
        return out, lambda _: moved, lambda _: True
    respond_to = _response(factory, sizes, options, values, out, partition)

    def exact(name: str) -> bool:
        # Probabilities are of values that other choices maximise: the envelope theorem again.
        return free or name == "value" or name.startswith(PREFIX)

    def moves(dots: Values) -> Arrays:
        every = respond_to(dots)
        found = {n: every[n] for n in out if n in every and n.startswith(DIFFERENTIATED)}
        if options.gradients_fixed_policy:
            return found
        return {n: x for n, x in found.items() if exact(n)}

    return out, moves, exact


def _is_differentiated(name: str, x: Array) -> bool:
    """Tell it of a factory's own array."""
    return x.dtype.kind == "f" and name not in PER_POINT and not name.startswith("grid_")


def _response(
    factory: Factory,
    sizes: Mapping[str, Any],
    options: SolveOptions,
    values: Values,
    out: Arrays,
    partition: Partition | None = None,
) -> Callable[[Values], Arrays]:
    """Return how a model's solution moves with the parameters, at its fixed policy."""
    index = decisions_in(out)

    def through_time(values: Values) -> Arrays:
        made = build(factory, values, sizes)
        assert isinstance(made, Model | TabularModel)
        found = follow(made, options, index, partition)
        moving = index | decisions_in(found)
        path, _ = horizon_path(made, options, moving, False, partition)
        return found | path

    if build(factory, values, sizes).horizon is not None:
        push: Callable[[Values], Arrays] = jax.linearize(through_time, values)[1]
        return push

    def at(values: Values, value: Array) -> tuple[Any, BellmanOperator, Any, PolicyOperator]:
        made = build(factory, values, sizes)
        operator = make_operator(made, options, partition)
        policy = operator.responding(operator.policy_of(index), value)
        return made, operator, policy, operator.at(policy)

    def once(values: Values) -> Array:
        """Apply the optimal policy once to its value."""
        fixed = at(values, out["value"])[-1]
        return fixed.reward + fixed.apply(out["value"])

    def spread(values: Values, value: Array) -> Array:
        """Apply it once to its distribution."""
        return pushed(at(values, value)[-1].expect, out["distribution"])

    def rest(values: Values, value: Array, mass: Array | None) -> Arrays:
        made, operator, policy, fixed = at(values, value)
        found = read_off(made, operator, policy) | operator.chances(policy)
        return found | follows(made, fixed, options, mass)

    fixed = at(values, out["value"])[-1]
    step = jax.linearize(once, values)[1]
    mass = out.get("distribution") if options.stationary else None
    if options.stationary:
        push_on = jax.linearize(spread, values, out["value"])[1]
    further = jax.linearize(rest, values, out["value"], mass)[1]

    def respond_to(dots: Values) -> Arrays:
        moved: Arrays = {"value": resolved(fixed, step(dots))}
        if options.stationary:
            assert mass is not None
            moving = respond(fixed.expect, mass, push_on(dots, moved["value"]), fixed.reductions)
            # With several recurrent classes the shares of each move, too: no derivative is right.
            unique = out["distribution_period"] > 0
            moved["distribution"] = jnp.where(unique, moving, jnp.nan)
        moved |= further(dots, moved["value"], moved.get("distribution"))
        return moved

    return respond_to


def _tangent(primal: Array, moved: Array | None) -> AnyArray:
    if not jnp.issubdtype(primal.dtype, jnp.floating):
        return np.zeros(np.shape(primal), jax.dtypes.float0)
    return jnp.zeros_like(primal) if moved is None else moved


def resolved(fixed: PolicyOperator, b: Array) -> Array:
    """Solve ``x - L x = b`` (states...) of a policy, so that JAX can transpose the solution."""
    return transposable_resolvent(
        fixed.apply, b, TOLERANCE, fixed.reductions, fixed.preconditioners()
    )


def read_point(operators: Operators, run: Any, wanted: Array | bool = True) -> dict[str, Array]:
    """Name what was found, and work out what follows from it, as ``solve_point`` does.

    A point that is not `wanted` costs next to nothing: it is treated as one that failed. Gradients
    are added by :func:`~.gradients.gradients_of`.
    """
    found = finish(operators.loop, operators.options, run)
    found = replace(found, code=jnp.where(wanted, found.code, jnp.int32(Outcome.NOT_FINITE)))
    return read_model(operators, found)
