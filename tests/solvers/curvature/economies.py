"""Models of the literature with continuous choices, as a user writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from scipy.special import roots_hermitenorm

import dpsolve as dp

SURVIVAL = jnp.linspace(1.0, 0.8, 60).at[-1].set(0.0)
PROFILE = jnp.linspace(0.7, 1.3, 60)


def lognormal(mu: Any, sd: Any, n: int) -> Any:
    nodes, weights = roots_hermitenorm(n)
    return dp.iid(jnp.exp(mu + sd * nodes), weights / weights.sum())


def thrown_away(grid: Any) -> Any:
    """A grid above whose top nothing is kept."""
    return replace(grid, outside=("error", "clip"))


def aiyagari(beta=0.96, gamma=3.0, r=0.037, alpha=0.36, delta=0.08, rho=0.6, sigma=0.16, debt=0.0,
             *, n_a=8, n_z=3, top=60.0):  # fmt: skip
    w = (1 - alpha) * (alpha / (r + delta)) ** (alpha / (1 - alpha))

    def consumption(a, z, a_next):
        return (1 + r) * a + w * jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(-debt, top, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), gamma),
        discount=beta,
    )


def labour(beta=0.96, gamma=2.0, psi=8.0, frisch=0.5, r=0.03, rho=0.9, sigma=0.2,
           *, n_a=8, n_z=3):  # fmt: skip
    def consumption(a, z, h, a_next):
        return (1 + r) * a + jnp.exp(z) * h - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 40.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"h": dp.interval(0.0, 1.0), "a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, h, a_next: consumption(a, z, h, a_next) > 0,
        reward=lambda a, z, h, a_next: (
            dp.crra(consumption(a, z, h, a_next), gamma)
            - psi * h ** (1 + 1 / frisch) / (1 + 1 / frisch)
        ),
        discount=beta,
    )


def portfolio(beta=0.94, gamma=4.0, rf=0.02, premium=0.04, sd_r=0.18, sd_y=0.3, short=0.0,
              *, n_w=8):  # fmt: skip
    mu = jnp.log(1 + rf + premium) - sd_r**2 / 2
    income = lognormal(-(sd_y**2) / 2, sd_y, 3)
    return dp.Model(
        states={"w": thrown_away(dp.grid(income.values[0], 60.0, n_w, curve=2))},
        choices={
            "stock": dp.interval(lambda w: -short, lambda w: w),
            "bond": dp.interval(0.0, lambda w, stock: w - stock),
        },
        shocks={"ret": lognormal(mu, sd_r, 5), "y": income},
        transition={"w": lambda stock, bond, ret, y: (1 + rf) * bond + ret * stock + y},
        feasible=lambda w, stock, bond: w - stock - bond > 0,
        reward=lambda w, stock, bond: dp.crra(w - stock - bond, gamma),
        discount=beta,
    )


def entrepreneur(beta=0.92, gamma=1.5, r=0.04, delta=0.06, nu=0.7, lam=1.5, wage=0.5, rho=0.9,
                 sigma=0.3, *, n_a=8, n_z=3):  # fmt: skip
    def consumption(a, z, k, a_next):
        return wage + (1 + r) * a + jnp.exp(z) * k**nu - (r + delta) * k - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 40.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"k": dp.interval(0.0, lambda a: lam * a), "a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, k, a_next: consumption(a, z, k, a_next) > 0,
        reward=lambda a, z, k, a_next: dp.crra(consumption(a, z, k, a_next), gamma),
        discount=beta,
    )


def life_cycle(beta=0.97, gamma=2.0, r=0.03, rho=0.95, sigma=0.15, theta=5.0, shift=1.0,
               pension=0.5, age_retired=40.0, *, n_t=60, n_a=8, n_z=3):  # fmt: skip
    def consumption(a, z, a_next, t):
        return (1 + r) * a + jnp.where(t < age_retired, PROFILE[t] * jnp.exp(z), pension) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, 40.0, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next, t: consumption(a, z, a_next, t) > 0,
        reward=[
            lambda a, z, a_next, t: dp.crra(consumption(a, z, a_next, t), gamma),
            lambda a_next, t: beta * (1 - SURVIVAL[t]) * theta * dp.crra(a_next + shift, gamma),
        ],
        discount=lambda t: beta * SURVIVAL[t],
        horizon=n_t,
    )


def irreversible(beta=0.95, alpha=0.33, delta=0.1, gamma=2.0, rho=0.9, sigma=0.05,
                 *, n_k=8, n_z=3):  # fmt: skip
    kss = (alpha / (1 / beta - 1 + delta)) ** (1 / (1 - alpha))
    lo, hi = 0.4 * kss, 2.0 * kss

    def consumption(k, z, k_next):
        return jnp.exp(z) * k**alpha + (1 - delta) * k - k_next

    return dp.Model(
        states={"k": dp.grid(lo, hi, n_k), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"k_next": dp.interval(lambda k: jnp.maximum((1 - delta) * k, lo), hi)},
        transition={"k": "k_next"},
        feasible=lambda k, z, k_next: consumption(k, z, k_next) > 0,
        reward=lambda k, z, k_next: dp.crra(consumption(k, z, k_next), gamma),
        discount=beta,
    )


def cash_on_hand(beta=0.94, gamma=3.0, r=0.03, sd_r=0.1, sd_y=0.3, *, n_m=8):
    income = lognormal(-(sd_y**2) / 2, sd_y, 3)
    returns = lognormal(jnp.log(1 + r) - sd_r**2 / 2, sd_r, 3)
    return dp.Model(
        states={"m": dp.grid(income.values[0], 40.0, n_m, curve=2)},
        choices={"c": dp.interval(0.0, lambda m: m)},
        shocks={"ret": returns, "y": income},
        transition={"m": lambda m, c, ret, y: ret * (m - c) + y},
        feasible=lambda c: c > 0,
        reward=lambda c: dp.crra(c, gamma),
        discount=beta,
    )


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
