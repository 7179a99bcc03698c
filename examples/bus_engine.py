"""When to replace a bus engine: Rust's model, solved, and its likelihood maximised.

Rust, J. (1987), "Optimal replacement of GMC bus engines: an empirical model of Harold Zurcher",
*Econometrica* 55(5). Mileage is counted in steps of 5,000; a month adds none, one or two. Running
costs rise with it, a new engine costs RC, and both alternatives meet a taste shock of scale one.
Table IX, group 4: RC = 10.0750, theta_1 = 2.2930, theta_3 = (.3919, .5953), beta = .9999.
"""

import jax.numpy as jnp

import dpsolve as dp


def bus_engine(RC=10.0750, theta_1=2.2930, p_0=0.3919, p_1=0.5953, beta=0.9999, *, n_x=90):
    """Harold Zurcher's choice each month: keep the engine, or replace it."""

    def cost(x, replace):
        return -replace * RC - (1 - replace) * 0.001 * theta_1 * x

    def mileage(x, replace, step):
        return jnp.minimum((1 - replace) * x + step, n_x - 1)

    return dp.Model(
        states={"x": dp.integers(0, n_x - 1)},
        choices={"replace": dp.integers(0, 1)},
        shocks={"step": dp.iid([0, 1, 2], [p_0, p_1, 1 - p_0 - p_1])},
        transition={"x": mileage},
        reward=cost,
        discount=beta,
        taste_shocks={"replace": 1.0},
        outputs={"cost": cost},
    )
