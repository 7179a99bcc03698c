r"""Which choice leads where: a continuous choice solved for, given the next state.

Of one continuous state x the next value is affine in the one continuous choice,
:math:`x' = f(s, k, c) = f_0(s, k) + f_1(s, k)\, c` (k are the discrete choices), so that a next
state has one choice that leads there. The choice is made from an interval, :math:`l \le c \le h`,
and so is the next state: from :math:`\underline f` to :math:`\overline f`, which are f at the ends,
in whichever order.

That f is affine is read off its derivative, which must not depend on the choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Literal

from dpsolve.solvers.model.arguments import arguments
from dpsolve.solvers.model.grids import Grid, Interval
from dpsolve.solvers.model.model import Model
from dpsolve.solvers.numerics.tracing import EPS

UNITS = 16 * EPS
"""What a next state may be rounded by when its choice is computed, of the terms that it is of."""


@dataclass(frozen=True, eq=False)
class ByName:
    """A function of named arguments, which it takes as one mapping.

    Attributes
    ----------
    f : function
        Of a mapping of names to numbers.
    names : tuple of str
        The arguments.
    """

    f: Callable[[Mapping[str, Any]], Any]
    names: tuple[str, ...]

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(n, kind) for n in self.names])

    def __call__(self, **given: Any) -> Any:
        """Return what the function returns."""
        return self.f(given)


def call(f: Any, env: Mapping[str, Any]) -> Any:
    """Call a function on those of the arguments that it names; what is none is itself."""
    return f(**{n: env[n] for n in arguments(f, env)}) if callable(f) else f


def names_of(known: Iterable[str], *fs: Any) -> tuple[str, ...]:
    """Return those of the `known` names that any of some functions takes."""
    known = tuple(known)
    taken = {n for f in fs if callable(f) for n in arguments(f, known)}
    return tuple(n for n in known if n in taken)


@dataclass(frozen=True)
class Reach:
    """The next states that a discrete choice allows at a state, and what chooses them.

    Attributes
    ----------
    low, high : float
        Ends of the interval of choices.
    least, most : float
        Ends of that of next states.
    at_least : float
        The choice that leads to the least of them.
    start, slope : float
        The next state is `start` plus `slope` times the choice.
    """

    low: Array
    high: Array
    least: Array
    most: Array
    at_least: Array
    start: Array
    slope: Array

    def choice_of(self, target: Array) -> Array:
        """Return the choice that leads to a next state, or to the least one where that is more."""
        steep = self.slope != 0.0
        inside = (target - self.start) / jnp.where(steep, self.slope, 1.0)
        inside = jnp.clip(inside, self.low, jnp.maximum(self.low, self.high))
        return jnp.where((target <= self.least) | ~steep, self.at_least, inside)

    def slack(self, target: Array) -> Array:
        """Return by how much that may miss the target, for rounding."""
        terms = jnp.abs(jnp.where(jnp.isfinite(target), target, 0.0)) + jnp.abs(self.start)
        far = jnp.maximum(jnp.abs(self.low), jnp.abs(self.high))
        found: Array = UNITS * (terms + jnp.abs(self.slope) * far)
        return found


@dataclass(frozen=True, eq=False)
class Landing:
    """How the one continuous choice of a model moves its one continuous state.

    Attributes
    ----------
    model : Model
    state, choice : str
    nodes : array (n,)
        The grid of the state.
    """

    model: Model
    state: str
    choice: str
    nodes: Array

    @property
    def interval(self) -> Interval:
        """Where the choice is made from."""
        found: Interval = self.model.continuous[self.choice]
        return found

    @property
    def rule(self) -> Callable[..., Any] | str:
        """The rule of the state."""
        return self.model.transition[self.state]

    @property
    def exact(self) -> bool:
        """Whether the choice is the next state itself."""
        return self.rule == self.choice

    @property
    def drawn(self) -> tuple[str, ...]:
        """The shocks that the next state depends on."""
        return names_of(self.model.shocks, self.rule)

    @property
    def names(self) -> tuple[str, ...]:
        """What the reach depends on: states, discrete choices, ``t``."""
        found = names_of(self.model.arguments, self.rule, self.interval.lo, self.interval.hi)
        return tuple(n for n in found if n != self.choice and n not in self.model.shocks)

    def likely(self) -> dict[str, Array]:
        """Return the likeliest value of each shock that the next state depends on."""
        shocks = {w: self.model.shocks[w] for w in self.drawn}
        return {
            w: jnp.asarray(s.values)[jnp.argmax(jnp.asarray(s.probs))] for w, s in shocks.items()
        }

    def ends(self, env: Mapping[str, Any]) -> tuple[Array, Array]:
        """Return the ends of the interval; the lower one may exceed the upper."""
        return interval_ends(self.model, self.choice, env)

    def reach(self, env: Mapping[str, Any]) -> Reach:
        """Return which next states can be chosen; of a shock, when it is what it likeliest is."""
        low, high = self.ends(env)
        if self.exact:
            return Reach(low, high, low, high, low, jnp.zeros(()), jnp.ones(()))

        env = {**env, **self.likely()}

        def move(c: Array) -> Array:
            return jnp.asarray(call(self.rule, {**env, self.choice: c}), jnp.float64)

        start, slope = jax.jvp(move, (jnp.zeros(()),), (jnp.ones(()),))
        first, last = move(low), move(high)
        up = first <= last
        return Reach(
            low, high, jnp.minimum(first, last), jnp.maximum(first, last),
            jnp.where(up, low, high), start, slope,
        )  # fmt: skip


def interval_ends(model: Model, choice: str, env: Mapping[str, Any]) -> tuple[Array, Array]:
    """Return the ends of a continuous choice; the lower one may exceed the upper."""
    interval = model.continuous[choice]
    cut: tuple[Any, Any] = (-jnp.inf, jnp.inf)
    if interval.state is not None:
        values = jnp.asarray(model.states[interval.state].values, jnp.float64)
        cut = values[0], values[-1]
    low, high = (
        whole if end is None else jnp.asarray(call(end, env), jnp.float64)
        for end, whole in zip((interval.lo, interval.hi), cut, strict=True)
    )
    return jnp.maximum(low, cut[0]), jnp.minimum(high, cut[1])


def leaves(model: Model, env: Mapping[str, Any]) -> Array:
    """Tell whether a next state lies beyond its grid, where that is no choice."""
    found = jnp.asarray(False)
    for name, rule in model.transition.items():
        spec = model.states[name]
        if not isinstance(spec, Grid):
            continue
        bottom, top = (word == "error" for word in spec.sides)
        x = jnp.asarray(env[rule] if isinstance(rule, str) else call(rule, env), jnp.float64)
        values = jnp.asarray(spec.values, jnp.float64)
        slack = 1e-12 * (values[-1] - values[0])
        found |= bottom & (x < values[0] - slack)
        found |= top & (x > values[-1] + slack)
    return found


def read_landing(model: Model) -> tuple[Landing | None, str]:
    """Read how the continuous choice moves the continuous state; or say why that is not solved for.

    Returns
    -------
    landing : Landing or None
    why : str
        Why there is none.
    """
    grids = [n for n, spec in model.states.items() if isinstance(spec, Grid)]
    if len(model.continuous) != 1:
        return None, f"it has {len(model.continuous)} continuous choices"
    (choice,) = model.continuous
    if len(grids) != 1:
        return None, f"it has {len(grids)} continuous states"
    (state,) = grids
    if model.post:
        return None, f"it has a post-decision variable ('{next(iter(model.post))}')"
    rule = model.transition[state]
    found = Landing(model, state, choice, jnp.asarray(model.states[state].values, jnp.float64))
    if isinstance(rule, str):
        if rule != choice:
            return None, f"the next {state} is not chosen"
    else:
        for shock in found.drawn:
            if callable(model.shocks[shock].probs):
                return None, f"the chances of shock '{shock}' are a function"
        if choice not in arguments(rule, model.arguments):
            return None, f"the next {state} is not chosen"
        if not _is_affine(found):
            return None, f"the next {state} is not affine in '{choice}'"
    others: dict[str, Any] = {f"the next {n}": f for n, f in model.transition.items() if n != state}
    others["the discount"] = model.discount
    others |= {f"the probability of shock '{n}'": s.probs for n, s in model.shocks.items()}
    for what, f in others.items():
        named = (
            arguments(f, (choice,))
            if callable(f)
            else (f,)
            if isinstance(f, str) and f == choice
            else ()
        )
        if named:
            return None, f"{what} depends on '{choice}'"
    return found, ""


def _is_affine(landing: Landing) -> bool:
    """Tell whether the next state's derivative in the choice surely does not depend on it."""
    model, rule = landing.model, landing.rule
    known = [n for n in arguments(rule, model.arguments) if n != landing.choice]  # type: ignore[arg-type]
    kinds = {n: np.dtype(np.int32) if n == "t" else model.grid_of(n).values.dtype for n in known}

    def slope(c: Array, env: Mapping[str, Array]) -> Array:
        def move(c: Array) -> Array:
            return jnp.asarray(call(rule, {**env, landing.choice: c}), jnp.float64)

        found: Array = jax.jvp(move, (c,), (jnp.ones(()),))[1]
        return found

    shapes = {n: jax.ShapeDtypeStruct((), kind) for n, kind in kinds.items()}
    jaxpr = jax.make_jaxpr(slope)(jax.ShapeDtypeStruct((), np.float64), shapes).jaxpr
    touched = {jaxpr.invars[0]}

    def depends(atoms: Iterable[Any]) -> bool:
        return any(not isinstance(v, Literal) and v in touched for v in atoms)

    for step in jaxpr.eqns:
        if depends(step.invars):
            touched |= set(step.outvars)
    return not depends(jaxpr.outvars)
