"""Optimal savings: the income fluctuation problem."""

import jax.numpy as jnp

from dpsolve.solvers.model.vocabulary import Model, crra, grid, interval, rouwenhorst

from .sizes import true_or_false


def savings(
    beta: float = 0.96,
    gamma: float = 2.0,
    r: float = 0.03,
    rho: float = 0.9,
    sigma: float = 0.1,
    *,
    n_a: int = 200,
    n_z: int = 7,
    continuous: bool = True,
) -> Model:
    """Household saving with AR(1) log income and no borrowing.

    v(a, z) = max u(c) + beta E v(a', z')  subject to  a' + c = (1 + r) a + exp(z),  a' >= 0,
    with u(c) = c^(1-gamma) / (1-gamma) and wealth a on [0, 20]. Next wealth a' is any number of
    that range, and the n_a points lie closer together where wealth is low. With continuous=False
    a' is one of n_a equally spaced points, and the problem solved is that of such a household.
    """
    true_or_false(continuous=continuous)

    def consumption(a, z, a_next):
        return (1 + r) * a + jnp.exp(z) - a_next

    return Model(
        states={
            "a": grid(0.0, 20.0, n_a, curve=2.0 if continuous else 1.0),
            "z": rouwenhorst(n_z, rho, sigma),
        },
        choices={"a_next": interval("a") if continuous else "a"},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: crra(consumption(a, z, a_next), gamma),
        discount=beta,
        concave=True,
        outputs={"consumption": consumption},
        labels={
            "a": "assets",
            "z": "log income",
            "consumption": "consumption",
            "beta": "discount factor",
            "gamma": "relative risk aversion",
            "r": "interest rate",
            "rho": "persistence of log income",
            "sigma": "standard deviation of innovations to log income",
        },
    )
