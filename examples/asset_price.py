"""The price of a tree (Lucas 1978) whose fruit grows by a chain (Mehra and Prescott 1985).

Nothing is chosen: ``choices={}`` is a model that is only evaluated.
"""

import numpy as np
from numpy.typing import NDArray

import dpsolve as dp

GROWTH, STAY = np.array([1.054, 0.982]), 0.43
CHAIN = np.array([[STAY, 1 - STAY], [1 - STAY, STAY]])


def asset_price(beta: float = 0.96, alpha: float = 2.0) -> dp.Model:
    """Return what the tree pays from today on, in units of yesterday's fruit.

    With the price-dividend ratio w, f(x) = x^(1-alpha) (1 + w(x)) and w(x) = beta E f(x').
    """
    return dp.Model(
        states={"x": dp.markov(GROWTH, CHAIN)},
        choices={},
        reward=lambda x: x ** (1 - alpha),
        discount=lambda x: beta * x ** (1 - alpha),
    )


def returns(value: NDArray[np.float64], beta: float, alpha: float) -> tuple[float, float]:
    """Return the mean returns of the tree and of a safe bond, from f (x,) and the parameters."""
    w = beta * CHAIN @ value  # both members of the chain are equally frequent
    tree = (CHAIN * (GROWTH * (1 + w))[None, :] / w[:, None]).sum(1).mean() - 1
    bond = (1 / (beta * CHAIN @ GROWTH**-alpha)).mean() - 1
    return tree, bond


if __name__ == "__main__":
    alpha = np.array([1.0, 2.0, 5.0, 10.0])
    many = dp.solve_many(asset_price, {"alpha": alpha})
    for value, a in zip(many.value, alpha, strict=True):
        tree, bond = returns(np.asarray(value), 0.96, a)
        print(f"alpha={a:g}: the tree returns {tree:.4f}, a safe bond {bond:.4f}")
    # With log utility the ratio is beta / (1 - beta), whatever growth is (Lucas 1978).
    print(
        f"price over dividend at alpha=1: {0.96 * float(many.value[0, 0]):.6f}, {0.96 / 0.04:.6f}"
    )
