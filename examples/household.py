"""A household that saves against risky income, with its words: examples/*.ipynb use it."""

import jax.numpy as jnp
from jax import Array

import dpsolve as dp


def household(
    beta: float = 0.95, gamma: float = 2.0, r: float = 0.03, rho: float = 0.9, sigma: float = 0.1,
    *, n_a: int = 100, n_z: int = 5,
) -> dp.Model:  # fmt: skip
    """Save against risky income, without borrowing (Aiyagari 1994).

    v(a, z) = max u(c) + beta E v(a_next, z'), with a_next + c = (1 + r) a + exp(z).
    """

    def consumption(a: Array, z: Array, a_next: Array) -> Array:
        return (1 + r) * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 60.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=beta,
        outputs={"consumption": consumption},
        labels={
            "a": "wealth (annual income)",
            "z": "log income",
            "consumption": "consumption (annual income)",
            "beta": "discount factor",
            "sigma": "income risk",
        },
    )
