r"""Distribution, moments and path that a point is asked for beside its value.

The optimal policy moves a distribution over the states as a Markov chain. Its stationary
distribution is certified by itself (:mod:`.stationary`), to an L1 distance of `distribution_tol`;
moments follow from it (:mod:`.moments`). A path starts from `initial` and takes `periods` steps
(:mod:`.path`); over a finite horizon it takes each period's own policy, and there is no
stationary distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpsolve.solvers.distributions.distribution import explain_distribution
from dpsolve.solvers.distributions.finer_grid import lived_grids, on_distribution_grid
from dpsolve.solvers.distributions.initial import read_initial
from dpsolve.solvers.distributions.moments import expanded, moments_of, top_masses
from dpsolve.solvers.distributions.path import path_of, pushed
from dpsolve.solvers.distributions.solved_points import policy_operator
from dpsolve.solvers.distributions.stationary_derivatives import stationary_of
from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.inspection.forecast import path_periods
from dpsolve.solvers.labelled import SUFFIX
from dpsolve.solvers.methods.choose_operator import make_operator
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.partition import ALONE, Partition, Reductions
from dpsolve.solvers.operators.base import PolicyOperator
from dpsolve.solvers.options import SolveOptions
from dpsolve.solvers.outcomes import Outcome, sentence

Arrays = dict[str, Array]

# One number each about a point's stationary distribution.
OF_DISTRIBUTION = ("distribution_residual", "distribution_error", "distribution_period")
CLASSES = "distribution_classes"  # a state of each recurrent class: for messages, and not stored


# -- what is told of it ---------------------------------------------------------------------------


def explain_statistics(
    code: int, model: Callable[[], Any], options: SolveOptions, arrays: Mapping[str, Any]
) -> str:
    """Return the sentence of a point that did not fail, outside a trace.

    Parameters
    ----------
    code : int
        Below 10.
    model : function
        Builds the model at the point; called only where that is needed.
    options : SolveOptions
    arrays : mapping
        The point's results.
    """
    text = _explained(code, model, options, arrays)
    error = float(arrays.get("distribution_error", 0.0))
    given = any(n.startswith("moment_") and np.isfinite(x).all() for n, x in arrays.items())
    if error <= options.distribution_tol or not given:
        return text
    beside = f"the moments are of a distribution that is not certified (distance {error:.3g})"
    return f"{text}; {beside}" if text else beside


def _explained(
    code: int, model: Callable[[], Any], options: SolveOptions, arrays: Mapping[str, Any]
) -> str:
    if CLASSES in arrays and code in _OF_CHAIN:
        return _of_chain(code, model(), options, arrays)
    if code == Outcome.NOT_PROBABILITIES and (options.initial or options.periods):
        try:
            initial_mass(model(), options)
        except ModelError as error:  # the initial distribution has no place on the grid here
            return str(error)
    return sentence(code, options.sample)


_OF_CHAIN = (Outcome.SOLVED, Outcome.DISTRIBUTION_LOOSE, Outcome.SEVERAL_CLASSES)


def _of_chain(code: int, made: Any, options: SolveOptions, arrays: Mapping[str, Any]) -> str:
    names = tuple(made.states) if isinstance(made, Model) else ("state",)
    numbers = {
        "code": code,
        "period": arrays["distribution_period"],
        "residual": arrays["distribution_residual"],
        "classes": arrays[CLASSES],
    }
    grids = {n: arrays.get(f"grid_{n}{SUFFIX}", arrays[f"grid_{n}"]) for n in names}
    text = explain_distribution(numbers, grids)
    if code == Outcome.SEVERAL_CLASSES and options.initial is None:
        return f"{text}; in a sweep, [solve] initial = {{ {names[0]} = VALUE }}"
    return text


# -- inside the compiled point --------------------------------------------------------------------


def statistics_of(
    model: Model, options: SolveOptions, arrays: Arrays, partition: Partition | None = None
) -> tuple[Arrays, Array]:
    """Find what the options ask for beside a solution that is at hand, inside a trace.

    Its choices may lie between grid points, and its distribution may have grids of its own; the
    horizon may be finite or infinite.

    Parameters
    ----------
    arrays : dict
        The solution's: ``policy_index_<choice>``, or of a continuous choice ``policy_<choice>``.

    Raises
    ------
    UsageError
        If the states are spread over a mesh.
    """
    if partition is not None:
        raise UsageError(
            "distribution_grid beside a mesh of states: a distribution on a grid of its own is "
            "found on one device; leave one of them out, or call "
            "dp.stationary(solution, distribution_grid={...}) afterwards"
        )
    kind = {c: "policy_" if c in model.continuous else "policy_index_" for c in model.choices}
    decisions = {c: arrays[f"{before}{c}"] for c, before in kind.items()}
    failed = arrays["code"] >= 10
    if model.horizon is not None:
        more, code = horizon_path(model, options, decisions, failed)
    elif options.stationary or options.periods is not None:
        lived, fixed = policy_operator(model, decisions, options)
        more, code = population(lived, fixed, options, failed)
    else:
        return {}, jnp.int32(Outcome.SOLVED)
    return more | (lived_grids(model, options.distribution_grid) if more else {}), code


def population(
    model: Model | TabularModel, fixed: PolicyOperator, options: SolveOptions, failed: Array
) -> tuple[Arrays, Array]:
    """Find what the options ask for at an infinite horizon's policy, inside a trace.

    Parameters
    ----------
    failed : bool
        Whether the value failed: then there is no policy, and everything is NaN.

    Returns
    -------
    arrays : dict
        ``distribution`` (states...) and the numbers in ``OF_DISTRIBUTION``, ``top_mass_<state>``,
        ``moment_<name>``, ``distribution_path`` (time, states...).
    code : int
        An :class:`~.outcomes.Outcome`: how it went.
    """
    arrays: Arrays = {}
    code = jnp.int32(Outcome.SOLVED)
    mass = None
    if options.stationary:
        found = stationary_of(
            fixed.expect,
            fixed.reward.shape,
            method=options.distribution_method,
            tol=options.distribution_tol,
            initial=_start(model, fixed.partition, options)
            if options.initial is not None
            else None,
            proper=fixed.proper & ~failed,
            over=fixed.reductions,
        )
        mass, code = found.mass, found.code.astype(jnp.int32)
        arrays["distribution"] = mass
        arrays["distribution_residual"] = found.residual
        arrays["distribution_error"] = found.error_bound
        arrays["distribution_period"] = found.period.astype(jnp.int32)
        arrays |= top_masses(model, mass, fixed.partition)
        arrays[CLASSES] = found.classes
        if fixed.partition is not None:
            axis = _axis(model, fixed.partition)
            arrays[CLASSES] = fixed.partition.numbers_on_grid(found.classes, model.shape, axis)
    arrays |= follows(model, fixed, options, mass)
    code = _judge(arrays, fixed.proper, code, fixed.reductions)
    return {name: mask(x, failed) for name, x in arrays.items()}, code


def follows(
    model: Model | TabularModel,
    fixed: PolicyOperator,
    options: SolveOptions,
    mass: Array | None,
) -> Arrays:
    """Return what follows from a policy and its distribution `mass` (states...), differentiably."""
    arrays: Arrays = {}
    if options.moments:
        assert mass is not None  # `options.stationary` is true of them
        found = moments_of(model, fixed, mass, expanded(model, options.moments))
        arrays |= {f"moment_{name}": x for name, x in found.items()}
    if options.periods is not None:
        start = _start(model, fixed.partition, options)
        arrays["distribution_path"] = path_of(
            lambda mass, _: pushed(fixed.expect, mass), start, options.periods
        )
    return arrays


def _axis(model: Model | TabularModel, partition: Partition) -> int:
    return list(model.states).index(partition.state) if isinstance(model, Model) else 0


def _start(
    model: Model | TabularModel, partition: Partition | None, options: SolveOptions
) -> Array:
    """Return where the distribution starts, or this device's part of it."""
    whole = initial_mass(model, options)
    return whole if partition is None else partition.part(whole, _axis(model, partition))


def horizon_path(
    model: Model | TabularModel,
    options: SolveOptions,
    policies: Mapping[str, Array],
    failed: Array | bool,
    partition: Partition | None = None,
) -> tuple[Arrays, Array]:
    """Push a distribution through the periods of a finite horizon, if the options ask for it.

    Parameters
    ----------
    policies : dict of str to array (t, states...)
        Each choice's positions, or values of choices that lie between grid points.
    """
    periods = path_periods(model, options)
    if periods is None:
        return {}, jnp.int32(Outcome.SOLVED)

    finer, own = model, False
    if isinstance(model, Model):
        own = bool(model.continuous or options.distribution_grid)
        finer = on_distribution_grid(model, options.distribution_grid)

    def step(mass: Array, t: Array) -> Array:
        if own:
            now = {c: x[t] for c, x in policies.items()}
            _, moving = policy_operator(model, now, options, t)
            return jnp.where(moving.proper, pushed(moving.expect, mass), jnp.nan)
        operator = make_operator(model, replace(options, block=1), partition, t=t)
        # A failed point has -1 for a policy; its path is masked.
        policy = operator.policy_of({c: jnp.maximum(i[t], 0) for c, i in policies.items()})
        fixed = operator.at(policy)
        return jnp.where(fixed.proper, pushed(fixed.expect, mass), jnp.nan)

    arrays = {"distribution_path": path_of(step, _start(finer, partition, options), periods)}
    over = ALONE if partition is None else partition.reductions
    code = _judge(arrays, True, jnp.int32(Outcome.SOLVED), over)
    return {name: mask(x, failed) for name, x in arrays.items()}, code


def initial_mass(model: Model | TabularModel, options: SolveOptions) -> Array:
    """Return the initial distribution of the options (states...)."""
    return read_initial(dict(options.initial or ()), model)


def _judge(arrays: Arrays, proper: Array | bool, code: Array, over: Reductions) -> Array:
    """Let a path that is none be told: an initial value off its grid, or extrapolation."""
    if "distribution_path" not in arrays:
        return code
    good = over.all(jnp.isfinite(arrays["distribution_path"])) & over.all(jnp.asarray(proper))
    bad = jnp.int32(Outcome.NOT_PROBABILITIES)
    return jnp.where((code == Outcome.SOLVED) & ~good, bad, code)


def mask(x: Array, failed: Array | bool) -> Array:
    """Take what a failed point cannot have out of an array (...)."""
    missing = jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else -1
    return jnp.where(failed, missing, x)
