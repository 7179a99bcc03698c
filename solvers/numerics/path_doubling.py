r"""Value of a deterministic policy by path doubling.

If state :math:`s` surely moves to :math:`\sigma(s)`, a policy's value is a sum along a path, and

.. math::
    r_{2m}(s) = r_m(s) + d_m(s)\, r_m(\sigma^m(s)), \qquad
    d_{2m}(s) = d_m(s)\, d_m(\sigma^m(s)), \qquad \sigma^{2m} = \sigma^m \circ \sigma^m

double the number of periods at the cost of two lookups each. After *k* doublings
:math:`r + d\,v(\sigma^{2^k})` is :math:`T_\pi^{2^k} v`, so ten of them do the work of a thousand
evaluation steps; the residual falls by the factor :math:`\max d`, which is known.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from .finite import largest

MOST_DOUBLINGS = 60


def path_doubling(
    reward: Array, discount: Array, successor: Array, start: Array, tol: Array, active: Array
) -> Array:
    """Apply a deterministic policy's operator often enough to reach a residual.

    Parameters
    ----------
    reward, discount, start : array (states,)
        Of the policy; and the value to start from.
    successor : int array (states,)
        Next state of each state.
    tol : float
        Sup-norm of the residual to reach.
    active : bool
        Whether to do anything: `start` is returned if not.
    """

    def look(x: Array, at: Array) -> Array:
        return x.at[at].get(mode="promise_in_bounds")

    residual = largest(jnp.abs(reward + discount * look(start, successor) - start))

    def proceed(c: tuple[Array, Array, Array, Array]) -> Array:
        k, _, d, _ = c
        return active & (k < MOST_DOUBLINGS) & (largest(jnp.abs(d)) * residual > tol)

    def step(c: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        k, r, d, at = c
        return k + 1, r + d * look(r, at), d * look(d, at), look(at, at)

    carry = (jnp.int32(0), reward, discount, successor)
    _, r, d, at = lax.while_loop(proceed, step, carry)
    return jnp.where(active, r + d * look(start, at), start)
