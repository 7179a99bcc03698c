"""Which point of a store is meant: by the values of its parameters, exactly, or by its number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpsolve.hpc.plan.design import POINT
from dpsolve.solvers.errors import UsageError, did_you_mean
from dpsolve.solvers.model.factory import signature

from .buckets import StoredBucket
from .store import Store

Held = dict[str, tuple[tuple[str, ...], NDArray[Any]]]
"""What a point can be told by: dimensions and values by name."""

EXACT = 1e-12  # relative: a parameter as it was typed, or printed with 12 digits, is the one stored
SHOWN = 8  # values in a message


def find_point(
    store: Store, point: int | None, parameters: Mapping[str, Any]
) -> tuple[StoredBucket, int]:
    """Return the bucket and the flat number of the one point that is meant.

    Parameters
    ----------
    store : Store
    point : int, optional
        Its coordinate along ``point``.
    parameters : mapping
        Values of parameters and static sizes; those that have one value in the store may be left
        out.

    Raises
    ------
    UsageError
        If no point or more than one is meant: with the values that there are.
    """
    _check(store, point, parameters)
    given = {**parameters} if point is None else {**parameters, POINT: point}
    held = [_held(stored) for stored in store.buckets]
    masks = [_meant(s, h, given) for s, h in zip(store.buckets, held, strict=True)]
    count = sum(int(mask.sum()) for mask in masks)
    if count == 0:
        raise UsageError(f"{store.path} has no such point: {_missing(held, given)}")
    if count > 1:
        raise UsageError(
            f"{store.path} has {count} points {_with(given)}: give {_open(store, held, masks)}"
        )
    which = next(i for i, mask in enumerate(masks) if mask.any())
    return store.buckets[which], int(np.flatnonzero(masks[which])[0])


def _check(store: Store, point: Any, parameters: Mapping[str, Any]) -> None:
    if point is not None and (isinstance(point, bool) or not isinstance(point, int | np.integer)):
        raise UsageError(f"point={point!r}; it is the number of a point, as in ds.point")
    if point is not None and not any(POINT in s.bucket.axes for s in store.buckets):
        raise UsageError(
            f"{store.path} is a grid of {', '.join(store.buckets[0].bucket.axes)}, and its points "
            "have no numbers: give these parameters"
        )
    known = signature(store.source.load()).names
    for name, value in parameters.items():
        if name not in known:
            raise UsageError(
                f"{store.source.name} has no parameter '{name}'.{did_you_mean(name, known)} "
                f"Its parameters are: {', '.join(known)}."
            )
        economic = any(name in (*s.bucket.parameters, *s.bucket.fixed) for s in store.buckets)
        if economic and (np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "iuf"):
            raise UsageError(f"{name}={value!r}; it is one number")


def _held(stored: StoredBucket) -> Held:
    bucket = stored.bucket
    held: Held = {n: ((), np.asarray(x)) for n, x in (*bucket.fixed.items(), *bucket.sizes.items())}
    if POINT in bucket.axes:
        held[POINT] = ((POINT,), bucket.axes[POINT])
    return held | bucket.parameters


def _meant(stored: StoredBucket, held: Held, given: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Tell for each point of a bucket whether it is meant; over the bucket's axes."""
    axes = stored.bucket.axes
    mask = np.ones(stored.bucket.shape, dtype=bool)
    for name, value in given.items():
        if name in held:
            dims, values = held[name]
            shape = [len(along) if axis in dims else 1 for axis, along in axes.items()]
            mask &= _same(values, value).reshape(shape)
    return mask


def _same(held: NDArray[Any], value: Any) -> NDArray[np.bool_]:
    if held.dtype.kind not in "iuf" or isinstance(value, str):
        return np.asarray(held == value)
    return np.asarray(np.abs(held - value) <= EXACT * np.abs(held))


def _missing(held: list[Held], given: Mapping[str, Any]) -> str:
    """Say which of the values asked for there is not, and what there is instead."""
    for name, value in given.items():
        there = _distinct(np.ravel(h[name][1]) for h in held if name in h)
        if not there or _same(np.asarray(there), value).any():
            continue
        near = ""
        if len(there) > SHOWN and not isinstance(value, str):
            near = f" The nearest is {min(there, key=lambda x: abs(x - value)):.12g}."
        return f"{name}={value}. It has {name} = {_shown(there)}.{near}"
    return f"it has points with each of these, but none {_with(given)}"


def _with(given: Mapping[str, Any]) -> str:
    return "with " + ", ".join(f"{name}={value}" for name, value in given.items()) if given else ""


def _open(store: Store, held: list[Held], masks: list[NDArray[np.bool_]]) -> str:
    """Say what tells the points apart that are all meant, and its values."""
    found: dict[str, list[NDArray[Any]]] = {}
    in_a_row = set()
    for stored, known, mask in zip(store.buckets, held, masks, strict=True):
        where = dict(zip(stored.bucket.axes, np.nonzero(mask), strict=True))
        for name, (dims, values) in known.items():
            own = values[tuple(where[d] for d in dims)] if dims else values
            found.setdefault(name, []).append(np.ravel(own) if mask.any() else np.zeros(0))
            if name != POINT and dims == (POINT,):
                in_a_row.add(name)
    several = {name: there for name, xs in found.items() if len(there := _distinct(xs)) > 1}
    told = [f"{n} = {_shown(x)}" for n, x in several.items() if n not in in_a_row]
    by_value = sorted(in_a_row & several.keys())
    return "; ".join(told) + (f", or {', '.join(by_value)}" if by_value else "")


def _distinct(arrays: Iterable[NDArray[Any]]) -> list[Any]:
    return list(dict.fromkeys(x for array in arrays for x in array.tolist()))


def _shown(values: list[Any]) -> str:
    words = [f"{x:.12g}" if isinstance(x, float) else str(x) for x in values]
    if len(words) <= SHOWN:
        return ", ".join(words)
    return f"{', '.join(words[: SHOWN - 2])}, ..., {words[-1]} ({len(words)} values)"
