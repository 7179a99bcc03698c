"""Which of many points are proved to be concave: proofs over ranges, kept and asked for again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from dpsolve.solvers.model.factory_signature import Factory, Sizes
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.program_keys.fingerprint import keyed

from . import ranges
from .proof import Proof, as_range, not_proved, prove_statement, reward_crosses
from .signs import DOWN, UNKNOWN, UP, ZERO
from .statement import Statement, filled, read

MOST_TRIES = 33
"""Proofs for one call: of all points, of halves of them, of quarters ..."""

THOROUGH = 1_000
"""Likewise, where much depends on it."""

KEPT = 2_000

Box = tuple[tuple[str, float, float], ...]

_proofs: OrderedDict[tuple[Any, ...], Proof] = OrderedDict()
_lock = Lock()


def proved(
    factory: Factory | Model,
    sizes: Mapping[str, Any],
    values: Mapping[str, Any],
    most: int = MOST_TRIES,
) -> Numpy | bool:
    """Return at which points a model is proved to be concave.

    What is proved is that one step of the model keeps concave what is concave (:mod:`.proof`):
    rewards jointly concave in the continuous states and choices, what is feasible convex, next
    states affine (or concave where the value rises in them), discount and chances free of both,
    over the whole range of every variable. The rules are those of disciplined convex programming
    (Grant, Boyd and Ye, 2006).

    Points are first taken together, as ranges of the parameters; where that proves nothing, they
    are halved along the parameter that varies most, again and again, so that what fails at some
    points is proved at others. After `most` proofs what is left is taken for not proved; after
    33 of which none was found, too.

    Parameters
    ----------
    factory : function, or Model
    sizes : dict
        Its static parameters.
    values : dict
        Of each parameter a number, or an array of many points; they broadcast. What is left out
        has its default.
    most : int
        Proofs to try. One takes some 5 ms.

    Returns
    -------
    bool, or array of bool
        Of the points' shape. False where something is not proved, whatever the reason;
        :func:`reason` has it.
    """
    points = _points(factory, values)
    if points is None:
        return False
    names, table, shape = points
    known = np.zeros(table.shape[1], bool)
    waiting, tries = [np.flatnonzero(np.isfinite(table).all(0))], 0
    while waiting and tries < (most if known.any() else MOST_TRIES):
        some = waiting.pop(0)
        if not some.size:
            continue
        tries += 1
        here = table[:, some]
        if _prove(factory, sizes, _box(names, here)):
            known[some] = True
        elif (here != here[:, :1]).any():
            waiting += _halves(here, some)
    return known.reshape(shape) if shape else bool(known[0])


def reason(factory: Factory | Model, sizes: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return why points are not proved to be concave, together; empty where they are."""
    points = _points(factory, values)
    if points is None:
        return "the parameters are no numbers that could be compared"
    names, table, _ = points
    return _prove(factory, sizes, _box(names, table)).why


def _points(
    factory: Factory | Model, values: Mapping[str, Any]
) -> tuple[list[str], Numpy, tuple[int, ...]] | None:
    """Return names, a table (parameters, points), and the points' shape."""
    try:
        given = filled(factory, values)
        arrays = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in given.values()))
    except Exception:  # traced numbers, texts, lengths that do not fit
        return None
    shape = arrays[0].shape if arrays else ()
    flat = [a.ravel() for a in arrays]
    table = np.stack(flat) if flat else np.zeros((0, 1))
    return list(given), table, shape


def _box(names: list[str], table: Numpy) -> Box:
    if not table.shape[1]:
        return tuple((n, np.nan, np.nan) for n in names)
    lo, hi = table.min(1), table.max(1)
    return tuple((n, float(a), float(b)) for n, a, b in zip(names, lo, hi, strict=True))


def _halves(table: Numpy, some: Numpy) -> list[Numpy]:
    """Return the points below and above the middle of the parameter that varies most."""
    lo, hi = table.min(1), table.max(1)
    spread = (hi - lo) / np.maximum(np.maximum(np.abs(lo), np.abs(hi)), 1e-300)
    row = table[int(np.argmax(spread))]
    above = row > (row.min() + row.max()) / 2
    if above.all() or not above.any():  # neighbours among the float64 numbers
        above = row == row.max()
    return [some[~above], some[above]]


def _prove(factory: Factory | Model, sizes: Mapping[str, Any], box: Box) -> Proof:
    try:
        key = (factory if isinstance(factory, Model) else keyed(factory), Sizes(sizes.items()), box)
        with _lock:
            found = _proofs.get(key)
        if found is None:
            statement = _statement(*key[:2])
            if isinstance(statement, Proof):
                found = statement
            else:
                between = {n: ranges.between(lo, hi) for n, lo, hi in box}
                found = prove_statement(statement, between)
            with _lock:
                _proofs[key] = found
                if len(_proofs) > KEPT:
                    _proofs.popitem(last=False)
    except Exception as error:  # a factory that cannot be keyed, whatever its functions raise
        return not_proved(error)
    return found


@lru_cache(maxsize=32)
def _statement(factory: Factory | Model, sizes: Sizes) -> Statement | Proof:
    try:
        return read(factory, dict(sizes))
    except Exception as error:
        return not_proved(error)


def cross_sign(
    factory: Factory | Model, sizes: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[tuple[str, str], int | None]:
    """Return the signs of the cross derivatives of the rewards' sum.

    Increasing differences in a state and a choice, together with what is feasible, are what makes a
    policy rise with the state (Topkis 1998, *Supermodularity and Complementarity*).

    Returns
    -------
    dict of (state, choice) to int or None
        1 where differences increase, -1 where they decrease, 0 where there are none, over the whole
        feasible set; None where it is not known.
    """
    names: list[tuple[str, str]] = []
    try:
        statement = read(factory, sizes)
        names = [(s, c) for s in statement.continuous for c in statement.choices]
        between = {n: as_range(x) for n, x in filled(factory, values).items()}
        signs = reward_crosses(statement, between)
    except Exception:  # as for a proof: what cannot be read has no sign
        return dict.fromkeys(names)
    words = {UP: 1, DOWN: -1, ZERO: 0, UNKNOWN: None}
    return {(s, c): words[signs[min(s, c), max(s, c)]] for s, c in names}
