"""Borrowing against income whose price falls when all borrow less: a decentralised equilibrium.

Bianchi (2011, American Economic Review 101), with the income of tradables alone uncertain. A
household takes the law of motion of everybody's bonds as given, and with it the price of
nontradables that its collateral is worth. The law is one parameter, an array over (B, y).

    python examples/overborrowing.py
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

import dpsolve as dp

R, OMEGA, ETA, LOW, HIGH = 1.04, 0.31, 1 / 0.83 - 1, -1.02, -0.2


def household(
    beta: float = 0.91, kappa: float = 0.3235,
    law: Array = dp.array("B", "y", fill=-0.9, shape=("n_b", "n_y")),
    *, n_b: int = 40, n_y: int = 3, n_next: int = 401,
) -> dp.Model:  # fmt: skip
    """Choose bonds b, while everybody else's, B, follow a law."""
    chain, bonds = dp.rouwenhorst(n_y, 0.54, 0.059), dp.grid(LOW, HIGH, n_b)
    spent = R * bonds.values[:, None] + jnp.exp(chain.values) - law  # of tradables, by all
    prices = (1 - OMEGA) / OMEGA * jnp.maximum(spent, 1e-3) ** (1 + ETA)

    def price(B: Array, y_index: Array) -> Array:
        return jnp.interp(B, bonds.values, prices[:, y_index])

    def tradables(b: Array, B: Array, y: Array, b_next: Array, y_index: Array) -> Array:
        p = price(B, y_index)
        own = R * b + jnp.exp(y) + p - b_next
        return own / (1 + p * ((1 - OMEGA) / (OMEGA * p)) ** (1 / (1 + ETA)))

    def utility(b: Array, B: Array, y: Array, b_next: Array, y_index: Array) -> Array:
        c = tradables(b, B, y, b_next, y_index)
        other = c * ((1 - OMEGA) / (OMEGA * price(B, y_index))) ** (1 / (1 + ETA))
        return dp.crra((OMEGA * c**-ETA + (1 - OMEGA) * other**-ETA) ** (-1 / ETA), 2.0)

    def allowed(b: Array, B: Array, y: Array, b_next: Array, y_index: Array) -> Array:
        enough = b_next >= -kappa * (jnp.exp(y) + price(B, y_index))  # the collateral
        return enough & (tradables(b, B, y, b_next, y_index) > 0)

    return dp.Model(
        states={"b": bonds, "B": bonds, "y": chain},
        choices={"b_next": dp.grid(LOW, HIGH, n_next)},
        transition={
            "b": "b_next",
            "B": lambda B, y_index: jnp.interp(B, bonds.values, law[:, y_index]),
        },
        feasible=allowed,
        reward=utility,
        discount=beta,
    )


def equilibrium(
    rounds: int = 300, tol: float | None = None, **sizes: int
) -> tuple[dp.Solution, int]:
    """Let the law follow slowly what a household does that has what all have."""
    found = dp.solve(household, sizes)
    n_next = dict(found.problem.sizes)["n_next"]
    tol = (HIGH - LOW) / (n_next - 1) if tol is None else tol  # choices are no finer
    for done in range(1, rounds + 1):
        law = found.parameters["law"]
        chosen = jnp.diagonal(found.policy["b_next"]).T  # where b = B, over (B, y)
        if jnp.abs(chosen - law).max() <= tol:
            return found, done
        found = dp.solve(household, {"law": 0.9 * law + 0.1 * chosen, **sizes})
    raise RuntimeError(f"the law still moves after {rounds} rounds")


if __name__ == "__main__":
    found, rounds = equilibrium()
    print(found, "after", rounds, "rounds")
    law = np.asarray(found.parameters["law"])[:, 1]
    print(f"the poorer, the less they borrow, up to B = {found.grids['B'][law.argmin()]:.2f}")
