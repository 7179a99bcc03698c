"""A factory's signature: which arguments are parameters and which are sizes; building it.

A factory is a plain function that returns a :class:`~dpsolve.Model` (or a dict of named arrays).
Its positional parameters are economic: numbers with defaults, traced by JAX, so that each can be
swept, batched and differentiated without a recompilation. Its keyword-only parameters are static
(grid sizes, options): each new value is a new program.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.labels import check_labels

Factory = Callable[..., Any]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Signature:
    """What a factory can be asked for.

    Attributes
    ----------
    name : str
        The factory's name.
    parameters : dict of str to float or None
        Economic parameters with their defaults; None where there is no default.
    sizes : dict of str to object
        Static parameters (keyword-only) with their defaults; ``REQUIRED`` where there is none.
    doc : str
        The factory's docstring, cleaned.
    """

    name: str
    parameters: dict[str, float | None]
    sizes: dict[str, Any]
    doc: str = field(default="", repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name the factory can be called with."""
        return (*self.parameters, *self.sizes)


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


class Sizes(tuple[tuple[str, Any], ...]):
    """Static parameters, (name, value) each, to key programs by: 1, 1.0 and True differ here."""

    __slots__ = ()

    def _types(self) -> tuple[type, ...]:
        return tuple(type(value) for _, value in self)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sizes)
            and tuple.__eq__(self, other)
            and (self._types() == other._types())
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple.__hash__(self), self._types()))


@lru_cache(maxsize=256)
def signature(factory: Factory) -> Signature:
    """Read the signature of a factory.

    Raises
    ------
    ModelError
        If `factory` is not a function, or its signature has ``*args`` or ``**kwargs``.
    """
    if not callable(factory):
        raise ModelError(
            f"a model is a function that returns dp.Model(...), not {type(factory).__name__}: "
            f"{factory!r}"
        )
    name = getattr(factory, "__name__", type(factory).__name__)
    parameters: dict[str, float | None] = {}
    sizes: dict[str, Any] = {}
    for p in inspect.signature(factory).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ModelError(
                f"{name}: '{p}' hides the parameters' names; write each parameter out, economic "
                "ones before the '*', sizes after it"
            )
        empty = p.default is p.empty
        if p.kind is p.KEYWORD_ONLY:
            sizes[p.name] = REQUIRED if empty else p.default
        else:
            parameters[p.name] = None if empty else _number(name, p.name, p.default)
    return Signature(name, parameters, sizes, inspect.getdoc(factory) or "")


def _number(model: str, name: str, default: Any) -> float:
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise ModelError(
            f"{model}: the default of parameter '{name}' is {default!r}, not a number; economic "
            "parameters are numbers; put sizes and options after a '*' in the signature"
        )
    return float(default)


def gradient_mistake(signature: Signature, name: str) -> str:
    """Return why a factory cannot be differentiated by `name`, or an empty string."""
    known = signature.parameters
    if name in known:
        return ""
    if name in signature.sizes:
        return (
            f"'{name}' is a size of {signature.name}, and sizes are whole; gradients are with "
            f"respect to parameters: {', '.join(known) or '(none)'}."
        )
    return (
        f"{signature.name} has no parameter '{name}' to differentiate by."
        f"{did_you_mean(name, known)} Its parameters: {', '.join(known) or '(none)'}."
    )


def split(
    factory: Factory, params: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge `params` with the factory's defaults and separate economic values from sizes.

    Returns
    -------
    values : dict
        Every economic parameter, as given (floats, arrays or tracers).
    sizes : dict
        Every static parameter.

    Raises
    ------
    ModelError
        If a name is unknown to the factory, or a parameter without default is missing.
    """
    sig = signature(factory)
    if not isinstance(params, Mapping | None):
        raise ModelError(f"{sig.name}: parameters are a dict, {{'name': value}}, not {params!r}")
    params = dict(params or {})
    for name in params:
        if name not in sig.names:
            raise ModelError(
                f"{sig.name} has no parameter '{name}'.{did_you_mean(name, sig.names)} "
                f"Its parameters are: {', '.join(sig.names) or '(none)'}."
            )
    values = {k: params.get(k, default) for k, default in sig.parameters.items()}
    sizes = {k: params.get(k, default) for k, default in sig.sizes.items()}
    for name, value in (*values.items(), *sizes.items()):
        if value is REQUIRED or (name in values and value is None):
            raise ModelError(f"{sig.name} needs a value for '{name}', which has no default.")
        if name in params:
            (_check_parameter if name in values else _check_size)(sig.name, name, value)
    return values, sizes


def _check_parameter(model: str, name: str, value: Any) -> None:
    try:
        # Of what is traced the numbers are not known, and the kind of them is.
        kind = value.dtype.kind if hasattr(value, "dtype") else np.asarray(value).dtype.kind
    except (ValueError, TypeError):  # unequal parts; entries that are traced
        kind = "O"
    if kind not in "biuf" and not (kind == "O" and _holds_tracers(value)):
        raise ModelError(
            f"{model}: parameter '{name}' is {value!r}; a parameter is a number, or an array of "
            "numbers for many points"
        )


def _holds_tracers(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(hasattr(x, "aval") for x in value)


def _check_size(model: str, name: str, value: Any) -> None:
    if isinstance(value, list) or (hasattr(value, "dtype") and hasattr(value, "__array__")
                                   and not isinstance(value, np.generic)):  # fmt: skip
        raise ModelError(
            f"{model}: size '{name}' is {value!r}; a size is one number, not an array: sizes "
            "are static, each a program of its own. Solve once for each, or sweep over it (a "
            f"[grid] with {name} = [20, 40])"
        )


def refuse_parameters(params: Mapping[str, Any] | None) -> None:
    """Refuse parameters of a model that was built already.

    Raises
    ------
    ModelError
        If there are any.
    """
    if params:
        raise ModelError(
            "a ready model has no parameters left to set; pass the factory, the function that "
            "returns the model, to set some"
        )


def build(factory: Factory, values: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    """Call the factory: positional parameters by name, sizes by keyword.

    Numbers go in as JAX scalars, so that a factory computes the same outside a trace as inside:
    Python would raise for 1/0, and make (-8)**(1/3) complex.
    """
    # Here, so that reading a signature stays cheap.
    import jax.numpy as jnp

    from .user_functions import MISUSE, refused

    by_position = [jnp.asarray(values[name], jnp.float64) for name in signature(factory).parameters]
    try:
        made = factory(*by_position, **sizes)
    except MISUSE as error:
        told = refused(error, signature(factory).name)
        if told is None:
            raise
        raise told from error
    except ModelError as error:
        if (line := _line_of(error)) and str(error).startswith(_PIECES):
            raise ModelError(f"{error} (in {line})") from error
        raise
    if not isinstance(made, type):
        own, parts = signature(factory), getattr(made, "parts", ())
        _refuse_shadows(own, (*getattr(made, "later_arguments", ()), *parts))
        known = (*getattr(made, "labelled_names", ()), *parts, *own.names)
        check_labels(getattr(made, "labels", ()), known)
    return made


# Made before the model is, and so without knowing their own name: the line that makes them has it.
_OURS = str(Path(__file__).parents[1])
_PIECES = ("iid:", "markov:", "rouwenhorst:", "tauchen:", "grid:", "a grid", "integers:",
           "normal:", "lognormal:", "student_t:", "uniform:", "exponential:", "gamma:", "beta:",
           "poisson:", "tauchen_hussey:", "var1:", "markov_from_data:",
           "the transition matrix", "row ")  # fmt: skip


def _line_of(error: ModelError) -> str:
    """Return the user's line that made what an error is about, where its text is known."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_OURS)]
    return f"line {own[-1].lineno}: {own[-1].line}" if own and own[-1].line else ""


def _refuse_shadows(signature: Signature, arguments: Collection[str]) -> None:
    """Refuse a parameter that the model's own functions cannot see, for a state of its name."""
    for name in signature.names:
        if name in arguments:
            kind = "parameter" if name in signature.parameters else "size"
            raise ModelError(
                f"{signature.name}: '{name}' is a {kind}, and a state, choice or shock of the "
                f"model, too: a function that takes '{name}' gets the latter, and the {kind} "
                "would have no effect there. Rename one of them"
            )


def look_over(factory: Factory, sizes: Mapping[str, Any], look: Callable[[Any], Seen]) -> Seen:
    """Look at what a factory makes where its parameters have no values yet: traced, not computed.

    Parameters
    ----------
    factory, sizes
        What is built, once.
    look : function
        Is called with it, inside the trace. What it returns outlives the trace, and so holds plain
        facts alone (names, sizes, shapes) and no arrays: of the model nothing can be kept.
    """
    import jax
    import jax.numpy as jnp

    seen: list[Seen] = []

    def run(values: Mapping[str, Any]) -> None:
        seen.append(look(build(factory, values, sizes)))

    number = jax.ShapeDtypeStruct((), jnp.float64)
    jax.eval_shape(run, dict.fromkeys(signature(factory).parameters, number))
    return seen[0]
