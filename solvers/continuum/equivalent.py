r"""A loss of value as a share of consumption, in every period and state.

Where the reward is a logarithm of one expression, or constant relative risk aversion in it, to
consume a share :math:`\lambda` more throughout is worth

.. math::
    v + \log(1 + \lambda) \sum_t D^t 1, \qquad\text{or}\qquad (1 + \lambda)^{1 - \gamma} v,

so that a policy which loses at most w is worth a share :math:`\exp(w / \sum_t D^t 1) - 1` of
consumption at most, or :math:`(1 + w / |v|)^{1 / |1 - \gamma|} - 1` (Lucas 1987, *Models of
Business Cycles*). Elsewhere, and beside a terminal value, there is no such share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from dpsolve.solvers.model.utility import CRRA

from .problem import ContinuousProblem


class Utility(NamedTuple):
    """A reward that is a utility of one expression.

    Attributes
    ----------
    gamma : float
        Relative risk aversion, 1 of a logarithm.
    """

    gamma: Any


def utility_of(problem: ContinuousProblem) -> Utility | None:
    """Read the reward's trace; None where it is no such utility, or its gamma is no parameter."""
    model = problem.model
    if len(model.reward) > 1 or model.terminal is not None:
        return None
    x, y = np.zeros(len(problem.states)), np.ones(len(problem.choices))

    def reward(x: Array, y: Array, z: Array, t: Array) -> Array:
        now = problem if problem.t is None else replace(problem, t=t)
        return now.output(model.reward[0], x, y, z)

    closed = jax.make_jaxpr(reward)(x, y, np.int32(0), np.int32(0))
    jaxpr = closed.jaxpr
    made = {v: e for e in jaxpr.eqns for v in e.outvars}
    out: Any = jaxpr.outvars[0]
    while not isinstance(out, Literal) and out in made:
        equation = made[out]
        name = equation.primitive.name
        if name in ("convert_element_type", "copy", "copy_p"):
            out = equation.invars[0]
        elif name == "log":
            return Utility(1.0)
        elif equation.params.get("name") == CRRA:
            gamma = equation.invars[1]
            if isinstance(gamma, Literal):
                return Utility(gamma.val)
            if _depends(jaxpr, gamma):
                return None
            alone = ClosedJaxpr(jaxpr.replace(outvars=[gamma]), closed.consts)
            return Utility(jaxpr_as_fun(alone)(x, y, np.int32(0), np.int32(0))[0])
        else:
            return None
    return None


def _depends(jaxpr: Any, variable: Any) -> bool:
    """Tell whether a variable is computed from what the reward is of."""
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in reached for v in equation.invars):
            reached |= set(equation.outvars)
    return variable in reached


def share_of(utility: Utility, loss: Array, periods: Array, lower: Array, upper: Array) -> Array:
    """Return a loss as a share of consumption.

    Parameters
    ----------
    utility : Utility
    loss : float
        Of value, at most.
    periods : array (z,)
        The discounted number of periods that are left.
    lower, upper : float
        Bounds on the value at all states.
    """
    gamma = jnp.asarray(utility.gamma, jnp.float64)
    is_log = gamma == 1.0
    size = jnp.where(gamma > 1.0, -upper, lower)  # of the value nearest to zero
    power = 1.0 / jnp.where(is_log, 1.0, jnp.abs(1.0 - gamma))
    ratio = loss / jnp.where(size > 0.0, size, 1.0)
    scaled = jnp.where(size > 0.0, jnp.expm1(power * jnp.log1p(ratio)), jnp.inf)
    return jnp.where(is_log, jnp.expm1(loss / jnp.min(periods)), scaled)
