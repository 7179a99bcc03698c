r"""A look at random states in place of the full sweep that certifies: a probability, and no bound.

It is taken where ``certificate="sampled"`` asks for it, and never unasked. The full certificate is
a proof; this is a statement of probability, about how many states may have a better choice and not
about how much better that may be. So what it ends is not certified: it is ``inexact``, with an
error bound of inf. The look over all feasible pairs (:mod:`.validation`) is made all the same.

Divide and conquer (:mod:`.monotone`) finds :math:`\tilde T v \le T v`, a maximum over some of the
choices, and a policy that attains it. Its lower bound on the true value holds as it stands, since
:math:`\tilde T v = T_\pi v` for that policy. Its upper bound holds if no choice left out is better.
That is looked at

* everywhere, for the policy's own choice (it attains the maximum) and for those next to it (local
  optimality), and for the policy's rise along the state;
* for all choices, at `sample` states drawn by `seed`, uniformly and with replacement.

If nothing better than rounding is found, then with confidence :math:`1 - \delta` the states that
have a better choice are at most a share :math:`p = \log(1/\delta) / m` of all, for a sample of
:math:`m`: were they more, a sample without any of them would have a chance below
:math:`(1 - p)^m \le \delta`. If something is found, the loop goes on with full sweeps and the full
certificate.
"""

from __future__ import annotations

from math import ceil, log, prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.numerics.finite import largest
from dpsolve.solvers.numerics.tracing import EPS

from .bellman import GridOperator
from .interpolation import at_members
from .model_functions import BLOCK
from .monotone import MonotoneOperator
from .named_arrays import NamedArray

DOUBT = 1e-3  # the chance that the statement is wrong
ROUGHER = 512  # roundings more that are allowed a sweep: half of them go to comparing qualities
CHUNK = 64  # states of the sample looked at together
WIDE = 1024  # choices


def share(sample: int) -> float:
    """Return the largest share of states that may have a better choice, at confidence 1 - DOUBT."""
    return min(1.0, log(1.0 / DOUBT) / sample)


class SampledOperator(MonotoneOperator):
    """A shortcut whose result can be vouched for by a sample; see the module.

    Parameters
    ----------
    sample : int
        States to draw.
    seed : int
    *args, **kwargs
        As for :class:`.MonotoneOperator`.
    """

    vouches = True

    def __init__(self, *args: Any, sample: int, seed: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.depth += ROUGHER
        drawn = np.random.default_rng(seed).integers(prod(self.shape), size=sample)
        chunks = ceil(sample / CHUNK)
        self.drawn = jnp.asarray(np.resize(drawn, (chunks, CHUNK)), jnp.int64)

    def confirms(self, v: Array, tv: Array, policy: Array) -> Array:
        """Tell whether neither a choice beside the policy's nor one of a state drawn is better.

        Of arrays (states...), one bool.
        """
        x = self.expectation.before_choice(v)
        scale = jnp.maximum(largest(jnp.abs(v)), largest(jnp.abs(tv)))
        slack = self.depth / 2 * EPS * scale
        return (
            (self._moved(x, policy, 0) >= tv - slack).all()
            & (self._moved(x, policy, -1) <= tv + slack).all()
            & (self._moved(x, policy, 1) <= tv + slack).all()
            & self._rises(policy)
            & self._best_of_drawn(x, tv, slack)
        )

    def _moved(self, x: NamedArray, policy: Array, move: int) -> Array:
        """Return the quality of the choices that lie so many steps beside the policy's."""
        stride, _ = self.other_choices()
        size = self.model.size_of(self.choice)
        own = policy // stride % size
        moved = jnp.clip(own + move, 0, size - 1)
        pairs = self.pairs(NamedArray(policy + stride * (moved - own), self.states))
        return self.over_states(self.quality(x, pairs))

    def _rises(self, policy: Array) -> Array:
        """Tell whether the policy rises with the state; a best of several runs of it need not."""
        if len(self.model.choices) > 1:
            return jnp.asarray(True)
        return (jnp.diff(policy, axis=self.states.index(self.state)) >= 0).all()

    def _best_of_drawn(self, x: NamedArray, tv: Array, slack: Array) -> Array:
        def sound(flat: Array) -> Array:
            some = at_members(x, self._index(flat), BLOCK)
            best, _ = self._at_states(flat).best_of_blocks(some)
            # A NaN is not sound.
            return (best <= tv.ravel()[flat] + slack).all()

        each: Array = lax.map(sound, self.drawn)
        return each.all()

    def _at_states(self, flat: Array) -> GridOperator:
        """Return the same operator at some states, which have one axis then."""
        return self.restricted(self._index(flat), BLOCK, WIDE)

    def _index(self, flat: Array) -> dict[str, Array]:
        return dict(zip(self.states, jnp.unravel_index(flat, self.shape), strict=True))
