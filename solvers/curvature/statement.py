"""What a model says, as one traced function of parameters, states, choices, shocks and ``t``.

A factory is called inside the trace, so that parameters are arguments and can be ranges. Two traces
are made: one of the numbers that variables range over (ends of grids, values of chains and shocks),
and one of the model's functions at a state and a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.factory_signature import Factory, build, signature
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.mdp import TabularModel
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.parameters.array import ArrayParameter
from dpsolve.solvers.probability.markov import Markov


class NotProvable(Exception):
    """A model is of a kind that no rule covers; the sentence says why."""


@dataclass(frozen=True)
class Statement:
    """A traced model.

    Attributes
    ----------
    parameters : tuple of str
    continuous : tuple of str
        The states on grids.
    choices : tuple of str
        The continuous choices, in order.
    discrete : tuple of str
        Markov and integer states, shocks, and ``t``.
    outside : dict of str to (str, str)
        What leaving the grid of a state means below and above.
    increasing : tuple of str
        States in which the value is declared to rise.
    variables, functions : ClosedJaxpr
        Of the parameters; of the parameters and then all variables.
    variable_names, function_names : list of tuples
        What each result is: ``("reward", 0)``.
    taken : tuple of str
        The variables among the arguments of `functions`, in order.
    """

    parameters: tuple[str, ...]
    continuous: tuple[str, ...]
    choices: tuple[str, ...]
    discrete: tuple[str, ...]
    outside: Mapping[str, tuple[str, str]]
    increasing: tuple[str, ...]
    variables: Any
    functions: Any
    variable_names: list[tuple[str, ...]]
    function_names: list[tuple[Any, ...]]
    taken: tuple[str, ...]


def read(factory: Factory | Model, sizes: Mapping[str, Any]) -> Statement:
    """Trace a factory, or a model as it stands.

    Raises
    ------
    NotProvable
        If it is of a kind that no rule covers.
    """
    if isinstance(factory, Model):
        parameters: tuple[str, ...] = ()
    else:
        parameters = tuple(signature(factory).parameters)
    facts: list[dict[str, Any]] = []
    names: list[list[tuple[Any, ...]]] = []

    def made(values: tuple[Any, ...]) -> Model:
        if isinstance(factory, Model):
            return factory
        model = build(factory, dict(zip(parameters, values, strict=True)), sizes)
        if isinstance(model, TabularModel) or not isinstance(model, Model):
            raise NotProvable("nothing in it is continuous")
        return model

    def variables(*values: Any) -> list[Any]:
        model = made(values)
        facts.append(_facts(model))
        named = _variables(model)
        names.append([n for n, _ in named])
        return [x for _, x in named]

    scalar = jax.ShapeDtypeStruct((), np.float64)
    traced = jax.make_jaxpr(variables)(*[scalar] * len(parameters))
    known = facts[0]
    taken = tuple(known["kinds"])

    def functions(*values: Any) -> list[Any]:
        model = made(values[: len(parameters)])
        named = _functions(model, dict(zip(taken, values[len(parameters) :], strict=True)), known)
        names.append([n for n, _ in named])
        return [x for _, x in named]

    shapes = [jax.ShapeDtypeStruct((), known["kinds"][n]) for n in taken]
    body = jax.make_jaxpr(functions)(*[scalar] * len(parameters), *shapes)
    return Statement(
        parameters, known["states"], known["choices"], known["discrete"], known["outside"],
        known["increasing"], traced, body, names[0], names[1], taken,
    )  # fmt: skip


def filled(factory: Factory | Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value of each parameter, its default where none is given."""
    if isinstance(factory, Model):
        return {}
    known = {n: values.get(n, default) for n, default in signature(factory).parameters.items()}
    for name, value in known.items():
        if isinstance(value, ArrayParameter) or np.ndim(value) > 1:
            raise NotProvable(f"parameter '{name}' is an array")
        if value is None:
            raise NotProvable(f"parameter '{name}' has no value")
    return known


def _facts(model: Model) -> dict[str, Any]:
    states = tuple(n for n, s in model.states.items() if isinstance(s, Grid))
    if not states and not model.continuous:
        raise NotProvable("nothing in it is continuous")
    for name, spec in model.gridded.items():
        if not (isinstance(spec, str) and spec in states):
            raise NotProvable(
                f"choice '{name}' is made from a list of values, and the larger of two concave "
                "functions need not be concave"
            )
    kinds: dict[str, Any] = dict.fromkeys((*states, *model.choices), np.dtype(np.float64))
    discrete = [n for n, s in model.states.items() if not isinstance(s, Grid)]
    for name in (*discrete, *model.shocks):
        spec = model.grid_of(name)
        whole = isinstance(spec, Integers)
        kinds[name] = np.dtype(np.int64) if whole else spec.values.dtype
    discrete += list(model.shocks)
    if model.horizon is not None:
        kinds["t"] = np.dtype(np.int32)
        discrete.append("t")
    outside = {n: s.sides for n, s in model.states.items() if isinstance(s, Grid) and n in states}
    return {
        "states": states, "choices": tuple(model.choices), "discrete": tuple(discrete),
        "kinds": kinds, "outside": outside, "horizon": model.horizon,
        "increasing": model.increasing,
    }  # fmt: skip


def _variables(model: Model) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, spec in model.states.items():
        if isinstance(spec, Grid):
            lo, hi = jnp.asarray(spec.values)[0], jnp.asarray(spec.values)[-1]
            found += [(("bottom", name), lo), (("top", name), hi)]
        elif isinstance(spec, Markov):
            found.append((("values", name), jnp.asarray(spec.values)))
        else:
            found.append((("values", name), jnp.asarray([spec.lo, spec.hi])))
    found += [(("values", n), jnp.asarray(s.values)) for n, s in model.shocks.items()]
    if model.horizon is not None:
        found.append((("values", "t"), jnp.asarray([0, model.horizon - 1])))
    return found


def _functions(
    model: Model, at: dict[str, Any], known: Mapping[str, Any]
) -> list[tuple[tuple[Any, ...], Any]]:
    """Return every function's value at a state, a choice and a shock, by what it is."""
    found: list[tuple[tuple[Any, ...], Any]] = []

    def value(f: Any) -> Any:
        return f(**{n: at[n] for n in arguments(f, at)}) if callable(f) else f

    if model.terminal is not None:
        found.append((("terminal",), value(model.terminal)))
    ends = {}
    for name in known["states"]:
        grid = jnp.asarray(model.states[name].values, jnp.float64)
        ends[name] = grid[0], grid[-1]
    for name in model.choices:
        cuts = [(w, jnp.asarray(value(e), jnp.float64)) for w, e in _ends_of(model, name, ends)]
        found += [((which, name), end) for which, end in cuts]
        for which, end in cuts:
            room = at[name] - end if which == "lower" else end - at[name]
            found.append((("room", name), room))
    for name in (n for n in model.drawn if n in model.post):
        rule = model.post[name].rule  # what follows a decision follows from its rule
        at[name] = at[rule] if isinstance(rule, str) else value(rule)
    conditions = model.feasible
    if conditions is not None:
        several = conditions if isinstance(conditions, list | tuple) else (conditions,)
        found += [(("feasible", i), value(f)) for i, f in enumerate(several)]
    found += [(("reward", i), value(f)) for i, f in enumerate(model.reward)]
    for name, spec in model.states.items():
        if isinstance(spec, Markov):
            continue
        rule = model.transition[name]
        follows = jnp.asarray(at[rule] if isinstance(rule, str) else value(rule))
        found.append((("transition", name), follows))
        if isinstance(spec, Grid):
            found += [
                (("above", name), follows - ends[name][0]),
                (("below", name), ends[name][1] - follows),
            ]
    found.append((("discount",), value(model.discount)))
    for name, shock in model.shocks.items():
        if callable(shock.probs):
            found.append((("probabilities", name), value(shock.probs)))
    return found


def _ends_of(
    model: Model, name: str, ends: Mapping[str, tuple[Any, Any]]
) -> list[tuple[str, Callable[..., Any] | Any]]:
    spec = model.choices[name]
    if isinstance(spec, str):
        return [("lower", ends[spec][0]), ("upper", ends[spec][1])]
    found: list[tuple[str, Any]] = []
    if spec.state is not None:
        found += [("lower", ends[spec.state][0]), ("upper", ends[spec.state][1])]
    found += [("lower", spec.lo)] if spec.lo is not None else []
    return found + ([("upper", spec.hi)] if spec.hi is not None else [])
