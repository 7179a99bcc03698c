r"""Factories that return arrays in place of a model: what their dict may hold.

A factory may return, in place of a model, a dict of named arrays: any JAX computation of its
parameters. ``{"price": x}`` leaves the dimensions unnamed, so that each array has its own axes,
``price_0``; ``{"path": (("t",), x)}`` names them, and arrays may share one. ``grid_t`` holds the
values of dimension ``t``. Nothing is certified about such arrays by this
package; so the factory may itself say how good they are:

``residual``, ``error_bound``, ``iterations``
    numbers that are recorded of the point. With an ``error_bound`` a point is solved where the
    bound is within ``tol``, and inexact otherwise; without one it is solved.
``require``
    a dict of sentences and conditions, ``{"exit must be above 0": exit > 0}``. A point that
    breaks one fails with that sentence, and its arrays hold NaN (-1 for integers).

By convention ``<name>_se`` is the standard error of ``<name>``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.fixed_point import listening
from dpsolve.solvers.outcomes import RECORDS, Outcome
from dpsolve.solvers.program_keys.fingerprint import keyed

from .factory_signature import Factory, Sizes, build, look_over, signature
from .user_functions import numbers

Dims = tuple[str, ...]
Shapes = dict[str, tuple[Dims, jax.ShapeDtypeStruct]]

REQUIRE = "require"
GRID = "grid_"
TAKEN = ("code", "seconds", "status", "message")


def no_model(factory: Factory, made: Any) -> ModelError:
    """Return what to raise where a factory returned neither a model nor arrays."""
    return ModelError(
        f"{signature(factory).name} returns {type(made).__name__}; a factory returns dp.Model, "
        "dp.mdp or a dict of named arrays"
    )


def named(made: Mapping[str, Any]) -> Iterator[tuple[str, Dims, Array]]:
    """Yield name, dimensions and array (dims...), without the records and the requirements.

    Raises
    ------
    ModelError
        If a name or an array is none, or the dimensions do not fit the array, or each other.
    """
    lengths: dict[str, tuple[int, str]] = {}
    for name, x in made.items():
        if name == REQUIRE or name in RECORDS:
            continue
        if not isinstance(name, str) or not name or name in TAKEN:
            why = "a name that results need" if name in TAKEN else "and a name is a text"
            raise ModelError(f"the factory returns an array {name!r}, {why}; rename it")
        given, x = x if isinstance(x, tuple) and len(x) == 2 else (None, x)
        array = numbers(x, f"the array '{name}'", "is")
        dims = _unnamed(name, array.ndim) if given is None else _read_dims(name, given)
        if len(dims) != array.ndim:
            raise ModelError(
                f"the array '{name}' has {array.ndim} dimensions (shape {array.shape}), but "
                f"{len(dims)} names for them: {dims}; write (('t',), x) for one dimension"
            )
        for dim, length in zip(dims, array.shape, strict=True):
            known, first = lengths.setdefault(dim, (length, name))
            if known != length:
                raise ModelError(
                    f"dimension '{dim}' has {known} entries in the array '{first}' and {length} in "
                    f"'{name}'; one name is one length: rename one of them"
                )
        yield name, dims, array
    if not lengths and not any(name != REQUIRE for name in made):
        raise ModelError(
            "the factory returns a dict without arrays; it returns dp.Model, dp.mdp or a dict of "
            "named arrays: {'price': x}"
        )


def _read_dims(name: str, given: Any) -> Dims:
    dims = (given,) if isinstance(given, str) else given
    named = isinstance(dims, tuple | list) and all(isinstance(d, str) and d for d in dims)
    if not named or len(set(dims)) < len(dims):
        raise ModelError(
            f"the dimensions of the array '{name}' are {given!r}; they are different names, one to "
            "an axis: ('price', 'quantity')"
        )
    return tuple(dims)


def _unnamed(name: str, ndim: int) -> Dims:
    if ndim == 1 and name.startswith(GRID) and name != GRID:
        return (name.removeprefix(GRID),)
    return tuple(f"{name}_{i}" for i in range(ndim))


def own_dims(made: Mapping[str, Any]) -> dict[str, Dims]:
    """Return the dimensions of each array."""
    return {name: dims for name, dims, _ in named(made)}


def own_arrays(made: Mapping[str, Any], live: Array, tol: float) -> dict[str, Array]:
    """Return each array (dims...) and the records of the point, a number each."""
    arrays = {name: x for name, _, x in named(made)}
    finite = live
    for x in arrays.values():
        if jnp.issubdtype(x.dtype, jnp.inexact):
            finite &= jnp.isfinite(x).all()
    records = {name: _number(name, made.get(name, jnp.nan)) for name in RECORDS[:2]}
    records["iterations"] = _number("iterations", made.get("iterations", 0)).astype(jnp.int32)
    fine = jnp.int32(Outcome.SOLVED)
    if "error_bound" in made:
        within = records["error_bound"] <= tol
        fine = jnp.where(within, fine, jnp.int32(Outcome.OWN_BOUND))
    code = jnp.where(finite, fine, jnp.int32(Outcome.NOT_FINITE))
    if REQUIRE in made:
        kept = jnp.stack([jnp.asarray(x) for x in _requirements(made).values()]).all()
        code = jnp.where(kept | ~live, code, jnp.int32(Outcome.REFUSED))
        arrays = {name: jnp.where(kept, x, _missing(x)) for name, x in arrays.items()}
    return arrays | records | {"code": code}


def _number(name: str, x: Any) -> Array:
    number = numbers(x, f"'{name}'", "is")
    if number.ndim:
        raise ModelError(
            f"the factory returns '{name}' of shape {number.shape}; it is recorded of every point, "
            "as one number: rename the array, or take its maximum"
        )
    return number


def _requirements(made: Mapping[str, Any]) -> dict[str, Any]:
    conditions = made[REQUIRE]
    if not isinstance(conditions, Mapping) or not conditions:
        raise ModelError(
            f"'{REQUIRE}' is {conditions!r}; it is a dict of sentences and conditions: "
            "{'exit must be above 0': exit > 0}"
        )
    for sentence, holds in conditions.items():
        truth = numbers(holds, f"the condition of '{sentence}'", "is")
        if truth.shape != () or truth.dtype != bool:
            raise ModelError(f"the condition of '{sentence}' is not one truth value: {holds!r}")
    return dict(conditions)


def _missing(x: Array) -> Any:
    return jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.array(-1).astype(x.dtype)


def refusal(made: Mapping[str, Any]) -> str:
    """Return the first requirement that is broken, or an empty string; not inside a trace."""
    broken = (text for text, holds in made.get(REQUIRE, {}).items() if not holds)
    return next(broken, "")


def rebuild(factory: Factory, values: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    """Call a factory at plain numbers, compiled if it returns arrays.

    Operation by operation such a factory could take very long, and hold arrays that its compiled
    program never makes.
    """
    program = _compiled(keyed(factory), Sizes(sizes.items()))
    if program is None:
        return build(factory, values, sizes)
    return program({name: jnp.asarray(values[name], jnp.float64) for name in values})


@lru_cache(maxsize=64)
def _compiled(factory: Factory, sizes: tuple[tuple[str, Any], ...]) -> Any:
    static = dict(sizes)
    if shapes(factory, static) is None:
        return None
    dims: dict[str, Dims] = {}
    sentences: list[str] = []
    told: list[str] = []

    def run(values: Mapping[str, Any]) -> tuple[list[Array], list[Array]]:
        with listening(told):
            made = build(factory, values, static)
        dims.update(own_dims(made))
        conditions = _requirements(made) if REQUIRE in made else {}
        sentences[:] = conditions
        return [x for _, _, x in named(made)], list(conditions.values())

    program = jax.jit(run)

    def call(values: Mapping[str, Any]) -> dict[str, Any]:
        told.clear()
        arrays, conditions = program(values)
        jax.effects_barrier()
        made = {name: (dims[name], x) for name, x in zip(dims, arrays, strict=True)}
        required = dict(zip(sentences, conditions, strict=True))
        if not all(bool(jnp.isfinite(x).all()) for x in arrays if x.dtype.kind in "fc"):
            required |= dict.fromkeys(told[:1], False)  # why they hold NaN
        return made | ({REQUIRE: required} if required else {})

    return call


def shapes(factory: Factory, sizes: Mapping[str, Any]) -> Shapes | None:
    """Return dimensions and shapes of a factory's arrays, or None if it returns a model."""
    return look_over(factory, sizes, shapes_of)


def shapes_of(made: Any) -> Shapes | None:
    """Return dimensions and shapes of the arrays that a factory made, or None of a model."""
    if not isinstance(made, Mapping):
        return None
    if REQUIRE in made:
        _requirements(made)
    for name in RECORDS:
        _number(name, made.get(name, 0.0))
    return {n: (dims, jax.ShapeDtypeStruct(x.shape, x.dtype)) for n, dims, x in named(made)}
