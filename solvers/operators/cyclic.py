r"""Cycles (weekday, season): found in a model, and solved at one of their phases.

Let a state go through the phases :math:`0, 1, \dots, n - 1, 0, \dots` by itself, and let
:math:`T_k` take the value at phase :math:`k + 1` to that at phase :math:`k`. The value at phase 0
is the fixed point of one *turn*,

.. math:: v_0 = T_0 T_1 \cdots T_{n-1} v_0,

which costs what one sweep over all states costs and answers to a constant by the *product* of the
phases' rates: :math:`\beta^n` in place of :math:`\beta`. So it is an operator like any other, on
the states of one phase, and the solve loop runs on it as it is; its policies have all phases. A
policy's turn is affine, too, and is applied phase by phase.

When the loop ends, phase 0 has certified bounds. The others follow backwards,
:math:`v_k = T_k v_{k+1}`, and the bounds with them, because every :math:`T_k` is monotone and
answers to constants by its own rate (Bertsekas, *Dynamic Programming and Optimal Control* II, sec.
1.7, on periodic problems). So do phases that lead into the turn and are never come back to.

Rounding: an intermediate value may be larger than both ends of a turn, by as much as the rewards
on the way, so these count in its scale; and where a discount exceeds 1, the loop's error counts by
what it may grow to along the turn.

*Which state is a cycle.* A state whose rule names nothing but itself goes its own way, whatever is
chosen: a weekday, a season, an age. So does a Markov chain whose rows have a single one. If all its
members end in one and the same *turn*, the model can be solved at one phase of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid, Integers
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.model.post_decision import PostDecision
from dpsolve.solvers.numerics.arrays import Numpy
from dpsolve.solvers.numerics.path_doubling import path_doubling
from dpsolve.solvers.numerics.tracing import EPS, is_concrete
from dpsolve.solvers.probability.markov import Markov

from .base import BellmanOperator, PolicyOperator, Survey
from .bellman import GridOperator
from .interpolation import Location
from .model_functions import PairTable
from .named_arrays import NamedArray, mapped

PHASE = "#phase"  # the axis of phases in a policy
SLACK = 1.001  # leaves the loop's tolerance room for what rounding adds in the other phases


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turn:
    """What the operators of a turn keep: arrays (phases, ...)."""

    pairs: PairTable
    locations: dict[str, Location]
    probabilities: dict[str, NamedArray]

    def lean(self) -> Turn:
        """Return what a sweep needs."""
        return replace(self, pairs=self.pairs.lean())


class CyclicOperator(BellmanOperator):
    """The Bellman operator of one turn, over the states of its first phase.

    Parameters
    ----------
    model : Model
        At one parameter point.
    cycle : Cycle
    memory : int
        Bytes that the arrays over all states and choices may take.
    kept : Turn, optional
        What an operator of the same model kept.
    """

    def __init__(self, model: Model, cycle: Cycle, memory: int, kept: Turn | None = None) -> None:
        self.model, self.cycle = model, cycle
        self.memory = memory // len(cycle.turn)
        self.values = jnp.asarray(model.states[cycle.state].values)
        self.turn = jnp.asarray(cycle.turn, jnp.int32)
        self.one = self.at_phase(self.turn[0])  # for its shapes
        self.shape = self.one.shape
        self.constant_discount = self.one.constant_discount
        self.depth = len(cycle.turn) * self.one.depth
        self.kept: Turn | None = kept
        if kept is None and self.one.block_size is None:
            self.kept = lax.map(self._keep, self.turn)

    def at_phase(self, position: Array, kept: Turn | None = None) -> GridOperator:
        """Return the operator of the phase at a position on the cycle's grid."""
        model = model_at(self.model, self.cycle.state, self.values[position])
        grid_operator = GridOperator(
            model, memory=self.memory, kept=None if kept is None else kept.pairs
        )
        if kept is not None:
            grid_operator.expectation = grid_operator.expectation.given(
                kept.locations, kept.probabilities
            )
        return grid_operator

    def _keep(self, position: Array) -> Turn:
        grid_operator = self.at_phase(position)
        assert grid_operator.kept is not None
        known = grid_operator.expectation
        return Turn(grid_operator.kept, known.early_locations, known.early_probabilities)

    def backwards(self, step: Callable[..., tuple[Array, Any]], start: Array, given: Any) -> Any:
        """Go through the turn from its end: ``step(operator, carry, given of the phase)``."""

        def phase(carry: Array, x: tuple[Array, Any, Any]) -> tuple[Array, Any]:
            position, kept, own = x
            return step(self.at_phase(position, kept), carry, own)

        return lax.scan(phase, start, (self.turn, self.kept, given), reverse=True)

    # -- the operator ---------------------------------------------------------------------------

    @property
    def policy_shape(self) -> tuple[int, ...]:
        """Shape of the policies of all phases."""
        return (len(self.cycle.turn), *self.shape)

    def greedy(self, v: Array) -> tuple[Array, Array]:
        """Return the value after one turn (states...), and its policies (phases, states...)."""
        found: tuple[Array, Array] = self.backwards(lambda t, v, _: t.greedy(v), v, None)
        return found

    def growth(self, w: Array) -> Array:
        """Return what a turn without rewards makes of `w` (states...)."""
        grown: Array = self.backwards(lambda t, w, _: (t.growth(w), None), w, None)[0]
        return grown

    def at(self, policy: Array) -> CyclicPolicy:
        """Fix the policies of all phases (phases, states...)."""
        return CyclicPolicy(self, policy)

    def labels(self, policy: Array) -> dict[str, Array]:
        """Split policies into an index (phases, states...) for each choice."""
        index = NamedArray(policy, (PHASE, *self.one.states))
        return {name: x.array for name, x in self.one.functions.choice_index(index).items()}

    def policy_of(self, labels: Mapping[str, Array]) -> Array:
        """Flatten an index (phases, states...) for each choice to policies."""
        return self.one.policy_of(labels)

    def survey(self) -> Survey:
        """Look over all pairs at all phases; rates are those of a whole turn."""
        everyone = jnp.asarray((*self.cycle.turn, *(i for i, _ in self.cycle.before)), jnp.int32)
        each: Survey = lax.map(lambda position: self.at_phase(position).survey(), everyone)
        n = len(self.cycle.turn)
        rate, low = jax.vmap(lambda one: one.rate)(each), each.discount_low
        row_high, row_low, spread = each.row_high.max(), each.row_low.min(), each.spread.max()
        high = jnp.prod(rate[:n]) * (1.0 + 2 * n * EPS)
        assert self.kept is not None
        reward = self.kept.pairs.reward.array
        largest = jnp.abs(jnp.where(reward == -jnp.inf, 0.0, reward)).reshape(n, -1).max(1)
        # `modulus` multiplies what is divided by here.
        return Survey(
            feasible=each.feasible,
            finite=each.finite.all() & jnp.isfinite(each.discount_high).all(),
            increasing=each.increasing.all(),
            gap=each.gap.max(),
            row_low=row_low,
            row_high=row_high,
            least=each.least.min(),
            discount_low=jnp.minimum(
                jnp.prod(low[:n]) * (1.0 - 2 * n * EPS),
                jnp.where((each.discount_low >= 0.0).all(), jnp.inf, -1.0),
            ),
            discount_high=high / jnp.where(spread <= 1.0 + 1e-12, 1.0, spread),
            spread=spread,
            magnitude=(largest + jnp.asarray(each.magnitude)[:n]).sum(),
            reach=SLACK * jnp.prod(jnp.maximum(rate, 1.0)),
        )


class CyclicPolicy(PolicyOperator):
    """The policies of a turn; next states are found once, not once per application."""

    def __init__(self, operator: CyclicOperator, policy: Array) -> None:
        self.operator = operator

        def look(x: tuple[Array, Turn, Array]) -> PairTable:
            position, kept, own = x
            grid_operator = operator.at_phase(position, kept)
            return grid_operator.pairs(NamedArray(own, grid_operator.states))

        self.pairs: PairTable = lax.map(look, (operator.turn, operator.kept, policy))
        self.discount = jnp.ones(())
        self.reward = self._affine(jnp.zeros(operator.shape), 1.0)

    def _affine(self, v: Array, reward: float) -> Array:
        """Apply the turn, its rewards times `reward`."""

        def step(grid_operator: GridOperator, v: Array, pairs: PairTable) -> tuple[Array, None]:
            future = grid_operator.expectation(v, pairs)
            v = grid_operator.over_states(pairs.discount) * grid_operator.over_states(future)
            if reward:
                v = v + grid_operator.over_states(pairs.raw_reward)  # type: ignore[arg-type]
            return v, None

        found: Array = self.operator.backwards(step, v, self.pairs)[0]
        return found

    def apply(self, v: Array) -> Array:
        """Return the discounted expectation (states...) of what is a turn ahead."""
        return self._affine(v, 0.0)

    def expect(self, f: Array) -> Array:
        """Return the expectation (states...), undiscounted, of what is a turn ahead."""

        def step(grid_operator: GridOperator, f: Array, pairs: PairTable) -> tuple[Array, None]:
            return grid_operator.over_states(grid_operator.expectation(f, pairs)), None

        found: Array = self.operator.backwards(step, f, self.pairs)[0]
        return found

    def evaluate(self, start: Array, tol: Array, max_iter: Array) -> tuple[Array, Array]:
        """Approach the value (states...): by path doubling if transitions are deterministic."""
        if not self.operator.one.deterministic:
            return super().evaluate(start, tol, max_iter)
        # Looked up and not interpolated, numbers of states come through a turn as they are.
        numbers = jnp.arange(start.size, dtype=jnp.float64).reshape(start.shape)
        successor = jnp.round(self.expect(numbers)).astype(jnp.int32)
        flat = path_doubling(
            self.reward.ravel(),
            self.apply(jnp.ones(start.shape)).ravel(),
            successor.ravel(),
            start.ravel(),
            tol,
            max_iter > 0,
        )
        return flat.reshape(start.shape), jnp.asarray(False)


@dataclass(frozen=True)
class Cycle:
    """A state that moves by itself in one cycle.

    Attributes
    ----------
    state : str
        Its name.
    turn : tuple of int
        Positions of the members of the cycle, in the order of time.
    before : tuple of (int, int)
        Positions of all other members and of what follows each: first those that follow nobody's
        but the turn's.
    """

    state: str
    turn: tuple[int, ...]
    before: tuple[tuple[int, int], ...]


def cycle_of(model: Model) -> Cycle | None:
    """Return the longest state that is a cycle and can be taken out of the model, if any.

    Extrapolation takes away the order of values, which the bounds of the other phases rest on. A
    maximum that is sought along a state (``monotone``) knows nothing of phases.
    """
    if len(model.states) < 2 or model.monotone or model.horizon is not None:
        return None
    specs = (*model.states.values(), *(p.spec for p in model.post.values()))
    if any(isinstance(spec, Grid) and spec.outside == "extrapolate" for spec in specs):
        return None
    taken = {*model.transition.values(), *model.choices.values()}
    taken |= {p.rule for p in model.post.values()}  # what names it as a whole needs its grid
    found = [_cycle(name, _successors(model, name)) for name in model.states if name not in taken]
    cycles = [c for c in found if c is not None]
    return max(cycles, key=lambda c: model.size_of(c.state), default=None)


def _successors(model: Model, name: str) -> Numpy | None:
    """Return the position that follows each of a state's, if that hangs on nothing else."""
    spec = model.states[name]
    if isinstance(spec, Markov):
        if spec.moves or not is_concrete(spec.transition_matrix):
            return None
        p = np.asarray(spec.transition_matrix)
        return p.argmax(1) if ((p == 0.0) | (p == 1.0)).all() and (p.sum(1) == 1.0).all() else None
    rule = model.transition[name]
    if not isinstance(spec, Integers) or not callable(rule):
        return None
    if arguments(rule, (*model.arguments, *model.post)) != (name,):
        return None
    # JAX would trace even what depends on nothing that is traced.
    with jax.ensure_compile_time_eval():
        values = jnp.asarray(spec.values)
        to = mapped(
            rule, {name: NamedArray(values, (name,))}, (name,), f"the transition of '{name}'"
        )
    if not is_concrete(to.array):
        return None
    position = np.asarray(to.array, np.float64) - spec.lo
    inside = (position == np.round(position)) & (position >= 0) & (position < spec.size)
    return position.astype(np.int64) if inside.all() else None


def _cycle(name: str, successor: Numpy | None) -> Cycle | None:
    """Follow every position to the one turn that all of them end in, if it is one."""
    if successor is None or successor.size < 2:
        return None
    at = 0
    for _ in range(successor.size):
        at = int(successor[at])
    turn = [at]
    while (at := int(successor[at])) != turn[0]:
        turn.append(at)
    known, before = set(turn), []
    while True:
        next_ones = [i for i in range(successor.size) if i not in known and successor[i] in known]
        if not next_ones:
            break
        before += [(i, int(successor[i])) for i in next_ones]
        known |= set(next_ones)
    return Cycle(name, tuple(turn), tuple(before)) if len(known) == successor.size else None


def model_at(model: Model, state: str, value: Array) -> Model:
    """Return the model without a state, its functions taken at one value of it.

    Outputs and moments are left out.
    """

    def at(f: Any) -> Any:
        if not callable(f) or state not in arguments(f, (state,)):
            return f
        return partial(f, **{state: value})

    discount: Any = model.discount
    if callable(discount):
        alone = arguments(discount, model.arguments) in ((), (state,))
        discount = at(discount)() if alone else at(discount)
    return replace(
        model,
        states={n: s for n, s in model.states.items() if n != state},
        reward=tuple(at(f) for f in model.reward),
        discount=discount,
        transition={n: at(rule) for n, rule in model.transition.items() if n != state},
        feasible=at(model.feasible),
        shocks={n: replace(w, probs=at(w.probs)) for n, w in model.shocks.items()},
        post={n: PostDecision(p.spec, at(p.rule)) for n, p in model.post.items()},
        outputs={},
        moments={},
    )
