r"""Monotone policies: divide and conquer where the best choice rises with the state.

Where the best choice :math:`c^*(x)` rises with a state :math:`x` (increasing differences; Topkis
1978), the best choice of a state between two others lies between theirs. Level by level the state
halfway between two known ones looks at just the choices between them: each of the
:math:`\log_2 n` levels looks at every choice once, and once more where two segments meet, so that
:math:`m \log_2 n` pairs are looked at and not :math:`n m`, for every value of the other states. The
shapes of all levels are known beforehand: level :math:`l` has :math:`2^l` segments with
:math:`m - 1 + 2^l` candidates between them, whatever the policy is.

As policies settle, the best choice lies a few steps from the last policy's. So
:meth:`improve` looks there first, and divides and conquers where more than a few lie at the edge.

Nothing is proved by it. Where the best choice does not rise, the maximum over the candidates is
smaller than the true one, and the bounds that follow are void. So the solve loop uses it for
improvements only, and ends with full sweeps and their certificate.

Reference: Gordon and Qiu (2018), *Quantitative Economics* 9 (binary monotonicity).
"""

from __future__ import annotations

import copy
from math import ceil, log2, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.grids import Integers
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.given import MOST
from dpsolve.solvers.numerics.tracing import EPS

from .base import Shortcut
from .bellman import GridOperator
from .maximum import max_and_argmax
from .model_functions import CHOICE, PairTable
from .named_arrays import NamedArray, aligned

SLIP = 64 * EPS  # of a quality, by which another computation of it may differ
NEAR = 3  # choices to both sides of the last policy's that a sweep looks at first
AT_EDGE = 0.05  # of the states, whose best choice may lie farther: they get there in a few sweeps
WORTH = 256  # choices below which a full sweep costs less than the segments' bookkeeping


def rising(model: Model) -> tuple[str, str] | None:
    """Return the choice and the state along which to try, or None if the search does not apply.

    A hint names them. Without one it is the longest choice that is a state's next value, and that
    state.
    """
    for choice, state in model.monotone.items():
        if _applies(model, choice, state):
            return choice, state
    found = [
        (model.size_of(choice), choice, state)
        for state, choice in model.transition.items()
        if isinstance(choice, str) and choice in model.choices and _applies(model, choice, state)
    ]
    return max(found)[1:] if found else None


def _applies(model: Model, choice: str, state: str) -> bool:
    """Tell whether the state's axis can be taken out of every array that a choice is looked at by.

    That is so unless another rule names the state itself, whose positions would be an axis.
    """
    rules = (*model.transition.values(), *(post.rule for post in model.post.values()))
    return state not in rules and not isinstance(model.states[state], Integers)


class MonotoneOperator(GridOperator, Shortcut):
    """An operator whose greedy policy is sought by divide and conquer; see the module.

    Parameters
    ----------
    model : Model
        At one parameter point.
    along : (str, str)
        A choice and the state that it is taken to rise with.
    **kwargs
        As for :class:`.GridOperator`.
    """

    def __init__(self, model: Model, along: tuple[str, str], **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.choice, self.state = along

    @property
    def applicable(self) -> bool:
        """Whether the expectation leaves nothing that hangs on the state but through the choice."""
        early = any(self.state in step.dims for step in self.expectation.early)
        return (
            not early
            and not self.expectation.parted
            and self.model.size_of(self.choice) >= WORTH
            and self.model.size_of(self.choice) + 2 * self.model.size_of(self.state) <= MOST
        )

    def improve(self, v: Array, policy: Array) -> tuple[Array, Array]:
        """Return the maximum near the last policy, or by :meth:`greedy` if many are at the edge.

        Of a value and a policy (states...), another value and policy (states...).
        """
        if len(self.other_choices()[1]) > 1:
            return self.greedy(v)
        moves = np.arange(-NEAR, NEAR + 1, dtype=np.int32)
        size = self.model.size_of(self.choice)
        choices = policy[..., None] + moves
        inside = jnp.clip(choices, 0, size - 1)
        q = self.quality(
            self.expectation.before_choice(v),
            self.pairs(NamedArray(inside, (*self.states, CHOICE))),
        )
        value, at = max_and_argmax(lax.optimization_barrier(self.over_states(q, CHOICE)))
        best = jnp.take_along_axis(inside, at[..., None], -1)[..., 0]
        low = (best == choices[..., 0]) & (best > 0)
        high = (best == choices[..., -1]) & (best < size - 1)
        settled = self.reductions.mean((low | high).astype(jnp.float64)) <= AT_EDGE
        settled &= self.reductions.all(value > -jnp.inf)
        found: tuple[Array, Array] = lax.cond(
            settled, lambda: (value, best), lambda: self.greedy(v)
        )
        return found

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return the maximum (states...) over the candidates, and the first policy to attain it."""
        x = self.expectation.before_choice(v)
        others = [n for n in self.states if n != self.state]
        shape = tuple(self.shape[self.states.index(n)] for n in others)
        shape = (*shape, self.shape[self.states.index(self.state)])
        stride, firsts = self.other_choices()

        def look(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            value, policy = self._conquer(x, others, firsts[i], stride)
            better = value > best[0]
            return jnp.where(better, value, best[0]), jnp.where(better, policy, best[1])

        if len(firsts) == 1:
            value, policy = self._conquer(x, others, firsts[0], stride)
        else:
            none = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
            value, policy = lax.fori_loop(0, len(firsts), look, none)
        axis = self.states.index(self.state)
        return jnp.moveaxis(value, -1, axis), jnp.moveaxis(policy, -1, axis)

    def other_choices(self) -> tuple[int, Array]:
        """Return the stride of the choice among all, and where each run of it begins (runs,)."""
        names = list(self.model.choices)
        sizes = [self.model.size_of(n) for n in names]
        at = names.index(self.choice)
        stride = prod(sizes[at + 1 :])
        outer = np.arange(prod(sizes[:at])) * sizes[at] * stride
        firsts = (outer[:, None] + np.arange(stride)).ravel()
        return stride, jnp.asarray(firsts, jnp.int32)

    def _conquer(
        self, x: NamedArray, others: list[str], first: Array, stride: int
    ) -> tuple[Array, Array]:
        """Maximise over one run of the choice; arrays are (others..., state).

        All levels but the last go through one loop of one shape, that of the last of them: a sixth
        more candidates, and a fifth of the time to compile.
        """
        n = self.shape[self.states.index(self.state)]
        m = self.model.size_of(self.choice)
        levels = max(1, ceil(log2(n + 1)))
        nodes = 2**levels
        shape = tuple(self.shape[self.states.index(name)] for name in others)
        # Node i is state i - 1; the nodes at both ends stand for the first and the last choice.
        at = jnp.zeros((*shape, nodes + 1), jnp.int32).at[..., nodes].set(m - 1)
        known = jnp.zeros((*shape, nodes + 1)), at

        def go_down(
            level: Array | int, known: tuple[Array, Array], room: int
        ) -> tuple[Array, Array]:
            value, best = known
            half = nodes >> (level + 1)
            segment = jnp.arange(room, dtype=jnp.int32)
            used = segment < jnp.left_shift(1, level)
            # Of segments that are not used the product would exceed 32 bits on large grids.
            here = jnp.where(used, half + 2 * half * jnp.where(used, segment, 0), nodes)
            low = best[..., jnp.where(used, here - half, nodes)]
            # A segment that is not used begins behind the last candidate.
            starts = jnp.where(used, low + segment, m - 1 + room)
            top, found = self._level(x, others, jnp.clip(here - 1, 0, n - 1), starts, first, stride)
            to = jnp.where(used, here, nodes + 1)
            return (
                value.at[..., to].set(top, mode="drop"),
                best.at[..., to].set(found, mode="drop"),
            )

        if levels > 1:
            room = nodes // 4
            known = lax.fori_loop(0, levels - 1, lambda i, k: go_down(i, k, room), known)
        value, best = go_down(levels - 1, known, nodes // 2)
        return value[..., 1 : n + 1], first + stride * best[..., 1 : n + 1]

    def _level(
        self,
        x: NamedArray,
        others: list[str],
        states: Array,
        starts: Array,
        first: Array,
        stride: int,
    ) -> tuple[Array, Array]:
        """Maximise at the states of one level, each over its own segment of choices.

        Candidate j of segment s is choice j - s; a segment ends where the next one begins, which
        has its last choice as its first.
        """
        segments = states.size
        m = self.model.size_of(self.choice)
        count = m - 1 + segments
        batch = starts.shape[:-1]
        segment = _segment_of(starts, count)
        choice = jnp.minimum(jnp.arange(count, dtype=jnp.int32) - segment, m - 1)
        dims = (*others, CHOICE)
        q = self._quality_at(x, dims, states[segment], first + stride * choice)
        q = jnp.broadcast_to(q, (*batch, count))
        total = segments * prod(batch)
        kind = jnp.int32 if total <= MOST else jnp.int64
        flat = segment + segments * jnp.arange(prod(batch), dtype=kind).reshape(*batch, 1)
        ids = flat.ravel()
        # NaN is lost by a maximum of segments, and found by the full sweep at the end.
        top = jax.ops.segment_max(q.ravel(), ids, total, indices_are_sorted=True)
        # XLA may compute a quality once more for this comparison, and round it otherwise.
        high_enough = q.ravel() >= top[ids] - SLIP * jnp.abs(top[ids])
        hit = jnp.where(high_enough, choice.ravel(), jnp.iinfo(jnp.int32).max)
        at = jax.ops.segment_min(hit, ids, total, indices_are_sorted=True)
        # Whatever is found stays within its segment, or those below it would have none.
        low = starts - jnp.arange(segments, dtype=jnp.int32)
        high = jnp.concatenate([low[..., 1:], jnp.full((*batch, 1), m - 1, jnp.int32)], -1)
        at = jnp.clip(at.reshape(*batch, segments), low, jnp.minimum(high, m - 1))
        return top.reshape(*batch, segments), at

    def _quality_at(
        self, x: NamedArray, dims: tuple[str, ...], state: Array, choice: Array
    ) -> Array:
        """Return reward plus discounted continuation at pairs given one by one."""
        functions = copy.copy(self.functions)
        own = functions.env[self.state]
        functions.env = functions.env | {self.state: NamedArray(own.array[state], dims)}
        known = self.expectation
        early = {w: p for w, p in known.early_probabilities.items() if self.state not in p.dims}
        pairs = PairTable.of(functions, NamedArray(choice, dims), known.late_states, early)
        q = self.quality(x, pairs)
        return jnp.asarray(aligned(q, dims))


def _segment_of(starts: Array, count: int) -> Array:
    """Return the segment of each candidate, given where segments start (increasing)."""
    batch = starts.shape[:-1]
    rows = starts.reshape(-1, starts.shape[-1])

    def one(row: Array) -> Array:
        marks = jnp.zeros(count, jnp.int32).at[row[1:]].add(1, mode="drop")
        return jnp.cumsum(marks, dtype=jnp.int32)

    return jax.vmap(one)(rows).reshape(*batch, count)
