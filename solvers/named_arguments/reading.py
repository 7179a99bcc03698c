"""A model's functions as they are written, read as functions of plain names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsolve.solvers.errors import ModelError

from .computed import Computed, Stack, ValueOf, parameters_of
from .positions import SUFFIX, Position, Positions, looked_up


@dataclass(frozen=True)
class Reading:
    """What the arguments of a model's functions stand for.

    Attributes
    ----------
    specs : dict of str to spec or None
        Of each state, choice, shock and post variable what has its ``values`` (n,); None of what
        has no list of them.
    families : dict of str to tuple of str
        The members of each family.
    between : dict of str to str
        What lies between the points of its grid, too, and why.
    rules : dict of str to rule
        Of the post variables.
    """

    specs: Mapping[str, Any]
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    between: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a family that is called like something else.

        Raises
        ------
        ModelError
        """
        for name in self.families:
            if name in self.specs:
                raise ModelError(f"'{name}' is a family and something else; rename one of them")

    def of(self, f: Any, what: str, *, decided: bool = False) -> Any:
        """Return a function of plain names; what is no function is returned as it is.

        Parameters
        ----------
        f : function or anything
        what : str
            What to call it in an error.
        decided : bool
            Whether a post variable that it takes stands for what its rule returns, as in what is
            said of a pair of state and choice; else it is an argument like any other.

        Raises
        ------
        ModelError
            If an argument means two things, or the position of what has none.
        """
        if not callable(f):
            return f
        parts: dict[str, Callable[..., Any]] = {}
        for name in parameters_of(f):
            base = looked_up(name)
            if name in self.specs:
                if base in self.specs or base in self.families:
                    raise ModelError(
                        f"{what} takes '{name}', which is a name of the model, and the position of "
                        f"'{base}' as well; rename one of them"
                    )
                if decided and name in self.rules:
                    rule = self.rules[name]
                    parts[name] = ValueOf(rule) if isinstance(rule, str) else rule
            elif name in self.families:
                parts[name] = Stack(self.families[name])
            elif base is not None and base in self.families:
                each = (self._position(n, what) for n in self.families[base])
                parts[name] = Positions(tuple(each))
            elif base is not None and base in self.specs:
                parts[name] = self._position(base, what)
        return self.of(Computed(f, parts), what, decided=decided) if parts else f

    def _position(self, name: str, what: str) -> Position:
        if name in self.between:
            raise ModelError(
                f"{what} takes '{name}{SUFFIX}', a position on the grid of '{name}', which lies "
                f"between the points, too, {self.between[name]}; interpolate instead: "
                f"jnp.interp({name}, points, table)"
            )
        position = Position(name, self.specs[name].values)
        position.check(what)
        return position


def looks_up(f: Any) -> frozenset[str]:
    """Return the names whose positions a function takes."""
    if isinstance(f, Position):
        return frozenset({f.name})
    if isinstance(f, Positions):
        return frozenset(p.name for p in f.each)
    parts = [f.written, *f.parts.values()] if isinstance(f, Computed) else []
    return frozenset().union(*(looks_up(part) for part in parts))
