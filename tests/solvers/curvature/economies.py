"""Models of the literature beside those of tests/continuous_models.py, and what is done to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

import dpsolve as dp


def thrown_away(grid: Any) -> Any:
    """A grid above whose top nothing is kept."""
    return replace(grid, outside=("error", "clip"))


def brock_mirman(alpha=1 / 3, beta=0.95, *, n_k=8):
    kss = (alpha * beta) ** (1 / (1 - alpha))
    return dp.Model(
        states={"k": dp.grid(0.25 * kss, 1.75 * kss, n_k)},
        choices={"k_next": dp.interval("k")},
        transition={"k": "k_next"},
        feasible=lambda k, k_next: k**alpha - k_next > 0,
        reward=lambda k, k_next: jnp.log(k**alpha - k_next),
        discount=beta,
    )


def two_capitals(a1=0.2, a2=0.3, beta=0.95, *, n_k=5):
    return dp.Model(
        states={"k1": dp.grid(0.01, 2.0, n_k), "k2": dp.grid(0.01, 2.0, n_k)},
        choices={"n1": dp.interval("k1"), "n2": dp.interval("k2")},
        transition={"k1": "n1", "k2": "n2"},
        reward=lambda k1, k2, n1, n2: jnp.log(k1**a1 * k2**a2 - n1 - n2),
        discount=beta,
    )


def leisure(alpha=0.3, theta=0.4, gamma=2.0, *, n_k=5):
    """Constant returns to capital and hours, and utility of consumption and leisure."""
    return dp.Model(
        states={"k": dp.grid(0.01, 2.0, n_k)},
        choices={"h": dp.interval(0.0, 1.0), "k_next": dp.interval("k")},
        transition={"k": "k_next"},
        reward=lambda k, h, k_next: dp.crra(
            (k**alpha * h ** (1 - alpha) - k_next) ** theta * (1 - h) ** (1 - theta), gamma
        ),
        discount=0.95,
    )
