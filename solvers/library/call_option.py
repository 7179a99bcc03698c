"""A European call on an asset with stochastic volatility, by Monte Carlo."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr

from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics.monte_carlo import monte_carlo

from .sizes import at_least


def call_option(
    beta: float = 0.99,
    K: float = 100.0,
    mu: float = 0.0001,
    rho: float = 0.1,
    nu: float = 0.001,
    S0: float = 10.0,
    h0: float = 0.0,
    *,
    n: int = 20,
    paths: int = 10_000_000,
    estimator: str = "conditional",
    seed: int = 0,
) -> dict[str, object]:
    """Price a call on an asset with stochastic volatility by Monte Carlo, with its standard error.

    s <- s + mu + exp(h) Z1,  h <- rho h + nu Z2,  n times from s = log S0 and h = h0;
    price = beta^n E max(exp(s) - K, 0).

    estimator="conditional" (Rao-Blackwell) draws only the path of h. Given it, s is normal at the
    end, and the expected payoff is Black's formula: at the default parameters one draw has a
    standard deviation of 870, half a percent of the price. estimator="plain" averages payoffs.
    There one draw has a standard deviation of 4e9: 10^7 paths leave a standard error of 1.26
    million, 697 % of the price, and any agreement is luck of the seed. The error that such a run
    states is no better: it is estimated from the same few draws. `largest_share` shows it, the
    share of the mean that its largest draw makes up.

    Why a call on 10 is worth 180,000: h = 0 is a volatility of exp(0) = 1, which is 100 % a period,
    and log s has a standard deviation of sqrt(20) = 4.5 after n = 20 of them. The drift is that of
    log s, not one without arbitrage: E s = S0 exp(n mu + n / 2) = 220,000, times beta^n = 0.82. Few
    paths make up almost all of it.

    The expectation is formally infinite: E exp(e^h Z) = E exp(e^(2h) / 2), and h is normal, so that
    the mean of a double exponential is asked for. What is estimated is its practical value, without
    paths of h so rare that no number of draws will meet them: 180490.6. With nu = 0 (and h0 = 0) it
    is a closed form, 180485.01. A larger nu brings the divergence into sight: watch price_se.

    Returns `price`, its standard error `price_se`, and `largest_share`. Paths are drawn in blocks,
    in memory that does not grow with them. A seed gives the same number in any batch and on any
    number of devices, and the same draws at all parameters, so that prices can be compared.
    """
    at_least(1, n=n)
    at_least(2, paths=paths)

    def expected_payoff(key):
        def period(state, z):
            h, variance = state
            return (rho * h + nu * z, variance + jnp.exp(2 * h)), None

        (_, variance), _ = lax.scan(period, (h0, 0.0), jax.random.normal(key, (n,)))
        sd = jnp.sqrt(variance)
        mean = jnp.log(S0) + n * mu
        d = (mean - jnp.log(K)) / sd
        return jnp.exp(mean + variance / 2) * ndtr(d + sd) - K * ndtr(d)

    def payoff(key):
        def period(state, z):
            h, s = state
            return (rho * h + nu * z[1], s + mu + jnp.exp(h) * z[0]), None

        (_, s), _ = lax.scan(period, (h0, jnp.log(S0)), jax.random.normal(key, (n, 2)))
        return jnp.maximum(jnp.exp(s) - K, 0.0)

    draws = {"conditional": expected_payoff, "plain": payoff}
    if estimator not in draws:
        raise UsageError(f'estimator="{estimator}"; it is "conditional" or "plain"')
    found = monte_carlo(draws[estimator], seed, paths)
    return {
        "price": beta**n * found.mean,
        "price_se": beta**n * found.standard_error,
        "largest_share": found.largest,
        "require": {
            "the strike K and the price S0 must be above 0": (K > 0) & (S0 > 0),
        },
    }
