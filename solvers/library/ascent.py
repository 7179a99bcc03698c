"""Gradient ascent: a maximum found in so many steps, with the derivative of the maximum itself."""

import jax
from jax import lax

from dpsolve.solvers.numerics.fixed_point import implicit

from .sizes import at_least


def ascent(
    alpha: float = 2.0, x0: float = 0.5, step: float = 0.1, *, steps: int = 50
) -> dict[str, object]:
    """Climb the hill -(x - alpha)^2 by a fixed number of gradient steps from x0.

    x <- x + step f'(x),  so that  x_K = alpha + (1 - 2 step)^K (x0 - alpha).

    Returns `x` = x_K, and the hill's `height` and `slope` there, which tell how far the top is.
    Differentiating through the loop would give 1 - (1 - 2 step)^K for dx/dalpha; the derivative of
    `x` is that of the maximiser, by the implicit function theorem: 1 (and 0 by x0 and step).
    """
    at_least(0, steps=steps)

    def hill(x):
        return -((x - alpha) ** 2)

    slope = jax.grad(hill)
    x = implicit(slope, lax.fori_loop(0, steps, lambda _, x: x + step * slope(x), x0))
    return {"x": x, "height": hill(x), "slope": slope(x)}
