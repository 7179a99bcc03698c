"""What is known of one number of a model's function: its range, curvature, slopes and domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .normal_form import Expression, Product
from .ranges import Range
from .signs import DOWN, ZERO

Pair = tuple[str, str]


@dataclass(frozen=True)
class Condition:
    """That a difference is positive (`strict`) or not negative."""

    difference: Value
    strict: bool


@dataclass(frozen=True, eq=False)
class Value:
    """A number (or an array of them, all alike) as a function of the continuous variables.

    Attributes
    ----------
    range : Range
        Between which numbers it lies, wherever it is defined and everything is feasible.
    key : Expression
        Its normal form.
    curvature : int
        The sign of its second derivative along every line.
    slopes : dict of str to int
        The sign of its slope in each continuous variable that it depends on.
    crosses : dict of pairs to int
        The signs of its cross derivatives; a pair that is missing is separable.
    factors : (Range, Product) or None
        A constant, and a product that it multiplies, where it was written as one.
    fault : str
        Why it is not known where it is defined, or that its derivatives are those of its values.
    why : str
        Why nothing is known of its curvature.
    conditions : tuple of Condition or None
        Of a truth value: what it is true for, together; None if that is not known.
    """

    range: Range
    key: Expression
    curvature: int = ZERO
    slopes: Mapping[str, int] = field(default_factory=dict)
    crosses: Mapping[Pair, int] = field(default_factory=dict)
    factors: tuple[Range, Product] | None = None
    fault: str = ""
    why: str = ""
    conditions: tuple[Condition, ...] | None = None

    @property
    def varies(self) -> bool:
        """Whether it depends on a continuous state or choice."""
        return bool(self.slopes)

    @property
    def concave(self) -> bool:
        """Whether it is proved to be concave, over a convex domain."""
        return bool(self.curvature & DOWN) and not self.fault

    @property
    def convex(self) -> bool:
        """Whether it is proved to be convex, over a convex domain."""
        return bool(self.curvature & 1) and not self.fault

    @property
    def affine(self) -> bool:
        """Whether it is proved to be affine."""
        return self.curvature == ZERO and not self.fault

    @property
    def reason(self) -> str:
        """Why it is not proved to be what is needed."""
        return self.fault or self.why

    def slope(self, name: str) -> int:
        """Return the sign of its slope in a variable."""
        return self.slopes.get(name, ZERO)

    def cross(self, pair: Pair) -> int:
        """Return the sign of its cross derivative in two variables."""
        return self.crosses.get(pair, ZERO)
