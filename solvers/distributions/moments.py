r"""Moments of a distribution by name: mean, quantiles, Gini, shares.

Under a distribution :math:`\mu` over the states, a policy gives every state, choice and output a
law of finitely many values :math:`x_i` with masses :math:`w_i`; a variable that depends on shocks
has their probabilities in its masses, so that it is the law of what is drawn, not of its average.

==============  ===================================================================================
``mean``        :math:`\bar x = \sum_i w_i x_i`
``var``, ``sd``  :math:`\sum_i w_i (x_i - \bar x)^2`, about the mean found before (two passes, so
                that nothing cancels), and its root
``gini``        :math:`\sum_{ij} w_i w_j |x_i - x_j| / (2 \bar x)`, from one sort:
                :math:`\sum_i w_i x_i (F_i - (1 - F_{i-1})) / \bar x`. NaN if a negative value has
                mass, or the mean is within rounding of zero (1e-9 of the largest value): a Lorenz
                curve needs something that can be shared out
``p1``-``p99``  the smallest :math:`x` with :math:`F(x) \ge p / 100`, less a guard of 1e-12 against
                rounding. It is one of the values, so under differentiation it moves with its
                value and not with the masses
``top``,        mass on the last and the first grid point of a state: much mass at the top says
``bottom``      that the grid is too short
==============  ===================================================================================

A moment is called ``<statistic>_<variable>``, with a state, a choice (its grid value at the
optimum) or an output; or it is one of the model's own (``dp.Model(moments=...)``): the expectation
of a function of all these, and of shocks. ``moments`` stands for the usual ones: the model's own,
``mean`` and ``sd`` of every state and output, and ``top`` of every state on a grid.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.model.arguments import bind
from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import STATISTIC, Model
from dpsolve.solvers.numerics.partition import Partition
from dpsolve.solvers.operators.base import PolicyOperator
from dpsolve.solvers.operators.bellman import GridPolicy
from dpsolve.solvers.operators.named_arrays import (
    NamedArray,
    aligned,
    mapped,
    multiply,
    ordered,
    total,
)
from dpsolve.solvers.operators.tabular import TabularPolicy
from dpsolve.solvers.probability.markov import Markov

from .top_mass import PREFIX

Asked = str | Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]]
USUAL = "moments"  # the word for the usual ones
NOTHING = 1e-9  # a mean of so small a share of the largest value is the error of the masses
GUARD = 1e-12  # of a cumulative mass that should reach a quantile's share


# -- names --------------------------------------------------------------------------------------


def _states(model: Any) -> tuple[str, ...]:
    return tuple(model.states) if isinstance(model, Model) else ("state",)


def _variables(model: Any) -> tuple[str, ...]:
    """Return the states, choices and outputs, those that a statistic can be of."""
    if isinstance(model, Model):
        return tuple(dict.fromkeys((*model.states, *model.choices, *model.outputs)))
    return ("state", "action") if isinstance(model, TabularModel) else ("state",)


def _own(model: Any) -> Mapping[str, Callable[..., Any]]:
    return model.moments if isinstance(model, Model) else {}


def usual_moments(model: Any) -> tuple[str, ...]:
    """Return the moments that the word ``moments`` stands for."""
    names = [*_own(model)]
    outputs = model.outputs if isinstance(model, Model) else ()
    for name in dict.fromkeys((*_states(model), *outputs)):
        names += [f"mean_{name}", f"sd_{name}"]
    if isinstance(model, Model):
        names += [f"top_{n}" for n, spec in model.states.items() if not isinstance(spec, Markov)]
    return tuple(names)


def moment_names(model: Any) -> tuple[str, ...]:
    """Return the names of a model's moments, with a few of the quantiles."""
    names = [*_own(model)]
    for name in _variables(model):
        names += [f"{s}_{name}" for s in ("mean", "sd", "var", "gini", "p10", "p50", "p90")]
    return (*names, *(f"{s}_{name}" for name in _states(model) for s in ("top", "bottom")))


def check_moments(model: Any, names: Sequence[str]) -> None:
    """Refuse a name that is no moment of the model.

    Raises
    ------
    UsageError
        With the closest name, and the list of what there is.
    """
    for name in names:
        parts = STATISTIC.fullmatch(name)
        known = parts is not None and parts["variable"] in _variables(model)
        if name == USUAL or name in _own(model) or (known and not _misplaced(model, name)):
            continue
        if known and parts is not None:
            raise UsageError(
                f"there is no moment '{name}': {parts['statistic']} is the mass at an end of a "
                f"state's grid, and '{parts['variable']}' is no state. The states are: "
                f"{', '.join(_states(model))}."
            )
        own = f"{', '.join(_own(model))} (the model's own); " if _own(model) else ""
        raise UsageError(
            f"there is no moment '{name}'.{did_you_mean(name, moment_names(model))} There are: "
            f"{own}'{USUAL}', the usual ones; and STATISTIC_VARIABLE with mean, sd, var, gini or "
            f"p1 to p99 of {', '.join(_variables(model))}, and top or bottom of "
            f"{', '.join(_states(model))}."
        )


def _misplaced(model: Any, name: str) -> bool:
    statistic, _, variable = name.partition("_")
    return statistic in ("top", "bottom") and variable not in _states(model)


def expanded(model: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return moments by name, each once, with the usual ones in place of the word for them.

    Raises
    ------
    UsageError
        If a name is no moment of the model.
    """
    check_moments(model, names)
    every = [n for name in names for n in (usual_moments(model) if name == USUAL else (name,))]
    return tuple(dict.fromkeys(every))


# -- values -------------------------------------------------------------------------------------


def moments_of(
    model: Model | TabularModel | Markov | Grid,
    fixed: PolicyOperator | None,
    mass: Array,
    asked: Asked,
) -> dict[str, Array]:
    """Compute moments of a distribution; it may be traced.

    Parameters
    ----------
    model : Model, TabularModel, or Markov or Grid
        At one parameter point. Of a chain (or the grid that it lives on), the only variable is
        ``state``.
    fixed : PolicyOperator or None
        The policy; None for a chain.
    mass : array (states...)
        The distribution.
    asked : str, list of str and functions, or dict of functions
        Names of moments; functions of states, choices, shocks and outputs go by the name in the
        dict, or by their own.

    Returns
    -------
    dict of str to array ()
        A number each, by name.

    Raises
    ------
    UsageError
        If there is no moment of that name.
    ModelError
        If a function takes an argument that is none of the model's names.
    """
    law = _law(model, fixed, mass)
    names, functions = sorted_out(model, asked)
    found = {}
    for name in expanded(model, names):
        if name in _own(model):
            found[name] = law.expectation(_own(model)[name], f"moment '{name}'")
        else:
            statistic, _, variable = name.partition("_")
            found[name] = law.statistic(statistic, variable)
    for name, f in functions.items():
        bind(f, law.env, f"moment '{name}'")
        found[name] = law.expectation(f, f"moment '{name}'")
    return found


def of_states(model: Any, asked: Asked) -> set[str]:
    """Return the names of those moments that are of states alone, whatever is chosen."""
    names, functions = sorted_out(model, asked)
    own = _own(model)
    functions = functions | {name: own[name] for name in expanded(model, names) if name in own}
    states, outputs = _states(model), set(getattr(model, "outputs", ()))
    found = {
        name
        for name in expanded(model, names)
        if name not in own and name.partition("_")[2] in states
    }
    for name, f in functions.items():
        taken = {p for p, x in inspect.signature(f).parameters.items() if x.default is x.empty}
        if taken <= set(states) and not taken & outputs:
            found.add(name)
    return found


def sorted_out(model: Any, asked: Asked) -> tuple[list[str], dict[str, Callable[..., Any]]]:
    """Return the names among the moments that are asked for, and the functions by name."""
    if isinstance(asked, Mapping):
        return [], dict(asked)
    if isinstance(asked, str):
        return [asked], {}
    asked = tuple(asked) if isinstance(asked, Iterable) else (asked,)
    for f in asked:
        if not isinstance(f, str) and not callable(f):
            raise UsageError(f"moments: {f!r} is no name of a moment, and no function")
    functions = {getattr(f, "__name__", "moment"): f for f in asked if not isinstance(f, str)}
    return [name for name in asked if isinstance(name, str)], functions


@dataclass(frozen=True)
class _Law:
    """Everything that a distribution is over: values by name, and masses to weigh them with."""

    mass: NamedArray
    env: Mapping[str, NamedArray]
    order: tuple[str, ...]
    probabilities: Mapping[str, NamedArray]
    partition: Partition | None = None

    def expectation(self, f: Callable[..., Any], what: str) -> Array:
        return _mean(*self.of(mapped(f, self.env, self.order, what)))

    def statistic(self, statistic: str, variable: str) -> Array:
        if statistic in ("top", "bottom"):
            return _at_end(self.mass, variable, statistic == "top", self.partition)
        x, w = self.of(self.env[variable])
        if statistic[0] == "p":
            return _quantile(x, w, int(statistic[1:]) / 100.0)
        return {"mean": _mean, "var": _variance, "sd": _deviation, "gini": _gini}[statistic](x, w)

    def of(self, x: NamedArray) -> tuple[Array, Array]:
        """Return values and masses, flattened together; what `x` does not depend on is summed."""
        named, new = set[str](), set(x.dims)  # and what the laws of these name
        while new:
            named |= new
            new = {d for n in new if n in self.probabilities for d in self.probabilities[n].dims}
            new -= named
        w = multiply(self.mass, *(p for name, p in self.probabilities.items() if name in named))
        w = total(w, [d for d in w.dims if d not in x.dims])
        weights = ordered(w, x.dims).array
        values = jnp.broadcast_to(aligned(x, x.dims), weights.shape).astype(jnp.float64)
        # A state that is never reached may have a value that is no number.
        values = jnp.where((weights == 0.0) & ~jnp.isfinite(values), 0.0, values)
        values, weights = values.ravel(), weights.ravel()
        if self.partition is None:
            return values, weights
        if self.partition.state not in x.dims:
            return values, self.partition.reductions.add(weights)
        # The copies of a state that make parts equal have no mass.
        return self.partition.reductions.together(values), self.partition.reductions.together(
            weights
        )


def _law(model: Any, fixed: PolicyOperator | None, mass: Array) -> _Law:
    if isinstance(fixed, GridPolicy):
        functions, states = fixed.operator.functions, fixed.operator.states
        env = dict(fixed.env)
        order = (*states, *fixed.lottery, *functions.model.shocks, *functions.model.post)
        decided, chances = functions.drawn_posts(fixed.pairs.posts, fixed.pairs.probabilities)
        # Outputs as they are drawn, not averaged over their shocks.
        drawn = {
            name: mapped(f, decided | env, order, f"output '{name}'")
            for name, f in functions.model.outputs.items()
        }
        chances = dict(fixed.lottery) | chances
        return _Law(NamedArray(mass, states), drawn | env, order, chances, fixed.partition)
    if isinstance(fixed, TabularPolicy):
        own = jnp.arange(model.n_states) if fixed.partition is None else fixed.partition.index()
        values = own.astype(jnp.float64)
        env = {
            "state": NamedArray(values, ("state",)),
            "action": NamedArray(fixed.action, ("state",)),
        }
    else:
        env = {"state": NamedArray(jnp.asarray(cast("Markov | Grid", model).values), ("state",))}
    partition = None if fixed is None else fixed.partition
    return _Law(NamedArray(mass, ("state",)), env, ("state",), {}, partition)


def top_masses(
    model: Model | TabularModel, mass: Array, partition: Partition | None = None
) -> dict[str, Array]:
    """Return the mass at the top of every continuous state's grid (see :mod:`.top_mass`)."""
    if not isinstance(model, Model):
        return {}
    named = NamedArray(mass, tuple(model.states))
    states = [n for n, spec in model.states.items() if isinstance(spec, Grid) and spec.size > 1]
    return {PREFIX + name: _at_end(named, name, True, partition) for name in states}


def _at_end(mass: NamedArray, state: str, last: bool, partition: Partition | None) -> Array:
    """Return the mass on the last or the first point of a state's grid."""
    end = total(mass, [d for d in mass.dims if d != state]).array
    if partition is not None:
        alone = state == partition.state
        end = partition.gather(end, 0) if alone else partition.reductions.add(end)
    return end[-1 if last else 0]


def _mean(x: Array, w: Array) -> Array:
    return jnp.sum(w * x)


def _variance(x: Array, w: Array) -> Array:
    return jnp.sum(w * (x - _mean(x, w)) ** 2)


def _deviation(x: Array, w: Array) -> Array:
    # At a variance of zero the root has no slope; the deviation of a constant stays zero.
    variance = _variance(x, w)
    positive = variance > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), variance)


def _gini(x: Array, w: Array) -> Array:
    order = jnp.argsort(x)
    x, w = x[order], w[order]
    up_to = jnp.cumsum(w)
    spread = jnp.sum(w * x * (2.0 * up_to - w - up_to[-1]))
    gini = spread / (up_to[-1] * _mean(x, w))
    negative = ((x < 0.0) & (w > 0.0)).any()
    nothing = _mean(x, w) <= NOTHING * jnp.max(jnp.abs(x))
    return jnp.where(negative | nothing, jnp.nan, gini)


def _quantile(x: Array, w: Array, share: float) -> Array:
    order = jnp.argsort(x)
    x, up_to = x[order], jnp.cumsum(w[order])
    below = jnp.sum(up_to < share - GUARD)
    found = x[jnp.minimum(below, x.shape[0] - 1)]
    return jnp.where(jnp.isnan(up_to[-1]), jnp.nan, found)
