r"""Banded preconditioner for chains that move by a few steps, or jump: LU along a line.

Where a state moves by a few steps a period, or leaps to a few places from wherever it is (a machine
wears, or is replaced), :math:`I - \beta P` is a banded matrix and a few full columns. The band by
itself is an M-matrix that its diagonal dominates, so that LU needs no pivots; the columns are of
low rank, and a Krylov method that is preconditioned with the band takes them in as many
iterations, however close :math:`\beta` is to one.

The band is found by probing: applied to the indicators of every (2k+1)-th member, an expectation
tells how likely each step from -k to k is. Rows that lead farther are told by the second moment of
the move, which their leaps would exceed, and are left out of the band.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

REACH = 4  # steps a period, up or down, at most
SLIP = 1e-13  # by which a second moment may miss for rounding, times the squared length


def bands(expect: Callable[[Array], Array], n: int) -> Array:
    """Return the chances of steps along a line, of the rows that make no longer ones.

    Parameters
    ----------
    expect : function
        Expectations (n, ...) of a function (n,) of the line's next member.
    n : int

    Returns
    -------
    array (n, ..., 2 REACH + 1)
        Steps from -REACH to REACH; zeros in rows that lead farther.
    """
    place, steps, colours = jnp.arange(n), range(-REACH, REACH + 1), 2 * REACH + 1
    x = place - (n - 1) / 2
    probes = [(place % colours == colour).astype(jnp.float64) for colour in range(colours)]
    # All at once, so that the expectation is compiled once.
    *hits, first, second = jax.vmap(expect)(jnp.stack([*probes, x, x * x]))
    extra = (1,) * (hits[0].ndim - 1)
    here = place.reshape(-1, *extra)

    def chance(step: int) -> Array:
        inside = (here + step >= 0) & (here + step < n)
        colour = (here + step) % colours
        return jnp.where(inside, jnp.select([colour == c for c in range(colours)], hits), 0.0)

    at = x.reshape(-1, *extra)
    found = [chance(step) for step in steps]
    moved = second - 2 * at * first + at * at * sum(hits)
    within = sum(step * step * p for step, p in zip(steps, found, strict=True))
    short = jnp.abs(moved - within) <= SLIP * n * n
    return jnp.where(short[..., None], jnp.stack(found, -1), 0.0)


def transposed(band: Array) -> Array:
    """Return the band (n, m, 2 REACH + 1) of the transposed matrix."""
    n = band.shape[0]
    rows = []
    for step in range(-REACH, REACH + 1):
        source = jnp.arange(n) + step
        inside = ((source >= 0) & (source < n))[:, None]
        row = band[jnp.clip(source, 0, n - 1), :, REACH - step]
        rows.append(jnp.where(inside, row, 0.0))
    return jnp.stack(rows, -1)


def band_solver(band: Array) -> Callable[[Array], Array]:
    r"""Return the inverse of :math:`I - B`, as a function of right-hand sides (n, m).

    Parameters
    ----------
    band : array (n, m, 2 REACH + 1)
        Of m lines of n members each: nonnegative, with row sums below one.
    """
    _, m, wide = band.shape
    rows = jnp.moveaxis(jnp.where(jnp.arange(wide) == REACH, 1.0 - band, -band), 2, 1)

    def eliminate(above: Array, row: Array) -> tuple[Array, tuple[Array, Array]]:
        """Eliminate what lies left of the diagonal, with the last rows (REACH, REACH + 1, m)."""
        factors = []
        for back in range(REACH, 0, -1):
            upper = above[REACH - back]
            factor = row[REACH - back] / upper[0]
            factors.append(factor)
            kept = jnp.pad(factor * upper, ((REACH - back, back), (0, 0)))
            row = row - kept
        own = row[REACH:]
        return jnp.concatenate([above[1:], own[None]]), (jnp.stack(factors), own)

    one = jnp.zeros((REACH, REACH + 1, m)).at[:, 0].set(1.0)
    _, (lower, upper) = lax.scan(eliminate, one, rows)

    def solve(b: Array) -> Array:
        def down(last: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
            factors, own = x
            y = own - (factors * last).sum(0)
            return jnp.concatenate([last[1:], y[None]]), y

        def up(ahead: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
            row, own = x
            y = (own - (row[1:] * ahead).sum(0)) / row[0]
            return jnp.concatenate([y[None], ahead[:-1]]), y

        zero = jnp.zeros((REACH, m))
        _, y = lax.scan(down, zero, (lower, b))
        _, found = lax.scan(up, zero, (upper, y), reverse=True)
        return found

    return solve
