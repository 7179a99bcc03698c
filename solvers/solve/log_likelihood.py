r"""``dp.log_likelihood``: how likely observed choices are, as a function of the parameters.

.. math::
    \ell(\theta) = \sum_i \log P(j_i \mid s_i; \theta), \qquad
    P(j \mid s) \text{ of } q(s, j) = \max_c \{ r + \beta E v^*(s'; \theta) \},

the inner problem solved anew at every parameter (the nested fixed point of Rust 1987): by policy
iteration, which is Newton's method there, and one more step of it than certifies the value, whose
error is then that of rounding.

*Derivatives.* :math:`v = T(v; \theta)` defines :math:`v(\theta)`, and
:math:`(I - \partial_v T)\, dv = \partial_\theta T\, d\theta`, with :math:`\partial_v T` the
discounted chain of the policy: one linear solve, transposed for a gradient. Everything in it is
differentiable again, so that Hessians are exact, too. With :math:`H` the Hessian of the sum,
standard errors are :math:`\sqrt{\operatorname{diag}(-H^{-1})}`; those of the outer product of
scores, and robust ones, follow from the contributions (``each=True``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.discrete_choice.choice_data import ChoiceModel, Observations, read_data
from dpsolve.solvers.discrete_choice.operator import TasteOperator
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.library import as_factory
from dpsolve.solvers.logit.log_sum import log_sum_of
from dpsolve.solvers.methods.choose_operator import Operators, make_operator
from dpsolve.solvers.methods.finite_horizon import terminal_value
from dpsolve.solvers.methods.loop import solve
from dpsolve.solvers.model.factory_signature import Factory, build, look_over, signature, split
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.operators.interpolation import Location, locate, looked_up
from dpsolve.solvers.operators.model_functions import BLOCK
from dpsolve.solvers.operators.named_arrays import NamedArray
from dpsolve.solvers.options import SolveOptions

from .gradients import resolved
from .one_device import check_sizes

ROW = "|"  # the axis of observations
NEWTON = 1e-12  # of the last step's residual, relative to the value
Values = Mapping[str, Array]


def log_likelihood(
    factory: Factory | str,
    data: Mapping[str, Any],
    sizes: Mapping[str, Any] | None = None,
    each: bool = False,
) -> Callable[[Mapping[str, Any]], Array]:
    r"""Return the log-likelihood of observed choices, as a function of the parameters.

    It is of the choices given the states: how states move is estimated before, or added to it.
    The function can be called inside ``jit``, ``vmap``, ``grad`` and ``hessian``: derivatives are
    by the implicit function theorem, and exact.

    Parameters
    ----------
    factory : function or str
        Of a ``dp.Model`` with taste shocks, or the name of a built-in one.
    data : dict of str to array (observations,)
        States and the choices with taste shocks by name, values and not positions; with a horizon
        ``t`` = 0, ..., horizon - 1. A ``pandas.DataFrame`` will do. A NaN in a choice says that it
        was not observed: its factor is left out (of a pair of which one is known, the other is
        summed over). Between nodes of a continuous state the values of the alternatives are
        interpolated, then the logit is taken.
    sizes : dict, optional
        Static parameters of the factory; the others have their defaults.
    each : bool
        Return the contributions (observations,) in place of their sum.

    Returns
    -------
    function
        Of ``params``, a dict of numbers by name (the others have their defaults), to the
        log-likelihood, a number, or (observations,). NaN where the model cannot be solved, or where
        a grid that moves with a parameter does not reach an observation; -inf where a choice is
        infeasible.

    Raises
    ------
    ModelError
        If the model has no taste shocks, or a name in `sizes` is unknown.
    UsageError
        If data cannot be matched with the model: which observation, and why.

    Examples
    --------
    Estimates and their standard errors::

        ll = dp.log_likelihood(bus_engine, {"x": mileage, "replace": replaced})
        f = lambda p: -ll({"RC": p[0], "theta_1": p[1]})
        found = scipy.optimize.minimize(jax.jit(f), start, jac=jax.jit(jax.grad(f)), method="BFGS")
        errors = np.sqrt(np.diag(np.linalg.inv(jax.hessian(f)(found.x))))

    A thousand parameter vectors in one call: ``jax.jit(jax.vmap(ll))({"RC": array, ...})``.

    References
    ----------
    Rust (1987), *Econometrica* 55(5); Iskhakov, Lee, Rust, Schjerning and Seo (2016),
    *Econometrica* 84(1), on Newton's method and its derivatives.
    """
    factory = as_factory(factory)
    given, static = split(factory, dict(sizes or {}))
    for name in sizes or {}:
        if name in given:
            raise UsageError(
                f"sizes has '{name}', which is a parameter of {signature(factory).name} and no "
                "size: give it in params"
            )
    check_sizes(static)
    name = signature(factory).name
    rows = read_data(data, look_over(factory, static, lambda made: ChoiceModel.of(made, name)))

    def model_at(values: Values) -> Model:
        made: Model = build(factory, values, static)
        return made

    def run(values: Values) -> Array:
        made = model_at(values)
        if made.horizon is not None:
            return _likelihood(made, _values_by_period(made), rows, each)
        v = _fixed_point(model_at)(values)
        q, _ = _operator(made, SolveOptions()).values_of_alternatives(v)
        return _likelihood(made, q, rows, each)

    compiled = jax.jit(run)

    def likelihood(params: Mapping[str, Any] | None = None) -> Array:
        values, now = split(factory, {**dict(sizes or {}), **dict(params or {})})
        if now != static:
            other = next(n for n in now if now[n] != static[n])
            raise UsageError(
                f"params has the size '{other}', which data were matched at: give it to "
                "dp.log_likelihood, sizes={...}"
            )
        for parameter, x in values.items():
            if np.ndim(x):
                raise UsageError(
                    f"parameter '{parameter}' has the shape {np.shape(x)}; the likelihood is of "
                    "one parameter vector: jax.vmap it for many"
                )
        found: Array = compiled({n: jnp.asarray(x, jnp.float64) for n, x in values.items()})
        return found

    return likelihood


def _likelihood(made: Model, q: Array, rows: Observations, each: bool) -> Array:
    """Add up the data's log-probabilities at one parameter vector, inside a trace.

    `q` are the alternatives' values (states..., alternatives), with a horizon (t, states..., ...).
    """
    dims = (*(() if made.horizon is None else ("t",)), *made.states, BLOCK)
    at = {} if rows.t is None else {"t": Location(NamedArray(_index(rows.t), (ROW,)))}
    inside = jnp.asarray(True)
    for state, x in rows.states.items():
        spec = made.states[state]
        if isinstance(spec, Grid):
            points = jnp.asarray(spec.values, jnp.float64)
            inside = inside & (x >= points[0]) & (x <= points[-1])
            clipped = jnp.clip(x, points[0], points[-1])
            at[state] = locate(replace(spec, outside="clip"), NamedArray(clipped, (ROW,))).lean()
        else:
            at[state] = Location(NamedArray(_index(x), (ROW,)))
    here = looked_up(NamedArray(q, dims), at)
    assert made.taste is not None
    logs = log_sum_of(made.taste).log_probabilities(here.array)
    known = rows.consistent.sum(-1) < rows.consistent.shape[-1]
    only = rows.consistent.sum(-1) == 1
    first = jnp.take_along_axis(logs, rows.consistent.argmax(-1)[:, None], -1)[:, 0]
    if not (only | ~known).all():  # some of several choices are missing
        some = jax.nn.logsumexp(jnp.where(rows.consistent, logs, -jnp.inf), axis=-1)
        first = jnp.where(only, first, some)
    told = jnp.where(known, jnp.where(inside, first, jnp.nan), 0.0)
    told = jnp.where((jnp.isnan(q) | (q == jnp.inf)).any(), jnp.nan, told)
    return told[rows.number] if each else jnp.sum(rows.count * told)


def _index(x: Any) -> Array:
    return jnp.asarray(x, jnp.int32)


def _operator(made: Model, options: SolveOptions, t: Array | None = None) -> TasteOperator:
    operator = make_operator(made, options, t=t)
    assert isinstance(operator, TasteOperator)
    return operator


def _fixed_point(model_at: Callable[[Values], Model]) -> Callable[[Values], Array]:
    """Return the value (states...) as a function of the parameters, with derivatives."""
    options = SolveOptions.from_mapping({"method": "pi"})

    def solved(values: Values) -> Array:
        made = model_at(values)
        found: Any = solve(Operators(made, options), options)
        operator = _operator(made, options)
        middle = jnp.mean(found.value)
        rest = found.value - middle
        fixed = operator.at(found.policy).around(middle)
        aim = NEWTON * jnp.max(jnp.abs(rest))
        return middle + fixed.evaluate(rest, aim, jnp.int32(options.inner_iter))[0]

    value = jax.custom_jvp(solved)

    def jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Array, Array]:
        (values,), (dots,) = primals, tangents
        v = value(values)

        def step(values: Values) -> Array:
            return _operator(model_at(values), options).greedy(v)[0]

        moved = jax.jvp(step, (values,), (dots,))[1]
        operator = _operator(model_at(values), options)
        return v, resolved(operator.at(operator.greedy(v)[1]), moved)

    value.defjvp(jvp)
    return value


def _values_by_period(made: Model) -> Array:
    """Return the alternatives' values (t, states..., alternatives), with derivatives."""
    options = SolveOptions()

    def period(v: Array, t: Array) -> tuple[Array, Array]:
        operator = _operator(made, options, t)
        q, _ = operator.values_of_alternatives(v)
        return operator.log_sum.value(q)[0], q

    _, q = lax.scan(period, terminal_value(made), jnp.arange(int(made.horizon or 0)), reverse=True)
    return q
