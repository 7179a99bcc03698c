"""When to replace a bus engine: Rust's model, solved, simulated, and its likelihood maximised.

Rust, J. (1987), "Optimal replacement of GMC bus engines: an empirical model of Harold Zurcher",
*Econometrica* 55(5). Mileage is counted in steps of 5,000; a month adds none, one or two. Running
costs rise with it, a new engine costs RC, and each alternative meets a taste shock of scale one.
The defaults are Table IX, group 4. Published there: P(replace | x = 45) = .015423, and
EV(0) = -1278.609.

    python examples/bus_engine.py       # a Monte Carlo of the maximum likelihood estimator
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import dpsolve as dp


def bus_engine(
    RC: float = 10.0750, theta_1: float = 2.2930, p_0: float = 0.3919, p_1: float = 0.5953,
    beta: float = 0.9999, *, n_x: int = 90,
) -> dp.Model:  # fmt: skip
    """Harold Zurcher's choice each month: keep the engine, or replace it."""

    def cost(x: Array, replace: Array) -> Array:
        return -replace * RC - (1 - replace) * 0.001 * theta_1 * x

    def mileage(x: Array, replace: Array, step: Array) -> Array:
        return jnp.minimum((1 - replace) * x + step, n_x - 1)

    return dp.Model(
        states={"x": dp.integers(0, n_x - 1)},
        choices={"replace": dp.integers(0, 1)},
        shocks={"step": dp.iid([0, 1, 2], [p_0, p_1, 1 - p_0 - p_1])},
        transition={"x": mileage},
        reward=cost,
        discount=beta,
        taste_shocks={"replace": 1.0},
    )


CELLS = {"x": np.tile(np.arange(90), 2), "replace": np.repeat([0, 1], 90)}  # all there can be


def estimate(sample: float = 0.0, *, buses: int = 37, months: int = 116) -> dict[str, Array]:
    """Draw a panel of buses from the model, and maximise its likelihood as Rust did.

    A sample is how often each cell occurs, and the log-likelihood these counts times the cells'.
    A step is by the outer product of the scores (Berndt, Hall, Hall and Hausman 1974).
    """
    logs = dp.log_likelihood(bus_engine, CELLS, each=True)
    replacing, steps = jnp.exp(logs({})[90:]), jnp.array([0.3919, 0.3919 + 0.5953])

    def month(x: Array, key: Array) -> tuple[Array, Array]:
        luck = jax.random.uniform(key, (2, buses))
        replace = (luck[0] < replacing[x]).astype(int)
        after = (1 - replace) * x + (luck[1][:, None] > steps).sum(1)
        return jnp.minimum(after, 89), x + 90 * replace

    keys = jax.random.split(jax.random.key(jnp.asarray(sample, int)), months)
    _, seen = jax.lax.scan(month, jnp.zeros(buses, int), keys)
    counts = jnp.zeros(180).at[seen.ravel()].add(1.0)

    scores = jax.jacfwd(lambda p: logs({"RC": p[0], "theta_1": p[1]}))  # (cells, parameters)

    def step(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        each = scores(found[0])
        information = (each.T * counts) @ each
        return found[0] + jnp.linalg.solve(information, counts @ each), information

    start = jnp.array([10.0750, 2.2930]), jnp.eye(2)
    p, information = jax.lax.fori_loop(0, 15, step, start)
    errors = jnp.sqrt(jnp.diag(jnp.linalg.inv(information)))
    return {"RC": p[0], "theta_1": p[1], "se_RC": errors[0], "se_theta_1": errors[1]}


if __name__ == "__main__":
    many = dp.solve_many(estimate, {"sample": np.arange(100.0)})  # 100 samples, one call
    for name, true in (("RC", 10.0750), ("theta_1", 2.2930)):
        found, told = np.asarray(many[name]), np.asarray(many[f"se_{name}"])
        print(f"{name}: true {true}, estimates {found.mean():.3f}, their sd {found.std():.3f}, "
              f"standard errors {told.mean():.3f}")  # fmt: skip
