"""A user's function called on traced numbers: what Python, NumPy or JAX refuse, in words that help.

A function of a model is traced once for all states and choices, so its arguments have no value that
Python could branch on, count by or look up in a list. What JAX says of that names a tracer; what is
said here names the function, the argument (or the factory's parameter) and what to write instead.
An error of any other kind passes as it is: its traceback ends in the user's own line.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.errors import (
    ConcretizationTypeError,
    TracerArrayConversionError,
    TracerBoolConversionError,
    TracerIntegerConversionError,
)

from dpsolve.solvers.errors import ModelError

# What JAX and Python raise where a traced number stands in a wrong place.
MISUSE = (ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError,
          TypeError, IndexError)  # fmt: skip

_TRACED = "It is traced, once for all values:"
_BRANCH = (
    "uses Python's `if`, `and`, `or`, `not`, min, max or a chained comparison like `0 < c < a` on "
    "{names}",
    f"{_TRACED} write jnp.where, &, |, ~, jnp.minimum and jnp.maximum",
)
_NUMPY = (
    "hands {names} to NumPy: a NumPy function (np.sqrt(x)) or a NumPy table (table[x])",
    f"{_TRACED} write jnp.sqrt(x) and jnp.asarray(table)[x]",
)
_COUNT = (
    "takes {names} as a Python integer, to look up a list (prices[x]) or to count (range(x))",
    f"{_TRACED} make the list an array, jnp.asarray(prices)[x], and the loop a sum over one",
)
_NUMBER = (
    "makes a plain number of {names}: float(), int(), round() or a function of Python's math",
    f"{_TRACED} write jnp.asarray(x, float), jnp.round(x) and jnp.exp(x)",
)
_REAL_INDEX = (
    "looks up a table at {names}, which are real numbers and no positions",
    "Round them to whole ones: table[jnp.round(x).astype(int)]",
)
_POWER = (
    "raises a whole number to a negative power, which whole numbers do not have",
    "Make it a real number: (1.0 * x) ** -2",
)
_MASK = (
    "picks entries of an array by a condition on {names}, so that nobody knows how many",
    f"{_TRACED} write jnp.where(condition, x, 0.0)",
)
_KEY = (
    "looks {names} up in a dict or a set",
    f"{_TRACED} make it an array that a whole number indexes, jnp.asarray(table)[x]",
)
# Errors that JAX and Python have no class for, by what they say.
_BY_TEXT = (
    ("cannot be raised to negative powers", _POWER),
    ("Indexer must have integer or boolean type", _REAL_INDEX),
    ("Only integer scalar arrays can be converted", _COUNT),
    ("boolean indices must be concrete", _MASK),
    ("Tracer'", _KEY),  # unhashable type: 'DynamicJaxprTracer'
)


def called(f: Callable[..., Any], given: Mapping[str, Any], what: str) -> Array:
    """Call a function of a model on traced arguments, and return what it returns as an array.

    Parameters
    ----------
    f : function
    given : mapping
        Its arguments by name.
    what : str
        What to call it in an error.

    Raises
    ------
    ModelError
        If it does with an argument what cannot be done, or returns no number.
    """
    try:
        returned = f(**given)
    except MISUSE as error:
        told = refused(error, what, tuple(inspect.signature(f).parameters))
        if told is None:
            raise
        raise told from error
    return numbers(returned, what)


def numbers(x: Any, what: str, verb: str = "returns") -> Array:
    """Return numbers as an array.

    Parameters
    ----------
    x : object
    what, verb : str
        What to say of it in an error: ``reward``, ``returns``.

    Raises
    ------
    ModelError
        If they are none: a text, None, a dict, a list of unequal parts.
    """
    if x is None:
        hint = ": its `return` is missing" if verb == "returns" else ""
        raise ModelError(f"{what} {verb} None, not a number{hint}")
    if isinstance(x, str | bytes):
        raise ModelError(f"{what} {verb} the text {x!r}, not a number")
    try:
        if not isinstance(x, Array):
            # Entries may be traced, which NumPy cannot hold; so it is asked about plain ones alone.
            dtype = None if isinstance(x, list | tuple) else np.asarray(x).dtype
            if dtype is not None and dtype.kind not in "biufcV":
                raise TypeError(dtype)
        return jnp.asarray(x)
    except (*MISUSE, ValueError):
        shown = f"a {type(x).__name__}" if len(repr(x)) > 40 else repr(x)
        raise ModelError(f"{what} {verb} {shown}, not a number") from None


def check_shape(shape: tuple[int, ...], wanted: tuple[int, ...], what: str) -> None:
    """Refuse what a function returns in another shape than the model needs."""
    if shape == wanted:
        return
    if wanted:
        raise ModelError(
            f"{what} returns an array of shape {shape}, and the shock has {wanted[0]} values: "
            "return one probability for each of them, jnp.stack([p, 1 - p])"
        )
    raise ModelError(
        f"{what} returns an array of shape {shape}, not a number; functions of a model are scalar: "
        "dpsolve maps them over the grids"
    )


def refused(error: Exception, what: str, own: Sequence[str] | None = None) -> ModelError | None:
    """Return what to raise in place of an error about traced numbers; None if it is another one.

    Parameters
    ----------
    error : Exception
    what : str
        What raised it.
    own : sequence of str, optional
        The arguments of that; other names that the error tells are the factory's parameters, which
        a factory itself has alone.
    """
    found = _misuse(error)
    if found is None:
        return None
    names = list(dict.fromkeys(re.findall(r"\['(\w+)'\]", str(error))))
    beside = ""
    if own is None or any(name not in own for name in names):
        beside = (
            "; or, where a parameter decides about the program and not about numbers, make it a "
            "size: put it after the '*' of the factory's signature"
        )
    wrong, remedy = found
    usual = "an economic parameter" if own is None else "its arguments"
    told = wrong.format(names=_listed(names, own or ()) or usual)
    return ModelError(f"{what} {told}. {remedy}{beside}")


def _listed(names: Sequence[str], own: Sequence[str]) -> str:
    words = [f"'{name}'" if name in own else f"the parameter '{name}'" for name in names]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _misuse(error: Exception) -> tuple[str, str] | None:
    """Return what was done wrong, and what to write instead."""
    for text, found in _BY_TEXT:
        if text in str(error):
            return found
    if isinstance(error, TracerBoolConversionError):
        return _BRANCH
    if isinstance(error, TracerArrayConversionError):
        # So fails the power of a plain whole number to a traced one.
        frames = traceback.extract_tb(error.__traceback__)
        return _POWER if any(frame.name == "power" for frame in frames) else _NUMPY
    if isinstance(error, TracerIntegerConversionError):
        return _COUNT
    return _NUMBER if isinstance(error, ConcretizationTypeError) else None
