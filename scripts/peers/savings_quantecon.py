"""Optimal savings for ``quantecon.DiscreteDP``: pairs of state and choice, and a sparse matrix.

The state's number is ``a * n_z + z``. A feasible pair's row of the matrix has the n_z probabilities
of z', at the columns of its a'. So the matrix has pairs × n_z entries of 12 bytes: 1.9 GB at
500 × 25, and 30 GB at 2,000 × 25.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["problem", "room", "solve"]


def room(n_a: int, n_z: int) -> tuple[bool, str]:
    """Tell whether the problem fits into the memory that is free, and say how much it needs."""
    import psutil

    entries = n_a * n_z * n_a * n_z
    needed = 3 * 12 * entries  # the matrix, and what building and copying it takes
    free = psutil.virtual_memory().available
    told = f"a matrix of {12 * entries / 1e9:.3g} GB, {free / 1e9:.2g} GB free"
    return needed <= free and entries < 2**31, told


def problem(h: Any) -> Any:
    """Make the problem of a :class:`~peers.savings_jax.Household`."""
    import quantecon as qe

    beta, gamma, r = float(h.beta), float(h.gamma), float(h.r)
    a, z, p = (np.asarray(x) for x in (h.a, h.z, h.p))
    means = (1 + r) * a[:, None] + z
    c = means[:, :, None] - a
    states, actions = np.nonzero(c.reshape(-1, a.size) > 0)
    reward = c.reshape(-1, a.size)[states, actions] ** (1 - gamma) / (1 - gamma)
    pairs, n_z = states.size, z.size
    columns = (actions.astype(np.int32)[:, None] * n_z + np.arange(n_z, dtype=np.int32)).ravel()
    ends = np.arange(0, pairs * n_z + 1, n_z, dtype=np.int32)
    data = p[states % n_z].ravel()
    q = sp.csr_matrix((data, columns, ends), shape=(pairs, a.size * n_z))
    return qe.markov.DiscreteDP(reward, q, beta, states, actions)


def solve(ddp: Any, tol: float, n_a: int) -> tuple[Any, int]:
    """Solve by modified policy iteration, to its own epsilon `tol`; return value (a, z), steps."""
    found = ddp.solve(method="modified_policy_iteration", epsilon=tol, max_iter=100_000)
    return np.asarray(found.v).reshape(n_a, -1), int(found.num_iter)
