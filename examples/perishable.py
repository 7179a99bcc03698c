"""Perishable stock by age (Nahmias 1975): m ages are a family of states."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import poisson

import dpsolve as dp


def perishable(
    price: float = 5.0, cost: float = 2.0, waste: float = 1.0, mean: float = 2.0,
    beta: float = 0.95, *, ages: int = 2, most: int = 5,
) -> dp.Model:  # fmt: skip
    """Order what arrives tomorrow and lives for `ages` periods; the oldest is sold first.

    stock[i] is what lives for i + 1 more periods. With one age this is the newsvendor's problem
    (Arrow, Harris and Marschak 1951): P(demand <= order) is the least that reaches
    1 - (cost + beta waste) / (beta (price + waste)).
    """
    n = 4 * most
    chances = poisson.pmf(jnp.arange(n), mean)

    def left(stock: Array, demand: Array) -> Array:
        return jnp.clip(jnp.cumsum(stock) - demand, 0, stock)

    return dp.Model(
        states={"stock": dp.family(dp.integers(0, most), ages)},
        choices={"order": dp.integers(0, most)},
        shocks={"demand": dp.iid(jnp.arange(n), chances.at[-1].add(1 - chances.sum()))},
        transition={
            "stock": lambda stock, demand, order: jnp.append(left(stock, demand)[1:], order)
        },
        reward=[
            lambda stock, demand: price * jnp.minimum(stock.sum(), demand),
            lambda stock, demand: -waste * left(stock, demand)[0],
            lambda order: -cost * order,
        ],
        discount=beta,
    )


if __name__ == "__main__":
    for ages in (1, 2, 3):
        solution = dp.solve(perishable, {"ages": ages})
        print(ages, solution, "value of an empty shop:", float(solution.value.ravel()[0]))
