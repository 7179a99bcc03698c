"""How long compiling takes, forecast from a program's size before it is compiled, and told.

XLA takes about two milliseconds of one core for each equation of a program, whatever it computes:
1.7 to 2.5 for the loops of the built-in models, less for what only reads results off. The pace of
this machine is learnt from what is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jax.extend.core import jaxprs_in_params

from dpsolve.solvers.notices import in_words, tell

LONG = 2.0  # seconds that are told before they pass
LEAST = 0.2  # of the forecast: whatever took less came from a cache

_pace = [2e-3]  # seconds an equation


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield every equation of a program, inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def tell_compiling(name: str, *traced: Any) -> float:
    """Say that programs are about to be compiled, if that takes long; return the forecast.

    Parameters
    ----------
    name : str
        The model's.
    *traced : jax.stages.Traced
        The programs.

    Returns
    -------
    float
        Seconds.
    """
    size = sum(1 for program in traced for _ in equations(program.jaxpr.jaxpr))
    forecast = size * _pace[0]
    if forecast >= LONG:
        tell(f"compiling {name}, some {in_words(forecast)} the first time")
    return forecast


def learn(forecast: float, took: float) -> None:
    """Learn the pace of this machine from what compiling took."""
    if took > LEAST * forecast > 0.0:
        _pace[0] *= (took / forecast) ** 0.5
