r"""A slowly mixing chain: an epidemic with control, 5,000 states and 20 controls at .9999.

Of N people, i are infected. Each period one event may happen: an infection with probability
proportional to :math:`b(u)\, i (N - i)/N + \epsilon (N - i)`, a recovery with one proportional to
:math:`i`; the sum of the largest rates makes them probabilities (uniformisation). The control u
lowers the contact rate b(u) from 1.6 to .6 at a cost. Above 1 the disease stays for a time that is
exponential in N, below it dies out: the chain has two metastable parts, and value iteration has to
wait for the discount alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import dpsolve as dp

from .machine import machine
from .timing import Contender, Row, clock, compare, loosest, seconds, true_error
from .work import work

__all__ = ["arrays", "discrete", "epidemic", "howard", "modified", "rows", "value_iteration"]

BETA = 0.9999
ERROR = 1e-6
STATES, CONTROLS = 5_000, 20


def probabilities(infected: Any, control: Any, people: Any, controls: Any) -> Any:
    """Return the probabilities (3,) of one less, none and one more infected."""
    share = infected / people
    contact = 1.6 - control / (controls - 1)
    more = contact * share * (1 - share) + 1e-4 * (1 - share)
    scale = 0.4 + 1e-4 + 1.0  # above the sum of all rates, whatever the state and the control
    return jnp.stack([share / scale, 1 - (more + share) / scale, more / scale])


def payoff(infected: Any, control: Any, people: Any, controls: Any) -> Any:
    """Return the reward of a period: minus what the infected and the control cost."""
    return -infected / people - 0.3 * (control / (controls - 1)) ** 2


def epidemic(beta: float = BETA, *, states: int = STATES, controls: int = CONTROLS) -> dp.Model:
    """Keep an epidemic down, or let it run: v(i) = max r(i, u) + beta E v(i')."""
    people = states - 1

    def after(infected: Any, step: Any) -> Any:
        # The ends are never left; what has no probability has to have a place all the same.
        return jnp.clip(infected + step, 0, people)

    return dp.Model(
        states={"infected": dp.integers(0, people)},
        choices={"control": dp.integers(0, controls - 1)},
        shocks={
            "step": dp.iid(
                [-1, 0, 1],
                lambda infected, control: probabilities(infected, control, people, controls),
            )
        },
        transition={"infected": after},
        reward=lambda infected, control: payoff(infected, control, people, controls),
        discount=beta,
    )


def arrays(states: int = STATES, controls: int = CONTROLS) -> tuple[Any, Any]:
    """Return rewards (states, controls) and probabilities (3, states, controls)."""
    i, u = jnp.arange(states)[:, None], jnp.arange(controls)[None, :]
    p = probabilities(*jnp.broadcast_arrays(1.0 * i, 1.0 * u), states - 1, controls)
    return payoff(i, u, states - 1, controls), p


@jax.jit
def value_iteration(reward: Any, p: Any, beta: Any, tol: Any, most: Any) -> tuple[Any, Any]:
    """Apply T until ``max|Tv − v| <= tol``, or `most` times; return the value and the sweeps."""

    def step(carry: Any) -> Any:
        v, _, k = carry
        near = jnp.stack([jnp.append(v[:1], v[:-1]), v, jnp.append(v[1:], v[-1:])])
        tv = jnp.max(reward + beta * jnp.sum(p * near[:, :, None], 0), 1)
        return tv, jnp.max(jnp.abs(tv - v)), k + 1

    start = (jnp.zeros(reward.shape[0]), jnp.inf, 0)
    v, _, k = jax.lax.while_loop(lambda c: (c[1] > tol) & (c[2] < most), step, start)
    return v, k


def discrete(reward: Any, p: Any, beta: float) -> Any:
    """Make quantecon's form of it: pairs of state and control, and a sparse matrix."""
    import quantecon as qe

    reward, p = np.asarray(reward), np.asarray(p)
    states = len(reward)
    s, a = (x.ravel() for x in np.indices(reward.shape))
    columns = np.clip(s[:, None] + np.array([-1, 0, 1]), 0, states - 1).ravel()
    ends = np.arange(0, 3 * s.size + 1, 3)
    q = sp.csr_matrix((p.reshape(3, -1).T.ravel(), columns, ends), shape=(s.size, states))
    return qe.markov.DiscreteDP(reward.ravel(), q, beta, s, a)


def modified(ddp: Any, tol: float) -> tuple[Any, int]:
    """Solve by modified policy iteration, 500 steps an improvement; return value, improvements."""
    found = ddp.solve(method="modified_policy_iteration", epsilon=tol, k=500, max_iter=100_000)
    return found.v, int(found.num_iter)


def howard(ddp: Any) -> tuple[Any, int]:
    """Solve by policy iteration, each policy by a sparse factorisation; value, improvements."""
    found = ddp.solve(method="policy_iteration")
    return found.v, int(found.num_iter)


def rows() -> list[Row]:
    """Return the rows."""

    def solve() -> Any:
        found = dp.solve(epidemic, tol=ERROR)
        assert found.status == "solved", found.message
        return found

    found = solve()
    taken, sweeps = clock(lambda: solve().value), int(found.iterations)
    told = work(STATES, CONTROLS, sweeps).told(taken, machine(), machine().adds)
    note = f"certified within {float(found.error_bound):.1g}, {sweeps} sweeps; {told}"
    reward, p = arrays()
    run = partial(value_iteration, reward, p, BETA, 0.0)
    few = 2_000
    clock(lambda: run(few))  # compile
    # From zero, max|Tv − v| of the first sweep is max|r|, and each sweep makes it at most beta
    # times as large; as much when the discount is all that it has to wait for.
    needed = np.log(ERROR * (1 - BETA) / float(jnp.max(jnp.abs(reward)))) / np.log(BETA)
    a_sweep = clock(lambda: run(few)) / few
    counted = f"by count: {needed:,.0f} sweeps of {seconds(a_sweep)}"
    peers = [Contender("JAX value iteration", lambda: run(few), needed / few, counted)]
    skipped = []
    try:
        ddp = discrete(reward, p, BETA)
    except ModuleNotFoundError as missing:
        skipped.append(f"quantecon.DiscreteDP: {missing.name} is not installed")
    else:
        peers += _discrete(ddp, found.value)
    what = f"epidemic, {STATES:,} states x {CONTROLS} controls, discount {BETA}"
    table = compare(what, Contender("ours", lambda: solve().value, note=note), peers, "< 1 s")
    return [*table, *((what, text, "", "") for text in skipped)]


def _discrete(ddp: Any, truth: Any) -> list[Contender]:
    """Return quantecon's two solvers; the truth is known to within our own certificate."""
    tol, steps = loosest(partial(modified, ddp), truth, 2 * ERROR, [10.0**-k for k in range(2, 9)])
    direct, improvements = howard(ddp)
    name = "quantecon.DiscreteDP"
    return [
        Contender(f"{name}, modified policy iteration", lambda: modified(ddp, tol)[0],
                  note=f"{steps} improvements"),
        Contender(f"{name}, policy iteration", lambda: howard(ddp)[0],
                  note=f"{improvements} improvements, {true_error(direct, truth):.1g} from ours"),
    ]  # fmt: skip
