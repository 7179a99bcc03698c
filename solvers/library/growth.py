"""Deterministic growth: the Ramsey planner's problem around the steady state."""

import jax.numpy as jnp

from dpsolve.solvers.model.vocabulary import Model, grid, interval

from .sizes import true_or_false


def growth(
    beta: float = 0.95,
    delta: float = 0.1,
    alpha: float = 0.35,
    z: float = 1.0,
    *,
    n_k: int = 100,
    continuous: bool = True,
) -> Model:
    """Choose next period's capital to maximise discounted log consumption.

    v(k) = max log(c) + beta v(k')  subject to  c = z k^alpha + (1-delta) k - k' > 0,
    with k on n_k points from half to twice the steady state
    k_ss = (alpha z / (1/beta - 1 + delta))^(1/(1-alpha)). Next capital k' is any number of that
    range; with continuous=False it is one of the n_k points.
    """
    true_or_false(continuous=continuous)
    k_ss = (alpha * z / (1 / beta - 1 + delta)) ** (1 / (1 - alpha))

    def consumption(k, k_next):
        return z * k**alpha + (1 - delta) * k - k_next

    return Model(
        states={"k": grid(0.5 * k_ss, 2.0 * k_ss, n_k)},
        choices={"k_next": interval("k") if continuous else "k"},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: consumption(k, k_next) > 0,
        reward=lambda k, k_next: jnp.log(consumption(k, k_next)),
        discount=beta,
        concave=True,
        outputs={"consumption": consumption},
    )
