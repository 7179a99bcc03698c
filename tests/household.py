"""A household with a continuous choice, small: what several tests solve, and compile once."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

import dpsolve as dp


def household(
    beta: Any = 0.95,
    gamma: Any = 2.0,
    r: Any = 0.02,
    *,
    n_a: int = 14,
    n_z: int = 2,
    curve: float = 2,
) -> dp.Model:
    """Savings on an interval, under a Markov chain of income."""

    def consumption(a: Any, z: Any, a_next: Any) -> Any:
        return (1 + r) * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 8.0, n_a, curve=curve), "z": dp.rouwenhorst(n_z, 0.5, 0.2)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=beta,
        concave=True,
        outputs={"consumption": consumption},
    )
