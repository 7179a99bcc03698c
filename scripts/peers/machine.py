"""What this machine can do at best: bytes moved, and powers and logarithms taken, per second."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dpsolve.sharding.devices.threads import cores

__all__ = ["Machine", "bandwidth", "machine", "rate"]


@dataclass(frozen=True)
class Machine:
    """The best rates of this machine, on all cores that the process may use.

    Attributes
    ----------
    bytes_per_second : float
        Of the triad ``a = b + s * c``, as STREAM counts it: two reads and a write.
    powers, logs, adds : float
        ``x ** p``, as ``exp(p * log(x))``, which XLA vectorises and its own power not,
        ``log(x - p)`` and ``x + p`` per second.
    """

    bytes_per_second: float
    powers: float
    logs: float
    adds: float

    def __str__(self) -> str:
        """Say what and how fast it is."""
        powers, logs, adds = (f"{x / 1e6:.0f} million" for x in (self.powers, self.logs, self.adds))
        return (
            f"{_model()}, {cores()} cores, jax {jax.__version__} on {jax.devices()[0].platform}; "
            f"triad {self.bytes_per_second / 1e9:.1f} GB/s; "
            f"{powers} powers, {logs} logarithms, {adds} sums a second"
        )


@lru_cache(maxsize=1)
def machine() -> Machine:
    """Measure this machine, once."""
    return Machine(
        bandwidth(),
        # Of another base each: XLA would take one logarithm for all powers of it.
        rate(lambda x, p: jnp.exp(p * jnp.log(x - p))),
        rate(lambda x, p: jnp.log(x - p)),
        rate(lambda x, p: x + p),
    )


def bandwidth(megabytes: int = 512, rounds: int = 5) -> float:
    """Return the bytes per second of a jitted triad on three arrays of so many megabytes."""
    n = megabytes * 2**20 // 8
    b, c = jnp.ones(n), jnp.full(n, 2.0)
    triad = jax.jit(lambda b, s, c: b + s * c)
    return 3 * 8 * n / _best(lambda: triad(b, 3.0, c), rounds)


def rate(f: Callable[[Any, Any], Any], n: int = 2**21, rounds: int = 5) -> float:
    """Return how often per second ``f(x, p)`` is evaluated over an array that stays in the cache.

    It is summed, so that nothing is written: what counts is arithmetic and not memory. The rows
    are many, so that XLA gives some to each core.
    """
    repeats = 16
    x = jnp.linspace(0.5, 2.0, n // repeats)
    powers = jnp.linspace(-1.5, -1.4, repeats)
    total = jax.jit(lambda x, p: jnp.sum(f(x, p[:, None]), 1))
    return n / _best(lambda: total(x, powers), rounds)


def _best(f: Callable[[], Any], rounds: int) -> float:
    """Return the seconds of the quickest of some calls; what is rated is the machine's best."""
    jax.block_until_ready(f())  # compile
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(f())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _model() -> str:
    """Return the processor's name."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
