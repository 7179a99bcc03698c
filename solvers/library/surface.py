"""A function over a square grid: mapped, never built."""

import jax
import jax.numpy as jnp

from dpsolve.solvers.numerics.summation import over_product

from .sizes import at_least


def surface(
    lo: float = -2.0,
    hi: float = 2.0,
    frequency: float = 1.0,
    *,
    n: int = 6000,
    keep_grid: bool = False,
) -> dict[str, object]:
    """Summarise cos(frequency (x^2 + y^2)) / (1 + x^2 + y^2) on n x n points of [lo, hi]^2.

    Returns its `mean`, `sum`, `min` and `max`. Memory is that of an axis and of a block of rows:
    20,000 x 20,000 points take a few megabytes, where the two coordinates of a mesh would take
    6.4 GB. With keep_grid=True also the `surface` itself, which takes 8 n^2 bytes.
    """
    at_least(1, n=n)

    def height(x, y):
        r = x**2 + y**2
        return jnp.cos(frequency * r) / (1 + r)

    x = jnp.linspace(lo, hi, n)
    found = over_product(height, x, x)._asdict()
    if keep_grid:
        z = jax.vmap(lambda x_i: jax.vmap(lambda y_j: height(x_i, y_j))(x))(x)
        found |= {"surface": (("x", "y"), z), "grid_x": (("x",), x), "grid_y": (("y",), x)}
    return found
