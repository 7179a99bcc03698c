r"""Several shocks, or states, that are drawn together: correlated shocks and vector chains.

``shocks={("ret", "y"): dp.normal(means, cov, n)}`` is one random variable, the *position* of a
joint draw, and two tables that say what ``ret`` and ``y`` are there. It is called ``ret_y``; in a
function that takes ``y``, the position is looked up. So whatever solves, verifies and simulates a
model meets one shock (or one Markov state) more, and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpsolve.solvers.errors import ModelError
from dpsolve.solvers.numerics.arrays import AnyArray

from .iid import Iid
from .markov import Markov


@dataclass(frozen=True, eq=False)
class LookedUp:
    """A function of a joint draw's parts, as one of its position.

    Attributes
    ----------
    function : function
    parts : dict of str to (str, array)
        By the names of parts that it takes: the position's name, and the values (n,) of the part.
    first : bool
        Whether the first argument, under any name, is a number that is given by place.
    """

    function: Callable[..., Any]
    parts: Mapping[str, tuple[str, AnyArray]]
    first: bool = False

    @property
    def __signature__(self) -> inspect.Signature:
        found: dict[str, inspect.Parameter] = {}
        given = list(inspect.signature(self.function).parameters.values())
        for i, p in enumerate(given):
            if p.name in self.parts and not (self.first and i == 0):
                name = self.parts[p.name][0]
                found.setdefault(name, inspect.Parameter(name, p.KEYWORD_ONLY))
            else:
                found[p.name] = p if i == 0 else p.replace(kind=p.KEYWORD_ONLY)
        return inspect.Signature(list(found.values()))

    def __call__(self, *number: Any, **given: Any) -> Any:
        """Call the function on what its position stands for."""
        own = inspect.signature(self.function).parameters
        named = {n: x for n, x in given.items() if n in own}
        for name, (position, values) in self.parts.items():
            if name in own and position in given:
                named[name] = jnp.asarray(values)[jnp.asarray(given[position], int)]
        return self.function(*number, **named)


class Unfolding:
    """What is drawn together in a model, by its positions.

    Attributes
    ----------
    parts : dict of str to (str, array)
        Of each part, the position's name, and its values (n,) there.
    """

    def __init__(self) -> None:
        self.parts: dict[str, tuple[str, AnyArray]] = {}

    def drawn(self, kind: str, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return states or shocks with positions in place of what is drawn together."""
        found: dict[Any, Any] = {}
        for key, spec in given.items():
            names = key if isinstance(key, tuple) else ()
            if not names and not is_joint(spec):
                found[key] = spec
                continue
            if not (names and is_joint(spec)):
                raise ModelError(_unlike(kind, key, spec))
            m, position = spec.values.shape[0], "_".join(map(str, names))
            if not all(isinstance(n, str) and n.isidentifier() for n in names):
                raise ModelError(f"{kind}: {names!r} are names (letters, digits and _)")
            if len(names) != m or len({*names}) < m:
                raise ModelError(
                    f"{kind}: {names} are the names of {m} variables that are drawn together: "
                    f"give {m} different ones"
                )
            if position in given:
                raise ModelError(
                    f"{kind}: '{position}' is what {names} are called together; rename yours"
                )
            self.parts |= {n: (position, spec.values[i]) for i, n in enumerate(names)}
            found[position] = replace(spec, values=np.arange(spec.size))
        return found

    def rule(self, given: Any) -> Any:
        """Return a rule, which may be the name of a part."""
        if isinstance(given, str) and given in self.parts:
            return LookedUp(_named(given), {given: self.parts[given]})
        return self.functions(given)

    def functions(self, given: Any, first: bool = False) -> Any:
        """Return what stands in a model with functions of positions for functions of parts."""
        if isinstance(given, Mapping):
            return {k: self.functions(v, first) for k, v in given.items()}
        if isinstance(given, list | tuple):
            return type(given)(self.functions(x, first) for x in given)
        if isinstance(given, Iid) and callable(given.probs):
            return replace(given, probs=self.functions(given.probs))
        if not callable(given) or isinstance(given, type):
            return given
        taken = [*inspect.signature(given).parameters][first:]
        named = {n: self.parts[n] for n in taken if n in self.parts}
        return LookedUp(given, named, first) if named else given


def is_joint(spec: Any) -> bool:
    """Tell whether a shock or a state is several that are drawn together."""
    return isinstance(spec, Iid | Markov) and spec.values.ndim == 2


def unfold(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a model's fields with positions for what is drawn together; None where nothing is.

    The parts of states become outputs, so that results have their values.

    Parameters
    ----------
    given : mapping
        The fields of a :class:`~dpsolve.Model`, by name.

    Raises
    ------
    ModelError
        If names and variables do not fit.
    """
    kinds = {k: given[k] for k in ("states", "shocks") if isinstance(given[k], Mapping)}
    if not any(isinstance(k, tuple) or is_joint(v) for d in kinds.values() for k, v in d.items()):
        return None
    unfolding = Unfolding()
    found = dict(given)
    found["states"] = unfolding.drawn("states", given["states"])
    lasting = tuple(unfolding.parts)
    found["shocks"] = unfolding.drawn("shocks", kinds.get("shocks", {}))
    for kind in ("states", "shocks", "choices", "post"):
        for name in found[kind] or ():
            if name in unfolding.parts:
                raise ModelError(
                    f"'{name}' stands under {kind}, and among those drawn together; rename one"
                )
    for field, x in found.items():
        if field == "transition" and isinstance(x, Mapping):
            found[field] = {k: unfolding.rule(v) for k, v in x.items()}
        else:
            found[field] = unfolding.functions(x, first="marginal" in field)
    own = {n: unfolding.rule(n) for n in lasting}
    found["outputs"] = own | dict(found["outputs"] or {})
    return found | {"parts": {n: position for n, (position, _) in unfolding.parts.items()}}


def _named(name: str) -> Callable[..., Any]:
    def part(**given: Any) -> Any:
        return given[name]

    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    part.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    return part


def _unlike(kind: str, key: Any, spec: Any) -> str:
    if is_joint(spec):
        m = spec.values.shape[0]
        names = ", ".join(f"'{'abcdefgh'[i % 8]}'" for i in range(m))
        return (
            f"{kind}: {key!r} is one name for {m} variables that are drawn together: name each, "
            f"({names}): ..."
        )
    return (
        f"{kind}: {key!r} are several names for {spec!r}, which is one variable; several that are "
        "drawn together are dp.normal(means, cov, n), dp.iid(values, probs) or "
        "dp.markov(values, P) with values of shape (variables, n)"
    )
