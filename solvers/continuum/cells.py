"""Arrays over nodes read between them: cells, their corners, and marginal values in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.grids import Grid
from dpsolve.solvers.numerics.small_programs import entries
from dpsolve.solvers.operators.interpolation import segment_index

from .problem import ContinuousProblem


def corners(grids: tuple[Grid, ...], place: Array) -> tuple[Array, Array]:
    """Return the nodes of the cell that a place lies in, and their weights.

    Parameters
    ----------
    grids : tuple of Grid
        Of each of d states.
    place : array (d,)
        What lies outside counts as the end.

    Returns
    -------
    index : int32 array (2**d,)
        Nodes, numbered in C order.
    weight : array (2**d,)
        At least 0; their sum is 1, and so weighted the nodes are the place.
    """
    low, share = [], []
    for i, grid in enumerate(grids):
        points = jnp.asarray(grid.values, jnp.float64)
        k = segment_index(grid, points, place[i])
        left, right = entries(points, k), entries(points, k + 1)
        low.append(k)
        share.append(jnp.clip((place[i] - left) / (right - left), 0.0, 1.0))
    indices, weights = [], []
    for corner in product((0, 1), repeat=len(grids)):
        index, weight = jnp.int32(0), jnp.ones(())
        for i, upper in enumerate(corner):
            index = index * grids[i].size + low[i] + upper
            weight = weight * (share[i] if upper else 1.0 - share[i])
        indices.append(index)
        weights.append(weight)
    return jnp.stack(indices), jnp.stack(weights)


def cell_corners(sizes: tuple[int, ...]) -> np.ndarray:
    """Return the nodes (cells, 2**d) of every cell, numbered in C order."""
    low = np.meshgrid(*(np.arange(n - 1) for n in sizes), indexing="ij")
    found = [
        np.ravel_multi_index(
            tuple((a + up).ravel() for a, up in zip(low, corner, strict=True)), sizes
        )
        for corner in product((0, 1), repeat=len(sizes))
    ]
    return np.stack(found, -1)


def lenders(problem: ContinuousProblem, usable: Array) -> Array:
    """Return for each node (n,) itself, or the nearest along an axis that is usable in its place.

    A slope is infinite where a production function begins, and such a node has no tangent: it has
    that of the node above, or where there is none below. Where no node is usable each has itself.
    """
    index = jnp.arange(usable.size, dtype=jnp.int32).reshape(problem.sizes)
    good = usable.reshape(problem.sizes)
    for axis, size in enumerate(problem.sizes):
        place = lax.broadcasted_iota(jnp.int32, problem.sizes, axis)
        above = lax.cummin(jnp.where(good, place, size), axis=axis, reverse=True)
        below = lax.cummax(jnp.where(good, place, -1), axis=axis)
        found = jnp.where(above < size, above, below)
        there = jnp.take_along_axis(index, jnp.maximum(found, 0), axis)
        index, good = jnp.where(found < 0, index, there), good | (found >= 0)
    return index.ravel()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Marginal:
    """Discounted expected marginal values at the nodes, and how they go between them.

    Attributes
    ----------
    values : array (z, n, d)
        In each continuous state, before the Markov states have moved.
    slopes : array (z, n) or None
        Of these in the one continuous state: then a cubic goes between, which falls where the
        values at the nodes do. Without, they are linear.
    """

    values: Array
    slopes: Array | None = None

    @classmethod
    def linear(cls, problem: ContinuousProblem, p: Array) -> Marginal:
        """Return those of marginal values (z, n, d) of the next period, linear between nodes."""
        return cls(jnp.einsum("zk,knd->znd", problem.weights, p))

    @classmethod
    def smooth(cls, problem: ContinuousProblem, p: Array) -> Marginal:
        """Return those with a monotone cubic between, where there is one continuous state."""
        found = cls.linear(problem, p)
        if len(problem.states) > 1 or problem.sizes[0] < 3:
            return found
        slopes = monotone_slopes(problem.nodes[:, 0], p[..., 0])
        return cls(found.values, problem.weights @ slopes)

    def at(self, grids: tuple[Grid, ...], z: Array, places: Array) -> Array:
        """Return them (w, d) at places (w, d), for one member of the chain."""
        return self.read(z, *jax.vmap(lambda place: self.weights(grids, place))(places))

    def read(self, z: Array, index: Array, weight: Array, tilt: Array) -> Array:
        """Return them (w, d) where places were found (w, 2**d), for one member of the chain."""
        found = jnp.einsum("wk,wkd->wd", weight, entries(self.values, z, index))
        if self.slopes is None:
            return found
        return found + jnp.sum(tilt * entries(self.slopes, z, index), -1)[:, None]

    def weights(self, grids: tuple[Grid, ...], place: Array) -> tuple[Array, Array, Array]:
        """Return nodes, and the weights of values and of slopes (2**d,) there, at a place (d,)."""
        index, weight = corners(grids, place)
        if self.slopes is None:
            return index, weight, jnp.zeros_like(weight)
        points = jnp.asarray(grids[0].values, jnp.float64)
        step, t = entries(points, index[1]) - entries(points, index[0]), weight[1]
        s = 1.0 - t
        cubic = jnp.stack([(1 + 2 * t) * s * s, t * t * (3 - 2 * t)])
        return index, cubic, step * jnp.stack([t * s * s, -t * t * s])


def monotone_slopes(x: Array, f: Array) -> Array:
    """Return slopes (z, n) of cubics through values that are monotone where these are.

    Fritsch and Butland (1984), SIAM J. Sci. Stat. Comput. 5; with one-sided differences at the
    ends.
    """
    return _slopes(x, f)[0]


def _slopes(x: Array, f: Array) -> tuple[Array, Array, Array]:
    """Return slopes, and their derivatives in the two differences that each is made of."""
    h = jnp.diff(x)
    d = jnp.diff(f, axis=1) / h
    before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    one_way = d[:, :-1] * d[:, 1:] > 0
    left, right = (jnp.where(one_way, slope, 1.0) for slope in (d[:, :-1], d[:, 1:]))
    mean = (before + after) / (before / left + after / right)
    inner = jnp.where(one_way, mean, 0.0)
    by_left, by_right = (
        jnp.where(one_way, (mean / slope) ** 2 * weight / (before + after), 0.0)
        for slope, weight in ((left, before), (right, after))
    )
    near, far = (d[:, jnp.asarray(k)] for k in ([0, -1], [1, -2]))  # at both ends
    own, other = (h[jnp.asarray(k)] for k in ([0, -1], [1, -2]))
    share = own / (own + other)
    end = (1.0 + share) * near - share * far
    flat, steep = end * near <= 0, jnp.abs(end) > 3 * jnp.abs(near)
    end = jnp.where(flat, 0.0, jnp.where(steep, 3 * near, end))
    by_near = jnp.where(flat, 0.0, jnp.where(steep, 3.0, 1.0 + share))
    by_far = jnp.where(flat | steep, 0.0, -share)

    def joined(first: Array, inner: Array, last: Array) -> Array:
        return jnp.concatenate([first[:, :1], inner, last[:, 1:]], 1)

    slopes = joined(end, inner, end)
    return slopes, joined(by_near, by_left, by_far), joined(by_far, by_right, by_near)


def smooth_change(problem: ContinuousProblem, p: Array) -> Callable[[Array], Marginal]:
    """Return how :meth:`Marginal.smooth` changes with marginal values, as a linear function."""
    if len(problem.states) > 1 or problem.sizes[0] < 3:
        return partial(Marginal.linear, problem)
    x = problem.nodes[:, 0]
    _, by_left, by_right = _slopes(x, p[..., 0])

    def change(e: Array) -> Marginal:
        d = jnp.diff(e[..., 0], axis=1) / jnp.diff(x)
        left = jnp.concatenate([d[:, :1], d[:, :-1], d[:, -2:-1]], 1)
        right = jnp.concatenate([d[:, 1:2], d[:, 1:], d[:, -1:]], 1)
        slopes = by_left * left + by_right * right
        return Marginal(Marginal.linear(problem, e).values, problem.weights @ slopes)

    return change
