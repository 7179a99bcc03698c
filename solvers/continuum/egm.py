r"""The endogenous grid method: choices read off the marginal value of what they leave behind.

Where :mod:`.resources` finds that the reward is :math:`u(M(x, z) - b\, s, z)` and the next state
:math:`g(s, z, w)`, an interior s solves the Euler equation

.. math::
    b\, u'(M - b\, s) = Q(s, z) = D\, E_w\bigl[g_s\, p(g(s, z, w))\bigr],

p the marginal values of the next period. For points :math:`s_k` no equation is to be solved: they
are left behind by whoever consumes :math:`c_k = u'^{-1}(Q(s_k) / b)` of :math:`M_k = c_k + b s_k`
(Carroll 2006, *Economics Letters* 91). A node's M lies between two of these :math:`M_k`, and s
between their :math:`s_k`; where exactly, a few of Newton's steps on the equation itself tell, which
cannot leave these two. What an end of the interval of choices holds is cut off at that end: so the
kink is where it is, and at no node.

Whatever goes between marginal values at the nodes, a cubic or a line, is in Q; so this is another
search for the same choices as that of :mod:`.optimum`, with the same loop around it and the same
bounds after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from dpsolve.solvers.numerics.krylov import bicgstab
from dpsolve.solvers.numerics.tracing import EPS

from .cells import Marginal
from .euler import KRYLOV, REACH, STEPS, Policy, mended, stationary_policy
from .problem import ContinuousProblem
from .resources import Resources, resources_of

TRIALS, NEAR = 30, 1e-6
"""Trials of s between two endogenous points, at most, and the step, of what lies between them,
after which there is none: the next would be of its square."""

INEXACT = 1e-2
"""What BiCGSTAB leaves in a step, of what is left."""

PLACES = 9
"""Choices that are looked at where the one that was found is not feasible."""

HALVINGS = 100
"""Trials of a consumption at most, where marginal utility has no inverse in closed form."""


def on_endogenous_grid(problem: ContinuousProblem) -> EndogenousGrid | None:
    """Return a problem as the endogenous grid method takes it; None where it does not apply."""
    found = resources_of(problem)
    return None if isinstance(found, str) else EndogenousGrid.of(found)


def allowed(problem: ContinuousProblem, policy: Policy) -> Policy:
    """Move choices that are not feasible to the nearest of some that are.

    The Euler equation does not know what else a model forbids.
    """

    def one(x: Array, z: Array, y: Array, found: Array) -> tuple[Array, Array]:
        low, high = problem.ends(0, x, y, z)
        tries = low + (high - low) * jnp.linspace(0.0, 1.0, PLACES)
        fine = jax.vmap(lambda choice: problem.feasible(x, choice[None], z))(tries)
        away = jnp.where(fine, jnp.abs(tries - y[0]), jnp.inf)
        return jnp.where(found, y, tries[jnp.argmin(away)][None]), found | fine.any()

    y, found = problem.each(one, policy.y, policy.found)
    return policy._replace(y=y, found=found)


def stationary(problem: ContinuousProblem) -> Policy | None:
    """Return the policy of an infinite horizon; None where the method does not apply."""
    if isinstance(resources_of(problem), str):
        return None

    def iterated(
        problem: ContinuousProblem, _: Array, start: Array, plain: int, close: float
    ) -> Policy:
        found = on_endogenous_grid(problem)
        assert found is not None  # nor does it depend on the nodes whether there is one
        return found.iterated(start, plain, close)

    return allowed(problem, stationary_policy(problem, iterated))


class _Steps(NamedTuple):
    """The state of the iterations: the last policy, and marginal values (z, n, 1) to go on from."""

    policy: Policy
    p: Array
    left: Array
    done: Array


class _Trial(NamedTuple):
    """The last step of s at a node, and where its trial was: Q, u', and the slopes of both."""

    k: Array
    s: Array
    low: Array
    high: Array
    pull: Array
    steep: Array
    marginal: Array
    bend: Array
    done: Array


@dataclass(frozen=True)
class EndogenousGrid:
    """A problem in terms of what is left behind; arrays (z, n), but where said.

    Attributes
    ----------
    resources : Resources
    s : array (z, n)
        Points from the least to the most that can be left behind.
    money, least, most : array (z, n)
        M at the nodes, and between which s lies there.
    least_x, most_x : array (z, n)
        How these two move with the state.
    price, tilt, turn : array (z, 1)
        b, and the slopes of s in state and choice.
    """

    resources: Resources
    s: Array
    money: Array
    least: Array
    most: Array
    least_x: Array
    most_x: Array
    price: Array
    tilt: Array
    turn: Array

    @classmethod
    def of(cls, resources: Resources) -> EndogenousGrid:
        """Evaluate what does not change with marginal values."""
        problem = resources.problem
        none = jnp.zeros(1)
        first = problem.nodes[0]

        def slopes(z: Array) -> tuple[Array, Array]:
            if not resources.through:
                return jnp.zeros(()), jnp.ones(())

            def there(x: Array, y: Array) -> Array:
                return problem.following(x[None], y[None], z)[0, 0]

            found: tuple[Array, Array] = jax.jacfwd(there, (0, 1))(first[0], none[0])
            return found

        def one(x: Array, z: Array) -> tuple[Array, ...]:
            tilt, turn = slopes(z)
            still = -tilt * x[0] / turn
            money, by_y = jax.jvp(
                lambda y: resources.consumption(x[0], y, z), (still,), (jnp.ones(()),)
            )

            def left(x: Array) -> Array:
                ends = jnp.stack(problem.ends(0, x, none, z))
                return tilt * x[0] + turn * ends

            ends, moves = left(x), jax.jacfwd(left)(x)[:, 0]
            low, high = jnp.where(turn > 0, jnp.arange(2), 1 - jnp.arange(2))
            fine = ends[low] <= ends[high]
            least, most = (jnp.where(fine, ends[k], jnp.nan) for k in (low, high))
            return money, least, most, moves[low], moves[high], -by_y / turn, tilt, turn

        money, least, most, least_x, most_x, price, tilt, turn = problem.each(one)
        bottom, top = jnp.nanmin(least, 1)[:, None], jnp.nanmax(most, 1)[:, None]
        x = problem.nodes[:, 0]
        share = (x - x[0]) / (x[-1] - x[0])
        s = jnp.where(share == 1.0, top, bottom + share * (top - bottom))
        slopes_x = least_x, most_x
        same = price[:, :1], tilt[:, :1], turn[:, :1]  # at all nodes
        return cls(resources, s, money, least, most, *slopes_x, *same)

    @property
    def problem(self) -> ContinuousProblem:
        """What is solved."""
        return self.resources.problem

    def _each(self, f: Callable[..., Any], *arrays: Array) -> Any:
        """Apply a function of z and of entries of arrays (z, n)."""
        over_nodes = jax.vmap(f, (None, *(0 for _ in arrays)))
        return jax.vmap(over_nodes)(jnp.arange(self.s.shape[0]), *arrays)

    def pull(self, after: Marginal, s: Array, z: Array) -> Array:
        """Return Q, the marginal value of what is left behind (one number)."""
        problem, (x,) = self.problem, self.problem.nodes[0]
        tilt, turn = self.tilt[z, 0], self.turn[z, 0]

        def there(s: Array) -> Array:
            return problem.following(x[None], ((s - tilt * x) / turn)[None], z)[:, 0]

        place, slope = jax.jvp(there, (s,), (jnp.ones(()),))
        marginal = after.at(problem.grids, z, place[:, None])[:, 0]
        return jnp.sum(problem.chances(z) * slope * marginal)

    def improved(self, after: Marginal) -> Policy:
        """Return the best choices, given marginal values of the next period."""
        return self._searched(after)[0]

    def _searched(self, after: Marginal) -> tuple[Policy, Array, Array]:
        """Return the best choices too, what is left behind, and how p moves with Q (z, n)."""
        problem, price, tilt, turn = self.problem, self.price, self.tilt, self.turn
        worth = self._each(lambda z, s: self.pull(after, s, z), self.s)
        eaten = self._consumed(worth / price)
        met = lax.cummax(jnp.where(jnp.isnan(eaten), jnp.inf, eaten) + price * self.s, axis=1)

        low, high, guess = self._cells(met, self.money)
        at: _Trial = self._each(
            partial(self._polished, after), self.money, low, high, guess, self.least, self.most
        )
        s, pull, marginal = at.s, at.pull, at.marginal
        rest = pull - price * marginal
        top, bottom = (s >= self.most) & (rest > 0), (s <= self.least) & (rest < 0)
        along = jnp.where(top, self.most_x, jnp.where(bottom, self.least_x, 0.0))
        y = self._choices(s)

        def slopes(x: Array, z: Array, y: Array) -> tuple[Array, Array, Array]:
            by_x, by_y = jax.grad(problem.reward, (0, 1))(x, y[None], z)
            return by_x[0], by_y[0], problem.feasible(x, y[None], z)

        by_x, by_y, found = problem.each(slopes, y)
        p = by_x + (along - tilt) / turn * by_y + along * pull
        up, down = jnp.where(turn > 0, top, bottom), jnp.where(turn > 0, bottom, top)
        held = jnp.where(up, 1, jnp.where(down, -1, 0)).astype(jnp.int32)
        # Of free choices p is u' M_x, and b u'(M - b s) is Q: both move.
        raised = (by_x - tilt / turn * by_y) / marginal * at.bend * price
        free = raised / (at.steep + price**2 * at.bend)
        moves = jnp.where(top | bottom, along, jnp.where(jnp.isfinite(free), free, 0.0))
        p = mended(problem, p[..., None])
        return Policy(y[..., None], p, held[..., None], found, jnp.int32(1)), s, moves

    def iterated(self, start: Array, plain: int, close: float) -> Policy:
        """Return the policy of an infinite horizon, from marginal values (z, n, 1) nearby.

        After some `plain` steps of time iteration, Newton's: what a step leaves is solved for as if
        marginal values were linear between nodes. The iterations end at a relative change `close`.
        """
        problem = self.problem

        def step(carry: _Steps) -> _Steps:
            after, change = jax.linearize(partial(Marginal.smooth, problem), carry.p)
            policy, s, moves = self._searched(after)
            size = jnp.abs(policy.p) + 1e-9 * jnp.max(jnp.abs(policy.p), (0, 1))
            size = jnp.where(size > 0, size, 1.0)
            gap = (policy.p - carry.p) / size
            left = jnp.max(jnp.abs(gap))
            steps = carry.policy.steps + 1
            done = left <= close
            by_newton = ~done & (steps > plain) & (left < carry.left)
            read = self._reader(after, s)

            def relative(e: Array) -> Array:
                return moves[..., None] * read(change(e * size)) / size

            wanted = jnp.where(by_newton, gap, 0.0)
            most = jnp.max(jnp.abs(wanted))
            e, _ = bicgstab(relative, wanted, wanted, INEXACT * most, jnp.int32(KRYLOV))
            way = jnp.clip((e - gap) * size, -REACH / (1 + REACH) * size, REACH * size)
            way = jnp.where(by_newton & jnp.isfinite(way), way, 0.0)
            policy = policy._replace(steps=steps)
            left = jnp.where(jnp.isfinite(left), left, jnp.inf)
            return _Steps(policy, policy.p + way, left, done)

        def proceed(carry: _Steps) -> Array:
            return (carry.policy.steps < STEPS) & ~carry.done

        shape = problem.shape
        nothing = Policy(
            jnp.zeros((*shape, 1)), start, jnp.zeros((*shape, 1), jnp.int32),
            jnp.zeros(shape, bool), jnp.int32(0),
        )  # fmt: skip
        begin = _Steps(nothing, start, jnp.asarray(jnp.inf), jnp.asarray(False))
        return lax.while_loop(proceed, step, begin).policy

    def _reader(self, after: Marginal, s: Array) -> Callable[[Marginal], Array]:
        """Return what marginal values make of Q (z, n, 1) where s is left behind."""
        problem, (x,) = self.problem, self.problem.nodes[0]

        def one(z: Array, s: Array) -> tuple[Array, Array, Array]:
            tilt, turn = self.tilt[z, 0], self.turn[z, 0]

            def there(s: Array) -> Array:
                return problem.following(x[None], ((s - tilt * x) / turn)[None], z)[:, 0]

            place, slope = jax.jvp(there, (s,), (jnp.ones(()),))
            each = jax.vmap(lambda at: after.weights(problem.grids, at[None]))(place)
            chances = (problem.chances(z) * slope)[:, None]
            return each[0], each[1] * chances, each[2] * chances

        index, weight, tilt = self._each(one, s)
        z = jnp.arange(s.shape[0])[:, None, None, None]

        def read(moved: Marginal) -> Array:
            found = moved.values[z, index, 0] * weight
            if moved.slopes is not None:
                found = found + moved.slopes[z, index] * tilt
            return jnp.sum(found, (2, 3))[..., None]

        return read

    # -- parts --------------------------------------------------------------------------------

    def _choices(self, s: Array) -> Array:
        """Return choices; those at an end of their interval exactly there."""
        y = (s - self.tilt * self.problem.nodes[:, 0]) / self.turn

        def inside(x: Array, z: Array, y: Array) -> Array:
            return jnp.clip(y, *self.problem.ends(0, x, jnp.zeros(1), z))

        found: Array = self.problem.each(inside, y)
        return found

    def _consumed(self, marginal: Array) -> Array:
        """Return consumption (z, n) at which the marginal utility is given."""
        resources = self.resources
        if resources.inverse is not None:
            inverse = resources.inverse
            found: Array = self._each(lambda z, m: inverse(m, z), marginal)
            return found
        # What nobody can eat at any node does not matter, but that they cannot.
        price, s = self.price, self.s
        least, most = (f(self.money, 1)[:, None] for f in (jnp.nanmin, jnp.nanmax))
        beyond = 0.01 * (most - least) + 1e-6 * (jnp.abs(least) + jnp.abs(most))
        low, high = least - beyond - price * s, most + beyond - price * s

        def one(z: Array, m: Array, low: Array, high: Array) -> Array:
            def excess(c: Array) -> Array:
                return resources.marginal(c, z) - m

            return falling_root(excess, low, high)

        inverted: Array = self._each(one, marginal, low, high)
        return inverted

    def _cells(self, met: Array, wanted: Array) -> tuple[Array, Array, Array]:
        """Return between which s (z, n) `met`, which rises with s, is what is wanted, and where."""
        n = met.shape[1]
        k = jax.vmap(partial(jnp.searchsorted, side="right"))(met, wanted).astype(jnp.int32)
        k = jnp.clip(k - 1, 0, n - 2)
        low, high = (jnp.take_along_axis(met, i, 1) for i in (k, k + 1))
        share = (wanted - low) / (high - low)
        share = jnp.where(jnp.isnan(share), 0.5, jnp.clip(share, 0.0, 1.0))
        low, high = (jnp.take_along_axis(self.s, i, 1) for i in (k, k + 1))
        return low, high, low + share * (high - low)

    def _polished(
        self, after: Marginal, z: Array, money: Array, low: Array, high: Array, guess: Array,
        least: Array, most: Array,
    ) -> _Trial:  # fmt: skip
        """Return s at one node where the Euler equation holds, by Newton's steps from a guess."""
        price, cell = self.price[z, 0], high - low

        def proceed(carry: _Trial) -> Array:
            return ~carry.done & (carry.k < TRIALS)

        def step(carry: _Trial) -> _Trial:
            s = jnp.clip(carry.s, least, most)
            pull, steep = jax.jvp(lambda s: self.pull(after, s, z), (s,), (jnp.ones(()),))
            marginal, bend = jax.jvp(
                lambda c: self.resources.marginal(c, z), (money - price * s,), (jnp.ones(()),)
            )
            rest = pull - price * marginal
            more = rest > 0.0  # nobody can pay for more where it is no number
            low, high = jnp.where(more, s, carry.low), jnp.where(more, carry.high, s)
            new = s - rest / (steep + price**2 * bend)
            new = jnp.where((new >= low) & (new <= high), new, (low + high) / 2)
            new = jnp.clip(new, least, most)
            done = ~(jnp.abs(new - s) > NEAR * cell)
            return _Trial(carry.k + 1, new, low, high, pull, steep, marginal, bend, done)

        zero = jnp.zeros(())
        begin = _Trial(jnp.int32(0), guess, low, high, zero, zero, zero, zero, jnp.asarray(False))
        found: _Trial = lax.while_loop(proceed, step, begin)
        return found


def falling_root(f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Return where a function that falls is zero, by Newton's method between two numbers.

    What is no number counts as above zero. Where a step would leave the two, they are halved.
    """

    def proceed(carry: Any) -> Any:
        return ~carry[-1] & (carry[0] < HALVINGS)

    def step(carry: Any) -> Any:
        k, x, low, high, _ = carry
        value, slope = jax.jvp(f, (x,), (jnp.ones(()),))
        value = jnp.where(jnp.isnan(value), jnp.inf, value)
        low, high = jnp.where(value > 0, x, low), jnp.where(value < 0, x, high)
        new = x - value / slope
        inside = (new >= low) & (new <= high)
        new = jnp.where(value == 0.0, x, jnp.where(inside, new, (low + high) / 2))
        return k + 1, new, low, high, jnp.abs(new - x) <= 4 * EPS * jnp.abs(x)

    begin = (jnp.int32(0), (low + high) / 2, low, high, jnp.asarray(False))
    found: Array = lax.while_loop(proceed, step, begin)[1]
    return found
