"""Built-in models, one a module, found by name."""

from collections.abc import Callable
from typing import Any

from dpsolve.solvers.errors import ModelError, did_you_mean
from dpsolve.solvers.model.factory_signature import Factory
from dpsolve.solvers.program_keys.fingerprint import keyed

from .ascent import ascent
from .cake import cake
from .call_option import call_option
from .firm_quality import firm_quality
from .growth import growth
from .inventory import inventory
from .savings import savings
from .solow import solow
from .surface import surface

__all__ = [
    "BUILTIN",
    "as_factory",
    "ascent",
    "cake",
    "call_option",
    "firm_quality",
    "growth",
    "inventory",
    "savings",
    "solow",
    "surface",
]

MODELS = (cake, growth, savings, inventory, solow, firm_quality, call_option, ascent, surface)
BUILTIN: dict[str, Callable[..., Any]] = {f.__name__: f for f in MODELS}


def as_factory(model: Any) -> Factory:
    """Return a factory, keyed by what it reads; or the built-in model of a name."""
    if not isinstance(model, str):
        return keyed(model)  # `signature` refuses what is no function
    if model not in BUILTIN:
        raise ModelError(
            f"there is no built-in model '{model}'.{did_you_mean(model, BUILTIN)} "
            f"The built-in models are: {', '.join(BUILTIN)}."
        )
    return keyed(BUILTIN[model])
