"""Compiling is told apart from solving, and happens once."""

import threading
import time

import jax
import jax.numpy as jnp

import dpsolve as dp
from dpsolve.solvers.solve.compile_clock import compile_clock


def line(slope: float = 1.0, *, n: int = 3) -> dict:
    return {"y": (("x",), slope * jnp.arange(n))}


def test_compiling_is_apart_from_solving_and_paid_once() -> None:
    began = time.perf_counter()
    first = dp.solve(line, {"n": 11})
    whole = time.perf_counter() - began
    assert 0 < first.compile_seconds <= whole
    assert first.seconds + first.compile_seconds <= whole
    again = dp.solve(line, {"slope": 2.0, "n": 11})
    assert again.compile_seconds == 0
    assert dp.solve(line, {"n": 12}).compile_seconds > 0


def test_many_points_and_ready_models_tell_it_too() -> None:
    many = dp.solve_many(line, {"slope": jnp.ones(3), "n": 13})
    assert many.compile_seconds > 0
    assert many.seconds.shape == (3,)
    assert dp.solve_many(line, {"slope": jnp.ones(9), "n": 13}).compile_seconds == 0
    ready = dp.mdp(jnp.ones((2, 2)), jnp.full((2, 2, 2), 0.5), 0.5)
    assert dp.solve(ready).compile_seconds > 0


def test_a_clock_holds_no_more_than_its_own_time() -> None:
    began = time.perf_counter()
    with compile_clock() as outer:
        jax.jit(lambda x: jnp.linalg.norm(jnp.sin(x)) + 11)(jnp.ones(7))
        with compile_clock() as inner:
            jax.jit(lambda x: jnp.cos(x) + 12)(jnp.ones(7))
    assert 0 < inner.seconds < outer.seconds <= time.perf_counter() - began
    assert outer.programs > inner.programs >= 1


def test_a_clock_hears_nothing_of_other_threads() -> None:
    with compile_clock() as clock:
        other = threading.Thread(target=lambda: jax.jit(lambda x: x * 13)(1.0))
        other.start()
        other.join()
    assert clock.programs == 0
