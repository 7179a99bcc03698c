"""Built-in models: each reads as the paper would print it."""

from collections.abc import Callable
from typing import Any

from .cake import cake
from .growth import growth
from .savings import savings

__all__ = ["BUILTIN", "cake", "growth", "savings"]

BUILTIN: dict[str, Callable[..., Any]] = {f.__name__: f for f in (cake, growth, savings)}
