"""The order in which shocks are drawn and post variables follow, from what each of them names."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from dpsolve.solvers.errors import ModelError


def drawing_order(needs: Mapping[str, frozenset[str]], words: Mapping[str, str]) -> tuple[str, ...]:
    """Return names so that each stands after what it needs, and else as they are given.

    Parameters
    ----------
    needs : mapping of str to set of str
        Of each shock and post variable those others that its law or rule names.
    words : mapping of str to str
        What to call each of these laws and rules in an error.

    Raises
    ------
    ModelError
        If some need each other, with the circle.
    """
    order: list[str] = []
    while len(order) < len(needs):
        ready = [n for n in needs if n not in order and needs[n] <= set(order)]
        if not ready:
            raise ModelError(_circle(needs, words, order))
        order.append(ready[0])
    return tuple(order)


def _circle(needs: Mapping[str, frozenset[str]], words: Mapping[str, str], order: list[str]) -> str:
    path = [next(n for n in needs if n not in order)]
    while path[-1] not in path[:-1]:
        path.append(next(n for n in needs if n in needs[path[-1]] and n not in order))
    circle = path[path.index(path[-1]) :]
    each = "; ".join(f"{words[n]} takes '{m}'" for n, m in itertools.pairwise(circle))
    if len(circle) == 2:
        return f"{each}, which is not known before it; leave it out"
    return f"{each}: each of them would have to be known before the other; let one go without"


def ancestors(needs: Mapping[str, frozenset[str]], name: str) -> frozenset[str]:
    """Return all that a shock or post variable needs, however indirectly."""
    own = needs.get(name, frozenset())
    return own.union(*(ancestors(needs, n) for n in own))
