"""Seven models with continuous choices, as a user writes them, at sizes that a test can afford.

Each `certifies` "continuum"; `MODELS` has them by name.
"""

import jax.numpy as jnp

import dpsolve as dp

AGES = 8
SURVIVAL = jnp.linspace(1.0, 0.8, AGES).at[-1].set(0.0)
PROFILE = jnp.linspace(0.7, 1.3, AGES)


def aiyagari(
    beta=0.96,
    gamma=3.0,
    r=0.037,
    alpha=0.36,
    delta=0.08,
    rho=0.6,
    sigma=0.16,
    debt=0.0,
    *,
    n_a=24,
    n_z=3,
    top=60.0,
):
    """Buffer-stock household of Aiyagari (1994)."""
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
        concave=True,
        outputs={"consumption": consumption},
    )


def labour(
    beta=0.96,
    gamma=2.0,
    psi=8.0,
    frisch=0.5,
    r=0.03,
    rho=0.9,
    sigma=0.2,
    *,
    n_a=20,
    n_z=3,
    top=40.0,
):
    """Two continuous choices, one of them static. At a = 0 the end h = 0 is infeasible."""

    def consumption(a, z, h, a_next):
        return (1 + r) * a + jnp.exp(z) * h - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, top, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"h": dp.interval(0.0, 1.0), "a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, h, a_next: consumption(a, z, h, a_next) > 0,
        reward=lambda a, z, h, a_next: (
            dp.crra(consumption(a, z, h, a_next), gamma)
            - psi * h ** (1 + 1 / frisch) / (1 + 1 / frisch)
        ),
        discount=beta,
        concave=True,
        outputs={"consumption": consumption, "earnings": lambda z, h: jnp.exp(z) * h},
    )


def portfolio(
    beta=0.94,
    gamma=4.0,
    rf=0.02,
    premium=0.04,
    sd_r=0.18,
    sd_y=0.3,
    short=0.0,
    *,
    n_w=16,
    n_r=3,
    n_y=3,
    top=60.0,
):
    """Two amounts, one risky; the second interval names the first choice. Wealth is clipped."""
    mu = jnp.log(1 + rf + premium) - sd_r**2 / 2
    income = dp.lognormal(-(sd_y**2) / 2, sd_y, n_y)
    return dp.Model(
        states={"w": dp.grid(income.values[0], top, n_w, curve=2, outside=("error", "clip"))},
        choices={
            "stock": dp.interval(lambda w: -short, lambda w: w),
            "bond": dp.interval(0.0, lambda w, stock: w - stock),
        },
        shocks={"ret": dp.lognormal(mu, sd_r, n_r), "y": income},
        transition={"w": lambda stock, bond, ret, y: (1 + rf) * bond + ret * stock + y},
        feasible=lambda w, stock, bond: w - stock - bond > 0,
        reward=lambda w, stock, bond: dp.crra(w - stock - bond, gamma),
        discount=beta,
        concave=True,
        outputs={"share": lambda stock, bond: stock / jnp.maximum(stock + bond, 1e-9)},
    )


def entrepreneur(
    beta=0.92,
    gamma=1.5,
    r=0.04,
    delta=0.06,
    nu=0.7,
    lam=1.5,
    wage=0.5,
    rho=0.9,
    sigma=0.3,
    *,
    n_a=20,
    n_z=3,
    top=40.0,
):
    """Collateral: k <= lam a. At a = 0 the interval is a point, and the slope there infinite."""

    def consumption(a, z, k, a_next):
        return wage + (1 + r) * a + jnp.exp(z) * k**nu - (r + delta) * k - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, top, n_a, curve=2), "z": dp.rouwenhorst(n_z, rho, sigma)},
        choices={"k": dp.interval(0.0, lambda a: lam * a), "a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, k, a_next: consumption(a, z, k, a_next) > 0,
        reward=lambda a, z, k, a_next: dp.crra(consumption(a, z, k, a_next), gamma),
        discount=beta,
        concave=True,
        outputs={"consumption": consumption},
    )


def life_cycle(
    beta=0.97,
    gamma=2.0,
    r=0.03,
    rho=0.95,
    sigma=0.15,
    theta=5.0,
    shift=1.0,
    pension=0.5,
    age_retired=5.0,
    *,
    n_t=AGES,
    n_a=20,
    n_z=3,
):
    """8 ages, retirement at an age, survival risk, a bequest."""

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
        concave=True,
        outputs={"consumption": consumption},
    )


def irreversible(
    beta=0.95, alpha=0.33, delta=0.1, gamma=2.0, rho=0.9, sigma=0.05, *, n_k=20, n_z=3
):
    """Investment cannot be negative; the end of the interval binds in bad times."""
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
        concave=True,
        outputs={
            "consumption": consumption,
            "investment": lambda k, k_next: k_next - (1 - delta) * k,
        },
    )


def cash_on_hand(
    beta=0.94, gamma=3.0, r=0.03, sd_r=0.1, sd_y=0.3, *, n_m=20, n_e=3, top=40.0, outside="error"
):
    """Consumption is the choice, returns are risky; choices that could leave the grid are none."""
    income = dp.lognormal(-(sd_y**2) / 2, sd_y, n_e)
    returns = dp.lognormal(jnp.log(1 + r) - sd_r**2 / 2, sd_r, n_e)
    return dp.Model(
        states={"m": dp.grid(income.values[0], top, n_m, curve=2, outside=outside)},
        choices={"c": dp.interval(0.0, lambda m: m)},
        shocks={"ret": returns, "y": income},
        transition={"m": lambda m, c, ret, y: ret * (m - c) + y},
        feasible=lambda c: c > 0,
        reward=lambda c: dp.crra(c, gamma),
        discount=beta,
        concave=True,
    )


MODELS = {
    f.__name__: f
    for f in (aiyagari, labour, portfolio, entrepreneur, life_cycle, irreversible, cash_on_hand)
}
