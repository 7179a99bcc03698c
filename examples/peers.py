"""What do the policies of other codes lose? Two of them, in plain NumPy, and ``dp.certify``.

The household of the README by the endogenous grid method, and by value iteration over grid points.
Neither knows how far it is from the truth; ``dp.certify`` bounds that, for every wealth and income.

    python examples/peers.py
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

import dpsolve as dp

BETA, GAMMA, R, TOP = 0.96, 2.0, 1.03, 50.0
CHAIN = dp.rouwenhorst(7, 0.9, 0.1)
INCOME, P = np.exp(CHAIN.values), np.asarray(CHAIN.transition_matrix)


def household(*, n_a: int = 200) -> dp.Model:
    """Return the model as dpsolve reads it: any next wealth from 0 to the top of the grid."""

    def consumption(a: Array, z: Array, a_next: Array) -> Array:
        return R * a + jnp.exp(z) - a_next

    return dp.Model(
        states={"a": dp.grid(0.0, TOP, n_a, curve=2), "z": CHAIN},
        choices={"a_next": dp.interval("a")},
        transition={"a": "a_next"},
        feasible=lambda a, z, a_next: consumption(a, z, a_next) > 0,
        reward=lambda a, z, a_next: dp.crra(consumption(a, z, a_next), GAMMA),
        discount=BETA,
        concave=True,
    )


def endogenous_grid(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Go from next wealth to the wealth where it is chosen (Carroll 2006). Policy (a, z)."""
    a_next = np.zeros((a.size, INCOME.size))
    while True:
        c = R * a[:, None] + INCOME - a_next
        expected = BETA * R * c**-GAMMA @ P.T  # of marginal utility, over (a', z)
        c = expected ** (-1 / GAMMA)
        wealth = (c + a[:, None] - INCOME) / R  # increasing in a'; below the first one a' = 0
        found = np.stack([np.interp(a, wealth[:, z], a) for z in range(INCOME.size)], axis=1)
        if np.abs(found - a_next).max() < 1e-9:
            return found
        a_next = found


def value_iteration(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the best of the grid's points until values settle, as textbooks do. Policy (a, z)."""
    c = R * a[:, None, None] + INCOME[:, None] - a  # (a, z, a')
    utility = np.where(c > 0, np.maximum(c, 1e-300) ** (1 - GAMMA) / (1 - GAMMA), -np.inf)
    v = np.zeros((a.size, INCOME.size))
    while True:
        total = utility + BETA * (v @ P.T).T
        found = total.max(axis=2)
        if np.abs(found - v).max() < 1e-6:
            best: NDArray[np.intp] = total.argmax(axis=2)
            return np.take(a, best)
        v = found


def losses(nodes: int = 800, points: int = 200) -> dict[str, tuple[float, float]]:
    """Return what each policy loses at most: in utility, and in per cent of all consumption."""
    even = np.linspace(0.0, TOP, points)
    curved = TOP * np.linspace(0.0, 1.0, points) ** 2
    policies = {
        "endogenous grid, curved": (endogenous_grid(curved), curved),
        "endogenous grid, even": (endogenous_grid(even), even),
        "value iteration, curved": (value_iteration(curved), curved),
        "value iteration, even": (value_iteration(even), even),
    }
    found = {}
    for name, (policy, a) in policies.items():
        # The points between which it is linear join our nodes, and so it is the policy itself.
        # Both bounds hold: at its own points alone, and at many more, where v* is known well.
        bounds = [
            dp.certify(household, {"n_a": n}, policy={"a_next": policy}, knots={"a": a})
            for n in (2, nodes)
        ]
        loss = min(float(bound["policy_loss"]) for bound in bounds)
        value = min(float(np.abs(bound.upper).min()) for bound in bounds)
        # More consumption, in each period and state, that would make up for it where that is most.
        found[name] = loss, 100 * ((1 + loss / value) ** (1 / (GAMMA - 1)) - 1)
    return found


if __name__ == "__main__":
    for name, (loss, share) in losses().items():
        print(f"{name:24}  loses at most {loss:.2g}, that is {share:.2g} % of consumption")
