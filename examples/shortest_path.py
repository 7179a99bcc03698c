"""A shortest path through a room with a wall (Bertsekas and Tsitsiklis 1991), at a discount of 1.

Walking into the wall for ever is a policy, too: an improper one, which costs infinitely much.
"""

import jax.numpy as jnp
from jax import Array

import dpsolve as dp

STEPS = jnp.array([[1, 0], [-1, 0], [0, 1], [0, -1]])


def shortest_path(slip: float = 0.2, *, n: int = 12) -> dp.Model:
    """Walk from anywhere to the corner (n - 1, 0), around a wall that leaves two columns free.

    A step costs 1 and is made with probability 1 - `slip`.
    """
    wall = jnp.zeros((n, n), bool).at[n // 2, : n - 2].set(True)

    def to(x: Array, y: Array, step: Array, firm: Array) -> Array:
        new = jnp.clip(jnp.array([x, y]) + firm * STEPS[step], 0, n - 1)
        return jnp.where(wall[new[0], new[1]] | at_goal(x, y), jnp.array([x, y]), new)

    def at_goal(x: Array, y: Array) -> Array:
        return (x == n - 1) & (y == 0)

    return dp.Model(
        states={"x": dp.integers(0, n - 1), "y": dp.integers(0, n - 1)},
        choices={"step": dp.integers(0, 3)},
        shocks={"firm": dp.iid([0, 1], [slip, 1 - slip])},
        transition={
            "x": lambda x, y, step, firm: to(x, y, step, firm)[0],
            "y": lambda x, y, step, firm: to(x, y, step, firm)[1],
        },
        reward=lambda x, y: -1.0 * ~at_goal(x, y),
        discount=1,
    )


def distances(n: int = 12) -> dict[tuple[int, int], int]:
    """Return the steps to the corner (n, n), by breadth-first search."""
    steps, ahead = {(n - 1, 0): 0}, [(n - 1, 0)]
    for x, y in ahead:
        for to in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            free = min(to) >= 0 and max(to) < n and (to[0] != n // 2 or to[1] >= n - 2)
            if free and to not in steps:
                steps[to] = steps[x, y] + 1
                ahead.append(to)
    return steps


if __name__ == "__main__":
    solution = dp.solve(shortest_path)
    print(solution)
    # Each step is tried 1 / (1 - slip) times on average, and no path is worth more trials.
    worst = max(abs(float(solution.value[at]) + k / 0.8) for at, k in distances().items())
    print(f"off by {worst:.1g} from breadth-first search, certified to {solution.error_bound:.1g}")
