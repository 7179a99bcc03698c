"""Recurrent classes and periods are those that the powers of a chain and its graph show."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from dpsolve.solvers.distributions.recurrent_classes import LINK, NAMED, period, recurrent_classes

Matrix = np.ndarray


@jax.jit
def look(p: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    n = p.shape[0]
    found = recurrent_classes(lambda f: p @ f, lambda m: m @ p, n, start)
    turns = jax.vmap(lambda s: period(lambda m: m @ p, n, s)[0])(jnp.arange(n))
    return found.states, found.unique, turns


def closed_classes(p: Matrix) -> list[list[int]]:
    """Strongly connected components that no link leaves."""
    number, label = connected_components(p > LINK, connection="strong")
    members = [np.flatnonzero(label == c) for c in range(number)]
    return [list(m) for m in members if not (np.delete(p[m], m, axis=1) > LINK).any()]


def return_times_divisor(p: Matrix, s: int) -> int:
    """Greatest common divisor of the times at which the chain can be back."""
    links, at, divisor = p > LINK, np.eye(len(p), dtype=bool)[s], 0
    for t in range(1, 60):
        at = at.astype(int) @ links > 0
        divisor = math.gcd(divisor, t) if at[s] else divisor
    return divisor


@pytest.mark.parametrize("seed", range(40))
def test_classes_and_periods_of_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 8
    links = rng.random((n, n)) < rng.choice([0.03, 0.1, 0.2, 0.4])
    links[np.arange(n), rng.integers(0, n, n)] = True
    p = links / links.sum(1, keepdims=True)
    states, unique, turns = look(jnp.asarray(p), jnp.int32(rng.integers(n)))
    truth = closed_classes(p)
    found = sorted(int(s) for s in states if s >= 0)
    firsts = sorted(members[0] for members in truth)
    assert len(found) == min(NAMED, len(firsts))
    assert set(found) <= set(firsts)
    assert bool(unique) == (len(truth) == 1)
    for members in truth:
        assert turns[members[0]] == return_times_divisor(p, members[0])


@pytest.mark.parametrize("d", [2, 3, 7])
def test_a_cycle_has_its_length_for_a_period(d: int) -> None:
    _, unique, turns = look(jnp.asarray(np.roll(np.eye(d), 1, 1)), jnp.int32(0))
    assert bool(unique)
    assert (turns == d).all()


def test_a_cycle_with_a_way_back_has_the_common_divisor() -> None:
    # From 0 the chain is back after 4 or after 6 steps.
    p = np.zeros((6, 6))
    p[np.arange(5), np.arange(1, 6)] = 1.0
    p[5, 0] = 1.0
    p[3] = 0.0
    p[3, [0, 4]] = 0.5
    assert (look(jnp.asarray(p), jnp.int32(0))[2] == 2).all()


@pytest.mark.parametrize("link", [1e-12, 1e-17, 1e-300])
def test_every_positive_probability_is_a_link(link: float) -> None:
    one_way = np.array([[1.0, link], [0.0, 1.0]])
    both_ways = np.array([[1.0, link], [link, 1.0]])
    for p in (one_way, both_ways):
        _, only, _ = look(jnp.asarray(p), jnp.int32(0))
        assert bool(only)
    _, only, _ = look(jnp.eye(2), jnp.int32(0))
    assert not bool(only)


def test_a_long_way_through_transient_states_is_walked_once() -> None:
    n = 400
    p = np.eye(n, k=1)
    p[-1, -1] = 1.0
    p = jnp.asarray(p)
    found = recurrent_classes(lambda f: p @ f, lambda m: m @ p, n, jnp.int32(0))
    assert int(found.states[0]) == n - 1
    assert bool(found.unique)
    assert int(found.applications) <= 3 * n
