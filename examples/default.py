"""A country that may default, and the price of its bonds: one program for the whole loop.

Arellano (2008, American Economic Review 98), at the calibration of QuantEcon's lecture. Lenders
break even at ``q(b', y) = (1 - chance of default | b', y) / (1 + r)``; the country takes the
schedule as given. It is one parameter, an array: a new schedule compiles nothing.

    python examples/default.py
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

import dpsolve as dp

R = 0.017


def default(
    beta: float = 0.953, gamma: float = 2.0, back: float = 0.282,
    q: Array = dp.array("b_next", "y", fill=1 / (1 + R)), *, n_b: int = 51, n_y: int = 21,
) -> dp.Model:  # fmt: skip
    """Sovereign default: pay and borrow, or default and be excluded until let back in."""
    chain = dp.tauchen(n_y, 0.945, 0.025)
    cap = 0.969 * jnp.exp(chain.values).mean()  # of income, while excluded

    def utility(
        b: Array, y: Array, b_next: Array, default: Array, b_next_index: Array, y_index: Array
    ) -> Array:
        repaid = jnp.exp(y) + b - q[b_next_index, y_index] * b_next
        c = jnp.where(default == 1, jnp.minimum(jnp.exp(y), cap), repaid)
        return jnp.where(c > 0, dp.crra(jnp.maximum(c, 1e-9), gamma), -jnp.inf)

    def allowed(excluded: Array, default: Array, b_next_index: Array) -> Array:
        return (default >= excluded) & ((default == 0) | (b_next_index == n_b // 2))

    return dp.Model(
        states={"b": dp.grid(-0.45, 0.45, n_b), "y": chain, "excluded": dp.integers(0, 1)},
        choices={"default": dp.integers(0, 1), "b_next": "b"},
        shocks={"let_in": dp.iid([0, 1], [1 - back, back])},
        transition={"b": "b_next", "excluded": lambda default, let_in: default * (1 - let_in)},
        feasible=allowed,
        reward=utility,
        discount=beta,
    )


def equilibrium(rounds: int = 60, tol: float = 1e-8, **sizes: int) -> tuple[dp.Solution, int]:
    """Let lenders and country answer each other until the schedule settles."""
    found = dp.solve(default, sizes)
    for done in range(1, rounds + 1):
        q = found.parameters["q"]
        at_risk = found.policy["default"][:, :, 0] @ found.transition_matrix("y").T  # (b', y)
        fair = (1 - at_risk) / (1 + R)
        if jnp.abs(fair - q).max() < tol:
            return found, done
        found = dp.solve(default, {"q": fair, **sizes})
    raise RuntimeError(f"the schedule still moves after {rounds} rounds")


if __name__ == "__main__":
    found, rounds = equilibrium()
    print(found, "after", rounds, "rounds")
    print("defaults in", np.mean(found.policy["default"][:, :, 0] == 1), "of the states")
