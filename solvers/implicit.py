r"""Derivatives of a solution with respect to economic parameters, by the implicit function theorem.

At the optimum the value solves :math:`v = T_\pi(v; \theta)` with its own greedy policy. By the
envelope theorem the policy may be held fixed, so that

.. math::
    (I - L_\pi)\,\frac{dv}{d\theta} = \frac{\partial T_\pi(v; \theta)}{\partial\theta},

one linear solve for each direction (forward) or for each function of the solution (reverse, with
the transposed system), however many sweeps the solution took. Policies are discrete: they are held
fixed, so the derivative of the value is exact wherever the optimal policy does not change, and
one-sided at the kinks where it does. Outputs and the policy's grid values are differentiated at the
fixed policy. The certificate says nothing about derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .factory import Factory, build
from .horizon import follow
from .krylov import resolvent
from .model import Model, TabularModel
from .operator import PolicyOperator
from .options import SolveOptions
from .point import make_operator, read_off, solve_point

__all__ = ["differentiable_point"]

Array = Any
Arrays = dict[str, Array]
TOLERANCE = 1e-13  # of a derivative's residual, relative to its right-hand side


def differentiable_point(
    factory: Factory, sizes: Mapping[str, Any], options: SolveOptions
) -> Callable[[Mapping[str, Array]], Arrays]:
    """Return :func:`~.point.solve_point` as a function of the parameters, with derivatives."""

    def plain(values: Mapping[str, Array]) -> Arrays:
        return solve_point(factory, sizes, options, values)

    run = jax.custom_jvp(plain)

    def jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Arrays, Arrays]:
        (values,), (dots,) = primals, tangents
        made = build(factory, values, sizes)
        if not isinstance(made, Model | TabularModel):
            return jax.jvp(plain, (values,), (dots,))  # a factory's own arrays
        out = run(values)
        index = {
            name.removeprefix("policy_index_"): x
            for name, x in out.items()
            if name.startswith("policy_index_")
        }

        def once(values: Mapping[str, Array]) -> Arrays:
            """Apply the optimal policy once to the optimal value, and read off what follows."""
            made = build(factory, values, sizes)
            if isinstance(made, Model) and made.horizon is not None:
                return follow(made, options, index)
            operator = make_operator(made, options)
            policy = operator.policy_of(index)
            fixed = operator.at(policy)
            value = fixed.reward + fixed.apply(out["value"])
            return {"value": value} | read_off(made, operator, policy)

        _, moved = jax.jvp(once, (values,), (dots,))
        if made.horizon is None:  # over a finite horizon the derivative has come along already
            operator = make_operator(made, options)
            moved["value"] = _resolvent(operator.at(operator.policy_of(index)), moved["value"])
        moved["lower"] = moved["upper"] = moved["value"]
        return out, {name: _tangent(x, moved.get(name)) for name, x in out.items()}

    run.defjvp(jvp)
    return run


def _tangent(primal: Array, moved: Array | None) -> Array:
    if not jnp.issubdtype(primal.dtype, jnp.floating):
        return np.zeros(np.shape(primal), jax.dtypes.float0)
    return jnp.zeros_like(primal) if moved is None else moved


def _resolvent(fixed: PolicyOperator, b: Array) -> Array:
    """Solve ``x - L x = b``, so that JAX can transpose the solution."""
    transposed = jax.linear_transpose(fixed.apply, b)
    x: Array = lax.custom_linear_solve(
        lambda x: x - fixed.apply(x),
        b,
        solve=lambda _, b: resolvent(fixed.apply, b, TOLERANCE),
        transpose_solve=lambda _, b: resolvent(lambda y: transposed(y)[0], b, TOLERANCE),
    )
    return x
