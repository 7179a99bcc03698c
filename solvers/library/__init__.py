"""Built-in models: each reads as the paper would print it."""

from collections.abc import Callable
from typing import Any

from ..errors import ModelError, did_you_mean
from ..factory import Factory
from .cake import cake
from .growth import growth
from .savings import savings

__all__ = ["BUILTIN", "as_factory", "cake", "growth", "savings"]

BUILTIN: dict[str, Callable[..., Any]] = {f.__name__: f for f in (cake, growth, savings)}


def as_factory(model: Any) -> Factory:
    """Return a factory as it is, or the built-in model of a name."""
    if not isinstance(model, str):
        return model  # type: ignore[no-any-return]  # `signature` refuses what is no function
    if model not in BUILTIN:
        raise ModelError(
            f"there is no built-in model '{model}'.{did_you_mean(model, BUILTIN)} "
            f"The built-in models are: {', '.join(BUILTIN)}."
        )
    return BUILTIN[model]
