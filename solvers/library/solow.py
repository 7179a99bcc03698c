"""The Solow model: how capital grows when a fixed share of output is saved."""

import jax.numpy as jnp
from jax import lax

from .sizes import at_least


def solow(
    s: float = 0.3,
    alpha: float = 0.4,
    delta: float = 0.1,
    k0: float = 0.2,
    *,
    periods: int = 100,
    keep_path: bool = True,
) -> dict[str, object]:
    """Follow capital per head from k0 towards its steady state, at a fixed saving rate.

    k' = s k^alpha + (1-delta) k,  with the steady state  k* = (s/delta)^(1/(1-alpha)).

    Returns `path` (k_0 to k_periods: periods + 1 values), `end` = k_periods and `steady_state`.
    With keep_path=False only the last two, in memory that does not grow with the periods.
    """
    at_least(0, periods=periods)

    def step(k, _):
        k_next = s * k**alpha + (1 - delta) * k
        return k_next, k_next if keep_path else None

    end, after = lax.scan(step, k0, length=periods)
    found = {"end": end, "steady_state": (s / delta) ** (1 / (1 - alpha))}
    if keep_path:
        found = {"path": (("t",), jnp.append(k0, after))} | found
    return found
