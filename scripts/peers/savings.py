"""Savings at four sizes: ours, certified, against brute force in JAX, Numba and quantecon.

All at the same *true* error, ``ERROR``, measured against a reference solved to 1e-10. Where a peer
would take longer than the limit, sweeps over a part of the states are timed, times the number of
sweeps that the same method needs on a coarse grid of wealth (it hardly depends on the grid).
Evaluating policies is not counted then: the time is too short, in the peer's favour.
"""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import jax.numpy as jnp
import numpy as np

import dpsolve as dp

from . import savings_jax as lecture
from . import savings_numba as numba
from . import savings_quantecon as quantecon
from .machine import machine
from .timing import LIMIT, Contender, Row, clock, compare, loosest, seconds
from .work import work

__all__ = ["SIZES", "brute_force", "household", "ours", "rows", "solve"]

SIZES = ((150, 100), (500, 25), (2_000, 25), (20_000, 25))
TARGETS = {(150, 100): ">= 8", (2_000, 25): ">= 10", (20_000, 25): ">= 100"}
PARAMS = {"beta": 0.96, "gamma": 2.5, "r": 0.03}
ERROR = 1e-6
SAMPLED = 1_000  # points of wealth from which ours is timed with a sample for a certificate, too
COARSE = 100  # points of wealth on which sweeps are counted
VALUE = "value iteration"
METHODS = {
    VALUE: lecture.value_iteration,
    "Howard, BiCGSTAB": lecture.howard,
    "optimistic": lecture.optimistic,
}
ROOM = 4e9  # bytes that rewards may take in a peer's loop


def household(n_a: int, n_z: int, part: int = 1) -> lecture.Household:
    """Return the built-in model's arrays, written down anew; of its states, one in `part`."""
    chain = dp.rouwenhorst(n_z, 0.9, 0.1)
    a = jnp.linspace(0.0, 20.0, n_a)
    numbers = {name: jnp.asarray(x) for name, x in PARAMS.items()}
    z, p = jnp.exp(jnp.asarray(chain.values)), jnp.asarray(chain.transition_matrix)
    return lecture.Household(**numbers, a=a[::part], a_next=a, z=z, p=p)


def solve(n_a: int, n_z: int, tol: float = ERROR, certificate: str = "full") -> dp.Solution:
    """Solve it by ours: certified, or with a look at a sample, which certifies nothing."""
    params = {**PARAMS, "continuous": False, "n_a": n_a, "n_z": n_z}
    found = dp.solve("savings", params, tol=tol, certificate=certificate)
    assert found.certificate == certificate, found.message
    assert found.status == ("solved" if certificate == "full" else "inexact"), found.message
    return found


def rows(sizes: tuple[tuple[int, int], ...] = SIZES) -> list[Row]:
    """Return the rows of all sizes."""
    return [row for size in sizes for row in _size(*size)]


def _size(n_a: int, n_z: int) -> list[Row]:
    what = f"savings {n_a:,} x {n_z}, true error {ERROR:g}"
    found, missing = brute_force(n_a, n_z)
    discrete, reason = _discrete(n_a, n_z)
    own = ours(n_a, n_z)  # certified: what is not is no answer to compare with, but told beside it
    if n_a >= SAMPLED:
        found = [*found, ours(n_a, n_z, "sampled")]
    table = compare(what, own, [*found, *discrete], TARGETS.get((n_a, n_z), ""))
    return [*table, *((what, text, "", "") for text in (*missing, *reason))]


def ours(n_a: int, n_z: int, certificate: str = "full") -> Contender:
    """Return ours, with what it did by count."""

    def run() -> Any:
        return solve(n_a, n_z, certificate=certificate)

    found = run()  # compiles
    taken, sweeps = clock(lambda: run().value), int(found.iterations)
    sampled = 1.0 if found.certificate == "full" else dp.SolveOptions().sample / (n_a * n_z)
    done = work(n_a * n_z, n_a, sweeps, others=n_z, sampled=sampled)
    told = done.told(taken, machine(), machine().powers)
    kind = "certified" if found.certificate == "full" else "sampled, nothing certified"
    note = f"{kind}, {sweeps} sweeps; {told}"
    name = "ours" if certificate == "full" else f"ours, certificate='{certificate}'"
    return Contender(name, lambda: run().value, note=note)


def brute_force(n_a: int, n_z: int, limit: float = LIMIT) -> tuple[list[Contender], list[str]]:
    """Return the peers that look at all pairs, by count above a limit, and who is missing."""
    h, slab = household(n_a, n_z), household(n_a, n_z, part=max(1, n_a // 200))
    v = jnp.asarray(np.log(2.0 + np.asarray(h.a))[:, None] * jnp.ones(n_z))
    share = n_a / slab.a.size
    # XLA takes the rewards out of the loop. Where they would not fit, only single sweeps can run.
    hoisted = 8 * n_a * n_a * n_z <= ROOM

    def contender(name: str, like: str, whole: Any, some: Any, most: int) -> Contender:
        """Run the `whole` if it is quick enough, else `some` sweeps, at most so many at once."""
        first, counted = _on_coarse_grid(like, n_z)
        at_once = min(most, counted)
        clock(lambda: some(at_once))  # compile
        expected = clock(lambda: some(at_once)) * share * counted / at_once
        if expected > limit:
            note = f"by count: {counted} sweeps of {seconds(expected / counted)}"
            return Contender(name, lambda: some(at_once), share * counted / at_once, note)
        tol, sweeps = loosest(whole, _reference(n_a, n_z), ERROR, _from(first))
        return Contender(name, lambda: whole(tol), 1.0, f"{sweeps} sweeps")

    found = []
    for name, method in METHODS.items():
        one = lecture.sweeps if name == VALUE else lecture.improvements
        most = 1_000 if hoisted else 1
        found.append(
            contender(f"JAX {name}", name, partial(method, h), partial(one, slab, v), most)
        )
    if not find_spec("numba"):
        return found, ["Numba: not installed"]
    here, there, w = numba.arrays(h), numba.arrays(slab), np.asarray(v)
    whole = partial(numba.value_iteration, here)
    last = contender(f"Numba {VALUE}", VALUE, whole, lambda _: numba.sweep(there, w), 1)
    return [*found, last], []


def _discrete(n_a: int, n_z: int) -> tuple[list[Contender], list[str]]:
    """Return quantecon's solver, or why it is left out."""
    name = "quantecon.DiscreteDP, modified policy iteration"
    try:
        fits, told = quantecon.room(n_a, n_z)
        if not fits:
            return [], [f"{name}: left out, it needs {told}"]
        ddp = quantecon.problem(household(n_a, n_z))
    except ModuleNotFoundError as missing:
        return [], [f"{name}: {missing.name} is not installed"]

    def whole(tol: float) -> Any:
        return quantecon.solve(ddp, tol, n_a)

    tol, steps = loosest(whole, _reference(n_a, n_z), ERROR, _from(1e-4))
    note = f"{told}, not counting to build it; {steps} improvements"
    return [Contender(name, lambda: whole(tol), 1.0, note)], []


def _from(first: float) -> list[float]:
    """Return tolerances to try, from loose to tight."""
    return [first * 10 ** (-k / 2) for k in range(24)]


@lru_cache(maxsize=4)
def _reference(n_a: int, n_z: int) -> Any:
    """Return the true value to 1e-10."""
    return np.asarray(solve(n_a, n_z, 1e-10).value)


@lru_cache(maxsize=12)
def _on_coarse_grid(name: str, n_z: int) -> tuple[float, int]:
    """Return a method's loosest tolerance for the true error on a coarse grid, and its sweeps."""
    solve_by = partial(METHODS[name], household(COARSE, n_z))
    # For value iteration, what its contraction promises; the others promise nothing.
    first = ERROR * (1 - PARAMS["beta"]) / PARAMS["beta"] if name == VALUE else 1e-4
    return loosest(solve_by, _reference(COARSE, n_z), ERROR, _from(first))
