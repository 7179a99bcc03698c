r"""Recurrent classes and the period of a Markov chain, from its links.

Which states a set leads to, and which lead to it, are read off two products: for the indicator
:math:`1_A` of a set, :math:`P\,1_A` is positive at the states that lead to *A* in one step, and
:math:`P^\top 1_A` at those that *A* leads to. Every positive probability is a link, however small.

Let :math:`F(s)` be the states that *s* leads to and :math:`B(s)` those that lead to *s*. The state
*s* is recurrent if and only if :math:`F(s) \subseteq B(s)`, and :math:`F(s)` is then its class.
Otherwise a state of :math:`F(s) \setminus B(s)` leads to fewer states than *s*, so that a walk to
such states ends in a recurrent one. The recurrent class of *s* is the only one if and only if
:math:`B(s)` is everything; any state outside leads to another.

The period of a class is the greatest common divisor of
:math:`\ell(i) + 1 - \ell(j)` over its links :math:`i \to j`, where :math:`\ell` are the levels of a
breadth-first search from any of its states (Denardo 1977, *Annals of Probability* 5). The search
itself meets every link: from the states of one level at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.partition import ALONE, Reductions

Map = Callable[[Array], Array]
LINK = 0.0  # a one-step probability above this is a link
NAMED = 4  # recurrent classes looked for, so that a message can name them


class Classes(NamedTuple):
    """What the links tell.

    Attributes
    ----------
    states : int array (NAMED,)
        The first state of each recurrent class found; -1 where there are no more.
    unique : bool
        Whether there is one class only.
    applications : int
        Products made.
    """

    states: Array
    unique: Array
    applications: Array


def recurrent_classes(
    expect: Map,
    push: Map,
    n: int,
    start: Array,
    wanted: Array | bool = True,
    over: Reductions = ALONE,
) -> Classes:
    r"""Find recurrent classes, the first one from `start` on.

    Parameters
    ----------
    expect, push : function
        :math:`P f` and :math:`P^\top \mu` on arrays (n,).
    n : int
        Number of states.
    start : int
        The state to walk from; one that is likely to be recurrent saves work.
    wanted : bool
        False makes no product.
    """

    def proceed(c: tuple[Array, ...]) -> Array:
        k, covered = c[0], c[1]
        return (k < NAMED) & ~over.all(covered)

    def search(c: tuple[Array, ...]) -> tuple[Array, ...]:
        k, covered, states, made = c
        # A state that does not lead to the classes found so far leads to another.
        origin = jnp.where(k == 0, start, over.argmax(~covered)).astype(jnp.int32)
        forward, backward, more = _recurrent(expect, push, n, origin, over)
        first = over.argmax(forward)
        return k + 1, covered | backward, states.at[k].set(first), made + more

    begin: tuple[Array, ...] = (
        jnp.int32(0),
        jnp.full(n, ~jnp.asarray(wanted)),
        jnp.full(NAMED, -1, jnp.int32),
        jnp.int32(0),
    )
    k, _, states, made = lax.while_loop(proceed, search, begin)
    return Classes(states, k <= 1, made)


def _recurrent(
    expect: Map, push: Map, n: int, origin: Array, over: Reductions
) -> tuple[Array, Array, Array]:
    """Walk to a recurrent state; return its class, the states that lead there, and products."""

    def look(s: Array) -> tuple[Array, Array, Array, Array]:
        forward, last, made = _reach(push, n, s, over)
        backward, _, more = _reach(expect, n, s, over)
        astray = forward & ~backward
        # The farther away, the fewer states it is likely to lead to.
        farthest = over.argmax(jnp.where(astray, last, -1))
        return forward, backward, jnp.where(over.any(astray), farthest, -1), made + more

    def step(c: tuple[Array, ...]) -> tuple[Array, ...]:
        forward, backward, onward, made = look(c[2])
        return forward, backward, onward, c[3] + made

    nothing = jnp.zeros(n, bool)
    begin: tuple[Array, ...] = (nothing, nothing, origin, jnp.int32(0))
    forward, backward, _, made = lax.while_loop(lambda c: c[2] >= 0, step, begin)
    return forward, backward, made


def _reach(spread: Map, n: int, s: Array, over: Reductions) -> tuple[Array, Array, Array]:
    """Return the states reached from `s`, the level each was found at, and the products made."""

    def step(c: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, level, frontier = c
        fresh = (spread(frontier.astype(jnp.float64)) > LINK) & (level < 0)
        return k + 1, jnp.where(fresh, k + 1, level), fresh

    here = over.numbers(n) == s
    begin = (jnp.int32(0), jnp.where(here, 0, -1).astype(jnp.int32), here)
    made, level, _ = lax.while_loop(lambda c: over.any(c[2]), step, begin)
    return level >= 0, level, made


def period(
    push: Map, n: int, s: Array, wanted: Array | bool = True, over: Reductions = ALONE
) -> tuple[Array, Array]:
    """Return the period of the class of a recurrent state, and the products made: two numbers.

    `push` is a function of arrays (n,), `s` a state's number.

    The search stops as soon as the period can only be 1; `wanted` False gives 1 at once.
    """

    def proceed(c: tuple[Array, ...]) -> Array:
        return over.any(c[2]) & (c[3] != 1)

    def step(c: tuple[Array, ...]) -> tuple[Array, ...]:
        k, level, frontier, divisor = c
        hit = push(frontier.astype(jnp.float64)) > LINK
        gaps = jnp.where(hit & (level >= 0), k + 1 - level, 0)
        fresh = hit & (level < 0)
        level = jnp.where(fresh, k + 1, level)
        return k + 1, level, fresh, _common_divisor(divisor, gaps, over)

    here = (over.numbers(n) == s) & jnp.asarray(wanted)
    level = jnp.where(here, 0, -1).astype(jnp.int32)
    begin: tuple[Array, ...] = (jnp.int32(0), level, here, jnp.int32(0))
    made, _, _, divisor = lax.while_loop(proceed, step, begin)
    return jnp.where(jnp.asarray(wanted), divisor, 1), made


def _common_divisor(divisor: Array, gaps: Array, over: Reductions) -> Array:
    """Return the greatest common divisor of a number and an array, where 0 counts for nothing."""
    numbers = jnp.append(gaps, divisor)

    def least(x: Array) -> Array:
        """Return the smallest that is not 0, or 0."""
        most = jnp.iinfo(jnp.int32).max
        return over.least(jnp.where(x > 0, x, most)) * over.any(x > 0)

    # A remainder is a combination of the numbers, so the divisor divides it, and it is smaller.
    def step(c: tuple[Array, Array]) -> tuple[Array, Array]:
        return c[1], least(numbers % c[1])

    begin = least(numbers)
    found, _ = lax.while_loop(
        lambda c: c[1] > 0, step, (begin, least(numbers % jnp.maximum(begin, 1)))
    )
    return found
