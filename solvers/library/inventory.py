"""Inventory control with a fixed cost of ordering: when to order, and how much."""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, xlogy

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.model.vocabulary import Model, iid, integers

from .sizes import at_least


def inventory(
    beta: float = 0.99,
    mean_demand: float = 10.0,
    price: float = 2.0,
    cost: float = 1.0,
    fixed: float = 8.0,
    holding: float = 0.02,
    shortage: float = 0.5,
    *,
    n_stock: int = 100,
    n_order: int = 60,
    n_demand: int = 40,
    n_backlog: int = 0,
) -> Model:
    """Single item, periodic review, iid demand (Scarf 1960): the optimal policy is (s, S).

    v(x) = max -fixed 1[q > 0] - cost q + W(x + q)  over orders q = 0..n_order that fit, and
    W(y) = E[price (y - x') - holding (y - d)+ - shortage (d - y)+ + beta v(x')],
    x' = max(y - d, -n_backlog), with stock up to n_stock. Demand d is Poisson, cut off at n_demand.
    Of the demand that is not met at once, up to n_backlog units wait, at `shortage` each a period;
    the rest is lost, at `shortage` each (with n_backlog = 0, all of it).
    """
    at_least(1, n_stock=n_stock, n_order=n_order, n_demand=n_demand)
    at_least(0, n_backlog=n_backlog)
    if n_order < n_backlog:
        raise UsageError(
            f"n_order={n_order} is less than n_backlog={n_backlog}; an order must be able to clear "
            "what waits"
        )
    d = jnp.arange(n_demand + 1)

    def after(level, demand):
        return jnp.maximum(level - demand, -n_backlog)

    def sales(level, demand):
        return level - after(level, demand)

    def unmet(level, demand):
        return jnp.maximum(demand - level, 0)

    return Model(
        states={"stock": integers(-n_backlog, n_stock)},
        choices={"order": integers(0, n_order)},
        shocks={"demand": iid(d, jax.nn.softmax(xlogy(d, mean_demand) - gammaln(d + 1.0)))},
        post={"level": ("stock", lambda stock, order: stock + order)},
        feasible=lambda stock, order: stock + order <= n_stock,
        transition={"stock": after},
        reward=[
            lambda order: -fixed * (order > 0) - cost * order,
            lambda level, demand: (
                price * sales(level, demand)
                - holding * jnp.maximum(level - demand, 0)
                - shortage * unmet(level, demand)
            ),
        ],
        discount=beta,
        outputs={"sales": sales, "unmet": unmet},
    )
