"""Cake eating: how to make a finite good last."""

import jax.numpy as jnp

from dpsolve.solvers.model.vocabulary import Model, grid


def cake(beta: float = 0.95, *, n_x: int = 100, horizon: int | None = None) -> Model:
    """Eat a cake of size x, with utility sqrt(c), on a grid whose floor 0.1 is never eaten.

    v(x) = max sqrt(x - x') + beta v(x')  subject to  x' <= x on the same grid of [0.1, 1].
    With a horizon T, what is left after the last period is eaten at once: v_T(x) = sqrt(x).
    """
    return Model(
        states={"x": grid(0.1, 1.0, n_x)},
        choices={"x_next": "x"},
        transition={"x": "x_next"},
        feasible=lambda x, x_next: x_next <= x,
        reward=lambda x, x_next: jnp.sqrt(x - x_next),
        discount=beta,
        outputs={"consumption": lambda x, x_next: x - x_next},
        horizon=horizon,
        terminal=None if horizon is None else lambda x: jnp.sqrt(x),
    )
