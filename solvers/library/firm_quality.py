"""The distribution of firms over quality, with entry, exit and improvement."""

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr

from dpsolve.solvers.distributions.certificate import distance, slack
from dpsolve.solvers.distributions.stationary_derivatives import stationary_of
from dpsolve.solvers.distributions.stationary_methods import hitting
from dpsolve.solvers.errors import UsageError
from dpsolve.solvers.numerics.fixed_point import implicit
from dpsolve.solvers.options import STATIONARY_METHODS, canonical

from .sizes import at_least

DIRECT = ("linear", "null", "gth")  # are as exact as they can be at once
EXACT = 1e-13  # of the rest: the distance at which only rounding is left


def firm_quality(
    tau: float = 0.1,
    lam: float = 1.1,
    kappa: float = 0.02,
    mu: float = 0.0,
    sigma: float = 0.3,
    delta: float = 0.1,
    q_max: float = 5.0,
    *,
    n: int = 100,
    method: str = "linear",
    max_iter: int = 4000,
    periods: int | None = None,
    rows: str = "normalised",
) -> dict[str, object]:
    """Find the stationary distribution of firms over quality relative to a moving frontier.

    In a period of length delta quality falls behind by the factor 1 - delta g, g = tau log(lam);
    with probability delta tau it jumps by the factor lam; with probability delta kappa the firm
    exits and an entrant replaces it, whose quality is log-normal(mu, sigma). Qualities are n bins
    on [0, q_max]; the mass of a moved bin is shared out by overlap.

    Returns the `distribution`, that of `entry`, `mean`, `sd` and the quantiles `p10`, `p50`, `p90`
    (linear within a bin); and how good they are: the point's residual |mu P - mu| and error_bound,
    both in L1. method is "linear", "eigenvector", "null_space", "gth", or "plain", which iterates
    max_iter times from entry and claims no convergence. With periods=T also `distribution_path`,
    from entry on.

    Bins that jump past q_max lose mass: `leak` is the largest share that a bin loses, `leak_mass`
    what all lose in a period. Rows are normalised for that. Without exit (kappa = 0) nothing brings
    firms back, mass piles up at q_max, and the point is refused. rows="raw" leaves the leak open:
    then there is no stationary distribution, but a path whose `mass_path` shows what is left.
    """
    if rows not in ("normalised", "raw"):
        raise UsageError(f'rows="{rows}"; it is "normalised" or "raw"')
    if rows == "raw" and periods is None:
        raise UsageError('rows="raw" leaks, and has only a path: add periods=1000, say')
    at_least(1, n=n, max_iter=max_iter, periods=1 if periods is None else periods)
    way = canonical("method", method, STATIONARY_METHODS)
    edges = jnp.linspace(0.0, q_max, n + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    g = tau * jnp.log(lam)

    below = jnp.append(0.0, ndtr((jnp.log(edges[1:]) - mu) / sigma))
    entry = jnp.diff(below) / below[-1]

    def moved(factor):
        """Return the share of each bin (down) that falls into each (across), times `factor`."""
        low, high = factor * edges[:-1, None], factor * edges[1:, None]
        overlap = jnp.minimum(high, edges[1:]) - jnp.maximum(low, edges[:-1])
        return jnp.maximum(overlap, 0.0) / (high - low)

    drift = 1 - delta * g
    stay = (1 - delta * tau) * moved(drift) + delta * tau * moved(drift * lam)
    raw = (1 - delta * kappa) * stay + delta * kappa * entry
    kept = raw.sum(1)
    p = raw / kept[:, None] if rows == "normalised" else raw

    found: dict[str, object] = {"leak": jnp.max(1 - kept)}
    found |= {"entry": (("quality",), entry), "grid_quality": (("quality",), middle)}
    if periods is not None:
        _, after = lax.scan(lambda m, _: (m @ p,) * 2, entry, length=periods)
        path = jnp.concatenate([entry[None], after])
        found |= {
            "distribution_path": (("time", "quality"), path),
            "mass_path": (("time",), path.sum(1)),
            "mean_path": (("time",), path @ middle / path.sum(1)),
        }
    chances = (delta * tau >= 0) & (delta * tau <= 1) & (delta * kappa >= 0) & (delta * kappa <= 1)
    require = {
        "delta * tau and delta * kappa must be probabilities, from 0 to 1": chances,
        "lam, sigma, q_max and 1 - delta * tau * log(lam) must be above 0": (
            (lam > 0) & (sigma > 0) & (q_max > 0) & (drift > 0)
        ),
    }
    if rows == "raw":
        return found | {"require": require}
    require |= {
        "without exit (kappa = 0) mass leaks past the last bin and nothing brings it back, so that "
        "the stationary distribution would be made by the end of the grid; let kappa be above 0, "
        'or look at the leak with rows="raw" and periods': kappa > 0,
    }
    # Derivatives are those of the stationary distribution, whatever finds it.
    found_mass, records = _stationary(lax.stop_gradient(p), lax.stop_gradient(entry), way, max_iter)
    mass = implicit(lambda m: m @ p - m + (1 - m.sum()) / n, found_mass)
    mean = mass @ middle
    quantiles = jnp.interp(jnp.array([0.1, 0.5, 0.9]), jnp.append(0.0, jnp.cumsum(mass)), edges)
    stationary = {
        "distribution": (("quality",), mass),
        "mean": mean,
        "sd": jnp.sqrt(mass @ (middle - mean) ** 2),
        "p10": quantiles[0],
        "p50": quantiles[1],
        "p90": quantiles[2],
        "leak_mass": mass @ (1 - kept),
    }
    return (
        stationary
        | found
        | {
            "require": require,
            **records,
        }
    )


def _stationary(p, entry, method, max_iter):
    """Return the stationary distribution of a matrix, and how good it is."""
    if method != "plain":
        tol = 1e-8 if method in DIRECT else EXACT
        law = stationary_of(lambda f: p @ f, entry.shape, method=method, tol=tol)
        error, made = law.error_bound, law.applications
        return law.mass, {"residual": law.residual, "error_bound": error, "iterations": made}
    mass = lax.fori_loop(0, max_iter, lambda _, m: m @ p, entry)
    s = jnp.argmax(mass)
    h = hitting(p, s)
    error = distance(mass, mass @ p, s, h, slack(lambda f: p @ f, s, h))
    residual = jnp.abs(mass @ p - mass).sum()
    return mass, {"residual": residual, "error_bound": error, "iterations": max_iter}
