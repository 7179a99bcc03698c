"""What a model's scalar functions return, seen by tracing each of them once: no number is computed.

Three things would pass unseen and mean something else than what was written: a number where
feasibility is asked for (every number but zero is true), a number in float32 (its rounding is in no
bound), and whole numbers that grow beyond their 64 bits and wrap around.

Not seen: a table in float32 that is multiplied by a float64 (its entries count as they are), and
whole numbers that come from a loop, a lookup or a division, whose range is not followed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.tracing import is_concrete

from .user_functions import called, check_shape

Span = tuple[int, int]  # the least and the greatest whole number that something can be


@dataclass(frozen=True)
class Argument:
    """What a function is given under a name.

    Attributes
    ----------
    dtype : dtype
    span : (int, int) or None
        The whole numbers that it lies between.
    """

    dtype: Any
    span: Span | None = None

    @classmethod
    def of(cls, values: Any) -> Argument:
        """Return that of the values which a state, a choice or a shock can have."""
        whole = values.dtype.kind in "iu" and is_concrete(values) and values.size
        array = np.asarray(values) if whole else None
        return cls(values.dtype, None if array is None else (int(array.min()), int(array.max())))


def check_returns(
    f: Callable[..., Any],
    known: Mapping[str, Argument],
    what: str,
    *,
    boolean: bool = False,
    shape: tuple[int, ...] = (),
) -> Any:
    """Refuse a function that does not return what is wanted of it.

    Parameters
    ----------
    f : function
        Of some of the names that are `known`.
    known : mapping
    what : str
        What to call `f` in an error.
    boolean : bool
        Whether it is to return a truth value; a number otherwise.
    shape : tuple of int
        Of what it is to return.

    Returns
    -------
    ClosedJaxpr
        Its trace, of a dict of its arguments.

    Raises
    ------
    ModelError
        If it returns something else, does with its arguments what cannot be done, or its whole
        numbers grow too large.
    """
    given = {n: known[n] for n in inspect.signature(f).parameters if n in known}
    shapes = {n: jax.ShapeDtypeStruct((), a.dtype) for n, a in given.items()}
    closed = jax.make_jaxpr(lambda named: called(f, named, what))(shapes)
    check_shape(closed.out_avals[0].shape, shape, what)
    dtype = closed.out_avals[0].dtype
    if boolean and not jnp.issubdtype(dtype, np.bool_):
        raise ModelError(
            f"{what} returns a number ({dtype}), and every number but 0 would count as true; it is "
            "to tell true from false: write a comparison, such as a - b >= 0 (or a != b, if that "
            "is meant)"
        )
    if jnp.issubdtype(dtype, np.complexfloating):
        raise ModelError(f"{what} returns complex numbers ({dtype}); take jnp.real of them")
    if jnp.issubdtype(dtype, np.floating) and jnp.finfo(dtype).bits < 64:
        raise ModelError(
            f"{what} returns {dtype}, whose rounding is in no bound; compute it in float64: leave "
            "out what makes it so (jnp.float32, a dtype=), or begin with jnp.asarray(x, "
            "jnp.float64)"
        )
    spans = [given[name].span for name in sorted(given)]  # the order in which JAX flattens a dict
    try:
        _spans(closed.jaxpr, closed.consts, spans)
    except _TooLarge as found:
        raise ModelError(
            f"{what}: {found.args[0]} of whole numbers reaches {found.args[1]:.3g}, beyond the "
            f"{found.args[2]} bits that they have, and wraps around there; make one of them a real "
            "number: 1.0 * x"
        ) from None
    return closed


class _TooLarge(Exception):
    """A whole number leaves its range: by which operation, how large, how many bits."""


WORDS = {"integer_pow": "a power", "pow": "a power", "mul": "a product", "add": "a sum",
         "sub": "a difference"}  # fmt: skip
INNER = ("jaxpr", "call_jaxpr")


def _spans(jaxpr: Any, consts: Sequence[Any], given: Sequence[Span | None]) -> list[Span | None]:
    """Return between which whole numbers each result lies; None where that is not known."""
    known: dict[Any, Span | None] = dict(zip(jaxpr.invars, given, strict=True))
    known |= {v: span_of(x) for v, x in zip(jaxpr.constvars, consts, strict=True)}

    def span(atom: Any) -> Span | None:
        return span_of(atom.val) if isinstance(atom, Literal) else known.get(atom)

    for step in jaxpr.eqns:
        inputs = [span(atom) for atom in step.invars]
        name = step.primitive.name
        if name in ("pjit", "jit", "closed_call", "custom_jvp_call"):
            inner = next(step.params[key] for key in INNER if key in step.params)
            if hasattr(inner, "consts"):
                known |= zip(step.outvars, _spans(inner.jaxpr, inner.consts, inputs), strict=True)
            continue
        if len(step.outvars) != 1 or step.outvars[0].aval.dtype.kind not in "iu":
            continue
        found = result_span(name, step.params, inputs)
        if found is not None:
            limits = np.iinfo(step.outvars[0].aval.dtype)
            if not limits.min <= found[0] <= found[1] <= limits.max:
                raise _TooLarge(
                    WORDS.get(name, "a result"),
                    float(min(max(map(abs, found)), 10**300)),
                    limits.bits,
                )
        known[step.outvars[0]] = found
    return [span(atom) for atom in jaxpr.outvars]


def span_of(x: Any) -> Span | None:
    """Return between which whole numbers the entries of an array lie; None if they are traced."""
    if not is_concrete(x):
        return None
    array = np.asarray(x)  # a JAX array's own minimum would be traced
    if array.dtype.kind not in "iub" or not array.size:
        return None
    return int(array.min()), int(array.max())


SAME = frozenset({"convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy"})


def result_span(name: str, params: Mapping[str, Any], spans: Sequence[Span | None]) -> Span | None:
    """Return between which numbers an operation's result lies, given those of what it takes."""
    if name == "select_n":
        spans = spans[1:]  # after the condition
    if not spans or any(span is None for span in spans):
        return None
    ends = [span for span in spans if span is not None]
    if name in SAME:
        return ends[0]
    if name == "integer_pow":
        return _power(ends[0], (params["y"], params["y"]))
    if name == "pow":
        return _power(ends[0], ends[1])
    if name == "neg":
        return -ends[0][1], -ends[0][0]
    if name == "abs":
        return _power(ends[0], (1, 1), even=True)
    if name == "add":
        return ends[0][0] + ends[1][0], ends[0][1] + ends[1][1]
    if name == "sub":
        return ends[0][0] - ends[1][1], ends[0][1] - ends[1][0]
    if name == "mul":
        corners = [a * b for a, b in product(*ends)]
        return min(corners), max(corners)
    if name == "select_n":
        return min(low for low, _ in ends), max(high for _, high in ends)
    if name in ("max", "min"):
        choose = max if name == "max" else min
        return choose(low for low, _ in ends), choose(high for _, high in ends)
    return None


def _power(base: Span, exponent: Span, even: bool = False) -> Span | None:
    if exponent[0] < 0 or exponent[1] > 512:  # where nothing but 0, 1 and -1 fits, surely
        return None
    corners = [b**e for b, e in product(base, {*exponent})]
    even = even or (exponent[0] == exponent[1] and exponent[0] % 2 == 0)
    if even and base[0] <= 0 <= base[1]:
        corners.append(0)
    if even:
        corners = [abs(x) for x in corners]
    elif base[0] < 0:  # signs alternate with the exponent
        corners += [-abs(x) for x in corners] + [abs(x) for x in corners]
    return min(corners), max(corners)
