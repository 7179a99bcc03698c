"""A factory's signature: which arguments are parameters and which are sizes; building it.

A factory is a plain function that returns a :class:`~dpsolve.Model` (or a dict of named arrays).
Its positional parameters are economic: numbers, or arrays of numbers (:mod:`~..parameters.array`),
with defaults, traced by JAX, so that each can be swept, batched and differentiated without a
recompilation. Its keyword-only parameters are static (grid sizes, options): each new value is a new
program.
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

from dpsolve.solvers.errors import DpsolveError, ModelError, did_you_mean
from dpsolve.solvers.labels import check_labels
from dpsolve.solvers.parameters.array import ArrayParameter, Shape, read_default

Factory = Callable[..., Any]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Signature:
    """What a factory can be asked for.

    Attributes
    ----------
    name : str
        The factory's name.
    parameters : dict of str to float, ArrayParameter or None
        Economic parameters with their defaults; None where there is no default.
    sizes : dict of str to object
        Static parameters (keyword-only) with their defaults; ``REQUIRED`` where there is none.
    doc : str
        The factory's docstring, cleaned.
    """

    name: str
    parameters: dict[str, float | ArrayParameter | None]
    sizes: dict[str, Any]
    doc: str = field(default="", repr=False)

    @property
    def arrays(self) -> dict[str, ArrayParameter]:
        """The parameters that are arrays."""
        return {n: p for n, p in self.parameters.items() if isinstance(p, ArrayParameter)}

    @property
    def array_dims(self) -> dict[str, tuple[str, ...]]:
        """The dimensions that these are stored with."""
        return {name: p.named(name) for name, p in self.arrays.items()}

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
    parameters: dict[str, float | ArrayParameter | None] = {}
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
            parameters[p.name] = None if empty else read_default(name, p.name, p.default)
    return Signature(name, parameters, sizes, inspect.getdoc(factory) or "")


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
    factory: Factory, params: Mapping[str, Any] | None = None, *, many: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge `params` with the factory's defaults and separate economic values from sizes.

    Returns
    -------
    values : dict
        Every economic parameter, as given (floats, arrays or tracers).
    sizes : dict
        Every static parameter.
    many : bool
        Whether what is an array may be given for each of many points: (points, shape...).

    Raises
    ------
    ModelError
        If a name is unknown to the factory, a parameter without default is missing, or an array
        has another shape than the model has for it, or a NaN.
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
    return values | _arrays(factory, params, sizes, many), sizes


def _arrays(
    factory: Factory, params: Mapping[str, Any], sizes: Mapping[str, Any], many: bool
) -> dict[str, Any]:
    """Return the parameters that are arrays, checked against the model's shapes."""
    from dpsolve.solvers.parameters.given import check_array

    sig = signature(factory)
    found: dict[str, Any] = {}
    shapes = parameter_shapes(factory, sizes) if sig.arrays else {}
    for name, declared in sig.arrays.items():
        if name in params:
            dims = declared.named(name)
            found[name] = check_array(sig.name, name, params[name], shapes[name], dims, many)
        elif (default := declared.default(shapes[name])) is not None:
            found[name] = default
        else:
            dims = declared.named(name)
            raise ModelError(
                f"{sig.name} needs a value for '{name}', an array ({', '.join(dims)}) of shape "
                f"{shapes[name]}, which has no default."
            )
    return found


def check_numbers(
    factory: Factory,
    values: Mapping[str, Any],
    what: str,
    error: type[DpsolveError] = ModelError,
) -> None:
    """Refuse many points where one is looked at: an array for what is one number.

    Raises
    ------
    DpsolveError
        Of the class `error`.
    """
    arrays = signature(factory).arrays
    for name, value in values.items():
        if name not in arrays and np.ndim(value):
            raise error(f"parameter '{name}' has shape {np.shape(value)}; {what}")


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
    return _look_over(factory, sizes, look, parameter_shapes(factory, sizes))


def _look_over(
    factory: Factory,
    sizes: Mapping[str, Any],
    look: Callable[[Any], Seen],
    shapes: Mapping[str, Shape],
) -> Seen:
    import jax

    seen: list[Seen] = []

    def run(values: Mapping[str, Any]) -> None:
        seen.append(look(build(factory, values, sizes)))

    jax.eval_shape(run, {n: jax.ShapeDtypeStruct(s, np.float64) for n, s in shapes.items()})
    return seen[0]


def abstract(
    factory: Factory, sizes: Mapping[str, Any], points: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return a factory's parameters (points..., shape...) as arrays without values."""
    import jax

    shapes = parameter_shapes(factory, sizes)
    return {n: jax.ShapeDtypeStruct((*points, *s), np.float64) for n, s in shapes.items()}


def parameter_shapes(factory: Factory, sizes: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shape of every parameter, () of a number.

    Raises
    ------
    ModelError
        If an array has a dimension that the model has not, or another length than its.
    """
    sig = signature(factory)
    if not sig.arrays:
        return dict.fromkeys(sig.parameters, ())
    from dpsolve.solvers.program_keys.fingerprint import keyed

    return dict(_parameter_shapes(keyed(factory), Sizes(sizes.items())))


@lru_cache(maxsize=256)
def _parameter_shapes(factory: Factory, sizes: tuple[tuple[str, Any], ...]) -> dict[str, Shape]:
    """Ask the model for the lengths of its arrays' dimensions.

    The model is made by a factory that needs the arrays: so it is made twice. First where a shape
    is not known an array has one entry, which stands for any number of them.
    """
    sig, static = signature(factory), dict(sizes)
    shapes: dict[str, Shape] = dict.fromkeys(sig.parameters, ())
    shapes |= {n: p.known_shape(n, static) or (1,) * p.ndim for n, p in sig.arrays.items()}
    over = {n: p for n, p in sig.arrays.items() if p.dims}
    unknown = [n for n, p in over.items() if p.known_shape(n, static) is None]
    while over:
        try:
            lengths = _look_over(factory, static, _lengths, shapes)
        except (ModelError, TypeError, ValueError, IndexError) as error:
            if not unknown or _also_of_two(factory, static, shapes, unknown, error):
                raise
            raise ModelError(
                f"{error} (seen while the shape of '{unknown[0]}' was asked of the model: it had "
                "one entry there. If the factory itself computes with it, say its shape by the "
                'names of sizes, such as dp.array("b", "y", fill=0.98, shape=("n_b", "n_y")))'
            ) from error
        found = {name: _shape_over(sig.name, name, p.dims, lengths) for name, p in over.items()}
        for name in over.keys() - {*unknown}:
            if shapes[name] != found[name]:
                each = ", ".join(f"{lengths[d]} of {d}" for d in over[name].dims)
                raise ModelError(
                    f"{sig.name}: the default of parameter '{name}' has shape {shapes[name]}, and "
                    f"the model has {each}: its shape is {found[name]}"
                )
        if not unknown:
            break
        shapes, unknown = shapes | found, []
    return shapes


def _also_of_two(
    factory: Factory, sizes: Mapping[str, Any], shapes: Mapping[str, Shape], unknown: list[str],
    error: Exception,
) -> bool:  # fmt: skip
    """Tell whether a fault has nothing to do with the number of an array's entries."""
    two = {n: (2,) * len(s) if n in unknown else s for n, s in shapes.items()}
    try:
        _look_over(factory, sizes, _lengths, two)
    except Exception as other:
        return str(other) == str(error)
    return False


def _lengths(made: Any) -> dict[str, int]:
    return dict(getattr(made, "lengths", {}))


def _shape_over(model: str, name: str, dims: tuple[str, ...], lengths: Mapping[str, int]) -> Shape:
    for dim in dims:
        if dim not in lengths:
            known = ", ".join(lengths) or "none: the factory returns arrays, and no model"
            raise ModelError(
                f"{model}: parameter '{name}' is an array over '{dim}', which is no state, no "
                "choice that is made from a list, and no 't' of a horizon."
                f"{did_you_mean(dim, lengths)} There are: {known}. An array over something else is "
                "a default as it is: prices=jnp.zeros(10)"
            )
    return tuple(lengths[dim] for dim in dims)
