"""Arrays too short for what they are looked up at: JAX would take their last entry, unseen.

A function is traced once, and the whole numbers that each index lies between are followed from its
arguments' values. A lookup that leaves its array is refused, unless something in the function may
keep what it gives from counting: a comparison with what the index depends on (``jnp.where``, or a
product with a truth value), or the model's `feasible`, where it depends on more than states and
shocks. Indices that go through anything but sums, products and bounds (``jnp.clip``) are not
followed, and ``jnp.take`` tells by itself: it gives NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import Literal

from dpsolve.solvers.errors import ModelError

from .returns import INNER, Argument, Span, result_span, span_of

Names = frozenset[str]
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})


@dataclass(frozen=True)
class Lookup:
    """An index into an array of some shape, along one axis, and the names that it depends on."""

    shape: tuple[int, ...]
    axis: int
    span: Span
    names: Names


@dataclass
class _Walk:
    """What is known of a trace: spans and names by variable, and what was met."""

    spans: dict[Any, Span | None] = field(default_factory=dict)
    names: dict[Any, Names] = field(default_factory=dict)
    made: dict[Any, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    lookups: list[Lookup] = field(default_factory=list)
    conditions: set[str] = field(default_factory=set)
    compared: dict[Any, Names] = field(default_factory=dict)

    def span(self, atom: Any) -> Span | None:
        return span_of(atom.val) if isinstance(atom, Literal) else self.spans.get(atom)

    def depends(self, atoms: Sequence[Any]) -> Names:
        found = (self.names.get(x, Names()) for x in atoms if not isinstance(x, Literal))
        return Names().union(*found)

    def enter(self, jaxpr: Any, consts: Sequence[Any]) -> None:
        self.spans |= {v: span_of(x) for v, x in zip(jaxpr.constvars, consts, strict=True)}
        for step in jaxpr.eqns:
            self.step(step)

    def step(self, step: Any) -> None:
        name, atoms = step.primitive.name, tuple(step.invars)
        inner = next((step.params[key] for key in INNER if key in step.params), None)
        if name in ("pjit", "jit") and step.params.get("name") == "_where" and len(atoms) == 3:
            name, atoms, inner = "select_n", (atoms[0], atoms[2], atoms[1]), None
        if step.params.get("name") == "searchsorted":  # which compares, and leaves nothing out
            inner = None
        if inner is not None and hasattr(inner, "consts"):
            for variable, atom in zip(inner.jaxpr.invars, atoms, strict=True):
                self.spans[variable], self.names[variable] = self.span(atom), self.depends([atom])
            self.enter(inner.jaxpr, inner.consts)
            for variable, atom in zip(step.outvars, inner.jaxpr.outvars, strict=True):
                self.spans[variable], self.names[variable] = self.span(atom), self.depends([atom])
            return
        for variable in step.outvars:
            self.names[variable] = self.depends(atoms)
            self.made[variable] = (name, atoms)
        if not step.outvars:  # such as jax.debug.print
            return
        out = step.outvars[0]
        if name == "select_n":
            size = self.counted(atoms)
            if size is None:
                self.conditions |= self.depends(atoms[:1])
                self.spans[out] = result_span(name, step.params, [*map(self.span, atoms)])
            else:
                self.compared.pop(atoms[0], None)
                self.spans[out] = _from_the_start(self.span(atoms[1]), size)
        elif name in COMPARISONS:
            self.compared[out] = self.names[out]
        elif name == "dynamic_slice":
            self.look(atoms[0].aval.shape, step.params["slice_sizes"], atoms[1:])
            self.spans[out] = self.span(atoms[0])  # a table of positions
        elif name in ("cond", "while", "scan"):
            self.conditions |= self.depends(atoms)
        elif len(step.outvars) == 1 and out.aval.dtype.kind in "iu":
            self.spans[out] = result_span(name, step.params, [*map(self.span, atoms)])

    def counted(self, atoms: Sequence[Any]) -> int | None:
        """Return the size that an index is counted from where it is negative, if this does so."""
        condition, plain, shifted = atoms
        if isinstance(condition, Literal) or isinstance(shifted, Literal):
            return None
        how, compared = self.made.get(condition, ("", ()))
        added, terms = self.made.get(shifted, ("", ()))
        if how != "lt" or added != "add" or compared[0] is not plain or terms[0] is not plain:
            return None
        size = self.span(terms[1])
        return None if size is None else size[0]

    def look(self, shape: Sequence[int], sizes: Sequence[int], indices: Sequence[Any]) -> None:
        for axis, (n, size, index) in enumerate(zip(shape, sizes, indices, strict=True)):
            span = self.span(index)
            if n == 1:  # one entry for all: also what stands for an array of unknown length
                continue
            if span is not None and not 0 <= span[0] <= span[1] <= n - size:
                found = Lookup(tuple(shape), axis, span, self.depends([index]))
                self.lookups.append(found)


def _from_the_start(span: Span | None, size: int) -> Span | None:
    """Return between which positions an index lies that counts from the end where negative."""
    if span is None:
        return None
    low, high = span
    parts = [(max(low, 0), high)] if high >= 0 else []
    parts += [(low + size, min(high, -1) + size)] if low < 0 else []
    return min(a for a, _ in parts), max(b for _, b in parts)


def check_lookups(
    f: Callable[..., Any], closed: Any, known: Mapping[str, Argument], what: str, excused: Names
) -> None:
    """Refuse a function that looks an array up beyond its ends.

    Parameters
    ----------
    f : function
        Of some of the names that are `known`.
    closed : ClosedJaxpr
        Its trace, of a dict of these.
    known : mapping
    what : str
        What to call `f` in an error.
    excused : frozenset of str
        Names at some of whose values the function does not count.
    """
    given = {n: known[n] for n in inspect.signature(f).parameters if n in known}
    walk = _Walk()
    for name, variable in zip(sorted(given), closed.jaxpr.invars, strict=True):
        walk.spans[variable], walk.names[variable] = given[name].span, Names({name})
    walk.enter(closed.jaxpr, closed.consts)
    mindful = excused.union(walk.conditions, *walk.compared.values())
    for found in walk.lookups:
        if not found.names or found.names & mindful:
            continue
        n, (low, high) = found.shape[found.axis], found.span
        index = " and ".join(repr(name) for name in sorted(found.names))
        ranges = ", ".join(
            f"'{name}' goes from {span[0]} to {span[1]}"
            for name in sorted(found.names)
            if (span := given[name].span)
        )  # fmt: skip
        ranges = f" ({ranges})" if ranges else ""
        raise ModelError(
            f"{what} looks up {_called(f, found.shape)}, which has {n} entries along axis "
            f"{found.axis}, by {index}: at positions from {low} to {high}{ranges}. What lies "
            f"beyond would be taken for its last entry: give it {max(high + 1, n)} entries, or say "
            "that this is meant, by jnp.clip of the index"
        )


def _called(f: Callable[..., Any], shape: tuple[int, ...]) -> str:
    """Name the one array of a shape that a function reads, if there is one."""
    names = sorted({name for name, x in _reads(f) if getattr(x, "shape", None) == shape})
    return f"'{names[0]}'" if len(names) == 1 else f"an array of shape {shape}"


def _reads(f: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    try:
        read = inspect.getclosurevars(inspect.unwrap(f))
    except TypeError:
        return
    yield from read.nonlocals.items()
    yield from read.globals.items()
